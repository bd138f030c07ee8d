"""Global functions: verified once, by themselves, for all arguments that their types allow.

Only functions whose parameters are numbers can be judged so far.
"""

from __future__ import annotations

from pybpfvm.btf.types import (
    Btf,
    Const,
    Enum64,
    Func,
    FuncProto,
    Int,
    Restrict,
    Typedef,
    Void,
    Volatile,
)
from pybpfvm.btf.types import Enum as BtfEnum
from pybpfvm.isa.codec import target_pc
from pybpfvm.isa.opcodes import Kind
from pybpfvm.program import Subprog
from pybpfvm.verifier.calls import moves_packet
from pybpfvm.verifier.environment import Environment
from pybpfvm.verifier.refusal import unsupported
from pybpfvm.verifier.structure import calls_of

_MAX_NAMES = 64
_NUMBERS = (Int, BtfEnum, Enum64)
_MAX_ARGS = 5


def called_globals(env: Environment) -> tuple[int, ...]:
    """Where the global functions that the program calls start."""
    found = set()
    for pc, insn in env.code.items():
        if insn.spec.kind is Kind.CALL_LOCAL:
            target = target_pc(insn, pc)
            assert target is not None
            if env.functions[target].is_global:
                found.add(target)
    return tuple(sorted(found))


def parameters(env: Environment, function: Subprog) -> int:
    """How many numbers the function takes; its result is a number too.

    Refused as unsupported if it takes or gives anything else, or its type is not known.
    """
    btf = env.obj.btf
    feature = f"calls of the global function {function.name}"
    if btf is None or not function.btf_type_id or function.btf_type_id not in btf:
        raise unsupported(f"{feature}, whose type is not known")
    found = btf.type(function.btf_type_id)
    proto = btf.type(found.type_id) if isinstance(found, Func) else None
    if not isinstance(proto, FuncProto) or len(proto.params) > _MAX_ARGS:
        raise unsupported(f"{feature}, whose type is not known")
    if not _is_number(btf, proto.return_id):
        raise unsupported(f"{feature}, which does not return a number")
    for param in proto.params:
        if not _is_number(btf, param.type_id):
            raise unsupported(f"{feature}, whose parameter {param.name} is not a number")
    return len(proto.params)


def _is_number(btf: Btf, type_id: int) -> bool:
    for _ in range(_MAX_NAMES):
        found = btf.type(type_id)
        if isinstance(found, Void):
            return False
        if not isinstance(found, (Typedef, Const, Volatile, Restrict)):
            return isinstance(found, _NUMBERS) and found.size <= 8
        type_id = found.type_id
    return False


def may_move_packet(env: Environment, entry: int) -> bool:
    """Whether a helper that moves the packet is called by the function or one that it calls."""
    calls = calls_of(env)
    seen: set[int] = set()
    work = [entry]
    while work:
        function = work.pop()
        if function not in seen:
            seen.add(function)
            work.extend(callee for _, callee in calls[function])
    ends = {start: env.functions[start].end for start in seen}
    return any(
        insn.spec.kind is Kind.CALL
        and any(start <= pc < end for start, end in ends.items())
        and moves_packet(env, insn)
        for pc, insn in env.code.items()
    )

"""Global functions: which are called, and what calling one does beside its arguments (`params`)."""

from __future__ import annotations

from pybpfvm.isa.codec import target_pc
from pybpfvm.isa.opcodes import Kind
from pybpfvm.verifier.calls import moves_packet
from pybpfvm.verifier.environment import Environment
from pybpfvm.verifier.structure import calls_of


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

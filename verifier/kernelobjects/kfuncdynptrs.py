"""What kfuncs do with dynptrs: make them, clone them, give slices of them.

The struct of a parameter says that it is a dynptr, its suffix `__uninit` that one is made there.
A kfunc that may write to the memory of a dynptr to an skb may move the packet: kernels know that
of bpf_dynptr_write only. Kernel Documentation/bpf/kfuncs.rst and the running kernel's answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from pybpfvm.btf.types import Btf, Const, Func, FuncProto, Ptr
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import Kind
from pybpfvm.profiles.base import PacketAccess
from pybpfvm.verifier.calls import forget_packet
from pybpfvm.verifier.environment import Environment
from pybpfvm.verifier.kernelobjects.btfwalk import struct_name
from pybpfvm.verifier.refusal import forbidden, unsupported
from pybpfvm.verifier.resources import dynptr, slices
from pybpfvm.verifier.states.regstate import NOT_INIT, Reg, RegType
from pybpfvm.verifier.states.state import State
from pybpfvm.verifier.verdict import Rule

# Kinds of the dynptrs that kfuncs make; None: that of the one that is cloned.
_MAKES = MappingProxyType(
    {
        "bpf_dynptr_from_skb": "skb",
        "bpf_dynptr_from_xdp": "xdp",
        "bpf_dynptr_from_skb_meta": "skb_meta",
        "bpf_dynptr_clone": None,
    }
)
SLICES = MappingProxyType({"bpf_dynptr_slice": False, "bpf_dynptr_slice_rdwr": True})
# Kfuncs after which packet pointers are numbers.
MOVES_PACKET = frozenset({"bpf_xdp_pull_data"})


@dataclass(slots=True)
class Dynptrs:
    """Those among the arguments of one call: the last that was there before, and whether the
    memory of one to an skb is written. `buffer` and `size` are those of a slice."""

    last: dynptr.Dynptr | None = None
    moves: bool = False
    wrote: bool = False
    buffer: Reg = NOT_INIT
    size: int = 0


def is_dynptr(btf: Btf, type_id: int) -> bool:
    """Whether the type is struct bpf_dynptr."""
    return struct_name(btf, type_id) == "bpf_dynptr"


def check_argument(
    env: Environment,
    state: State,
    pc: int,
    kfunc: str,
    pointer: Ptr,
    number: int,
    used: Dynptrs,
    *,
    made: bool,
) -> None:
    """The dynptr in an argument is as it must be; one that is `made` there is there afterwards."""
    if made:
        _make(env, state, pc, kfunc, number, used)
        return
    used.last = dynptr.check_lent(state, state.frame.regs[number], number)
    assert env.target is not None
    if not used.wrote and _is_written(env.target, pointer):
        used.wrote = True
        used.moves = used.last.moves


def _is_written(btf: Btf, pointer: Ptr) -> bool:
    """Whether a kfunc may write through this parameter, a dynptr."""
    return not isinstance(btf.type(pointer.type_id), Const)


def packet_calls(env: Environment) -> frozenset[int]:
    """The calls of kfuncs, and of helpers on a dynptr, that may move the packet. Dynptrs may be
    to an skb in programs that make such."""
    kfuncs = {pc: _kfunc(env, env.code[pc]) for pc in env.pcs(Kind.CALL_KFUNC)}
    makes = any(_MAKES.get(name, "") in ("skb", "skb_meta") for name, _ in kfuncs.values())
    found = {
        pc
        for pc, (name, proto) in kfuncs.items()
        if name in MOVES_PACKET or (makes and proto is not None and _writes(env, proto))
    }
    if makes:
        found.update(
            pc
            for pc in env.pcs(Kind.CALL)
            if env.profile.helpers.get(env.code[pc].imm) == "dynptr_write"
        )
    return frozenset(found)


def _kfunc(env: Environment, insn: Insn) -> tuple[str, FuncProto | None]:
    """Name and prototype of the kfunc that is called; "" if it has none that is known."""
    btf = env.target
    if btf is None or insn.off:
        return "", None
    func = btf.type(insn.imm) if 0 < insn.imm < len(btf) else None
    proto = btf.type(func.type_id) if isinstance(func, Func) else None
    if not isinstance(func, Func) or not isinstance(proto, FuncProto):
        return "", None
    return func.name, proto


def _writes(env: Environment, proto: FuncProto) -> bool:
    """Whether a kfunc may write to the memory of a dynptr that it takes."""
    btf = env.target
    assert btf is not None
    params = [(one.name, btf.type(btf.resolve(one.type_id))) for one in proto.params]
    return any(
        isinstance(pointer, Ptr)
        and is_dynptr(btf, btf.resolve(pointer.type_id))
        and not name.endswith("__uninit")
        and _is_written(btf, pointer)
        for name, pointer in params
    )


def _make(env: Environment, state: State, pc: int, kfunc: str, number: int, used: Dynptrs) -> None:
    reg = state.frame.regs[number]
    if kfunc not in _MAKES:
        raise unsupported(f"the dynptr that {kfunc} makes")
    kind, ref_id = _MAKES[kfunc], 0
    if kind is None:
        if used.last is None:
            raise unsupported(f"{kfunc} of a target BTF in which nothing is cloned")
        kind, ref_id = used.last.name.removeprefix("dynptr_"), used.last.ref_id
    if reg.type is not RegType.PTR_TO_STACK:
        dynptr.check_lent(state, reg, number)
    dynptr.place_for(env, state, reg, number, kind, pc, ref_id)()


def check_slice(env: Environment, kfunc: str) -> None:
    """The program may have a slice that it can write to."""
    writes = env.profile.packet_access in (PacketAccess.WRITE, PacketAccess.FREE)
    if SLICES[kfunc] and not writes:
        raise forbidden(
            Rule.READ_ONLY,
            "the prog does not allow writes to packet data",
            reason=f"{env.profile.name} programs get no slices that can be written",
            suggestion="bpf_dynptr_slice reads, bpf_dynptr_write writes",
        )


def slice_given(env: Environment, kfunc: str, used: Dynptrs, pc: int) -> Reg:
    """The slice that a kfunc gives."""
    if used.last is None:
        raise unsupported(f"{kfunc} of a target BTF in which it takes no dynptr")
    return slices.made(env, used.last, used.buffer, used.size, pc, writable=SLICES[kfunc])


def finish(state: State, kfunc: str, used: Dynptrs, pc: int) -> None:
    """The call was made."""
    if used.moves or kfunc in MOVES_PACKET:
        forget_packet(state, pc)

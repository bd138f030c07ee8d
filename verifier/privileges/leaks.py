"""Addresses stay secret from loaders without CAP_PERFMON: what may be done with pointers.

A pointer must not become a number, reach memory that user space reads, or decide a branch.
Each check returns at once for loaders that may see addresses.
"""

from __future__ import annotations

from pybpfvm.isa.insn import Insn
from pybpfvm.verifier.environment import Environment
from pybpfvm.verifier.refusal import Refused, forbidden
from pybpfvm.verifier.states import stack
from pybpfvm.verifier.states.regstate import PACKET_TYPES, Reg, RegType
from pybpfvm.verifier.states.state import Frame, State
from pybpfvm.verifier.verdict import Rule

_SCALAR = RegType.SCALAR_VALUE
_PACKET = frozenset({*PACKET_TYPES, RegType.PTR_TO_PACKET_END})
# Where the kernel's text says that an address leaks to.
_INTO = {
    RegType.PTR_TO_MAP_VALUE: "map",
    RegType.PTR_TO_CTX: "ctx",
    RegType.PTR_TO_PACKET: "packet",
    RegType.PTR_TO_PACKET_META: "packet",
    RegType.PTR_TO_FLOW_KEYS: "flow keys",
}


def check_conceals(env: Environment, reg: Reg, message: str) -> None:
    """`reg` is no pointer, where using one would show its address."""
    if env.options.caps.perfmon or reg.type is _SCALAR or reg.type is RegType.NOT_INIT:
        return
    raise _leak(message, reg)


def check_stored(env: Environment, pointer: Reg, value: Reg, number: int) -> None:
    """A register may be stored there; on the stack any may."""
    if pointer.type is not RegType.PTR_TO_STACK:
        into = _INTO.get(pointer.type, "mem")
        check_conceals(env, value, f"R{number} leaks addr into {into}")


def check_whole(env: Environment, frame: Frame, low: int, size: int) -> None:
    """A store of `size` bytes to the stack leaves no part of a spilled pointer, whose rest could
    be read as a number."""
    if env.options.caps.perfmon or (size == stack.SLOT_BYTES and not low % stack.SLOT_BYTES):
        return
    held = stack.spilled_pointer(frame, low, size)
    if held is not None:
        raise _leak("attempt to corrupt spilled pointer on stack", held)


def check_no_pointers(env: Environment, frame: Frame, low: int, size: int, message: str) -> None:
    """No spilled pointer lies in stack bytes that are shown to a helper, or added to."""
    if env.options.caps.perfmon:
        return
    held = stack.spilled_pointer(frame, low, size)
    if held is not None:
        raise _leak(message, held)


def check_kernel_access(env: Environment, name: str, culprit: Reg) -> None:
    """The loader may read kernel objects."""
    if not env.options.caps.perfmon:
        raise forbidden(
            Rule.CAPABILITY,
            f"'struct {name}' access is allowed only to CAP_PERFMON and CAP_SYS_ADMIN",
            reason="kernel objects hold addresses",
            culprit=culprit,
        )


def check_compared(env: Environment, insn: Insn, a: Reg, b: Reg) -> None:
    """A comparison tells nothing of an address. It is not one of a pointer with NULL, nor of a
    packet pointer with the packet's end."""
    if env.options.caps.perfmon:
        return
    if b.type is not _SCALAR and not (a.type in _PACKET and b.type in _PACKET):
        raise _leak(f"R{insn.src} pointer comparison prohibited", b)
    raise _leak(f"R{insn.dst} pointer comparison prohibited", a)


def spills_more(old: State, new: State) -> bool:
    """Whether there are addresses on the stack of `new` where `old` has none: a store that was
    seen to be harmless from `old` may spoil them."""
    for one, other in zip(old.frames, new.frames, strict=False):
        for base, slot in other.stack.items():
            if slot.reg is None or slot.reg.type is _SCALAR:
                continue
            known = one.stack.get(base, stack.EMPTY).reg
            if known is None or known.type is _SCALAR:
                return True
    return False


def _leak(message: str, culprit: Reg) -> Refused:
    return forbidden(
        Rule.POINTER_LEAK,
        message,
        reason="an address would become known; loaders need CAP_PERFMON to see any",
        suggestion="keep addresses in registers, or on the stack as a whole",
        culprit=culprit,
    )

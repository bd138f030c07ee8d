"""States in the kernel's notation: `R1=scalar(smin=0,...)`, `fp-8=mmmm????`, `frame1: ...`.

Established by looking at what the log of Linux 6.18 says of programs of our own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache

from pybpfvm.isa.opcodes import REGISTERS
from pybpfvm.verifier.domains.scalar import Scalar
from pybpfvm.verifier.domains.word import S32_MAX, S32_MIN, S64_MAX, S64_MIN, U32, U64
from pybpfvm.verifier.states.regstate import PACKET_TYPES, Reg, RegType, Trust
from pybpfvm.verifier.states.stack import INVALID, MISC, SPILL, ZERO, Slot
from pybpfvm.verifier.states.state import Frame, State

_SMALL = 1 << 15  # signed numbers below are decimal, unsigned ones below twice that
_BYTES = {INVALID: "?", MISC: "m", ZERO: "0", SPILL: "?"}


# What stands before the name of a pointer's type.
_TRUST = (
    (Trust.RDONLY, "rdonly_"),
    (Trust.USER, "user_"),
    (Trust.PERCPU, "percpu_"),
    (Trust.UNTRUSTED, "untrusted_"),
    (Trust.TRUSTED, "trusted_"),
    (Trust.RCU, "rcu_"),
)
# Pointers to BTF objects are followed by the type's number: its name is in the kernel's BTF.
_TYPED = frozenset({RegType.PTR_TO_BTF_ID, RegType.PTR_TO_BTF_ID_OR_NULL})


def number(value: int) -> str:
    """A signed 64-bit number: decimal if it is small, else hexadecimal."""
    return str(value) if -_SMALL <= value < _SMALL else f"{value & U64:#x}"


def _unsigned(value: int) -> str:
    return str(value) if value < 2 * _SMALL else f"{value:#x}"


def _shown(name: str, value: int) -> int:
    """A bound as it is shown: signed 32-bit ones as the low half that they are, unless small."""
    narrow = name.startswith("s") and name.endswith("32") and not -_SMALL <= value < _SMALL
    return value & U32 if narrow else value


@lru_cache(maxsize=1 << 14)
def scalar_bounds(var: Scalar) -> tuple[str, ...]:
    """`smin=umin=1`, `umax=8`, `var_off=(0x0; 0xf)`: all that is not plain from the width.

    Equal lower bounds share one value, at the place and in the notation of the first; so do equal
    upper bounds.
    """
    bounds = (
        ("smin", var.smin, S64_MIN),
        ("smax", var.smax, S64_MAX),
        ("umin", var.umin, 0),
        ("umax", var.umax, U64),
        ("smin32", var.s32min, S32_MIN),
        ("smax32", var.s32max, S32_MAX),
        ("umin32", var.u32min, 0),
        ("umax32", var.u32max, U32),
    )
    named: dict[tuple[str, int], list[str]] = {}
    for name, value, widest in bounds:
        if value != widest:
            named.setdefault((name[1:4], _shown(name, value)), []).append(name)
    parts = [
        f"{'='.join(names)}={number(value) if names[0].startswith('s') else _unsigned(value)}"
        for (_, value), names in named.items()
    ]
    if var.mask != U64:
        parts.append(f"var_off=({var.value:#x}; {var.mask:#x})")
    return tuple(parts)


def format_reg(reg: Reg, frame: int = 0) -> str:
    """What is known of a register, as seen from frame number `frame`; "" if it is
    uninitialised."""
    kind = reg.type
    if kind is RegType.NOT_INIT:
        return ""
    var = reg.var
    if kind is RegType.SCALAR_VALUE:
        precise = "P" if reg.precise else ""
        if not var.mask:
            return precise + number(var.smin)
        parts = (
            [] if not reg.id else [f"id={reg.id}" + (f"{reg.shift.delta:+d}" if reg.shift else "")]
        )
        return f"{precise}scalar({','.join((*parts, *scalar_bounds(var)))})"
    text: str = kind.value
    if reg.trust:
        text = "".join(word for bit, word in _TRUST if reg.trust & bit) + text
    if kind in _TYPED:
        text += str(reg.btf_id)
    if kind is RegType.PTR_TO_STACK:
        text += f"[{reg.frame}]" if reg.frame != frame else ""
        if not var.mask:
            return text + number(reg.off + var.smin)
    parts = list(_pointer_parts(reg))
    if var.mask:
        parts += scalar_bounds(var)
    elif var.value:
        parts.append(f"imm={var.value:#x}")
    return f"{text}({','.join(parts)})"


def _pointer_parts(reg: Reg) -> Iterator[str]:
    if reg.id:
        yield f"id={reg.id}"
    if reg.ref_id:
        yield f"ref_obj_id={reg.ref_id}"
    if reg.trust & Trust.NON_OWNING:
        yield "non_own_ref"
    if reg.map is not None:
        yield f"map={_word(reg.map.name)}"
        yield f"ks={reg.map.key_size}"
        yield f"vs={reg.map.value_size}"
    if reg.off:
        yield f"off={reg.off}"
    if reg.type in PACKET_TYPES:
        yield f"r={number(reg.range)}"
    if reg.mem_size:
        yield f"sz={reg.mem_size}"
    if reg.type is RegType.CONST_PTR_TO_DYNPTR and not reg.trust & Trust.PACKET:
        yield "type=local"


def _word(name: str) -> str:
    """A map's name as the kernel keeps it: 15 characters, none that could end the word."""
    return "".join(c if c.isalnum() or c in "_." else "_" for c in name[:15])


def format_slot(slot: Slot, frame: int = 0) -> str:
    """What is known of 8 bytes of the stack, the highest address first; "" if nothing was ever
    written there. Bytes are `?` (never written), `m` (anything) or `0`."""
    kinds = slot.kinds
    if slot.object is not None:
        return slot.object.text()
    if slot.reg is not None and SPILL in kinds:
        others = kinds[slot.spilled :][::-1]
        return "".join(_BYTES[kind] for kind in others) + format_reg(slot.reg, frame)
    if all(kind == ZERO for kind in kinds):
        return "0"
    return "" if not any(kinds) else "".join(_BYTES[kind] for kind in kinds[::-1])


def format_places(
    state: State,
    frame: Frame,
    registers: Iterable[int] = range(REGISTERS),
    slots: Iterable[int] | None = None,
) -> str:
    """Registers and stack slots of one frame of `state` (`slots` None: all), with what the state
    holds: `frame1: R0=5 R10=fp0 fp-8=0 refs=2 cb`. "" if there is nothing to tell."""
    level = frame.number
    words = [f"frame{level}:"] if level else []
    for index in registers:
        text = format_reg(frame.regs[index], level)
        if text:
            words.append(f"R{index}={text}")
    for base in sorted(frame.stack if slots is None else slots, reverse=True):
        slot = frame.stack.get(base)
        text = format_slot(slot, level) if slot is not None else ""
        if text:
            words.append(f"fp{base}={text}")
    if state.refs:
        words.append("refs=" + ",".join(str(ref[0]) for ref in state.refs))
    if frame.callback is not None:
        words.append("cb")
    return " ".join(words)

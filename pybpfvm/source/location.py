"""Where a variable is, as DWARF says it: a small stack machine. DWARF 5, sections 2.5 and 2.6.

clang counts what lies in a frame from the frame's lowest byte, though it names r10, which is the
first byte above it: `frame_bytes` is what lies between (LLVM, TargetFrameLowering).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pybpfvm.bits import U64, s64
from pybpfvm.isa.opcodes import FRAME_POINTER, REGISTERS

Op = tuple[str, tuple[int, ...]]
Ops = tuple[Op, ...]
MAX_STACK = 64
MAX_PIECES = 256


@dataclass(frozen=True, slots=True)
class InRegister:
    """The low bytes of a register."""

    index: int


@dataclass(frozen=True, slots=True)
class InMemory:
    """At an address."""

    addr: int


@dataclass(frozen=True, slots=True)
class IsValue:
    """Nowhere: it is this 64-bit number."""

    value: int


@dataclass(frozen=True, slots=True)
class Absent:
    """There is none now, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Pieces:
    """(where, bytes) of each part, the lowest first."""

    parts: tuple[tuple[InRegister | InMemory | IsValue | Absent, int], ...]


Location = InRegister | InMemory | IsValue | Absent | Pieces
OPTIMISED_OUT = Absent("optimised out")


@dataclass(frozen=True, slots=True)
class Machine:
    """What locations refer to. `read` gives an unsigned word at an address, None where nothing is;
    `address` makes an address of one in the object."""

    regs: Sequence[int]
    frame_bytes: int
    read: Callable[[int, int], int | None]
    address: Callable[[int], int | None]


def from_frame_pointer(offset: int, frame_bytes: int) -> int:
    """An offset in the frame, counted from its lowest byte, as one from r10. A negative one can
    only be counted from r10 already."""
    return offset - frame_bytes if offset >= 0 else offset


def locate(ops: Ops, machine: Machine) -> Location:
    """Where the variable is that `ops` describe."""
    if not ops:
        return OPTIMISED_OUT
    parts: list[tuple[InRegister | InMemory | IsValue | Absent, int]] = []
    pending: list[Op] = []
    for name, args in ops:
        if name != "DW_OP_piece":
            pending.append((name, args))
            continue
        if len(parts) == MAX_PIECES:
            return Absent("of too many pieces")
        parts.append((_simple(pending, machine), args[0]))
        pending = []
    return Pieces(tuple(parts)) if parts else _simple(pending, machine)


def _simple(ops: list[Op], machine: Machine) -> InRegister | InMemory | IsValue | Absent:
    if not ops:
        return OPTIMISED_OUT
    name, _ = ops[0]
    if name.startswith("DW_OP_reg") and len(ops) == 1:
        index = int(name.removeprefix("DW_OP_reg"))
        return InRegister(index) if index < REGISTERS else Absent(f"in register {index}")
    stack: list[int] = []
    for name, args in ops:
        if name == "DW_OP_stack_value":
            return IsValue(stack[-1]) if stack else Absent("its description is broken")
        reason = _step(name, args, stack, machine)
        if reason:
            return Absent(reason)
    return InMemory(stack[-1]) if stack else Absent("its description is broken")


def _step(name: str, args: tuple[int, ...], stack: list[int], machine: Machine) -> str:
    """One operation; why it can not be done, or ""."""
    if len(stack) > MAX_STACK:
        return "its description is too long"
    if name in _PUSHES:
        stack.append(args[0] & U64)
    elif name.startswith("DW_OP_lit"):
        stack.append(int(name.removeprefix("DW_OP_lit")))
    elif name == "DW_OP_fbreg" or name.startswith("DW_OP_breg"):
        index = FRAME_POINTER if name == "DW_OP_fbreg" else int(name.removeprefix("DW_OP_breg"))
        if index >= len(machine.regs):
            return f"described by register {index}"
        offset = args[0]
        if index == FRAME_POINTER:
            offset = from_frame_pointer(offset, machine.frame_bytes)
        stack.append((machine.regs[index] + offset) & U64)
    elif name == "DW_OP_addr":
        found = machine.address(args[0])
        if found is None:
            return "in a section that has no memory"
        stack.append(found)
    elif name in _UNARY and stack:
        stack.append(_UNARY[name](stack.pop(), *args) & U64)
    elif name in _BINARY and len(stack) > 1:
        right, left = stack.pop(), stack.pop()
        if not right and name in ("DW_OP_div", "DW_OP_mod"):
            return "described by a division by zero"
        stack.append(_BINARY[name](left, right) & U64)
    elif name == "DW_OP_dup" and stack:
        stack.append(stack[-1])
    elif name == "DW_OP_deref" and stack:
        addr = stack.pop()
        word = machine.read(addr, 8)
        if word is None:
            return f"described by what is at {addr:#x}, where no memory is"
        stack.append(word)
    elif name == "DW_OP_convert" and stack:
        bits, signed = args
        if bits:
            value = stack.pop() & ((1 << bits) - 1)
            stack.append((value - (1 << bits) if signed and value >> (bits - 1) else value) & U64)
    elif name == "DW_OP_entry_value":
        return "what it was when the function began, which nothing keeps"
    else:
        return f"described by {name}, which this version does not know"
    return ""


_PUSHES = frozenset(
    f"DW_OP_const{kind}" for kind in ("1u", "1s", "2u", "2s", "4u", "4s", "8u", "8s", "u", "s")
)
_UNARY: dict[str, Callable[..., int]] = {
    "DW_OP_plus_uconst": lambda value, more: value + more,
    "DW_OP_not": lambda value: ~value,
    "DW_OP_neg": lambda value: -value,
    "DW_OP_abs": lambda value: abs(s64(value)),
}


def _divided(left: int, right: int) -> int:
    quotient = abs(s64(left)) // abs(s64(right))
    return quotient if (s64(left) < 0) == (s64(right) < 0) else -quotient


_BINARY: dict[str, Callable[[int, int], int]] = {
    "DW_OP_plus": lambda a, b: a + b,
    "DW_OP_minus": lambda a, b: a - b,
    "DW_OP_mul": lambda a, b: a * b,
    "DW_OP_div": _divided,
    "DW_OP_mod": lambda a, b: a % b,
    "DW_OP_and": lambda a, b: a & b,
    "DW_OP_or": lambda a, b: a | b,
    "DW_OP_xor": lambda a, b: a ^ b,
    "DW_OP_shl": lambda a, b: a << b if b < 64 else 0,
    "DW_OP_shr": lambda a, b: a >> b if b < 64 else 0,
    "DW_OP_shra": lambda a, b: s64(a) >> min(b, 63),
    "DW_OP_eq": lambda a, b: int(a == b),
    "DW_OP_ne": lambda a, b: int(a != b),
    "DW_OP_lt": lambda a, b: int(s64(a) < s64(b)),
    "DW_OP_le": lambda a, b: int(s64(a) <= s64(b)),
    "DW_OP_gt": lambda a, b: int(s64(a) > s64(b)),
    "DW_OP_ge": lambda a, b: int(s64(a) >= s64(b)),
}

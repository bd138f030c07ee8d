"""What IR an operation on numbers becomes: one table for arithmetic, one for conditions, one for
atomics, keyed by operation.

Operands and results are names or decimal constants of IR type i32 or i64, by the operation's width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from pybpfvm.isa.opcodes import AluOp, AtomicOp, JmpOp


class Lines(Protocol):
    """Where IR is written: `new` appends an instruction and names its result."""

    def new(self, text: str) -> str:
        """The name of the result of `text`."""


# (lines, dst, operand, width) -> the name of the result, of that width
Alu = Callable[[Lines, str, str, int], str]


def _plain(operation: str) -> Alu:
    def emit(lines: Lines, a: str, b: str, width: int) -> str:
        return lines.new(f"{operation} i{width} {a}, {b}")

    return emit


def _shift(operation: str) -> Alu:
    def emit(lines: Lines, a: str, b: str, width: int) -> str:
        """Only the low 5 or 6 bits of a shift count are looked at."""
        if is_constant(b):
            count = str(int(b) & (width - 1))
        else:
            count = lines.new(f"and i{width} {b}, {width - 1}")
        return lines.new(f"{operation} i{width} {a}, {count}")

    return emit


def _divide(operation: str, *, remainder: bool) -> Alu:
    """RFC 9669, section 4.1: by zero gives 0, a remainder then leaves the dividend."""

    def emit(lines: Lines, a: str, b: str, width: int) -> str:
        by_zero = a if remainder else "0"
        if is_constant(b):
            return lines.new(f"{operation} i{width} {a}, {b}") if int(b) else by_zero
        zero = lines.new(f"icmp eq i{width} {b}, 0")
        divisor = lines.new(f"select i1 {zero}, i{width} 1, i{width} {b}")
        result = lines.new(f"{operation} i{width} {a}, {divisor}")
        return lines.new(f"select i1 {zero}, i{width} {by_zero}, i{width} {result}")

    return emit


def _divide_signed(operation: str, *, remainder: bool) -> Alu:
    """As unsigned, and by -1 a negation with remainder 0, for the smallest number too."""

    def emit(lines: Lines, a: str, b: str, width: int) -> str:
        kind = f"i{width}"
        if is_constant(b) and int(b) not in (0, -1):
            return lines.new(f"{operation} {kind} {a}, {b}")
        zero = lines.new(f"icmp eq {kind} {b}, 0")
        minus = lines.new(f"icmp eq {kind} {b}, -1")
        special = lines.new(f"or i1 {zero}, {minus}")
        divisor = lines.new(f"select i1 {special}, {kind} 1, {kind} {b}")
        result = lines.new(f"{operation} {kind} {a}, {divisor}")
        by_minus = "0" if remainder else lines.new(f"sub {kind} 0, {a}")
        result = lines.new(f"select i1 {minus}, {kind} {by_minus}, {kind} {result}")
        by_zero = a if remainder else "0"
        return lines.new(f"select i1 {zero}, {kind} {by_zero}, {kind} {result}")

    return emit


def _neg(lines: Lines, a: str, _: str, width: int) -> str:
    return lines.new(f"sub i{width} 0, {a}")


def _mov(_: Lines, _a: str, b: str, _width: int) -> str:
    return b


def _movsx(bits: int) -> Alu:
    def emit(lines: Lines, _: str, b: str, width: int) -> str:
        if bits == width:
            return b
        low = lines.new(f"trunc i{width} {b} to i{bits}")
        return lines.new(f"sext i{bits} {low} to i{width}")

    return emit


def _low(bits: int, *, swap: bool) -> Alu:
    """The low bits of a 64-bit word, swapped or not; `width` is 64 whatever the row says."""

    def emit(lines: Lines, a: str, _: str, _width: int) -> str:
        kind = f"i{bits}"
        low = lines.new(f"trunc i64 {a} to {kind}") if bits < 64 else a
        if swap:
            low = lines.new(f"call {kind} @llvm.bswap.{kind}({kind} {low})")
        return lines.new(f"zext {kind} {low} to i64") if bits < 64 else low

    return emit


ALU: Mapping[AluOp, Alu] = {
    AluOp.ADD: _plain("add"),
    AluOp.SUB: _plain("sub"),
    AluOp.MUL: _plain("mul"),
    AluOp.DIV: _divide("udiv", remainder=False),
    AluOp.SDIV: _divide_signed("sdiv", remainder=False),
    AluOp.OR: _plain("or"),
    AluOp.AND: _plain("and"),
    AluOp.LSH: _shift("shl"),
    AluOp.RSH: _shift("lshr"),
    AluOp.NEG: _neg,
    AluOp.MOD: _divide("urem", remainder=True),
    AluOp.SMOD: _divide_signed("srem", remainder=True),
    AluOp.XOR: _plain("xor"),
    AluOp.MOV: _mov,
    AluOp.MOVSX8: _movsx(8),
    AluOp.MOVSX16: _movsx(16),
    AluOp.MOVSX32: _movsx(32),
    AluOp.ARSH: _shift("ashr"),
    AluOp.LE16: _low(16, swap=False),
    AluOp.LE32: _low(32, swap=False),
    AluOp.LE64: _low(64, swap=False),
    AluOp.BE16: _low(16, swap=True),
    AluOp.BE32: _low(32, swap=True),
    AluOp.BE64: _low(64, swap=True),
    AluOp.BSWAP16: _low(16, swap=True),
    AluOp.BSWAP32: _low(32, swap=True),
    AluOp.BSWAP64: _low(64, swap=True),
}

# Operations on the whole register, whatever their width: byte order.
WHOLE = frozenset(op for op in AluOp if op.value.startswith(("le", "be", "bswap")))
# Operations that do not look at dst.
SETS = frozenset({AluOp.MOV, AluOp.MOVSX8, AluOp.MOVSX16, AluOp.MOVSX32})

# Predicates of icmp; JSET is `and` and `ne`.
CONDITION: Mapping[JmpOp, str] = {
    JmpOp.JEQ: "eq",
    JmpOp.JNE: "ne",
    JmpOp.JSET: "ne",
    JmpOp.JGT: "ugt",
    JmpOp.JGE: "uge",
    JmpOp.JLT: "ult",
    JmpOp.JLE: "ule",
    JmpOp.JSGT: "sgt",
    JmpOp.JSGE: "sge",
    JmpOp.JSLT: "slt",
    JmpOp.JSLE: "sle",
}

# Operations of atomicrmw; CMPXCHG is an instruction of its own.
ATOMIC: Mapping[AtomicOp, str] = {
    AtomicOp.ADD: "add",
    AtomicOp.OR: "or",
    AtomicOp.AND: "and",
    AtomicOp.XOR: "xor",
    AtomicOp.FETCH_ADD: "add",
    AtomicOp.FETCH_OR: "or",
    AtomicOp.FETCH_AND: "and",
    AtomicOp.FETCH_XOR: "xor",
    AtomicOp.XCHG: "xchg",
}


def is_constant(value: str) -> bool:
    """Whether the operand is a number, not a name."""
    return value[0] != "%"

"""What operations do to numbers: one table each for arithmetic, conditions and atomics.

Operands and results are unsigned 64-bit words. An operation of width 32 looks at the low halves
of its operands and leaves the upper half of its result 0; an immediate operand has been
sign-extended to 64 bits before. RFC 9669, sections 4.1 to 4.3 and 5.3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pybpfvm.bits import U64, bswap, sign_extend
from pybpfvm.isa.opcodes import AluOp, AtomicOp, JmpOp

# (dst, operand, width) -> dst
Alu = Callable[[int, int, int], int]
# (dst, operand, width) -> whether to jump
Condition = Callable[[int, int, int], bool]
# (memory, src, r0, width) -> memory
Atomic = Callable[[int, int, int, int], int]

_MASK = {32: 0xFFFF_FFFF, 64: U64}


def _add(a: int, b: int, width: int) -> int:
    return (a + b) & _MASK[width]


def _sub(a: int, b: int, width: int) -> int:
    return (a - b) & _MASK[width]


def _mul(a: int, b: int, width: int) -> int:
    return (a * b) & _MASK[width]


def _div(a: int, b: int, width: int) -> int:
    """Division by zero gives 0."""
    mask = _MASK[width]
    divisor = b & mask
    return (a & mask) // divisor if divisor else 0


def _sdiv(a: int, b: int, width: int) -> int:
    """Rounds towards zero. Division by zero gives 0, the smallest number by -1 gives itself."""
    dividend, divisor = sign_extend(a, width), sign_extend(b, width)
    if divisor == 0:
        return 0
    quotient = abs(dividend) // abs(divisor)
    return (quotient if (dividend < 0) == (divisor < 0) else -quotient) & _MASK[width]


def _mod(a: int, b: int, width: int) -> int:
    """Modulo zero leaves the dividend (its low half, for width 32)."""
    mask = _MASK[width]
    divisor = b & mask
    return (a & mask) % divisor if divisor else a & mask


def _smod(a: int, b: int, width: int) -> int:
    """The remainder has the sign of the dividend; modulo zero leaves the dividend."""
    dividend, divisor = sign_extend(a, width), sign_extend(b, width)
    if divisor == 0:
        return dividend & _MASK[width]
    remainder = abs(dividend) % abs(divisor)
    return (-remainder if dividend < 0 else remainder) & _MASK[width]


def _or(a: int, b: int, width: int) -> int:
    return (a | b) & _MASK[width]


def _and(a: int, b: int, width: int) -> int:
    return a & b & _MASK[width]


def _xor(a: int, b: int, width: int) -> int:
    return (a ^ b) & _MASK[width]


def _lsh(a: int, b: int, width: int) -> int:
    """Only the low 5 or 6 bits of a shift count are looked at."""
    return (a << (b & (width - 1))) & _MASK[width]


def _rsh(a: int, b: int, width: int) -> int:
    return (a & _MASK[width]) >> (b & (width - 1))


def _arsh(a: int, b: int, width: int) -> int:
    return (sign_extend(a, width) >> (b & (width - 1))) & _MASK[width]


def _neg(a: int, _: int, width: int) -> int:
    return -a & _MASK[width]


def _mov(_: int, b: int, width: int) -> int:
    return b & _MASK[width]


def _movsx(bits: int) -> Alu:
    def move(_: int, b: int, width: int) -> int:
        return sign_extend(b, bits) & _MASK[width]

    return move


def _truncate(bits: int) -> Alu:
    def truncate(a: int, _: int, _width: int) -> int:
        return a & ((1 << bits) - 1)

    return truncate


def _swap(bits: int) -> Alu:
    def swap(a: int, _: int, _width: int) -> int:
        return bswap(a, bits)

    return swap


CONCRETE_ALU: Mapping[AluOp, Alu] = {
    AluOp.ADD: _add,
    AluOp.SUB: _sub,
    AluOp.MUL: _mul,
    AluOp.DIV: _div,
    AluOp.SDIV: _sdiv,
    AluOp.OR: _or,
    AluOp.AND: _and,
    AluOp.LSH: _lsh,
    AluOp.RSH: _rsh,
    AluOp.NEG: _neg,
    AluOp.MOD: _mod,
    AluOp.SMOD: _smod,
    AluOp.XOR: _xor,
    AluOp.MOV: _mov,
    AluOp.MOVSX8: _movsx(8),
    AluOp.MOVSX16: _movsx(16),
    AluOp.MOVSX32: _movsx(32),
    AluOp.ARSH: _arsh,
    AluOp.LE16: _truncate(16),
    AluOp.LE32: _truncate(32),
    AluOp.LE64: _truncate(64),
    AluOp.BE16: _swap(16),
    AluOp.BE32: _swap(32),
    AluOp.BE64: _swap(64),
    AluOp.BSWAP16: _swap(16),
    AluOp.BSWAP32: _swap(32),
    AluOp.BSWAP64: _swap(64),
}

# On a big-endian machine the conversions to little-endian are the ones that swap.
CONCRETE_ALU_BIG_ENDIAN: Mapping[AluOp, Alu] = {
    **CONCRETE_ALU,
    AluOp.LE16: _swap(16),
    AluOp.LE32: _swap(32),
    AluOp.LE64: _swap(64),
    AluOp.BE16: _truncate(16),
    AluOp.BE32: _truncate(32),
    AluOp.BE64: _truncate(64),
}


def _unsigned(compare: Callable[[int, int], bool]) -> Condition:
    def condition(a: int, b: int, width: int) -> bool:
        mask = _MASK[width]
        return compare(a & mask, b & mask)

    return condition


def _signed(compare: Callable[[int, int], bool]) -> Condition:
    def condition(a: int, b: int, width: int) -> bool:
        return compare(sign_extend(a, width), sign_extend(b, width))

    return condition


CONCRETE_JMP: Mapping[JmpOp, Condition] = {
    JmpOp.JEQ: _unsigned(int.__eq__),
    JmpOp.JGT: _unsigned(int.__gt__),
    JmpOp.JGE: _unsigned(int.__ge__),
    JmpOp.JSET: lambda a, b, width: a & b & _MASK[width] != 0,
    JmpOp.JNE: _unsigned(int.__ne__),
    JmpOp.JSGT: _signed(int.__gt__),
    JmpOp.JSGE: _signed(int.__ge__),
    JmpOp.JLT: _unsigned(int.__lt__),
    JmpOp.JLE: _unsigned(int.__le__),
    JmpOp.JSLT: _signed(int.__lt__),
    JmpOp.JSLE: _signed(int.__le__),
}


def _compare_exchange(memory: int, src: int, r0: int, width: int) -> int:
    mask = _MASK[width]
    return src & mask if (memory ^ r0) & mask == 0 else memory & mask


CONCRETE_ATOMIC: Mapping[AtomicOp, Atomic] = {
    AtomicOp.ADD: lambda memory, src, _, width: _add(memory, src, width),
    AtomicOp.OR: lambda memory, src, _, width: _or(memory, src, width),
    AtomicOp.AND: lambda memory, src, _, width: _and(memory, src, width),
    AtomicOp.XOR: lambda memory, src, _, width: _xor(memory, src, width),
    AtomicOp.FETCH_ADD: lambda memory, src, _, width: _add(memory, src, width),
    AtomicOp.FETCH_OR: lambda memory, src, _, width: _or(memory, src, width),
    AtomicOp.FETCH_AND: lambda memory, src, _, width: _and(memory, src, width),
    AtomicOp.FETCH_XOR: lambda memory, src, _, width: _xor(memory, src, width),
    AtomicOp.XCHG: lambda _memory, src, _, width: src & _MASK[width],
    AtomicOp.CMPXCHG: _compare_exchange,
}

# Atomics that load the old value, zero-extended, into src. CMPXCHG loads it into r0.
FETCHES: frozenset[AtomicOp] = frozenset(
    {
        AtomicOp.FETCH_ADD,
        AtomicOp.FETCH_OR,
        AtomicOp.FETCH_AND,
        AtomicOp.FETCH_XOR,
        AtomicOp.XCHG,
    }
)

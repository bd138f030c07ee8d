"""Where a concrete number of a run came from, as an expression over the run's inputs, and which
inputs would make it another number.

Expressions remember the concrete values of their operands. To reach a target, the operation at
the top is inverted for one operand while the other keeps its value, down to the inputs; what has
no inverse is left to the search's guesses.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from pybpfvm.bits import U32, U64, bswap
from pybpfvm.isa.opcodes import AluOp

_MAX_SOLUTIONS = 24
_MAX_DEPTH = 64


@dataclass(frozen=True, slots=True)
class Source:
    """A place among the inputs. `space` is "ctx", "packet", "map" (of `name` at `key`), "answer"
    (the bytes of scripted call `number`): `size` bytes at `offset`. "result" is the result of
    scripted call `number`, "present" whether the map of at most `size` elements has this one,
    "length" how many bytes of the packet are shown, plus `offset`."""

    space: str
    offset: int = 0
    size: int = 8
    number: int = 0
    name: str = ""
    key: bytes = b""


Assignment = tuple[Source, int]


class Symbol:
    """A 64-bit number `value` of a run: an input, or `op` of operands."""

    __slots__ = ("a", "av", "b", "bv", "depth", "op", "signed", "source", "value", "width")

    def __init__(
        self,
        value: int,
        *,
        source: Source | None = None,
        signed: bool = False,
        op: AluOp | None = None,
        width: int = 64,
        a: Symbol | None = None,
        av: int = 0,
        b: Symbol | None = None,
        bv: int = 0,
    ) -> None:
        self.value = value
        self.source = source
        self.signed = signed
        self.op = op
        self.width = width
        self.a, self.av = a, av
        self.b, self.bv = b, bv
        self.depth: int = 1 + max(a.depth if a is not None else 0, b.depth if b is not None else 0)


def sources(symbol: Symbol) -> tuple[Source, ...]:
    """The inputs that the number hangs on."""
    found: dict[Source, None] = {}
    work = [symbol]
    while work:
        one = work.pop()
        if one.source is not None:
            found[one.source] = None
        work += [operand for operand in (one.a, one.b) if operand is not None]
        if len(found) >= _MAX_SOLUTIONS:
            break
    return tuple(found)


def solutions(symbol: Symbol, target: int) -> Iterator[Assignment]:
    """Inputs one of which, set to the number beside it, should make the symbol `target`."""
    yield from islice(_solve(symbol, target & U64), _MAX_SOLUTIONS)


def _solve(symbol: Symbol, target: int) -> Iterator[Assignment]:
    if symbol.source is not None:
        if symbol.a is not None:  # a lookup in an array: whether its index is one
            beyond = symbol.source.size
            for index in (beyond, U32, 0) if target == 0 else (0,):
                yield from _solve(symbol.a, index)
            return
        yield from _input(symbol, symbol.source, target)
        return
    if symbol.depth > _MAX_DEPTH or symbol.op is None:
        return
    if symbol.a is not None:
        for wanted in _first(symbol, target):
            yield from _solve(symbol.a, wanted & U64)
    if symbol.b is not None:
        for wanted in _second(symbol, target):
            yield from _solve(symbol.b, wanted & U64)


def _input(symbol: Symbol, source: Source, target: int) -> Iterator[Assignment]:
    if source.space in ("result", "present", "length"):
        yield source, target
        return
    bits = 8 * source.size
    low = target & ((1 << bits) - 1)
    extended = low
    if symbol.signed and low >> (bits - 1):
        extended = (low - (1 << bits)) & U64
    if extended == target:
        yield source, low


def _first(symbol: Symbol, target: int) -> Iterator[int]:
    """What the first operand would have to be."""
    op, width, b = symbol.op, symbol.width, symbol.bv
    mask = U64 if width == 64 else U32
    if target & ~mask:
        return
    keep = symbol.av & ~mask & U64  # what a 32-bit operation does not look at
    b &= mask
    if op is AluOp.ADD:
        yield keep | (target - b) & mask
    elif op is AluOp.SUB:
        yield keep | (target + b) & mask
    elif op is AluOp.XOR:
        yield keep | target ^ b
    elif op is AluOp.AND:
        if not target & ~b:
            yield keep | target | (symbol.av & ~b & mask)
            yield keep | target
    elif op is AluOp.OR:
        if not b & ~target:
            yield keep | (target & ~b)
    elif op is AluOp.LSH:
        count = b & (width - 1)
        if not target & ((1 << count) - 1):
            yield keep | target >> count
    elif op is AluOp.RSH:
        count = b & (width - 1)
        if target <= mask >> count:
            yield keep | (target << count) & mask | symbol.av & ((1 << count) - 1)
    elif op is AluOp.ARSH:
        count = b & (width - 1)
        yield keep | (target << count) & mask | symbol.av & ((1 << count) - 1)
    elif op is AluOp.MUL:
        yield from (keep | one for one in _factors(target, b, mask))
    elif op is AluOp.DIV and b:
        if target <= mask // b:
            yield keep | target * b
    elif op is AluOp.MOD and b:
        if target < b:
            yield keep | target
    elif op is AluOp.NEG:
        yield keep | -target & mask
    else:
        yield from _unary(symbol, target)


def _unary(symbol: Symbol, target: int) -> Iterator[int]:
    op = symbol.op
    if op is AluOp.MOV:
        yield symbol.av & ~U32 & U64 | target
    elif op in _FIELDS:
        yield symbol.av & ~((1 << _FIELDS[op]) - 1) & U64 | target & ((1 << _FIELDS[op]) - 1)
    elif op in _SWAPS:
        bits = _SWAPS[op]
        yield symbol.av & ~((1 << bits) - 1) & U64 | bswap(target & ((1 << bits) - 1), bits)


_FIELDS = {
    AluOp.MOVSX8: 8,
    AluOp.MOVSX16: 16,
    AluOp.MOVSX32: 32,
    AluOp.LE16: 16,
    AluOp.LE32: 32,
    AluOp.LE64: 64,
}
_SWAPS = {
    AluOp.BE16: 16,
    AluOp.BE32: 32,
    AluOp.BE64: 64,
    AluOp.BSWAP16: 16,
    AluOp.BSWAP32: 32,
    AluOp.BSWAP64: 64,
}


def _factors(target: int, factor: int, mask: int) -> Iterator[int]:
    if factor == 0:
        return
    if target % factor == 0:
        yield target // factor
    if factor & 1:
        yield target * pow(factor, -1, mask + 1) & mask


def _second(symbol: Symbol, target: int) -> Iterator[int]:
    """What the second operand would have to be."""
    op, width, a = symbol.op, symbol.width, symbol.av
    mask = U64 if width == 64 else U32
    if target & ~mask:
        return
    keep = symbol.bv & ~mask & U64
    a &= mask
    if op is AluOp.ADD:
        yield keep | (target - a) & mask
    elif op is AluOp.SUB:
        yield keep | (a - target) & mask
    elif op is AluOp.XOR:
        yield keep | target ^ a
    elif op is AluOp.AND:
        if not target & ~a:
            yield keep | target | (symbol.bv & ~a & mask)
    elif op is AluOp.OR:
        if not a & ~target:
            yield keep | (target & ~a)
    elif op is AluOp.MUL:
        yield from (keep | one for one in _factors(target, a, mask))
    elif op in (AluOp.LSH, AluOp.RSH, AluOp.ARSH):
        yield from range(width)
    elif op in (AluOp.DIV, AluOp.MOD, AluOp.SDIV, AluOp.SMOD):
        yield from (0, 1, mask, 2)

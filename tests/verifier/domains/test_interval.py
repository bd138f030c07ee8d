"""Interval arithmetic: every pair of ranges of a small width, in either reading."""

from __future__ import annotations

import pytest

from pybpfvm.isa.opcodes import AluOp
from pybpfvm.isa.semantics import CONCRETE_ALU
from pybpfvm.verifier.domains import interval
from tests.verifier.domains.gamma import bit_set, table
from tests.verifier.domains.world import world

WIDTH = 4
FULL = (1 << WIDTH) - 1
HALF = FULL >> 1
ALL = (1 << (FULL + 1)) - 1

BINARY = {
    AluOp.ADD: interval.add,
    AluOp.SUB: interval.sub,
    AluOp.MUL: interval.mul,
    AluOp.AND: interval.and_,
    AluOp.OR: interval.or_,
    AluOp.XOR: interval.xor,
    AluOp.DIV: interval.div,
    AluOp.MOD: interval.mod,
    AluOp.SDIV: interval.sdiv,
    AluOp.SMOD: interval.smod,
}
SHIFTS = {AluOp.LSH: interval.lsh, AluOp.RSH: interval.rsh, AluOp.ARSH: interval.arsh}

UNSIGNED = {
    (low, high): bit_set(iter(range(low, high + 1)))
    for low in range(FULL + 1)
    for high in range(low, FULL + 1)
}
SIGNED = {
    (low, high): bit_set(n & FULL for n in range(low, high + 1))
    for low in range(-HALF - 1, HALF + 1)
    for high in range(low, HALF + 1)
}


def _one_reading(signed: bool) -> dict[interval.Interval, int]:
    """Every range of one reading, with what the other reading knows of it: its hull."""
    found = {}
    for ends, numbers in (SIGNED if signed else UNSIGNED).items():
        others = UNSIGNED if signed else SIGNED
        hull = min(
            (other for other, more in others.items() if not numbers & ~more),
            key=lambda pair: pair[1] - pair[0],
        )
        found[(*ends, *hull) if signed else (*hull, *ends)] = numbers
    return found


def _rows(op: AluOp) -> list[list[int]]:
    world(WIDTH)  # teaches the reference semantics this width
    return table(WIDTH, lambda x, y: CONCRETE_ALU[op](x, y, WIDTH))


def _check(result: interval.Interval, numbers: int, what: object) -> None:
    smin, smax, umin, umax = result
    assert not numbers & ~SIGNED[smin, smax], f"{what}: signed {smin, smax} misses a result"
    assert not numbers & ~UNSIGNED[umin, umax], f"{what}: unsigned {umin, umax} misses a result"


@pytest.mark.parametrize("op", BINARY, ids=lambda op: op.value)
@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
def test_result_holds_every_concrete_result(op: AluOp, signed: bool) -> None:
    ranges = _one_reading(signed)
    rows = _rows(op)
    for a, a_numbers in ranges.items():
        some = [x for x in range(FULL + 1) if a_numbers >> x & 1]
        column = [bit_set(rows[x][y] for x in some) for y in range(FULL + 1)]
        for b, b_numbers in ranges.items():
            results = 0
            for y in range(FULL + 1):
                if b_numbers >> y & 1:
                    results |= column[y]
            _check(BINARY[op](a, b, FULL), results, (op, a, b))


@pytest.mark.parametrize("op", SHIFTS, ids=lambda op: op.value)
@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
def test_shifts_by_every_range_of_counts(op: AluOp, signed: bool) -> None:
    rows = _rows(op)
    for a, numbers in _one_reading(signed).items():
        for least in range(WIDTH):
            for most in range(least, WIDTH):
                results = bit_set(
                    rows[x][count]
                    for x in range(FULL + 1)
                    if numbers >> x & 1
                    for count in range(least, most + 1)
                )
                _check(SHIFTS[op](a, least, most, FULL), results, (op, a, least, most))


def test_low_bits_of_every_range_signed_or_not() -> None:
    for low in range(-2 * FULL, 2 * FULL):
        for high in range(low, 2 * FULL):
            results = bit_set(n & FULL for n in range(low, high + 1))
            _check(interval.low_bits(low, high, FULL), results, (low, high))


@pytest.mark.parametrize(
    ("op", "a", "b", "expected"),
    [
        # (smin, smax, umin, umax) at 64 bits
        (AluOp.SDIV, (-(1 << 63), -1), (2, 4), (-(1 << 62), 0)),
        (AluOp.SDIV, (-7, 7), (-2, -2), (-3, 3)),
        (AluOp.SDIV, (10, 20), (0, 5), (0, 20)),
        (AluOp.SMOD, (-100, 100), (7, 7), (-6, 6)),
        (AluOp.SMOD, (-100, 100), (0, 7), (-100, 100)),
        (AluOp.SMOD, (-3, 3), (7, 9), (-3, 3)),
    ],
)
def test_signed_division_is_this_precise(
    op: AluOp, a: tuple[int, int], b: tuple[int, int], expected: tuple[int, int]
) -> None:
    full = (1 << 64) - 1
    hull = [(p if p[0] >= 0 else (0, full)) for p in (a, b)]
    assert BINARY[op]((*a, *hull[0]), (*b, *hull[1]), full)[:2] == expected

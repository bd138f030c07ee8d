"""Transfers: every operation, both widths, against the reference semantics.

PYBPFVM_DOMAIN_PAIRS sets how many pairs of 4-bit Scalars are tried per operation and width
(all 10 million: 10080625).
"""

from __future__ import annotations

import os
import random
from itertools import product
from typing import Any

import pytest

from pybpfvm.isa.opcodes import AluOp, JmpOp
from pybpfvm.isa.semantics import CONCRETE_ALU
from pybpfvm.verifier.domains.alu import (
    FAST32,
    FAST64,
    KERNEL32,
    KERNEL64,
    KERNEL_SLOW32,
    KERNEL_SLOW64,
    TRANSFER32,
    TRANSFER64,
    alu,
)
from pybpfvm.verifier.domains.scalar import Scalar, contains, is_subsumed_by, load_result, sync
from tests.verifier.domains.gamma import gamma, image, sampled, scalar_pairs, table
from tests.verifier.domains.world import World, world

PAIRS = int(os.environ.get("PYBPFVM_DOMAIN_PAIRS", "700"))

# Those that name a number of bits have no meaning in a 4-bit word: sampled at 64 only, and
# their parts (low_field, bswap) enumerated elsewhere.
SMALL = [op for op in AluOp if not op.value[-1].isdigit()]


@pytest.mark.parametrize(
    "table_",
    [TRANSFER64, TRANSFER32, KERNEL64, KERNEL32],
    ids=["64", "32", "kernel's 64", "kernel's 32"],
)
def test_every_operation_has_a_transfer(table_: Any) -> None:
    assert set(table_) == set(AluOp)


@pytest.mark.parametrize("op", SMALL, ids=lambda op: op.value)
@pytest.mark.parametrize("bits", [2, 4])
def test_small_world(op: AluOp, bits: int) -> None:
    """All pairs of 2-bit words; of 4-bit words a sample. Both widths of the operation."""
    w = world(bits)
    for width, as_kernel in product((bits, bits // 2), (False, op in KERNEL_SLOW64)):
        rows = table(bits, lambda x, y, width=width: CONCRETE_ALU[op](x, y, width))  # type: ignore[misc]
        for a, a_numbers, b, b_numbers in scalar_pairs(bits, max(PAIRS, 300), seed=width):
            got = w.alu.alu(op, width, a, b, as_kernel=as_kernel)
            missed = image(rows, a_numbers, b_numbers) & ~gamma(w, got)
            assert not missed, f"{op.value}{width} {a} {b}: {got} misses {missed:b}"
            assert w.scalar.sync(*got.key()) == got, f"{op.value}{width} {a} {b}: not in step"


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_sign_extending_moves_in_a_small_world(bits: int) -> None:
    """MOVSX8 of 64 is to the word what MOVSX of `bits` is here; the 32-bit form zero-extends."""
    w = world(4)
    sign = 1 << (bits - 1)
    for scalar, numbers, _, _ in scalar_pairs(4, 2000, seed=bits):
        for n in range(16):
            if numbers >> n & 1:
                extended = ((n & (2 * sign - 1)) ^ sign) - sign
                for movsx in (w.alu.movsx64(bits), w.alu.kernel_movsx64(bits)):
                    assert w.scalar.contains(movsx(scalar, scalar), extended & 15)
                if bits < 3:
                    for movsx in (w.alu.movsx32(bits), w.alu.kernel_movsx32(bits)):
                        assert w.scalar.contains(movsx(scalar, scalar), extended & 3)


@pytest.mark.parametrize("seed", range(6))
def test_large_words_sampled(seed: int) -> None:
    w = world(64)
    choose = random.Random(seed)
    for _ in range(40):
        a, some = sampled(choose, w)
        b, more = sampled(choose, w)
        if choose.random() < 0.3:
            b, more = Scalar.const(more[0] & 63), [more[0] & 63]
        for op in AluOp:
            for width, as_kernel in product((64, 32), (False, op in KERNEL_SLOW64)):
                got = alu(op, width, a, b, as_kernel=as_kernel)
                for x in some:
                    for y in more:
                        result = CONCRETE_ALU[op](x, y, width)
                        assert contains(got, result), (
                            f"seed {seed}: {op.value}{width} {a} {b}: {x:#x}, {y:#x} give "
                            f"{result:#x}, not in {got}"
                        )
                assert sync(*got.key()) == got, f"seed {seed}: {op.value}{width} {a} {b}"


def _compared(w: World, choose: random.Random, half: int) -> list[tuple[Any, Any]]:
    """Pairs whose low halves were compared: ranges of the word may be wider than theirs."""
    found: list[tuple[Any, Any]] = []
    while len(found) < 300:
        a, b = sampled(choose, w)[0], sampled(choose, w)[0]
        op = choose.choice((JmpOp.JSLT, JmpOp.JSGE, JmpOp.JLT))
        arms = w.branch.arms_of(op, half, as_kernel=True)
        found += [pair for arm in arms if (pair := arm(a, b)) is not None]
    return found


@pytest.mark.parametrize(
    ("op", "width"),
    [(op, 64) for op in FAST64] + [(op, 32) for op in FAST32],
    ids=lambda value: getattr(value, "value", value),
)
@pytest.mark.parametrize("bits", [4, 64])
@pytest.mark.parametrize("as_kernel", [False, True], ids=["ours", "kernel's"])
def test_fast_paths_answer_as_the_slow_ones(
    op: AluOp, width: int, bits: int, as_kernel: bool
) -> None:
    w = world(bits)
    wide = width == 64
    ours, kernels = ("TRANSFER64", "KERNEL64") if wide else ("TRANSFER32", "KERNEL32")
    fast = getattr(w.alu, kernels if as_kernel else ours)[op]
    slow = (w.alu.SLOW64 if wide else w.alu.SLOW32)[op]
    if as_kernel:
        slow = (w.alu.KERNEL_SLOW64 if wide else w.alu.KERNEL_SLOW32).get(op, slow)
    choose = random.Random(3)
    if bits == 4:
        pairs = [(a, b) for a, _, b, _ in scalar_pairs(4, 3000, seed=5)]
    else:
        pairs = [(sampled(choose, w)[0], sampled(choose, w)[0]) for _ in range(300)]
    pairs += _compared(w, choose, bits // 2)
    for a, b in pairs:
        assert fast(a, b) == slow(a, b), f"{op.value}{width} {a} {b}"


@pytest.mark.parametrize(
    ("op", "width"),
    [(op, 64) for op in KERNEL_SLOW64] + [(op, 32) for op in KERNEL_SLOW32],
    ids=lambda value: getattr(value, "value", value),
)
def test_kernels_know_less(op: AluOp, width: int) -> None:
    """Nothing that our own transfer does not know, of some operands less. Of products the bits may
    be others: neither order of the factors is always the better one."""
    w = world(64)
    choose = random.Random(4)
    less = 0
    for _ in range(600):
        a, b = sampled(choose, w)[0], sampled(choose, w)[0]
        ours, theirs = alu(op, width, a, b), alu(op, width, a, b, as_kernel=True)
        assert op is AluOp.MUL or is_subsumed_by(ours, theirs), f"{op.value}{width} {a} {b}"
        less += ours != theirs
    assert less


_BYTE = load_result(1, False)
_HALF = load_result(2, False)
_INT = load_result(4, True)
_UNKNOWN = Scalar.UNKNOWN


def _k(number: int) -> Scalar:
    return Scalar.const(number)


@pytest.mark.parametrize(
    ("steps", "start", "ends"),
    [
        # What compilers write, and the range that programs rely on. Ends are signed.
        ([(AluOp.AND, 64, 0xFF)], _UNKNOWN, (0, 0xFF)),
        ([(AluOp.AND, 32, 0xF8)], _UNKNOWN, (0, 0xF8)),
        ([(AluOp.AND, 64, 3), (AluOp.ADD, 64, 1)], _UNKNOWN, (1, 4)),
        ([(AluOp.RSH, 64, 60)], _UNKNOWN, (0, 15)),
        ([(AluOp.RSH, 32, 28)], _UNKNOWN, (0, 15)),
        ([(AluOp.LSH, 64, 2)], _BYTE, (0, 1020)),
        ([(AluOp.AND, 64, 3), (AluOp.LSH, 64, None)], _UNKNOWN, (0, 24)),
        ([(AluOp.LSH, 64, 32), (AluOp.RSH, 64, 32)], _UNKNOWN, (0, (1 << 32) - 1)),
        ([(AluOp.LSH, 64, 32), (AluOp.ARSH, 64, 32)], _BYTE, (0, 255)),
        ([(AluOp.LSH, 64, 32), (AluOp.ARSH, 64, 32)], _INT, (-(1 << 31), (1 << 31) - 1)),
        ([(AluOp.LSH, 64, 56), (AluOp.ARSH, 64, 56)], _UNKNOWN, (-128, 127)),
        ([(AluOp.ADD, 64, -1)], _BYTE, (-1, 254)),
        ([(AluOp.SUB, 64, 5), (AluOp.ADD, 64, 5)], _BYTE, (0, 255)),
        ([(AluOp.NEG, 64, 0)], _BYTE, (-255, 0)),
        ([(AluOp.MUL, 64, 12)], _BYTE, (0, 3060)),
        ([(AluOp.MUL, 64, -2)], _BYTE, (-510, 0)),
        ([(AluOp.OR, 64, 0x100)], _BYTE, (0x100, 0x1FF)),
        ([(AluOp.XOR, 64, 0x100)], _BYTE, (0x100, 0x1FF)),
        ([(AluOp.DIV, 64, 10)], _BYTE, (0, 25)),
        ([(AluOp.MOD, 64, 10)], _UNKNOWN, (0, 9)),
        ([(AluOp.MOD, 32, 16)], _UNKNOWN, (0, 15)),
        ([(AluOp.SDIV, 64, -4)], _INT, (-((1 << 29) - 1), 1 << 29)),
        ([(AluOp.SMOD, 64, 10)], _INT, (-9, 9)),
        ([(AluOp.MOVSX8, 64, None)], _UNKNOWN, (-128, 127)),
        ([(AluOp.BE16, 64, 0)], _UNKNOWN, (0, 0xFFFF)),
        ([(AluOp.LE16, 64, 0), (AluOp.ADD, 64, 14)], _HALF, (14, 0xFFFF + 14)),
        ([(AluOp.ARSH, 64, 31), (AluOp.AND, 64, -134)], _INT, (-256, 0)),
    ],
)
def test_idioms_keep_their_range(
    steps: list[tuple[AluOp, int, int | None]], start: Scalar, ends: tuple[int, int]
) -> None:
    scalar = start
    for op, width, operand in steps:
        scalar = alu(op, width, scalar, scalar if operand is None else _k(operand))
    assert (scalar.smin, scalar.smax) == ends


@pytest.mark.parametrize(
    ("story", "op", "width", "a", "b", "member"),
    [
        ("A 1: a negative immediate moved by 32 bits", AluOp.MOV, 32, 0, -1, 0xFFFF_FFFF),
        ("A 2: shift of 32 looks at the low half", AluOp.RSH, 32, 0xF_8000_0000, 31, 1),
        ("A 7: 32-bit remainder by 0 drops the upper half", AluOp.MOD, 32, 0x7_0000_0005, 0, 5),
        ("A 7: 32-bit quotient by 0", AluOp.DIV, 32, 0x7_0000_0005, 0, 0),
        ("A 23: smallest number by -1", AluOp.SDIV, 64, 1 << 63, -1, 1 << 63),
        ("A 23: smallest number by -1, 32 bits", AluOp.SDIV, 32, 1 << 31, -1, 1 << 31),
        ("A 28: remainder of the smallest number", AluOp.SMOD, 32, 1 << 31, -1, 0),
        ("A 28: remainder by the smallest number", AluOp.SMOD, 32, -5, 1 << 31, 0xFFFF_FFFB),
        ("B: MOVSX of 32 bits zero-extends", AluOp.MOVSX8, 32, 0, 0x80, 0xFFFF_FF80),
        ("B: 32-bit division tests the 32-bit divisor", AluOp.DIV, 32, 9, 1 << 32, 0),
        ("shift counts are taken modulo the width", AluOp.LSH, 32, 1, 33, 2),
        ("shift counts are taken modulo the width", AluOp.LSH, 64, 1, 65, 2),
    ],
)
def test_catalogue(story: str, op: AluOp, width: int, a: int, b: int, member: int) -> None:
    """Constants give the number itself, and whatever holds the operands gives a set with it."""
    assert alu(op, width, _k(a), _k(b)) == _k(member), story
    around = [
        (_k(a), Scalar.UNKNOWN),
        (Scalar.UNKNOWN, _k(b)),
        (Scalar.range(0, a & (1 << 64) - 1), Scalar.range(0, b & (1 << 64) - 1)),
        (Scalar.range(a & (1 << 64) - 1, (1 << 64) - 1), _k(b)),
    ]
    for wide_a, wide_b in around:
        got = alu(op, width, wide_a, wide_b)
        assert contains(got, member), f"{story}: {got}"
        assert width == 64 or got.umax < 1 << 32, f"{story}: upper half of {got}"


@pytest.mark.parametrize("op", [AluOp.AND, AluOp.OR, AluOp.XOR], ids=lambda op: op.value)
def test_catalogue_a4_a5_bitwise_low_halves(op: AluOp) -> None:
    """Known low halves under unknown upper ones: 32-bit ranges follow the result."""
    high = alu(AluOp.LSH, 64, Scalar.UNKNOWN, _k(32))
    a, b = alu(AluOp.OR, 64, high, _k(0x5)), alu(AluOp.OR, 64, high, _k(0x6))
    got = alu(op, 64, a, b)
    low = CONCRETE_ALU[op](5, 6, 32)
    assert (got.u32min, got.u32max, got.s32min, got.s32max) == (low,) * 4
    assert got.umax > 1 << 32

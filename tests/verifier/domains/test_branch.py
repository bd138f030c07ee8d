"""Branch refinement: no pair of numbers that takes an arm is lost on it."""

from __future__ import annotations

import os
import random
from functools import reduce
from itertools import product

import pytest

from pybpfvm.bits import U64
from pybpfvm.isa.opcodes import JmpOp
from pybpfvm.isa.semantics import CONCRETE_JMP
from pybpfvm.verifier.domains.branch import ARMS32, ARMS64, arms_of, branch
from pybpfvm.verifier.domains.scalar import Scalar, contains, is_subsumed_by, load_result, sync
from pybpfvm.verifier.domains.word import S32_MAX, S32_MIN, S64_MIN, U32
from tests.verifier.domains.gamma import bit_set, gamma, members, sampled, scalar_pairs
from tests.verifier.domains.world import world

PAIRS = int(os.environ.get("PYBPFVM_DOMAIN_PAIRS", "700"))
OPS = list(JmpOp)


def test_every_condition_has_its_arms() -> None:
    assert set(ARMS64) == set(ARMS32) == set(JmpOp)


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.value)
@pytest.mark.parametrize("bits", [2, 4])
def test_small_world(op: JmpOp, bits: int) -> None:
    """All pairs of 2-bit words; of 4-bit words a sample. Refined operands only ever shrink."""
    w = world(bits)
    alive = 0
    for width in (bits, bits // 2):
        holds = [
            bit_set(y for y in range(1 << bits) if CONCRETE_JMP[op](x, y, width))
            for x in range(1 << bits)
        ]
        everything = (1 << (1 << bits)) - 1
        for a, a_numbers, b, b_numbers in scalar_pairs(bits, max(PAIRS, 300), seed=width):
            arms = w.branch.branch(op, width, a, b)
            for arm, wanted in zip(arms, (holds, [row ^ everything for row in holds])):
                left = bit_set(x for x in members(a_numbers) if wanted[x] & b_numbers)
                right = 0
                for x in members(a_numbers):
                    right |= wanted[x] & b_numbers
                what = f"{op.value}{width} {a} {b}: {arm}"
                if arm is None:
                    assert not left, what
                    continue
                alive += bool(left)
                assert not left & ~gamma(w, arm[0]), what
                assert not right & ~gamma(w, arm[1]), what
                for narrowed, operand in zip(arm, (a, b)):
                    assert w.scalar.is_subsumed_by(narrowed, operand), what
                    assert w.scalar.sync(*narrowed.key()) == narrowed, what
    assert alive > 100


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.value)
@pytest.mark.parametrize("bits", [2, 4])
def test_what_kernels_learn_loses_no_pair(op: JmpOp, bits: int) -> None:
    """As kernels have it: nothing but what is so, and nothing that we do not know."""
    w = world(bits)
    less = 0
    for width in (bits, bits // 2):
        sharp = w.branch.arms_of(op, width)
        kernels = w.branch.arms_of(op, width, as_kernel=True, forgets=True)
        for a, a_numbers, b, b_numbers in scalar_pairs(bits, max(PAIRS, 300), seed=width):
            for ours, theirs, jumps in zip(sharp, kernels, (True, False)):
                arm, known = theirs(a, b), ours(a, b)
                what = f"{op.value}{width} {a} {b}: {arm}"
                for x, y in product(members(a_numbers), members(b_numbers)):
                    if CONCRETE_JMP[op](x, y, width) is jumps:
                        assert arm is not None, what
                        assert w.scalar.contains(arm[0], x), what
                        assert w.scalar.contains(arm[1], y), what
                if known is not None:
                    assert arm is not None, what
                    assert all(map(w.scalar.is_subsumed_by, known, arm)), what
                less += known != arm
    assert less or bits == 2


def test_kernels_forget_a_signed_end_that_reaches_below_the_low_half() -> None:
    """x s<= 32, then x < 256: unless the signed range lies in 32 bits, it is not looked at."""
    for smin, kernels in ((S64_MIN, 255), (S32_MIN - 1, 255), (S32_MIN, 32), (-5, 32), (0, 32)):
        low = sync(0, U64, smin, 32, 0, U64, S32_MIN, S32_MAX, 0, U32)
        assert low is not None
        found = []
        for as_kernel in (False, True):
            jumps, _ = arms_of(JmpOp.JLT, 64, as_kernel=as_kernel)
            pair = jumps(low, Scalar.const(256))
            assert pair is not None
            found.append(pair[0].umax)
        assert found == [32, kernels], smin


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.value)
@pytest.mark.parametrize("width", [4, 2])
def test_against_a_constant_dead_arms_are_seen_and_live_ones_narrow(op: JmpOp, width: int) -> None:
    """The narrowest Scalar of an arm is the join of its members; nearly all arms have no more.

    JSET with several bits set, where it jumps, is a fact that no view has a place for.
    """
    w = world(4)
    narrowest = total = 0
    for a, a_numbers, _, _ in scalar_pairs(4, 40, seed=9):
        for number in range(16):
            arms = w.branch.branch(op, width, a, w.scalar.Scalar.const(number))
            for arm, jumps in zip(arms, (True, False)):
                wanted = [
                    x for x in members(a_numbers) if CONCRETE_JMP[op](x, number, width) is jumps
                ]
                assert (arm is None) == (not wanted), f"{op.value}{width} {a} {number}: {arm}"
                if arm is not None:
                    best = reduce(w.scalar.join, map(w.scalar.Scalar.const, wanted))
                    total += 1
                    narrowest += gamma(w, arm[0]) == gamma(w, best)
    assert narrowest >= total * (0.7 if op is JmpOp.JSET else 0.95), f"{narrowest} of {total}"


@pytest.mark.parametrize("seed", range(6))
def test_large_words_sampled(seed: int) -> None:
    w = world(64)
    choose = random.Random(seed)
    for _ in range(40):
        a, some = sampled(choose, w)
        b, more = sampled(choose, w)
        if choose.random() < 0.3:
            more = [choose.choice(some)]
            b = Scalar.const(more[0])
        for op in JmpOp:
            for width in (64, 32):
                taken, not_taken = branch(op, width, a, b)
                for x in some:
                    for y in more:
                        arm = taken if CONCRETE_JMP[op](x, y, width) else not_taken
                        what = f"seed {seed}: {op.value}{width} {a} {b}: {x:#x}, {y:#x} in {arm}"
                        assert arm is not None, what
                        assert contains(arm[0], x), what
                        assert contains(arm[1], y), what


_BYTE = load_result(1, False)
_WORD = load_result(4, False)
_UNKNOWN = Scalar.UNKNOWN


@pytest.mark.parametrize(
    ("op", "width", "a", "b", "taken", "not_taken"),
    [
        # Ends are those of `a`, signed; None for an arm that cannot be.
        (JmpOp.JGT, 64, _BYTE, 7, (8, 255), (0, 7)),
        (JmpOp.JLT, 64, _UNKNOWN, 8, (0, 7), (-(1 << 63), (1 << 63) - 1)),
        (JmpOp.JSGT, 64, _UNKNOWN, -1, (0, (1 << 63) - 1), (-(1 << 63), -1)),
        (JmpOp.JEQ, 64, _BYTE, 9, (9, 9), (0, 255)),
        (JmpOp.JEQ, 64, _BYTE, 0, (0, 0), (1, 255)),
        (JmpOp.JNE, 64, _BYTE, 255, (0, 254), (255, 255)),
        (JmpOp.JEQ, 64, _BYTE, 256, None, (0, 255)),
        (JmpOp.JSET, 64, _BYTE, 0x80, (128, 255), (0, 127)),
        (JmpOp.JSET, 64, _BYTE, 0x100, None, (0, 255)),
        (JmpOp.JSET, 32, _BYTE, 1 << 40, None, (0, 255)),
        (JmpOp.JLT, 32, _WORD, 16, (0, 15), (16, (1 << 32) - 1)),
        (JmpOp.JSLT, 32, _WORD, 0, (1 << 31, (1 << 32) - 1), (0, (1 << 31) - 1)),
        (JmpOp.JGE, 64, _BYTE, 0, (0, 255), None),
    ],
)
def test_directed(
    op: JmpOp,
    width: int,
    a: Scalar,
    b: int,
    taken: tuple[int, int] | None,
    not_taken: tuple[int, int] | None,
) -> None:
    arms = branch(op, width, a, Scalar.const(b))
    assert [arm and (arm[0].smin, arm[0].smax) for arm in arms] == [taken, not_taken]


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.value)
def test_catalogue_a3_a6_32_bit_comparisons_say_nothing_of_the_upper_half(op: JmpOp) -> None:
    for number in (0, 1, 7, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF):
        for arm, jumps in zip(branch(op, 32, _UNKNOWN, Scalar.const(number)), (True, False)):
            for low in (0, 1, 6, 7, 8, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFE, 0xFFFF_FFFF):
                if CONCRETE_JMP[op](low, number, 32) is jumps:
                    assert arm is not None
                    for high in (0, 1, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF):
                        assert contains(arm[0], high << 32 | low), (op, number, arm[0])


def test_catalogue_a19_both_sides_are_refined_separately() -> None:
    pair, _ = branch(JmpOp.JLT, 64, Scalar.range(10, 100), Scalar.range(0, 50))
    assert pair is not None
    a, b = pair
    assert (a.umin, a.umax, b.umin, b.umax) == (10, 49, 11, 50)


def test_two_operands_with_the_same_object_are_two_words() -> None:
    """Equal knowledge is not equality: both arms of `unknown == unknown` are possible."""
    for op in JmpOp:
        taken, not_taken = branch(op, 64, _UNKNOWN, _UNKNOWN)
        assert taken is not None
        assert not_taken is not None


def test_nothing_learnt_gives_the_operands_back() -> None:
    bound = Scalar.const(U64)
    taken, _ = branch(JmpOp.JLE, 64, _BYTE, bound)
    assert taken is not None
    assert taken[0] is _BYTE
    assert taken[1] is bound
    assert is_subsumed_by(taken[0], _BYTE)

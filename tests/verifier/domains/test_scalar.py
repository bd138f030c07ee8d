"""Scalars: five views in step, and the order between Scalars."""

from __future__ import annotations

import random
from typing import Any

import pytest

from pybpfvm.bits import U64, s32, s64
from pybpfvm.verifier.domains.scalar import (
    Scalar,
    contains,
    is_subsumed_by,
    join,
    load_result,
    meet,
    remembering,
    sharpened,
    sync,
    truncate,
)
from tests.verifier.domains.gamma import all_scalars, bit_set, gamma, sampled, scalar_pairs, tnums
from tests.verifier.domains.world import World, world

BITS = 4
FULL = (1 << BITS) - 1
LOW = (1 << BITS // 2) - 1


def _signed(n: int, bits: int) -> int:
    sign = 1 << (bits - 1)
    return ((n & (2 * sign - 1)) ^ sign) - sign


def _range_set(low: int, high: int, read: Any) -> int:
    return bit_set(n for n in range(FULL + 1) if low <= read(n) <= high)


_READ = (
    lambda n: _signed(n, BITS),
    lambda n: n,
    lambda n: _signed(n, BITS // 2),
    lambda n: n & LOW,
)
_ENDS = (
    (-(FULL >> 1) - 1, FULL >> 1),
    (0, FULL),
    (-(LOW >> 1) - 1, LOW >> 1),
    (0, LOW),
)


def _random_views(choose: random.Random) -> tuple[list[int], int]:
    """Ten numbers that need not agree, and the set of words that all of them allow."""
    value, mask = choose.choice(tnums(BITS))
    views = [value, mask]
    allowed = bit_set(n for n in range(FULL + 1) if not (n ^ value) & ~mask)
    for read, (least, most) in zip(_READ, _ENDS):
        if choose.random() < 0.4:
            low, high = least, most
        else:
            low, high = sorted((choose.randint(least, most), choose.randint(least, most)))
        views += [low, high]
        allowed &= _range_set(low, high, read)
    return views, allowed


def _check_step(w: World, scalar: Any) -> None:
    """The views of a Scalar that is in step say nothing that the others could still narrow."""
    assert w.scalar.sync(*scalar.key()) == scalar, f"not in step: {scalar}"
    assert scalar.value & scalar.mask == 0
    assert (scalar.mask == 0) == (scalar.umin == scalar.umax)


@pytest.mark.parametrize("seed", range(4))
def test_sync_keeps_exactly_the_members_of_all_views(seed: int) -> None:
    w = world(BITS)
    choose = random.Random(seed)
    empty = 0
    for _ in range(2500):
        views, allowed = _random_views(choose)
        scalar = w.scalar.sync(*views)
        if scalar is None:
            empty += 1
            assert not allowed, f"seed {seed}: {views} has members {allowed:b}"
            continue
        assert gamma(w, scalar) == allowed, f"seed {seed}: {views} became {scalar}"
        _check_step(w, scalar)
        for view, narrowed in zip(views[2::2], scalar.key()[2::2]):
            assert narrowed >= view
        for view, narrowed in zip(views[3::2], scalar.key()[3::2]):
            assert narrowed <= view
    assert empty > 100, "the sample never tried views without common members"


def test_sync_sees_most_empty_combinations() -> None:
    """A miss is sound, but a dead branch then looks alive: the share of misses must not grow."""
    w = world(BITS)
    choose = random.Random(1)
    seen = missed = 0
    for _ in range(10_000):
        views, allowed = _random_views(choose)
        if not allowed:
            seen += 1
            missed += w.scalar.sync(*views) is not None
    assert missed <= seen * 0.02, f"{missed} of {seen} empty combinations looked non-empty"


def test_every_small_scalar_is_in_step_and_exact_at_its_ends() -> None:
    w = world(BITS)
    for scalar, numbers in all_scalars(BITS):
        _check_step(w, scalar)
        some = [n for n in range(FULL + 1) if numbers >> n & 1]
        for (low, high), read in zip(
            (
                (scalar.smin, scalar.smax),
                (scalar.umin, scalar.umax),
                (scalar.s32min, scalar.s32max),
                (scalar.u32min, scalar.u32max),
            ),
            _READ,
        ):
            assert low <= min(map(read, some))
            assert high >= max(map(read, some))


@pytest.mark.parametrize(("bits", "count"), [(2, 10_000), (4, 20_000)])
def test_subsumption_is_inclusion(bits: int, count: int) -> None:
    """Both ways: a Scalar within another is subsumed, so pruning misses nothing it could see."""
    w = world(bits)
    held = 0
    for a, a_numbers, b, b_numbers in scalar_pairs(bits, count, seed=7):
        within = not a_numbers & ~b_numbers
        assert w.scalar.is_subsumed_by(a, b) == within, (a, b)
        held += within
    assert held > 10


@pytest.mark.parametrize(("bits", "count"), [(2, 10_000), (4, 10_000)])
def test_join_is_above_both_and_meet_holds_what_both_hold(bits: int, count: int) -> None:
    w = world(bits)
    for a, a_numbers, b, b_numbers in scalar_pairs(bits, count, seed=8):
        joined = w.scalar.join(a, b)
        assert w.scalar.is_subsumed_by(a, joined), (a, b, joined)
        assert w.scalar.is_subsumed_by(b, joined), (a, b, joined)
        _check_step(w, joined)
        common = w.scalar.meet(a, b)
        numbers = a_numbers & b_numbers
        if common is None:
            assert not numbers, (a, b)
        else:
            assert gamma(w, common) == numbers, (a, b, common)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("signed", [False, True])
def test_low_field_of_every_small_scalar(bits: int, signed: bool) -> None:
    w = world(BITS)
    for scalar, numbers in all_scalars(BITS):
        got = w.scalar.low_field(scalar, bits, signed=signed)
        some = [n & ((1 << bits) - 1) for n in range(FULL + 1) if numbers >> n & 1]
        expected = bit_set((_signed(n, bits) if signed else n) & FULL for n in some)
        assert not expected & ~gamma(w, got), (scalar, got)
        _check_step(w, got)


@pytest.mark.parametrize("seed", range(3))
def test_large_scalars_sampled(seed: int) -> None:
    w = world(64)
    choose = random.Random(seed)
    for _ in range(200):
        a, some = sampled(choose, w)
        b, more = sampled(choose, w)
        _check_step(w, a)
        joined, common = join(a, b), meet(a, b)
        for number in some + more:
            assert contains(joined, number), (seed, a, b)
        for number in some:
            if contains(b, number):
                assert common is not None, (seed, a, b)
                assert contains(common, number), (seed, a, b)
        if is_subsumed_by(a, b):
            assert all(contains(b, number) for number in some), (seed, a, b)
        for size_bytes in (1, 2, 4, 8):
            for signed in (False, True):
                got = truncate(a, size_bytes, signed)
                field = (1 << size_bytes * 8) - 1
                for number in some:
                    word = number & field
                    if signed:
                        word = _signed(word, size_bytes * 8)
                    assert contains(got, word), (seed, size_bytes, signed, a)
                assert is_subsumed_by(got, load_result(size_bytes, signed))


@pytest.mark.parametrize("number", [0, 1, -1, 1 << 31, 1 << 32, (1 << 63) - 1, 1 << 63, U64])
def test_constants(number: int) -> None:
    scalar = Scalar.const(number)
    assert scalar.is_const
    assert scalar.const_value == number & U64
    assert (scalar.umin, scalar.umax) == (number & U64, number & U64)
    assert (scalar.smin, scalar.s32max) == (s64(number), s32(number))
    assert contains(scalar, number)
    assert not contains(scalar, number + 1)
    assert sync(*scalar.key()) == scalar


def test_unknown_is_one_object() -> None:
    """Fast paths recognise it by identity."""
    unknown = Scalar.UNKNOWN
    assert sync(*unknown.key()) is unknown
    assert load_result(8, False) is unknown
    assert load_result(8, True) is unknown
    assert join(Scalar.const(0), unknown) is unknown
    assert not unknown.is_const


@pytest.mark.parametrize("size_bytes", [1, 2, 4])
def test_loads_say_how_they_were_extended(size_bytes: int) -> None:
    """A sign-extending load must not have the range of a zero-extending one (catalogue B)."""
    top = (1 << size_bytes * 8) - 1
    plain, signed = load_result(size_bytes, False), load_result(size_bytes, True)
    assert (plain.umin, plain.umax, plain.mask) == (0, top, top)
    assert (signed.smin, signed.smax) == (-(top >> 1) - 1, top >> 1)
    assert contains(signed, -1)
    assert not contains(plain, -1)


def test_range_has_its_ends_in_every_view() -> None:
    scalar = Scalar.range(16, 31)
    assert scalar.key() == (16, 15, 16, 31, 16, 31, 16, 31, 16, 31)
    assert Scalar.range(5, 5) == Scalar.const(5)


@pytest.mark.parametrize(
    ("views", "expected"),
    [
        # Across the sign: unsigned says "not the middle", signed says "not the ends".
        ({"smin": -3, "smax": 10, "umax": 20}, {"smin": 0, "umax": 10}),
        ({"smin": -3, "smax": 10, "umin": 50}, {"smax": -1, "umin": U64 - 2}),
        # A short signed range around 0 is one around 0 in the low half.
        ({"smin": -3, "smax": 10}, {"s32min": -3, "s32max": 10, "umax": U64}),
        # The low half moves the ends of the word.
        ({"umin": 1 << 32, "umax": (2 << 32) - 1, "u32min": 7}, {"umin": (1 << 32) + 7}),
        ({"smin": -128, "smax": 127, "s32min": 5, "s32max": 9}, {"smin": 5, "umax": 9}),
        # Kernels look no further than within the half, nor at negative halves of short words.
        ({"umin": (1 << 32) + 9, "u32max": 7}, {"umin": (1 << 32) + 9}),
        ({"smin": -128, "smax": 127, "s32min": -16}, {"smin": -128}),
        # 32-bit knowledge alone says nothing of the upper half (catalogue A 3).
        ({"u32max": 7}, {"umin": 0, "umax": U64 - (1 << 32) + 8, "value": 0}),
    ],
)
def test_views_narrow_one_another(views: dict[str, int], expected: dict[str, int]) -> None:
    scalar = _synced(views)
    assert {name: getattr(scalar, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("views", "expected"),
    [
        ({"umin": (1 << 32) + 9, "u32max": 7}, {"umin": 2 << 32}),
        ({"umax": (2 << 32) + 3, "u32min": 7}, {"umax": (2 << 32) - 1}),
        ({"smin": -128, "smax": 127, "s32min": -16}, {"smin": -16, "smax": 127}),
        ({"umin": 5, "umax": 9}, {"umin": 5, "umax": 9}),
    ],
)
def test_sharpened_looks_further(views: dict[str, int], expected: dict[str, int]) -> None:
    scalar = sharpened(_synced(views))
    assert scalar is not None
    assert {name: getattr(scalar, name) for name in expected} == expected
    assert sharpened(scalar) is scalar


def test_sharpened_tells_that_nothing_is_left() -> None:
    assert sharpened(_synced({"umin": 9 << 32 | 9, "umax": 11 << 32 | 2, "u32min": 5})) is not None
    views = {"umin": 9 << 32 | 9, "umax": 10 << 32 | 2, "u32min": 5, "u32max": 8}
    assert sharpened(_synced(views)) is None


def _synced(views: dict[str, int]) -> Scalar:
    unknown = Scalar.UNKNOWN
    names = [
        "value",
        "mask",
        "smin",
        "smax",
        "umin",
        "umax",
        "s32min",
        "s32max",
        "u32min",
        "u32max",
    ]
    scalar = sync(*(views.get(name, getattr(unknown, name)) for name in names))
    assert scalar is not None
    return scalar


def test_what_remembers_gives_what_it_would_without() -> None:
    """By turns the same operands, equal ones and others, each on either side."""
    asked: list[tuple[Scalar, Scalar]] = []

    def plain(a: Scalar, b: Scalar) -> Scalar | None:
        asked.append((a, b))
        return meet(a, b)

    remembered = remembering(plain)
    low, high, twin = Scalar.range(0, 7), Scalar.range(4, 20), Scalar.range(0, 7)
    pairs = [(low, high), (low, high), (high, low), (twin, high), (twin, low), (twin, low)]
    assert [remembered(*pair) for pair in pairs] == [meet(*pair) for pair in pairs]
    assert asked == [pairs[0], *pairs[2:5]]

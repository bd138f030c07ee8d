"""Sets of words as bit sets, and all the Scalars of a small world with the sets they stand for."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from tests.verifier.domains.world import World, world


def bit_set(numbers: Iterator[int]) -> int:
    found = 0
    for number in numbers:
        found |= 1 << number
    return found


def members(found: int) -> Iterator[int]:
    while found:
        yield (found & -found).bit_length() - 1
        found &= found - 1


def gamma(w: World, scalar: Any) -> int:
    """The set of words that a Scalar of a small world stands for."""
    return bit_set(n for n in range(1 << w.bits) if w.scalar.contains(scalar, n))


def tnums(bits: int) -> list[tuple[int, int]]:
    full = 1 << bits
    return [(v, m) for m in range(full) for v in range(full) if not v & m]


@cache
def all_scalars(bits: int) -> list[tuple[Any, int]]:
    """Every Scalar that is a join of constants, with its set, in a fixed order."""
    w = world(bits)
    constants = [w.scalar.Scalar.const(n) for n in range(1 << bits)]
    known = dict.fromkeys(constants)
    fresh = constants
    while fresh:
        found = []
        for scalar in fresh:
            for constant in constants:
                joined = w.scalar.join(scalar, constant)
                if joined not in known:
                    known[joined] = None
                    found.append(joined)
        fresh = found
    return [(scalar, gamma(w, scalar)) for scalar in known]


def scalar_pairs(bits: int, count: int, seed: int) -> Iterator[tuple[Any, int, Any, int]]:
    """All pairs of Scalars with their sets if there are at most `count`, else a sample."""
    scalars = all_scalars(bits)
    if len(scalars) ** 2 <= count:
        yield from ((*a, *b) for a in scalars for b in scalars)
        return
    choose = random.Random(seed)
    for _ in range(count):
        yield (*choose.choice(scalars), *choose.choice(scalars))


def image(rows: list[list[int]], a: int, b: int) -> int:
    """The set of rows[x][y] over x in a, y in b."""
    return bit_set(rows[x][y] for x in members(a) for y in members(b))


def table(bits: int, function: Callable[[int, int], int]) -> list[list[int]]:
    return [[function(x, y) for y in range(1 << bits)] for x in range(1 << bits)]


def interesting_number(choose: random.Random, bits: int) -> int:
    """A word: uniform, short, negative and short, or next to a power of two."""
    full = (1 << bits) - 1
    kind = choose.randrange(4)
    if kind == 0:
        return choose.getrandbits(bits)
    if kind == 1:
        return choose.getrandbits(choose.randint(1, bits))
    if kind == 2:
        return -choose.getrandbits(choose.randint(1, bits)) & full
    return ((1 << choose.randrange(bits)) + choose.randint(-2, 2)) & full


def sampled(choose: random.Random, w: World) -> tuple[Any, list[int]]:
    """A Scalar and some of its members: a few numbers, near one another or not, joined."""
    number = interesting_number(choose, w.bits)
    some = [number]
    if choose.random() < 0.5:
        some += [(number + choose.randint(-9, 9)) & w.full for _ in range(2)]
    else:
        some += [interesting_number(choose, w.bits) for _ in range(choose.randint(0, 2))]
    scalar = w.scalar.Scalar.const(number)
    for other in some[1:]:
        scalar = w.scalar.join(scalar, w.scalar.Scalar.const(other))
    # Ends of its ranges may be members too, and are where mistakes show.
    ends = (scalar.umin, scalar.umax, scalar.smin & w.full, scalar.smax & w.full)
    some += [end for end in ends if w.scalar.contains(scalar, end)]
    return scalar, some

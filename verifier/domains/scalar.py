"""The abstract scalar: a tnum and four ranges that say all they know of one another.

A word v is a member if it is in the tnum, in [umin, umax], in [smin, smax] read as signed, and its
low half is in [u32min, u32max] and, read as signed, in [s32min, s32max]. Five views, because no
one of them can say what the others say. `sync` brings them into step; every Scalar comes from it
or from a constructor whose result needs no syncing, so nobody has to remember to call it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pybpfvm.verifier.domains import tnum
from pybpfvm.verifier.domains.interval import low_bits
from pybpfvm.verifier.domains.word import (
    BITS,
    LOW_BITS,
    S32_MAX,
    S32_MIN,
    S64_MAX,
    S64_MIN,
    SIGN32,
    SIGN64,
    SPAN32,
    SPAN64,
    U32,
    U64,
)

_T = TypeVar("_T")


class Scalar:
    """What is known of a 64-bit register that holds a number. Never changed once built.

    A plain class with slots rather than a frozen dataclass: one is built for most instructions.
    The constructor takes views that are in step already; everybody else calls `sync`.
    """

    __slots__ = (
        "mask",
        "s32max",
        "s32min",
        "smax",
        "smin",
        "u32max",
        "u32min",
        "umax",
        "umin",
        "value",
    )

    UNKNOWN: Scalar

    def __init__(
        self,
        value: int,
        mask: int,
        smin: int,
        smax: int,
        umin: int,
        umax: int,
        s32min: int,
        s32max: int,
        u32min: int,
        u32max: int,
    ) -> None:
        self.value = value
        self.mask = mask
        self.smin = smin
        self.smax = smax
        self.umin = umin
        self.umax = umax
        self.s32min = s32min
        self.s32max = s32max
        self.u32min = u32min
        self.u32max = u32max

    @staticmethod
    def const(number: int) -> Scalar:
        """Exactly `number`, taken modulo 2**64."""
        value = number & U64
        if value <= S32_MAX:
            return Scalar(value, 0, value, value, value, value, value, value, value, value)
        signed = value if value <= S64_MAX else value - SPAN64
        low = value & U32
        low_signed = low if low <= S32_MAX else low - SPAN32
        return Scalar(value, 0, signed, signed, value, value, low_signed, low_signed, low, low)

    @staticmethod
    def range(umin: int, umax: int) -> Scalar:
        """The unsigned numbers from `umin` to `umax`, both included; 0 <= umin <= umax < 2**64."""
        assert 0 <= umin <= umax <= U64, f"empty range [{umin}, {umax}]"
        scalar = sync(0, U64, S64_MIN, S64_MAX, umin, umax, S32_MIN, S32_MAX, 0, U32)
        assert scalar is not None
        return scalar

    @property
    def is_const(self) -> bool:
        """Whether there is one member only."""
        return not self.mask

    @property
    def const_value(self) -> int:
        """The one member, unsigned. Meaningful if `is_const`."""
        return self.value

    def key(self) -> tuple[int, ...]:
        """All ten numbers, for comparing and hashing."""
        return (
            self.value,
            self.mask,
            self.smin,
            self.smax,
            self.umin,
            self.umax,
            self.s32min,
            self.s32max,
            self.u32min,
            self.u32max,
        )

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Scalar) and self.key() == other.key())

    def __hash__(self) -> int:
        return hash(self.key())

    def __repr__(self) -> str:
        if not self.mask:
            return f"Scalar({self.value:#x})"
        return (
            f"Scalar(var_off=({self.value:#x}; {self.mask:#x}), "
            f"smin={self.smin}, smax={self.smax}, umin={self.umin}, umax={self.umax}, "
            f"s32min={self.s32min}, s32max={self.s32max}, "
            f"u32min={self.u32min}, u32max={self.u32max})"
        )


Scalar.UNKNOWN = Scalar(0, U64, S64_MIN, S64_MAX, 0, U64, S32_MIN, S32_MAX, 0, U32)

# Each round narrows at least one view; four are enough for nearly all, and stopping early is sound.
_ROUNDS = 8


def sync(
    value: int,
    mask: int,
    smin: int,
    smax: int,
    umin: int,
    umax: int,
    s32min: int,
    s32max: int,
    u32min: int,
    u32max: int,
) -> Scalar | None:
    """The Scalar with the members of all five views, each narrowed by the others.

    None if the views visibly have no member in common. They may have none without that being
    seen: a Scalar promises to hold every member, not to have one.
    """
    if umax > value | mask:
        umax = value | mask
    if umax <= U32:
        # Zero-extended: all readings but the signed one of the low half are one range.
        if smax < umax:
            umax = smax
        if u32max < umax:
            umax = u32max
        if smin > umin:
            umin = smin
        if u32min > umin:
            umin = u32min
        if umax > S32_MAX:
            return _sync_zero_extended(value, mask, umin, umax, s32min, s32max)
        return sync_small(
            value,
            mask,
            s32min if s32min > umin else umin,
            s32max if s32max < umax else umax,
        )
    low_views: tuple[int, int, int, int] | None = None
    for _ in range(_ROUNDS):
        # The tnum's least and greatest members, unsigned and signed.
        top = value | mask
        if umin < value:
            umin = value
        if umax > top:
            umax = top
        if mask & SIGN64:
            if smin < value - SIGN64:
                smin = value - SIGN64
            if smax > top & S64_MAX:
                smax = top & S64_MAX
        if smin != umin or smax != umax:
            views = _cross(smin, smax, umin, umax, SIGN64, SPAN64)
            if views is None:
                return None
            smin, smax, umin, umax = views
        elif umin > umax:
            return None

        # The low half, from the narrower of the 64-bit ranges and from the tnum.
        if smax - smin <= U32:
            low_views = low_bits(smin, smax, U32)
        elif umax - umin <= U32:
            low_views = low_bits(umin, umax, U32)
        else:
            low_views = None
        low_value, low_mask = value & U32, mask & U32
        if low_views is not None:
            low_smin, low_smax, low_umin, low_umax = low_views
            if s32min < low_smin:
                s32min = low_smin
            if s32max > low_smax:
                s32max = low_smax
            if u32min < low_umin:
                u32min = low_umin
            if u32max > low_umax:
                u32max = low_umax
        moved = False
        if low_mask != U32 or u32min or u32max != U32 or s32min != S32_MIN or s32max != S32_MAX:
            low_top = low_value | low_mask
            if u32min < low_value:
                u32min = low_value
            if u32max > low_top:
                u32max = low_top
            if low_mask & SIGN32:
                if s32min < low_value - SIGN32:
                    s32min = low_value - SIGN32
                if s32max > low_top & S32_MAX:
                    s32max = low_top & S32_MAX
            views = _cross(s32min, s32max, u32min, u32max, SIGN32, SPAN32)
            if views is None:
                return None
            s32min, s32max, u32min, u32max = views
            inner = _with_low(smin, smax, umin, umax, s32min, s32max, u32min, u32max)
            moved = inner != (smin, smax, umin, umax)
            smin, smax, umin, umax = inner
            if umin > umax or smin > smax:
                return None

        # The tnum, from the leading bits that the ends of a range share.
        free = (1 << (umin ^ umax).bit_length()) - 1
        low_free = (1 << (u32min ^ u32max).bit_length()) - 1
        if (value ^ umin) & ~(mask | free) or (low_value ^ u32min) & ~(low_mask | low_free):
            return None
        fixed = ~free | (U32 & ~low_free)
        if mask & fixed:
            value |= ((umin & ~free) | (u32min & ~low_free)) & mask
            mask &= ~fixed
            moved = True
        if not moved:
            break
    if not mask:
        return Scalar.const(value)
    if mask == U64:
        # One object for "unknown", which fast paths recognise.
        widths = (umax - umin, smax - smin, u32max - u32min, s32max - s32min)
        if widths == (U64, U64, U32, U32):
            return Scalar.UNKNOWN
    return Scalar(value, mask, smin, smax, umin, umax, s32min, s32max, u32min, u32max)


def sync_small(value: int, mask: int, low: int, high: int) -> Scalar | None:
    """`sync` of words known to lie in [low, high], at most S32_MAX: all four readings agree."""
    while True:
        if low < value:
            low = value
        if high > value | mask:
            high = value | mask
        if low > high:
            return None
        free = (1 << (low ^ high).bit_length()) - 1
        if (value ^ low) & ~(mask | free):
            return None
        if not mask & ~free:
            return Scalar(value, mask, low, high, low, high, low, high, low, high)
        value |= low & mask & ~free
        mask &= free


def _sync_zero_extended(
    value: int, mask: int, low: int, high: int, s32min: int, s32max: int
) -> Scalar | None:
    """`sync` of words from `low` to `high`, at most U32, whose low half is in [s32min, s32max]."""
    while True:
        top = value | mask
        if low < value:
            low = value
        if high > top:
            high = top
        if mask & SIGN32:
            if s32min < value - SIGN32:
                s32min = value - SIGN32
            if s32max > top & S32_MAX:
                s32max = top & S32_MAX
        views = _cross(s32min, s32max, low, high, SIGN32, SPAN32)
        if views is None:
            return None
        s32min, s32max, low, high = views
        free = (1 << (low ^ high).bit_length()) - 1
        if (value ^ low) & ~(mask | free):
            return None
        if not mask & ~free:
            return Scalar(value, mask, low, high, low, high, s32min, s32max, low, high)
        value |= low & mask & ~free
        mask &= free


def _with_low(
    smin: int, smax: int, umin: int, umax: int, s32min: int, s32max: int, u32min: int, u32max: int
) -> tuple[int, int, int, int]:
    """The 64-bit ranges with their ends moved inwards to words that have such a low half.

    Kernels look for those no further than the upper half stays the same, and nowhere for negative
    ones; `sharpened` does.
    """
    if u32min:
        if umin & U32 < u32min:
            umin = (umin & ~U32) | u32min
        if smin & U32 < u32min:
            smin = (smin & ~U32) | u32min
    if u32max != U32:
        if umax & U32 > u32max:
            umax = (umax & ~U32) | u32max
        if smax & U32 > u32max:
            smax = (smax & ~U32) | u32max
    if s32min >= 0 and smin >= S32_MIN and smax <= S32_MAX:
        # Then the word is its low half.
        if smin < s32min:
            smin = s32min
        if smax > s32max:
            smax = s32max
    return smin, smax, umin, umax


def _cross(
    smin: int, smax: int, umin: int, umax: int, sign: int, span: int
) -> tuple[int, int, int, int] | None:
    """A signed and an unsigned range of one word, both cut down to what they have in common.

    On the non-negative words and on the negative ones alike, the two readings have the same
    order, so on each half the common words are one interval.
    """
    low = smin if smin > umin else umin
    high = smax if smax < umax else umax
    if high >= sign:
        high = sign - 1
    if smin >= 0:
        return (low, high, low, high) if low <= high else None
    if low < 0:
        low = 0
    neg_low = smin + span
    if neg_low < umin:
        neg_low = umin
    if neg_low < sign:
        neg_low = sign
    neg_high = smax + span
    if neg_high > umax:
        neg_high = umax
    if neg_high >= span:
        neg_high = span - 1
    if neg_low > neg_high:
        return (low, high, low, high) if low <= high else None
    if low > high:
        return neg_low - span, neg_high - span, neg_low, neg_high
    return neg_low - span, high, low, neg_high


def sharpened(a: Scalar) -> Scalar | None:
    """`a` with all that its low half says of the ends of its 64-bit ranges; `a` itself if that is
    nothing new, None if it visibly has no member."""
    found: Scalar | None = a
    while found is not None:
        ends = _all_with_low(*found.key()[2:])
        if ends == (found.smin, found.smax, found.umin, found.umax):
            break
        found = sync(found.value, found.mask, *ends, *found.key()[6:])
    return found


def _all_with_low(
    smin: int, smax: int, umin: int, umax: int, s32min: int, s32max: int, u32min: int, u32max: int
) -> tuple[int, int, int, int]:
    """`_with_low`, wherever the next word with such a low half is."""
    if u32min or u32max != U32:
        umin = _next_with_low(umin, u32min, u32max)
        umax = _last_with_low(umax, u32min, u32max)
        smin = _next_with_low(smin, u32min, u32max)
        smax = _last_with_low(smax, u32min, u32max)
    if smin >= S32_MIN and smax <= S32_MAX:
        # Then the word is its low half, sign-extended.
        if smin < s32min:
            smin = s32min
        if smax > s32max:
            smax = s32max
    return smin, smax, umin, umax


def _next_with_low(word: int, low: int, high: int) -> int:
    """The least number not below `word` whose low half is in [low, high]."""
    half = word & U32
    if half < low:
        return word - half + low
    if half > high:
        return word - half + SPAN32 + low
    return word


def _last_with_low(word: int, low: int, high: int) -> int:
    """The greatest number not above `word` whose low half is in [low, high]."""
    half = word & U32
    if half > high:
        return word - half + high
    if half < low:
        return word - half - SPAN32 + high
    return word


def remembering(function: Callable[[Scalar, Scalar], _T]) -> Callable[[Scalar, Scalar], _T]:
    """`function`, of which nothing but its operands decides the result, with the last answer kept:
    one instruction meets the same two objects again and again."""
    last: tuple[Scalar, Scalar] | None = None
    answer: _T

    def remembered(a: Scalar, b: Scalar) -> _T:
        nonlocal last, answer
        if last is None or a is not last[0] or b is not last[1]:
            answer = function(a, b)
            last = a, b
        return answer

    return remembered


def meet(a: Scalar, b: Scalar) -> Scalar | None:
    """The members of both; None if there visibly is none."""
    bits = tnum.intersect(a.value, a.mask, b.value, b.mask)
    if bits is None:
        return None
    return sync(
        *bits,
        max(a.smin, b.smin),
        min(a.smax, b.smax),
        max(a.umin, b.umin),
        min(a.umax, b.umax),
        max(a.s32min, b.s32min),
        min(a.s32max, b.s32max),
        max(a.u32min, b.u32min),
        min(a.u32max, b.u32max),
    )


def join(a: Scalar, b: Scalar) -> Scalar:
    """A Scalar with the members of both (and, usually, others)."""
    if a is b:
        return a
    joined = sync(
        *tnum.union(a.value, a.mask, b.value, b.mask),
        min(a.smin, b.smin),
        max(a.smax, b.smax),
        min(a.umin, b.umin),
        max(a.umax, b.umax),
        min(a.s32min, b.s32min),
        max(a.s32max, b.s32max),
        min(a.u32min, b.u32min),
        max(a.u32max, b.u32max),
    )
    return joined or Scalar.UNKNOWN


def is_subsumed_by(a: Scalar, b: Scalar) -> bool:
    """Whether each view of `a` lies within that of `b`: then so does every member."""
    return a is b or (
        b.umin <= a.umin
        and a.umax <= b.umax
        and b.smin <= a.smin
        and a.smax <= b.smax
        and b.u32min <= a.u32min
        and a.u32max <= b.u32max
        and b.s32min <= a.s32min
        and a.s32max <= b.s32max
        and not a.mask & ~b.mask
        and not (a.value ^ b.value) & ~b.mask
    )


def contains(a: Scalar, number: int) -> bool:
    """Whether `number`, taken modulo 2**64, is a member."""
    word = number & U64
    low = word & U32
    return (
        not (a.value ^ word) & ~a.mask
        and a.umin <= word <= a.umax
        and a.smin <= (word ^ SIGN64) - SIGN64 <= a.smax
        and a.u32min <= low <= a.u32max
        and a.s32min <= (low ^ SIGN32) - SIGN32 <= a.s32max
    )


def low_field(a: Scalar, bits: int, *, signed: bool) -> Scalar:
    """The low `bits` bits of `a`, zero- or sign-extended to 64."""
    if bits == BITS:
        return a
    field = (1 << bits) - 1
    if not a.mask:
        word = a.value & field
        sign = field ^ (field >> 1)
        return Scalar.const((word ^ sign) - sign if signed else word)
    if bits == LOW_BITS:
        if signed:
            value, mask = tnum.sign_extend(a.value, a.mask, field, U64)
            smin, smax, umin, umax = a.s32min, a.s32max, 0, U64
        else:
            value, mask = a.value & field, a.mask & field
            smin, smax, umin, umax = S64_MIN, S64_MAX, a.u32min, a.u32max
        low = (a.s32min, a.s32max, a.u32min, a.u32max)
        return sync(value, mask, smin, smax, umin, umax, *low) or unknown_field(bits, signed)
    # Any range that holds the field's bits will do; the narrowest goes round the circle least.
    ends = (a.smin, a.smax) if a.smax - a.smin < a.umax - a.umin else (a.umin, a.umax)
    if bits < LOW_BITS:
        if a.s32max - a.s32min < ends[1] - ends[0]:
            ends = a.s32min, a.s32max
        if a.u32max - a.u32min < ends[1] - ends[0]:
            ends = a.u32min, a.u32max
    smin, smax, umin, umax = low_bits(*ends, field)
    if signed:
        value, mask = tnum.sign_extend(a.value, a.mask, field, U64)
        umin, umax = 0, U64
    else:
        value, mask = a.value & field, a.mask & field
        smin, smax = S64_MIN, S64_MAX
    narrowed = sync(value, mask, smin, smax, umin, umax, S32_MIN, S32_MAX, 0, U32)
    return narrowed or unknown_field(bits, signed)


def truncate(a: Scalar, size_bytes: int, signed: bool) -> Scalar:
    """The low `size_bytes` bytes (1, 2, 4 or 8) of `a`, zero- or sign-extended to 64 bits."""
    return low_field(a, size_bytes * 8, signed=signed)


def unknown_field(bits: int, signed: bool) -> Scalar:
    """Any `bits` bits, zero- or sign-extended to 64."""
    field = (1 << bits) - 1
    half = field >> 1
    if signed:
        found = sync(0, U64, -half - 1, half, 0, U64, S32_MIN, S32_MAX, 0, U32)
    else:
        found = sync(0, field, S64_MIN, S64_MAX, 0, field, S32_MIN, S32_MAX, 0, U32)
    assert found is not None
    return found


_LOADED = {
    (size_bytes, signed): unknown_field(min(size_bytes * 8, BITS), signed)
    for size_bytes in (1, 2, 4, 8)
    for signed in (False, True)
}
UNKNOWN32 = unknown_field(LOW_BITS, False)


def load_result(size_bytes: int, signed: bool) -> Scalar:
    """What a load of `size_bytes` (1, 2, 4 or 8) unknown bytes gives, zero- or sign-extended."""
    return _LOADED[size_bytes, signed]

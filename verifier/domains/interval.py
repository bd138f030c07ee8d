"""Interval arithmetic on machine words: what each operation does to the ends of ranges.

A word is known to lie in a signed and in an unsigned interval, both closed: (smin, smax, umin,
umax). Functions take two such quadruples and `full`, the word's mask of ones, and give one.
Where results may wrap at some members and not at others, the answer is the whole range; where
all wrap alike, they keep their order. Combining the two views of one word is `scalar.sync`'s.
"""

from __future__ import annotations

Interval = tuple[int, int, int, int]


def everything(full: int) -> Interval:
    """What is known of a word of which nothing is."""
    half = full >> 1
    return -half - 1, half, 0, full


def _unsigned(low: int, high: int, full: int) -> tuple[int, int]:
    """[low, high], or its image modulo the word if that is one piece, or everything."""
    if low >= 0 and high <= full:
        return low, high
    if low // (full + 1) == high // (full + 1):
        return low & full, high & full
    return 0, full


def _signed(low: int, high: int, full: int) -> tuple[int, int]:
    half = full >> 1
    if -half - 1 <= low and high <= half:
        return low, high
    span = full + 1
    turns = (low + half + 1) // span
    if turns == (high + half + 1) // span:
        return low - turns * span, high - turns * span
    return -half - 1, half


def add(a: Interval, b: Interval, full: int) -> Interval:
    """Sums."""
    asmin, asmax, aumin, aumax = a
    bsmin, bsmax, bumin, bumax = b
    return (
        *_signed(asmin + bsmin, asmax + bsmax, full),
        *_unsigned(aumin + bumin, aumax + bumax, full),
    )


def sub(a: Interval, b: Interval, full: int) -> Interval:
    """Differences a - b."""
    asmin, asmax, aumin, aumax = a
    bsmin, bsmax, bumin, bumax = b
    return (
        *_signed(asmin - bsmax, asmax - bsmin, full),
        *_unsigned(aumin - bumax, aumax - bumin, full),
    )


def mul(a: Interval, b: Interval, full: int) -> Interval:
    """A product is monotone in each factor while the other is fixed: extremes are at corners."""
    asmin, asmax, aumin, aumax = a
    bsmin, bsmax, bumin, bumax = b
    corners = (asmin * bsmin, asmin * bsmax, asmax * bsmin, asmax * bsmax)
    return (
        *_signed(min(corners), max(corners), full),
        *_unsigned(aumin * bumin, aumax * bumax, full),
    )


def and_(a: Interval, b: Interval, full: int) -> Interval:
    """Clearing bits never makes an unsigned number larger; the lower end is the tnum's affair.

    Signed, the result is negative only if both are, and then keeps their common leading ones.
    """
    asmin, asmax, _, aumax = a
    bsmin, bsmax, _, bumax = b
    if asmin >= 0 or bsmin >= 0:
        low = 0
        high = min(asmax if asmin >= 0 else bsmax, bsmax if bsmin >= 0 else asmax)
    else:
        low = -1 << (~min(asmin, bsmin)).bit_length()
        high = max(asmax, bsmax)
    return low, high, 0, aumax if aumax < bumax else bumax


def mul_unless_wraps(a: Interval, b: Interval, full: int) -> Interval:
    """What kernels follow of `mul`: a range that may wrap is lost, even where all wraps alike."""
    asmin, asmax, aumin, aumax = a
    bsmin, bsmax, bumin, bumax = b
    smin, smax, umin, umax = everything(full)
    corners = (asmin * bsmin, asmin * bsmax, asmax * bsmin, asmax * bsmax)
    if smin <= min(corners) and max(corners) <= smax:
        smin, smax = min(corners), max(corners)
    if aumax * bumax <= full:
        umin, umax = aumin * bumin, aumax * bumax
    return smin, smax, umin, umax


def and_unsigned(a: Interval, b: Interval, full: int) -> Interval:
    """What kernels follow of `and_`: of the sign what the unsigned range tells, as in `or_`."""
    half = full >> 1
    return -half - 1, half, 0, a[3] if a[3] < b[3] else b[3]


def or_(a: Interval, b: Interval, full: int) -> Interval:
    """Setting bits never makes an unsigned number smaller, nor adds one above both top bits.

    Of the sign kernels follow what the unsigned range tells, here as in `xor`.
    """
    half = full >> 1
    low = a[2] if a[2] > b[2] else b[2]
    return -half - 1, half, low, (1 << (a[3] | b[3]).bit_length()) - 1


def xor(a: Interval, b: Interval, full: int) -> Interval:
    """Above both top bits there is none in the result."""
    half = full >> 1
    return -half - 1, half, 0, (1 << (a[3] | b[3]).bit_length()) - 1


def div(a: Interval, b: Interval, full: int) -> Interval:
    """Unsigned quotient; 0 for a divisor of 0 (RFC 9669, section 4.1)."""
    _, _, aumin, aumax = a
    _, _, bumin, bumax = b
    half = full >> 1
    low = 0 if bumin == 0 else aumin // bumax
    return -half - 1, half, low, aumax // (bumin or 1)


def mod(a: Interval, b: Interval, full: int) -> Interval:
    """Unsigned remainder; the dividend for a divisor of 0. Never above the dividend."""
    asmin, asmax, aumin, aumax = a
    _, _, bumin, bumax = b
    half = full >> 1
    if aumax < bumin:
        return asmin, asmax, aumin, aumax
    return -half - 1, half, 0, aumax if bumin == 0 else min(aumax, bumax - 1)


def sdiv(a: Interval, b: Interval, full: int) -> Interval:
    """Signed quotient, rounded towards zero; 0 for a divisor of 0.

    While the divisor keeps its sign the quotient is monotone in each operand, so the extremes
    are at the corners of the positive and of the negative divisors. Only the smallest number by
    -1 leaves the range, and wraps to itself; if it may occur, everything may.
    """
    asmin, asmax, _, _ = a
    bsmin, bsmax, bumin, _ = b
    half = full >> 1
    if asmin == -half - 1 and bsmin <= -1 <= bsmax:
        return everything(full)
    corners = [0] if bumin == 0 else []
    for low, high in ((max(bsmin, 1), bsmax), (bsmin, min(bsmax, -1))):
        if low <= high:
            for dividend in (asmin, asmax):
                for divisor in (low, high):
                    quotient = abs(dividend) // abs(divisor)
                    corners.append(quotient if (dividend < 0) == (divisor < 0) else -quotient)
    # Nothing collected only if no divisor exists, that is for an empty operand.
    return (min(corners), max(corners), 0, full) if corners else everything(full)


def smod(a: Interval, b: Interval, full: int) -> Interval:
    """Signed remainder: sign of the dividend, smaller than the divisor; the dividend for 0."""
    asmin, asmax, aumin, aumax = a
    bsmin, bsmax, bumin, _ = b
    low, high = min(asmin, 0), max(asmax, 0)
    if bumin > 0 or bsmin > 0 or bsmax < 0:
        limit = max(-bsmin, bsmax) - 1
        nearest = bsmin if bsmin > 0 else -bsmax if bsmax < 0 else 1
        if -nearest < asmin and asmax < nearest:
            return asmin, asmax, aumin, aumax
        low, high = max(low, -limit), min(high, limit)
    return low, high, 0, full


def lsh(a: Interval, least: int, most: int, full: int) -> Interval:
    """Shift left by `least` to `most` bits, both below the width.

    What is negative, or whose top bit may be shifted to the sign or beyond, loses its ranges, for
    that is what kernels do.
    """
    smin, smax, umin, umax = a
    half = full >> 1
    if smin < 0 or smax << most > half:
        slow, shigh = -half - 1, half
    else:
        slow, shigh = smin << least, smax << most
    if umax > (half + 1) >> most:
        return slow, shigh, 0, full
    return slow, shigh, umin << least, umax << most


def rsh(a: Interval, least: int, most: int, full: int) -> Interval:
    """Logical shift right by `least` to `most` bits."""
    _, _, umin, umax = a
    half = full >> 1
    return -half - 1, half, umin >> most, umax >> least


def arsh(a: Interval, least: int, most: int, full: int) -> Interval:
    """Arithmetic shift right by `least` to `most` bits."""
    smin, smax, _, _ = a
    return (
        min(smin >> least, smin >> most),
        max(smax >> least, smax >> most),
        0,
        full,
    )


def low_bits(low: int, high: int, full: int) -> Interval:
    """The low bits of the numbers from `low` to `high`, which may be negative.

    On the circle of words they go from one end upwards to the other. If they go round less
    than once and do not pass 0, that is an unsigned interval; if they do not pass the step
    from the largest to the smallest signed number, it is a signed one.
    """
    half = full >> 1
    smin, smax, umin, umax = -half - 1, half, 0, full
    if high - low <= full:
        ulow, uhigh = low & full, high & full
        if ulow <= uhigh:
            umin, umax = ulow, uhigh
        slow, shigh = (ulow ^ (half + 1)) - half - 1, (uhigh ^ (half + 1)) - half - 1
        if slow <= shigh:
            smin, smax = slow, shigh
    return smin, smax, umin, umax

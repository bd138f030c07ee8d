"""Tristate numbers: what is known of each bit of a word.

A tnum is a pair (value, mask) of unsigned words. A bit set in `mask` is unknown; elsewhere it
equals the bit of `value`, and `value & mask == 0`. The functions take and give plain ints, because
they run for every verified instruction; `full` is the word's mask of ones, so that one function
serves 64-bit registers, 32-bit subregisters and the widths that the tests enumerate.

Vishwanathan, Shachnai, Narayana, Nagarakatte, "Sound, Precise, and Fast Abstract Interpretation
with Tristate Numbers", CGO 2022. No tnum is empty: where there is no member, the answer is None.
"""

from __future__ import annotations

Tnum = tuple[int, int]


def contains(value: int, mask: int, number: int) -> bool:
    """Whether the unsigned `number` is a member."""
    return not (value ^ number) & ~mask


def is_subset(value: int, mask: int, of_value: int, of_mask: int) -> bool:
    """Whether every member of (value, mask) is one of (of_value, of_mask)."""
    return not mask & ~of_mask and not (value ^ of_value) & ~of_mask


def from_range(low: int, high: int) -> Tnum:
    """The smallest tnum that holds every number from `low` to `high`: their common leading bits."""
    free = (1 << (low ^ high).bit_length()) - 1
    return low & ~free, free


def intersect(av: int, am: int, bv: int, bm: int) -> Tnum | None:
    """The members of both, exactly; None if a bit known in both differs."""
    if (av ^ bv) & ~(am | bm):
        return None
    return av | bv, am & bm


def union(av: int, am: int, bv: int, bm: int) -> Tnum:
    """The smallest tnum that holds the members of both."""
    mask = am | bm | (av ^ bv)
    return (av | bv) & ~mask, mask


def add(av: int, am: int, bv: int, bm: int, full: int) -> Tnum:
    """Sums, modulo the word.

    The smallest and the largest sum of members differ exactly in the bits that some choice of
    unknown bits, or a carry out of them, can change (CGO 2022, section III-A).
    """
    lowest = av + bv
    mask = (lowest ^ (lowest + am + bm)) | am | bm
    return lowest & ~mask & full, mask & full


def sub(av: int, am: int, bv: int, bm: int, full: int) -> Tnum:
    """Differences, modulo the word: as `add`, with borrows (CGO 2022, section III-B)."""
    difference = av - bv
    mask = ((difference + am) ^ (difference - bm)) | am | bm
    return difference & ~mask & full, mask & full


def and_(av: int, am: int, bv: int, bm: int, full: int) -> Tnum:
    """Bitwise and. A bit that is known to be 0 on either side is known."""
    ones = av & bv
    return ones, (av | am) & (bv | bm) & ~ones


def or_(av: int, am: int, bv: int, bm: int, full: int) -> Tnum:
    """Bitwise or. A bit that is known to be 1 on either side is known."""
    ones = av | bv
    return ones, (am | bm) & ~ones


def xor(av: int, am: int, bv: int, bm: int, full: int) -> Tnum:
    """Bitwise exclusive or. A bit is known if both are."""
    mask = am | bm
    return (av ^ bv) & ~mask, mask


def mul(av: int, am: int, bv: int, bm: int, full: int) -> Tnum:
    """Products, modulo the word: bit by bit of the factor that has fewer unknown ones."""
    if (bm.bit_count(), bv.bit_count()) < (am.bit_count(), av.bit_count()):
        return mul_in_order(bv, bm, av, am, full)
    return mul_in_order(av, am, bv, bm, full)


def mul_in_order(av: int, am: int, bv: int, bm: int, full: int) -> Tnum:
    """Products, modulo the word, bit by bit of the first factor: as kernels know them.

    Long multiplication: for every bit of one factor the sum so far either takes the shifted other
    factor, or does not, or (bit unknown) may do either and becomes the union of both. After bit i
    the sum holds every product with the low i bits of the factor; that is the induction. Later
    steps leave the bits below i alone, so once all others are unknown nothing more can be learnt.
    """
    value = mask = 0
    above = full
    while (av | am) and above:
        step = (av | am) & -(av | am)
        shift = step.bit_length() - 1
        above = full >> shift << shift
        if mask & above == above:
            break
        more_v, more_m = add(value, mask, (bv << shift) & full, (bm << shift) & full, full)
        if av & step:
            value, mask = more_v, more_m
        else:
            value, mask = union(value, mask, more_v, more_m)
        av &= ~step
        am &= ~step
    return value, mask


def lshift(value: int, mask: int, count: int, full: int) -> Tnum:
    """Shift left by a known `count`, below the width."""
    return (value << count) & full, (mask << count) & full


def rshift(value: int, mask: int, count: int) -> Tnum:
    """Logical shift right by a known `count`."""
    return value >> count, mask >> count


def arshift(value: int, mask: int, count: int, full: int) -> Tnum:
    """Arithmetic shift right by a known `count`: the sign bit, known or not, is copied down."""
    half = full >> 1
    sign = half + 1
    # Read as two's complement, both words are shifted alike: an unknown sign fills the mask.
    return (
        (((value ^ sign) - sign) >> count) & full,
        (((mask ^ sign) - sign) >> count) & full,
    )


def cast(value: int, mask: int, to: int) -> Tnum:
    """The low bits, those of the mask of ones `to`."""
    return value & to, mask & to


def sign_extend(value: int, mask: int, frm: int, full: int) -> Tnum:
    """The low bits (mask of ones `frm`) with their top one, known or not, copied upwards."""
    sign = (frm >> 1) + 1
    return (
        (((value & frm) ^ sign) - sign) & full,
        (((mask & frm) ^ sign) - sign) & full,
    )

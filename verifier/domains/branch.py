"""What a conditional jump teaches about its operands, on either arm. RFC 9669, section 4.3.

Every condition is one of six relations or the denial of one; the table names, for each, the
refinement of the arm that jumps and of the arm that does not. A 32-bit comparison narrows views of
the low halves only: what that says of the whole word is left to `scalar.sync`, which knows when
(catalogue A 3, 6).

An operand that the arm tells nothing new about comes back as the object it was. The operands are
taken to be two words even where both are one object, since equal knowledge is not equality; a
register compared with itself is for the caller to decide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pybpfvm.isa.opcodes import JmpOp
from pybpfvm.verifier.domains import tnum
from pybpfvm.verifier.domains.scalar import Scalar, contains, meet, sharpened, sync, sync_small
from pybpfvm.verifier.domains.word import (
    BITS,
    HIGH,
    S32_MAX,
    S32_MIN,
    S64_MAX,
    SIGN32,
    SIGN64,
    U32,
    U64,
)

Pair = tuple[Scalar, Scalar]
Refine = Callable[[Scalar, Scalar], Pair | None]
Within = Callable[[Scalar, int, int], Scalar | None]


def branch(op: JmpOp, width: int, a: Scalar, b: Scalar) -> tuple[Pair | None, Pair | None]:
    """(a, b) where `a op b` holds, and where it does not; None if that arm is impossible."""
    taken, not_taken = arms_of(op, width)
    return taken(a, b), not_taken(a, b)


def arms_of(
    op: JmpOp, width: int, *, as_kernel: bool = False, forgets: bool = False
) -> tuple[Refine, Refine]:
    """The two refinements themselves, for callers that prepare instructions once.

    `as_kernel`: what kernels lose is lost. Where JSET jumps, only a constant of one bit teaches
    anything.
    `forgets`: where it does not jump, ranges are lost, as kernels lose them.
    """
    arms64 = KERNEL_ARMS64 if as_kernel else ARMS64
    taken, not_taken = (arms64 if width == BITS else ARMS32)[op]
    if op is JmpOp.JSET:
        word = U64 if width == BITS else U32
        if as_kernel:
            taken = _one_bit(word)
        if forgets:
            not_taken = _forgetting(word)
    if as_kernel:
        return taken, not_taken
    return _sharpening(taken), _sharpening(not_taken)


def _sharpening(refine: Refine) -> Refine:
    def refined(a: Scalar, b: Scalar) -> Pair | None:
        pair = refine(a, b)
        return None if pair is None else _both(sharpened(pair[0]), sharpened(pair[1]))

    return refined


def _orders64(within_u64: Within, within_s64: Within) -> tuple[Refine, Refine, Refine, Refine]:
    """a < b, a <= b, a s< b and a s<= b, by what cuts a range down."""

    def less(a: Scalar, b: Scalar) -> Pair | None:
        if a.umin >= b.umax:
            return None
        return _both(
            within_u64(a, a.umin, b.umax - 1) if a.umax >= b.umax else a,
            within_u64(b, a.umin + 1, b.umax) if b.umin <= a.umin else b,
        )

    def at_most(a: Scalar, b: Scalar) -> Pair | None:
        if a.umin > b.umax:
            return None
        return _both(
            within_u64(a, a.umin, b.umax) if a.umax > b.umax else a,
            within_u64(b, a.umin, b.umax) if b.umin < a.umin else b,
        )

    def signed_less(a: Scalar, b: Scalar) -> Pair | None:
        if a.smin >= b.smax:
            return None
        return _both(
            within_s64(a, a.smin, b.smax - 1) if a.smax >= b.smax else a,
            within_s64(b, a.smin + 1, b.smax) if b.smin <= a.smin else b,
        )

    def signed_at_most(a: Scalar, b: Scalar) -> Pair | None:
        if a.smin > b.smax:
            return None
        return _both(
            within_s64(a, a.smin, b.smax) if a.smax > b.smax else a,
            within_s64(b, a.smin, b.smax) if b.smin < a.smin else b,
        )

    return less, at_most, signed_less, signed_at_most


def _equal64(a: Scalar, b: Scalar) -> Pair | None:
    if not b.mask:
        return (b if a.mask else a, b) if contains(a, b.value) else None
    if not a.mask:
        return (a, a) if contains(b, a.value) else None
    common = meet(a, b)
    return None if common is None else (common, common)


def _equal64_apart(a: Scalar, b: Scalar) -> Pair | None:
    """As `_equal64`, but each keeps the 32-bit ranges that it had, as kernels have it."""
    if not a.mask or not b.mask:
        return _equal64(a, b)
    bits = tnum.intersect(a.value, a.mask, b.value, b.mask)
    if bits is None:
        return None
    ends = max(a.smin, b.smin), min(a.smax, b.smax), max(a.umin, b.umin), min(a.umax, b.umax)
    return _both(
        _kernel_sync(*bits, *ends, a.s32min, a.s32max, a.u32min, a.u32max),
        _kernel_sync(*bits, *ends, b.s32min, b.s32max, b.u32min, b.u32max),
    )


def _unequal64(a: Scalar, b: Scalar) -> Pair | None:
    if not a.mask and not b.mask:
        return None if a.value == b.value else (a, b)
    if not b.mask:
        return _both(_without64(a, b.value), b)
    if not a.mask:
        return _both(a, _without64(b, a.value))
    return a, b


def _without64(a: Scalar, number: int) -> Scalar | None:
    """`a` without the word `number`: a range that ends there is shortened."""
    signed = (number ^ SIGN64) - SIGN64
    if number != a.umin and number != a.umax and signed != a.smin and signed != a.smax:
        return a
    return sync(
        a.value,
        a.mask,
        a.smin + 1 if a.smin == signed else a.smin,
        a.smax - 1 if a.smax == signed else a.smax,
        a.umin + 1 if a.umin == number else a.umin,
        a.umax - 1 if a.umax == number else a.umax,
        a.s32min,
        a.s32max,
        a.u32min,
        a.u32max,
    )


def _less32(a: Scalar, b: Scalar) -> Pair | None:
    if a.u32min >= b.u32max:
        return None
    return _both(
        _within_u32(a, a.u32min, b.u32max - 1) if a.u32max >= b.u32max else a,
        _within_u32(b, a.u32min + 1, b.u32max) if b.u32min <= a.u32min else b,
    )


def _at_most32(a: Scalar, b: Scalar) -> Pair | None:
    if a.u32min > b.u32max:
        return None
    return _both(
        _within_u32(a, a.u32min, b.u32max) if a.u32max > b.u32max else a,
        _within_u32(b, a.u32min, b.u32max) if b.u32min < a.u32min else b,
    )


def _signed_less32(a: Scalar, b: Scalar) -> Pair | None:
    if a.s32min >= b.s32max:
        return None
    return _both(
        _within_s32(a, a.s32min, b.s32max - 1) if a.s32max >= b.s32max else a,
        _within_s32(b, a.s32min + 1, b.s32max) if b.s32min <= a.s32min else b,
    )


def _signed_at_most32(a: Scalar, b: Scalar) -> Pair | None:
    if a.s32min > b.s32max:
        return None
    return _both(
        _within_s32(a, a.s32min, b.s32max) if a.s32max > b.s32max else a,
        _within_s32(b, a.s32min, b.s32max) if b.s32min < a.s32min else b,
    )


def _equal32(a: Scalar, b: Scalar) -> Pair | None:
    """The low halves are equal; the high halves stay what they were."""
    low = tnum.intersect(a.value & U32, a.mask & U32, b.value & U32, b.mask & U32)
    if low is None:
        return None
    ranges = (
        max(a.s32min, b.s32min),
        min(a.s32max, b.s32max),
        max(a.u32min, b.u32min),
        min(a.u32max, b.u32max),
    )
    return _both(_with_low(a, low, ranges), _with_low(b, low, ranges))


def _with_low(a: Scalar, low: tnum.Tnum, ranges: tuple[int, int, int, int]) -> Scalar | None:
    value, mask = (a.value & HIGH) | low[0], (a.mask & HIGH) | low[1]
    return sync(value, mask, a.smin, a.smax, a.umin, a.umax, *ranges)


def _unequal32(a: Scalar, b: Scalar) -> Pair | None:
    a_known, b_known = not a.mask & U32, not b.mask & U32
    if a_known and b_known:
        return None if (a.value ^ b.value) & U32 == 0 else (a, b)
    if b_known:
        return _both(_without32(a, b.value & U32), b)
    if a_known:
        return _both(a, _without32(b, a.value & U32))
    return a, b


def _without32(a: Scalar, low: int) -> Scalar | None:
    """`a` without the words whose low half is `low`."""
    signed = (low ^ SIGN32) - SIGN32
    if low != a.u32min and low != a.u32max and signed != a.s32min and signed != a.s32max:
        return a
    return sync(
        a.value,
        a.mask,
        a.smin,
        a.smax,
        a.umin,
        a.umax,
        a.s32min + 1 if a.s32min == signed else a.s32min,
        a.s32max - 1 if a.s32max == signed else a.s32max,
        a.u32min + 1 if a.u32min == low else a.u32min,
        a.u32max - 1 if a.u32max == low else a.u32max,
    )


def _share_bit(word: int) -> Refine:
    """a & b is not 0, in the bits of `word`."""

    def refine(a: Scalar, b: Scalar) -> Pair | None:
        shared = (a.value | a.mask) & (b.value | b.mask) & word
        if not shared:
            return None
        if a.value & b.value & word or shared & (shared - 1):
            return a, b
        # One bit only can be the one that both have.
        return _both(_with_bits(a, shared, 0), _with_bits(b, shared, 0))

    return refine


def _one_bit(word: int) -> Refine:
    """As `_share_bit`, where one side is a constant; a constant of several bits only tells an arm
    that is impossible."""

    def refine(a: Scalar, b: Scalar) -> Pair | None:
        if not b.mask & word:
            known = _with_bit_of(a, b.value & word)
            return None if known is None else (known, b)
        if not a.mask & word:
            known = _with_bit_of(b, a.value & word)
            return None if known is None else (a, known)
        return a, b

    return refine


def _with_bit_of(a: Scalar, bits: int) -> Scalar | None:
    """`a` where it shares a bit with `bits`, which is known to be the only one there if it is."""
    if not (a.value | a.mask) & bits:
        return None
    return a if bits & (bits - 1) else _with_bits(a, bits, 0)


def _share_none(word: int) -> Refine:
    """a & b is 0, in the bits of `word`: what one has, the other has not."""

    def refine(a: Scalar, b: Scalar) -> Pair | None:
        if a.value & b.value & word:
            return None
        return _both(_with_bits(a, 0, b.value & word), _with_bits(b, 0, a.value & word))

    return refine


def _forgetting(word: int) -> Refine:
    """a & b is 0, in the bits of `word`. Only a constant teaches what the other has not, which is
    then known by its bits alone, or that the arm is impossible."""

    def refine(a: Scalar, b: Scalar) -> Pair | None:
        if a.mask & word and b.mask & word:
            return a, b
        if a.value & b.value & word:
            return None
        if not b.mask & word:
            return _both(_bits_alone(a, b.value & word), b)
        return _both(a, _bits_alone(b, a.value & word))

    return refine


def _bits_alone(a: Scalar, zeros: int) -> Scalar | None:
    """What the bits of `a` tell where those of `zeros`, none of which is known to be 1, are 0."""
    if not a.mask:
        return a
    low, low32 = -SIGN64, -SIGN32
    return sync(a.value, a.mask & ~zeros, low, ~low, 0, U64, low32, ~low32, 0, U32)


def _with_bits(a: Scalar, ones: int, zeros: int) -> Scalar | None:
    """`a` where the bits of `ones` are 1 and those of `zeros` are 0; neither contradicts it."""
    if not a.mask & (ones | zeros):
        return a
    return sync(
        a.value | ones,
        a.mask & ~(ones | zeros),
        a.smin,
        a.smax,
        a.umin,
        a.umax,
        a.s32min,
        a.s32max,
        a.u32min,
        a.u32max,
    )


def _both(a: Scalar | None, b: Scalar | None) -> Pair | None:
    return None if a is None or b is None else (a, b)


def _within_u64(a: Scalar, low: int, high: int) -> Scalar | None:
    """`a` with its unsigned range cut down to [low, high], which lies within it."""
    if a.umax <= S32_MAX:
        return sync_small(a.value, a.mask, low, high)
    return sync(
        a.value,
        a.mask,
        a.smin,
        a.smax,
        low,
        high,
        a.s32min,
        a.s32max,
        a.u32min,
        a.u32max,
    )


def _within_s64(a: Scalar, low: int, high: int) -> Scalar | None:
    """`a` with its signed range cut down to [low, high], which lies within it."""
    if a.umax <= S32_MAX:
        return sync_small(a.value, a.mask, low, high)
    return sync(
        a.value,
        a.mask,
        low,
        high,
        a.umin,
        a.umax,
        a.s32min,
        a.s32max,
        a.u32min,
        a.u32max,
    )


def _kernel_within_u64(a: Scalar, low: int, high: int) -> Scalar | None:
    """As `_within_u64`, as kernels have it."""
    if a.smin >= S32_MIN or a.smax > S32_MAX:
        return _within_u64(a, low, high)
    low_half = a.s32min, a.s32max, a.u32min, a.u32max
    return _kernel_sync(a.value, a.mask, a.smin, a.smax, low, high, *low_half)


def _kernel_within_s64(a: Scalar, low: int, high: int) -> Scalar | None:
    """As `_within_s64`, as kernels have it."""
    if low >= S32_MIN or high > S32_MAX:
        return _within_s64(a, low, high)
    low_half = a.s32min, a.s32max, a.u32min, a.u32max
    return _kernel_sync(a.value, a.mask, low, high, a.umin, a.umax, *low_half)


def _kernel_sync(
    value: int, mask: int, smin: int, smax: int, umin: int, umax: int, *low_half: int
) -> Scalar | None:
    """As `sync`, but of a word that its two 64-bit ranges only together show to be its low half,
    and not negative, the signed one is forgotten: kernels take both from what is known of the low
    half by then, which the signed range has not narrowed if it reaches below S32_MIN."""
    found = sync(value, mask, smin, smax, umin, umax, *low_half)
    if found is None or smin >= S32_MIN or smax > S32_MAX or found.umax > S32_MAX:
        return found
    alone = sync(value, mask, -SIGN64, S64_MAX, umin, umax, *low_half)
    if alone is None or alone.s32min < 0:
        return found
    return sync_small(value & U32, mask & U32, alone.s32min, alone.s32max)


def _within_u32(a: Scalar, low: int, high: int) -> Scalar | None:
    """`a` with its unsigned 32-bit range cut down to [low, high], which lies within it."""
    if a.umax <= S32_MAX:
        return sync_small(a.value, a.mask, low, high)
    return sync(
        a.value,
        a.mask,
        a.smin,
        a.smax,
        a.umin,
        a.umax,
        a.s32min,
        a.s32max,
        low,
        high,
    )


def _within_s32(a: Scalar, low: int, high: int) -> Scalar | None:
    """`a` with its signed 32-bit range cut down to [low, high], which lies within it."""
    if a.umax <= S32_MAX:
        return sync_small(a.value, a.mask, low, high)
    return sync(
        a.value,
        a.mask,
        a.smin,
        a.smax,
        a.umin,
        a.umax,
        low,
        high,
        a.u32min,
        a.u32max,
    )


def _swapped(refine: Refine) -> Refine:
    """The refinement for b ? a instead of a ? b."""

    def swapped(a: Scalar, b: Scalar) -> Pair | None:
        pair = refine(b, a)
        return None if pair is None else (pair[1], pair[0])

    return swapped


def _arms(
    less: Refine,
    at_most: Refine,
    signed_less: Refine,
    signed_at_most: Refine,
    equal: Refine,
    unequal: Refine,
    word: int,
) -> Mapping[JmpOp, tuple[Refine, Refine]]:
    return {
        JmpOp.JEQ: (equal, unequal),
        JmpOp.JNE: (unequal, equal),
        JmpOp.JLT: (less, _swapped(at_most)),
        JmpOp.JLE: (at_most, _swapped(less)),
        JmpOp.JGT: (_swapped(less), at_most),
        JmpOp.JGE: (_swapped(at_most), less),
        JmpOp.JSLT: (signed_less, _swapped(signed_at_most)),
        JmpOp.JSLE: (signed_at_most, _swapped(signed_less)),
        JmpOp.JSGT: (_swapped(signed_less), signed_at_most),
        JmpOp.JSGE: (_swapped(signed_at_most), signed_less),
        JmpOp.JSET: (_share_bit(word), _share_none(word)),
    }


ARMS64 = _arms(*_orders64(_within_u64, _within_s64), _equal64, _unequal64, U64)
KERNEL_ARMS64 = _arms(
    *_orders64(_kernel_within_u64, _kernel_within_s64), _equal64_apart, _unequal64, U64
)
ARMS32 = _arms(_less32, _at_most32, _signed_less32, _signed_at_most32, _equal32, _unequal32, U32)

"""What arithmetic does to abstract scalars: one transfer per operation and width.

A transfer takes two Scalars and gives one that holds the result of every pair of members, as
`pybpfvm.isa.semantics` computes it. Width 64 also follows the low halves where they depend on low
halves alone; width 32 looks at nothing else and leaves the upper half 0. Byte order conversions
are those of a little-endian machine. RFC 9669, sections 4.1 and 4.2.

Kernels lose some of what is found here. Where they do, a second transfer loses the same, for
verdicts that are to be theirs (`as_kernel`).

An operand that has no members can not always be told (see `scalar.sync`). Should a result then
come out empty, the answer is "unknown", which is sound: the instruction is never reached.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pybpfvm.bits import bswap
from pybpfvm.isa.opcodes import AluOp
from pybpfvm.isa.semantics import CONCRETE_ALU
from pybpfvm.verifier.domains import interval, tnum
from pybpfvm.verifier.domains.interval import Interval
from pybpfvm.verifier.domains.scalar import (
    UNKNOWN32,
    Scalar,
    low_field,
    sharpened,
    sync,
    sync_small,
    unknown_field,
)
from pybpfvm.verifier.domains.tnum import Tnum
from pybpfvm.verifier.domains.word import (
    BITS,
    LOW_BITS,
    S32_MAX,
    S32_MIN,
    S64_MAX,
    S64_MIN,
    U32,
    U64,
)

Transfer = Callable[[Scalar, Scalar], Scalar]
TnumOp = Callable[[int, int, int, int, int], Tnum]
IntervalOp = Callable[[Interval, Interval, int], Interval]
ShiftTnumOp = Callable[[int, int, int, int], Tnum]
ShiftIntervalOp = Callable[[Interval, int, int, int], Interval]

_ANY32 = (S32_MIN, S32_MAX, 0, U32)
UNKNOWN = Scalar.UNKNOWN


def alu(op: AluOp, width: int, a: Scalar, b: Scalar, *, as_kernel: bool = False) -> Scalar:
    """`a op b` at `width` 64 or 32; unary operations take `a`, moves take `b`."""
    return transfer_of(op, width, as_kernel=as_kernel)(a, b)


def transfer_of(op: AluOp, width: int, *, as_kernel: bool = False) -> Transfer:
    """The transfer itself, for callers that prepare instructions once.

    `as_kernel`: what kernels lose is lost.
    """
    if as_kernel:
        return (KERNEL64 if width == BITS else KERNEL32)[op]
    transfer = (TRANSFER64 if width == BITS else TRANSFER32)[op]
    return lambda a, b: sharpened(transfer(a, b)) or UNKNOWN


def _wide(op: AluOp, on_tnums: TnumOp, on_ranges: IntervalOp, *, carries_up: bool) -> Transfer:
    """Width 64. `carries_up`: the result's low half depends on the operands' low halves only."""
    fold = CONCRETE_ALU[op]
    const = Scalar.const

    def transfer(a: Scalar, b: Scalar) -> Scalar:
        if not a.mask and not b.mask:
            return const(fold(a.value, b.value, BITS))
        value, mask = on_tnums(a.value, a.mask, b.value, b.mask, U64)
        smin, smax, umin, umax = on_ranges(
            (a.smin, a.smax, a.umin, a.umax), (b.smin, b.smax, b.umin, b.umax), U64
        )
        if carries_up and (a.umax > S32_MAX or b.umax > S32_MAX or umax > S32_MAX):
            low = on_ranges(_low(a), _low(b), U32)
        else:
            low = _ANY32
        return sync(value, mask, smin, smax, umin, umax, *low) or UNKNOWN

    return transfer


def _narrow(op: AluOp, on_tnums: TnumOp, on_ranges: IntervalOp) -> Transfer:
    """Width 32."""
    fold = CONCRETE_ALU[op]
    const = Scalar.const

    def transfer(a: Scalar, b: Scalar) -> Scalar:
        if not (a.mask | b.mask) & U32:
            return const(fold(a.value, b.value, LOW_BITS))
        value, mask = on_tnums(a.value & U32, a.mask & U32, b.value & U32, b.mask & U32, U32)
        return _from_low(value, mask, *on_ranges(_low(a), _low(b), U32))

    return transfer


def _low(a: Scalar) -> Interval:
    return a.s32min, a.s32max, a.u32min, a.u32max


def _from_low(value: int, mask: int, smin: int, smax: int, umin: int, umax: int) -> Scalar:
    """The zero-extended Scalar with this low half."""
    return sync(value, mask, S64_MIN, S64_MAX, umin, umax, smin, smax, umin, umax) or UNKNOWN32


def _count(b: Scalar, bits: int) -> tuple[int, int]:
    """The least and the most that `b` shifts by: only low bits of the count are looked at."""
    field = bits - 1
    if not b.mask & field:
        return b.value & field, b.value & field
    if b.u32max <= field:
        return b.u32min, b.u32max
    return b.value & field, (b.value | b.mask) & field


def _any_count(
    on_tnum: ShiftTnumOp, value: int, mask: int, b: Scalar, least: int, most: int, full: int
) -> Tnum:
    """The union over the counts from `least` to `most` that agree with the known bits of `b`."""
    found: Tnum | None = None
    field = full.bit_length() - 1
    for count in range(least, most + 1):
        if not (count ^ b.value) & ~b.mask & field:
            shifted = on_tnum(value, mask, count, full)
            found = shifted if found is None else tnum.union(*found, *shifted)
            if found[1] == full:
                break
    return found or (0, full)


def _shift64(
    op: AluOp, on_tnum: ShiftTnumOp, on_range: ShiftIntervalOp, *, as_kernel: bool = False
) -> Transfer:
    fold = CONCRETE_ALU[op]
    left = op is AluOp.LSH

    def transfer(a: Scalar, b: Scalar) -> Scalar:
        least, most = _count(b, BITS)
        if least == most:
            if not a.mask:
                return Scalar.const(fold(a.value, least, BITS))
            value, mask = on_tnum(a.value, a.mask, least, U64)
        else:
            value, mask = _any_count(on_tnum, a.value, a.mask, b, least, most, U64)
        smin, smax, umin, umax = on_range((a.smin, a.smax, a.umin, a.umax), least, most, U64)
        low = _ANY32
        if left:
            if least == most == LOW_BITS:
                # A low half is extended: its bounds are what is known of the result's high half.
                smin, smax = a.s32min << LOW_BITS, a.s32max << LOW_BITS
                if not as_kernel:
                    umin, umax = a.u32min << LOW_BITS, a.u32max << LOW_BITS
            elif most < LOW_BITS:
                low = on_range(_low(a), least, most, U32)
        return sync(value, mask, smin, smax, umin, umax, *low) or UNKNOWN

    return transfer


def _shift32(on_tnum: ShiftTnumOp, on_range: ShiftIntervalOp) -> Transfer:
    def transfer(a: Scalar, b: Scalar) -> Scalar:
        least, most = _count(b, LOW_BITS)
        if least == most:
            value, mask = on_tnum(a.value & U32, a.mask & U32, least, U32)
        else:
            value, mask = _any_count(on_tnum, a.value & U32, a.mask & U32, b, least, most, U32)
        return _from_low(value, mask, *on_range(_low(a), least, most, U32))

    return transfer


def _rshift(value: int, mask: int, count: int, full: int) -> Tnum:
    return tnum.rshift(value, mask, count)


def _add64(a: Scalar, b: Scalar) -> Scalar:
    """Fast path: a sum that cannot wrap and stays small reads the same in every range, if what is
    added does."""
    if not a.mask and not b.mask:
        return Scalar.const(a.value + b.value)
    if a is UNKNOWN or b is UNKNOWN:
        return UNKNOWN
    low, high = a.smin + b.smin, a.smax + b.smax
    alike = low == a.s32min + b.s32min and high == a.s32max + b.s32max
    if low >= 0 and high <= S32_MAX and alike:
        value, mask = tnum.add(a.value, a.mask, b.value, b.mask, U64)
        return sync_small(value, mask, low, high) or UNKNOWN
    return SLOW64[AluOp.ADD](a, b)


def _add32(a: Scalar, b: Scalar) -> Scalar:
    low, high = a.s32min + b.s32min, a.s32max + b.s32max
    if low >= 0 and high <= S32_MAX:
        value, mask = tnum.add(a.value & U32, a.mask & U32, b.value & U32, b.mask & U32, U32)
        return sync_small(value, mask, low, high) or UNKNOWN32
    return SLOW32[AluOp.ADD](a, b)


def _sub64(a: Scalar, b: Scalar) -> Scalar:
    if not a.mask and not b.mask:
        return Scalar.const(a.value - b.value)
    if a is UNKNOWN or b is UNKNOWN:
        return UNKNOWN
    low, high = a.smin - b.smax, a.smax - b.smin
    alike = low == a.s32min - b.s32max and high == a.s32max - b.s32min
    if low >= 0 and high <= S32_MAX and alike:
        value, mask = tnum.sub(a.value, a.mask, b.value, b.mask, U64)
        return sync_small(value, mask, low, high) or UNKNOWN
    return SLOW64[AluOp.SUB](a, b)


def _and(slow: Transfer, ones: int, unknown: Scalar) -> Transfer:
    """Fast path: a small result is its own low half, which is above neither low half."""

    def transfer(a: Scalar, b: Scalar) -> Scalar:
        value = a.value & b.value & ones
        top = (a.value | a.mask) & (b.value | b.mask) & ones
        if top > S32_MAX:
            return slow(a, b)
        return sync_small(value, top ^ value, value, min(a.u32max, b.u32max)) or unknown

    return transfer


def _lsh64(slow: Transfer) -> Transfer:
    def transfer(a: Scalar, b: Scalar) -> Scalar:
        if not b.mask:
            count = b.value & (BITS - 1)
            high = a.umax << count
            if high <= S32_MAX:
                low = a.umin << count
                return sync_small(a.value << count, a.mask << count, low, high) or UNKNOWN
        return slow(a, b)

    return transfer


def _rsh64(a: Scalar, b: Scalar) -> Scalar:
    if not b.mask:
        count = b.value & (BITS - 1)
        high = a.umax >> count
        if high <= S32_MAX:
            return sync_small(a.value >> count, a.mask >> count, a.umin >> count, high) or UNKNOWN
    return SLOW64[AluOp.RSH](a, b)


def _div_tnum(av: int, am: int, bv: int, bm: int, full: int) -> Tnum:
    """Division by a power of two is a shift; of any other quotient no bit is known."""
    if bm or not bv or bv & (bv - 1):
        return 0, full
    return tnum.rshift(av, am, bv.bit_length() - 1)


def _mod_tnum(av: int, am: int, bv: int, bm: int, full: int) -> Tnum:
    """The remainder by a power of two is a mask.

    Of other divisors, those that are multiples of 2**k leave the low k bits of the dividend
    alone (and so does 0).
    """
    if not bm and bv and not bv & (bv - 1):
        return tnum.cast(av, am, bv - 1)
    kept = _common_factor(bv, bm, full)
    return av & kept, (am & kept) | (full & ~kept)


def _smod_tnum(av: int, am: int, bv: int, bm: int, full: int) -> Tnum:
    """As unsigned, for the low bits: a multiple of 2**k is taken off, whatever the signs."""
    kept = _common_factor(bv, bm, full)
    return av & kept, (am & kept) | (full & ~kept)


def _common_factor(value: int, mask: int, full: int) -> int:
    """Ones below the lowest bit that a member may have: all members are multiples of that bit."""
    lowest = (value | mask) & -(value | mask)
    return (lowest - 1) & full


def _nothing(av: int, am: int, bv: int, bm: int, full: int) -> Tnum:
    return 0, full


def _neg64(a: Scalar, _: Scalar) -> Scalar:
    return _sub64(_ZERO, a)


def _neg32(a: Scalar, _: Scalar) -> Scalar:
    return SLOW32[AluOp.SUB](_ZERO, a)


def _mov64(_: Scalar, b: Scalar) -> Scalar:
    return b


def _mov32(_: Scalar, b: Scalar) -> Scalar:
    return b if b.umax <= U32 else low_field(b, LOW_BITS, signed=False)


def movsx64(bits: int) -> Transfer:
    """The transfer of a move that extends the sign of the low `bits` to 64."""

    def transfer(_: Scalar, b: Scalar) -> Scalar:
        return low_field(b, bits, signed=True)

    return transfer


def movsx32(bits: int) -> Transfer:
    """Sign-extends to the subregister, then zero-extends that: the upper half is 0."""

    def transfer(_: Scalar, b: Scalar) -> Scalar:
        return low_field(low_field(b, bits, signed=True), LOW_BITS, signed=False)

    return transfer


def kernel_movsx64(bits: int) -> Transfer:
    """Follows the signed range alone, and that only while no number in it leaves a block of those
    with the same upper bits, nor changes its sign: known bits and 32-bit ranges are lost."""

    def transfer(_: Scalar, b: Scalar) -> Scalar:
        if not b.mask:
            return low_field(b, bits, signed=True)
        ends = _extended(b.smin, b.smax, bits)
        if ends is None:
            return unknown_field(bits, True)
        return sync(0, U64, *ends, 0, U64, *_ANY32) or UNKNOWN

    return transfer


def kernel_movsx32(bits: int) -> Transfer:
    """As `kernel_movsx64`, with the signed range of the low half."""

    def transfer(_: Scalar, b: Scalar) -> Scalar:
        if not b.mask:
            return low_field(low_field(b, bits, signed=True), LOW_BITS, signed=False)
        ends = _extended(b.s32min, b.s32max, bits)
        if ends is None:
            return low_field(unknown_field(bits, True), LOW_BITS, signed=False)
        return _from_low(0, U32, *ends, 0, U32)

    return transfer


def _extended(low: int, high: int, bits: int) -> tuple[int, int] | None:
    """The ends of a signed range, their low `bits` bits sign-extended; None if these do not keep
    the numbers between them in order."""
    if low >> bits != high >> bits:
        return None
    sign = 1 << (bits - 1)
    field = 2 * sign - 1
    low, high = ((low & field) ^ sign) - sign, ((high & field) ^ sign) - sign
    return (low, high) if (low < 0) == (high < 0) else None


def kernel_low_field(a: Scalar, bits: int) -> Scalar:
    """The low `bits` bits (fewer than 32), zero-extended: known bits stay known, and the unsigned
    range while no number in it leaves a block of those with the same upper bits. 32-bit ranges and
    signed ones are lost."""
    field = (1 << bits) - 1
    low, high = a.umin & field, a.umax & field
    if a.umin >> bits != a.umax >> bits:
        low, high = 0, field
    found = sync(
        a.value & field, a.mask & field, S64_MIN, S64_MAX, low, high, S32_MIN, S32_MAX, 0, U32
    )
    return found or unknown_field(bits, False)


def _kernel_to_little_endian16(a: Scalar, _: Scalar) -> Scalar:
    return kernel_low_field(a, 16)


def _to_little_endian(bits: int) -> Transfer:
    def transfer(a: Scalar, _: Scalar) -> Scalar:
        return low_field(a, bits, signed=False)

    return transfer


def _swap(bits: int) -> Transfer:
    """Bytes change places, so bits stay known; ranges come from the bits."""

    def transfer(a: Scalar, _: Scalar) -> Scalar:
        value, mask = bswap(a.value, bits), bswap(a.mask, bits)
        return sync(value, mask, S64_MIN, S64_MAX, value, value | mask, *_ANY32) or UNKNOWN

    return transfer


_ZERO = Scalar.const(0)

_BYTE_ORDER: dict[AluOp, Transfer] = {
    AluOp.LE16: _to_little_endian(16),
    AluOp.LE32: _to_little_endian(32),
    AluOp.LE64: _to_little_endian(64),
    AluOp.BE16: _swap(16),
    AluOp.BE32: _swap(32),
    AluOp.BE64: _swap(64),
    AluOp.BSWAP16: _swap(16),
    AluOp.BSWAP32: _swap(32),
    AluOp.BSWAP64: _swap(64),
}

# Every operation without its fast path; the tests hold each fast path to the answer here.
SLOW64: Mapping[AluOp, Transfer] = {
    AluOp.ADD: _wide(AluOp.ADD, tnum.add, interval.add, carries_up=True),
    AluOp.SUB: _wide(AluOp.SUB, tnum.sub, interval.sub, carries_up=True),
    AluOp.MUL: _wide(AluOp.MUL, tnum.mul, interval.mul, carries_up=True),
    AluOp.DIV: _wide(AluOp.DIV, _div_tnum, interval.div, carries_up=False),
    AluOp.SDIV: _wide(AluOp.SDIV, _nothing, interval.sdiv, carries_up=False),
    AluOp.OR: _wide(AluOp.OR, tnum.or_, interval.or_, carries_up=True),
    AluOp.AND: _wide(AluOp.AND, tnum.and_, interval.and_, carries_up=True),
    AluOp.LSH: _shift64(AluOp.LSH, tnum.lshift, interval.lsh),
    AluOp.RSH: _shift64(AluOp.RSH, _rshift, interval.rsh),
    AluOp.NEG: _neg64,
    AluOp.MOD: _wide(AluOp.MOD, _mod_tnum, interval.mod, carries_up=False),
    AluOp.SMOD: _wide(AluOp.SMOD, _smod_tnum, interval.smod, carries_up=False),
    AluOp.XOR: _wide(AluOp.XOR, tnum.xor, interval.xor, carries_up=True),
    AluOp.MOV: _mov64,
    AluOp.MOVSX8: movsx64(8),
    AluOp.MOVSX16: movsx64(16),
    AluOp.MOVSX32: movsx64(32),
    AluOp.ARSH: _shift64(AluOp.ARSH, tnum.arshift, interval.arsh),
    **_BYTE_ORDER,
}

SLOW32: Mapping[AluOp, Transfer] = {
    AluOp.ADD: _narrow(AluOp.ADD, tnum.add, interval.add),
    AluOp.SUB: _narrow(AluOp.SUB, tnum.sub, interval.sub),
    AluOp.MUL: _narrow(AluOp.MUL, tnum.mul, interval.mul),
    AluOp.DIV: _narrow(AluOp.DIV, _div_tnum, interval.div),
    AluOp.SDIV: _narrow(AluOp.SDIV, _nothing, interval.sdiv),
    AluOp.OR: _narrow(AluOp.OR, tnum.or_, interval.or_),
    AluOp.AND: _narrow(AluOp.AND, tnum.and_, interval.and_),
    AluOp.LSH: _shift32(tnum.lshift, interval.lsh),
    AluOp.RSH: _shift32(_rshift, interval.rsh),
    AluOp.NEG: _neg32,
    AluOp.MOD: _narrow(AluOp.MOD, _mod_tnum, interval.mod),
    AluOp.SMOD: _narrow(AluOp.SMOD, _smod_tnum, interval.smod),
    AluOp.XOR: _narrow(AluOp.XOR, tnum.xor, interval.xor),
    AluOp.MOV: _mov32,
    AluOp.MOVSX8: movsx32(8),
    AluOp.MOVSX16: movsx32(16),
    AluOp.MOVSX32: movsx32(32),
    AluOp.ARSH: _shift32(tnum.arshift, interval.arsh),
    **_BYTE_ORDER,
}

FAST64: Mapping[AluOp, Transfer] = {
    AluOp.ADD: _add64,
    AluOp.SUB: _sub64,
    AluOp.AND: _and(SLOW64[AluOp.AND], U64, UNKNOWN),
    AluOp.LSH: _lsh64(SLOW64[AluOp.LSH]),
    AluOp.RSH: _rsh64,
}
FAST32: Mapping[AluOp, Transfer] = {
    AluOp.ADD: _add32,
    AluOp.AND: _and(SLOW32[AluOp.AND], U32, UNKNOWN32),
}

TRANSFER64: Mapping[AluOp, Transfer] = {**SLOW64, **FAST64}
TRANSFER32: Mapping[AluOp, Transfer] = {**SLOW32, **FAST32}

_KERNEL_AND64 = _wide(AluOp.AND, tnum.and_, interval.and_unsigned, carries_up=True)
_KERNEL_AND32 = _narrow(AluOp.AND, tnum.and_, interval.and_unsigned)
_KERNEL_LSH64 = _shift64(AluOp.LSH, tnum.lshift, interval.lsh, as_kernel=True)

# What kernels find less of than the transfers above, without and with its fast path.
KERNEL_SLOW64: Mapping[AluOp, Transfer] = {
    AluOp.MUL: _wide(AluOp.MUL, tnum.mul_in_order, interval.mul_unless_wraps, carries_up=True),
    AluOp.AND: _KERNEL_AND64,
    AluOp.LSH: _KERNEL_LSH64,
    AluOp.MOVSX8: kernel_movsx64(8),
    AluOp.MOVSX16: kernel_movsx64(16),
    AluOp.MOVSX32: kernel_movsx64(32),
    AluOp.LE16: _kernel_to_little_endian16,
}
KERNEL_SLOW32: Mapping[AluOp, Transfer] = {
    AluOp.MUL: _narrow(AluOp.MUL, tnum.mul_in_order, interval.mul_unless_wraps),
    AluOp.AND: _KERNEL_AND32,
    AluOp.MOVSX8: kernel_movsx32(8),
    AluOp.MOVSX16: kernel_movsx32(16),
    AluOp.LE16: _kernel_to_little_endian16,
}
KERNEL64: Mapping[AluOp, Transfer] = {
    **TRANSFER64,
    **KERNEL_SLOW64,
    AluOp.AND: _and(_KERNEL_AND64, U64, UNKNOWN),
    AluOp.LSH: _lsh64(_KERNEL_LSH64),
}
KERNEL32: Mapping[AluOp, Transfer] = {
    **TRANSFER32,
    **KERNEL_SLOW32,
    AluOp.AND: _and(_KERNEL_AND32, U32, UNKNOWN32),
}

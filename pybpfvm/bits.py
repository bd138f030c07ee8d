"""Machine words as Python ints: every function says its width and masks once, at the end."""

from __future__ import annotations

U8 = 0xFF
U16 = 0xFFFF
U32 = 0xFFFF_FFFF
U64 = 0xFFFF_FFFF_FFFF_FFFF


def u32(value: int) -> int:
    """The low 32 bits, as an unsigned number."""
    return value & U32


def u64(value: int) -> int:
    """The low 64 bits, as an unsigned number."""
    return value & U64


def s32(value: int) -> int:
    """The low 32 bits, read as two's complement."""
    return ((value & U32) ^ 0x8000_0000) - 0x8000_0000


def s64(value: int) -> int:
    """The low 64 bits, read as two's complement."""
    return ((value & U64) ^ 0x8000_0000_0000_0000) - 0x8000_0000_0000_0000


def sign_extend(value: int, bits: int) -> int:
    """The low `bits` bits of `value`, read as two's complement."""
    sign = 1 << (bits - 1)
    return ((value & ((1 << bits) - 1)) ^ sign) - sign


def bswap(value: int, bits: int) -> int:
    """The low `bits` bits (16, 32 or 64) with their bytes reversed; the rest is dropped."""
    size_bytes = bits // 8
    low = value & ((1 << bits) - 1)
    return int.from_bytes(low.to_bytes(size_bytes, "little"), "big")


def align_up(value: int, alignment: int) -> int:
    """The next multiple of `alignment` (a power of two), `value` itself if it is one."""
    return (value + alignment - 1) & -alignment


def round_up_pow2(value: int) -> int:
    """The smallest power of two that is at least `value` (1 for 0)."""
    return 1 << max(0, (value - 1).bit_length())

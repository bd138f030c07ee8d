"""Helpers on the packet of a network program, and Internet checksums. bpf-helpers(7), RFC 1071.

The packet is in one piece, and offsets count from what the program is shown of it. Which types of
programs have which of these is their profiles' business.
"""

from __future__ import annotations

from errno import EFAULT, EINVAL, ENOMEM

from pybpfvm.bits import U16, U32
from pybpfvm.helpers.context import BadArgument, HelperContext
from pybpfvm.helpers.probe import zero
from pybpfvm.helpers.proto import ArgType, Helper, RetType
from pybpfvm.memory import AddressSpace, Region

_S32_MAX = (1 << 31) - 1
_XDP_OFFSET_MAX = U16

_RECOMPUTE_CSUM = 1 << 0
_INVALIDATE_HASH = 1 << 1
_FIELD_BYTES = 0xF  # of the flags of the two csum_replace helpers
_PSEUDO_HEADER = 1 << 4
_MARK_MANGLED_0 = 1 << 5
_MARK_ENFORCE = 1 << 6

_MANGLED_0 = 0xFFFF  # how a checksum of 0 is sent where 0 means that there is none


def _packet(ctx: HelperContext) -> Region:
    if ctx.packet is None:
        raise BadArgument(1, "the program runs on no packet")
    return ctx.packet


def _place(ctx: HelperContext, offset: int, size: int, most: int) -> int | None:
    """Address of `size` bytes at `offset` of the packet, None unless all of them are there."""
    packet = _packet(ctx)
    if offset > most or offset + size > packet.size:
        return None
    return packet.start + offset


def skb_load_bytes(ctx: HelperContext, _skb: int, offset: int, to: int, size: int, _5: int) -> int:
    """0, or -EFAULT with `to` zeroed when the packet does not have those bytes."""
    offset, size = offset & U32, size & U32
    place = _place(ctx, offset, size, _S32_MAX)
    if place is None:
        zero(ctx.memory, to, size)
        return -EFAULT
    ctx.memory.program_write(to, ctx.memory.read(place, size))
    return 0


def skb_store_bytes(
    ctx: HelperContext, _skb: int, offset: int, from_: int, size: int, flags: int
) -> int:
    """0, -EINVAL for flags, -EFAULT when the packet does not have those bytes."""
    offset, size = offset & U32, size & U32
    data = ctx.memory.program_read(from_, size)
    if flags & ~(_RECOMPUTE_CSUM | _INVALIDATE_HASH):
        return -EINVAL
    place = _place(ctx, offset, size, _S32_MAX)
    if place is None:
        return -EFAULT
    ctx.memory.write(place, data)
    return 0


def skb_pull_data(ctx: HelperContext, _skb: int, size: int, _3: int, _4: int, _5: int) -> int:
    """0: all of the packet is in one piece already; -ENOMEM for more than there is."""
    return 0 if size & U32 <= _packet(ctx).size else -ENOMEM


def xdp_get_buff_len(ctx: HelperContext, _xdp: int, _2: int, _3: int, _4: int, _5: int) -> int:
    """Length of the packet."""
    return _packet(ctx).size


def xdp_load_bytes(ctx: HelperContext, _xdp: int, offset: int, to: int, size: int, _5: int) -> int:
    """0, -EFAULT for an offset or length above 65535, -EINVAL beyond the packet's end."""
    offset, size = offset & U32, size & U32
    ctx.memory.check(to, size, write=True)
    if max(offset, size) > _XDP_OFFSET_MAX:
        return -EFAULT
    place = _place(ctx, offset, size, _XDP_OFFSET_MAX)
    if place is None:
        return -EINVAL
    ctx.memory.program_write(to, ctx.memory.read(place, size))
    return 0


def xdp_store_bytes(
    ctx: HelperContext, _xdp: int, offset: int, from_: int, size: int, _5: int
) -> int:
    """As xdp_load_bytes, into the packet."""
    offset, size = offset & U32, size & U32
    data = ctx.memory.program_read(from_, size)
    if max(offset, size) > _XDP_OFFSET_MAX:
        return -EFAULT
    place = _place(ctx, offset, size, _XDP_OFFSET_MAX)
    if place is None:
        return -EINVAL
    ctx.memory.write(place, data)
    return 0


# Checksums: ones' complement sums of 16-bit words, in the byte order of the machine.


def _fold(total: int) -> int:
    """The ones' complement sum of the 16-bit words of `total`; 0 only for 0."""
    while total > U16:
        total = (total & U16) + (total >> 16)
    return total


def _sum(memory: AddressSpace, data: bytes) -> int:
    return sum(int.from_bytes(data[at : at + 2], memory.byteorder) for at in range(0, len(data), 2))


def csum_diff(
    ctx: HelperContext, from_: int, from_size: int, to: int, to_size: int, seed: int
) -> int:
    """`seed` less the sum of `from_` plus that of `to`, folded to 16 bits.

    -EINVAL when the sizes are not multiples of 4. (Kernels before 6.13 do not always fold.)
    """
    from_size, to_size = from_size & U32, to_size & U32
    if (from_size | to_size) % 4:
        return -EINVAL
    total = seed & U32
    if from_size:
        removed = _sum(ctx.memory, ctx.memory.program_read(from_, from_size))
        total += U16 - _fold(removed)
    if to_size:
        total += _sum(ctx.memory, ctx.memory.program_read(to, to_size))
    return _fold(total)


def _replaced(check: int, old: int, new: int) -> int:
    """The checksum when words that sum to `old` have given way to `new`. RFC 1624, equation 3."""
    return U16 - _fold((U16 - check) + (U16 - _fold(old)) + new)


def _check_field(ctx: HelperContext, offset: int) -> int | None:
    return None if offset & 1 else _place(ctx, offset & U32, 2, U16)


def _new_check(check: int, size: int, old: int, new: int) -> int | None:
    """The checksum after a change of a field of `size` bytes; for size 0, by the sum `new`."""
    if size == 0:
        return None if old else U16 - _fold((U16 - check) + (new & U32))
    if size in (2, 4):
        mask = (1 << 8 * size) - 1
        return _replaced(check, old & mask, new & mask)
    return None


def l3_csum_replace(
    ctx: HelperContext, _skb: int, offset: int, old: int, new: int, flags: int
) -> int:
    """0, -EINVAL for flags, -EFAULT for an offset that is odd or outside the packet."""
    if flags & ~_FIELD_BYTES:
        return -EINVAL
    place = _check_field(ctx, offset)
    if place is None:
        return -EFAULT
    memory = ctx.memory
    check = int.from_bytes(memory.read(place, 2), memory.byteorder)
    changed = _new_check(check, flags, old, new)
    if changed is None:
        return -EINVAL
    memory.write(place, changed.to_bytes(2, memory.byteorder))
    return 0


def l4_csum_replace(
    ctx: HelperContext, _skb: int, offset: int, old: int, new: int, flags: int
) -> int:
    """As l3_csum_replace; with BPF_F_MARK_MANGLED_0 a checksum of 0, which says that there is
    none, stays, unless BPF_F_MARK_ENFORCE is given too."""
    if flags & ~(_FIELD_BYTES | _PSEUDO_HEADER | _MARK_MANGLED_0 | _MARK_ENFORCE):
        return -EINVAL
    place = _check_field(ctx, offset)
    if place is None:
        return -EFAULT
    memory = ctx.memory
    check = int.from_bytes(memory.read(place, 2), memory.byteorder)
    mangled = bool(flags & _MARK_MANGLED_0)
    if mangled and not flags & _MARK_ENFORCE and check == 0:
        return 0
    changed = _new_check(check, flags & _FIELD_BYTES, old, new)
    if changed is None:
        return -EINVAL
    if mangled and changed == 0:
        changed = _MANGLED_0
    memory.write(place, changed.to_bytes(2, memory.byteorder))
    return 0


_INTO_MEMORY = (
    ArgType.PTR_TO_CTX,
    ArgType.ANYTHING,
    ArgType.PTR_TO_UNINIT_MEM,
    ArgType.CONST_SIZE,
)
_FROM_MEMORY = (ArgType.PTR_TO_CTX, ArgType.ANYTHING, ArgType.PTR_TO_MEM, ArgType.CONST_SIZE)
_CSUM_REPLACE = (
    ArgType.PTR_TO_CTX,
    ArgType.ANYTHING,
    ArgType.ANYTHING,
    ArgType.ANYTHING,
    ArgType.ANYTHING,
)

ROWS = (
    Helper("skb_load_bytes", _INTO_MEMORY, RetType.INTEGER, skb_load_bytes, "Copy from a packet."),
    Helper(
        "skb_store_bytes",
        (*_FROM_MEMORY, ArgType.ANYTHING),
        RetType.INTEGER,
        skb_store_bytes,
        "Copy into a packet.",
        moves_packet=True,
    ),
    Helper(
        "skb_pull_data",
        (ArgType.PTR_TO_CTX, ArgType.ANYTHING),
        RetType.INTEGER,
        skb_pull_data,
        "Bring the beginning of a packet into one piece.",
        moves_packet=True,
    ),
    Helper(
        "l3_csum_replace",
        _CSUM_REPLACE,
        RetType.INTEGER,
        l3_csum_replace,
        "Update the checksum of a network header.",
        moves_packet=True,
    ),
    Helper(
        "l4_csum_replace",
        _CSUM_REPLACE,
        RetType.INTEGER,
        l4_csum_replace,
        "Update the checksum of a transport header.",
        moves_packet=True,
    ),
    Helper(
        "csum_diff",
        (
            ArgType.PTR_TO_MEM_OR_NULL,
            ArgType.CONST_SIZE_OR_ZERO,
            ArgType.PTR_TO_MEM_OR_NULL,
            ArgType.CONST_SIZE_OR_ZERO,
            ArgType.ANYTHING,
        ),
        RetType.INTEGER,
        csum_diff,
        "The difference that a change of data makes to a checksum.",
        takes_packet=True,
    ),
    Helper(
        "xdp_get_buff_len",
        (ArgType.PTR_TO_CTX,),
        RetType.INTEGER,
        xdp_get_buff_len,
        "Length of a packet.",
        args_by_type=dict.fromkeys(("tracing", "syscall"), (ArgType.PTR_TO_BTF_ID,)),
    ),
    Helper("xdp_load_bytes", _INTO_MEMORY, RetType.INTEGER, xdp_load_bytes, "Copy from a packet."),
    Helper(
        "xdp_store_bytes", _FROM_MEMORY, RetType.INTEGER, xdp_store_bytes, "Copy into a packet."
    ),
)

"""Helpers on ring buffers. bpf-helpers(7)."""

from __future__ import annotations

from pybpfvm.helpers.context import BadArgument, HelperContext
from pybpfvm.helpers.proto import ArgType, Helper, RetType
from pybpfvm.maps.base import MapError
from pybpfvm.maps.ringbuf import RingbufMap


def _ring(ctx: HelperContext, addr: int) -> RingbufMap:
    found = ctx.map_at(addr, 1)
    if not isinstance(found, RingbufMap):
        raise BadArgument(1, f"{found} is not a ring buffer")
    return found


def _owner(ctx: HelperContext, sample: int) -> RingbufMap:
    region = ctx.memory.region_at(sample)
    owner = region.owner if region is not None else None
    if not isinstance(owner, RingbufMap) or not owner.is_reserved(sample):
        raise BadArgument(1, f"{sample:#x} is not a reserved record")
    return owner


def ringbuf_output(ctx: HelperContext, map_: int, data: int, size: int, flags: int, _5: int) -> int:
    """0, -EINVAL for flags, -EAGAIN without room."""
    ring = _ring(ctx, map_)
    raw = ctx.memory.program_read(data, size)
    try:
        ring.output(raw, flags)
    except MapError as error:
        return -error.errno
    return 0


def ringbuf_reserve(ctx: HelperContext, map_: int, size: int, flags: int, _4: int, _5: int) -> int:
    """Address of the record's data, or NULL."""
    return _ring(ctx, map_).reserve(size, flags)


def ringbuf_submit(ctx: HelperContext, sample: int, _2: int, _3: int, _4: int, _5: int) -> int:
    """Commit the record. The wake-up flags change nothing: the host drains when it likes."""
    _owner(ctx, sample).submit(sample)
    return 0


def ringbuf_discard(ctx: HelperContext, sample: int, _2: int, _3: int, _4: int, _5: int) -> int:
    """Give the record up."""
    _owner(ctx, sample).discard(sample)
    return 0


def ringbuf_query(ctx: HelperContext, map_: int, what: int, _3: int, _4: int, _5: int) -> int:
    """A quantity in bytes: BPF_RB_AVAIL_DATA, _RING_SIZE, _CONS_POS, _PROD_POS; else 0."""
    return _ring(ctx, map_).query(what)


_RECORD = (ArgType.PTR_TO_ALLOC_MEM, ArgType.ANYTHING)

ROWS = (
    Helper(
        "ringbuf_output",
        (
            ArgType.CONST_MAP_PTR,
            ArgType.PTR_TO_MEM,
            ArgType.CONST_SIZE_OR_ZERO,
            ArgType.ANYTHING,
        ),
        RetType.INTEGER,
        ringbuf_output,
        "Append a copy of memory.",
    ),
    Helper(
        "ringbuf_reserve",
        (ArgType.CONST_MAP_PTR, ArgType.CONST_ALLOC_SIZE_OR_ZERO, ArgType.ANYTHING),
        RetType.PTR_TO_ALLOC_MEM_OR_NULL,
        ringbuf_reserve,
        "Reserve a record.",
        acquires=True,
    ),
    Helper(
        "ringbuf_submit",
        _RECORD,
        RetType.VOID,
        ringbuf_submit,
        "Commit a record.",
        releases=1,
    ),
    Helper(
        "ringbuf_discard",
        _RECORD,
        RetType.VOID,
        ringbuf_discard,
        "Give a record up.",
        releases=1,
    ),
    Helper(
        "ringbuf_query",
        (ArgType.CONST_MAP_PTR, ArgType.ANYTHING),
        RetType.INTEGER,
        ringbuf_query,
        "Sizes and positions of the ring.",
    ),
)

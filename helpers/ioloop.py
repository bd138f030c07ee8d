"""Kernel functions of programs that drive a ring from inside io_uring_enter.

abi/iouring-bpf-upstream, section 3.
"""

from __future__ import annotations

from pybpfvm.bits import u32
from pybpfvm.helpers.context import BadArgument, HelperContext, LoopPort
from pybpfvm.helpers.proto import ArgType, Helper, RetType


def _ring(ctx: HelperContext, ring: int) -> LoopPort:
    if ctx.loop is None:
        raise BadArgument(1, "the program does not run inside an enter: it has no ring")
    if ring != ctx.loop.handle:
        raise BadArgument(1, f"{ring:#x} is not the ring")
    return ctx.loop


def submit(ctx: HelperContext, ring: int, count: int, _3: int, _4: int, _5: int) -> int:
    """How many SQEs were consumed, or -errno."""
    return _ring(ctx, ring).submit_sqes(u32(count))


def region(ctx: HelperContext, ring: int, region_id: int, size: int, _4: int, _5: int) -> int:
    """The region's address, or NULL."""
    return _ring(ctx, ring).region_addr(u32(region_id), size)


ROWS = (
    Helper(
        "io_uring_submit_sqes",
        (ArgType.PTR_TO_BTF_ID, ArgType.ANYTHING),
        RetType.INTEGER,
        submit,
        "Submit entries of the SQ. iouring-bpf-upstream, section 3.1.",
        sleeps=True,
    ),
    Helper(
        "io_uring_get_region",
        (ArgType.PTR_TO_BTF_ID, ArgType.ANYTHING, ArgType.ANYTHING),
        RetType.PTR_TO_MEM_OR_BTF_ID_OR_NULL,
        region,
        "Memory of the ring. iouring-bpf-upstream, section 3.2.",
    ),
)

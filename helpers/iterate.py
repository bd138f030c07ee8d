"""The open-coded loop over numbers: bpf_iter_num_new, _next, _destroy. Kernel
Documentation/bpf/kfuncs.rst and bpf_iterators.rst.

The eight bytes of a `struct bpf_iter_num` hold the current number and the end, as two int; after
the last turn both are 0.
"""

from __future__ import annotations

import errno

from pybpfvm.bits import U32, s32
from pybpfvm.helpers.context import HelperContext
from pybpfvm.helpers.proto import ArgType, Helper, RetType

MAX_LOOPS = 8 << 20


def new(ctx: HelperContext, it: int, start: int, end: int, _4: int, _5: int) -> int:
    """0, or -EINVAL for a range that ends before it starts, -E2BIG for one that is too long; a
    range that is refused is empty."""
    first, last = s32(start), s32(end)
    if first > last or last - first > MAX_LOOPS:
        _write(ctx, it, 0, 0)
        return -errno.EINVAL if first > last else -errno.E2BIG
    _write(ctx, it, first - 1, last)
    return 0


def advance(ctx: HelperContext, it: int, _2: int, _3: int, _4: int, _5: int) -> int:
    """The address of the next number, NULL at the end."""
    raw = ctx.memory.program_read(it, 8)
    current, end = (s32(int.from_bytes(raw[at : at + 4], "little")) for at in (0, 4))
    if current + 1 >= end:
        _write(ctx, it, 0, 0)
        return 0
    _write(ctx, it, current + 1, end)
    return it


def destroy(ctx: HelperContext, it: int, _2: int, _3: int, _4: int, _5: int) -> int:
    """The iterator is empty afterwards."""
    _write(ctx, it, 0, 0)
    return 0


def _write(ctx: HelperContext, it: int, current: int, end: int) -> None:
    words = (current & U32).to_bytes(4, "little") + (end & U32).to_bytes(4, "little")
    ctx.memory.program_write(it, words)


_PLACE = ArgType.PTR_TO_BTF_ID
ROWS = (
    Helper(
        "iter_num_new",
        (_PLACE, ArgType.ANYTHING, ArgType.ANYTHING),
        RetType.INTEGER,
        new,
        "Begin a loop over [start, end). bpf_iterators.rst.",
    ),
    Helper(
        "iter_num_next",
        (_PLACE,),
        RetType.PTR_TO_MEM_OR_BTF_ID_OR_NULL,
        advance,
        "The next number. bpf_iterators.rst.",
    ),
    Helper("iter_num_destroy", (_PLACE,), RetType.VOID, destroy, "End a loop. bpf_iterators.rst."),
)

"""Helpers that transfer control: tail calls and callbacks."""

from __future__ import annotations

from errno import E2BIG, EINVAL, ENOENT, ENOMEM

from pybpfvm.errors import InputError
from pybpfvm.helpers.context import BadArgument, HelperContext, TailCall
from pybpfvm.helpers.proto import ArgType, Helper, RetType
from pybpfvm.maps.base import MapError
from pybpfvm.maps.handles import ProgArrayMap
from pybpfvm.maps.live import LiveMap
from pybpfvm.memory import RegionKind

MAX_LOOPS = 1 << 23


def tail_call(ctx: HelperContext, prog_ctx: int, map_: int, index: int, _4: int, _5: int) -> int:
    """Leaves for the program in slot `index` (u32); returns, with an errno that programs never
    see, only when there is none."""
    if prog_ctx != ctx.ctx_addr:
        raise BadArgument(1, f"{prog_ctx:#x} is not the context pointer")
    found = ctx.map_at(map_, 2)
    if not isinstance(found, ProgArrayMap):
        raise BadArgument(2, f"{found} is not a program array")
    slot = index & 0xFFFF_FFFF
    if slot >= found.spec.max_entries:
        return -EINVAL
    target = found.program_at(slot)
    if target is None:
        return -ENOENT
    raise TailCall(target)


def for_each_map_elem(
    ctx: HelperContext, map_: int, callback: int, callback_ctx: int, flags: int, _5: int
) -> int:
    """Call `callback(map, key, value, callback_ctx)` for each element until it returns not 0.

    How many elements were visited; -EINVAL for flags or a map that can not be iterated, -ENOMEM
    at the memory limit. The key lies in a region of its own, read-only, that ends with the helper.
    """
    found = ctx.map_at(map_, 1)
    if flags or not isinstance(found, LiveMap):
        return -EINVAL
    visited = 0
    try:
        scratch = ctx.memory.alloc(
            max(1, found.spec.key_size), RegionKind.MAP_VALUE, f"key of {found}", writable=False
        )
    except InputError:
        return -ENOMEM
    try:
        for key, value in found.elements(ctx.cpu):
            ctx.memory.write(scratch.start, key)
            visited += 1
            if ctx.call(callback, (map_, scratch.start, value, callback_ctx)):
                break
    except MapError as error:
        return -error.errno
    finally:
        ctx.memory.free(scratch)
    return visited


def loop(
    ctx: HelperContext, count: int, callback: int, callback_ctx: int, flags: int, _5: int
) -> int:
    """Call `callback(i, callback_ctx)` for i from 0 to count-1 (u32) until it returns not 0.

    How many calls were made; -EINVAL for flags, -E2BIG for more than 2^23 of them.
    """
    times = count & 0xFFFF_FFFF
    if flags:
        return -EINVAL
    if times > MAX_LOOPS:
        return -E2BIG
    for index in range(times):
        if ctx.call(callback, (index, callback_ctx)):
            return index + 1
    return times


ROWS = (
    Helper(
        "tail_call",
        (ArgType.PTR_TO_CTX, ArgType.CONST_MAP_PTR, ArgType.ANYTHING),
        RetType.VOID,
        tail_call,
        "Go on in another program.",
    ),
    Helper(
        "for_each_map_elem",
        (
            ArgType.CONST_MAP_PTR,
            ArgType.PTR_TO_FUNC,
            ArgType.PTR_TO_STACK_OR_NULL,
            ArgType.ANYTHING,
        ),
        RetType.INTEGER,
        for_each_map_elem,
        "Call a function for each element of a map.",
    ),
    Helper(
        "loop",
        (
            ArgType.ANYTHING,
            ArgType.PTR_TO_FUNC,
            ArgType.PTR_TO_STACK_OR_NULL,
            ArgType.ANYTHING,
        ),
        RetType.INTEGER,
        loop,
        "Call a function a number of times.",
    ),
)

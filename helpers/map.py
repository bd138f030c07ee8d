"""Helpers on maps with keys, and on queues and stacks. bpf-helpers(7)."""

from __future__ import annotations

from pybpfvm.helpers.context import BadArgument, HelperContext
from pybpfvm.helpers.proto import ArgType, Helper, RetType
from pybpfvm.maps.array import ArrayMap
from pybpfvm.maps.base import BpfMap, MapError
from pybpfvm.maps.hash import HashMap
from pybpfvm.maps.queue import QueueMap
from pybpfvm.memory import AddressSpace
from pybpfvm.program import BPF_F_RDONLY_PROG, MapType

_VALUES = frozenset(
    (
        MapType.HASH,
        MapType.ARRAY,
        MapType.PERCPU_HASH,
        MapType.PERCPU_ARRAY,
        MapType.LRU_HASH,
        MapType.LRU_PERCPU_HASH,
        MapType.LPM_TRIE,
    )
)
_LOOKUP = _VALUES | {MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS}
_PER_CPU = frozenset((MapType.PERCPU_ARRAY, MapType.PERCPU_HASH, MapType.LRU_PERCPU_HASH))


def _keyed(ctx: HelperContext, addr: int, allowed: frozenset[MapType]) -> BpfMap:
    found = ctx.map_at(addr, 1)
    if found.spec.type not in allowed:
        raise BadArgument(1, f"{found} has a type that this helper does not take")
    return found


def _writable(found: BpfMap) -> None:
    if found.spec.flags & BPF_F_RDONLY_PROG:
        raise BadArgument(1, f"{found} is read-only for programs")


def _key(memory: AddressSpace, found: BpfMap, addr: int) -> bytes:
    return memory.program_read(addr, found.spec.key_size)


def map_lookup_elem(ctx: HelperContext, map_: int, key: int, _3: int, _4: int, _5: int) -> int:
    """Address of the value (a map's handle for maps of maps), or NULL."""
    found = _keyed(ctx, map_, _LOOKUP)
    return found.lookup(_key(ctx.memory, found, key), ctx.cpu)


def map_update_elem(
    ctx: HelperContext, map_: int, key: int, value: int, flags: int, _5: int
) -> int:
    """0, -EINVAL, -E2BIG, -EEXIST, -ENOENT, -ENOSPC or -ENOMEM."""
    found = _keyed(ctx, map_, _VALUES)
    _writable(found)
    raw_key = _key(ctx.memory, found, key)
    raw_value = ctx.memory.program_read(value, found.spec.value_size)
    try:
        found.update(raw_key, raw_value, flags, ctx.cpu)
    except MapError as error:
        return -error.errno
    return 0


def map_delete_elem(ctx: HelperContext, map_: int, key: int, _3: int, _4: int, _5: int) -> int:
    """0, -ENOENT, or -EINVAL (arrays)."""
    found = _keyed(ctx, map_, _VALUES)
    _writable(found)
    try:
        found.delete(_key(ctx.memory, found, key))
    except MapError as error:
        return -error.errno
    return 0


def map_lookup_percpu_elem(
    ctx: HelperContext, map_: int, key: int, cpu: int, _4: int, _5: int
) -> int:
    """Address of the value on `cpu` (u32), or NULL; NULL also for a CPU that does not exist."""
    found = ctx.map_at(map_, 1)
    if found.spec.type not in _PER_CPU or not isinstance(found, ArrayMap | HashMap):
        raise BadArgument(1, f"{found} is not a per-CPU map")
    raw_key = _key(ctx.memory, found, key)
    number = cpu & 0xFFFF_FFFF
    return found.lookup(raw_key, number) if number < found.cpus else 0


def _queue(ctx: HelperContext, addr: int, *, writes: bool) -> QueueMap:
    found = ctx.map_at(addr, 1)
    if not isinstance(found, QueueMap):
        raise BadArgument(1, f"{found} is not a queue or stack")
    if writes:
        _writable(found)
    return found


def map_push_elem(ctx: HelperContext, map_: int, value: int, flags: int, _4: int, _5: int) -> int:
    """0, -E2BIG when full (BPF_EXIST: the oldest value goes instead), -EINVAL for other flags."""
    found = _queue(ctx, map_, writes=True)
    raw = ctx.memory.program_read(value, found.spec.value_size)
    try:
        found.push(raw, flags)
    except MapError as error:
        return -error.errno
    return 0


def map_pop_elem(ctx: HelperContext, map_: int, value: int, _3: int, _4: int, _5: int) -> int:
    """0, or -ENOENT with a zeroed value."""
    found = _queue(ctx, map_, writes=True)
    ctx.memory.check(value, found.spec.value_size, write=True)
    try:
        data = found.pop()
    except MapError as error:
        ctx.memory.program_write(value, bytes(found.spec.value_size))
        return -error.errno
    ctx.memory.program_write(value, data)
    return 0


def map_peek_elem(ctx: HelperContext, map_: int, value: int, _3: int, _4: int, _5: int) -> int:
    """0, or -ENOENT with a zeroed value."""
    found = _queue(ctx, map_, writes=False)
    try:
        data = found.peek()
    except MapError as error:
        ctx.memory.program_write(value, bytes(found.spec.value_size))
        return -error.errno
    ctx.memory.program_write(value, data)
    return 0


_MAP_AND_KEY = (ArgType.CONST_MAP_PTR, ArgType.PTR_TO_MAP_KEY)
_MAP_AND_OUT = (ArgType.CONST_MAP_PTR, ArgType.PTR_TO_UNINIT_MAP_VALUE)

ROWS = (
    Helper(
        "map_lookup_elem",
        _MAP_AND_KEY,
        RetType.PTR_TO_MAP_VALUE_OR_NULL,
        map_lookup_elem,
        "Pointer to the value of a key.",
        takes_packet=True,
    ),
    Helper(
        "map_update_elem",
        (*_MAP_AND_KEY, ArgType.PTR_TO_MAP_VALUE, ArgType.ANYTHING),
        RetType.INTEGER,
        map_update_elem,
        "Add or change an element; flags BPF_ANY, BPF_NOEXIST or BPF_EXIST.",
        takes_packet=True,
    ),
    Helper(
        "map_delete_elem",
        _MAP_AND_KEY,
        RetType.INTEGER,
        map_delete_elem,
        "Remove an element.",
        takes_packet=True,
    ),
    Helper(
        "map_lookup_percpu_elem",
        (*_MAP_AND_KEY, ArgType.ANYTHING),
        RetType.PTR_TO_MAP_VALUE_OR_NULL,
        map_lookup_percpu_elem,
        "Pointer to the value of a key on another CPU.",
        takes_packet=True,
    ),
    Helper(
        "map_push_elem",
        (ArgType.CONST_MAP_PTR, ArgType.PTR_TO_MAP_VALUE, ArgType.ANYTHING),
        RetType.INTEGER,
        map_push_elem,
        "Push onto a queue or stack.",
        takes_packet=True,
    ),
    Helper(
        "map_pop_elem", _MAP_AND_OUT, RetType.INTEGER, map_pop_elem, "Pop from a queue or stack."
    ),
    Helper("map_peek_elem", _MAP_AND_OUT, RetType.INTEGER, map_peek_elem, "What a pop would take."),
)

"""Which maps a kernel would create: the attribute checks of BPF_MAP_CREATE, one row per type.

Limits are those of a 64-bit kernel with 4 MiB kmalloc and 32 KiB per-CPU units. `tests/maps`
asks the running kernel the same questions and compares errno by errno.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from errno import E2BIG, EINVAL

from pybpfvm.bits import align_up, round_up_pow2
from pybpfvm.maps.base import MapError
from pybpfvm.memory import PAGE
from pybpfvm.program import (
    BPF_F_INNER_MAP,
    BPF_F_MMAPABLE,
    BPF_F_NO_PREALLOC,
    BPF_F_RDONLY,
    BPF_F_RDONLY_PROG,
    BPF_F_WRONLY,
    BPF_F_WRONLY_PROG,
    MapSpec,
    MapType,
)

ENOTSUPP = 524  # the kernel's own number; errno(3) has no name for it
BPF_F_NO_COMMON_LRU = 1 << 1
BPF_F_NUMA_NODE = 1 << 2
BPF_F_ZERO_SEED = 1 << 6

_KMALLOC_MAX = 1 << 22
_HASH_ELEM_OVERHEAD = 48
_MAX_BUCKETS = (1 << 28) - 1  # of 16 bytes each, counted in 32 bits
_PERCPU_VALUE_MAX = 32 << 10
_LPM_DATA_MAX = 256
_LPM_VALUE_MAX = _KMALLOC_MAX - _LPM_DATA_MAX - 24
_INT_MAX = (1 << 31) - 1

_SYSCALL_ACCESS = BPF_F_RDONLY | BPF_F_WRONLY
_PROGRAM_ACCESS = BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG
_ACCESS = _SYSCALL_ACCESS | _PROGRAM_ACCESS
_HASH_FLAGS = BPF_F_NO_PREALLOC | BPF_F_ZERO_SEED | _ACCESS

Refusal = tuple[int, str]
Check = Callable[[MapSpec], Refusal | None]


def refusal(spec: MapSpec) -> MapError | None:
    """Why BPF_MAP_CREATE refuses a map of a type in `RULES`, or None where it does not.

    The checks of the inner map of a map-in-map are not among them: `inner_refusal`.
    """
    rule = RULES[MapType(spec.type)]
    found = _common(spec, rule) or rule.check(spec)
    return MapError(*found) if found else None


def inner_refusal(inner: MapSpec) -> MapError | None:
    """Why a map can not serve as the template of a map-in-map, or None."""
    if inner.type in (MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS):
        return MapError(EINVAL, "the inner map holds maps itself: only one level is possible")
    if inner.type == MapType.PROG_ARRAY:
        return MapError(ENOTSUPP, "the inner map is a program array")
    return None


@dataclass(frozen=True, slots=True)
class _Rule:
    """`flags` a type allows, and what else it asks of the other attributes."""

    flags: int
    check: Check


def _common(spec: MapSpec, rule: _Rule) -> Refusal | None:
    if spec.map_extra:
        return EINVAL, f"map_extra is {spec.map_extra}, which this type does not use"
    if spec.flags & _SYSCALL_ACCESS == _SYSCALL_ACCESS:
        return EINVAL, "BPF_F_RDONLY and BPF_F_WRONLY exclude each other"
    if spec.flags & _PROGRAM_ACCESS == _PROGRAM_ACCESS:
        return EINVAL, "BPF_F_RDONLY_PROG and BPF_F_WRONLY_PROG exclude each other"
    stray = spec.flags & ~rule.flags
    if stray:
        return EINVAL, f"flags {stray:#x} are not allowed for this type"
    return None


def _not_empty(spec: MapSpec) -> Refusal | None:
    for size, what in (
        (spec.key_size, "key_size"),
        (spec.value_size, "value_size"),
        (spec.max_entries, "max_entries"),
    ):
        if size == 0:
            return EINVAL, f"{what} is 0"
    return None


def _array(spec: MapSpec) -> Refusal | None:
    if spec.key_size != 4:
        return EINVAL, f"key_size is {spec.key_size}; array indices have 4 bytes"
    empty = _not_empty(spec)
    if empty:
        return empty
    if spec.value_size > _INT_MAX:
        return E2BIG, f"value_size is {spec.value_size}, more than {_INT_MAX}"
    return None


def _percpu_array(spec: MapSpec) -> Refusal | None:
    return _array(spec) or _percpu_value(spec)


def _percpu_value(spec: MapSpec) -> Refusal | None:
    if align_up(spec.value_size, 8) > _PERCPU_VALUE_MAX:
        return E2BIG, f"value_size is {spec.value_size}, more than {_PERCPU_VALUE_MAX} per CPU"
    return None


def _hash(spec: MapSpec) -> Refusal | None:
    empty = _not_empty(spec)
    if empty:
        return empty
    limit = _KMALLOC_MAX - _HASH_ELEM_OVERHEAD
    if spec.key_size + spec.value_size >= limit:
        return E2BIG, f"key and value together have {limit} bytes or more"
    if round_up_pow2(spec.max_entries) > _MAX_BUCKETS:
        return E2BIG, f"max_entries is {spec.max_entries}: too many hash buckets"
    return None


def _percpu_hash(spec: MapSpec) -> Refusal | None:
    return _not_empty(spec) or _percpu_value(spec) or _hash(spec)


def _lru_hash(spec: MapSpec) -> Refusal | None:
    if spec.flags & BPF_F_NO_PREALLOC:
        return ENOTSUPP, "an LRU map is always preallocated (BPF_F_NO_PREALLOC)"
    if spec.flags & BPF_F_NUMA_NODE and spec.flags & BPF_F_NO_COMMON_LRU:
        return EINVAL, "BPF_F_NUMA_NODE and BPF_F_NO_COMMON_LRU exclude each other"
    return _hash(spec)


def _lru_percpu_hash(spec: MapSpec) -> Refusal | None:
    if spec.flags & BPF_F_NO_PREALLOC:
        return ENOTSUPP, "an LRU map is always preallocated (BPF_F_NO_PREALLOC)"
    if spec.flags & BPF_F_NUMA_NODE:
        return EINVAL, "per-CPU values have no memory node of their own (BPF_F_NUMA_NODE)"
    return _percpu_hash(spec)


def _lpm_trie(spec: MapSpec) -> Refusal | None:
    if not spec.flags & BPF_F_NO_PREALLOC:
        return EINVAL, "an LPM trie needs BPF_F_NO_PREALLOC"
    if spec.max_entries == 0:
        return EINVAL, "max_entries is 0"
    if not 5 <= spec.key_size <= 4 + _LPM_DATA_MAX:
        return EINVAL, f"key_size is {spec.key_size}, outside 5..{4 + _LPM_DATA_MAX}"
    if not 1 <= spec.value_size <= _LPM_VALUE_MAX:
        return EINVAL, f"value_size is {spec.value_size}, outside 1..{_LPM_VALUE_MAX}"
    return None


def _queue_or_stack(spec: MapSpec) -> Refusal | None:
    if spec.key_size != 0:
        return EINVAL, f"key_size is {spec.key_size}; queues and stacks have no keys"
    if spec.value_size == 0 or spec.max_entries == 0:
        return EINVAL, "value_size or max_entries is 0"
    if spec.value_size > _KMALLOC_MAX:
        return E2BIG, f"value_size is {spec.value_size}, more than {_KMALLOC_MAX}"
    return None


def _ringbuf(spec: MapSpec) -> Refusal | None:
    if spec.key_size or spec.value_size:
        return EINVAL, "a ring buffer has neither key_size nor value_size"
    size = spec.max_entries
    if size == 0 or size & (size - 1) or size % PAGE:
        return EINVAL, f"max_entries is {size}; it must be a power of two and a multiple of {PAGE}"
    return None


def _handles(spec: MapSpec) -> Refusal | None:
    if spec.value_size != 4:
        return EINVAL, f"value_size is {spec.value_size}; file descriptors have 4 bytes"
    return None


def _array_of_handles(spec: MapSpec) -> Refusal | None:
    return _handles(spec) or _array(spec)


def _hash_of_maps(spec: MapSpec) -> Refusal | None:
    return _handles(spec) or _hash(spec)


RULES: Mapping[MapType, _Rule] = {
    MapType.ARRAY: _Rule(BPF_F_NUMA_NODE | BPF_F_MMAPABLE | BPF_F_INNER_MAP | _ACCESS, _array),
    MapType.PERCPU_ARRAY: _Rule(_ACCESS, _percpu_array),
    MapType.HASH: _Rule(_HASH_FLAGS | BPF_F_NUMA_NODE, _hash),
    MapType.PERCPU_HASH: _Rule(_HASH_FLAGS, _percpu_hash),
    MapType.LRU_HASH: _Rule(_HASH_FLAGS | BPF_F_NO_COMMON_LRU | BPF_F_NUMA_NODE, _lru_hash),
    MapType.LRU_PERCPU_HASH: _Rule(
        _HASH_FLAGS | BPF_F_NO_COMMON_LRU | BPF_F_NUMA_NODE, _lru_percpu_hash
    ),
    MapType.LPM_TRIE: _Rule(BPF_F_NO_PREALLOC | BPF_F_NUMA_NODE | _ACCESS, _lpm_trie),
    MapType.QUEUE: _Rule(BPF_F_NUMA_NODE | _ACCESS, _queue_or_stack),
    MapType.STACK: _Rule(BPF_F_NUMA_NODE | _ACCESS, _queue_or_stack),
    MapType.RINGBUF: _Rule(BPF_F_NUMA_NODE, _ringbuf),
    MapType.PROG_ARRAY: _Rule(BPF_F_NUMA_NODE | _SYSCALL_ACCESS, _array_of_handles),
    MapType.ARRAY_OF_MAPS: _Rule(BPF_F_NUMA_NODE | _SYSCALL_ACCESS, _array_of_handles),
    MapType.HASH_OF_MAPS: _Rule(_HASH_FLAGS | BPF_F_NUMA_NODE, _hash_of_maps),
}

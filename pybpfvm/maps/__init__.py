"""Live maps: `make_map` brings a MapSpec to life. The types are the rows of `_MAKERS`."""

from __future__ import annotations

from collections.abc import Callable

from pybpfvm.btf.kernelfields import Field
from pybpfvm.errors import InputError, UnsupportedError, errno_name
from pybpfvm.maps.array import ArrayMap
from pybpfvm.maps.base import BpfMap, MapError
from pybpfvm.maps.handles import ArrayOfMaps, HashOfMaps, ProgArrayMap
from pybpfvm.maps.hash import HashMap, LruHashMap
from pybpfvm.maps.live import LiveMap
from pybpfvm.maps.lpm import LpmTrieMap
from pybpfvm.maps.queue import QueueMap
from pybpfvm.maps.ringbuf import RingbufMap
from pybpfvm.maps.rules import inner_refusal, refusal
from pybpfvm.memory import AddressSpace
from pybpfvm.program import MapSpec, MapType

__all__ = ["BpfMap", "MapError", "make_map"]

_Fields = tuple[Field, ...]
_Maker = Callable[[MapSpec, AddressSpace, int, _Fields], LiveMap]


def make_map(spec: MapSpec, memory: AddressSpace, *, cpus: int = 1, fields: _Fields = ()) -> BpfMap:
    """The map that `spec` declares, empty or with its initial data, in `memory`.

    `cpus` is the number of possible CPUs, which per-CPU maps have values for; `fields` are those
    of its values that are the kernel's (see `kernelfields.copied_around`). The initial contents
    of `spec.slots` and freezing are the caller's. Raises UnsupportedError for a map type
    that this version does not have, InputError for attributes that a kernel would refuse and for
    a map that exceeds the memory limit.
    """
    where = f"map {spec.name}"
    maker = _MAKERS.get(spec.type)
    if maker is None:
        known = spec.type in MapType.__members__.values()
        name = MapType(spec.type).name if known else str(spec.type)
        raise UnsupportedError(f"map type {name}", where=where)
    _check(spec, where)
    if cpus < 1:
        raise InputError(f"{cpus} CPUs", where=where, remedy="1 or more")
    return maker(spec, memory, cpus, fields)


def _check(spec: MapSpec, where: str) -> None:
    error = refusal(spec)
    if error is None and spec.type in (MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS):
        if spec.inner is None:
            raise InputError(
                "a map of maps without a description of the inner map",
                where=where,
                remedy="declare it with __array(values, struct { ... })",
            )
        error = inner_refusal(spec.inner)
    if error is not None:
        raise InputError(
            f"a kernel would refuse to create it: {error.reason} (-{errno_name(error.errno)})",
            where=where,
            remedy="correct the map's definition",
        )


def _array(spec: MapSpec, memory: AddressSpace, cpus: int, fields: _Fields) -> LiveMap:
    return ArrayMap(spec, memory, cpus=cpus, fields=fields)


def _hash(spec: MapSpec, memory: AddressSpace, cpus: int, fields: _Fields) -> LiveMap:
    return HashMap(spec, memory, cpus=cpus, fields=fields)


def _lru_hash(spec: MapSpec, memory: AddressSpace, cpus: int, fields: _Fields) -> LiveMap:
    return LruHashMap(spec, memory, cpus=cpus, fields=fields)


def _plain(make: Callable[[MapSpec, AddressSpace], LiveMap]) -> _Maker:
    """On one CPU, of values without fields: kernels make no other maps of such types."""
    return lambda spec, memory, _cpus, _fields: make(spec, memory)


_MAKERS: dict[int, _Maker] = {
    MapType.ARRAY: _array,
    MapType.PERCPU_ARRAY: _array,
    MapType.HASH: _hash,
    MapType.PERCPU_HASH: _hash,
    MapType.LRU_HASH: _lru_hash,
    MapType.LRU_PERCPU_HASH: _lru_hash,
    MapType.LPM_TRIE: _plain(LpmTrieMap),
    MapType.QUEUE: _plain(QueueMap),
    MapType.STACK: _plain(QueueMap),
    MapType.RINGBUF: _plain(RingbufMap),
    MapType.PROG_ARRAY: _plain(ProgArrayMap),
    MapType.ARRAY_OF_MAPS: _plain(ArrayOfMaps),
    MapType.HASH_OF_MAPS: _plain(HashOfMaps),
}

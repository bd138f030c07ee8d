"""HASH, PERCPU_HASH, LRU_HASH and LRU_PERCPU_HASH.

Iteration is in order of insertion (kernels: by bucket, so programs and hosts must not rely on
any order). Updating an element keeps its place.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from errno import E2BIG, EEXIST, ENOENT

from pybpfvm.bits import align_up
from pybpfvm.btf.kernelfields import Field
from pybpfvm.errors import InputError
from pybpfvm.maps.base import MapError, MapState
from pybpfvm.maps.hashindex import MOST_ENTRIES, HashIndex
from pybpfvm.maps.live import BPF_EXIST, BPF_NOEXIST, LiveMap
from pybpfvm.maps.slab import Slab
from pybpfvm.maps.values import Values
from pybpfvm.memory import AddressSpace
from pybpfvm.program import BPF_F_RDONLY_PROG, MapSpec, MapType

_PER_CPU = (MapType.PERCPU_HASH, MapType.LRU_PERCPU_HASH)


class _Element:
    """A key, the address of its value, and its neighbours in order of insertion."""

    __slots__ = ("addr", "key", "newer", "older")

    def __init__(self, key: bytes, addr: int, older: _Element | None) -> None:
        self.key = key
        self.addr = addr
        self.older = older
        self.newer: _Element | None = None


class HashMap(LiveMap):
    """Values live in a slab; per-CPU maps keep those of all CPUs side by side in one slot.

    Updating an existing element writes a new slot and releases the old one, as kernels do: a
    pointer looked up before the update still shows the old value. Per-CPU values are updated in
    place. An update by a program concerns its own CPU; a new element starts with zeroes on the
    others.
    """

    def __init__(
        self,
        spec: MapSpec,
        memory: AddressSpace,
        *,
        cpus: int,
        value_bytes: int | None = None,
        fields: tuple[Field, ...] = (),
    ) -> None:
        super().__init__(spec, memory)
        self.cpus = cpus
        self._value_bytes = spec.value_size if value_bytes is None else value_bytes
        self.stride = align_up(self._value_bytes, 8)
        self._per_cpu = spec.type in _PER_CPU
        self._copies = cpus if self._per_cpu else 1
        self._values = Values(memory, self._value_bytes, fields)
        # One slot more than elements: an update in a full map takes the new before the old.
        self._slab = Slab(
            memory,
            spec.name,
            self.stride * self._copies,
            spec.max_entries + 1,
            writable=not spec.flags & BPF_F_RDONLY_PROG,
        )
        self._elements: dict[bytes, _Element] = {}
        self._oldest: _Element | None = None
        self._newest: _Element | None = None
        self._index: HashIndex | None = None

    def index(self) -> HashIndex | None:
        """The elements where compiled code finds them; None for maps where looking up is more
        than that (LRU, per CPU), too large ones, and where memory has run out."""
        plain = self.spec.type == MapType.HASH and self.spec.max_entries <= MOST_ENTRIES
        if self._index is None and plain:
            items = ((key, found.addr) for key, found in self._elements.items())
            try:
                self._index = HashIndex(
                    self.memory, self.spec.key_size, self.spec.max_entries, items
                )
            except InputError:
                return None
        return self._index

    def __len__(self) -> int:
        return len(self._elements)

    def lookup(self, key: bytes, cpu: int) -> int:
        """Address of the value (on `cpu`), or 0."""
        found = self._elements.get(self.check_key(key))
        if found is None:
            return 0
        self._used(found)
        return found.addr + (cpu * self.stride if self._per_cpu else 0)

    def update(self, key: bytes, value: bytes, flags: int, cpu: int) -> None:
        """EINVAL bad flags, EEXIST / ENOENT as the flags ask, E2BIG when full."""
        self.check_value(value, self._value_bytes)
        found = self._existing(key, flags)
        fresh = self._place(key, found)
        if self._per_cpu:
            if found is None:
                self.memory.write(fresh.addr, bytes(self.stride * self._copies))
            self._values.write(fresh.addr + cpu * self.stride, value)
        else:
            self._values.write(fresh.addr, value)

    def delete(self, key: bytes) -> None:
        """ENOENT if there is no such element."""
        found = self._elements.get(self.check_key(key))
        if found is None:
            raise MapError(ENOENT, f"{self}: no such key")
        self._remove(found)

    @property
    def _host_bytes(self) -> int:
        return self.stride * self._copies if self._per_cpu else self._value_bytes

    def host_lookup(self, key: bytes) -> bytes:
        """The value; ENOENT if there is none. Does not count as use for LRU maps."""
        self.check_host_read()
        return self._host_value(self._host_found(key))

    def _host_value(self, found: _Element) -> bytes:
        size = self.stride if self._per_cpu else self._value_bytes
        places = range(found.addr, found.addr + size * self._copies, size)
        return b"".join(self._values.read(addr, size) for addr in places)

    def _host_found(self, key: bytes) -> _Element:
        found = self._elements.get(self.check_key(key))
        if found is None:
            raise MapError(ENOENT, f"{self}: no such key")
        return found

    def host_update(self, key: bytes, value: bytes, flags: int = 0) -> None:
        """As `update`; values of all CPUs at once."""
        self.check_host_write()
        self.check_value(value, self._host_bytes)
        found = self._existing(key, flags)
        addr = self._place(key, found).addr
        size = self.stride if self._per_cpu else self._value_bytes
        for at in range(0, size * self._copies, size):
            self._values.write(addr + at, value[at : at + size])

    def host_delete(self, key: bytes) -> None:
        """ENOENT if there is no such element."""
        self.check_host_write()
        self.delete(key)

    def host_lookup_and_delete(self, key: bytes) -> bytes:
        """The value, whose element is gone afterwards; ENOENT if there is none."""
        self.check_host_write()
        self.check_host_read()
        found = self._host_found(key)
        value = self._host_value(found)
        self._remove(found)
        return value

    def next_key(self, key: bytes | None) -> bytes:
        """In order of insertion; a key that is not there starts over."""
        self.check_host_read()
        found = None if key is None else self._elements.get(self.check_key(key))
        following = self._oldest if found is None else found.newer
        if following is None:
            raise MapError(ENOENT, f"{self}: no further key")
        return following.key

    def elements(self, cpu: int) -> Iterator[tuple[bytes, int]]:
        """In order of insertion; elements deleted on the way are skipped, new ones left out."""
        offset = cpu * self.stride if self._per_cpu else 0
        for key in tuple(self._elements):
            found = self._elements.get(key)
            if found is not None:
                yield key, found.addr + offset

    def content(self) -> Iterator[bytes | memoryview]:
        """As every map: see LiveMap."""
        for key, found in self._elements.items():
            yield key + found.addr.to_bytes(8, "little")
            yield self.memory.read(found.addr, self._host_bytes)

    def _existing(self, key: bytes, flags: int) -> _Element | None:
        self.check_flags(flags)
        found = self._elements.get(self.check_key(key))
        if found is not None and flags == BPF_NOEXIST:
            raise MapError(EEXIST, f"{self}: the key exists already")
        if found is None and flags == BPF_EXIST:
            raise MapError(ENOENT, f"{self}: no such key")
        return found

    def _place(self, key: bytes, found: _Element | None) -> _Element:
        """The element to write for `key`: a new slot unless per-CPU values are there already."""
        if found is None:
            self._make_room()
            return self._insert(bytes(key), self._take())
        if not self._per_cpu:
            fresh = self._take()
            self._release(found.addr)
            found.addr = fresh
            if self._index is not None:
                self._index.put(found.key, fresh)
        self._used(found)
        return found

    def _take(self) -> int:
        """A slot whose fields are zero: whatever was written there, it was another element's."""
        addr = self._slab.take()
        for at in range(0, self.stride * self._copies, self.stride):
            self._values.clear(addr + at)
        return addr

    def _release(self, addr: int) -> None:
        """Give a slot back; what its fields hold is given up."""
        for at in range(0, self.stride * self._copies, self.stride):
            self._values.release(addr + at)
        self._slab.release(addr)

    def _make_room(self) -> None:
        if len(self._elements) >= self.spec.max_entries:
            raise MapError(E2BIG, f"{self} is full: {self.spec.max_entries} elements")

    def _used(self, element: _Element) -> None:
        """The element was looked up by a program, or updated."""

    def _insert(self, key: bytes, addr: int) -> _Element:
        element = _Element(key, addr, self._newest)
        if self._newest is None:
            self._oldest = element
        else:
            self._newest.newer = element
        self._newest = element
        self._elements[key] = element
        if self._index is not None:
            self._index.put(key, addr)
        return element

    def _remove(self, element: _Element) -> None:
        del self._elements[element.key]
        if self._index is not None:
            self._index.remove(element.key)
        if element.older is None:
            self._oldest = element.newer
        else:
            element.older.newer = element.newer
        if element.newer is None:
            self._newest = element.older
        else:
            element.newer.older = element.older
        self._release(element.addr)

    def state(self) -> MapState:
        """With the elements in order of insertion, as (key, address of the value)."""
        elements = tuple((key, found.addr) for key, found in self._elements.items())
        return *super().state(), self._slab.state(), elements

    def restore(self, state: MapState) -> None:
        """Have the elements again."""
        super().restore(state)
        _, slab, elements = state[:3]
        self._slab.restore(slab)
        # What compiled code finds is no part of snapshots: it learns what differs.
        index, self._index = self._index, None
        before = {key: found.addr for key, found in self._elements.items()}
        self._elements = {}
        self._oldest = self._newest = None
        for key, addr in elements:
            self._insert(key, addr)
        self._index = index
        if index is not None:
            index.become(before, dict(elements))

    def accepts(self, state: MapState) -> bool:
        """Whether the elements have keys and slots of their own."""
        frozen, slab, elements = state
        keys, slots = [key for key, _ in elements], [addr for _, addr in elements]
        return (
            super().accepts((frozen,))
            and isinstance(elements, tuple)
            and len(keys) <= self.spec.max_entries
            and all(isinstance(key, bytes) and len(key) == self.spec.key_size for key in keys)
            and len(set(keys)) == len(keys)
            and self._slab.accepts(slab, slots)
        )


class LruHashMap(HashMap):
    """A full map drops the element that was least recently used to make room.

    Used means: looked up by a program, or written. The order is exact and global. Kernels
    approximate it (reference bits, batches, per-CPU free lists), may drop elements before the map
    is full, and with BPF_F_NO_COMMON_LRU keep one list per CPU; a program that is right on every
    kernel is right here, and a run can be repeated.
    """

    def __init__(
        self, spec: MapSpec, memory: AddressSpace, *, cpus: int, fields: tuple[Field, ...] = ()
    ) -> None:
        super().__init__(spec, memory, cpus=cpus, fields=fields)
        self._by_use: OrderedDict[bytes, _Element] = OrderedDict()

    def _make_room(self) -> None:
        if len(self) >= self.spec.max_entries:
            self._remove(next(iter(self._by_use.values())))

    def content(self) -> Iterator[bytes | memoryview]:
        """As every map: see LiveMap."""
        yield from super().content()
        yield from self._by_use

    def _used(self, element: _Element) -> None:
        self._by_use.move_to_end(element.key)

    def _insert(self, key: bytes, addr: int) -> _Element:
        element = super()._insert(key, addr)
        self._by_use[key] = element
        return element

    def _remove(self, element: _Element) -> None:
        super()._remove(element)
        del self._by_use[element.key]

    def state(self) -> MapState:
        """With the keys, the least recently used first."""
        return *super().state(), tuple(self._by_use)

    def restore(self, state: MapState) -> None:
        """Have the elements again, and their order by use."""
        self._by_use.clear()
        super().restore(state)
        for key in state[3]:
            self._by_use.move_to_end(key)

    def accepts(self, state: MapState) -> bool:
        """Whether that is the order of its elements."""
        *plain, by_use = state
        keys = sorted(key for key, _ in plain[2])
        return super().accepts(tuple(plain)) and sorted(by_use) == keys

"""Maps whose values stand for objects: PROG_ARRAY, ARRAY_OF_MAPS and HASH_OF_MAPS.

The kernel takes file descriptors (4 bytes, the declared value_size) and gives ids back. Here the
host writes and reads the object's handle, 8 bytes in the program's byte order.
"""

from __future__ import annotations

from collections.abc import Iterator
from errno import E2BIG, EBADF, EINVAL, ENOENT

from pybpfvm.maps.array import IndexedMap
from pybpfvm.maps.base import MapError, MapState
from pybpfvm.maps.hash import HashMap
from pybpfvm.maps.live import BPF_ANY, LiveMap
from pybpfvm.memory import AddressSpace
from pybpfvm.program import BPF_F_INNER_MAP, MapSpec, MapType

HANDLE_BYTES = 8


class HandleArrayMap(IndexedMap):
    """An array of handles; empty slots are 0. Programs read it through helpers only."""

    def __init__(self, spec: MapSpec, memory: AddressSpace) -> None:
        super().__init__(spec, memory)
        self._slots: dict[int, int] = {}

    def check_target(self, handle: int) -> None:
        """Raises MapError: EBADF for no handle, EINVAL for one of the wrong object."""
        raise NotImplementedError

    def at(self, index: int) -> int:
        """The handle in slot `index`, 0 for an empty one or an index out of range."""
        return self._slots.get(index, 0)

    def content(self) -> Iterator[bytes | memoryview]:
        """As every map: see LiveMap."""
        for index in sorted(self._slots):
            yield f"{index}:{self._slots[index]:#x} ".encode()

    def host_lookup(self, key: bytes) -> bytes:
        """The handle; ENOENT for an empty slot or an index out of range."""
        self.check_host_read()
        handle = self.at(self.index(key))
        if handle == 0:
            raise MapError(ENOENT, f"{self}: slot {self.index(key)} is empty")
        return handle.to_bytes(HANDLE_BYTES, self.memory.byteorder)

    def host_update(self, key: bytes, value: bytes, flags: int = 0) -> None:
        """EINVAL for flags, E2BIG out of range, then as `check_target`."""
        self.check_host_write()
        index = self.index(key)
        self.check_value(value, HANDLE_BYTES)
        if flags != BPF_ANY:
            raise MapError(EINVAL, f"{self}: update flags {flags:#x}")
        if index >= self.spec.max_entries:
            raise MapError(E2BIG, f"{self}: index {index} of {self.spec.max_entries}")
        handle = int.from_bytes(value, self.memory.byteorder)
        self.check_target(handle)
        self._slots[index] = handle

    def host_delete(self, key: bytes) -> None:
        """E2BIG out of range, ENOENT for an empty slot."""
        self.check_host_write()
        index = self.index(key)
        if index >= self.spec.max_entries:
            raise MapError(E2BIG, f"{self}: index {index} of {self.spec.max_entries}")
        if self._slots.pop(index, None) is None:
            raise MapError(ENOENT, f"{self}: slot {index} is empty")

    def state(self) -> MapState:
        """With the slots."""
        return *super().state(), dict(self._slots)

    def restore(self, state: MapState) -> None:
        """Have the slots again."""
        super().restore(state)
        self._slots = dict(state[1])

    def accepts(self, state: MapState) -> bool:
        """Whether the slots are there, and what is in them."""
        frozen, slots = state
        if not all(type(one) is int for one in (*slots, *slots.values())):
            return False
        try:
            for handle in slots.values():
                self.check_target(handle)
        except MapError:
            return False
        return super().accepts((frozen,)) and all(0 <= at < self.spec.max_entries for at in slots)


class ProgArrayMap(HandleArrayMap):
    """Programs for tail calls. Which objects are programs is the image's business: any handle
    that is not a map's is taken."""

    def check_target(self, handle: int) -> None:
        """EBADF for no handle, EINVAL for a map."""
        target = self.memory.resolve(handle)
        if target is None:
            raise MapError(EBADF, f"{self}: {handle:#x} is no handle")
        if isinstance(target, LiveMap):
            raise MapError(EINVAL, f"{self}: {target} is not a program")

    def program_at(self, index: int) -> object | None:
        """The object that the handle in slot `index` stands for, None if there is none."""
        return self.memory.resolve(self.at(index))


class ArrayOfMaps(HandleArrayMap):
    """Inner maps by index; a program's lookup gives the inner map's handle."""

    def lookup(self, key: bytes, cpu: int) -> int:
        """The inner map's handle, or 0."""
        return self.at(self.index(key))

    def check_target(self, handle: int) -> None:
        """EBADF for no map, EINVAL for one that differs from the template."""
        check_inner(self, handle)


class HashOfMaps(HashMap):
    """Inner maps by key; a program's lookup gives the inner map's handle."""

    def __init__(self, spec: MapSpec, memory: AddressSpace) -> None:
        super().__init__(spec, memory, cpus=1, value_bytes=HANDLE_BYTES)

    def lookup(self, key: bytes, cpu: int) -> int:
        """The inner map's handle, or 0."""
        addr = super().lookup(key, cpu)
        if addr == 0:
            return 0
        return int.from_bytes(self.memory.read(addr, HANDLE_BYTES), self.memory.byteorder)

    def update(self, key: bytes, value: bytes, flags: int, cpu: int) -> None:
        """EINVAL: programs can not put maps into maps."""
        LiveMap.update(self, key, value, flags, cpu)

    def host_update(self, key: bytes, value: bytes, flags: int = 0) -> None:
        """As a hash map's, after EBADF for no map and EINVAL for one unlike the template."""
        self.check_host_write()
        self.check_value(value, HANDLE_BYTES)
        self.check_no_lock(flags)
        check_inner(self, int.from_bytes(value, self.memory.byteorder))
        super().host_update(key, value, flags)

    def host_lookup_and_delete(self, key: bytes) -> bytes:
        """ENOTSUPP."""
        return LiveMap.host_lookup_and_delete(self, key)

    def accepts(self, state: MapState) -> bool:
        """As a hash map, of maps like the template."""
        if not super().accepts(state):
            return False
        try:
            for _, addr in state[2]:
                inner = self.memory.read(addr, HANDLE_BYTES)
                check_inner(self, int.from_bytes(inner, self.memory.byteorder))
        except MapError:
            return False
        return True


def check_inner(outer: LiveMap, handle: int) -> None:
    """Raises MapError unless the handle is that of a map like the template `outer.spec.inner`."""
    target = outer.memory.resolve(handle)
    if target is None:
        raise MapError(EBADF, f"{outer}: {handle:#x} is no handle")
    template = outer.spec.inner
    if not isinstance(target, LiveMap) or template is None or not _alike(template, target.spec):
        raise MapError(EINVAL, f"{outer}: {target} is not like the inner map it was made for")


def _alike(template: MapSpec, spec: MapSpec) -> bool:
    """Whether a map fits the template: all but the size, which counts for arrays only, and not
    for those with BPF_F_INNER_MAP."""
    same = (
        template.type == spec.type
        and template.key_size == spec.key_size
        and template.value_size == spec.value_size
        and template.flags == spec.flags
    )
    sized = template.type == MapType.ARRAY and not template.flags & BPF_F_INNER_MAP
    return same and (not sized or template.max_entries == spec.max_entries)

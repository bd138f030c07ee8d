"""ARRAY and PERCPU_ARRAY: elements 0..max_entries-1, always there, zero at first."""

from __future__ import annotations

from collections.abc import Iterator
from errno import E2BIG, EEXIST, EINVAL, ENOENT

from pybpfvm.bits import align_up
from pybpfvm.btf.kernelfields import Field
from pybpfvm.errors import InputError
from pybpfvm.maps.base import MapError
from pybpfvm.maps.live import BPF_NOEXIST, LiveMap
from pybpfvm.maps.values import Values
from pybpfvm.memory import AddressSpace, Region, RegionKind
from pybpfvm.program import BPF_F_RDONLY_PROG, MapSpec, MapType


class IndexedMap(LiveMap):
    """A map whose key is a 32-bit index in the program's byte order."""

    def index(self, key: bytes) -> int:
        """The index that `key` holds, in range or not."""
        return int.from_bytes(self.check_key(key), self.memory.byteorder)

    def key(self, index: int) -> bytes:
        """The key of an index."""
        return index.to_bytes(4, self.memory.byteorder)

    def next_key(self, key: bytes | None) -> bytes:
        """Indices in ascending order; a key out of range starts over."""
        self.check_host_read()
        index = -1 if key is None else self.index(key)
        if index == self.spec.max_entries - 1:
            raise MapError(ENOENT, f"{self}: index {index} is the last")
        return self.key(index + 1 if index < self.spec.max_entries else 0)


class ArrayMap(IndexedMap):
    """Elements at a stride of value_size rounded up to 8, one region per CPU that has its own.

    ARRAY: one region, whatever the CPU, and host values of value_size bytes. PERCPU_ARRAY: a
    region for each CPU; host values are those of all CPUs one after the other, each a stride
    long. With BPF_F_RDONLY_PROG the regions are not writable by programs. BPF_F_MMAPABLE needs
    nothing: the host reads and writes the region in place, through `region`.
    """

    def __init__(
        self, spec: MapSpec, memory: AddressSpace, *, cpus: int, fields: tuple[Field, ...] = ()
    ) -> None:
        super().__init__(spec, memory)
        self.cpus = cpus
        self._values = Values(memory, spec.value_size, fields)
        self.stride = align_up(spec.value_size, 8)
        self._per_cpu = spec.type == MapType.PERCPU_ARRAY
        writable = not spec.flags & BPF_F_RDONLY_PROG
        names = [f"{spec.name}[cpu {cpu}]" for cpu in range(cpus)] if self._per_cpu else [spec.name]
        self.regions: tuple[Region, ...] = tuple(
            memory.alloc(
                self.stride * spec.max_entries, RegionKind.MAP_VALUE, name, writable=writable
            )
            for name in names
        )
        if spec.data is not None:
            self._initialise(spec.data)

    def _initialise(self, data: bytes) -> None:
        if len(data) > self.spec.value_size:
            raise InputError(
                f"{len(data)} bytes of initial data for a value of {self.spec.value_size}",
                where=str(self),
            )
        for region in self.regions:
            self._values.write(region.start, data)

    @property
    def region(self) -> Region:
        """Where the elements live (those of CPU 0, for a per-CPU map)."""
        return self.regions[0]

    def _offset(self, key: bytes) -> int | None:
        index = self.index(key)
        return index * self.stride if index < self.spec.max_entries else None

    def _region_of(self, cpu: int) -> Region:
        return self.regions[cpu if self._per_cpu else 0]

    def lookup(self, key: bytes, cpu: int) -> int:
        """Address of the element, or 0 for an index out of range."""
        offset = self._offset(key)
        return 0 if offset is None else self._region_of(cpu).start + offset

    def _writable_offset(self, key: bytes, flags: int) -> int:
        self.check_flags(flags)
        offset = self._offset(key)
        if offset is None:
            raise MapError(E2BIG, f"{self}: index {self.index(key)} of {self.spec.max_entries}")
        if flags == BPF_NOEXIST:
            raise MapError(EEXIST, f"{self}: array elements always exist")
        return offset

    def update(self, key: bytes, value: bytes, flags: int, cpu: int) -> None:
        """EINVAL for bad flags, E2BIG out of range, EEXIST for BPF_NOEXIST."""
        offset = self._writable_offset(key, flags)
        self._values.write(
            self._region_of(cpu).start + offset, self.check_value(value, self.spec.value_size)
        )

    def delete(self, key: bytes) -> None:
        """EINVAL: array elements can not be deleted."""
        raise MapError(EINVAL, f"{self}: array elements can not be deleted")

    def host_lookup(self, key: bytes) -> bytes:
        """The element; ENOENT out of range."""
        self.check_host_read()
        offset = self._offset(key)
        if offset is None:
            raise MapError(ENOENT, f"{self}: index {self.index(key)} of {self.spec.max_entries}")
        size = self.stride if self._per_cpu else self.spec.value_size
        return b"".join(self._values.read(region.start + offset, size) for region in self.regions)

    def host_update(self, key: bytes, value: bytes, flags: int = 0) -> None:
        """As `update`, for all CPUs at once."""
        self.check_host_write()
        size = self.stride if self._per_cpu else self.spec.value_size
        self.check_value(value, size * len(self.regions))
        offset = self._writable_offset(key, flags)
        for number, region in enumerate(self.regions):
            self._values.write(region.start + offset, value[number * size : (number + 1) * size])

    def host_delete(self, key: bytes) -> None:
        """EINVAL, as `delete`."""
        self.check_host_write()
        self.delete(self.check_key(key))

    def content(self) -> Iterator[bytes | memoryview]:
        """As every map: see LiveMap."""
        yield from map(self.memory.view, self.regions)

    def elements(self, cpu: int) -> Iterator[tuple[bytes, int]]:
        """All elements in ascending order."""
        start = self._region_of(cpu).start
        for index in range(self.spec.max_entries):
            yield self.key(index), start + index * self.stride

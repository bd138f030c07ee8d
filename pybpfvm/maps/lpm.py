"""LPM_TRIE: keys are prefixes, lookups find the longest one that matches.

A key is a 32-bit prefix length in the program's byte order, followed by the data, most
significant bit first. Data bits beyond the prefix do not tell keys apart, but are kept as given.
Iteration is in order of insertion (kernels: along the trie).
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import Counter
from collections.abc import Iterator
from errno import EEXIST, EINVAL, ENOENT, ENOSPC

from pybpfvm.bits import align_up
from pybpfvm.maps.base import MapError, MapState
from pybpfvm.maps.live import BPF_EXIST, BPF_NOEXIST, LiveMap
from pybpfvm.maps.slab import Slab
from pybpfvm.memory import AddressSpace
from pybpfvm.program import BPF_F_RDONLY_PROG, MapSpec

_Prefix = tuple[int, int]  # length in bits, and that many bits as a number


class LpmTrieMap(LiveMap):
    """Values live in a slab; an update writes a new slot, as kernels do."""

    def __init__(self, spec: MapSpec, memory: AddressSpace) -> None:
        super().__init__(spec, memory)
        self._data_bits = 8 * (spec.key_size - 4)
        self._slab = Slab(
            memory,
            spec.name,
            align_up(spec.value_size, 8),
            spec.max_entries + 1,
            writable=not spec.flags & BPF_F_RDONLY_PROG,
        )
        self._nodes: dict[_Prefix, tuple[bytes, int]] = {}  # the key as given, and its value
        self._by_length: dict[int, int] = {}  # how many nodes have this prefix length
        self._lengths: list[int] = []  # its keys, ascending

    def __len__(self) -> int:
        return len(self._nodes)

    def _split(self, key: bytes) -> tuple[int, int]:
        """Prefix length (maybe too large) and all data bits as a number."""
        key = self.check_key(key)
        return int.from_bytes(key[:4], self.memory.byteorder), int.from_bytes(key[4:], "big")

    def _prefix(self, key: bytes) -> _Prefix:
        length, data = self._split(key)
        if length > self._data_bits:
            raise MapError(EINVAL, f"{self}: a prefix of {length} bits in {self._data_bits}")
        return length, data >> (self._data_bits - length)

    def lookup(self, key: bytes, cpu: int) -> int:
        """Address of the value of the longest prefix that matches, or 0."""
        length, data = self._split(key)
        if length > self._data_bits:
            return 0
        for index in range(bisect_right(self._lengths, length) - 1, -1, -1):
            shorter = self._lengths[index]
            found = self._nodes.get((shorter, data >> (self._data_bits - shorter)))
            if found is not None:
                return found[1]
        return 0

    def update(self, key: bytes, value: bytes, flags: int, cpu: int) -> None:
        """EINVAL bad flags or prefix length, EEXIST / ENOENT as the flags ask, ENOSPC if full."""
        self.check_value(value, self.spec.value_size)
        self.check_flags(flags)
        prefix = self._prefix(key)
        found = self._nodes.get(prefix)
        if found is not None and flags == BPF_NOEXIST:
            raise MapError(EEXIST, f"{self}: the prefix exists already")
        if found is None:
            if flags == BPF_EXIST:
                raise MapError(ENOENT, f"{self}: no such prefix")
            if len(self._nodes) >= self.spec.max_entries:
                raise MapError(ENOSPC, f"{self} is full: {self.spec.max_entries} elements")
        addr = self._slab.take()
        self.memory.write(addr, bytes(value))
        self._nodes[prefix] = bytes(key), addr
        if found is not None:
            self._slab.release(found[1])
        else:
            self._count(prefix[0], 1)

    def _count(self, length: int, change: int) -> None:
        count = self._by_length.get(length, 0) + change
        if count == 0:
            del self._by_length[length]
            self._lengths.remove(length)
            return
        if length not in self._by_length:
            insort(self._lengths, length)
        self._by_length[length] = count

    def delete(self, key: bytes) -> None:
        """EINVAL for a bad prefix length, ENOENT if exactly this prefix is not there."""
        prefix = self._prefix(key)
        found = self._nodes.pop(prefix, None)
        if found is None:
            raise MapError(ENOENT, f"{self}: no such prefix")
        self._count(prefix[0], -1)
        self._slab.release(found[1])

    def host_lookup(self, key: bytes) -> bytes:
        """The value of the longest match; ENOENT if none matches."""
        self.check_host_read()
        addr = self.lookup(key, 0)
        if addr == 0:
            raise MapError(ENOENT, f"{self}: no prefix matches")
        return self.memory.read(addr, self.spec.value_size)

    def host_update(self, key: bytes, value: bytes, flags: int = 0) -> None:
        """As `update`."""
        self.check_host_write()
        self.update(key, value, flags, 0)

    def host_delete(self, key: bytes) -> None:
        """As `delete`."""
        self.check_host_write()
        self.delete(key)

    def content(self) -> Iterator[bytes | memoryview]:
        """As every map: see LiveMap."""
        for key, addr in self._nodes.values():
            yield key + addr.to_bytes(8, "little")
            yield self.memory.read(addr, self.spec.value_size)

    def next_key(self, key: bytes | None) -> bytes:
        """In order of insertion; a prefix that is not there starts over. O(number of elements)."""
        self.check_host_read()
        prefixes = iter(self._nodes)
        if key is not None:
            length, data = self._split(key)
            wanted = length, data >> max(0, self._data_bits - length)
            if wanted in self._nodes:
                for prefix in prefixes:
                    if prefix == wanted:
                        break
        following = next(prefixes, None)
        if following is None:
            raise MapError(ENOENT, f"{self}: no further key")
        return self._nodes[following][0]

    def state(self) -> MapState:
        """With the keys in order of insertion, and the addresses of their values."""
        return *super().state(), self._slab.state(), tuple(self._nodes.values())

    def restore(self, state: MapState) -> None:
        """Have the prefixes again."""
        super().restore(state)
        _, slab, nodes = state
        self._slab.restore(slab)
        self._nodes = {self._prefix(key): (key, addr) for key, addr in nodes}
        self._by_length = dict(Counter(length for length, _ in self._nodes))
        self._lengths = sorted(self._by_length)

    def accepts(self, state: MapState) -> bool:
        """Whether the keys have prefixes and slots of their own."""
        frozen, slab, nodes = state
        slots = [addr for _, addr in nodes]
        try:
            prefixes = [self._prefix(key) for key, _ in nodes]
        except MapError:
            return False
        return (
            super().accepts((frozen,))
            and all(isinstance(key, bytes) for key, _ in nodes)
            and len(prefixes) <= self.spec.max_entries
            and len(set(prefixes)) == len(prefixes)
            and self._slab.accepts(slab, slots)
        )

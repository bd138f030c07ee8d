"""Values of maps, of which some fields are the kernel's and not the host's or the programs'.

A value is copied around them, whoever brings it. What an update finds in a field is given up,
except in locks and reference counts, and a host reads of fields what new ones hold. Measured on
Linux 6.18, where the empty list that a host sees is one of addresses in the kernel: zeroes here.
"""

from __future__ import annotations

from pybpfvm.btf.kernelfields import LOCKS, Field, FieldKind
from pybpfvm.memory import AddressSpace

_KEPT = LOCKS | {FieldKind.REFCOUNT}


class Values:
    """Values in memory, of `size` bytes and with these fields, by offset. Fields that do not lie
    within the value are none."""

    def __init__(self, memory: AddressSpace, size: int, fields: tuple[Field, ...]) -> None:
        self._memory = memory
        self._fields = tuple(one for one in fields if one.offset + one.size <= size)
        self._between: list[slice] = []
        start = 0
        for one in self._fields:
            self._between.append(slice(start, one.offset))
            start = max(start, one.offset + one.size)
        self._between.append(slice(start, None))  # what rounds the size up is copied, too

    def write(self, addr: int, value: bytes) -> None:
        """Put a value where one is, or where fields are clear."""
        if not self._fields:
            self._memory.write(addr, value)
            return
        for place in self._between:
            if part := value[place]:
                self._memory.write(addr + place.start, part)
        self.release(addr)

    def read(self, addr: int, size: int) -> bytes:
        """The value as a host gets it: `size` bytes."""
        value = self._memory.read(addr, size)
        if not self._fields:
            return value
        shown = bytearray(value)
        for one in self._fields:
            fresh = int(one.kind is FieldKind.REFCOUNT)
            shown[one.offset : one.offset + one.size] = fresh.to_bytes(
                one.size, self._memory.byteorder
            )
        return bytes(shown)

    def release(self, addr: int) -> None:
        """Give up what the fields of a value hold."""
        for one in self._fields:
            if one.kind not in _KEPT:
                self._memory.write(addr + one.offset, bytes(one.size))

    def clear(self, addr: int) -> None:
        """The fields are those of a new value."""
        for one in self._fields:
            self._memory.write(addr + one.offset, bytes(one.size))

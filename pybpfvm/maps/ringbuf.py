"""RINGBUF: records that programs reserve, fill and submit, and the host drains in order.

Positions and sizes count as in the kernel's ring: a record takes its data plus an 8-byte header,
rounded up to 8, and the ring is full one byte before its size. The data of a reserved record is a
region of its own, so that an access beside it, or after submitting it, is a fault; submitted
data is held as bytes until the host takes it.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator
from errno import EAGAIN, EINVAL

from pybpfvm.bits import align_up
from pybpfvm.errors import InputError
from pybpfvm.maps.base import MapError, MapState
from pybpfvm.maps.live import LiveMap
from pybpfvm.memory import AddressSpace, Region, RegionKind
from pybpfvm.program import MapSpec

HEADER_BYTES = 8
_POSITIONS = struct.Struct("<QQ")
_MOST_POSITION = 1 << 63  # far from where they wrap
MAX_RECORD_BYTES = 0xFFFF_FFFF // 4

BPF_RB_NO_WAKEUP = 1
BPF_RB_FORCE_WAKEUP = 2
BPF_RB_AVAIL_DATA = 0
BPF_RB_RING_SIZE = 1
BPF_RB_CONS_POS = 2
BPF_RB_PROD_POS = 3


class _Record:
    """A record between reservation and consumption: busy while it has a region."""

    __slots__ = ("data", "region", "span")

    def __init__(self, span: int, region: Region | None, data: bytes | None) -> None:
        self.span = span
        self.region = region
        self.data = data  # None: busy, or discarded


class RingbufMap(LiveMap):
    """`max_entries` is the size of the ring in bytes."""

    def __init__(self, spec: MapSpec, memory: AddressSpace) -> None:
        super().__init__(spec, memory)
        if spec.max_entries > memory.limit_bytes:
            raise InputError(
                f"a ring of {spec.max_entries} bytes exceeds the memory limit "
                f"of {memory.limit_bytes}",
                where=str(self),
                remedy="use a smaller ring, or raise the limit",
            )
        self._producer = 0
        self._consumer = 0
        self._records: deque[_Record] = deque()
        self._reserved: dict[int, _Record] = {}

    def reserve(self, size: int, flags: int) -> int:
        """Address of `size` bytes to fill, or 0: bad flags, too large, or no room."""
        span = align_up(size + HEADER_BYTES, 8)
        if flags or not self._has_room(size, span):
            return 0
        try:
            region = self.memory.alloc(
                max(size, 1), RegionKind.RINGBUF, f"{self.spec.name} record", owner=self
            )
        except InputError:
            return 0
        record = _Record(span, region, None)
        self._append(record)
        self._reserved[region.start] = record
        return region.start

    def _has_room(self, size: int, span: int) -> bool:
        used = self._producer - self._consumer
        return size <= MAX_RECORD_BYTES and used + span < self.spec.max_entries

    def _append(self, record: _Record) -> None:
        self._records.append(record)
        self._producer += record.span

    def is_reserved(self, addr: int) -> bool:
        """Whether a record is reserved at exactly this address."""
        return addr in self._reserved

    def submit(self, addr: int) -> None:
        """Commit the record reserved at `addr`, whose region ends here."""
        self._finish(addr, keep=True)

    def discard(self, addr: int) -> None:
        """Give the record reserved at `addr` up; its room returns when the host drains past it."""
        self._finish(addr, keep=False)

    def _finish(self, addr: int, *, keep: bool) -> None:
        record = self._reserved.pop(addr)
        region = record.region
        assert region is not None, "a reserved record has a region"
        if keep:
            data = self.memory.read(addr, region.size)
            record.data = data[: record.span - HEADER_BYTES]
        record.region = None
        self.memory.free(region)

    def output(self, data: bytes, flags: int) -> None:
        """Append a committed record. EINVAL for bad flags, EAGAIN without room."""
        if flags & ~(BPF_RB_NO_WAKEUP | BPF_RB_FORCE_WAKEUP):
            raise MapError(EINVAL, f"{self}: flags {flags:#x}")
        span = align_up(len(data) + HEADER_BYTES, 8)
        if not self._has_room(len(data), span):
            raise MapError(EAGAIN, f"{self}: no room for {len(data)} bytes")
        self._append(_Record(span, None, bytes(data)))

    def content(self) -> Iterator[bytes | memoryview]:
        """As every map: see LiveMap."""
        yield _POSITIONS.pack(self._producer, self._consumer)
        for record in self._records:
            if record.region is not None:
                yield record.region.start.to_bytes(8, "little")
            elif record.data is not None:
                yield record.data

    def query(self, what: int) -> int:
        """One of the BPF_RB_* quantities in bytes, 0 for an unknown one."""
        quantities = {
            BPF_RB_AVAIL_DATA: self._producer - self._consumer,
            BPF_RB_RING_SIZE: self.spec.max_entries,
            BPF_RB_CONS_POS: self._consumer,
            BPF_RB_PROD_POS: self._producer,
        }
        return quantities.get(what, 0)

    def drain(self) -> list[bytes]:
        """Consume what is committed, in order of reservation, up to the first record still busy.

        Discarded records are skipped.
        """
        taken: list[bytes] = []
        while self._records and self._records[0].region is None:
            record = self._records.popleft()
            self._consumer += record.span
            if record.data is not None:
                taken.append(record.data)
        return taken

    def state(self) -> MapState:
        """With the positions and the records, oldest first."""
        records = tuple((record.span, record.region, record.data) for record in self._records)
        return *super().state(), self._producer, self._consumer, records

    def restore(self, state: MapState) -> None:
        """Have the records again; those that were reserved are in their regions."""
        super().restore(state)
        _, self._producer, self._consumer, records = state
        self._records = deque(_Record(*one) for one in records)
        self._reserved = {
            record.region.start: record for record in self._records if record.region is not None
        }

    def accepts(self, state: MapState) -> bool:
        """Whether the records fill what lies between the positions; none is reserved."""
        frozen, producer, consumer, records = state
        return (
            super().accepts((frozen,))
            and all(type(one) is int for one in (producer, consumer, *(one[0] for one in records)))
            and producer < _MOST_POSITION
            and 0 <= consumer <= producer < consumer + max(self.spec.max_entries, 1)
            and sum(span for span, _, _ in records) == producer - consumer
            and all(region is None and _fits(span, data) for span, region, data in records)
        )


def _fits(span: int, data: bytes | None) -> bool:
    """Whether a record that takes so much room may hold that; None: it was discarded."""
    if data is None:
        return span >= HEADER_BYTES and span % 8 == 0
    return isinstance(data, bytes) and span == align_up(len(data) + HEADER_BYTES, 8)

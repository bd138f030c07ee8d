"""What programs and hosts see of a ring: three regions, and the kernel's side of the two queues.

    CQ region   byte  0     4     8     12    16    20    24    28    32       36     44
                      SQ    SQ    CQ    CQ    SQ    CQ    SQ    CQ    SQ       SQ     CQ
                      head  tail  head  tail  mask  mask  entr. entr. dropped  flags  overflow
                64: CQEs of 16 bytes, then (64-aligned) the u32 index array, unless NO_SQARRAY
    SQ region   SQEs of 64 bytes

With CQE32 and SQE128 entries are twice as large, and so is all that stands before the array.

    MEM region  what the host registered

Heads that programs move and tails that hosts move are read from memory each time: both sides write
there whenever they like. abi/iouring-bpf-upstream, section 3.3.
"""

from __future__ import annotations

import errno
from collections import deque
from typing import Final, NamedTuple

from pybpfvm.bits import U32, align_up, s32
from pybpfvm.errors import InputError, RingError
from pybpfvm.memory import PAGE, AddressSpace, Region, RegionKind
from pybpfvm.profiles.base import Region as RingRegion
from pybpfvm.uring_backend.abi import NO_EXTRA, SQ_CQ_OVERFLOW, SQE_BYTES
from pybpfvm.uring_backend.cq import CQES_OFFSET, CompletionQueue, cq_bytes
from pybpfvm.uring_backend.loop.setup import LoopSetup

# Indices of u32 words.
_SQ_HEAD, _SQ_TAIL, _CQ_HEAD, _CQ_TAIL = 0, 1, 2, 3
_SQ_MASK, _SQ_ENTRIES = 4, 6
_DROPPED, _SQ_FLAGS, _OVERFLOW = 8, 9, 11

# What io_uring_setup reports: names of struct io_sqring_offsets and io_cqring_offsets.
SQ_OFFSETS: Final = {
    "head": 0,
    "tail": 4,
    "ring_mask": 16,
    "ring_entries": 24,
    "flags": 36,
    "dropped": 32,
}
CQ_OFFSETS: Final = {
    "head": 8,
    "tail": 12,
    "ring_mask": 20,
    "ring_entries": 28,
    "overflow": 44,
    "cqes": CQES_OFFSET,
    "flags": 40,
}


class Posting(NamedTuple):
    """A CQE, of the request `token` that `origin` submitted; None: of none, `origin` made it."""

    user_data: int
    res: int
    flags: int
    origin: str
    token: int | None
    extra: tuple[int, int] = NO_EXTRA


def ring_layout(setup: LoopSetup) -> dict[str, int]:
    """What io_uring_setup reports of a ring: sizes, and the offsets of the CQ region by `sq_NAME`
    and `cq_NAME`."""
    queue_bytes = cq_bytes(setup.cq_entries, setup.cqe_bytes)
    return {
        "sq_entries": setup.sq_entries,
        "cq_entries": setup.cq_entries,
        "flags": setup.flags,
        "sq_array": align_up(queue_bytes, 64) if setup.has_array else 0,
        **{f"sq_{name}": offset for name, offset in SQ_OFFSETS.items()},
        **{f"cq_{name}": offset for name, offset in CQ_OFFSETS.items()},
    }


class LoopMemory:
    """The regions of one ring, and its queues as the kernel works on them.

    `backlog_entries` CQEs can wait for room in the CQ; more are lost, as when the kernel has no
    memory for them. RingError -ENOMEM when `memory` has no room for the ring.
    """

    def __init__(self, memory: AddressSpace, setup: LoopSetup, backlog_entries: int) -> None:
        self._memory = memory
        self._backlog: deque[Posting] = deque()
        self._backlog_entries = backlog_entries
        self.sq_head = 0  # the kernel's own copy: what programs write there changes nothing
        self._by_kind: dict[RingRegion, Region] = {}
        self._regions: list[Region] = []
        self._views: list[memoryview] = []
        self._map(setup)

    def _map(self, setup: LoopSetup) -> None:
        """Memory for both queues, zeroed but for what never changes."""
        size = cq_bytes(setup.cq_entries, setup.cqe_bytes)
        array_at = ring_layout(setup)["sq_array"]
        if setup.has_array:
            size = array_at + 4 * setup.sq_entries
        regions: list[Region] = []
        try:
            for bytes_, name in (
                (size, "CQ region"),
                (setup.sq_entries * setup.sqe_bytes, "SQ region"),
            ):
                made = self._memory.alloc(align_up(bytes_, PAGE), RegionKind.RING, name)
                regions.append(made)
        except InputError as error:
            for region in regions:
                self._memory.free(region)
            raise RingError(errno.ENOMEM, f"the ring does not fit: {error}") from error
        self._setup, self.array_at, self._regions = setup, array_at, regions
        cq, sq = regions
        self._by_kind |= {RingRegion.CQ: cq, RingRegion.SQ: sq}
        self._cq, self._sq = self._memory.view(cq), self._memory.view(sq)
        self._words = self._cq[:CQES_OFFSET].cast("I")
        array = self._cq[self.array_at : self.array_at + 4 * setup.sq_entries]
        self._array = array.cast("I") if setup.has_array else None
        self._views = [self._words, self._sq]
        if self._array is not None:
            self._views.append(self._array)
            for index in range(setup.sq_entries):
                self._array[index] = index
        self._words[_SQ_MASK] = setup.sq_entries - 1
        self._words[_SQ_ENTRIES] = setup.sq_entries
        self.cq = CompletionQueue(0, setup.cq_entries, self._cq, setup.cqe_bytes)

    def resize(self, setup: LoopSetup) -> None:
        """Other sizes: what is in the queues moves, and keeps its place modulo the new size.

        RingError EOVERFLOW, and nothing is changed, when it is too much for them.
        """
        words, mask, sqe_bytes = self._words, self._setup.sq_entries - 1, setup.sqe_bytes
        tail = words[_SQ_TAIL]
        waiting, held = (tail - words[_SQ_HEAD]) & U32, self.cq.count()
        if waiting > setup.sq_entries or held > setup.cq_entries:
            raise RingError(errno.EOVERFLOW, f"{waiting} SQEs and {held} CQEs do not fit")
        sqes = [
            (at, bytes(self._sq[(at & mask) * sqe_bytes :][:sqe_bytes]))
            for at in ((words[_SQ_HEAD] + ahead) & U32 for ahead in range(waiting))
        ]
        cqes = [self.cq.peek(index) for index in range(held)]
        kept = {
            at: words[at] for at in (_SQ_HEAD, _SQ_TAIL, _CQ_HEAD, _DROPPED, _SQ_FLAGS, _OVERFLOW)
        }
        old_cq, old_views, old_regions = self.cq, self._views, self._regions
        self._map(setup)
        for at, value in kept.items():
            self._words[at] = value
        for at, raw in sqes:
            start = (at & (setup.sq_entries - 1)) * sqe_bytes
            self._sq[start : start + sqe_bytes] = raw
        self.cq.resume(kept[_CQ_HEAD], [raw for raw in cqes if raw is not None])
        _release(old_cq, old_views)
        for region in old_regions:
            self._memory.free(region)

    # --- regions ----------------------------------------------------------------------------

    def region(self, kind: RingRegion) -> Region | None:
        """The region, None for a MEM that was not registered."""
        return self._by_kind.get(kind)

    def set_mem(self, region: Region) -> None:
        """The host registered this as MEM."""
        self._by_kind[RingRegion.MEM] = region

    @property
    def sq_addr(self) -> int:
        """Where the SQEs are."""
        return self._by_kind[RingRegion.SQ].start

    @property
    def array_addr(self) -> int:
        """Where the index array is, 0 without."""
        return self._by_kind[RingRegion.CQ].start + self.array_at if self._setup.has_array else 0

    # --- submission -------------------------------------------------------------------------

    def available(self) -> int:
        """SQEs that a submission could take."""
        if self._setup.rewinds:
            return self._setup.sq_entries
        return min((self._words[_SQ_TAIL] - self.sq_head) & U32, self._setup.sq_entries)

    def fetch(self, ahead: int) -> bytes | None:
        """64 bytes of the SQE that many places on; None when the index array names none."""
        slot = ahead if self._setup.rewinds else (self.sq_head + ahead) & U32
        slot &= self._setup.sq_entries - 1
        if self._array is not None:
            slot = self._array[slot]
            if slot >= self._setup.sq_entries:
                return None
        start = slot * self._setup.sqe_bytes
        return bytes(self._sq[start : start + SQE_BYTES])

    @property
    def head(self) -> int:
        """How many SQEs were consumed, modulo 2^32, as the header says."""
        return self._words[_SQ_HEAD]

    @property
    def tail(self) -> int:
        """How many were published, modulo 2^32."""
        return self._words[_SQ_TAIL]

    @property
    def dropped(self) -> int:
        """Entries whose index named no SQE."""
        return self._words[_DROPPED]

    def ready(self) -> int:
        """Published SQEs that were not consumed; of a ring that rewinds its SQ none ever is."""
        return 0 if self._setup.rewinds else self.available()

    def consume(self, count: int) -> None:
        """So many entries were taken from the head."""
        if not self._setup.rewinds:
            self.sq_head = self._words[_SQ_HEAD] = (self.sq_head + count) & U32

    def drop(self) -> None:
        """Count an entry whose index names no SQE; it is consumed all the same."""
        self._words[_DROPPED] = (self._words[_DROPPED] + 1) & U32
        self.consume(1)

    def next_sqe(self, ahead: int) -> int | None:
        """For hosts: the address of a free SQE, `ahead` of those not yet published, zeroed."""
        if self._setup.rewinds:
            slot = ahead
            if ahead >= self._setup.sq_entries:
                return None
        else:
            tail = self._words[_SQ_TAIL]
            if (tail + ahead - self._words[_SQ_HEAD]) & U32 >= self._setup.sq_entries:
                return None
            slot = (tail + ahead) & (self._setup.sq_entries - 1)
            if self._array is not None:
                self._array[slot] = slot
        size = self._setup.sqe_bytes
        at = slot * size
        self._sq[at : at + size] = bytes(size)
        return self._by_kind[RingRegion.SQ].start + at

    def put(self, sqe: bytes) -> None:
        """For programs: fill the entry at the SQ's tail and move that, full or not."""
        tail = self._words[_SQ_TAIL]
        start = (tail & (self._setup.sq_entries - 1)) * self._setup.sqe_bytes
        self._sq[start : start + SQE_BYTES] = sqe
        self._words[_SQ_TAIL] = (tail + 1) & U32

    def publish(self, count: int) -> None:
        """For hosts: move the SQ's tail."""
        if not self._setup.rewinds:
            self._words[_SQ_TAIL] = (self._words[_SQ_TAIL] + count) & U32

    # --- completion -------------------------------------------------------------------------

    def post(self, posting: Posting) -> str:
        """A CQE: "posted", "backlog" while the CQ is full or others wait already, or "dropped"."""
        if not self._backlog and self._push(posting):
            return "posted"
        if len(self._backlog) >= self._backlog_entries:
            self._words[_OVERFLOW] = (self._words[_OVERFLOW] + 1) & U32
            return "dropped"
        self._backlog.append(posting)
        self._words[_SQ_FLAGS] |= SQ_CQ_OVERFLOW
        return "backlog"

    def _push(self, posting: Posting) -> bool:
        return self.cq.push(posting.user_data, posting.res, posting.flags, posting.extra)

    @property
    def backlog(self) -> int:
        """CQEs that wait for room."""
        return len(self._backlog)

    def cqe_addr(self, index: int) -> int:
        """Where the CQE stands that has this index."""
        place = (index & (self._setup.cq_entries - 1)) * self._setup.cqe_bytes
        return self._by_kind[RingRegion.CQ].start + CQES_OFFSET + place

    def flush_backlog(self) -> list[Posting]:
        """Move what fits into the CQ, which is returned; clear the flag when none is left."""
        moved: list[Posting] = []
        while self._backlog:
            if not self._push(self._backlog[0]):
                return moved
            moved.append(self._backlog.popleft())
        self._words[_SQ_FLAGS] &= ~SQ_CQ_OVERFLOW & U32
        return moved

    def show(self, flag: int, *, on: bool) -> None:
        """Set or clear a bit of the SQ flags word."""
        self._words[_SQ_FLAGS] = self._words[_SQ_FLAGS] & ~flag & U32 | (flag if on else 0)

    def behind(self, index: int) -> int:
        """How far the tail is behind `index`: a signed 32-bit difference."""
        return s32(index - self.cq.tail)

    @property
    def words(self) -> dict[str, int]:
        """The header, by name, for tables and tests."""
        words = self._words
        return {
            "sq_head": words[_SQ_HEAD],
            "sq_tail": words[_SQ_TAIL],
            "cq_head": words[_CQ_HEAD],
            "cq_tail": words[_CQ_TAIL],
            "sq_dropped": words[_DROPPED],
            "sq_flags": words[_SQ_FLAGS],
            "cq_overflow": words[_OVERFLOW],
        }

    def free(self) -> None:
        """Give the regions of the ring back; twice is fine."""
        if self._views:
            _release(self.cq, self._views)
        while self._regions:
            self._memory.free(self._regions.pop())


def _release(cq: CompletionQueue, views: list[memoryview]) -> None:
    cq.release()
    while views:
        views.pop().release()

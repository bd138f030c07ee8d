"""A ring's memory: which regions it has, where the parts lie in them, what mmap offsets name.

abi/iouring-bpf-2021, section 1.4; layout of the header words in `cq` and `sq`.
"""

from __future__ import annotations

import errno

from pybpfvm.bits import align_up
from pybpfvm.errors import InputError, RingError
from pybpfvm.memory import PAGE, AddressSpace, Region, RegionKind
from pybpfvm.profiles.base import Profile
from pybpfvm.uring_backend.abi import OFF_CQ_RING, OFF_SQ_RING, OFF_SQES
from pybpfvm.uring_backend.cq import CQES_OFFSET, CompletionQueue, cq_bytes
from pybpfvm.uring_backend.setup import RingSetup
from pybpfvm.uring_backend.sq import SubmissionQueue

CTX_BYTES = 16
OFF_CQ_FIRST = 0x1200000  # mmap offset of CQ ring 0 by index
OFF_CQ_STRIDE = 0x100000


class RingMemory:
    """The regions of a ring; RingError -ENOMEM when `memory` has no room for all of them.

    `array_offset` is where sq_off.array says the SQ's index array is, in the main ring.
    """

    def __init__(self, memory: AddressSpace, profile: Profile, setup: RingSetup) -> None:
        self._memory = memory
        self._setup = setup
        self._extra_cqs = profile.ring is not None and profile.ring.extra_cqs
        self._regions: list[Region] = []
        self.array_offset = align_up(cq_bytes(setup.cqs[0], setup.cqe_bytes), 64)
        main_bytes = self.array_offset + 4 * setup.sq_entries
        ring = RegionKind.RING
        try:
            self.ctx = self._alloc(
                max(profile.ctx_bytes, CTX_BYTES), RegionKind.CTX, profile.ctx_name
            )
            self._main = self._alloc(main_bytes, ring, "CQ 0 and SQ")
            self._sqes = self._alloc(setup.sq_entries * setup.sqe_bytes, ring, "SQEs")
            self._cqs = [self._main]
            for index, entries in enumerate(setup.cqs[1:], 1):
                size = cq_bytes(entries, setup.cqe_bytes)
                self._cqs.append(self._alloc(size, ring, f"CQ {index}"))
        except InputError as error:
            self.free()
            raise RingError(errno.ENOMEM, f"the rings do not fit: {error}") from error

    def _alloc(self, size: int, kind: RegionKind, name: str) -> Region:
        region = self._memory.alloc(size, kind, name)
        self._regions.append(region)
        return region

    def submission_queue(self) -> SubmissionQueue:
        """The SQ over this memory."""
        main = self._memory.view(self._main)
        entries = self._setup.sq_entries
        return SubmissionQueue(
            entries,
            main[:CQES_OFFSET],
            main[self.array_offset : self.array_offset + 4 * entries],
            self._memory.view(self._sqes)[:],
            self._sqes.start,
            self._setup.sqe_bytes,
        )

    def completion_queues(self) -> list[CompletionQueue]:
        """The CQs over this memory, by index."""
        return [
            CompletionQueue(
                index, entries, self._memory.view(self._cqs[index]), self._setup.cqe_bytes
            )
            for index, entries in enumerate(self._setup.cqs)
        ]

    def mmap(self, offset: int, length: int) -> int:
        """Address of the part at an mmap offset.

        Raises RingError EINVAL for an offset that names nothing or a length beyond its pages.
        The fixed offsets are looked at first, so CQs 110 and 238 can not be reached.
        """
        index, rest = divmod(offset - OFF_CQ_FIRST, OFF_CQ_STRIDE)
        if offset in (OFF_SQ_RING, OFF_CQ_RING):
            region = self._main
        elif offset == OFF_SQES:
            region = self._sqes
        elif self._extra_cqs and rest == 0 and 0 <= index < len(self._cqs):
            region = self._cqs[index]
        else:
            raise RingError(errno.EINVAL, f"mmap offset {offset:#x} names no part of the ring")
        if not 0 < length <= align_up(region.size, PAGE):
            raise RingError(
                errno.EINVAL, f"mmap of {length} bytes of {region.name}, which has {region.size}"
            )
        return region.start

    def free(self) -> None:
        """Give every region back; twice is fine."""
        regions, self._regions = self._regions, []
        self._memory.free(*reversed(regions))

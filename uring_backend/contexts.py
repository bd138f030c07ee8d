"""Memory that BPF requests have: what they name, and what they point to. docs/abi-x.md.

A ring of iouring-x has a table of descriptors. A request names one in `buf_index`; what it names of
it is found when the request is prepared, and stays: descriptors leave the table only when no
request is in flight, and their memory is pinned meanwhile. A program that was verified for a block
of its `user_data` runs for requests only that have such a block, which is pinned while they live.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from pybpfvm.errors import RingError
from pybpfvm.memory import AddressSpace, Region, RegionKind
from pybpfvm.uring_backend.abi import Sqe
from pybpfvm.uring_backend.requests import BpfRequest

BPF_CONTEXT = 1  # in op_flags: the request names a descriptor
MAX_CONTEXTS = 1024
_ACCESSIBLE = frozenset({RegionKind.SHARED, RegionKind.MAP_VALUE})
_ALIGNMENT = 8  # of blocks that programs access by any instruction


@dataclass(frozen=True, slots=True)
class Context:
    """A descriptor: `count` elements of `size` bytes each, `stride` apart, from `start` on; the
    bytes of a buffer where `stride` is 0."""

    start: int
    size: int
    stride: int = 0
    count: int = 1

    def part(self, at: int, length: int) -> tuple[int, int] | None:
        """The first `length` bytes (0: all) of element `at`, or those from byte `at` of a buffer,
        as (start, end). None: there are not so many."""
        if self.stride:
            start, left = self.start + at * self.stride, self.size if at < self.count else 0
        else:
            start, left = self.start + at, max(0, self.size - at)
        length = length or left
        return (start, start + length) if 0 < length <= left else None


def misused(sqe: Sqe) -> bool:
    """Whether a BPF request has fields that mean nothing: without a descriptor, none may be set."""
    return sqe.op_flags != BPF_CONTEXT and bool(sqe.op_flags or sqe.addr or sqe.len)


class RequestMemory:
    """What requests of one ring may name, and what they must point to. `user_bytes`: by slot of the
    program, how many bytes its `user_data` must point to, 0 for none."""

    def __init__(self, memory: AddressSpace) -> None:
        self.user_bytes: Sequence[int] = ()
        self._memory = memory
        self._contexts: tuple[Context, ...] = ()
        self._pinned: list[Region] = []

    @property
    def registered(self) -> bool:
        """Whether there are descriptors."""
        return bool(self._contexts)

    def register(self, contexts: Sequence[Context]) -> None:
        """These are the descriptors. RingError EFAULT: memory that programs can not write."""
        regions: list[Region] = []
        for index, one in enumerate(contexts):
            try:
                regions.append(self._pinned_at(index, one))
            except RingError:
                for region in regions:
                    self._memory.unpin(region)
                raise
        self._pinned = regions
        self._contexts = tuple(contexts)

    def _pinned_at(self, index: int, one: Context) -> Region:
        region = self._memory.pin_at(one.start, 1, _ACCESSIBLE)
        if region is not None:
            end = one.start + one.stride * (one.count - 1) + one.size
            if region.writable and one.size >= 1 and one.count >= 1 and end <= region.end:
                return region
            self._memory.unpin(region)
            if region.writable:
                raise RingError(errno.EFAULT, f"context {index} ends outside {region.name}")
        raise RingError(errno.EFAULT, f"context {index}: no memory that programs can write")

    def unregister(self) -> None:
        """There are no descriptors."""
        self._contexts = ()
        while self._pinned:
            self._memory.unpin(self._pinned.pop())

    def prepare(self, request: BpfRequest) -> int:
        """Find the memory of a request whose other fields are right, and keep it: 0; EFAULT: it is
        not there, EINVAL: it is not aligned."""
        sqe = Sqe.unpack(request.sqe)
        if sqe.op_flags == BPF_CONTEXT:
            table = self._contexts
            found = (
                table[sqe.buf_index].part(sqe.addr, sqe.len) if sqe.buf_index < len(table) else None
            )
            if found is None:
                return errno.EFAULT
            request.data = found
        size = self.user_bytes[request.slot] if request.slot < len(self.user_bytes) else 0
        if not size:
            return 0
        if sqe.user_data % _ALIGNMENT:
            return errno.EINVAL
        region = self._memory.pin_at(sqe.user_data, size, (RegionKind.SHARED,))
        if region is None:
            return errno.EFAULT
        request.unpin = partial(self._memory.unpin, region)
        request.user = sqe.user_data
        return 0

"""Memory that BPF requests name: elements of maps, parts of buffers. docs/abi-x.md.

A ring of iouring-x has a table of descriptors. A request names one in `buf_index`; what it names of
it is found when the request is prepared, and stays: descriptors leave the table only when no
request is in flight, and their memory is pinned meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pybpfvm.uring_backend.abi import Sqe

BPF_CONTEXT = 1  # in op_flags: the request names a descriptor
MAX_CONTEXTS = 1024


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


def context_of(table: Sequence[Context], sqe: Sqe) -> tuple[int, int] | None:
    """(start, end) of the memory that a BPF request names, (0, 0) where it names none; None: there
    is no such descriptor, or it has not so many bytes."""
    if sqe.op_flags != BPF_CONTEXT:
        return 0, 0
    return table[sqe.buf_index].part(sqe.addr, sqe.len) if sqe.buf_index < len(table) else None

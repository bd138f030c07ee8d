"""FADVISE, MADVISE and SYNC_FILE_RANGE: what a simulated disk and memory need not heed."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from pybpfvm.bits import align_up, s64
from pybpfvm.memory import PAGE
from pybpfvm.uring_backend.abi import (
    FADV_LAST,
    MADV_COLD,
    MADV_NORMAL,
    MADV_PAGEOUT,
    MADV_RANDOM,
    MADV_SEQUENTIAL,
    MADV_WILLNEED,
    SYNC_FILE_RANGE_ALL,
)
from pybpfvm.uring_backend.sim.descriptors import is_pipe, is_socket
from pybpfvm.uring_backend.sim.request import Issue, Refused, Request
from pybpfvm.uring_backend.sim.vfs import Inode

if TYPE_CHECKING:
    from pybpfvm.uring_backend.sim.core import Core

# Advice that changes no content. The rest (DONTNEED, FREE, REMOVE, ...) is unsupported.
MEMORY_ADVICE: Final = frozenset(
    {MADV_NORMAL, MADV_RANDOM, MADV_SEQUENTIAL, MADV_WILLNEED, MADV_COLD, MADV_PAGEOUT}
)
_FIRST_THREE: Final = 2  # FADVISE: the others may have to look at pages, in a worker


def prepare_fadvise(core: Core, request: Request) -> Issue:
    """FADVISE: length in Sqe.addr (or Sqe.len), advice in Sqe.op_flags."""
    sqe = request.sqe
    if sqe.buf_index or sqe.file_index:
        raise Refused(errno.EINVAL)
    length = s64(sqe.addr or sqe.len)
    if sqe.op_flags > _FIRST_THREE:
        request.through_worker = True

    def issue() -> int:
        node = core.file_of(request).node
        if not (isinstance(node, Inode) or is_socket(node)):
            raise Refused(errno.ESPIPE if is_pipe(node) else errno.EINVAL)
        if length < 0 or sqe.op_flags > FADV_LAST:
            raise Refused(errno.EINVAL)
        return 0

    return issue


def prepare_madvise(core: Core, request: Request) -> Issue:
    """MADVISE: length in Sqe.off (or Sqe.len), advice in Sqe.op_flags; one block of user memory."""
    sqe = request.sqe
    if sqe.buf_index or sqe.file_index:
        raise Refused(errno.EINVAL)
    asked = sqe.off or sqe.len
    request.through_worker = True

    def issue() -> int:
        size = align_up(asked, PAGE)
        if sqe.addr % PAGE or s64(size) < 0 or (asked and not size & ((1 << 64) - 1)):
            raise Refused(errno.EINVAL)
        if size and not core.memory.is_user(sqe.addr, asked):
            raise Refused(errno.ENOMEM)
        return 0

    return issue


def prepare_sync_file_range(core: Core, request: Request) -> Issue:
    """SYNC_FILE_RANGE: Sqe.len bytes from Sqe.off on."""
    sqe = request.sqe
    if sqe.addr or sqe.buf_index or sqe.file_index:
        raise Refused(errno.EINVAL)
    request.through_worker = True

    def issue() -> int:
        node = core.file_of(request).node
        end = s64(sqe.off) + sqe.len
        if sqe.op_flags & ~SYNC_FILE_RANGE_ALL or s64(sqe.off) < 0 or s64(end) < 0:
            raise Refused(errno.EINVAL)
        if not isinstance(node, Inode):
            raise Refused(errno.ESPIPE)
        return 0

    return issue

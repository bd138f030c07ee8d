"""Groups of buffers that reads and receives choose from."""

from __future__ import annotations

import errno
from collections import deque
from typing import TYPE_CHECKING, Final

from pybpfvm.uring_backend.abi import CQE_BUFFER_SHIFT, CQE_F_BUFFER
from pybpfvm.uring_backend.sim.request import Issue, Refused, Request

if TYPE_CHECKING:
    from pybpfvm.uring_backend.sim.core import Core

_MAX_IDS: Final = 1 << 16
_MAX_PROVIDED: Final = 1 << 20  # in all groups: the kernel's limit is its memory


class BufferGroups:
    """Provided buffers: per group, (id, address, length), used in the order they were given."""

    def __init__(self) -> None:
        self._groups: dict[int, deque[tuple[int, int, int]]] = {}
        self._provided = 0

    def provide(self, group: int, first_id: int, addr: int, length: int, count: int) -> None:
        """Add consecutive buffers; Refused EOVERFLOW, ENOMEM when too many."""
        waiting = self._groups.setdefault(group, deque())
        if len(waiting) + count > _MAX_IDS:
            raise Refused(errno.EOVERFLOW)
        if self._provided + count > _MAX_PROVIDED:
            raise Refused(errno.ENOMEM)
        self._provided += count
        for index in range(count):
            waiting.append((first_id + index, addr + index * length, length))

    def check_group(self, group: int) -> None:
        """Refused(ENOENT) for a group that nothing was ever provided for."""
        if group not in self._groups:
            raise Refused(errno.ENOENT)

    def remove(self, group: int, count: int) -> int:
        """Take up to `count` away: how many; Refused(ENOENT) for an unknown group."""
        self.check_group(group)
        waiting = self._groups[group]
        done = min(count, len(waiting))
        for _ in range(done):
            waiting.popleft()
        self._provided -= done
        return done

    def select(self, request: Request, size: int) -> tuple[int, int]:
        """(address, length) of the next buffer for a request that wants `size` bytes.

        0 means the whole buffer. Refused(ENOBUFS) when the group is empty.
        """
        group = request.sqe.buf_index
        waiting = self._groups.get(group)
        if not waiting:
            raise Refused(errno.ENOBUFS)
        buffer = waiting.popleft()
        request.buffer = (group, *buffer)
        length = buffer[2] if size == 0 else min(size, buffer[2])
        return buffer[1], length

    def put_back(self, request: Request) -> None:
        """The selected buffer was not used after all."""
        if request.buffer is not None:
            group, *buffer = request.buffer
            self._groups[group].appendleft((buffer[0], buffer[1], buffer[2]))
            request.buffer = None

    def consume(self, request: Request) -> int:
        """The CQE flags that name the used buffer; 0 if none was selected."""
        if request.buffer is None:
            return 0
        buffer_id = request.buffer[1]
        request.buffer = None
        self._provided -= 1
        return CQE_F_BUFFER | buffer_id << CQE_BUFFER_SHIFT


def prepare_provide(core: Core, request: Request) -> Issue:
    """PROVIDE_BUFFERS: Sqe.fd buffers of Sqe.len bytes at Sqe.addr, ids from Sqe.off."""
    sqe = request.sqe
    count, first_id = sqe.fd, sqe.off
    if sqe.op_flags or sqe.file_index:
        raise Refused(errno.EINVAL)
    if not 0 < count <= _MAX_IDS:
        raise Refused(errno.E2BIG)
    if not sqe.len:
        raise Refused(errno.EINVAL)
    if not core.memory.is_user(sqe.addr, sqe.len * count):
        raise Refused(errno.EFAULT)
    if first_id >= _MAX_IDS:
        raise Refused(errno.E2BIG)
    if first_id + count > _MAX_IDS:
        raise Refused(errno.EINVAL)

    def issue() -> int:
        core.groups.provide(sqe.buf_index, first_id, sqe.addr, sqe.len, count)
        return 0

    return issue


def prepare_remove(core: Core, request: Request) -> Issue:
    """REMOVE_BUFFERS: up to Sqe.fd buffers of a group; their number."""
    sqe = request.sqe
    if sqe.op_flags or sqe.addr or sqe.len or sqe.off or sqe.file_index:
        raise Refused(errno.EINVAL)
    if not 0 < sqe.fd <= _MAX_IDS:
        raise Refused(errno.EINVAL)
    return lambda: core.groups.remove(sqe.buf_index, sqe.fd)

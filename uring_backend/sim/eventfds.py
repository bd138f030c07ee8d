"""eventfd objects: a counter that reads take and writes add to."""

from __future__ import annotations

import errno
import struct
from typing import Final

from pybpfvm.bits import U64
from pybpfvm.uring_backend.abi import POLLERR, POLLIN, POLLOUT
from pybpfvm.uring_backend.sim.descriptors import Node, WaitQueue
from pybpfvm.uring_backend.sim.request import Refused

_COUNT: Final = struct.Struct("<Q")
_MOST: Final = U64 - 1


class EventFd(Node):
    """`semaphore`: a read takes one instead of everything."""

    mode = 0o600

    def __init__(self, count: int = 0, *, semaphore: bool = False) -> None:
        self.queue: WaitQueue = WaitQueue()
        self._count = count
        self._semaphore = semaphore

    def read(self, size: int, offset: int) -> bytes:
        if size < _COUNT.size:
            raise Refused(errno.EINVAL)
        if not self._count:
            raise Refused(errno.EAGAIN)
        taken = 1 if self._semaphore else self._count
        self._count -= taken
        self.queue.wake(POLLOUT)
        return _COUNT.pack(taken)

    def peek(self, offset: int) -> bool:
        if not self._count:
            raise Refused(errno.EAGAIN)
        return True

    def write(self, data: bytes, offset: int) -> int:
        if len(data) != _COUNT.size:
            raise Refused(errno.EINVAL)
        (added,) = _COUNT.unpack(data)
        if added > _MOST:
            raise Refused(errno.EINVAL)
        if self._count + added > _MOST:
            raise Refused(errno.EAGAIN)
        self._count += added
        self.queue.wake(POLLIN)
        return _COUNT.size

    def signal(self, count: int) -> None:
        """Add without waiting: the count stops at its maximum."""
        self._count = min(self._count + count, U64)
        self.queue.wake(POLLIN | (POLLERR if self._count == U64 else 0))

    def poll(self) -> int:
        events = POLLIN if self._count else 0
        if self._count < _MOST:
            events |= POLLOUT
        return events | (POLLERR if self._count == U64 else 0)

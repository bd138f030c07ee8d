"""Pipes: a bounded buffer between two ends."""

from __future__ import annotations

import errno
from typing import Final

from pybpfvm.uring_backend.abi import (
    POLLERR,
    POLLHUP,
    POLLIN,
    POLLOUT,
    POLLRDNORM,
    POLLWRNORM,
    S_IFIFO,
)
from pybpfvm.uring_backend.sim.descriptors import Node, WaitQueue
from pybpfvm.uring_backend.sim.request import Refused

PIPE_BYTES: Final = 65536
PIPE_BUF: Final = 4096  # writes up to this size are all or nothing

_IN: Final = POLLIN | POLLRDNORM
_OUT: Final = POLLOUT | POLLWRNORM


class Bytes:
    """A bounded first-in-first-out buffer."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._data = bytearray()

    def __len__(self) -> int:
        return len(self._data)

    @property
    def room(self) -> int:
        """Bytes that still fit."""
        return self.capacity - len(self._data)

    def put(self, data: bytes) -> int:
        """Take as much as fits: how much."""
        taken = min(len(data), self.room)
        self._data += data[:taken]
        return taken

    def get(self, size: int, *, keep: bool = False) -> bytes:
        """Up to `size` bytes; `keep` leaves them in."""
        data = bytes(self._data[:size])
        if not keep:
            del self._data[:size]
        return data

    def clear(self) -> None:
        """Throw everything away."""
        self._data.clear()


class Pipe:
    """What the two ends share."""

    def __init__(self) -> None:
        self.data = Bytes(PIPE_BYTES)
        self.readers = WaitQueue()
        self.writers = WaitQueue()
        self.reader: PipeReader | None = PipeReader(self)
        self.writer: PipeWriter | None = PipeWriter(self)


class PipeReader(Node):
    """The read end."""

    mode = S_IFIFO | 0o600

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self.queue = pipe.readers

    def read(self, size: int, offset: int) -> bytes:
        pipe = self._pipe
        if not size:
            return b""
        if not len(pipe.data):
            if pipe.writer is None:
                return b""
            raise Refused(errno.EAGAIN)
        data = pipe.data.get(size)
        pipe.writers.wake(_OUT)
        return data

    def peek(self, offset: int) -> bool:
        if not len(self._pipe.data) and self._pipe.writer is not None:
            raise Refused(errno.EAGAIN)
        return len(self._pipe.data) > 0

    def poll(self) -> int:
        return (_IN if len(self._pipe.data) else 0) | (POLLHUP if self._pipe.writer is None else 0)

    def released(self) -> None:
        self._pipe.reader = None
        self._pipe.writers.wake()


class PipeWriter(Node):
    """The write end."""

    mode = S_IFIFO | 0o600

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self.queue = pipe.writers

    def write(self, data: bytes, offset: int) -> int:
        pipe = self._pipe
        if not data:
            return 0
        if pipe.reader is None:
            raise Refused(errno.EPIPE)
        room = pipe.data.room
        if not room or (len(data) <= PIPE_BUF and room < len(data)):
            raise Refused(errno.EAGAIN)
        done = pipe.data.put(data)
        pipe.readers.wake(_IN)
        return done

    def poll(self) -> int:
        room = self._pipe.data.room >= PIPE_BUF
        return (_OUT if room else 0) | (POLLERR if self._pipe.reader is None else 0)

    def released(self) -> None:
        self._pipe.writer = None
        self._pipe.readers.wake()

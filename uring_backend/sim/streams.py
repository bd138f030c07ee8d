"""Stream sockets: bounded buffers between two ends."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Final

from pybpfvm.uring_backend.abi import (
    POLLERR,
    POLLHUP,
    POLLIN,
    POLLOUT,
    POLLRDBAND,
    POLLRDHUP,
    POLLRDNORM,
    POLLWRBAND,
    POLLWRNORM,
    S_IFSOCK,
    SHUT_RD,
    SHUT_RDWR,
    SHUT_WR,
)
from pybpfvm.uring_backend.sim.descriptors import Node, WaitQueue
from pybpfvm.uring_backend.sim.request import Refused

SOCKET_BYTES: Final = 128 << 10

_IN: Final = POLLIN | POLLRDNORM
_OUT: Final = POLLOUT | POLLWRNORM
_SOCKET_IN: Final = _IN | POLLRDBAND  # what a socket tells its waiters
_SOCKET_OUT: Final = _OUT | POLLWRBAND


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


class SocketState(Enum):
    """What a stream socket has become."""

    FRESH = "neither connected nor listening"
    LISTENING = "takes connections"
    CONNECTED = "has, or had, another end"


class Socket(Node):
    """One end of a connection, or a listener. `unix` sockets differ from TCP ones in details.

    `incoming` is what the other end has sent. A port is 0 until the socket has one.
    """

    mode = S_IFSOCK | 0o777
    queue: WaitQueue

    def __init__(self, *, unix: bool = False) -> None:
        self.unix = unix
        self.queue = WaitQueue()
        self.state = SocketState.FRESH
        self.port = 0
        self.peer_port = 0
        self.incoming = Bytes(SOCKET_BYTES)
        self.peer: Socket | None = None
        self.backlog = 0
        self.pending: deque[Socket] = deque()
        self.no_more_in = False  # the other end has shut down, or this one for receiving
        self.no_more_out = False
        self.error = 0  # reported once
        self.on_release: Callable[[], object] | None = None
        self._reset = False  # TCP: the next send is refused

    # --- connecting ---------------------------------------------------------------------------

    def join(self, other: Socket) -> None:
        """Make this socket and `other` the two ends of a connection."""
        self.peer, other.peer = other, self
        self.state = other.state = SocketState.CONNECTED

    def listen(self, backlog: int) -> None:
        """Begin to take connections."""
        self.state = SocketState.LISTENING
        self.backlog = backlog

    @property
    def full(self) -> bool:
        """Whether a listener's queue takes no more connections."""
        return len(self.pending) > self.backlog

    def connect_to(self, listener: Socket) -> None:
        """Connect to a listener whose queue is not full; it need not have accepted yet."""
        end = Socket()
        end.port, end.peer_port = listener.port, self.port
        self.peer_port = listener.port
        self.join(end)
        listener.pending.append(end)
        listener.queue.wake(_SOCKET_IN)
        self.queue.wake()

    def accept(self) -> Socket:
        """The oldest pending connection. Refused EINVAL unless listening, EAGAIN if none."""
        if self.state is not SocketState.LISTENING:
            raise Refused(errno.EINVAL)
        if not self.pending:
            raise Refused(errno.EAGAIN)
        end = self.pending.popleft()
        self.queue.wake()
        return end

    # --- transfer -----------------------------------------------------------------------------

    def receive(self, size: int, *, keep: bool = False) -> bytes:
        """Up to `size` bytes; b"" at end of stream. Refused EAGAIN, ENOTCONN, pending error."""
        if self.state is not SocketState.CONNECTED:
            raise Refused(errno.EINVAL if self.unix else errno.ENOTCONN)
        if not len(self.incoming):
            if self.error:
                error, self.error = self.error, 0
                raise Refused(error)
            if self.no_more_in or self.peer is None:
                return b""
            raise Refused(errno.EAGAIN)
        data = self.incoming.get(size, keep=keep)
        if not keep and self.peer is not None and self.peer.poll() & POLLOUT:
            self.peer.queue.wake(_SOCKET_OUT)
        return data

    @property
    def worth_reading(self) -> bool:
        """Whether a receive would not wait: data, or for TCP the end of the stream."""
        return len(self.incoming) > 0 or (not self.unix and (self.no_more_in or self.peer is None))

    def send(self, data: bytes) -> int:
        """Bytes taken. Refused EAGAIN when the other side is full, EPIPE, ENOTCONN."""
        if self.state is not SocketState.CONNECTED:
            raise Refused(errno.ENOTCONN if self.unix else errno.EPIPE)
        if self.no_more_out or self._reset or (self.unix and self.peer is None):
            raise Refused(errno.EPIPE)
        if self.error:
            error, self.error = self.error, 0
            raise Refused(error)
        if self.peer is None:
            self._reset = True  # TCP learns that the other end is gone from the answer
            return len(data)
        if not data:
            return 0
        done = self.peer.incoming.put(data)
        if not done:
            raise Refused(errno.EAGAIN)
        self.peer.queue.wake(_SOCKET_IN)
        return done

    def read(self, size: int, offset: int) -> bytes:
        return self.receive(size) if size else b""

    def peek(self, offset: int) -> bool:
        return bool(self.receive(1, keep=True))

    def write(self, data: bytes, offset: int) -> int:
        return self.send(data)

    def shutdown(self, how: int) -> None:
        """shutdown(2). Refused EINVAL, ENOTCONN."""
        if how not in (SHUT_RD, SHUT_WR, SHUT_RDWR):
            raise Refused(errno.EINVAL)
        if self.state is not SocketState.CONNECTED:
            raise Refused(errno.ENOTCONN)
        if how in (SHUT_RD, SHUT_RDWR):
            self.no_more_in = True
            if self.unix and self.peer is not None:
                self.peer.no_more_out = True
        if how in (SHUT_WR, SHUT_RDWR):
            self.no_more_out = True
            if self.peer is not None:
                self.peer.no_more_in = True
        self.queue.wake()
        if self.peer is not None:
            self.peer.queue.wake()

    # --- readiness ----------------------------------------------------------------------------

    def poll(self) -> int:
        if self.state is SocketState.LISTENING:
            return _IN if self.pending else 0
        if self.state is SocketState.FRESH:
            return _OUT | POLLHUP
        gone = self.peer is None
        no_more_in = self.no_more_in or gone
        no_more_out = self.no_more_out or (gone and self.unix)
        events = POLLERR if self.error else 0
        if no_more_in:
            events |= _IN | POLLRDHUP
        if no_more_in and no_more_out:
            events |= POLLHUP
        if len(self.incoming):
            events |= _IN
        if (
            no_more_out
            or gone
            or (self.peer is not None and self.peer.incoming.room * 2 >= SOCKET_BYTES)
        ):
            events |= _OUT | (POLLWRBAND if self.unix else 0)
        return events

    def released(self) -> None:
        for end in self.pending:
            end.released()
        self.pending.clear()
        peer, self.peer = self.peer, None
        if peer is not None:
            peer.peer = None
            if len(self.incoming):
                peer.error = errno.ECONNRESET
            peer.queue.wake()
        self.incoming.clear()
        if self.state is SocketState.LISTENING:
            self.state = SocketState.FRESH
        if self.on_release is not None:
            self.on_release()

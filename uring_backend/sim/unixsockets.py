"""AF_UNIX sockets: streams, datagrams and sequenced packets, by pairs or by abstract names.

They do not pass the network. What one end sends is in the other's queue when the call returns.
"""

from __future__ import annotations

import errno
from collections import deque
from typing import ClassVar, Final, Self

from pybpfvm.uring_backend.abi import (
    AF_UNIX,
    AF_UNSPEC,
    MSG_PEEK,
    POLLERR,
    POLLHUP,
    POLLRDHUP,
    POLLWRBAND,
    SOCK_DGRAM,
    SOCK_SEQPACKET,
    SOCK_STREAM,
)
from pybpfvm.uring_backend.sim.descriptors import WaitQueue
from pybpfvm.uring_backend.sim.inet import family_of
from pybpfvm.uring_backend.sim.request import Refused
from pybpfvm.uring_backend.sim.sockets import (
    IN,
    OUT,
    SOCKET_BYTES,
    TELL_IN,
    TELL_OUT,
    Received,
    Socket,
    SocketState,
    check_how,
    cut,
)
from pybpfvm.uring_backend.sim.streams import Bytes

_SOCKADDR_UN_BYTES: Final = 110
_OVERHEAD_BYTES: Final = 256  # what a message takes besides its data
_DATAGRAMS: Final = 10  # net.unix.max_dgram_qlen: of sockets that are not connected back

Names = dict[bytes, "UnixSocket"]
"""The abstract namespace: sockets by their whole address."""


def check_address(address: bytes) -> None:
    """Refused(EINVAL) for what is no sockaddr_un with a name."""
    if not 2 < len(address) <= _SOCKADDR_UN_BYTES or family_of(address) != AF_UNIX:
        raise Refused(errno.EINVAL)


class UnixSocket(Socket):
    """What the three kinds share. `peer` is the other end; of a datagram socket, the one it is
    connected to."""

    domain = AF_UNIX

    def __init__(self, names: Names) -> None:
        super().__init__()
        self._names = names
        self._name = b""
        self.peer: UnixSocket | None = None
        self.dead = False

    def bind(self, address: bytes) -> None:
        check_address(address)
        if self._name:
            raise Refused(errno.EINVAL)
        if address in self._names:
            raise Refused(errno.EADDRINUSE)
        self._name = address
        self._names[address] = self

    def _find(self, address: bytes) -> UnixSocket:
        other = self._names.get(address)
        if other is None:
            raise Refused(errno.ECONNREFUSED)
        if other.kind != self.kind:
            raise Refused(errno.EPROTOTYPE)
        return other

    def join(self, other: Self) -> None:
        """Make the two a pair, as socketpair(2) does."""
        self.peer, other.peer = other, self
        self.state = other.state = SocketState.CONNECTED

    def local_address(self) -> bytes:
        return self._name or AF_UNIX.to_bytes(2, "little")

    def peer_address(self) -> bytes:
        return AF_UNIX.to_bytes(2, "little") if self.peer is None else self.peer.local_address()

    def shutdown(self, how: int) -> None:
        ends_in, ends_out = check_how(how)
        self.shut_in |= ends_in
        self.shut_out |= ends_out
        self.queue.wake()

    def released(self) -> None:
        self.dead = True
        if self._names.get(self._name) is self:  # else it is a listener's, which gave this end
            del self._names[self._name]

    @property
    def has_data(self) -> bool:
        """Whether something can be received."""
        return False

    @property
    def writable(self) -> bool:
        """Whether what was sent and not received leaves room."""
        return True

    def poll(self) -> int:
        events = POLLERR if self.error else 0
        if self.shut_in:
            events |= IN | POLLRDHUP
        if self.shut_in and self.shut_out:
            events |= POLLHUP
        if self.has_data:
            events |= IN
        return events | (OUT | POLLWRBAND if self.writable else 0)


class _Connected(UnixSocket):
    """A stream or sequenced-packet socket."""

    def __init__(self, names: Names) -> None:
        super().__init__(names)
        self._backlog = 0
        self._waiting: deque[_Connected] = deque()

    @property
    def loses_data(self) -> bool:
        """Whether closing it now throws something away, of which the other end learns."""
        return self.has_data

    def listen(self, backlog: int) -> None:
        if self.state is SocketState.CONNECTED or not self._name:
            raise Refused(errno.EINVAL)
        self.state = SocketState.LISTENING
        self._backlog = backlog
        self.queue.wake()

    @property
    def pending(self) -> int:
        return len(self._waiting)

    def _listener(self, address: bytes) -> _Connected:
        check_address(address)
        other = self._find(address)
        assert isinstance(other, _Connected)
        if other.state is not SocketState.LISTENING or other.shut_in:
            raise Refused(errno.ECONNREFUSED)
        return other

    def queue_of(self, address: bytes) -> WaitQueue:
        return self._listener(address).queue

    def connect(self, address: bytes) -> bool:
        listener = self._listener(address)
        if len(listener._waiting) > listener._backlog:
            raise Refused(errno.EAGAIN)
        if self.state is not SocketState.FRESH:
            connected = self.state is SocketState.CONNECTED
            raise Refused(errno.EISCONN if connected else errno.EINVAL)
        end = type(self)(self._names)
        end._name = listener._name
        self.join(end)
        listener._waiting.append(end)
        listener.queue.wake(TELL_IN)
        return True

    def accept(self) -> Socket:
        return self._first(self._waiting)

    def shutdown(self, how: int) -> None:
        super().shutdown(how)
        ends_in, ends_out = check_how(how)
        if self.peer is not None:
            self.peer.shut_in |= ends_out
            self.peer.shut_out |= ends_in
            self.peer.queue.wake()

    def poll(self) -> int:
        if self.state is SocketState.LISTENING:
            return super().poll() & ~(OUT | POLLWRBAND) | (IN if self._waiting else 0)
        fresh = self.state is SocketState.FRESH
        return super().poll() | (POLLHUP if fresh else 0)

    def released(self) -> None:
        if self.dead:
            return
        super().released()
        for end in self._waiting:
            end._leave(reset=True)
        self._waiting.clear()
        self._leave(reset=self.loses_data)

    def _leave(self, *, reset: bool) -> None:
        self.dead = True
        peer, self.peer = self.peer, None
        if peer is None:
            return
        peer.peer = None
        peer.shut_in = peer.shut_out = True
        if reset:
            peer.error = errno.ECONNRESET
        peer.queue.wake()


class UnixStream(_Connected):
    """SOCK_STREAM."""

    kind = SOCK_STREAM

    def __init__(self, names: Names) -> None:
        super().__init__(names)
        self.incoming = Bytes(SOCKET_BYTES)

    @property
    def has_data(self) -> bool:
        return len(self.incoming) > 0

    @property
    def writable(self) -> bool:
        peer = self.peer
        return not isinstance(peer, UnixStream) or peer.incoming.room * 2 >= SOCKET_BYTES

    def receive(self, size: int, flags: int = 0) -> Received:
        if self.state is not SocketState.CONNECTED:
            raise Refused(errno.EINVAL)
        if not len(self.incoming):
            self.tell_error()
            if self.shut_in:
                return Received(b"", 0, waiting=0)
            raise Refused(errno.EAGAIN)
        keep = bool(flags & MSG_PEEK)
        data = self.incoming.get(size, keep=keep)
        if not keep and self.peer is not None and self.peer.writable:
            self.peer.queue.wake(TELL_OUT)
        sender = b"" if self.peer is None else _sender(self.peer)
        return Received(data, len(data), sender, waiting=len(self.incoming))

    def refuse_to_send(self, address: bytes = b"") -> None:
        connected = self.state is SocketState.CONNECTED
        if address:
            raise Refused(errno.EISCONN if connected else errno.EOPNOTSUPP)
        if not connected:
            raise Refused(errno.ENOTCONN)
        if self.shut_out:
            raise Refused(errno.EPIPE)

    def send(self, data: bytes, address: bytes = b"", *, more: bool = False) -> int:
        self.refuse_to_send(address)
        if not data:
            return 0
        self.tell_error()
        peer = self.peer
        assert isinstance(peer, UnixStream), "else it was shut for sending"
        done = peer.incoming.put(data)
        if not done:
            raise Refused(errno.EAGAIN)
        peer.queue.wake(TELL_IN)
        return done

    def released(self) -> None:
        super().released()
        self.incoming.clear()


class _Messages:
    """Messages that a socket has not received, each with the address of who sent it."""

    def __init__(self) -> None:
        self._queue: deque[tuple[bytes, bytes]] = deque()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, data: bytes, sender: bytes) -> None:
        self._queue.append((data, sender))
        self.bytes += len(data) + _OVERHEAD_BYTES

    def get(self, size: int, flags: int) -> Received:
        data, sender = self._queue[0]
        if not flags & MSG_PEEK:
            self._queue.popleft()
            self.bytes -= len(data) + _OVERHEAD_BYTES
        shown, result, told = cut(data, size, flags)
        return Received(shown, result, sender, told)

    @property
    def are_lost(self) -> bool:
        """Whether giving them up is an error: mainline looks past an empty one in front."""
        return len(self._queue) > 1 or self.bytes > _OVERHEAD_BYTES

    def has_room(self, size: int) -> bool:
        """Whether a message of that size may come; one always may."""
        return not self._queue or self.bytes + size + _OVERHEAD_BYTES <= SOCKET_BYTES

    def clear(self) -> None:
        self._queue.clear()
        self.bytes = 0


def _sender(socket: UnixSocket) -> bytes:
    """What a receiver learns of who sent a message: nothing of one without a name."""
    address = socket.local_address()
    return address if len(address) > 2 else b""


class UnixSeqpacket(_Connected):
    """SOCK_SEQPACKET: a connection of messages. An address to send to is ignored."""

    kind = SOCK_SEQPACKET
    keeps_boundaries = True

    def __init__(self, names: Names) -> None:
        super().__init__(names)
        self.messages = _Messages()

    @property
    def has_data(self) -> bool:
        return len(self.messages) > 0

    @property
    def loses_data(self) -> bool:
        return self.messages.are_lost

    @property
    def writable(self) -> bool:
        peer = self.peer
        return not isinstance(peer, UnixSeqpacket) or peer.messages.bytes * 2 <= SOCKET_BYTES

    def receive(self, size: int, flags: int = 0) -> Received:
        if self.state is not SocketState.CONNECTED:
            raise Refused(errno.ENOTCONN)
        self.tell_error()
        if not len(self.messages):
            if self.shut_in:
                return Received(b"", 0)
            raise Refused(errno.EAGAIN)
        got = self.messages.get(size, flags)
        if self.peer is not None and self.peer.writable:
            self.peer.queue.wake(TELL_OUT)
        return got

    def refuse_to_send(self, address: bytes = b"") -> None:
        self.tell_error()
        if self.state is not SocketState.CONNECTED:
            raise Refused(errno.ENOTCONN)
        if self.shut_out:
            raise Refused(errno.EPIPE)

    def send(self, data: bytes, address: bytes = b"", *, more: bool = False) -> int:
        if len(data) > SOCKET_BYTES:
            raise Refused(errno.EMSGSIZE)
        self.refuse_to_send()
        peer = self.peer
        assert isinstance(peer, UnixSeqpacket), "else it was shut for sending"
        if not peer.messages.has_room(len(data)):
            raise Refused(errno.EAGAIN)
        peer.messages.put(data, _sender(self))
        peer.queue.wake(TELL_IN)
        return len(data)

    def released(self) -> None:
        super().released()
        self.messages.clear()


class UnixDatagram(UnixSocket):
    """SOCK_DGRAM: reliable and in order."""

    kind = SOCK_DGRAM
    keeps_boundaries: ClassVar[bool] = True
    ends_when_blocking = True

    def __init__(self, names: Names) -> None:
        super().__init__(names)
        self.messages = _Messages()
        self._senders: dict[UnixDatagram, None] = {}  # who waits for room here

    @property
    def has_data(self) -> bool:
        return len(self.messages) > 0

    @property
    def writable(self) -> bool:
        peer = self.peer
        if not isinstance(peer, UnixDatagram) or peer.dead:
            return True
        return peer.messages.bytes * 2 <= SOCKET_BYTES

    def _may_send_to(self, other: UnixSocket) -> bool:
        return other.peer is None or other.peer is self

    def connect(self, address: bytes) -> bool:
        if len(address) >= 2 and family_of(address) == AF_UNSPEC:
            self._disconnect()
            return True
        check_address(address)
        other = self._find(address)
        if not self._may_send_to(other):
            raise Refused(errno.EPERM)
        if other is not self.peer:
            self._disconnect()
        self.peer = other
        self.state = SocketState.CONNECTED
        return True

    def _disconnect(self) -> None:
        """The other end of what was a pair learns of it when messages are lost."""
        peer, self.peer = self.peer, None
        self.state = SocketState.FRESH
        if peer is None or not len(self.messages):
            return
        self.messages.clear()
        if not peer.dead and peer.peer is self:
            peer.error = errno.ECONNRESET
            peer.queue.wake()

    def refuse_to_send(self, address: bytes = b"") -> None:
        self._target(address)

    def _target(self, address: bytes) -> UnixDatagram:
        if address:
            check_address(address)
        self.tell_error()
        if self.shut_out:
            raise Refused(errno.EPIPE)
        if not address and self.peer is None:
            raise Refused(errno.ENOTCONN)
        other = self._find(address) if address else self.peer
        assert isinstance(other, UnixDatagram)
        if not self._may_send_to(other):
            raise Refused(errno.EPERM)
        if other.dead:
            if other is self.peer:
                self._disconnect()
            raise Refused(errno.ECONNREFUSED)
        if other.shut_in:
            raise Refused(errno.EPIPE)
        return other

    def send(self, data: bytes, address: bytes = b"", *, more: bool = False) -> int:
        if len(data) > SOCKET_BYTES:
            raise Refused(errno.EMSGSIZE)
        other = self._target(address)
        crowded = other.peer is not self and len(other.messages) > _DATAGRAMS
        if crowded or not other.messages.has_room(len(data)):
            other._senders[self] = None
            raise Refused(errno.EAGAIN)
        other.messages.put(data, _sender(self))
        other.queue.wake(TELL_IN)
        return len(data)

    def receive(self, size: int, flags: int = 0) -> Received:
        self.tell_error()
        if not len(self.messages):
            raise Refused(errno.EAGAIN)
        got = self.messages.get(size, flags)
        senders, self._senders = self._senders, {}
        for sender in senders:
            sender.queue.wake(TELL_OUT)
        return got

    def released(self) -> None:
        super().released()
        self.messages.clear()
        for sender in self._senders:
            sender.queue.wake()
        self._senders.clear()

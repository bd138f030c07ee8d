"""What sockets of all families have in common: messages, readiness, options, the calls they refuse.

The calls are those of the kernel (connect(2), sendmsg(2), ...) and refuse as it does. None of them
waits: Refused(EAGAIN) says that waiting for the node's queue is worth while. Addresses are the
bytes of a sockaddr.
"""

from __future__ import annotations

import errno
import struct
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Final, TypeVar

from pybpfvm.uring_backend.abi import (
    AF_INET,
    MSG_PEEK,
    MSG_TRUNC,
    POLLIN,
    POLLOUT,
    POLLRDBAND,
    POLLRDNORM,
    POLLWRBAND,
    POLLWRNORM,
    S_IFSOCK,
    SHUT_RD,
    SHUT_RDWR,
    SHUT_WR,
    SO_ACCEPTCONN,
    SO_BROADCAST,
    SO_DOMAIN,
    SO_ERROR,
    SO_KEEPALIVE,
    SO_LINGER,
    SO_PROTOCOL,
    SO_REUSEADDR,
    SO_TYPE,
    SOCKADDR_IN,
    SOL_SOCKET,
    SOL_TCP,
    TCP_CORK,
    TCP_NODELAY,
    TCP_QUICKACK,
)
from pybpfvm.uring_backend.sim.descriptors import Node, WaitQueue
from pybpfvm.uring_backend.sim.request import Refused

LOOPBACK: Final = bytes((127, 0, 0, 1))
ANY_HOST: Final = bytes(4)
SOCKET_BYTES: Final = 128 << 10  # what one direction of a connection holds

IN: Final = POLLIN | POLLRDNORM
OUT: Final = POLLOUT | POLLWRNORM
TELL_IN: Final = IN | POLLRDBAND  # what a socket tells its waiters
TELL_OUT: Final = OUT | POLLWRBAND

_INT: Final = struct.Struct("<i")
_LINGER: Final = struct.Struct("<ii")  # on or off, seconds
_SWITCHES: Final = frozenset({SO_REUSEADDR, SO_KEEPALIVE, SO_BROADCAST})
_TCP_SWITCHES: Final = frozenset({TCP_NODELAY, TCP_CORK, TCP_QUICKACK})


_Accepted = TypeVar("_Accepted", bound="Socket")


class SocketState(Enum):
    """What a socket has become."""

    FRESH = "neither connected nor listening"
    CONNECTING = "the network carries its request to connect"
    LISTENING = "takes connections"
    CONNECTED = "has, or had, another end"


@dataclass(frozen=True, slots=True)
class Received:
    """What a receive got. `size` is its result (more than `data` where MSG_TRUNC asks for the
    length of the message), `address` the sender's (b"": none), `flags` those of the msghdr.
    `waiting`: bytes that may be received now (1 for the end of a stream), None: not told."""

    data: bytes
    size: int
    address: bytes = b""
    flags: int = 0
    waiting: int | None = None


class Socket(Node):
    """A socket. `shut_in` and `shut_out`: it receives, or sends, no more; `error` is told once."""

    mode = S_IFSOCK | 0o777
    queue: WaitQueue
    domain: ClassVar[int]
    kind: ClassVar[int]
    protocol: ClassVar[int] = 0
    keeps_boundaries: ClassVar[bool] = False  # a receive gets at most one message
    zero_copy: ClassVar[bool] = False
    ends_when_blocking: ClassVar[bool] = False  # shut for receiving, only a blocking receive ends

    def __init__(self) -> None:
        self.queue = WaitQueue()
        self.state = SocketState.FRESH
        self.error = 0
        self.shut_in = False
        self.shut_out = False
        self.linger_s: int | None = None
        self._options: dict[tuple[int, int], int] = {}

    # --- calls that most families refuse --------------------------------------------------------

    def bind(self, address: bytes) -> None:
        """bind(2)."""
        raise Refused(errno.EOPNOTSUPP)

    def connect(self, address: bytes) -> bool:
        """connect(2). False: it is under way, `connected` will tell. Refused(EAGAIN): the
        listener's queue is full, try again when `queue_of` changes."""
        raise Refused(errno.EOPNOTSUPP)

    def connected(self) -> None:
        """How a connect that was under way ended: Refused(EAGAIN) while it is."""

    def queue_of(self, address: bytes) -> WaitQueue:
        """What to wait on when `connect` can not be done now."""
        return self.queue

    def listen(self, backlog: int) -> None:
        """listen(2)."""
        raise Refused(errno.EOPNOTSUPP)

    def accept(self) -> Socket:
        """accept(2): the oldest pending connection."""
        raise Refused(errno.EOPNOTSUPP)

    def _first(self, pending: deque[_Accepted]) -> _Accepted:
        """What accept(2) takes of a listener's connections."""
        if self.state is not SocketState.LISTENING:
            raise Refused(errno.EINVAL)
        if not pending:
            raise Refused(errno.EAGAIN)
        end = pending.popleft()
        self.queue.wake()
        return end

    @property
    def pending(self) -> int:
        """Connections that wait to be accepted."""
        return 0

    def shutdown(self, how: int) -> None:
        """shutdown(2)."""
        raise Refused(errno.EOPNOTSUPP)

    def local_address(self) -> bytes:
        """getsockname(2)."""
        return b""

    def peer_address(self) -> bytes:
        """getpeername(2), as accept(2) tells it."""
        return b""

    # --- transfer -----------------------------------------------------------------------------

    def send(self, data: bytes, address: bytes = b"", *, more: bool = False) -> int:
        """sendto(2): bytes taken. `more`: MSG_MORE, they may wait for what is sent next."""
        raise Refused(errno.EOPNOTSUPP)

    def receive(self, size: int, flags: int = 0) -> Received:
        """recvfrom(2): up to `size` bytes, with MSG_PEEK and MSG_TRUNC of `flags`."""
        raise Refused(errno.EOPNOTSUPP)

    def refuse_to_send(self, address: bytes = b"") -> None:
        """Refused with what a send of nothing is refused with, but EAGAIN."""
        raise Refused(errno.EOPNOTSUPP)

    def unread(self) -> int:
        """SIOCINQ."""
        raise Refused(errno.EOPNOTSUPP)

    def unsent(self) -> int:
        """SIOCOUTQ."""
        raise Refused(errno.EOPNOTSUPP)

    def read(self, size: int, offset: int) -> bytes:
        return self.receive(size).data if size else b""

    def peek(self, offset: int) -> bool:
        return bool(self.receive(1, MSG_PEEK).data)

    def write(self, data: bytes, offset: int) -> int:
        return self.send(data)

    def tell_error(self) -> None:
        """Refused with the pending error, if there is one; then it is forgotten."""
        if self.error:
            error, self.error = self.error, 0
            raise Refused(error)

    # --- options --------------------------------------------------------------------------------

    def get_option(self, name: int) -> bytes:
        """getsockopt(2) at SOL_SOCKET, which is all that io_uring gets."""
        if name == SO_ERROR:
            error, self.error = self.error, 0
            return _INT.pack(error)
        if name == SO_LINGER:
            on = self.linger_s is not None
            return _LINGER.pack(on, self._options.get((SOL_SOCKET, SO_LINGER), 0))
        facts: Mapping[int, int] = {
            SO_TYPE: self.kind,
            SO_DOMAIN: self.domain,
            SO_PROTOCOL: self.protocol,
            SO_ACCEPTCONN: self.state is SocketState.LISTENING,
        }
        if name in facts:
            return _INT.pack(facts[name])
        return _INT.pack(self._options.get((SOL_SOCKET, name), 0))

    def set_option(self, level: int, name: int, value: bytes) -> None:
        """setsockopt(2). Refused EINVAL, ENOPROTOOPT, EOPNOTSUPP."""
        if level == SOL_SOCKET:
            if len(value) < _INT.size:
                raise Refused(errno.EINVAL)
            (number,) = _INT.unpack_from(value)
            if name == SO_LINGER:
                if len(value) < _LINGER.size:
                    raise Refused(errno.EINVAL)
                on, seconds = _LINGER.unpack_from(value)
                if on:
                    self._options[level, name] = seconds
                self.linger_s = seconds if on else None
            elif name in _SWITCHES:
                self._options[level, name] = number != 0
            else:
                raise Refused(errno.ENOPROTOOPT)
            return
        if self.domain != AF_INET:
            raise Refused(errno.EOPNOTSUPP)
        if level != SOL_TCP or self.protocol != SOL_TCP or name not in _TCP_SWITCHES:
            raise Refused(errno.ENOPROTOOPT)
        if len(value) < _INT.size:
            raise Refused(errno.EINVAL)
        self._options[level, name] = _INT.unpack_from(value)[0] != 0

    @property
    def reuses_address(self) -> bool:
        """SO_REUSEADDR."""
        return bool(self._options.get((SOL_SOCKET, SO_REUSEADDR)))


def check_how(how: int) -> tuple[bool, bool]:
    """(receiving ends, sending ends) of a shutdown(2); Refused(EINVAL)."""
    if how not in (SHUT_RD, SHUT_WR, SHUT_RDWR):
        raise Refused(errno.EINVAL)
    return how != SHUT_WR, how != SHUT_RD


def cut(data: bytes, size: int, flags: int) -> tuple[bytes, int, int]:
    """(data, result, msghdr flags) of a message that a receive has room for `size` bytes of."""
    if len(data) <= size:
        return data, len(data), 0
    return data[:size], len(data) if flags & MSG_TRUNC else size, MSG_TRUNC


def inet_address(port: int, host: bytes = LOOPBACK) -> bytes:
    """A sockaddr_in."""
    return SOCKADDR_IN.pack(AF_INET, port.to_bytes(2, "big"), host)

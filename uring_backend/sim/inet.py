"""AF_INET addresses and ports of the simulated machine, which has a loopback device only."""

from __future__ import annotations

import errno
from typing import Final, Generic, Protocol, TypeVar

from pybpfvm.uring_backend.abi import AF_INET, AF_UNSPEC, SOCKADDR_IN
from pybpfvm.uring_backend.sim.request import Refused
from pybpfvm.uring_backend.sim.sockets import ANY_HOST, LOOPBACK, SocketState

_FIRST_CLIENT: Final = 32768
_FIRST_BOUND: Final = 40000
_LAST: Final = 65535
_UNPRIVILEGED: Final = 1024  # ports below are refused: a kernel's ring must not take them either


class HasPort(Protocol):
    """A socket that may have a port."""

    @property
    def reuses_address(self) -> bool:
        """SO_REUSEADDR."""

    @property
    def state(self) -> SocketState:
        """What it has become."""


_Socket = TypeVar("_Socket", bound=HasPort)


class Ports(Generic[_Socket]):
    """Which socket of one protocol has which port."""

    def __init__(self) -> None:
        self._sockets: dict[int, list[_Socket]] = {}
        self._port_of: dict[_Socket, int] = {}
        self._next_bound = _FIRST_BOUND
        self._next_client = _FIRST_CLIENT

    def bind(self, socket: _Socket, port: int) -> int:
        """Give a socket a port (0: any free one): which. Refused(EADDRINUSE)."""
        if not port:
            port = self._free_port(self._next_bound, _FIRST_BOUND, _LAST)
            self._next_bound = port + 1
        for other in self._sockets.get(port, ()):
            shared = socket.reuses_address and other.reuses_address
            if not shared or other.state is SocketState.LISTENING:
                raise Refused(errno.EADDRINUSE)
        self._sockets.setdefault(port, []).append(socket)
        self._port_of[socket] = port
        return port

    def client(self, socket: _Socket) -> int:
        """A port for a socket that begins to send."""
        port = self._free_port(self._next_client, _FIRST_CLIENT, _FIRST_BOUND - 1)
        self._next_client = port + 1
        self._sockets[port] = [socket]
        self._port_of[socket] = port
        return port

    def _free_port(self, start: int, first: int, last: int) -> int:
        for candidates in (range(start, last + 1), range(first, start)):
            for port in candidates:
                if port not in self._sockets:
                    return port
        raise Refused(errno.EADDRINUSE if first == _FIRST_BOUND else errno.EADDRNOTAVAIL)

    def free(self, socket: _Socket) -> None:
        """The socket's port, if it has one, is not its own any more."""
        port = self._port_of.pop(socket, None)
        if port is not None:
            self._sockets[port].remove(socket)
            if not self._sockets[port]:
                del self._sockets[port]

    def listener(self, port: int) -> _Socket | None:
        """Who listens on a port."""
        for socket in self._sockets.get(port, ()):
            if socket.state is SocketState.LISTENING:
                return socket
        return None

    def check_listener(self, socket: _Socket) -> None:
        """Refused(EADDRINUSE) when another socket listens on this one's port."""
        for other in self._sockets.get(self._port_of.get(socket, 0), ()):
            if other is not socket and other.state is SocketState.LISTENING:
                raise Refused(errno.EADDRINUSE)

    def owners(self, port: int) -> list[_Socket]:
        """Who is bound to a port, the last one first."""
        return self._sockets.get(port, [])[::-1]


def family_of(address: bytes) -> int:
    """sa_family."""
    return int.from_bytes(address[:2], "little")


def port_of(address: bytes, *, binding: bool = False) -> int:
    """The port of a sockaddr_in on this machine. Refused as connect(2) and bind(2) do."""
    if len(address) < SOCKADDR_IN.size:
        raise Refused(errno.EINVAL)
    family, port, host = SOCKADDR_IN.unpack_from(address)
    if family != AF_INET and not (binding and family == AF_UNSPEC and host == ANY_HOST):
        raise Refused(errno.EAFNOSUPPORT)
    if host not in (LOOPBACK, ANY_HOST):
        raise Refused(errno.EADDRNOTAVAIL if binding else errno.ENETUNREACH)
    number = int.from_bytes(port, "big")
    if binding and 0 < number < _UNPRIVILEGED:
        raise Refused(errno.EADDRNOTAVAIL)
    return number

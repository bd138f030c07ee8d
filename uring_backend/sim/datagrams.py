"""UDP sockets: datagrams over the virtual network, which may lose and reorder them."""

from __future__ import annotations

import errno
from collections import deque
from typing import Final

from pybpfvm.uring_backend.abi import (
    AF_INET,
    AF_UNSPEC,
    MSG_PEEK,
    POLLERR,
    POLLHUP,
    POLLRDHUP,
    POLLWRBAND,
    SOCK_DGRAM,
    SOL_UDP,
)
from pybpfvm.uring_backend.sim.inet import Ports, family_of, port_of
from pybpfvm.uring_backend.sim.network import Network, Path
from pybpfvm.uring_backend.sim.request import Refused
from pybpfvm.uring_backend.sim.sockets import (
    IN,
    OUT,
    SOCKET_BYTES,
    TELL_IN,
    Received,
    Socket,
    SocketState,
    check_how,
    cut,
    inet_address,
)

_MAX_BYTES: Final = 65507  # 64 KiB less the headers of IPv4 and UDP
_OVERHEAD_BYTES: Final = 256  # what a datagram takes besides its data
_PATHS: Final = 256


class UdpSocket(Socket):
    """A UDP socket. A port is 0 until it has one; connected, it hears only its peer."""

    domain = AF_INET
    kind = SOCK_DGRAM
    protocol = SOL_UDP
    keeps_boundaries = True
    zero_copy = True
    ends_when_blocking = True

    def __init__(self, ports: Ports[UdpSocket], network: Network) -> None:
        super().__init__()
        self._ports = ports
        self._network = network
        self.port = 0
        self.peer_port = 0
        self._bound = False  # by bind(2), not by sending
        self._incoming: deque[tuple[bytes, int]] = deque()
        self._bytes = 0
        self._paths: dict[int, Path] = {}
        self._begun = b""  # by MSG_MORE, and for which port
        self._begun_for = 0

    def bind(self, address: bytes) -> None:
        port = port_of(address, binding=True)
        if self.port:
            raise Refused(errno.EINVAL)
        self.port = self._ports.bind(self, port)
        self._bound = True

    def connect(self, address: bytes) -> bool:
        if len(address) < 2:
            raise Refused(errno.EINVAL)
        if family_of(address) == AF_UNSPEC:
            self.state = SocketState.FRESH
            self.peer_port = 0
            if not self._bound:
                self._ports.free(self)
                self.port = 0
            return True
        self._have_port()
        self.peer_port = port_of(address)
        self.state = SocketState.CONNECTED
        return True

    def _have_port(self) -> None:
        if not self.port:
            self.port = self._ports.client(self)

    def shutdown(self, how: int) -> None:
        ends_in, ends_out = check_how(how)
        self.shut_in |= ends_in
        self.shut_out |= ends_out
        self.queue.wake()
        if self.state is not SocketState.CONNECTED:
            raise Refused(errno.ENOTCONN)

    def local_address(self) -> bytes:
        return inet_address(self.port)

    # --- transfer -----------------------------------------------------------------------------

    def refuse_to_send(self, address: bytes = b"") -> None:
        self._target(address)

    def _target(self, address: bytes) -> int:
        if address:
            if len(address) >= 16 and family_of(address) == AF_UNSPEC:
                address = AF_INET.to_bytes(2, "little") + address[2:]
            port = port_of(address)
            if not port:
                raise Refused(errno.EINVAL)
        elif self.state is SocketState.CONNECTED:
            port = self.peer_port
        else:
            raise Refused(errno.EDESTADDRREQ)
        self._have_port()
        self.tell_error()
        if self.shut_out:
            raise Refused(errno.EPIPE)
        return port

    def send(self, data: bytes, address: bytes = b"", *, more: bool = False) -> int:
        if len(self._begun) + len(data) > _MAX_BYTES:
            raise Refused(errno.EMSGSIZE)
        port = self._begun_for or self._target(address)
        taken = len(data)
        if more or self._begun_for:  # one datagram, in pieces
            data = self._begun + data
            self._begun, self._begun_for = (data, port) if more else (b"", 0)
            if more:
                return taken
        path = self._paths.get(port)
        if path is None:
            if len(self._paths) >= _PATHS:
                self._paths.clear()
            client, server = (self.port, port) if not self._bound else (port, self.port)
            path = self._paths[port] = self._network.path((client, server), ordered=False)
        sender = self.port
        path.carry(len(data), lambda: self._arrive(data, sender, port))
        return taken

    def _arrive(self, data: bytes, sender: int, port: int) -> None:
        for other in self._ports.owners(port):
            if other.state is not SocketState.CONNECTED or other.peer_port == sender:
                other._take(data, sender)
                return
        if self.state is SocketState.CONNECTED and self.peer_port == port and self.port == sender:
            self.error = errno.ECONNREFUSED  # by ICMP, which only a connected socket hears
            self.queue.wake()

    def _take(self, data: bytes, sender: int) -> None:
        size = len(data) + _OVERHEAD_BYTES
        if self._bytes + size <= SOCKET_BYTES:  # else it is lost
            self._bytes += size
            self._incoming.append((data, sender))
            self.queue.wake(TELL_IN)

    def receive(self, size: int, flags: int = 0) -> Received:
        self.tell_error()
        if not self._incoming:
            raise Refused(errno.EAGAIN)
        data, sender = self._incoming[0]
        if not flags & MSG_PEEK:
            self._incoming.popleft()
            self._bytes -= len(data) + _OVERHEAD_BYTES
        shown, result, told = cut(data, size, flags)
        return Received(shown, result, inet_address(sender), told)

    def unread(self) -> int:
        return len(self._incoming[0][0]) if self._incoming else 0

    def unsent(self) -> int:
        return 0

    def poll(self) -> int:
        events = OUT | POLLWRBAND | (POLLERR if self.error else 0)
        if self.shut_in:
            events |= IN | POLLRDHUP
        if self.shut_in and self.shut_out:
            events |= POLLHUP
        return events | (IN if self._incoming else 0)

    def released(self) -> None:
        self._ports.free(self)
        self._incoming.clear()
        self.port = 0

"""The host's hand in the simulated world: files, pipes, sockets and the other ends of them."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable
from typing import Final

from pybpfvm.errors import InputError, errno_name
from pybpfvm.uring_backend.abi import (
    AF_INET,
    AF_UNIX,
    NAME_MAX,
    O_RDWR,
    S_IFDIR,
    S_IFLNK,
    S_IFMT,
    SHUT_WR,
    SOCK_DGRAM,
    SOCK_SEQPACKET,
    SOCK_STREAM,
)
from pybpfvm.uring_backend.addresses import socket_refusal
from pybpfvm.uring_backend.sim.children import Children
from pybpfvm.uring_backend.sim.clock import REALTIME_BASE_NS, Clock
from pybpfvm.uring_backend.sim.datagrams import UdpSocket
from pybpfvm.uring_backend.sim.descriptors import FdTable, OpenFile
from pybpfvm.uring_backend.sim.epolls import Epoll
from pybpfvm.uring_backend.sim.eventfds import EventFd
from pybpfvm.uring_backend.sim.inet import Ports
from pybpfvm.uring_backend.sim.network import Network
from pybpfvm.uring_backend.sim.opening import open_path
from pybpfvm.uring_backend.sim.pipes import ends
from pybpfvm.uring_backend.sim.request import Refused
from pybpfvm.uring_backend.sim.sockets import Socket, SocketState, inet_address
from pybpfvm.uring_backend.sim.tcp import TcpSocket
from pybpfvm.uring_backend.sim.unixsockets import (
    Names,
    UnixDatagram,
    UnixSeqpacket,
    UnixSocket,
    UnixStream,
)
from pybpfvm.uring_backend.sim.vfs import (
    DEFAULT_LIMIT_BYTES,
    Directory,
    Last,
    RegularFile,
    Symlink,
    Vfs,
)
from pybpfvm.uring_backend.trees import Entry

_UNIX: Final = {
    SOCK_STREAM: UnixStream,
    SOCK_DGRAM: UnixDatagram,
    SOCK_SEQPACKET: UnixSeqpacket,
}


class SimPeer:
    """The host's end of a simulated connection."""

    def __init__(self, end: Socket) -> None:
        self._end = end
        self._closed = False

    def send(self, data: bytes) -> int:
        """Bytes taken; 0 when the other side is full, or gone."""
        if self._closed:
            raise InputError("send on a closed connection")
        try:
            return self._end.send(data)
        except Refused:
            return 0

    def recv(self, size: int) -> bytes | None:
        """Up to `size` bytes, or one message; b"" at end of stream (also after a reset), None if
        there are none."""
        if self._closed:
            raise InputError("recv on a closed connection")
        try:
            return self._end.receive(size).data
        except Refused as refused:
            return None if refused.errno == errno.EAGAIN else b""

    def shutdown(self) -> None:
        """Send end of stream."""
        if not self._closed:
            with contextlib.suppress(Refused):
                self._end.shutdown(SHUT_WR)

    def address(self) -> bytes:
        """Its own address, by which requests can send to it."""
        return self._end.local_address()

    def close(self, *, reset: bool = False) -> None:
        """Give the end up; twice is fine. `reset`: a TCP connection is reset, not ended."""
        if not self._closed:
            self._closed = True
            if reset:
                self._end.linger_s = 0
            self._end.released()


class SimWorld:
    """Files and sockets around a simulated ring. Paths start at a root of their own,
    which is also the working directory."""

    def __init__(
        self,
        fds: FdTable,
        clock: Clock,
        limit_bytes: int = DEFAULT_LIMIT_BYTES,
        *,
        seed: int = 0,
    ) -> None:
        self.fds = fds
        self.vfs = Vfs(lambda: REALTIME_BASE_NS + clock.now_ns, limit_bytes)
        self.network = Network(clock, seed)
        self._tcp_ports: Ports[TcpSocket] = Ports()
        self._udp_ports: Ports[UdpSocket] = Ports()
        self._names_unix: Names = {}
        self.children = Children()

    # --- files --------------------------------------------------------------------------------

    def path(self, name: str) -> bytes:
        """The path that requests use for the file `name`."""
        return self._names(name)

    def _names(self, name: str) -> bytes:
        parts = name.split("/")
        if not name or "\0" in name or any(part in ("", ".", "..") for part in parts):
            raise InputError(
                f"file name {name!r}", remedy='use a relative name without "." and ".."'
            )
        raw = os.fsencode(name)
        if any(len(part) > NAME_MAX for part in raw.split(b"/")):
            raise InputError(f"file name {name!r} is too long", remedy="use 255 bytes a part")
        return raw

    def add_file(self, name: str, data: bytes, mode: int = 0o644) -> None:
        """Make a file (and the directories on its way), or replace its content."""
        path = self._names(name)
        try:
            for end in (i for i, char in enumerate(path) if char == ord("/")):
                place = self.vfs.walk(path[:end])
                if place.node is None:
                    self.vfs.make_dir(place, 0o755)
            place = self.vfs.walk(path)
            file = place.node or self.vfs.create(place, mode)
            if not isinstance(file, RegularFile):
                raise Refused(errno.EISDIR)
            file.truncate(0)
            if file.write(data, 0) != len(data):
                raise Refused(errno.ENOSPC)
        except Refused as refused:
            raise self._refused(f"can not make the file {name}", refused) from None

    def seed(self, entries: Iterable[Entry]) -> None:
        """Make directories, files and symbolic links, parents first."""
        for entry in entries:
            path = self._names(entry.path)
            try:
                place = self.vfs.walk(path, last=Last.KEEP)
                if entry.mode & S_IFMT == S_IFLNK:
                    self.vfs.make_symlink(place, entry.data)
                elif entry.mode & S_IFMT == S_IFDIR:
                    self.vfs.make_dir(place, entry.mode & 0o7777)
                else:
                    self.add_file(entry.path, entry.data, entry.mode & 0o7777)
            except Refused as refused:
                raise self._refused(f"can not make {entry.path}", refused) from None

    def tree(self) -> list[Entry]:
        """Everything below the root, parents first."""
        found: list[Entry] = []
        pending: list[tuple[str, Directory]] = [("", self.vfs.root)]
        while pending:
            prefix, directory = pending.pop()
            for raw, node in sorted(directory.entries.items()):
                path = prefix + os.fsdecode(raw)
                data = b""
                if isinstance(node, Symlink):
                    data = node.target
                elif isinstance(node, RegularFile):
                    if node.size() > self.vfs.limit_bytes:
                        raise InputError(f"{path} has {node.size()} bytes, most of them a hole")
                    data = node.read(node.size(), 0)
                elif isinstance(node, Directory):
                    pending.append((path + "/", node))
                found.append(Entry(path, node.mode, data))
        return sorted(found, key=lambda entry: entry.path)

    def file_data(self, name: str) -> bytes:
        """The content of a file; InputError if there is none or it is absurdly sparse."""
        try:
            node = self.vfs.walk(self._names(name)).existing()
        except Refused as refused:
            raise self._refused(f"no file {name}", refused) from None
        if not isinstance(node, RegularFile):
            raise InputError(f"{name} is a directory", remedy="name a file")
        if node.size() > self.vfs.limit_bytes:
            raise InputError(
                f"{name} has {node.size()} bytes, most of them a hole", remedy="read parts of it"
            )
        return node.read(node.size(), 0)

    def open(self, name: str, flags: int, mode: int = 0o644) -> int:
        """An fd for the file; InputError when refused."""
        try:
            return self.fds.install(open_path(self.vfs, self._names(name), flags, mode))
        except Refused as refused:
            raise self._refused(f"can not open {name}", refused) from None

    @staticmethod
    def _refused(what: str, refused: Refused) -> InputError:
        return InputError(f"{what}: {errno_name(refused.errno)}")

    def directory(self, fd: int) -> Directory:
        """The directory behind an fd; Refused EBADF, ENOTDIR."""
        node = self.fds.get(fd).node
        if not isinstance(node, Directory):
            raise Refused(errno.ENOTDIR)
        return node

    # --- pipes and sockets ----------------------------------------------------------------------

    def pipe(self) -> tuple[int, int]:
        """(read end, write end)."""
        reader, writer = ends()
        read_fd = self._install(reader)
        return read_fd, self._install(writer)

    def eventfd(self, count: int = 0, *, semaphore: bool = False) -> int:
        """An eventfd object."""
        return self._install(OpenFile(EventFd(count, semaphore=semaphore), O_RDWR))

    def signal(self, fd: int, count: int = 1) -> None:
        """Add to an eventfd."""
        try:
            node = self.fds.get(fd).node
        except Refused:
            raise InputError(f"fd {fd} is not open") from None
        if not isinstance(node, EventFd):
            raise InputError(f"fd {fd} is not an eventfd")
        node.signal(count)

    def epoll(self) -> int:
        """An empty epoll set."""
        return self._install(OpenFile(Epoll(), O_RDWR))

    def child(self) -> int:
        """The number of a new child process."""
        return self.children.start()

    def end_child(self, pid: int, status: int = 0) -> None:
        """A child exits with `status`, or is killed by signal -`status`."""
        if not self.children.end(pid, status):
            raise InputError(f"no child {pid} runs")

    def _install(self, file: OpenFile) -> int:
        try:
            return self.fds.install(file)
        except Refused as refused:
            raise InputError(
                f"no descriptor left: {errno_name(refused.errno)}", remedy="close some"
            ) from None

    def socketpair(self, kind: int = SOCK_STREAM) -> tuple[int, SimPeer]:
        """A connected AF_UNIX socket."""
        ours, theirs = self._unix(kind), self._unix(kind)
        fd = self._install(OpenFile(ours, O_RDWR))
        ours.join(theirs)
        return fd, SimPeer(theirs)

    def _unix(self, kind: int) -> UnixSocket:
        socket = self.make_socket(AF_UNIX, kind)
        assert isinstance(socket, UnixSocket)
        return socket

    def make_socket(self, domain: int, kind: int) -> Socket:
        """A socket of a family and kind that `unsupported_socket` does not name."""
        if domain == AF_UNIX:
            return _UNIX[kind](self._names_unix)
        if kind == SOCK_DGRAM:
            return UdpSocket(self._udp_ports, self.network)
        return TcpSocket(self._tcp_ports, self.network)

    def socket(self, domain: int = AF_INET, kind: int = SOCK_STREAM) -> int:
        """An unconnected socket."""
        if refusal := socket_refusal(domain, kind, 0):
            raise InputError(f"a socket of {refusal}")
        return self._install(OpenFile(self.make_socket(domain, kind), O_RDWR))

    def listen(self, backlog: int = 128) -> int:
        """A listening TCP socket on a loopback port of its own."""
        listener = self.make_socket(AF_INET, SOCK_STREAM)
        fd = self._install(OpenFile(listener, O_RDWR))
        listener.listen(backlog)
        return fd

    def datagrams(self) -> int:
        """A UDP socket on a loopback port of its own."""
        socket = self.make_socket(AF_INET, SOCK_DGRAM)
        socket.bind(inet_address(0))
        return self._install(OpenFile(socket, O_RDWR))

    def _socket_at(self, fd: int) -> Socket:
        try:
            node = self.fds.get(fd).node
        except Refused:
            raise InputError(f"fd {fd} is not open") from None
        if not isinstance(node, Socket):
            raise InputError(f"fd {fd} is not a socket")
        return node

    def address(self, fd: int) -> bytes:
        """The address of a socket, for CONNECT and sends."""
        return self._socket_at(fd).local_address()

    def connect(self, fd: int) -> SimPeer:
        """A client of a listening socket, or a UDP socket that is connected to a bound one."""
        target = self._socket_at(fd)
        listens = target.state is SocketState.LISTENING
        if isinstance(target, TcpSocket) and listens:
            if target.full:
                raise InputError(f"the backlog of fd {fd} is full", remedy="accept first")
        elif isinstance(target, TcpSocket) or not target.local_address():
            raise InputError(f"fd {fd} does not listen")
        client = self.make_socket(target.domain, target.kind)
        try:
            client.connect(target.local_address())
        except Refused as refused:
            raise self._refused(f"can not connect to fd {fd}", refused) from None
        return SimPeer(client)

    def close(self, fd: int) -> None:
        """Close an fd; InputError when it is not open."""
        try:
            self.fds.close(fd)
        except Refused:
            raise InputError(f"fd {fd} is not open") from None

"""The host's hand in the simulated world: files, pipes, sockets and the other ends of them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from typing import Final

from pybpfvm.errors import InputError, errno_name
from pybpfvm.uring_backend.abi import (
    AF_INET,
    NAME_MAX,
    O_RDWR,
    S_IFDIR,
    S_IFLNK,
    S_IFMT,
    SHUT_WR,
    SOCKADDR_IN,
)
from pybpfvm.uring_backend.sim.children import Children
from pybpfvm.uring_backend.sim.clock import REALTIME_BASE_NS, Clock
from pybpfvm.uring_backend.sim.descriptors import FdTable, OpenFile
from pybpfvm.uring_backend.sim.epolls import Epoll
from pybpfvm.uring_backend.sim.eventfds import EventFd
from pybpfvm.uring_backend.sim.opening import open_path
from pybpfvm.uring_backend.sim.pipes import ends
from pybpfvm.uring_backend.sim.request import Refused
from pybpfvm.uring_backend.sim.streams import Socket, SocketState
from pybpfvm.uring_backend.sim.vfs import (
    DEFAULT_LIMIT_BYTES,
    Directory,
    Last,
    RegularFile,
    Symlink,
    Vfs,
)
from pybpfvm.uring_backend.trees import Entry

LOOPBACK: Final = bytes((127, 0, 0, 1))
_FIRST_CLIENT_PORT: Final = 32768
_FIRST_PORT: Final = 40000
_LAST_PORT: Final = 65535


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
        """Up to `size` bytes; b"" at end of stream (also after a reset), None if there are none."""
        if self._closed:
            raise InputError("recv on a closed connection")
        try:
            return self._end.receive(size)
        except Refused as refused:
            return None if refused.errno == errno.EAGAIN else b""

    def shutdown(self) -> None:
        """Send end of stream."""
        if not self._closed:
            self._end.shutdown(SHUT_WR)

    def close(self) -> None:
        """Give the end up; twice is fine."""
        if not self._closed:
            self._closed = True
            self._end.released()


class SimWorld:
    """Files and sockets around a simulated ring. Paths start at a root of their own,
    which is also the working directory."""

    def __init__(self, fds: FdTable, clock: Clock, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        self.fds = fds
        self.vfs = Vfs(lambda: REALTIME_BASE_NS + clock.now_ns, limit_bytes)
        self.children = Children()
        self._listeners: dict[int, Socket] = {}
        self._next_port = _FIRST_PORT
        self._next_client = _FIRST_CLIENT_PORT

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
        raw = name.encode()
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

    def socketpair(self) -> tuple[int, SimPeer]:
        """A connected stream socket, like an AF_UNIX pair."""
        ours, theirs = Socket(unix=True), Socket(unix=True)
        fd = self._install(OpenFile(ours, O_RDWR))
        ours.join(theirs)
        return fd, SimPeer(theirs)

    def socket(self) -> int:
        """An unconnected stream socket."""
        return self._install(OpenFile(Socket(), O_RDWR))

    def listen(self, backlog: int = 128) -> int:
        """A listening socket on a loopback port of its own."""
        listener = Socket()
        fd = self._install(OpenFile(listener, O_RDWR))
        self.bind(listener, 0)
        listener.listen(backlog)
        return fd

    def bind(self, listener: Socket, port: int) -> None:
        """Give a socket a port (0: any free one); Refused EINVAL, EADDRINUSE."""
        if listener.port:
            raise Refused(errno.EINVAL)
        taken = {number for number, other in self._listeners.items() if other.port}
        if not port:
            port = next(
                (n for n in range(self._next_port, _LAST_PORT + 1) if n not in taken), 0
            ) or next((n for n in range(_FIRST_PORT, self._next_port) if n not in taken), 0)
            if not port:
                raise Refused(errno.EADDRINUSE)
            self._next_port = port + 1 if port < _LAST_PORT else _FIRST_PORT
        elif port in taken:
            raise Refused(errno.EADDRINUSE)
        listener.port = port
        self._listeners[port] = listener
        listener.on_release = lambda: self._listeners.pop(port, None)

    def client_port(self) -> int:
        """A port for a connecting socket. They need not be unique: nothing finds a client by it."""
        port = self._next_client
        self._next_client = port + 1 if port + 1 < _FIRST_PORT else _FIRST_CLIENT_PORT
        return port

    def listener_at(self, port: int) -> Socket:
        """Who listens on a loopback port; Refused(ECONNREFUSED)."""
        listener = self._listeners.get(port)
        if listener is None or listener.state is not SocketState.LISTENING:
            raise Refused(errno.ECONNREFUSED)
        return listener

    def _socket_at(self, fd: int) -> Socket:
        try:
            node = self.fds.get(fd).node
        except Refused:
            raise InputError(f"fd {fd} is not open") from None
        if not isinstance(node, Socket):
            raise InputError(f"fd {fd} is not a socket")
        return node

    def address(self, fd: int) -> bytes:
        """The sockaddr_in of a listening socket."""
        port = self._socket_at(fd).port
        return SOCKADDR_IN.pack(AF_INET, port.to_bytes(2, "big"), LOOPBACK)

    def connect(self, fd: int) -> SimPeer:
        """A client connection to a listening socket."""
        listener = self._socket_at(fd)
        if listener.state is not SocketState.LISTENING:
            raise InputError(f"fd {fd} does not listen")
        if listener.full:
            raise InputError(f"the backlog of fd {fd} is full", remedy="accept first")
        client = Socket()
        client.port = self.client_port()
        client.connect_to(listener)
        return SimPeer(client)

    def close(self, fd: int) -> None:
        """Close an fd; InputError when it is not open."""
        try:
            self.fds.close(fd)
        except Refused:
            raise InputError(f"fd {fd} is not open") from None

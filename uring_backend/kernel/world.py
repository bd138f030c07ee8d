"""Real files and sockets around a ring: a temporary directory, pipes, loopback connections.

The directory is the root and the working directory of every path in requests. Who has
CAP_SYS_ADMIN gets it as a mount of its own, which no ".." leaves (`pinned`); then there may be
symbolic links, and this module, too, goes through that mount. Descriptors in `owned` are those
that requests may name; the world's own (its directory, the host's ends) are not among them.
Everything is closed and removed by `close_all`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import shutil
import socket as sockets
import stat
import struct
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from pybpfvm.errors import InputError, errno_name
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.base import Peer
from pybpfvm.uring_backend.kernel.children import Children
from pybpfvm.uring_backend.kernel.guard import inside_target, outside_target
from pybpfvm.uring_backend.trees import Entry

_LOOPBACK = "127.0.0.1"
_CONNECT_TIMEOUT_S = 5.0  # only a full backlog makes a loopback connection wait
_NR_OPEN_TREE = 428
_OPEN_TREE_CLONE = 1
_libc = ctypes.CDLL(None, use_errno=True)
_ROOT_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class KernelWorld:
    """The World of a KernelBackend (see pybpfvm.uring_backend.base)."""

    def __init__(self) -> None:
        self.owned: set[int] = set()
        self._on_disown: list[Callable[[int], None]] = []
        try:
            self._directory = Path(tempfile.mkdtemp(prefix="pybpfvm-"))
        except OSError as error:
            raise _refused("make a temporary directory", error) from error
        self.root_fd = _own_mount(self._directory)
        self.pinned = self.root_fd >= 0
        if not self.pinned:
            self.root_fd = os.open(self._directory, _ROOT_DIRECTORY)
        self._children = Children()
        self._eventfds: set[int] = set()
        self._listening: dict[int, bytes] = {}
        self._refuser: sockets.socket | None = None
        self._peers: list[KernelPeer] = []

    def add_file(self, name: str, data: bytes, mode: int = 0o644) -> None:
        """Make a file (and the directories on its way) with this content."""
        path = _checked_name(name)
        try:
            for end in (at for at, char in enumerate(path) if char == ord("/")):
                with contextlib.suppress(FileExistsError):
                    os.mkdir(path[:end], dir_fd=self.root_fd)
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            with open(self._open(path, flags, mode), "wb") as file:
                file.write(data)
                os.fchmod(file.fileno(), mode)
        except OSError as error:
            raise _refused(f"make the file {name!r}", error) from error

    def seed(self, entries: Iterable[Entry]) -> None:
        """Make directories, files and symbolic links, parents first."""
        for entry in entries:
            path = _checked_name(entry.path)
            try:
                if stat.S_ISLNK(entry.mode):
                    if not self.pinned:
                        raise InputError(
                            f"{entry.path} is a symbolic link: they need CAP_SYS_ADMIN here"
                        )
                    os.symlink(inside_target(entry.data), path, dir_fd=self.root_fd)
                elif stat.S_ISDIR(entry.mode):
                    os.mkdir(path, dir_fd=self.root_fd)
                else:
                    self.add_file(entry.path, entry.data, stat.S_IMODE(entry.mode))
            except OSError as error:
                raise _refused(f"make {entry.path!r}", error) from error

    def tree(self) -> list[Entry]:
        """Everything below the root, parents first."""
        found: list[Entry] = []
        pending = [b""]
        while pending:
            prefix = pending.pop()
            handle = self._open(prefix or b".", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                for name in sorted(os.listdir(handle)):
                    mode = os.lstat(name, dir_fd=handle).st_mode
                    path = prefix + os.fsencode(name)
                    data = b""
                    if stat.S_ISLNK(mode):
                        data = outside_target(os.fsencode(os.readlink(name, dir_fd=handle)))
                    elif stat.S_ISREG(mode):
                        with open(self._open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
                            data = file.read()
                    elif stat.S_ISDIR(mode):
                        pending.append(path + b"/")
                    found.append(Entry(os.fsdecode(path), mode, data))
            finally:
                os.close(handle)
        return sorted(found, key=lambda entry: entry.path)

    def file_data(self, name: str) -> bytes:
        """The content of a file; InputError if there is none."""
        try:
            with open(self._open(_checked_name(name), os.O_RDONLY), "rb") as file:
                return file.read()
        except OSError as error:
            raise _refused(f"read the file {name!r}", error) from error

    def _open(self, path: bytes, flags: int, mode: int = 0o644) -> int:
        return os.open(path, flags | os.O_CLOEXEC, mode, dir_fd=self.root_fd)

    def path(self, name: str) -> bytes:
        """The path that a request (OPENAT, ...) must use for the file `name`."""
        return _checked_name(name)

    def open(self, name: str, flags: int, mode: int = 0o644) -> int:
        """Open a file like open(2); an fd that requests may use. InputError when refused."""
        try:
            return self._own(self._open(_checked_name(name), flags, mode))
        except OSError as error:
            raise _refused(f"open {name!r}", error) from error

    def pipe(self) -> tuple[int, int]:
        """(read end, write end) as fds that requests may use."""
        try:
            reader, writer = os.pipe2(os.O_CLOEXEC)
        except OSError as error:
            raise _refused("make a pipe", error) from error
        return self._own(reader), self._own(writer)

    def socketpair(self) -> tuple[int, Peer]:
        """A connected stream socket: the requests' fd and the host's end."""
        try:
            ours, theirs = sockets.socketpair(sockets.AF_UNIX, sockets.SOCK_STREAM)
        except OSError as error:
            raise _refused("make a socket pair", error) from error
        return self._own(theirs.detach()), self._peer(ours)

    def listen(self, backlog: int = 128) -> int:
        """A listening stream socket on a loopback address, as an fd that requests may use."""
        try:
            listener = sockets.socket(sockets.AF_INET, sockets.SOCK_STREAM)
            with contextlib.ExitStack() as undo:
                undo.callback(listener.close)
                listener.bind((_LOOPBACK, 0))
                listener.listen(backlog)
                address = _sockaddr(listener)
                undo.pop_all()
        except OSError as error:
            raise _refused("listen on the loopback address", error) from error
        fd = self._own(listener.detach())
        self._listening[fd] = address
        return fd

    def address(self, fd: int) -> bytes:
        """The sockaddr_in of a listening socket, 16 bytes, for CONNECT requests."""
        try:
            return self._listening[fd]
        except KeyError:
            raise InputError(f"descriptor {fd} does not listen") from None

    def connect(self, fd: int) -> Peer:
        """A client connection to a listening socket (completes even before it is accepted)."""
        port = struct.unpack_from(">H", self.address(fd), 2)[0]
        try:
            return self._peer(sockets.create_connection((_LOOPBACK, port), _CONNECT_TIMEOUT_S))
        except OSError as error:
            raise _refused("connect (is the backlog full?)", error) from error

    def socket(self) -> int:
        """An unconnected stream socket, for CONNECT requests."""
        try:
            return self._own(sockets.socket(sockets.AF_INET, sockets.SOCK_STREAM).detach())
        except OSError as error:
            raise _refused("make a socket", error) from error

    def eventfd(self, count: int = 0, *, semaphore: bool = False) -> int:
        """An eventfd object."""
        kind = os.EFD_SEMAPHORE if semaphore else 0
        fd = self._own(os.eventfd(0, os.EFD_CLOEXEC | kind))
        self._eventfds.add(fd)
        if count:
            os.eventfd_write(fd, count)
        return fd

    def signal(self, fd: int, count: int = 1) -> None:
        """Add to an eventfd; what is beyond its maximum is lost."""
        if fd not in self._eventfds:
            raise InputError(f"fd {fd} is not an eventfd")
        poll = select.poll()
        poll.register(fd, select.POLLOUT)
        if poll.poll(0):
            os.eventfd_write(fd, count)

    def epoll(self) -> int:
        """An empty epoll set."""
        with select.epoll() as epoll:
            return self._own(os.dup(epoll.fileno()))

    def child(self) -> int:
        """The number of a new child process."""
        return self._children.start()

    def is_child(self, pid: int) -> bool:
        """Whether requests may wait for this process."""
        return self._children.started(pid)

    def end_child(self, pid: int, status: int = 0) -> None:
        """A child exits with `status`, or is killed by signal -`status`."""
        self._children.end(pid, status)

    def close(self, fd: int) -> None:
        """Close an fd that this world or a request opened; InputError when it is not open."""
        if fd not in self.owned:
            raise InputError(f"descriptor {fd} is not open")
        self.disown(fd)
        with contextlib.suppress(OSError):
            os.close(fd)

    def adopt(self, fd: int) -> None:
        """A request opened `fd`."""
        self.owned.add(fd)

    def disown(self, fd: int) -> None:
        """A request closed `fd`, or somebody is about to."""
        self.owned.discard(fd)
        for action in self._on_disown:
            action(fd)
        self._listening.pop(fd, None)
        self._eventfds.discard(fd)

    def on_disown(self, action: Callable[[int], None]) -> None:
        """Have `disown` call `action`: for whoever remembers which descriptors are owned."""
        self._on_disown.append(action)

    def forget_on_disown(self, action: Callable[[int], None]) -> None:
        """Take `on_disown` back."""
        self._on_disown.remove(action)

    def may_connect(self, address: bytes) -> bool:
        """Whether the sockaddr_in is that of a socket which listens in this world."""
        return any(address[:8] == known[:8] for known in self._listening.values())

    def refusing_address(self) -> bytes:
        """A loopback sockaddr_in at which connections are refused: bound, but not listening."""
        if self._refuser is None:
            self._refuser = sockets.socket(sockets.AF_INET, sockets.SOCK_STREAM)
            self._refuser.bind((_LOOPBACK, 0))
        return _sockaddr(self._refuser)

    def close_all(self) -> None:
        """Close every descriptor and remove the directory; twice is fine."""
        for fd in sorted(self.owned):
            self.close(fd)
        for peer in self._peers:
            peer.close()
        self._children.close()
        if self._refuser is not None:
            self._refuser.close()
        if self.root_fd >= 0:
            os.close(self.root_fd)
            self.root_fd = -1
        shutil.rmtree(self._directory, ignore_errors=True)

    def _own(self, fd: int) -> int:
        self.owned.add(fd)
        return fd

    def _peer(self, end: sockets.socket) -> KernelPeer:
        peer = KernelPeer(end)
        self._peers = [each for each in self._peers if not each.closed]
        self._peers.append(peer)
        return peer


class KernelPeer:
    """The host's end of a connection, never blocking."""

    def __init__(self, end: sockets.socket) -> None:
        self._end = end
        end.setblocking(False)
        if end.family == sockets.AF_INET:
            end.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._end.fileno() < 0

    def send(self, data: bytes) -> int:
        """Bytes taken; 0 when the other side is full, or gone."""
        if self.closed:
            raise InputError("send on a closed connection")
        try:
            return self._end.send(data)
        except OSError:
            return 0

    def recv(self, size: int) -> bytes | None:
        """Up to `size` bytes; b"" at end of stream (also after a reset), None if there are none."""
        if self.closed:
            raise InputError("recv on a closed connection")
        try:
            return self._end.recv(size)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def shutdown(self) -> None:
        """Send end of stream; receiving still works."""
        with contextlib.suppress(OSError):
            self._end.shutdown(sockets.SHUT_WR)

    def close(self) -> None:
        """Give the end up; twice is fine."""
        self._end.close()


def _own_mount(directory: Path) -> int:
    """An O_PATH descriptor of the directory as the root of a detached mount; -1 if refused."""
    fd: int = _libc.syscall(
        _NR_OPEN_TREE, -100, os.fsencode(directory), _OPEN_TREE_CLONE | os.O_CLOEXEC
    )
    return fd


def _checked_name(name: str) -> bytes:
    parts = name.split("/")
    if not name or "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise InputError(f"file name {name!r}", remedy='use a relative name without "." and ".."')
    return os.fsencode(name)


def _sockaddr(end: sockets.socket) -> bytes:
    host, port = end.getsockname()
    return abi.SOCKADDR_IN.pack(abi.AF_INET, struct.pack(">H", port), sockets.inet_aton(host))


def _refused(what: str, error: OSError) -> InputError:
    number = error.errno or errno.EIO
    return InputError(f"cannot {what}: {error.strerror or error} (-{errno_name(number)})")

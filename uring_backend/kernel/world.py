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
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path

from pybpfvm.errors import InputError, errno_name
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.addresses import socket_refusal
from pybpfvm.uring_backend.base import Peer
from pybpfvm.uring_backend.kernel.children import Children
from pybpfvm.uring_backend.kernel.guard import inside_target, outside_target
from pybpfvm.uring_backend.kernel.numbers import Numbers
from pybpfvm.uring_backend.kernel.unixnames import UnixNames
from pybpfvm.uring_backend.trees import Entry

_LOOPBACK = "127.0.0.1"
_SOCKADDR_MAX = 128
_CONNECT_TIMEOUT_S = 5.0  # only a full backlog makes a loopback connection wait
_NR_OPEN_TREE = 428
_OPEN_TREE_CLONE = 1
_libc = ctypes.CDLL(None, use_errno=True)
_ROOT_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC

_getsockname = ctypes.CDLL(None)["getsockname"]


class KernelWorld:
    """The World of a KernelBackend (see pybpfvm.uring_backend.base)."""

    network = None  # it is the host's

    def __init__(self) -> None:
        self.owned: set[int] = set()
        self._on_disown: list[Callable[[int], None]] = []
        try:
            self._directory = Path(tempfile.mkdtemp(prefix="pybpfvm-"))
        except OSError as error:
            raise _refused("make a temporary directory", error) from error
        self.numbers = Numbers(self._directory)
        self.root_fd = _own_mount(self._directory)
        self.pinned = self.root_fd >= 0
        if not self.pinned:
            self.root_fd = os.open(self._directory, _ROOT_DIRECTORY)
        self._children = Children()
        self._eventfds: set[int] = set()
        self.names = UnixNames()
        self._addresses: dict[int, bytes] = {}  # of listening and bound sockets
        self._fds_at: dict[bytes, set[int]] = {}  # by family, port and host
        self._datagrams: set[int] = set()
        self._refuser: sockets.socket | None = None
        self._peers: weakref.WeakSet[KernelPeer] = weakref.WeakSet()

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
        directories: list[Entry] = []
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
                    directories.append(entry)
                else:
                    self.add_file(entry.path, entry.data, stat.S_IMODE(entry.mode))
            except OSError as error:
                raise _refused(f"make {entry.path!r}", error) from error
        for entry in reversed(directories):  # when nothing more has to be made in them
            os.chmod(_checked_name(entry.path), stat.S_IMODE(entry.mode), dir_fd=self.root_fd)

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

    def socketpair(self, kind: int = sockets.SOCK_STREAM) -> tuple[int, Peer]:
        """A connected AF_UNIX socket: the requests' fd and the host's end."""
        try:
            ours, theirs = sockets.socketpair(sockets.AF_UNIX, kind)
        except OSError as error:
            raise _refused("make a socket pair", error) from error
        return self._own(theirs.detach()), self._peer(ours)

    def listen(self, backlog: int = 128) -> int:
        """A listening TCP socket on a loopback address, as an fd that requests may use."""
        return self._bound(sockets.SOCK_STREAM, backlog)

    def datagrams(self) -> int:
        """A UDP socket bound to a loopback address, as an fd that requests may use."""
        return self._bound(sockets.SOCK_DGRAM, 0)

    def _bound(self, kind: int, backlog: int) -> int:
        try:
            made = sockets.socket(sockets.AF_INET, kind)
            with contextlib.ExitStack() as undo:
                undo.callback(made.close)
                made.bind((_LOOPBACK, 0))
                if kind == sockets.SOCK_STREAM:
                    made.listen(backlog)
                undo.pop_all()
        except OSError as error:
            raise _refused("bind a socket to the loopback address", error) from error
        fd = self._own(made.detach())
        self.note_address(fd)
        return fd

    def address(self, fd: int) -> bytes:
        """The address of a socket, for CONNECT requests and sends."""
        if fd not in self.owned:
            raise InputError(f"descriptor {fd} is not open")
        if fd not in self._addresses:
            self.note_address(fd)
        return self.names.shown(self._addresses[fd])

    def connect(self, fd: int) -> Peer:
        """A client of a listening socket (it is connected even before it is accepted), or a
        UDP socket connected to one that is bound."""
        self.address(fd)
        address = self._addresses[fd]
        end = None
        try:
            domain = int.from_bytes(address[:2], "little")
            end = sockets.socket(domain, _kind_of(fd))
            end.settimeout(_CONNECT_TIMEOUT_S)
            end.connect(_python_address(address))
        except OSError as error:
            if end is not None:
                end.close()
            raise _refused("connect (is the backlog full?)", error) from error
        return self._peer(end)

    def socket(self, domain: int = sockets.AF_INET, kind: int = sockets.SOCK_STREAM) -> int:
        """An unconnected socket."""
        if refusal := socket_refusal(domain, kind, 0):
            raise InputError(f"a socket of {refusal}")
        try:
            fd = self._own(sockets.socket(domain, kind).detach())
        except OSError as error:
            raise _refused("make a socket", error) from error
        if kind == sockets.SOCK_DGRAM:
            self.sends_datagrams(fd)
        return fd

    def sends_datagrams(self, fd: int) -> None:
        """`fd` (negative: none) is a socket that gets an address by sending."""
        if fd >= 0:
            self._datagrams.add(fd)

    def note_address(self, fd: int) -> None:
        """A request bound `fd`, or made it listen."""
        self._forget_address(fd)
        address = _address_of(fd)
        self._addresses[fd] = address
        self._fds_at.setdefault(address[:8], set()).add(fd)

    def _forget_address(self, fd: int) -> None:
        address = self._addresses.pop(fd, None)
        if address is not None:
            fds = self._fds_at[address[:8]]
            fds.discard(fd)
            if not fds:
                del self._fds_at[address[:8]]

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
        self.numbers.close(fd)

    def adopt(self, fd: int) -> None:
        """A request opened `fd`."""
        self.owned.add(fd)

    def disown(self, fd: int) -> None:
        """A request closed `fd`, or somebody is about to."""
        self.owned.discard(fd)
        for action in self._on_disown:
            action(fd)
        self._forget_address(fd)
        self._datagrams.discard(fd)
        self._eventfds.discard(fd)

    def on_disown(self, action: Callable[[int], None]) -> None:
        """Have `disown` call `action`: for whoever remembers which descriptors are owned."""
        self._on_disown.append(action)

    def forget_on_disown(self, action: Callable[[int], None]) -> None:
        """Take `on_disown` back."""
        self._on_disown.remove(action)

    def may_reach(self, address: bytes) -> bool:
        """Whether the sockaddr_in is that of a socket which listens, or is bound, in this world."""
        key = address[:8]
        if key[4:] == bytes(4):
            key = key[:4] + bytes((127, 0, 0, 1))
        if self._is_held(key):
            return True
        for fd in self._datagrams:  # which get their address when they first send
            if fd not in self._addresses:
                found = _address_of(fd)
                if found[2:4] != bytes(2):
                    self.note_address(fd)
        return self._is_held(key) or any(
            peer.address()[:8] == key for peer in self._peers if peer.is_udp
        )

    def _is_held(self, key: bytes) -> bool:
        """Whether a socket still has the address: a port that the kernel chose is anybody's after
        a shutdown of its listener, or when its socket is disconnected."""
        return any(_has_port(fd, key) for fd in self._fds_at.get(key, ()))

    def is_inet(self, fd: int) -> bool:
        """Whether the descriptor is an AF_INET socket."""
        return fd >= 0 and _address_of(fd)[:2] == abi.AF_INET.to_bytes(2, "little")

    def refusing_address(self) -> bytes:
        """A loopback sockaddr_in at which connections are refused: bound, but not listening."""
        if self._refuser is None:
            self._refuser = sockets.socket(sockets.AF_INET, sockets.SOCK_STREAM)
            self._refuser.bind((_LOOPBACK, 0))
        return _address_of(self._refuser.fileno())

    def close_all(self) -> None:
        """Close every descriptor and remove the directory; twice is fine."""
        for fd in sorted(self.owned):
            self.close(fd)
        self.numbers.close_all()
        for peer in list(self._peers):
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
        self._peers.add(peer)
        return peer


class KernelPeer:
    """The host's end of a connection, never blocking."""

    def __init__(self, end: sockets.socket) -> None:
        self._end = end
        end.setblocking(False)
        self._is_udp = end.family == sockets.AF_INET and end.type == sockets.SOCK_DGRAM
        if end.family == sockets.AF_INET and not self._is_udp:
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

    @property
    def is_udp(self) -> bool:
        """Whether requests may send to it without a connection."""
        return not self.closed and self._is_udp

    def address(self) -> bytes:
        """Its own address, by which requests can send to it."""
        return b"" if self.closed else _address_of(self._end.fileno())

    def close(self, *, reset: bool = False) -> None:
        """Give the end up; twice is fine. `reset`: a TCP connection is reset, not ended."""
        if reset and not self.closed:
            with contextlib.suppress(OSError):
                self._end.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, struct.pack("ii", 1, 0))
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


def _address_of(fd: int) -> bytes:
    """getsockname(2) as the kernel gives it; b"" for what is no socket."""
    buffer = ctypes.create_string_buffer(_SOCKADDR_MAX)
    size = ctypes.c_uint32(_SOCKADDR_MAX)
    if _getsockname(fd, buffer, ctypes.byref(size)) < 0:
        return b""
    return buffer.raw[: size.value]


def _has_port(fd: int, key: bytes) -> bool:
    """Whether the socket listens, or for datagrams is bound, there."""
    end = sockets.socket(fileno=fd)
    try:
        if end.type == sockets.SOCK_STREAM:
            return end.getsockopt(sockets.SOL_SOCKET, sockets.SO_ACCEPTCONN) > 0
        return _address_of(fd)[:8] == key
    finally:
        end.detach()


def _kind_of(fd: int) -> int:
    end = sockets.socket(fileno=fd)
    try:
        return end.type
    finally:
        end.detach()


def _python_address(address: bytes) -> tuple[str, int] | bytes:
    if int.from_bytes(address[:2], "little") == sockets.AF_UNIX:
        return address[2:]
    return _LOOPBACK, int.from_bytes(address[2:4], "big")


def _refused(what: str, error: OSError) -> InputError:
    number = error.errno or errno.EIO
    return InputError(f"cannot {what}: {error.strerror or error} (-{errno_name(number)})")

"""Open files, what they refer to, and the table of descriptors."""

from __future__ import annotations

import errno
import heapq
from collections.abc import Callable
from typing import Final

from pybpfvm.uring_backend.abi import (
    DEFAULT_POLL,
    O_ACCMODE,
    O_APPEND,
    O_RDONLY,
    O_WRONLY,
    S_IFIFO,
    S_IFMT,
    S_IFSOCK,
)
from pybpfvm.uring_backend.sim.request import Refused

FIRST_FD: Final = 3  # 0, 1 and 2 look like somebody else's and are never given out
MAX_FDS: Final = 1 << 16  # a server's RLIMIT_NOFILE
MAX_SLOTS: Final = 1 << 15


Woken = Callable[[int], None]
"""Called when a file changes, with the poll events the change is about (0: not said)."""


class WaitQueue:
    """Who wants to know when a file changes. As in the kernel, the latest comer is told first;
    of those that wait for a connection only the oldest is told."""

    def __init__(self) -> None:
        self._waiting: dict[object, Woken] = {}
        self._exclusive: dict[object, tuple[Woken, Callable[[], bool]]] = {}
        self._places: dict[object, int] = {}  # kept while one only tries again
        self._next_place = 0

    def add(self, key: object, woken: Woken, *, keeps_place: bool = False) -> None:
        """Call `woken` at every change until `remove`. `keeps_place`: see `add_exclusive`."""
        self._take_place(key, keeps_place=keeps_place)
        self._waiting[key] = woken

    def _take_place(self, key: object, *, keeps_place: bool) -> None:
        if not keeps_place or key not in self._places:
            self._places[key] = self._next_place
            self._next_place += 1

    def add_exclusive(
        self, key: object, woken: Woken, idle: Callable[[], bool], *, keeps_place: bool
    ) -> None:
        """Call `woken` when this one is the oldest of its kind for which `idle` is true.

        `keeps_place`: it is as old as when it was first added, even if removed in between.
        """
        self._take_place(key, keeps_place=keeps_place)
        self._exclusive[key] = woken, idle

    def forget_place(self, key: object) -> None:
        """`key` will not be added again."""
        self._places.pop(key, None)

    def remove(self, key: object) -> None:
        """Forget `key`; unknown ones are ignored."""
        self._waiting.pop(key, None)
        self._exclusive.pop(key, None)

    def wake(self, events: int = 0) -> None:
        """Something changed; `events` as a waker in the kernel names them."""
        if len(self._waiting) == 1:
            (woken,) = self._waiting.values()
            woken(events)
        else:
            for key in sorted(self._waiting, key=self._places.__getitem__, reverse=True):
                self._waiting[key](events)
        for key in sorted(self._exclusive, key=self._places.__getitem__):
            woken, idle = self._exclusive[key]
            if idle():
                woken(events)
                return


class Node:
    """What an open file refers to: regular file, directory, end of a pipe, socket.

    The methods here are those of a node that can do nothing; all raise Refused.
    """

    mode = 0
    is_ring = False
    queue: WaitQueue | None = None  # None: always ready, can not be waited for
    seekable = False

    def read(self, size: int, offset: int) -> bytes:
        """Up to `size` bytes at `offset` (ignored unless seekable); b"" at the end."""
        raise Refused(errno.EINVAL)

    def peek(self, offset: int) -> bool:
        """Whether a read would get anything; raises what the read would."""
        return bool(self.read(1, offset))

    def write(self, data: bytes, offset: int) -> int:
        """Bytes written at `offset` (ignored unless seekable)."""
        raise Refused(errno.EINVAL)

    def size(self) -> int:
        """Bytes in the file."""
        return 0

    def poll(self) -> int:
        """Poll events that hold now."""
        return DEFAULT_POLL

    def released(self) -> None:
        """The last reference is gone."""


def is_socket(node: Node) -> bool:
    """Whether it is a socket of any kind."""
    return node.mode & S_IFMT == S_IFSOCK


def is_pipe(node: Node) -> bool:
    """Whether it is an end of a pipe."""
    return node.mode & S_IFMT == S_IFIFO


class OpenFile:
    """An open file description: shared by descriptors, slots and requests that name it."""

    __slots__ = ("flags", "node", "offset", "references", "watchers")

    def __init__(self, node: Node, flags: int) -> None:
        self.node = node
        self.flags = flags
        self.offset = 0
        self.references = 0
        self.watchers: dict[object, Callable[[], None]] = {}  # called before the node is released

    @property
    def readable(self) -> bool:
        """Opened for reading."""
        return self.flags & O_ACCMODE != O_WRONLY

    @property
    def writable(self) -> bool:
        """Opened for writing."""
        return self.flags & O_ACCMODE != O_RDONLY

    @property
    def append(self) -> bool:
        """Every write goes to the end."""
        return bool(self.flags & O_APPEND)

    def hold(self) -> OpenFile:
        """Take a reference."""
        self.references += 1
        return self

    def drop(self) -> None:
        """Give a reference back; the last one releases the node."""
        self.references -= 1
        if self.references == 0:
            for gone in list(self.watchers.values()):
                gone()
            self.node.released()


class FdTable:
    """Descriptors: small numbers, the lowest free one first."""

    def __init__(self) -> None:
        self._files: dict[int, OpenFile] = {}
        self._freed: list[int] = []  # heap of numbers below `_fresh`
        self._fresh = FIRST_FD

    def get(self, fd: int) -> OpenFile:
        """The file; Refused(EBADF) for anything else."""
        file = self._files.get(fd)
        if file is None:
            raise Refused(errno.EBADF)
        return file

    def install(self, file: OpenFile) -> int:
        """A new descriptor for `file`; Refused(EMFILE) when all are taken."""
        fd = self.free()
        if fd == self._fresh:
            self._fresh += 1
        else:
            heapq.heappop(self._freed)
        self._files[fd] = file.hold()
        return fd

    def free(self) -> int:
        """The lowest free number; Refused(EMFILE)."""
        fd = self._freed[0] if self._freed else self._fresh
        if fd >= MAX_FDS:
            raise Refused(errno.EMFILE)
        return fd

    def close(self, fd: int) -> None:
        """Free the descriptor; Refused(EBADF)."""
        file = self.get(fd)
        del self._files[fd]
        heapq.heappush(self._freed, fd)
        file.drop()

    def close_all(self) -> None:
        """Free all of them."""
        for fd in list(self._files):
            self.close(fd)

    def __len__(self) -> int:
        return len(self._files)

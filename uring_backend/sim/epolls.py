"""Epoll sets: files watched together, EPOLL_CTL that changes a set, EPOLL_WAIT on it."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pybpfvm.bits import s32
from pybpfvm.memory import UserFault
from pybpfvm.uring_backend.abi import (
    EPOLL_CTL_ADD,
    EPOLL_CTL_DEL,
    EPOLL_CTL_MOD,
    EPOLL_EVENT,
    EPOLLET,
    EPOLLEXCLUSIVE,
    EPOLLONESHOT,
    EPOLLWAKEUP,
    POLLERR,
    POLLHUP,
    POLLIN,
    POLLRDNORM,
)
from pybpfvm.uring_backend.sim.descriptors import Node, OpenFile, WaitQueue
from pybpfvm.uring_backend.sim.request import Issue, Refused, Request

if TYPE_CHECKING:
    from pybpfvm.uring_backend.sim.core import Core

_IN: Final = POLLIN | POLLRDNORM
_PRIVATE: Final = EPOLLET | EPOLLONESHOT | EPOLLWAKEUP | EPOLLEXCLUSIVE
_MAX_EVENTS: Final = ((1 << 31) - 1) // EPOLL_EVENT.size


@dataclass(eq=False, slots=True)
class Watched:
    """One file of a set, known by its descriptor, too."""

    file: OpenFile
    events: int
    data: int

    def ready(self) -> int:
        """The events that hold, of those asked for."""
        return self.file.node.poll() & self.events & ~_PRIVATE


class Epoll(Node):
    """A set. `_ready` are the files that have reported something, in that order."""

    mode = 0o600

    def __init__(self) -> None:
        self.queue: WaitQueue = WaitQueue()
        self._watched: dict[tuple[OpenFile, int], Watched] = {}
        self._ready: dict[Watched, None] = {}

    def add(self, file: OpenFile, fd: int, events: int, data: int) -> None:
        """Watch a file; Refused EEXIST, ELOOP."""
        if isinstance(file.node, Epoll) and file.node.reaches(self):
            raise Refused(errno.ELOOP)
        if (file, fd) in self._watched:
            raise Refused(errno.EEXIST)
        entry = Watched(file, events | POLLERR | POLLHUP, data)
        self._watched[file, fd] = entry
        assert file.node.queue is not None
        file.node.queue.add(entry, lambda reported: self._reported(entry, reported))
        file.watchers[entry] = lambda: self.remove(file, fd)
        self._look_at(entry)

    def change(self, file: OpenFile, fd: int, events: int, data: int) -> None:
        """Watch a file for something else; Refused(ENOENT)."""
        entry = self._find(file, fd)
        if entry.events & EPOLLEXCLUSIVE:
            raise Refused(errno.EINVAL)
        entry.events = events | POLLERR | POLLHUP
        entry.data = data
        self._look_at(entry)

    def remove(self, file: OpenFile, fd: int) -> None:
        """Watch a file no more; Refused(ENOENT)."""
        entry = self._find(file, fd)
        del self._watched[file, fd]
        self._ready.pop(entry, None)
        file.watchers.pop(entry, None)
        if file.node.queue is not None:
            file.node.queue.remove(entry)

    def _find(self, file: OpenFile, fd: int) -> Watched:
        entry = self._watched.get((file, fd))
        if entry is None:
            raise Refused(errno.ENOENT)
        return entry

    def reaches(self, other: Epoll) -> bool:
        """Whether this set is, or watches directly or not, the other."""
        if self is other:
            return True
        inner = (file.node for file, _ in self._watched)
        return any(isinstance(node, Epoll) and node.reaches(other) for node in inner)

    def _look_at(self, entry: Watched) -> None:
        if entry.ready():
            self._ready.setdefault(entry)
            self.queue.wake(_IN)

    def _reported(self, entry: Watched, events: int) -> None:
        if not entry.events & ~(_PRIVATE | POLLERR | POLLHUP) and entry.events & EPOLLONESHOT:
            return  # has reported once and is disabled
        if events and not events & entry.events:
            return
        self._ready.setdefault(entry)
        self.queue.wake(_IN)

    def take(self, most: int) -> list[tuple[int, int]]:
        """(events, data) of up to `most` files that are ready now."""
        found: list[tuple[int, int]] = []
        again: list[Watched] = []
        waiting = list(self._ready)
        for position, entry in enumerate(waiting):
            if len(found) == most:
                again[:0] = waiting[position:]
                break
            events = entry.ready()
            if not events:
                continue
            found.append((events, entry.data))
            if entry.events & EPOLLONESHOT:
                entry.events &= _PRIVATE
            elif not entry.events & EPOLLET:
                again.append(entry)
        self._ready = dict.fromkeys(again)
        return found

    def poll(self) -> int:
        return _IN if any(entry.ready() for entry in self._ready) else 0

    def released(self) -> None:
        for file, fd in list(self._watched):
            self.remove(file, fd)


def prepare_epoll_ctl(core: Core, request: Request) -> Issue:
    """EPOLL_CTL: operation Sqe.len on descriptor Sqe.off in the set Sqe.fd, event at Sqe.addr."""
    sqe = request.sqe
    if sqe.buf_index or sqe.file_index:
        raise Refused(errno.EINVAL)
    operation, fd = sqe.len, s32(sqe.off)
    events = data = 0
    if operation != EPOLL_CTL_DEL:
        try:
            events, data = EPOLL_EVENT.unpack(core.memory.user_read(sqe.addr, EPOLL_EVENT.size))
        except UserFault:
            raise Refused(errno.EFAULT) from None

    def issue() -> int:
        epoll_file, file = core.fds.get(sqe.fd), core.fds.get(fd)
        if file.node.queue is None:
            raise Refused(errno.EPERM)
        epoll = epoll_file.node
        if file is epoll_file or not isinstance(epoll, Epoll):
            raise Refused(errno.EINVAL)
        if operation == EPOLL_CTL_ADD:
            epoll.add(file, fd, events, data)
        elif operation == EPOLL_CTL_MOD:
            epoll.change(file, fd, events, data)
        elif operation == EPOLL_CTL_DEL:
            epoll.remove(file, fd)
        else:
            raise Refused(errno.EINVAL)
        return 0

    return issue


def prepare_epoll_wait(core: Core, request: Request) -> Issue:
    """EPOLL_WAIT: the number of events, up to Sqe.len, that went to Sqe.addr."""
    sqe = request.sqe
    if sqe.off or sqe.op_flags or sqe.buf_index or sqe.file_index:
        raise Refused(errno.EINVAL)
    request.wait_events = POLLIN

    def issue() -> int:
        if not 0 < sqe.len <= _MAX_EVENTS:
            raise Refused(errno.EINVAL)
        node = core.file_of(request).node
        if sqe.addr >> 63:
            raise Refused(errno.EFAULT)
        if not isinstance(node, Epoll):
            raise Refused(errno.EINVAL)
        if node.poll() and not core.memory.is_user(sqe.addr, sqe.len * EPOLL_EVENT.size):
            raise Refused(errno.EFAULT)
        found = node.take(sqe.len)
        if not found:
            raise Refused(errno.EAGAIN)
        core.memory.user_write(sqe.addr, b"".join(EPOLL_EVENT.pack(*event) for event in found))
        return len(found)

    return issue

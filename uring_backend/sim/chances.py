"""Which faults of its opcode a kernel could produce for one request, with the file it is about.

A pipe has no device that fails and no disk that is full; what must not wait never reaches a worker;
a message is whole; a slot is no descriptor; only TCP waits for an answer from far away.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pybpfvm.uring_backend.abi import AF_UNIX, O_NONBLOCK, SQE_ASYNC, Op
from pybpfvm.uring_backend.faults import LEGAL, MAY_BE_RESET, MAY_WAIT
from pybpfvm.uring_backend.sim.eventfds import EventFd
from pybpfvm.uring_backend.sim.pipes import PLACE_BYTES, PipeWriter
from pybpfvm.uring_backend.sim.request import Refused, Request
from pybpfvm.uring_backend.sim.sockets import Socket
from pybpfvm.uring_backend.sim.tcp import TcpSocket
from pybpfvm.uring_backend.sim.vfs import Directory, Inode, RegularFile

if TYPE_CHECKING:
    from pybpfvm.uring_backend.sim.descriptors import FdTable, Node, OpenFile

_READS: Final = frozenset({Op.READ, Op.READV, Op.READ_FIXED, Op.READV_FIXED})
_WRITES: Final = frozenset({Op.WRITE, Op.WRITEV, Op.WRITE_FIXED, Op.WRITEV_FIXED})
_CHANGES: Final = frozenset({Op.FALLOCATE, Op.FTRUNCATE})
_OF_INODES: Final = frozenset({Op.FSYNC, Op.SYNC_FILE_RANGE, Op.FSETXATTR, Op.FGETXATTR})
_ZERO_COPY: Final = frozenset({Op.SEND_ZC, Op.SENDMSG_ZC})
_OF_SOCKETS: Final = MAY_BE_RESET | {Op.ACCEPT, Op.CONNECT}
_TO_SLOTS: Final = frozenset({Op.OPENAT, Op.OPENAT2, Op.SOCKET, Op.ACCEPT, Op.PIPE})
_OF_DISKS: Final = frozenset({errno.EIO, errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True, slots=True)
class Chances:
    """What may come to a request: `errors`, a transfer of less than `size` bytes (0: never), being
    `late`, a `reset` of its connection."""

    errors: frozenset[int]
    size: int = 0
    late: bool = False
    reset: bool = False


def chances(request: Request, fds: FdTable) -> Chances | None:
    """None for a request that the kernel refuses before it comes to any fault."""
    op = Op(request.sqe.opcode)
    file = request.file
    if file is not None and not _fits(op, file):
        return None
    node = file.node if file is not None else None
    errors = set(LEGAL.get(op, ()))
    if op == Op.CLOSE:
        node = _closed(request, fds)
    if not isinstance(node, Inode | None) or (op == Op.CLOSE and request.sqe.file_index):
        errors -= _OF_DISKS  # and a slot's file is not flushed
    if op in _TO_SLOTS and request.sqe.file_index:
        errors.discard(errno.EMFILE)
    if op == Op.CONNECT and isinstance(node, Socket) and not isinstance(node, TcpSocket):
        errors &= {errno.ECONNREFUSED} if node.domain == AF_UNIX else {errno.ENETUNREACH}
    late = op in MAY_WAIT
    if _must_not_wait(request) and not request.sqe.flags & SQE_ASYNC:
        errors.discard(errno.EINTR)
        late = False
    reset = op in MAY_BE_RESET and isinstance(node, TcpSocket) and node.breakable
    size = 0 if node is not None and _whole(node, request.size_bytes) else request.size_bytes
    return Chances(frozenset(errors), size, late, reset)


def _fits(op: Op, file: OpenFile) -> bool:
    """Whether the file is of a kind and a mode that the opcode is for."""
    node = file.node
    if op in _OF_SOCKETS:
        return isinstance(node, Socket) and (node.zero_copy or op not in _ZERO_COPY)
    if op in _READS:
        return file.readable and not isinstance(node, Directory)
    if op in _WRITES:
        return file.writable
    if op in _CHANGES:
        return file.writable and isinstance(node, RegularFile)
    return op not in _OF_INODES or isinstance(node, Inode)


def _closed(request: Request, fds: FdTable) -> Node | None:
    """What a CLOSE closes; None for a slot, and for no descriptor."""
    if request.sqe.file_index:
        return None
    try:
        return fds.get(request.sqe.fd).node
    except Refused:
        return None


def _must_not_wait(request: Request) -> bool:
    """By its own flags, or by those of a file that may have to be waited for."""
    if request.nowait:
        return True
    file = request.file
    return file is not None and bool(file.flags & O_NONBLOCK) and not isinstance(file.node, Inode)


def _whole(node: Node, size: int) -> bool:
    """A small write to a pipe is never split, nor is a message, nor a count."""
    if isinstance(node, EventFd):
        return True
    if isinstance(node, Socket) and node.keeps_boundaries:
        return True
    return isinstance(node, PipeWriter) and size <= PLACE_BYTES

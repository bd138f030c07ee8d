"""SPLICE and TEE: bytes from, to and between pipes.

Both run in a worker, and block there until there is something to move and room for it.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from pybpfvm.bits import s64
from pybpfvm.uring_backend.abi import (
    CURRENT_POSITION,
    MAX_OFFSET,
    O_NONBLOCK,
    SPLICE_F_ALL,
    SPLICE_F_FD_IN_FIXED,
    SPLICE_F_NONBLOCK,
    Op,
)
from pybpfvm.uring_backend.sim.descriptors import OpenFile, WaitQueue, is_socket
from pybpfvm.uring_backend.sim.pipes import PLACE_BYTES, Piece, Pipe, PipeReader, PipeWriter
from pybpfvm.uring_backend.sim.request import Issue, Refused, Request
from pybpfvm.uring_backend.sim.vfs import RegularFile

if TYPE_CHECKING:
    from pybpfvm.uring_backend.sim.core import Core


class Blocked(Exception):
    """The transfer has to wait until `queue` is woken."""

    def __init__(self, queue: WaitQueue | None) -> None:
        super().__init__()
        self.queue = queue


_Offset = int | None  # None: where the file position is; of a pipe, the only one it has
_NOWHERE: Final = CURRENT_POSITION


def prepare_splice(core: Core, request: Request) -> Issue:
    """SPLICE: Sqe.len bytes from Sqe.file_index at Sqe.addr to Sqe.fd at Sqe.off."""
    return _prepare(core, request)


def prepare_tee(core: Core, request: Request) -> Issue:
    """TEE: like SPLICE between two pipes, but the bytes stay."""
    if request.sqe.addr or request.sqe.off:
        raise Refused(errno.EINVAL)
    return _prepare(core, request)


def _prepare(core: Core, request: Request) -> Issue:
    sqe = request.sqe
    if sqe.op_flags & ~(SPLICE_F_ALL | SPLICE_F_FD_IN_FIXED):
        raise Refused(errno.EINVAL)
    request.through_worker = True

    def issue() -> int | None:
        target = core.file_of(request)
        table = core.slots if sqe.op_flags & SPLICE_F_FD_IN_FIXED else core.fds
        source = table.get(sqe.file_index)
        if not sqe.len:
            return 0
        if not (source.readable and target.writable):
            raise Refused(errno.EBADF)
        try:
            if sqe.opcode == Op.TEE:
                done = _tee(source, target, sqe.len)
            else:
                done = _splice(source, _offset(sqe.addr), target, _offset(sqe.off), sqe.len)
        except Blocked as blocked:
            waits = not (sqe.op_flags & SPLICE_F_NONBLOCK or _nonblocking(source, target))
            if not waits or blocked.queue is None:
                raise Refused(errno.EAGAIN) from None
            core.block(request, blocked.queue)
            return None
        if done != sqe.len:
            request.fail()
        return done

    return issue


def _nonblocking(source: OpenFile, target: OpenFile) -> bool:
    return bool((source.flags | target.flags) & O_NONBLOCK)


def _offset(field: int) -> _Offset:
    return None if field == _NOWHERE else s64(field)


def _splice(
    source: OpenFile, source_at: _Offset, target: OpenFile, target_at: _Offset, size: int
) -> int:
    read, write = source.node, target.node
    reading = read.pipe if isinstance(read, PipeReader) else None
    writing = write.pipe if isinstance(write, PipeWriter) else None
    if (reading and source_at is not None) or (writing and target_at is not None):
        raise Refused(errno.ESPIPE)
    if reading and writing:
        if reading is writing:
            raise Refused(errno.EINVAL)
        return _between(reading, writing, size, keep=False)
    if reading:
        return _out_of(reading, target, target_at, size)
    if writing:
        return _into(source, source_at, writing, size)
    raise Refused(errno.EINVAL)


def _tee(source: OpenFile, target: OpenFile, size: int) -> int:
    read, write = source.node, target.node
    if not isinstance(read, PipeReader) or not isinstance(write, PipeWriter):
        raise Refused(errno.EINVAL)
    if read.pipe is write.pipe:
        raise Refused(errno.EINVAL)
    return _between(read.pipe, write.pipe, size, keep=True)


def _between(reading: Pipe, writing: Pipe, size: int, *, keep: bool) -> int:
    if not reading.pieces and reading.writer is not None:
        raise Blocked(reading.readers)
    if not writing.free and writing.reader is not None:
        raise Blocked(writing.writers)
    if writing.reader is None:
        raise Refused(errno.EPIPE)
    done = 0
    pieces = list(reading.pieces)
    for piece in pieces:
        if done == size or not writing.free:
            break
        part = piece.data[: size - done]
        whole = len(part) == len(piece.data)
        moved = Piece(part, open_=False)
        if whole and not keep:
            moved = piece
        writing.add(moved)
        if not keep:
            if whole:
                reading.pieces.popleft()
            else:
                piece.data = piece.data[len(part) :]
        done += len(part)
    if done:
        writing.filled()
        if not keep:
            reading.drained()
    return done


def _out_of(reading: Pipe, target: OpenFile, at: _Offset, size: int) -> int:
    """From a pipe to a file or socket."""
    node = target.node
    if not (isinstance(node, RegularFile) or is_socket(node)):
        raise Refused(errno.EINVAL)
    if not node.seekable and at is not None:
        raise Refused(errno.EINVAL)
    if target.append:
        raise Refused(errno.EINVAL)
    offset = target.offset if at is None else at
    if offset < 0 or offset + size > MAX_OFFSET:
        raise Refused(errno.EINVAL)
    if not reading.pieces:
        if reading.writer is None:
            return 0
        raise Blocked(reading.readers)
    try:
        done = node.write(reading.peek(size), offset)
    except Refused as refused:
        if refused.errno == errno.EAGAIN:
            raise Blocked(node.queue) from None
        raise
    reading.get(done)
    reading.drained()
    if node.seekable and at is None:
        target.offset = offset + done
    return done


def _into(source: OpenFile, at: _Offset, writing: Pipe, size: int) -> int:
    """From a file or socket to a pipe."""
    node = source.node
    if not node.seekable and at is not None:
        raise Refused(errno.EINVAL)
    if writing.reader is None:
        raise Refused(errno.EPIPE)
    if not writing.free:
        raise Blocked(writing.writers)
    offset = source.offset if at is None else at
    if offset < 0 or offset + size > MAX_OFFSET:
        raise Refused(errno.EINVAL)
    if not (isinstance(node, RegularFile) or is_socket(node)):
        raise Refused(errno.EINVAL)
    room = writing.free * PLACE_BYTES
    if node.seekable:
        room -= offset % PLACE_BYTES
    try:
        data = node.read(min(size, room), offset)
    except Refused as refused:
        if refused.errno == errno.EAGAIN:
            raise Blocked(node.queue) from None
        raise
    done, first = 0, PLACE_BYTES - offset % PLACE_BYTES if node.seekable else PLACE_BYTES
    while done < len(data):
        part = data[done : done + (first if not done else PLACE_BYTES)]
        writing.add(Piece(part, open_=False))
        done += len(part)
    if done:
        writing.filled()
    if node.seekable and at is None:
        source.offset = offset + done
    return done

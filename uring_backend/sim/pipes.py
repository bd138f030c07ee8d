"""Pipes: a bounded queue of pieces between two ends, and the request that makes one.

A pipe has a number of places, as the kernel's has page-sized buffers. A write fills the last place
up before it takes new ones; what SPLICE and TEE bring takes a place for each piece.
"""

from __future__ import annotations

import errno
from collections import deque
from typing import TYPE_CHECKING, Final

from pybpfvm.memory import UserFault
from pybpfvm.uring_backend.abi import (
    FD,
    FILE_INDEX_ALLOC,
    O_CLOEXEC,
    O_DIRECT,
    O_NONBLOCK,
    O_RDONLY,
    O_WRONLY,
    POLLERR,
    POLLHUP,
    POLLIN,
    POLLOUT,
    POLLRDNORM,
    POLLWRNORM,
    S_IFIFO,
)
from pybpfvm.uring_backend.sim.descriptors import Node, OpenFile, WaitQueue
from pybpfvm.uring_backend.sim.request import Issue, Refused, Request

if TYPE_CHECKING:
    from pybpfvm.uring_backend.sim.core import Core

PLACES: Final = 16
PLACE_BYTES: Final = 4096  # also PIPE_BUF: writes up to this size are all or nothing

_IN: Final = POLLIN | POLLRDNORM
_OUT: Final = POLLOUT | POLLWRNORM
_NOTIFICATION_PIPE: Final = 0o200  # O_EXCL


class Piece:
    """What one place holds. `used` counts the bytes of the place that were ever filled;
    `open`: a write may fill the rest."""

    __slots__ = ("data", "open", "used")

    def __init__(self, data: bytes, *, open_: bool) -> None:
        self.data = data
        self.used = len(data)
        self.open = open_


class Pipe:
    """What the two ends share; an end that is closed is None."""

    def __init__(self) -> None:
        self.pieces: deque[Piece] = deque()
        self.readers = WaitQueue()
        self.writers = WaitQueue()
        self.reader: PipeReader | None = PipeReader(self)
        self.writer: PipeWriter | None = PipeWriter(self)

    @property
    def free(self) -> int:
        """Places that are empty."""
        return PLACES - len(self.pieces)

    def put(self, data: bytes) -> int:
        """Take bytes of a write: how many."""
        done = 0
        odd = len(data) % PLACE_BYTES
        last = self.pieces[-1] if self.pieces else None
        if odd and last and last.open and last.used + odd <= PLACE_BYTES:
            last.data += data[:odd]
            last.used += odd
            done = odd
        while done < len(data) and self.free:
            piece = data[done : done + PLACE_BYTES]
            self.pieces.append(Piece(piece, open_=True))
            done += len(piece)
        return done

    def get(self, size: int) -> bytes:
        """Up to `size` bytes, removed."""
        found = bytearray()
        while self.pieces and len(found) < size:
            piece = self.pieces[0]
            part = piece.data[: size - len(found)]
            found += part
            piece.data = piece.data[len(part) :]
            if not piece.data:
                self.pieces.popleft()
        return bytes(found)

    def peek(self, size: int) -> bytes:
        """The same bytes as `get`, not removed."""
        return b"".join(piece.data for piece in self.pieces)[:size]

    def add(self, piece: Piece) -> None:
        """Take a piece as it is."""
        self.pieces.append(piece)

    def filled(self) -> None:
        """Bytes were put in."""
        self.readers.wake(_IN)

    def drained(self) -> None:
        """Bytes were taken out."""
        self.writers.wake(_OUT)


class PipeReader(Node):
    """The read end."""

    mode = S_IFIFO | 0o600

    def __init__(self, pipe: Pipe) -> None:
        self.pipe = pipe
        self.queue = pipe.readers

    def read(self, size: int, offset: int) -> bytes:
        pipe = self.pipe
        if not size:
            return b""
        if not pipe.pieces:
            if pipe.writer is None:
                return b""
            raise Refused(errno.EAGAIN)
        data = pipe.get(size)
        pipe.drained()
        return data

    def peek(self, offset: int) -> bool:
        if not self.pipe.pieces and self.pipe.writer is not None:
            raise Refused(errno.EAGAIN)
        return len(self.pipe.pieces) > 0

    def poll(self) -> int:
        return (_IN if self.pipe.pieces else 0) | (POLLHUP if self.pipe.writer is None else 0)

    def released(self) -> None:
        self.pipe.reader = None
        self.pipe.writers.wake()


class PipeWriter(Node):
    """The write end."""

    mode = S_IFIFO | 0o600

    def __init__(self, pipe: Pipe) -> None:
        self.pipe = pipe
        self.queue = pipe.writers

    def write(self, data: bytes, offset: int) -> int:
        pipe = self.pipe
        if not data:
            return 0
        if pipe.reader is None:
            raise Refused(errno.EPIPE)
        done = pipe.put(data)
        if not done:
            raise Refused(errno.EAGAIN)
        pipe.filled()
        return done

    def poll(self) -> int:
        return (_OUT if self.pipe.free else 0) | (POLLERR if self.pipe.reader is None else 0)

    def released(self) -> None:
        self.pipe.writer = None
        self.pipe.readers.wake()


def ends(flags: int = 0) -> tuple[OpenFile, OpenFile]:
    """The two open files of a new pipe: read end, write end."""
    pipe = Pipe()
    assert pipe.reader is not None
    assert pipe.writer is not None
    kept = flags & O_NONBLOCK
    return OpenFile(pipe.reader, O_RDONLY | kept), OpenFile(pipe.writer, O_WRONLY | kept)


def prepare_pipe(core: Core, request: Request) -> Issue:
    """PIPE: its two descriptors, or slots from Sqe.file_index - 1 on, go to Sqe.addr."""
    sqe = request.sqe
    if sqe.fd or sqe.off or sqe.addr3:
        raise Refused(errno.EINVAL)
    if sqe.op_flags & ~(O_CLOEXEC | O_NONBLOCK | O_DIRECT | _NOTIFICATION_PIPE):
        raise Refused(errno.EINVAL)

    def issue() -> int:
        if sqe.op_flags & _NOTIFICATION_PIPE:
            raise Refused(errno.ENOPKG)
        if sqe.file_index and sqe.op_flags & O_CLOEXEC:
            raise Refused(errno.EINVAL)
        files = [file.hold() for file in ends(sqe.op_flags)]
        placed: list[int] = []
        try:
            for position, file in enumerate(files):
                placed.append(_place(core, sqe.file_index, position, file))
            core.memory.user_write(sqe.addr, b"".join(map(FD.pack, placed)))
        except (Refused, UserFault) as refused:
            for number in placed:
                if sqe.file_index:
                    core.slots.remove(number)
                else:
                    core.fds.close(number)
            raise refused if isinstance(refused, Refused) else Refused(errno.EFAULT) from None
        finally:
            for file in files:
                file.drop()
        return 0

    return issue


def _place(core: Core, file_index: int, position: int, file: OpenFile) -> int:
    """Give one end its descriptor or slot: the number."""
    if not file_index:
        return core.fds.install(file)
    slot = core.slots.alloc() if file_index == FILE_INDEX_ALLOC else file_index - 1 + position
    core.slots.install(slot, file)
    return slot

"""Laws of registered files and buffers: tags, free slots, updates, clones; synchronous cancels."""

from __future__ import annotations

import errno
import struct
from collections.abc import Sequence
from typing import Final

from pybpfvm.uring_backend.abi import (
    ASYNC_CANCEL_ALL,
    ASYNC_CANCEL_ANY,
    ASYNC_CANCEL_FD,
    ASYNC_CANCEL_OP,
    AT_FDCWD,
    FILE_INDEX_ALLOC,
    O_RDWR,
    POLLIN,
    REGISTER_FILES_SKIP,
    SQE_FIXED_FILE,
    Op,
    Sqe,
)
from pybpfvm.uring_backend.base import Completion, Message
from pybpfvm.uring_backend.lawbench import Bench, Law, expect, expect_errno

_CANCELED: Final = -errno.ECANCELED


def _told(*tags: int) -> list[Message]:
    return [Message(tag, 0, 0) for tag in tags]


def tags_of_files(bench: Bench) -> None:
    """A tag's CQE comes when its file has left the table, and no request uses it."""
    bench.world.add_file("f", b"")
    fd, backend = bench.world.open("f", O_RDWR), bench.backend
    expect("register", backend.register_files([fd, -1, fd], [5, 0, 7]), 0)
    expect_errno("empty", backend.update_files(1, [-1], [9]), errno.EINVAL)
    expect_errno("skipped", backend.update_files(1, [REGISTER_FILES_SKIP], [9]), errno.EINVAL)
    bench.quiet()
    expect("update", backend.update_files(0, [fd], [8]), 1)
    expect("replaced", bench.collect(1), _told(5))
    expect("stops", backend.update_files(0, [fd, -1], [1, 2]), 1)
    expect("replaced", bench.collect(1), _told(8))
    reader, writer = bench.world.pipe()
    expect("pipe", backend.update_files(1, [reader], [50]), 1)
    bench.submit(Sqe(Op.READ, SQE_FIXED_FILE, fd=1, addr=bench.block, len=5, user_data=1))
    expect("removed", backend.update_files(1, [-1]), 1)
    bench.quiet()
    write = Sqe(Op.WRITE, fd=writer, addr=bench.put(b"abc"), len=3, user_data=2)
    bench.submit(write)
    events = bench.collect(3)
    expect("used no more", events[-2:], [Completion(1, 3, 0), *_told(50)])
    expect("unregister", backend.unregister_files(), 0)
    expect("last first", bench.collect(2), _told(7, 1))


def tags_of_buffers(bench: Bench) -> None:
    """The same for buffers, which can be replaced one by one."""
    backend, addr = bench.backend, bench.block
    expect_errno("no table", backend.update_buffers(0, [(addr, 5)]), errno.ENXIO)
    table = [(addr, 4096), (0, 0), (addr, 10)]
    expect("register", backend.register_buffers(table, [3, 0, 4]), 0)
    expect_errno("empty", backend.update_buffers(0, [(0, 0)], [9]), errno.EINVAL)
    expect("update", backend.update_buffers(0, [(addr + 5, 7), (addr, 8)], [6, 0]), 2)
    expect("replaced", bench.collect(1), _told(3))
    for bad in ((8, 7), (addr, 0), (0, 5)):
        expect_errno(f"{bad}", backend.update_buffers(0, [bad]), errno.EFAULT)
    expect_errno("beyond", backend.update_buffers(3, [(addr, 1)]), errno.EINVAL)
    expect("stops", backend.update_buffers(0, [(addr, 1), (8, 5)]), 1)
    expect("replaced", bench.collect(1), _told(6))
    expect(
        "known", [backend.buffer_at(n) for n in range(4)], [(addr, 1), (addr, 8), (addr, 10), None]
    )
    expect("unregister", backend.unregister_buffers(), 0)
    expect("told", bench.collect(1), _told(4))
    expect("unknown", backend.buffer_at(0), None)


def _reads(bench: Bench, fd: int, slots: int) -> list[bool]:
    """Which of the first registered buffers exist."""
    sqes = [
        Sqe(Op.READ_FIXED, fd=fd, addr=bench.block, len=1, buf_index=index)
        for index in range(slots)
    ]
    return [bench.result(sqe) == 1 for sqe in sqes]


def cloned_buffers(bench: Bench) -> None:
    """Buffers of one ring in the table of another."""
    other = bench.another()
    source, clone = bench.backend, other.backend.clone_buffers
    bench.world.add_file("f", b"content")
    other.world.add_file("f", b"content")
    expect_errno("nothing there", clone(source), errno.ENXIO)
    block = other.block
    table = [(block, 64), (0, 0), (block, 64)]
    expect("register", source.register_buffers(table), 0)
    expect("clone", clone(source), 0)
    expect_errno("twice", clone(source), errno.EBUSY)
    fd = other.world.open("f", O_RDWR)
    expect("all", _reads(other, fd, 4), [True, False, True, False])
    expect("replaced", clone(source, 2, 4, 1, replace=True), 0)
    expect("one more", _reads(other, fd, 6), [True, False, True, False, True, False])
    expect_errno("too many", clone(source, 0, 0, 9, replace=True), errno.EINVAL)
    expect_errno("from beyond", clone(source, 3, replace=True), errno.EINVAL)
    expect_errno("past the end", clone(source, 2, 0, 2, replace=True), errno.EOVERFLOW)
    expect("unregister", source.unregister_buffers(), 0)
    there = [other.backend.buffer_at(n) is not None for n in range(6)]
    expect("known", there, [True, False, True, False, True, False])
    expect("clones stay", _reads(other, fd, 1), [True])


def free_slots(bench: Bench) -> None:
    """FILE_INDEX_ALLOC takes slots of the range, in FILES_UPDATE, too."""
    bench.world.add_file("f", b"")
    fd, backend = bench.world.open("f", O_RDWR), bench.backend
    expect_errno("no table", backend.file_alloc_range(0, 1), errno.EINVAL)
    expect("table", backend.register_files([-1] * 4), 0)
    expect("range", backend.file_alloc_range(1, 2), 0)
    expect_errno("beyond", backend.file_alloc_range(3, 2), errno.EINVAL)
    path = bench.path("f")
    opening = Sqe(Op.OPENAT, fd=AT_FDCWD, addr=path, file_index=FILE_INDEX_ALLOC)
    expect("first", bench.result(opening), 1)
    expect("second", bench.result(opening), 2)
    expect_errno("full", bench.result(opening), errno.ENFILE)
    expect("everything", backend.file_alloc_range(0, 4), 0)
    addr = bench.put(struct.pack("<3i", fd, fd, fd))
    update = Sqe(Op.FILES_UPDATE, addr=addr, len=3, off=FILE_INDEX_ALLOC)
    expect("two fit", bench.result(update), 2)
    expect("their slots", struct.unpack("<3i", bench.get(12)), (0, 3, fd))
    bench.put(struct.pack("<i", -1))
    expect_errno("no file", bench.result(update), errno.EBADF)
    expect("unregister", backend.unregister_files(), 0)
    expect_errno("no table", bench.result(update), errno.ENXIO)


def synchronous_cancellation(bench: Bench) -> None:
    """SYNC_CANCEL finds what ASYNC_CANCEL finds, and says how many with ALL."""
    reader, _ = bench.world.pipe()
    cancel = bench.backend.sync_cancel
    polls = [Sqe(Op.POLL_ADD, fd=reader, op_flags=POLLIN, user_data=token) for token in range(1, 7)]
    bench.submit(*polls)
    expect_errno("nobody", cancel(99), errno.ENOENT)
    expect("one", cancel(1), 0)
    expect("it ends", bench.results(1), [(1, _CANCELED)])
    expect("one by descriptor", cancel(fd=reader, flags=ASYNC_CANCEL_FD), 0)
    expect("number", len(bench.results(1)), 1)
    expect("by opcode", cancel(flags=ASYNC_CANCEL_OP | ASYNC_CANCEL_ALL, opcode=Op.POLL_ADD), 4)
    expect("all end", len(bench.results(4)), 4)
    expect("nobody left", cancel(flags=ASYNC_CANCEL_ANY | ASYNC_CANCEL_ALL), 0)
    bench.submit(polls[0], bench.timeout(9, 10**12))
    expect("any", cancel(flags=ASYNC_CANCEL_ANY), 2)
    expect("both end", sorted(bench.results(2)), [(1, _CANCELED), (9, _CANCELED)])
    expect_errno("flags", cancel(1, flags=1 << 6), errno.EINVAL)
    expect_errno("descriptor", cancel(fd=-1, flags=ASYNC_CANCEL_FD), errno.EBADF)
    expect_errno("foreign", cancel(fd=0, flags=ASYNC_CANCEL_FD), errno.EBADF)


LAWS: Final[Sequence[Law]] = (
    tags_of_files,
    tags_of_buffers,
    cloned_buffers,
    free_slots,
    synchronous_cancellation,
)

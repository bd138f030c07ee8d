"""Laws of eventfd objects, epoll sets, and reads that go on."""

from __future__ import annotations

import errno
import struct
from collections.abc import Sequence
from typing import Final

from pybpfvm.uring_backend.abi import (
    CQE_BUFFER_SHIFT,
    CQE_F_BUFFER,
    CQE_F_MORE,
    CURRENT_POSITION,
    EPOLL_CTL_ADD,
    EPOLL_CTL_DEL,
    EPOLL_CTL_MOD,
    EPOLL_EVENT,
    EPOLLET,
    EPOLLONESHOT,
    IOVEC,
    O_RDWR,
    POLLHUP,
    POLLIN,
    POLLOUT,
    SQE_BUFFER_SELECT,
    Op,
    Sqe,
)
from pybpfvm.uring_backend.base import Completion
from pybpfvm.uring_backend.lawbench import Bench, Law, expect, expect_errno

_EVENTS: Final = 8192
_MOST: Final = (1 << 64) - 2


def _add(bench: Bench, fd: int, value: int, token: int = 1, size: int = 8) -> Sqe:
    addr = bench.put(struct.pack("<Q8x", value), 256 + 16 * token)
    return Sqe(Op.WRITE, fd=fd, addr=addr, len=size, user_data=token)


def _take(bench: Bench, fd: int, token: int = 1, size: int = 8) -> Sqe:
    return Sqe(Op.READ, fd=fd, addr=bench.block, len=size, user_data=token)


def _count(bench: Bench) -> int:
    return int.from_bytes(bench.get(8), "little")


def eventfds(bench: Bench) -> None:
    """A counter: writes add, a read takes all of it and waits while it is 0."""
    fd = bench.world.eventfd(2)
    expect("add", bench.result(_add(bench, fd, 5)), 8)
    expect("take", (bench.result(_take(bench, fd, size=100)), _count(bench)), (8, 7))
    for size in (0, 4):
        expect_errno(f"read of {size}", bench.result(_take(bench, fd, size=size)), errno.EINVAL)
    for size in (4, 16):
        sqe = _add(bench, fd, 1, size=size)
        expect_errno(f"write of {size}", bench.result(sqe), errno.EINVAL)
    expect_errno("too much", bench.result(_add(bench, fd, (1 << 64) - 1)), errno.EINVAL)
    bench.submit(_take(bench, fd))
    bench.quiet()
    bench.world.signal(fd, 3)
    expect("woken", (bench.results(1), _count(bench)), ([(1, 8)], 3))
    expect("nearly full", bench.result(_add(bench, fd, _MOST)), 8)
    poll = Sqe(Op.POLL_ADD, fd=fd, op_flags=POLLIN | POLLOUT)
    expect("poll", bench.result(poll), POLLIN)
    bench.submit(_add(bench, fd, 1, token=2))
    bench.quiet()
    bench.submit(_take(bench, fd))
    expect("both", sorted(bench.results(2)), [(1, 8), (2, 8)])
    semaphore = bench.world.eventfd(2, semaphore=True)
    for _ in range(2):
        taken = bench.result(_take(bench, semaphore))
        expect("one at a time", (taken, _count(bench)), (8, 1))


def _ctl(bench: Bench, epoll: int, operation: int, fd: int, events: int, data: int = 0) -> Sqe:
    addr = bench.put(EPOLL_EVENT.pack(events, data), 512)
    return Sqe(Op.EPOLL_CTL, fd=epoll, len=operation, off=fd & 0xFFFF_FFFF, addr=addr)


def _ready(bench: Bench, epoll: int, most: int = 10) -> list[tuple[int, int]]:
    sqe = Sqe(Op.EPOLL_WAIT, fd=epoll, addr=bench.block + _EVENTS, len=most)
    number = bench.result(sqe)
    raw = bench.get(max(number, 0) * EPOLL_EVENT.size, _EVENTS)
    return [(events, data) for events, data in EPOLL_EVENT.iter_unpack(raw)]


def epoll_sets(bench: Bench) -> None:
    """Files are reported while they are ready: each time, on changes, or once."""
    epoll, level, edge = bench.world.epoll(), bench.world.eventfd(), bench.world.eventfd()
    once = bench.world.eventfd()
    waits = Sqe(Op.EPOLL_WAIT, fd=epoll, addr=bench.block + _EVENTS, len=5, user_data=7)
    for fd, flags, data in ((level, 0, 1), (edge, EPOLLET, 2), (once, EPOLLONESHOT, 3)):
        expect("add", bench.result(_ctl(bench, epoll, EPOLL_CTL_ADD, fd, POLLIN | flags, data)), 0)
    bench.submit(waits)
    bench.quiet()
    bench.world.signal(level)
    expect("woken", bench.results(1), [(7, 1)])
    bench.world.signal(edge)
    bench.world.signal(once)
    expect("all", sorted(_ready(bench, epoll)), [(POLLIN, 1), (POLLIN, 2), (POLLIN, 3)])
    expect("level only", _ready(bench, epoll), [(POLLIN, 1)])
    bench.world.signal(edge)
    bench.world.signal(once)
    expect("a new edge", sorted(_ready(bench, epoll)), [(POLLIN, 1), (POLLIN, 2)])
    change = _ctl(bench, epoll, EPOLL_CTL_MOD, once, POLLIN, 4)
    expect("armed again", bench.result(change), 0)
    expect("both", sorted(_ready(bench, epoll)), [(POLLIN, 1), (POLLIN, 4)])
    expect("one at a time", len(_ready(bench, epoll, 1)), 1)
    expect("delete", bench.result(_ctl(bench, epoll, EPOLL_CTL_DEL, once, 0)), 0)
    expect("the rest", _ready(bench, epoll), [(POLLIN, 1)])
    bench.world.close(level)
    reader, writer = bench.world.pipe()
    bench.result(_ctl(bench, epoll, EPOLL_CTL_ADD, reader, POLLIN, 5))
    bench.world.close(writer)
    expect("a closed file is gone", _ready(bench, epoll), [(POLLHUP, 5)])


def epoll_arguments(bench: Bench) -> None:
    """What EPOLL_CTL and EPOLL_WAIT refuse."""
    epoll, fd = bench.world.epoll(), bench.world.eventfd()
    bench.world.add_file("f", b"")
    file = bench.world.open("f", O_RDWR)
    add, mod, delete = EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL
    inner = bench.world.epoll()
    expect("add", bench.result(_ctl(bench, epoll, add, fd, POLLIN)), 0)
    expect("a set in a set", bench.result(_ctl(bench, epoll, add, inner, POLLIN)), 0)
    at = bench.block + _EVENTS
    refused = [
        (_ctl(bench, epoll, add, fd, POLLIN), errno.EEXIST),
        (_ctl(bench, inner, mod, fd, POLLIN), errno.ENOENT),
        (_ctl(bench, inner, delete, fd, POLLIN), errno.ENOENT),
        (_ctl(bench, inner, add, epoll, POLLIN), errno.ELOOP),
        (_ctl(bench, epoll, add, epoll, POLLIN), errno.EINVAL),
        (_ctl(bench, epoll, add, file, POLLIN), errno.EPERM),
        (_ctl(bench, fd, add, inner, POLLIN), errno.EINVAL),
        (_ctl(bench, epoll, 4, fd, POLLIN), errno.EINVAL),
        (_ctl(bench, epoll, add, -1, POLLIN), errno.EBADF),
        (_ctl(bench, epoll, add, 0, POLLIN), errno.EBADF),
        (_ctl(bench, -1, add, fd, POLLIN), errno.EBADF),
        (Sqe(Op.EPOLL_CTL, fd=epoll, len=add, off=fd, addr=8), errno.EFAULT),
        (Sqe(Op.EPOLL_CTL, fd=epoll, len=add, off=fd, buf_index=1), errno.EINVAL),
        (Sqe(Op.EPOLL_WAIT, fd=epoll, addr=at, len=0), errno.EINVAL),
        (Sqe(Op.EPOLL_WAIT, fd=epoll, addr=at, len=1, off=1), errno.EINVAL),
        (Sqe(Op.EPOLL_WAIT, fd=fd, addr=at, len=1), errno.EINVAL),
    ]
    for sqe, number in refused:
        expect_errno(f"{sqe}", bench.result(sqe), number)
    bench.world.signal(fd)
    bad = Sqe(Op.EPOLL_WAIT, fd=epoll, addr=8, len=1)
    expect_errno("nowhere to put it", bench.result(bad), errno.EFAULT)
    nested = Sqe(Op.POLL_ADD, fd=epoll, op_flags=POLLIN)
    expect("a set can be polled", bench.result(nested), POLLIN)


def reading_again_and_again(bench: Bench) -> None:
    """READ_MULTISHOT: a CQE for each piece, until the end or until no buffer is left."""
    reader, writer = bench.world.pipe()
    provide = Sqe(Op.PROVIDE_BUFFERS, fd=3, len=8, addr=bench.block, off=1, buf_index=2)
    expect("provide", bench.result(provide), 0)
    many = Sqe(
        Op.READ_MULTISHOT,
        SQE_BUFFER_SELECT,
        fd=reader,
        off=CURRENT_POSITION,
        buf_index=2,
        user_data=1,
    )
    bench.submit(many)
    bench.quiet()
    data = bench.put(b"hello world!", 4096)
    bench.submit(Sqe(Op.WRITE, fd=writer, addr=data, len=12, user_data=2))
    pieces = [event for event in bench.collect(3) if event != Completion(2, 12, 0)]
    flags = CQE_F_BUFFER | CQE_F_MORE
    expect(
        "pieces",
        pieces,
        [
            Completion(1, 8, flags | 1 << CQE_BUFFER_SHIFT),
            Completion(1, 4, flags | 2 << CQE_BUFFER_SHIFT),
        ],
    )
    expect("content", bench.get(12), b"hello world!")
    bench.world.close(writer)
    last = bench.collect(1)[0]
    expect("the end", isinstance(last, Completion) and (last.res, last.flags & CQE_F_MORE), (0, 0))
    bench.world.add_file("f", b"content")
    file = bench.world.open("f", O_RDWR)
    refused = [
        (Sqe(Op.READ_MULTISHOT, fd=reader), errno.EINVAL),
        (Sqe(Op.READ_MULTISHOT, SQE_BUFFER_SELECT, fd=reader, len=4), errno.EINVAL),
        (Sqe(Op.READ_MULTISHOT, SQE_BUFFER_SELECT, fd=file, buf_index=2), errno.EBADFD),
    ]
    for sqe, number in refused:
        expect_errno(f"{sqe}", bench.result(sqe), number)


def fixed_vectors(bench: Bench) -> None:
    """READV_FIXED and WRITEV_FIXED: vectors that lie in a registered buffer."""
    bench.world.add_file("f", b"0123456789" * 3)
    fd = bench.world.open("f", O_RDWR)
    expect("register", bench.backend.register_buffers([(bench.block, 4096)]), 0)

    def vectors(op: Op, *pieces: tuple[int, int], index: int = 0) -> Sqe:
        addr = bench.put(b"".join(IOVEC.pack(*piece) for piece in pieces), 8192)
        return Sqe(op, fd=fd, addr=addr, len=len(pieces), buf_index=index)

    at = bench.block
    whole = bench.result(vectors(Op.READV_FIXED, (at, 5), (at + 10, 7)))
    expect("read", (whole, bench.get(5), bench.get(7, 10)), (12, b"01234", b"5678901"))
    bench.put(b"abc", 100)
    written = bench.result(vectors(Op.WRITEV_FIXED, (at + 101, 2), (at + 100, 1)))
    expect("written", (written, bench.world.file_data("f")[:5]), (3, b"bca34"))
    expect("nothing", bench.result(vectors(Op.READV_FIXED)), 0)
    refused = [
        vectors(Op.READV_FIXED, (at, 5), (at + 4090, 7)),
        vectors(Op.READV_FIXED, (at, 0)),
        vectors(Op.READV_FIXED, (at, 5), index=1),
        vectors(Op.WRITEV_FIXED, (at + 4096, 1)),
        Sqe(Op.READV_FIXED, fd=fd, addr=8, len=1),
    ]
    for sqe in refused:
        expect_errno(f"{sqe}", bench.result(sqe), errno.EFAULT)


LAWS: Final[Sequence[Law]] = (
    eventfds,
    epoll_sets,
    epoll_arguments,
    reading_again_and_again,
    fixed_vectors,
)

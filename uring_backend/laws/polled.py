"""Laws of SETUP_IOPOLL, as far as files show it that nobody polls."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Final

from pybpfvm.uring_backend.abi import (
    AF_INET,
    FUTEX2_SIZE_U32,
    IOVEC,
    O_RDONLY,
    O_RDWR,
    O_WRONLY,
    POLLED_OPS,
    SETUP_IOPOLL,
    SOCK_STREAM,
    SQE_BUFFER_SELECT,
    SQE_IO_HARDLINK,
    SQE_IO_LINK,
    Op,
    Sqe,
)
from pybpfvm.uring_backend.lawbench import Bench, Law, expect, nop

_CANCELED: Final = -errno.ECANCELED
_UNKNOWN: Final = frozenset({Op.RECV_ZC})  # not of any backend
# fd and off with which a request is not unsupported.
_SUPPORTED: Final = {
    Op.SOCKET: (AF_INET, SOCK_STREAM),
    Op.FUTEX_WAIT: (FUTEX2_SIZE_U32, 0),
    Op.FUTEX_WAKE: (FUTEX2_SIZE_U32, 0),
}


def only_some_requests(bench: Bench) -> None:
    """A ring that polls refuses every request that moves no data of files and needs one, whatever
    else is wrong with it, when it is read."""
    ring = bench.another(SETUP_IOPOLL)
    fd = _file(ring, O_RDWR)
    for op in sorted(frozenset(Op) - POLLED_OPS - _UNKNOWN):
        sqe = Sqe(op, fd=fd, addr=ring.block, len=1, user_data=1)
        if op in _SUPPORTED:
            fields = _SUPPORTED[op]
            sqe = Sqe(op, fd=fields[0], off=fields[1], user_data=1)
        expect(f"{op.name} consumed", ring.submit(sqe, nop(2)), 1)
        expect(op.name, ring.results(1), [(1, -errno.EINVAL)])
    results = ring.run(nop(1, SQE_IO_LINK), Sqe(Op.FSYNC, SQE_IO_LINK, fd=fd, user_data=2), nop(3))
    expect("in a chain", results, [(1, _CANCELED), (2, -errno.EINVAL), (3, _CANCELED)])
    expect("NOP", ring.run(nop(1), nop(2)), [(1, 0), (2, 0)])
    expect("the file is open", ring.result(_read(fd, ring.block)), -errno.EOPNOTSUPP)


def files_that_nobody_polls(bench: Bench) -> None:
    """READ and WRITE of them are -EOPNOTSUPP, behind what is wrong with descriptor, vector and
    buffer, before what is wrong with the memory; sockets take no commands."""
    ring = bench.another(SETUP_IOPOLL)
    fd, source, target = (_file(ring, mode) for mode in (O_RDWR, O_RDONLY, O_WRONLY))
    reader, writer = ring.world.pipe()
    socket, _ = ring.world.socketpair()
    at = ring.block
    vector = ring.put(IOVEC.pack(at, 4), 64)
    refused = [
        (_read(fd, at), errno.EOPNOTSUPP),
        (_read(reader, at), errno.EOPNOTSUPP),
        (_read(fd, 8), errno.EOPNOTSUPP),
        (_read(fd, at, size=0), errno.EOPNOTSUPP),
        (Sqe(Op.WRITE, fd=writer, addr=at, len=4), errno.EOPNOTSUPP),
        (Sqe(Op.READV, fd=fd, addr=vector, len=1), errno.EOPNOTSUPP),
        (Sqe(Op.READV, fd=fd, addr=8, len=1), errno.EFAULT),
        (Sqe(Op.READ_FIXED, fd=fd, addr=at, len=4), errno.EFAULT),
        (Sqe(Op.WRITE, fd=source, addr=at, len=4), errno.EBADF),
        (_read(target, at), errno.EBADF),
        (_read(-1, at), errno.EBADF),
        (Sqe(Op.READ, SQE_BUFFER_SELECT, fd=fd, len=4, buf_index=9), errno.ENOBUFS),
        (Sqe(Op.URING_CMD, fd=socket), errno.EOPNOTSUPP),
    ]
    for sqe, number in refused:
        expect(f"{sqe}", ring.result(sqe), -number)
    data = ring.put(b"0123", 128)
    provide = Sqe(Op.PROVIDE_BUFFERS, fd=1, addr=data, len=4, buf_index=9)
    expect("a buffer", ring.result(provide), 0)
    select = Sqe(Op.READ, SQE_BUFFER_SELECT, fd=fd, len=4, buf_index=9)
    expect("is used up", ring.result(select), -errno.EOPNOTSUPP)
    expect("no other", ring.result(select), -errno.ENOBUFS)
    soft = Sqe(Op.READ, SQE_IO_LINK, fd=fd, addr=at, len=4, user_data=1)
    expect("links", ring.run(soft, nop(2)), [(1, -errno.EOPNOTSUPP), (2, _CANCELED)])
    hard = Sqe(Op.READ, SQE_IO_HARDLINK, fd=fd, addr=at, len=4, user_data=1)
    expect("hard links", ring.run(hard, nop(2)), [(1, -errno.EOPNOTSUPP), (2, 0)])


def _file(ring: Bench, mode: int) -> int:
    ring.world.add_file("f", b"content")
    return ring.world.open("f", mode)


def _read(fd: int, addr: int, size: int = 4) -> Sqe:
    return Sqe(Op.READ, fd=fd, addr=addr, len=size, user_data=1)


LAWS: Final[Sequence[Law]] = (only_some_requests, files_that_nobody_polls)

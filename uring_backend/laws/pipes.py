"""Laws of pipes: requests that make them, and move bytes through them."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from pybpfvm.uring_backend.abi import (
    CURRENT_POSITION,
    FD,
    FILE_INDEX_ALLOC,
    FIXED_FD_NO_CLOEXEC,
    O_APPEND,
    O_CLOEXEC,
    O_NONBLOCK,
    O_RDWR,
    SPLICE_F_FD_IN_FIXED,
    SPLICE_F_NONBLOCK,
    SQE_FIXED_FILE,
    SQE_IO_LINK,
    Op,
    Sqe,
)
from pybpfvm.uring_backend.lawbench import Bench, Law, expect, expect_errno, nop

_NOWHERE: Final = CURRENT_POSITION
_NONBLOCK: Final = SPLICE_F_NONBLOCK
_CANCELED: Final = -errno.ECANCELED


def splice(
    source: int, target: int, size: int, at: int = _NOWHERE, to: int = _NOWHERE, flags: int = 0
) -> Sqe:
    """A SPLICE."""
    return Sqe(
        Op.SPLICE,
        fd=target,
        off=to,
        addr=at,
        len=size,
        op_flags=flags,
        file_index=source & 0xFFFF_FFFF,
        user_data=1,
    )


def tee(source: int, target: int, size: int, flags: int = 0) -> Sqe:
    """A TEE."""
    return Sqe(Op.TEE, fd=target, len=size, op_flags=flags, file_index=source, user_data=1)


def _fill(bench: Bench, writer: int, data: bytes) -> None:
    sqe = Sqe(Op.WRITE, fd=writer, addr=bench.put(data), len=len(data), user_data=1)
    expect("write", bench.result(sqe), len(data))


def _drain(bench: Bench, reader: int) -> bytes:
    sqe = Sqe(Op.READ, fd=reader, addr=bench.block, len=1000, user_data=1)
    return bench.get(max(bench.result(sqe), 0))


def splicing(bench: Bench) -> None:
    """From a file to a pipe, on to another pipe, and into a file."""
    bench.world.add_file("f", b"0123456789")
    bench.world.add_file("g", b"")
    source, target = bench.world.open("f", O_RDWR), bench.world.open("g", O_RDWR)
    (r1, w1), (r2, w2) = bench.world.pipe(), bench.world.pipe()
    expect("file to pipe", bench.result(splice(source, w1, 4, at=3)), 4)
    expect("file position", bench.result(splice(source, w1, 3)), 3)
    expect("again", bench.result(splice(source, w1, 100)), 7)
    expect("at the end", bench.result(splice(source, w1, 100)), 0)
    expect("pipe to pipe", bench.result(splice(r1, w2, 100)), 14)
    expect("pipe to file", bench.result(splice(r2, target, 6, to=2)), 6)
    expect("its position", bench.result(splice(r2, target, 2)), 2)
    expect("content", bench.world.file_data("g"), b"23" + b"345601")
    expect("the rest", _drain(bench, r2), b"456789")


def splices_that_can_not_be(bench: Bench) -> None:
    """What SPLICE and TEE refuse."""
    bench.world.add_file("f", b"0123456789")
    file = bench.world.open("f", O_RDWR)
    append = bench.world.open("f", O_RDWR | O_APPEND)
    (reader, writer), (r2, w2) = bench.world.pipe(), bench.world.pipe()
    refused = [
        ("flags", splice(file, writer, 1, flags=16), errno.EINVAL),
        ("no pipe", splice(file, file, 1), errno.EINVAL),
        ("one pipe", splice(reader, writer, 1), errno.EINVAL),
        ("offset of a pipe", splice(file, writer, 1, to=0), errno.ESPIPE),
        ("append", splice(reader, append, 1), errno.EINVAL),
        ("negative", splice(file, writer, 1, at=_NOWHERE - 1), errno.EINVAL),
        ("wrong end", splice(writer, w2, 1), errno.EBADF),
        ("wrong end", splice(reader, r2, 1), errno.EBADF),
        ("no file", splice(-1, writer, 1), errno.EBADF),
        ("no file", splice(-1, writer, 0), errno.EBADF),
        ("foreign file", splice(0, writer, 1), errno.EBADF),
        ("no slot", splice(0, writer, 1, flags=SPLICE_F_FD_IN_FIXED), errno.EBADF),
        ("empty", splice(reader, file, 1, flags=_NONBLOCK), errno.EAGAIN),
        ("tee of a file", tee(file, writer, 1), errno.EINVAL),
        ("tee of one pipe", tee(reader, writer, 1), errno.EINVAL),
        ("tee, empty", tee(reader, w2, 1, _NONBLOCK), errno.EAGAIN),
        ("tee, offset", Sqe(Op.TEE, fd=w2, addr=1, len=1, file_index=reader), errno.EINVAL),
    ]
    for what, sqe, number in refused:
        expect_errno(what, bench.result(sqe), number)
    expect("nothing to do", bench.result(splice(file, writer, 0)), 0)
    bench.world.close(r2)
    _fill(bench, writer, b"x")
    expect_errno("nobody reads", bench.result(splice(reader, w2, 1)), errno.EPIPE)
    expect_errno("nobody reads", bench.result(tee(reader, w2, 1)), errno.EPIPE)
    _drain(bench, reader)
    bench.world.close(writer)
    expect("nobody writes", bench.result(splice(reader, file, 1, to=0)), 0)


def teeing(bench: Bench) -> None:
    """TEE leaves the bytes where they are."""
    (r1, w1), (r2, w2) = bench.world.pipe(), bench.world.pipe()
    _fill(bench, w1, b"hello")
    expect("tee", bench.result(tee(r1, w2, 3)), 3)
    expect("copy", _drain(bench, r2), b"hel")
    expect("original", _drain(bench, r1), b"hello")


def a_splice_waits_in_a_worker(bench: Bench) -> None:
    """Without data it blocks a worker: cancelling finds it, and interrupts it."""
    (r1, w1), (r2, w2) = bench.world.pipe(), bench.world.pipe()
    expect("consumed", bench.submit(splice(r1, w2, 3)), 1)
    bench.quiet()
    _fill_quietly(bench, w1, b"abcd")
    expect("both", sorted(bench.results(2)), [(1, 3), (7, 4)])
    expect("moved", _drain(bench, r2), b"abc")
    _drain(bench, r1)
    bench.submit(splice(r1, w2, 3))
    bench.quiet()
    bench.submit(Sqe(Op.ASYNC_CANCEL, addr=1, user_data=2))
    results = dict(bench.results(2))
    expect("found at work", results[2], -errno.EALREADY)
    expect("interrupted", results[1] < 0, True)


def _fill_quietly(bench: Bench, writer: int, data: bytes) -> None:
    bench.submit(Sqe(Op.WRITE, fd=writer, addr=bench.put(data), len=len(data), user_data=7))


def a_short_splice_breaks_a_link(bench: Bench) -> None:
    """Like any short transfer."""
    bench.world.add_file("f", b"0123456789")
    file = bench.world.open("f", O_RDWR)
    _, writer = bench.world.pipe()
    for size, behind in ((10, 0), (11, _CANCELED)):
        sqe = Sqe(
            Op.SPLICE,
            SQE_IO_LINK,
            fd=writer,
            off=_NOWHERE,
            len=size,
            file_index=file,
            user_data=1,
        )
        expect(f"{size} bytes", bench.run(sqe, nop(2)), [(1, 10), (2, behind)])


def making_pipes(bench: Bench) -> None:
    """PIPE: two descriptors, or two slots."""
    addr = bench.put(bytes(8), 4096)

    def made() -> tuple[int, int]:
        raw = bench.get(8, 4096)
        return FD.unpack(raw[:4])[0], FD.unpack(raw[4:])[0]

    expect("pipe", bench.result(Sqe(Op.PIPE, fd=0, addr=addr)), 0)
    reader, writer = made()
    _fill(bench, writer, b"through")
    expect("it works", _drain(bench, reader), b"through")
    expect("nonblocking", bench.result(Sqe(Op.PIPE, fd=0, addr=addr, op_flags=O_NONBLOCK)), 0)
    expect_errno("empty", bench.result(splice(made()[0], writer, 5)), errno.EAGAIN)
    refused = [
        (Sqe(Op.PIPE, fd=1, addr=addr), errno.EINVAL),
        (Sqe(Op.PIPE, fd=0, addr=addr, off=1), errno.EINVAL),
        (Sqe(Op.PIPE, fd=0, addr=addr, op_flags=0x100), errno.EINVAL),
        (Sqe(Op.PIPE, fd=0, addr=8), errno.EFAULT),
        (Sqe(Op.PIPE, fd=0, addr=addr, file_index=1), errno.ENXIO),
    ]
    for sqe, number in refused:
        expect_errno(f"{sqe}", bench.result(sqe), number)
    expect("table", bench.backend.register_files([-1] * 4), 0)
    expect("slots", bench.result(Sqe(Op.PIPE, fd=0, addr=addr, file_index=2)), 0)
    expect("their numbers", made(), (1, 2))
    expect("any", bench.result(Sqe(Op.PIPE, fd=0, addr=addr, file_index=FILE_INDEX_ALLOC)), 0)
    expect("the free ones", sorted(made()), [0, 3])
    full = Sqe(Op.PIPE, fd=0, addr=addr, file_index=FILE_INDEX_ALLOC)
    expect_errno("full", bench.result(full), errno.ENFILE)
    cloexec = Sqe(Op.PIPE, fd=0, addr=addr, file_index=1, op_flags=O_CLOEXEC)
    expect_errno("cloexec", bench.result(cloexec), errno.EINVAL)
    beyond = Sqe(Op.PIPE, fd=0, addr=addr, file_index=5)
    expect_errno("beyond", bench.result(beyond), errno.EINVAL)


def installing_a_slot(bench: Bench) -> None:
    """FIXED_FD_INSTALL: a descriptor for a registered file."""
    bench.world.add_file("f", b"0123456789")
    file = bench.world.open("f", O_RDWR)
    expect("table", bench.backend.register_files([file, -1]), 0)
    bench.world.close(file)
    fd = bench.result(Sqe(Op.FIXED_FD_INSTALL, SQE_FIXED_FILE, fd=0))
    expect("a descriptor", fd >= 0, True)
    read = Sqe(Op.READ, fd=fd, addr=bench.block, len=20, user_data=1)
    expect("of the file", bench.result(read), 10)
    bench.world.close(fd)
    flags = FIXED_FD_NO_CLOEXEC
    again = bench.result(Sqe(Op.FIXED_FD_INSTALL, SQE_FIXED_FILE, fd=0, op_flags=flags))
    expect("inheritable", again >= 0, True)
    other = bench.backend.settings.register_personality()
    as_other = Sqe(Op.FIXED_FD_INSTALL, SQE_FIXED_FILE, fd=9, personality=other)
    refused = [
        (as_other, errno.EPERM),
        (replace(as_other, op_flags=2), errno.EINVAL),
        (replace(as_other, flags=0), errno.EBADF),
        (Sqe(Op.FIXED_FD_INSTALL, fd=0), errno.EBADF),
        (Sqe(Op.FIXED_FD_INSTALL, SQE_FIXED_FILE, fd=1), errno.EBADF),
        (Sqe(Op.FIXED_FD_INSTALL, SQE_FIXED_FILE, fd=0, op_flags=2), errno.EINVAL),
        (Sqe(Op.FIXED_FD_INSTALL, SQE_FIXED_FILE, fd=0, len=1), errno.EINVAL),
    ]
    for sqe, number in refused:
        expect_errno(f"{sqe}", bench.result(sqe), number)


LAWS: Final[Sequence[Law]] = (
    splicing,
    splices_that_can_not_be,
    teeing,
    a_splice_waits_in_a_worker,
    a_short_splice_breaks_a_link,
    making_pipes,
    installing_a_slot,
)

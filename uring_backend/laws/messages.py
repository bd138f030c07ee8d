"""Laws of MSG_RING: CQEs and registered files for another ring."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Final

from pybpfvm.uring_backend.abi import (
    FILE_INDEX_ALLOC,
    MSG_RING_CQE_SKIP,
    MSG_RING_FLAGS_PASS,
    MSG_SEND_FD,
    O_RDONLY,
    SQE_FIXED_FILE,
    Op,
    Sqe,
)
from pybpfvm.uring_backend.base import Message
from pybpfvm.uring_backend.lawbench import Bench, Law, expect, expect_errno

_ANY: Final = (1 << 64) - 3  # user_data is the sender's choice


def messages(bench: Bench) -> None:
    """Data: a CQE with the sender's user_data, result and flags."""
    other = bench.another()
    fd = bench.backend.ring_fd(other.backend)
    data = Sqe(Op.MSG_RING, fd=fd, off=_ANY, len=0xFFFF_FFFF, user_data=1)
    expect("sent", bench.result(data), 0)
    expect("arrived", other.collect(1), [Message(_ANY, -1, 0)])
    passed = Sqe(Op.MSG_RING, fd=fd, off=7, len=5, op_flags=MSG_RING_FLAGS_PASS, file_index=0x1234)
    expect("with flags", bench.result(passed), 0)
    expect("they arrive", other.collect(1), [Message(7, 5, 0x1234)])
    own = bench.backend.ring_fd(bench.backend)
    bench.submit(Sqe(Op.MSG_RING, fd=own, off=9, len=2, user_data=1))
    found = bench.collect(2)
    expect("to itself", Message(9, 2, 0) in found, True)
    bench.world.add_file("f", b"")
    file = bench.world.open("f", O_RDONLY)
    refused = [
        (Sqe(Op.MSG_RING, fd=fd, op_flags=4), errno.EINVAL),
        (Sqe(Op.MSG_RING, fd=fd, op_flags=MSG_RING_CQE_SKIP), errno.EINVAL),
        (Sqe(Op.MSG_RING, fd=fd, file_index=1), errno.EINVAL),
        (Sqe(Op.MSG_RING, fd=fd, addr=2), errno.EINVAL),
        (Sqe(Op.MSG_RING, fd=fd, addr3=1), errno.EINVAL),
        (Sqe(Op.MSG_RING, fd=fd, buf_index=1), errno.EINVAL),
        (Sqe(Op.MSG_RING, fd=file), errno.EBADFD),
        (Sqe(Op.MSG_RING, fd=-1), errno.EBADF),
    ]
    for sqe, number in refused:
        expect_errno(f"{sqe}", bench.result(sqe), number)
    other.quiet()
    expect_errno("no slot for a ring", bench.backend.register_files([fd]), errno.EBADF)


def sending_files(bench: Bench) -> None:
    """A file goes from a slot of one ring to a slot of another."""
    other = bench.another()
    fd = bench.backend.ring_fd(other.backend)
    bench.world.add_file("f", b"content")
    file = bench.world.open("f", O_RDONLY)
    expect("table", bench.backend.register_files([file, -1]), 0)

    def send(to: int, slot: int = 0, flags: int = 0, ring: int = fd) -> Sqe:
        return Sqe(
            Op.MSG_RING,
            fd=ring,
            addr=MSG_SEND_FD,
            off=7,
            op_flags=flags,
            addr3=slot,
            file_index=to,
        )

    expect_errno("no table there", bench.result(send(1)), errno.ENXIO)
    expect("table there", other.backend.register_files([-1, -1]), 0)
    expect("sent", bench.result(send(1)), 0)
    expect("told", other.collect(1), [Message(7, 0, 0)])
    expect("any slot", bench.result(send(FILE_INDEX_ALLOC)), 1)
    expect("told", other.collect(1), [Message(7, 1, 0)])
    expect_errno("full", bench.result(send(FILE_INDEX_ALLOC)), errno.ENFILE)
    expect("silent", bench.result(send(1, flags=MSG_RING_CQE_SKIP)), 0)
    other.quiet()
    read = Sqe(Op.READ, SQE_FIXED_FILE, fd=1, addr=other.block, len=20)
    expect("it is the file", (other.result(read), other.get(7)), (7, b"content"))
    expect_errno("empty slot", bench.result(send(1, slot=1)), errno.EBADF)
    expect_errno("beyond", bench.result(send(3)), errno.EINVAL)
    own = bench.backend.ring_fd(bench.backend)
    expect_errno("to itself", bench.result(send(1, ring=own)), errno.EINVAL)


LAWS: Final[Sequence[Law]] = (messages, sending_files)

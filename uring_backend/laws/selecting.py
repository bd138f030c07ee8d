"""Laws of READ with IOSQE_BUFFER_SELECT: which reads use a buffer up, and which name it."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from pybpfvm.uring_backend.abi import (
    BUFFER_RING_ENTRY,
    CQE_BUFFER_SHIFT,
    CQE_F_BUF_MORE,
    CQE_F_BUFFER,
    CQE_F_MORE,
    IOVEC,
    MSGHDR,
    O_RDONLY,
    O_RDWR,
    O_WRONLY,
    PBUF_RING_INC,
    RECV_MULTISHOT,
    RECVSEND_BUNDLE,
    RWF_HIPRI,
    RWF_NOWAIT,
    SOCK_DGRAM,
    SQE_ASYNC,
    SQE_BUFFER_SELECT,
    Op,
    Sqe,
)
from pybpfvm.uring_backend.base import Completion
from pybpfvm.uring_backend.lawbench import Bench, Law, expect, res_of

_GROUP: Final = 9
_COUNT: Final = 16
_SIZE: Final = 10  # of a buffer
_WANTED: Final = 4  # of it
_BUFFERS_AT: Final = 4096

# (what, its SQE, its result, whether the file may have a READ wait)
_Read = tuple[str, Sqe, int, bool]


def _reads(bench: Bench) -> Iterator[_Read]:
    bench.world.add_file("f", b"content")
    file, wrong = bench.world.open("f", O_RDWR), bench.world.open("f", O_WRONLY)
    reader, writer = bench.world.pipe()
    counter = bench.world.eventfd()

    def read(fd: int, flags: int = 0, *, off: int = 0, rw_flags: int = 0) -> Sqe:
        return Sqe(
            Op.READ,
            SQE_BUFFER_SELECT | flags,
            fd=fd,
            off=off,
            len=_WANTED,
            op_flags=rw_flags,
            buf_index=_GROUP,
            user_data=1,
        )

    yield "whole", read(file), _WANTED, False
    yield "at the end", read(file, off=7), 0, False
    yield "not polled", read(file, rw_flags=RWF_HIPRI), -errno.EINVAL, False
    yield "unknown flags", read(file, rw_flags=1 << 25), -errno.EOPNOTSUPP, False
    yield "only for writing", read(wrong), -errno.EBADF, False
    yield "before the file", read(file, off=1 << 63), -errno.EINVAL, False
    yield "in a worker", read(wrong, SQE_ASYNC), -errno.EBADF, False
    yield "the wrong end", read(writer), -errno.EBADF, True
    yield "nothing there", read(reader, rw_flags=RWF_NOWAIT), -errno.EAGAIN, True
    yield "too short", read(counter), -errno.EINVAL, True
    yield "no file", read(-1), -errno.EBADF, True


def failed_reads_use_up_provided_buffers(bench: Bench) -> None:
    """Whatever becomes of it, but without a descriptor nothing is selected."""
    addr = bench.block + _BUFFERS_AT
    provide = Sqe(Op.PROVIDE_BUFFERS, fd=_COUNT, addr=addr, len=_SIZE, buf_index=_GROUP)
    expect("provided", bench.result(provide), 0)
    used = 0
    for what, sqe, res, _ in _reads(bench):
        bench.submit(sqe)
        flags = 0 if sqe.fd == -1 else CQE_F_BUFFER | used << CQE_BUFFER_SHIFT
        expect(what, bench.collect(1), [Completion(1, res, flags)])
        used += flags != 0


def failed_reads_use_up_buffers_of_rings(bench: Bench) -> None:
    """Unless the file may have a READ wait: then only what was read counts."""
    _register(bench, 0)
    for what, sqe, res, waits in _reads(bench):
        head = bench.backend.buffer_ring_head(_GROUP)
        bench.submit(sqe)
        flags = 0 if waits else CQE_F_BUFFER | head << CQE_BUFFER_SHIFT
        expect(what, bench.collect(1), [Completion(1, res, flags)])
        expect(f"{what}, head", bench.backend.buffer_ring_head(_GROUP), head + (not waits))


def pieces_are_used_up_as_they_are_selected(bench: Bench) -> None:
    """Incremental rings: all of the piece that a READ of a file selected, however short it is, or
    if it fails; of a pipe, what was read."""
    _register(bench, PBUF_RING_INC)
    used = 0

    def flags_of(size: int) -> int:
        """What the CQE says of the piece that is used up now."""
        nonlocal used
        buffer, at = divmod(used, _SIZE)
        taken = min(size, _SIZE - at)
        used += taken
        more = CQE_F_BUF_MORE if at + taken < _SIZE else 0
        return CQE_F_BUFFER | buffer << CQE_BUFFER_SHIFT | more

    for what, sqe, res, waits in _reads(bench):
        left = _SIZE - used % _SIZE
        bench.submit(sqe)
        flags = 0 if waits else flags_of(_WANTED)
        wanted = min(res, left)
        expect(what, bench.collect(1), [Completion(1, wanted, flags)])
    bench.world.add_file("short", b"ab")
    fd = bench.world.open("short", O_RDONLY)
    reader, writer = bench.world.pipe()
    short = Sqe(Op.READ, SQE_BUFFER_SELECT, fd=fd, len=_WANTED, buf_index=_GROUP, user_data=1)
    for turn in range(4):
        read = min(2, _SIZE - used % _SIZE)
        bench.submit(short)
        expect(f"short, {turn}", bench.collect(1), [Completion(1, read, flags_of(_WANTED))])
        data = bench.put(b"x")
        expect("write", bench.result(Sqe(Op.WRITE, fd=writer, addr=data, len=1)), 1)
        one = Sqe(Op.READ, SQE_BUFFER_SELECT, fd=reader, len=4, buf_index=_GROUP, user_data=1)
        bench.submit(one)
        expect(f"a pipe, {turn}", bench.collect(1), [Completion(1, 1, flags_of(1))])


def a_waiting_read_keeps_a_provided_buffer(bench: Bench) -> None:
    """READ and READV that wait hold what they took from PROVIDE_BUFFERS: others do not get it, it
    is named when the wait is cancelled, and it is gone. A RECV gives it back,
    and so does a READ from a ring of buffers."""
    reader, writer = bench.world.pipe()
    quiet, _ = bench.world.pipe()
    socket, _ = bench.world.socketpair()
    vector = bench.put(IOVEC.pack(0, _WANTED), 2048)
    select = SQE_BUFFER_SELECT
    read = Sqe(Op.READ, select, fd=reader, len=_WANTED, buf_index=_GROUP, user_data=1)
    readv = replace(read, opcode=int(Op.READV), addr=vector, len=1)
    receive = replace(read, opcode=int(Op.RECV), fd=socket)
    cancel = Sqe(Op.ASYNC_CANCEL, addr=1, user_data=2)
    remove = Sqe(Op.REMOVE_BUFFERS, fd=_COUNT, buf_index=_GROUP, user_data=3)
    provide = Sqe(
        Op.PROVIDE_BUFFERS, fd=1, addr=bench.block, len=_SIZE, off=7, buf_index=_GROUP, user_data=4
    )
    named = CQE_F_BUFFER | 7 << CQE_BUFFER_SHIFT
    for what, waiting, flags in (
        ("READ", read, named),
        ("READV", readv, named),
        ("RECV", receive, 0),
    ):
        expect("provided", bench.result(provide), 0)
        bench.submit(waiting)
        bench.quiet()
        if flags:
            other = replace(read, fd=quiet, user_data=5)
            expect(f"another beside {what}", bench.result(other), -errno.ENOBUFS)
        bench.submit(cancel)
        ended = Completion(1, -errno.ECANCELED, flags)
        expect(f"{what}, cancelled", ended in bench.collect(2), True)
        expect(f"left by {what}", bench.result(remove), 0 if flags else 1)
    expect("provided", bench.result(provide), 0)
    bench.submit(read)
    bench.quiet()
    bench.put(b"ab", 3000)
    bench.submit(Sqe(Op.WRITE, fd=writer, addr=bench.block + 3000, len=2, user_data=2))
    expect("data for it", Completion(1, 2, named) in bench.collect(2), True)
    expect("the data", bench.get(2), b"ab")
    _register(bench, 0)
    bench.submit(read)
    bench.quiet()
    bench.submit(cancel)
    expect("of a ring", Completion(1, -errno.ECANCELED, 0) in bench.collect(2), True)


def what_waits_remembers_the_length_of_a_buffer(bench: Bench) -> None:
    """A READ or RECV that waits has selected a buffer before. When another request takes that one,
    it takes no more of the next than the first had; later pieces of a multishot RECV may be longer.
    READ_MULTISHOT and RECVMSG have forgotten the first."""
    _register(bench, 0, first=_WANTED)
    receiver, peer = bench.world.socketpair(SOCK_DGRAM)
    other, _ = bench.world.socketpair(SOCK_DGRAM)
    reader, writer = bench.world.pipe()
    bench.put(b"twelve bytes", 2048)
    take = Sqe(Op.SEND, SQE_BUFFER_SELECT, fd=other, len=1, buf_index=_GROUP, user_data=2)
    fill = Sqe(Op.WRITE, fd=writer, addr=bench.block + 2048, len=12, user_data=2)
    read = Sqe(Op.READ, SQE_BUFFER_SELECT, fd=reader, buf_index=_GROUP, user_data=1)
    receive = replace(read, opcode=int(Op.RECV), fd=receiver)
    vector = bench.put(IOVEC.pack(0, 0), 3000)
    message = bench.put(MSGHDR.pack(0, 0, vector, 1, 0, 0, 0), 3100)
    waiting = (
        ("READ", read, _WANTED),
        ("READ of more", replace(read, len=_SIZE), _WANTED),
        ("READV", replace(read, opcode=int(Op.READV), addr=vector, len=1), _WANTED),
        ("RECV", receive, _WANTED),
        ("RECV, a bundle of one", replace(receive, len=_SIZE, ioprio=RECVSEND_BUNDLE), _WANTED),
        ("RECV, a bundle", replace(receive, len=3 * _SIZE, ioprio=RECVSEND_BUNDLE), 12),
        ("RECVMSG", replace(receive, opcode=int(Op.RECVMSG), addr=message, len=1), _SIZE),
    )
    for what, sqe, size in waiting:
        _unregister(bench)
        _register(bench, 0, first=_WANTED)
        bench.submit(sqe)
        bench.quiet()
        expect("taken", bench.result(take), 1)
        if sqe.fd == reader:
            bench.submit(fill)
        else:
            peer.send(b"twelve bytes")
        events = bench.collect(2 if sqe.fd == reader else 1)
        named = CQE_F_BUFFER | 1 << CQE_BUFFER_SHIFT
        expect(what, Completion(1, size, named) in events, True, events)
        if sqe.fd == reader:
            rest = Sqe(Op.READ, fd=reader, addr=bench.block + 2100, len=12, user_data=1)
            expect("the rest", bench.result(rest), 12 - size)
    _unregister(bench)
    _register(bench, 0, first=_WANTED)
    bench.submit(replace(receive, ioprio=RECV_MULTISHOT))
    bench.quiet()
    expect("taken", bench.result(take), 1)
    for index, size in ((1, _WANTED), (2, _SIZE)):
        peer.send(b"twelve bytes")
        named = CQE_F_BUFFER | CQE_F_MORE | index << CQE_BUFFER_SHIFT
        expect(f"piece {index}", bench.collect(1), [Completion(1, size, named)])


def a_capped_bundle_caps_the_next_round(bench: Bench) -> None:
    """A multishot bundle with a length takes so much a round; when that was all there was, the next
    round gets one buffer at a time. It waits on where the end was there before it waited."""
    provide = Sqe(
        Op.PROVIDE_BUFFERS, fd=8, addr=bench.block, len=_SIZE, buf_index=_GROUP, user_data=2
    )
    expect("provided", bench.result(provide), 0)
    fd, peer = bench.world.socketpair()
    flags = RECV_MULTISHOT | RECVSEND_BUNDLE
    receive = Sqe(
        Op.RECV, SQE_BUFFER_SELECT, fd=fd, len=2 * _SIZE, ioprio=flags, buf_index=_GROUP,
        user_data=1,
    )  # fmt: skip
    peer.send(bytes(2 * _SIZE))
    bench.submit(receive)
    expect("two buffers", [res_of(event) for event in bench.collect(1)], [2 * _SIZE])
    peer.send(bytes(2 * _SIZE))
    expect("one by one", [res_of(event) for event in bench.collect(2)], [_SIZE, _SIZE])
    bench.submit(Sqe(Op.ASYNC_CANCEL, addr=1, user_data=2))
    bench.collect(2)
    peer.send(bytes(3 * _SIZE))
    peer.shutdown()
    bench.submit(receive)
    expect("all there is", [res_of(event) for event in bench.collect(2)], [2 * _SIZE, _SIZE])
    bench.quiet()
    expect("in flight", bench.backend.in_flight(), 1)


def _unregister(bench: Bench) -> None:
    expect("unregistered", bench.backend.unregister_buffer_ring(_GROUP), 0)


def _register(bench: Bench, flags: int, *, first: int = _SIZE) -> None:
    """A ring of buffers at the bench's block, of which the first is `first` bytes long."""
    for index in range(_COUNT):
        at = bench.block + _BUFFERS_AT + index * _SIZE
        entry = BUFFER_RING_ENTRY.pack(at, _SIZE if index else first, index)[:14]
        bench.put(entry, index * BUFFER_RING_ENTRY.size)
    bench.put(_COUNT.to_bytes(2, "little"), 14)
    expect("registered", bench.backend.register_buffer_ring(bench.block, _COUNT, _GROUP, flags), 0)


LAWS: Final[Sequence[Law]] = (
    failed_reads_use_up_provided_buffers,
    failed_reads_use_up_buffers_of_rings,
    pieces_are_used_up_as_they_are_selected,
    a_waiting_read_keeps_a_provided_buffer,
    what_waits_remembers_the_length_of_a_buffer,
    a_capped_bundle_caps_the_next_round,
)

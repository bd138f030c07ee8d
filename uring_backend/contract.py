"""The promise of base.Backend as laws, run on every backend.

A law is a function that takes a `Bench` (a fresh backend with memory around it) and raises
`Broken` where the backend does something else than mainline io_uring. Laws say only what mainline
fixes: where the kernel has freedom (what completes inline, which worker is first) a law accepts
every outcome. `LAWS` is the list, with those of `laws/`; to state something new, write a function
and add it there.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Final

from pybpfvm.memory import AddressSpace, RegionKind
from pybpfvm.uring_backend.abi import (
    ASYNC_CANCEL_ALL,
    ASYNC_CANCEL_ANY,
    ASYNC_CANCEL_FD,
    ASYNC_CANCEL_OP,
    AT_FDCWD,
    CQE_BUFFER_SHIFT,
    CQE_F_BUFFER,
    CQE_F_MORE,
    CURRENT_POSITION,
    FD,
    FILE_INDEX_ALLOC,
    IOVEC,
    MSG_DONTWAIT,
    MSG_WAITALL,
    O_CREAT,
    O_EXCL,
    O_RDONLY,
    O_RDWR,
    O_WRONLY,
    OPEN_HOW,
    POLL_ADD_MULTI,
    POLLIN,
    POLLOUT,
    RECV_MULTISHOT,
    SHUT_WR,
    SQE_ASYNC,
    SQE_BUFFER_SELECT,
    SQE_CQE_SKIP_SUCCESS,
    SQE_FIXED_FILE,
    SQE_IO_DRAIN,
    SQE_IO_HARDLINK,
    SQE_IO_LINK,
    STATX,
    STATX_BASIC_STATS,
    TIMEOUT_ABS,
    TIMEOUT_ETIME_SUCCESS,
    TIMEOUT_MULTISHOT,
    TIMEOUT_UPDATE,
    Op,
    Sqe,
)
from pybpfvm.uring_backend.base import Completion, Started
from pybpfvm.uring_backend.lawbench import (
    PATIENCE_NS,
    QUIET_NS,
    Bench,
    Broken,
    Law,
    MakeBackend,
    bad,
    expect,
    expect_errno,
    external,
    nop,
    res_of,
)
from pybpfvm.uring_backend.laws import FAMILIES

_MS: Final = 1_000_000


def check(make_backend: MakeBackend, laws: Sequence[Law] = ()) -> None:
    """Run `laws` (all of them by default), each on a backend of its own."""
    for law in laws or LAWS:
        check_law(make_backend, law)


def check_law(make_backend: MakeBackend, law: Law) -> None:
    """Run one law. Afterwards nothing may be left open."""
    with AddressSpace() as memory:
        bench = Bench(make_backend(memory), memory, make_backend)
        try:
            law(bench)
        finally:
            bench.close()


_LINK, _HARD, _DRAIN = SQE_IO_LINK, SQE_IO_HARDLINK, SQE_IO_DRAIN
_CANCELED = -errno.ECANCELED


# --- batches --------------------------------------------------------------------------------


def nops_complete_in_order(bench: Bench) -> None:
    """A batch of NOPs completes inline, in order."""
    expect("consumed", bench.submit(nop(1), nop(2), nop(3)), 3)
    expect("inline", bench.backend.poll(), [Completion(token, 0, 0) for token in (1, 2, 3)])
    expect("in flight", bench.backend.in_flight(), 0)


def a_bad_sqe_ends_the_batch(bench: Bench) -> None:
    """Outside a chain a refused SQE is consumed, completes, and ends the batch."""
    expect("consumed", bench.submit(nop(1), bad(2), nop(3)), 2)
    expect("results", bench.results(2), [(1, 0), (2, -errno.EINVAL)])
    bench.quiet()


def refused_when_read(bench: Bench) -> None:
    """Checks common to all opcodes."""
    cases = [
        (Sqe(200, user_data=1), errno.EINVAL),
        (Sqe(Op.NOP, 0x80, user_data=1), errno.EINVAL),
        (Sqe(Op.NOP, SQE_BUFFER_SELECT, user_data=1), errno.EOPNOTSUPP),
        (Sqe(Op.NOP, ioprio=1, user_data=1), errno.EINVAL),
        (Sqe(Op.NOP, personality=7, user_data=1), errno.EINVAL),
        (Sqe(Op.NOP, op_flags=1 << 20, user_data=1), errno.EINVAL),
        (Sqe(Op.FSYNC, addr=1, user_data=1), errno.EINVAL),
        (Sqe(Op.CLOSE, SQE_FIXED_FILE, fd=0, user_data=1), errno.EBADF),
        (Sqe(Op.TIMEOUT, len=2, user_data=1), errno.EINVAL),
        (Sqe(Op.TIMEOUT, addr=8, len=1, user_data=1), errno.EFAULT),
        (Sqe(Op.OPENAT, fd=AT_FDCWD, addr=8, user_data=1), errno.EFAULT),
        (Sqe(Op.LINK_TIMEOUT, addr=bench.timespec(1), len=1, user_data=1), errno.EINVAL),
        (Sqe(Op.ASYNC_CANCEL, off=1, user_data=1), errno.EINVAL),
        (Sqe(Op.POLL_ADD, fd=0, addr=1, user_data=1), errno.EINVAL),
        (Sqe(Op.SEND, fd=0, ioprio=1 << 9, user_data=1), errno.EINVAL),
        (Sqe(Op.ACCEPT, fd=0, len=1, user_data=1), errno.EINVAL),
        (Sqe(Op.FILES_UPDATE, user_data=1), errno.EINVAL),
        (Sqe(Op.PROVIDE_BUFFERS, fd=0, len=8, user_data=1), errno.E2BIG),
    ]
    for sqe, number in cases:
        expect("consumed", bench.submit(sqe, nop(2)), 1, sqe)
        expect("results", bench.results(1), [(1, -number)], sqe)


def foreign_descriptors_are_refused(bench: Bench) -> None:
    """Descriptors that the world did not give are -EBADF, and the batch goes on."""
    addr = bench.block
    for fd in (-1, 0, 1, 2, 900):
        results = bench.run(Sqe(Op.READ, fd=fd, addr=addr, len=4, user_data=1), nop(2))
        expect(f"fd {fd}", sorted(results), [(1, -errno.EBADF), (2, 0)])
    fixed = Sqe(Op.READ, SQE_FIXED_FILE, fd=0, addr=addr, len=4, user_data=1)
    expect_errno("slot without a table", bench.result(fixed), errno.EBADF)


# --- links ----------------------------------------------------------------------------------


def links_run_one_after_the_other(bench: Bench) -> None:
    """Members of a chain complete in order; the chain does not hold up others."""
    results = bench.run(nop(1, _LINK), nop(2, _LINK), nop(3), nop(4))
    expect("results", sorted(results), [(1, 0), (2, 0), (3, 0), (4, 0)])
    expect("chain", [token for token, _ in results if token != 4], [1, 2, 3])


def an_error_breaks_a_soft_link(bench: Bench) -> None:
    """IO_LINK behind an error: the rest is cancelled, in order."""
    results = bench.run(nop(1, _LINK, fails=True), nop(2, _LINK), nop(3))
    expect("results", results, [(1, -errno.EIO), (2, _CANCELED), (3, _CANCELED)])


def a_hard_link_holds(bench: Bench) -> None:
    """IO_HARDLINK behind an error: the rest runs."""
    results = bench.run(nop(1, _HARD, fails=True), nop(2, _HARD), nop(3))
    expect("results", results, [(1, -errno.EIO), (2, 0), (3, 0)])
    results = bench.run(nop(1, _LINK, fails=True), nop(2, _HARD), nop(3))
    expect("soft, then hard", results, [(1, -errno.EIO), (2, _CANCELED), (3, _CANCELED)])


def a_short_transfer_breaks_a_soft_link(bench: Bench) -> None:
    """READ of fewer bytes than asked for breaks IO_LINK, not IO_HARDLINK."""
    bench.world.add_file("f", b"0123456789")
    fd = bench.world.open("f", O_RDONLY)

    def read(size: int, flags: int) -> Sqe:
        return Sqe(Op.READ, flags, fd=fd, addr=bench.block, len=size, user_data=1)

    expect("full", bench.run(read(10, _LINK), nop(2)), [(1, 10), (2, 0)])
    expect("short", bench.run(read(11, _LINK), nop(2)), [(1, 10), (2, _CANCELED)])
    expect("short, hard", bench.run(read(11, _HARD), nop(2)), [(1, 10), (2, 0)])


def a_bad_sqe_cancels_its_chain(bench: Bench) -> None:
    """A refused member: nothing of the chain runs; only a chain's last one ends the batch."""
    results = bench.run(nop(1, _LINK), bad(2, _LINK), nop(3))
    wanted = [(1, _CANCELED), (2, -errno.EINVAL), (3, _CANCELED)]
    expect("in the middle", results, wanted)
    results = bench.run(nop(1, _HARD), bad(2, _HARD), nop(3))
    expect("hard links too", results, wanted)
    results = bench.run(bad(1, _LINK), nop(2), nop(3))
    expect("first", sorted(results), [(1, -errno.EINVAL), (2, _CANCELED), (3, 0)])
    expect("consumed", bench.submit(nop(1, _LINK), bad(2), nop(3)), 2)
    expect("last", bench.results(2), [(1, _CANCELED), (2, -errno.EINVAL)])


def the_end_of_a_batch_closes_a_chain(bench: Bench) -> None:
    """A chain left open is complete when the call ends."""
    expect("results", bench.run(nop(1, _LINK), nop(2, _LINK)), [(1, 0), (2, 0)])
    expect("next", bench.run(nop(3)), [(3, 0)])


def successes_can_be_silent(bench: Bench) -> None:
    """CQE_SKIP_SUCCESS: no CQE for a success; a failure is told, those it cancels are not."""
    skip = SQE_CQE_SKIP_SUCCESS
    bench.submit(nop(1, skip), nop(2))
    expect("success", bench.results(1), [(2, 0)])
    bench.submit(nop(1, skip | _LINK, fails=True), nop(2, _LINK), nop(3))
    expect("failure", bench.results(1), [(1, -errno.EIO)])
    bench.quiet()
    expect("in flight", bench.backend.in_flight(), 0)
    expect_errno("drain afterwards", bench.result(nop(1, _DRAIN)), errno.EOPNOTSUPP)


# --- drains ---------------------------------------------------------------------------------


def a_drain_waits_for_everything(bench: Bench) -> None:
    """IO_DRAIN: starts after all before it, and before all after it."""
    results = bench.run(bench.timeout(1, 5 * _MS), nop(2, _DRAIN), nop(3))
    expect("results", results, [(1, -errno.ETIME), (2, 0), (3, 0)])


def a_drain_inside_a_chain_drains_the_chain(bench: Bench) -> None:
    """A draining member makes the whole chain wait, and what follows it."""
    results = bench.run(bench.timeout(1, 5 * _MS), nop(2, _LINK), nop(3, _DRAIN), nop(4))
    expect("results", results, [(1, -errno.ETIME), (2, 0), (3, 0), (4, 0)])


# --- external requests ----------------------------------------------------------------------


def an_external_request_takes_its_place(bench: Bench) -> None:
    """It starts when its turn comes; what is linked behind it waits for `finish`."""
    bench.submit(nop(1, _LINK), external(2, _LINK), nop(3))
    first, second = bench.collect(2)
    expect("first", first, Completion(1, 0, 0))
    expect("second", second, Started(2))
    bench.quiet()
    expect("in flight", bench.backend.in_flight(), 2)
    bench.backend.finish(2)
    expect("after it", bench.results(1), [(3, 0)])
    expect("in flight", bench.backend.in_flight(), 0)


def a_failed_external_request_breaks_soft_links(bench: Bench) -> None:
    """`finish(failed=True)` is an error for IO_LINK and none for IO_HARDLINK."""
    for flag, after in ((_LINK, _CANCELED), (_HARD, 0)):
        bench.submit(external(1, flag), nop(2))
        expect("start", bench.collect(1), [Started(1)])
        bench.backend.finish(1, failed=True)
        expect("after it", bench.results(1), [(2, after)])


def an_external_request_is_cancelled_with_its_chain(bench: Bench) -> None:
    """It does not start behind a failure; its completion says -ECANCELED."""
    results = bench.run(nop(1, _LINK, fails=True), external(2, _LINK), nop(3))
    expect("results", results, [(1, -errno.EIO), (2, _CANCELED), (3, _CANCELED)])


def drains_wait_for_external_requests(bench: Bench) -> None:
    """An external request counts as in flight until it is finished, and drains itself."""
    bench.submit(external(1), nop(2, _DRAIN), external(3, _DRAIN))
    expect("start", bench.collect(1), [Started(1)])
    bench.quiet()
    bench.backend.finish(1)
    expect("drained", bench.collect(2), [Completion(2, 0, 0), Started(3)])
    bench.backend.finish(3)
    expect("in flight", bench.backend.in_flight(), 0)


def what_is_aside_is_nothing_to_drains(bench: Bench) -> None:
    """`submit_aside`: a drain neither waits for it nor keeps it back."""
    bench.submit(external(1, _DRAIN), nop(2))
    expect("start", bench.collect(1), [Started(1)])
    bench.backend.submit_aside(bench.timeout(3, 1 * _MS).pack())
    expect("beside a drain", bench.collect(1), [Completion(3, -errno.ETIME, 0)])
    bench.backend.submit_aside(bench.timeout(4, 60_000 * _MS).pack())
    bench.backend.submit_aside(Sqe(Op.ASYNC_CANCEL, addr=4, user_data=5).pack())
    results = bench.collect(2)
    expect(
        "a cancellation",
        {(end.token, end.res) for end in results if isinstance(end, Completion)},
        {(4, _CANCELED), (5, 0)},
    )
    bench.backend.submit_aside(bench.timeout(6, 60_000 * _MS).pack())
    bench.backend.finish(1)
    expect("behind the drain", bench.collect(1), [Completion(2, 0, 0)])
    expect("in flight", bench.backend.in_flight(), 1)
    bench.submit(bench.timeout(7, 60_000 * _MS), external(8), nop(9, _DRAIN))
    expect("start", bench.collect(1), [Started(8)])
    bench.quiet()
    bench.backend.submit_aside(Sqe(Op.TIMEOUT_REMOVE, addr=7, user_data=10).pack())
    results = bench.collect(2)
    expect(
        "what a drain waits for",
        {(end.token, end.res) for end in results if isinstance(end, Completion)},
        {(7, _CANCELED), (10, 0)},
    )
    bench.backend.finish(8)
    expect("drained", bench.collect(1), [Completion(9, 0, 0)])


def a_waiting_external_request_is_no_progress(bench: Bench) -> None:
    """Only the host can move it: nothing will happen by itself."""
    bench.submit(external(1))
    expect("start", bench.collect(1), [Started(1)])
    expect("wait", bench.backend.wait(QUIET_NS), False)
    bench.backend.finish(1)


# --- files ----------------------------------------------------------------------------------


def reads_and_writes(bench: Bench) -> None:
    """READ and WRITE at offsets, at the file's position, across its end."""
    bench.world.add_file("f", b"0123456789")
    fd = bench.world.open("f", O_RDWR)

    def read(size: int, offset: int) -> tuple[int, bytes]:
        addr = bench.put(bytes(32))
        sqe = Sqe(Op.READ, fd=fd, addr=addr, len=size, off=offset, user_data=1)
        result = bench.result(sqe)
        return result, bench.get(max(result, 0))

    expect("read", read(4, 3), (4, b"3456"))
    expect("across the end", read(8, 6), (4, b"6789"))
    expect("behind the end", read(8, 60), (0, b""))
    expect("at the position", read(4, CURRENT_POSITION), (4, b"0123"))
    expect("position moved", read(4, CURRENT_POSITION), (4, b"4567"))
    expect("negative offset", read(4, 1 << 63)[0], -errno.EINVAL)
    addr = bench.put(b"abc")
    write = Sqe(Op.WRITE, fd=fd, addr=addr, len=3, off=12, user_data=1)
    expect("write", bench.result(write), 3)
    expect("content", bench.world.file_data("f"), b"0123456789\0\0abc")


def vectors(bench: Bench) -> None:
    """READV fills its blocks in order, WRITEV empties them."""
    bench.world.add_file("f", b"0123456789")
    fd = bench.world.open("f", O_RDWR)
    blocks = IOVEC.pack(bench.block + 100, 3) + IOVEC.pack(bench.block + 200, 4)
    addr = bench.put(blocks)
    sqe = Sqe(Op.READV, fd=fd, addr=addr, len=2, user_data=1)
    expect("readv", bench.result(sqe), 7)
    expect("blocks", bench.get(3, 100) + bench.get(4, 200), b"0123456")
    sqe = Sqe(Op.WRITEV, fd=fd, addr=addr, len=2, off=5, user_data=1)
    expect("writev", bench.result(sqe), 7)
    expect("content", bench.world.file_data("f"), b"012340123456")
    sqe = Sqe(Op.READV, fd=fd, addr=addr, len=1025, user_data=1)
    expect_errno("too many", bench.result(sqe), errno.EINVAL)
    sqe = Sqe(Op.READV, fd=fd, addr=8, len=1, user_data=1)
    expect_errno("array nowhere", bench.result(sqe), errno.EFAULT)


def access_modes(bench: Bench) -> None:
    """A file opened one way can not be used the other way; wild pointers are -EFAULT."""
    bench.world.add_file("f", b"0123456789")
    reading, writing = bench.world.open("f", O_RDONLY), bench.world.open("f", O_WRONLY)
    addr = bench.block
    sqe = Sqe(Op.READ, fd=writing, addr=addr, len=1, user_data=1)
    expect_errno("read", bench.result(sqe), errno.EBADF)
    sqe = Sqe(Op.WRITE, fd=reading, addr=addr, len=1, user_data=1)
    expect_errno("write", bench.result(sqe), errno.EBADF)
    sqe = Sqe(Op.READ, fd=reading, addr=8, len=4, user_data=1)
    expect_errno("to nowhere", bench.result(sqe), errno.EFAULT)
    sqe = Sqe(Op.WRITE, fd=writing, addr=8, len=4, user_data=1)
    expect_errno("from nowhere", bench.result(sqe), errno.EFAULT)
    inside = bench.memory.alloc(4096, RegionKind.MAP_VALUE, "program memory").start
    sqe = Sqe(Op.READ, fd=reading, addr=inside, len=4, user_data=1)
    expect_errno("program memory", bench.result(sqe), errno.EFAULT)


def opening(bench: Bench) -> None:
    """OPENAT and OPENAT2: results, errors, and that the descriptor works."""
    bench.world.add_file("d/f", b"hello")

    def openat(name: str, flags: int, mode: int = 0) -> int:
        addr = bench.path(name)
        sqe = Sqe(Op.OPENAT, fd=AT_FDCWD, addr=addr, len=mode, op_flags=flags, user_data=1)
        return bench.result(sqe)

    fd = openat("d/f", O_RDONLY)
    sqe = Sqe(Op.READ, fd=fd, addr=bench.block, len=5, user_data=1)
    expect("read", (bench.result(sqe), bench.get(5)), (5, b"hello"))
    expect("close", bench.result(Sqe(Op.CLOSE, fd=fd, user_data=1)), 0)
    expect_errno("close again", bench.result(Sqe(Op.CLOSE, fd=fd, user_data=1)), errno.EBADF)
    expect_errno("read closed", bench.result(sqe), errno.EBADF)
    expect_errno("nothing there", openat("d/g", O_RDONLY), errno.ENOENT)
    expect_errno("through a file", openat("d/f/g", O_RDONLY), errno.ENOTDIR)
    expect_errno("directory", openat("d", O_RDWR), errno.EISDIR)
    expect("created", openat("d/g", O_CREAT | O_RDWR, 0o600) >= 0, True)
    expect_errno("exclusive", openat("d/g", O_CREAT | O_EXCL | O_RDWR, 0o600), errno.EEXIST)
    how = bench.put(OPEN_HOW.pack(O_RDONLY, 0, 0))
    addr = bench.path("d/f")
    sqe = Sqe(Op.OPENAT2, fd=AT_FDCWD, addr=addr, off=how, len=OPEN_HOW.size, user_data=1)
    expect("openat2", bench.result(sqe) >= 0, True)
    bench.put(OPEN_HOW.pack(1 << 40, 0, 0))
    expect_errno("unknown flag", bench.result(sqe), errno.EINVAL)


def fixed_files(bench: Bench) -> None:
    """Registered slots: use, direct open, allocation, close, update, unregister."""
    backend, world = bench.backend, bench.world
    world.add_file("f", b"hello")
    fd = world.open("f", O_RDONLY)
    expect_errno("no table", backend.unregister_files(), errno.ENXIO)
    expect_errno("empty table", backend.register_files([]), errno.EINVAL)
    expect_errno("foreign", backend.register_files([0]), errno.EBADF)
    expect("register", backend.register_files([fd, -1, -1]), 0)
    expect_errno("twice", backend.register_files([fd]), errno.EBUSY)

    def read(slot: int) -> int:
        return bench.result(
            Sqe(Op.READ, SQE_FIXED_FILE, fd=slot, addr=bench.block, len=5, user_data=1)
        )

    expect("slot 0", read(0), 5)
    expect_errno("empty slot", read(1), errno.EBADF)
    expect_errno("outside", read(3), errno.EBADF)
    addr = bench.path("f")

    def direct(index: int) -> int:
        sqe = Sqe(Op.OPENAT, fd=AT_FDCWD, addr=addr, file_index=index, user_data=1)
        return bench.result(sqe)

    expect("into slot 1", (direct(2), read(1)), (0, 5))
    expect("allocated", (direct(FILE_INDEX_ALLOC), read(2)), (2, 5))
    expect_errno("none left", direct(FILE_INDEX_ALLOC), errno.ENFILE)
    expect_errno("outside", direct(4), errno.EINVAL)

    def close(index: int) -> int:
        return bench.result(Sqe(Op.CLOSE, fd=0, file_index=index, user_data=1))

    expect("close slot", close(2), 0)
    expect_errno("close again", close(2), errno.EBADF)
    expect_errno("close outside", close(4), errno.EINVAL)
    expect("update", backend.update_files(1, [fd, -1]), 2)
    expect("updated", (read(1), read(2)), (5, -errno.EBADF))
    expect_errno("update outside", backend.update_files(2, [fd, fd]), errno.EINVAL)
    fds = bench.put(FD.pack(-1) + FD.pack(fd), 64)
    sqe = Sqe(Op.FILES_UPDATE, addr=fds, len=2, off=1, user_data=1)
    expect("FILES_UPDATE", (bench.result(sqe), read(1), read(2)), (2, -errno.EBADF, 5))
    world.close(fd)
    expect("slots outlive descriptors", read(0), 5)
    expect("unregister", backend.unregister_files(), 0)
    expect_errno("unregistered", read(0), errno.EBADF)


def fixed_buffers(bench: Bench) -> None:
    """READ_FIXED and WRITE_FIXED stay inside their registered buffer."""
    bench.world.add_file("f", b"hello")
    fd = bench.world.open("f", O_RDWR)
    backend, block = bench.backend, bench.block

    def transfer(op: Op, addr: int, size: int, index: int) -> int:
        return bench.result(Sqe(op, fd=fd, addr=addr, len=size, buf_index=index, user_data=1))

    expect_errno("no table", transfer(Op.READ_FIXED, block, 5, 0), errno.EFAULT)
    expect_errno("unregister", backend.unregister_buffers(), errno.ENXIO)
    expect("register", backend.register_buffers([(block, 64), (block + 4096, 10)]), 0)
    expect_errno("twice", backend.register_buffers([(block, 64)]), errno.EBUSY)
    expect("read", (transfer(Op.READ_FIXED, block + 8, 5, 0), bench.get(5, 8)), (5, b"hello"))
    expect_errno("over the end", transfer(Op.READ_FIXED, block + 60, 5, 0), errno.EFAULT)
    expect_errno("other buffer", transfer(Op.READ_FIXED, block, 5, 1), errno.EFAULT)
    expect_errno("no such buffer", transfer(Op.READ_FIXED, block, 5, 2), errno.EFAULT)
    bench.put(b"HE", 4096)
    expect("write", transfer(Op.WRITE_FIXED, block + 4096, 2, 1), 2)
    expect("content", bench.world.file_data("f"), b"HEllo")
    expect("unregister", backend.unregister_buffers(), 0)


def describing_and_syncing(bench: Bench) -> None:
    """STATX and FSYNC."""
    bench.world.add_file("f", b"hello")
    fd = bench.world.open("f", O_RDWR)
    reader, _ = bench.world.pipe()
    addr, out = bench.path("f"), bench.put(bytes(256))
    sqe = Sqe(Op.STATX, fd=AT_FDCWD, addr=addr, off=out, len=STATX_BASIC_STATS, user_data=1)
    expect("statx", bench.result(sqe), 0)
    expect("size", STATX.unpack(bench.get(256))[8], 5)
    missing = bench.path("g")
    sqe = Sqe(Op.STATX, fd=AT_FDCWD, addr=missing, off=out, len=STATX_BASIC_STATS, user_data=1)
    expect_errno("missing", bench.result(sqe), errno.ENOENT)
    expect("fsync", bench.result(Sqe(Op.FSYNC, fd=fd, user_data=1)), 0)
    expect_errno("pipe", bench.result(Sqe(Op.FSYNC, fd=reader, user_data=1)), errno.EINVAL)
    through_worker = Sqe(Op.READ, SQE_ASYNC, fd=fd, addr=out, len=5, user_data=1)
    expect("through a worker", bench.result(through_worker), 5)


# --- timeouts -------------------------------------------------------------------------------


def timeouts_expire_in_order(bench: Bench) -> None:
    """TIMEOUT: -ETIME, the shorter first, not before its time."""
    start = bench.backend.now_ns()
    results = bench.run(bench.timeout(1, 8 * _MS), bench.timeout(2, 2 * _MS))
    expect("results", results, [(2, -errno.ETIME), (1, -errno.ETIME)])
    expect("time has passed", bench.backend.now_ns() - start >= 8 * _MS, True)
    past = bench.timeout(1, 0, flags=TIMEOUT_ABS)
    expect_errno("absolute, past", bench.result(past), errno.ETIME)
    soon = bench.timeout(1, bench.backend.now_ns() + 3 * _MS, flags=TIMEOUT_ABS)
    expect_errno("absolute", bench.result(soon), errno.ETIME)
    expect("not early", bench.backend.now_ns() >= start + 11 * _MS, True)


def timeouts_count_completions(bench: Bench) -> None:
    """TIMEOUT with a count: 0 as soon as so many other completions came."""
    second = 1000 * _MS
    results = bench.run(bench.timeout(1, second, count=2), nop(2), nop(3))
    expect("satisfied", sorted(results), [(1, 0), (2, 0), (3, 0)])
    expect_errno("not satisfied", bench.result(bench.timeout(1, 2 * _MS, count=1)), errno.ETIME)


def an_expired_timeout_breaks_links(bench: Bench) -> None:
    """-ETIME breaks IO_LINK unless the timeout calls it a success."""
    results = bench.run(bench.timeout(1, _MS, on=_LINK), nop(2))
    expect("plain", results, [(1, -errno.ETIME), (2, _CANCELED)])
    results = bench.run(bench.timeout(1, _MS, on=_LINK, flags=TIMEOUT_ETIME_SUCCESS), nop(2))
    expect("ETIME_SUCCESS", results, [(1, -errno.ETIME), (2, 0)])


def timeouts_can_be_removed_and_changed(bench: Bench) -> None:
    """TIMEOUT_REMOVE: the remover completes first; an unknown token is -ENOENT."""
    remove = Sqe(Op.TIMEOUT_REMOVE, addr=1, user_data=2)
    results = bench.run(bench.timeout(1, 1000 * _MS), remove)
    expect("removed", results, [(2, 0), (1, _CANCELED)])
    expect_errno("unknown", bench.result(remove), errno.ENOENT)
    bench.submit(bench.timeout(1, 1000 * _MS))
    sooner = bench.timespec(_MS, 5)
    update = Sqe(Op.TIMEOUT_REMOVE, addr=1, off=sooner, op_flags=TIMEOUT_UPDATE, user_data=2)
    bench.submit(update)
    expect("updated", bench.results(2), [(2, 0), (1, -errno.ETIME)])


def a_timeout_can_repeat(bench: Bench) -> None:
    """TIMEOUT_MULTISHOT: so many -ETIME, all but the last with F_MORE."""
    bench.submit(bench.timeout(1, _MS, count=3, flags=TIMEOUT_MULTISHOT))
    flags = [event.flags for event in bench.collect(3) if isinstance(event, Completion)]
    expect("flags", flags, [CQE_F_MORE, CQE_F_MORE, 0])


def a_linked_timeout_guards(bench: Bench) -> None:
    """LINK_TIMEOUT: cancels what takes too long, is cancelled by what does not."""
    fd, peer = bench.world.socketpair()
    slow = Sqe(Op.RECV, _LINK, fd=fd, addr=bench.block, len=4, user_data=1)
    results = bench.run(slow, bench.guard(2, _MS))
    expect("too slow", sorted(results), [(1, _CANCELED), (2, -errno.ETIME)])
    results = bench.run(slow, bench.guard(2, _MS, _LINK), nop(3))
    wanted = [(1, _CANCELED), (2, -errno.ETIME), (3, _CANCELED)]
    expect("chain behind it", sorted(results), wanted)
    peer.send(b"data")
    results = bench.run(slow, bench.guard(2, 1000 * _MS, _LINK), nop(3))
    expect("in time", sorted(results), [(1, 4), (2, _CANCELED), (3, 0)])
    results = bench.run(nop(1, _LINK), bench.guard(2, 1000 * _MS))
    expect("at once", results, [(1, 0), (2, _CANCELED)])


# --- cancellation and polls -----------------------------------------------------------------


def cancellation(bench: Bench) -> None:
    """ASYNC_CANCEL by token, descriptor, opcode, any; one or all."""
    fd, _ = bench.world.socketpair()

    def waiting(*tokens: int) -> None:
        bench.submit(*(Sqe(Op.RECV, fd=fd, addr=bench.block, len=4, user_data=t) for t in tokens))

    def cancel(flags: int, *, token: int = 0, op: int = 0) -> Sqe:
        return Sqe(Op.ASYNC_CANCEL, fd=fd, addr=token, len=op, op_flags=flags, user_data=9)

    expect_errno("nothing", bench.result(cancel(0, token=1)), errno.ENOENT)
    expect("nothing, all", bench.result(cancel(ASYNC_CANCEL_ALL | ASYNC_CANCEL_ANY)), 0)
    waiting(1)
    bench.submit(cancel(0, token=1))
    expect("by token", bench.results(2), [(9, 0), (1, _CANCELED)])
    for name, flags in (
        ("fd", ASYNC_CANCEL_FD),
        ("op", ASYNC_CANCEL_OP),
        ("any", ASYNC_CANCEL_ANY),
    ):
        waiting(1, 2, 3)
        bench.submit(cancel(flags | ASYNC_CANCEL_ALL, op=Op.RECV))
        wanted = [(1, _CANCELED), (2, _CANCELED), (3, _CANCELED), (9, 3)]
        expect(name, sorted(bench.results(4)), wanted)
    bench.submit(bench.timeout(1, 1000 * _MS), cancel(0, token=1))
    expect("timeout", bench.results(2), [(9, 0), (1, _CANCELED)])
    bench.submit(bench.timeout(1, 1000 * _MS, on=_LINK), nop(2), cancel(0, token=2))
    expect_errno("member of a chain", bench.results(1)[0][1], errno.ENOENT)


def polls(bench: Bench) -> None:
    """POLL_ADD: at once when ready, later when not; removed; again and again."""
    fd, peer = bench.world.socketpair()

    def poll_add(events: int, token: int = 1, flags: int = 0) -> Sqe:
        return Sqe(Op.POLL_ADD, fd=fd, op_flags=events, len=flags, user_data=token)

    expect("ready", bench.result(poll_add(POLLOUT)), POLLOUT)
    bench.submit(poll_add(POLLIN))
    bench.quiet()
    peer.send(b"x")
    expect("woken", bench.results(1), [(1, POLLIN)])
    expect("ready now", bench.result(poll_add(POLLIN)), POLLIN)
    bench.result(Sqe(Op.RECV, fd=fd, addr=bench.block, len=9, user_data=3))
    bench.submit(poll_add(POLLIN), Sqe(Op.POLL_REMOVE, addr=1, user_data=2))
    expect("removed", bench.results(2), [(2, 0), (1, _CANCELED)])
    expect_errno("unknown", bench.result(Sqe(Op.POLL_REMOVE, addr=1, user_data=2)), errno.ENOENT)
    bench.submit(poll_add(POLLIN, flags=POLL_ADD_MULTI))
    for data in (b"a", b"b"):
        peer.send(data)
        expect("multishot", bench.collect(1), [Completion(1, POLLIN, CQE_F_MORE)])


# --- sockets, pipes, buffers ----------------------------------------------------------------


def streams(bench: Bench) -> None:
    """SEND and RECV on a connected socket, end of stream, no reader."""
    fd, peer = bench.world.socketpair()
    addr = bench.put(b"ping")
    sending = Sqe(Op.SEND, fd=fd, addr=addr, len=4, user_data=1)
    receiving = Sqe(Op.RECV, fd=fd, addr=addr, len=16, user_data=1)
    expect("nothing yet", peer.recv(16), None)
    expect("send", (bench.result(sending), peer.recv(16)), (4, b"ping"))
    bench.submit(receiving)
    bench.quiet()
    peer.send(b"pong!")
    expect("recv", (bench.results(1), bench.get(5)), ([(1, 5)], b"pong!"))
    now = Sqe(Op.RECV, fd=fd, addr=addr, len=4, op_flags=MSG_DONTWAIT, user_data=1)
    expect_errno("not waiting", bench.result(now), errno.EAGAIN)
    whole = Sqe(Op.RECV, fd=fd, addr=addr, len=4, op_flags=MSG_WAITALL, user_data=1)
    bench.submit(whole)
    peer.send(b"ab")
    bench.quiet()
    peer.send(b"cd")
    expect("all of it", (bench.results(1), bench.get(4)), ([(1, 4)], b"abcd"))
    bench.result(Sqe(Op.SHUTDOWN, fd=fd, len=SHUT_WR, user_data=1))
    expect("end of stream", peer.recv(16), b"")
    expect_errno("send after shutdown", bench.result(sending), errno.EPIPE)
    peer.close()
    expect("peer closed", bench.result(receiving), 0)


def a_short_recv_keeps_the_link(bench: Bench) -> None:
    """Without MSG_WAITALL a short RECV is a success."""
    fd, peer = bench.world.socketpair()
    peer.send(b"abc")
    receiving = Sqe(Op.RECV, _LINK, fd=fd, addr=bench.block, len=16, user_data=1)
    expect("results", bench.run(receiving, nop(2)), [(1, 3), (2, 0)])


def back_pressure(bench: Bench) -> None:
    """A send that fills the other side waits until it is read."""
    fd, peer = bench.world.socketpair()
    size = 1 << 16
    total = 1 << 21
    sending = Sqe(Op.SEND, fd=fd, addr=bench.block, len=size, op_flags=MSG_WAITALL, user_data=1)
    sent = 0
    while sent < total:
        bench.submit(sending)
        if not bench.backend.poll() and not bench.backend.wait(QUIET_NS):
            break
        bench.backend.poll()
        sent += size
    expect("the other side is full at last", sent < total, True)
    while (data := peer.recv(1 << 20)) or bench.backend.in_flight():
        if data is None and not bench.backend.wait(PATIENCE_NS):
            raise Broken("the waiting send never completes")
        bench.backend.poll()


def pipes(bench: Bench) -> None:
    """READ waits for a pipe's writer; without writers it ends, without readers -EPIPE."""
    reader, writer = bench.world.pipe()
    reading = Sqe(Op.READ, fd=reader, addr=bench.block + 64, len=16, user_data=1)
    bench.submit(reading)
    bench.quiet()
    writing = Sqe(Op.WRITE, fd=writer, addr=bench.put(b"abc"), len=3, user_data=2)
    bench.submit(writing)
    expect("both", sorted(bench.results(2)), [(1, 3), (2, 3)])
    expect("data", bench.get(3, 64), b"abc")
    bench.world.close(writer)
    expect("end", bench.result(reading), 0)
    reader, writer = bench.world.pipe()
    bench.world.close(reader)
    writing = Sqe(Op.WRITE, fd=writer, addr=bench.block, len=3, user_data=2)
    expect_errno("no reader", bench.result(writing), errno.EPIPE)


def connections(bench: Bench) -> None:
    """ACCEPT and CONNECT over the loopback device."""
    listener = bench.world.listen()
    accepting = Sqe(Op.ACCEPT, fd=listener, user_data=1)
    bench.submit(accepting)
    bench.quiet()
    client = bench.world.connect(listener)
    fd = bench.results(1)[0][1]
    client.send(b"hi")
    receiving = Sqe(Op.RECV, fd=fd, addr=bench.block, len=9, user_data=1)
    expect("data", (bench.result(receiving), bench.get(2)), (2, b"hi"))
    addr = bench.put(bench.world.address(listener))
    connecting = Sqe(Op.CONNECT, fd=bench.world.socket(), addr=addr, off=16, user_data=2)
    results = dict(bench.run(accepting, connecting))
    expect("connect", results[2], 0)
    expect("accept", results[1] >= 0, True)
    expect_errno("again", bench.result(connecting), errno.EISCONN)
    expect_errno("on a client", bench.result(Sqe(Op.ACCEPT, fd=fd, user_data=1)), errno.EINVAL)
    bench.world.add_file("f", b"")
    file = bench.world.open("f", O_RDWR)
    expect_errno("file", bench.result(Sqe(Op.ACCEPT, fd=file, user_data=1)), errno.ENOTSOCK)
    bench.world.close(listener)
    other = Sqe(Op.CONNECT, fd=bench.world.socket(), addr=addr, off=16, user_data=2)
    expect_errno("nobody listens", bench.result(other), errno.ECONNREFUSED)


def chosen_buffers(bench: Bench) -> None:
    """BUFFER_SELECT: first provided, first used; the CQE names it; -ENOBUFS when none is left."""
    fd, peer = bench.world.socketpair()
    provide = Sqe(
        Op.PROVIDE_BUFFERS, fd=2, len=8, addr=bench.block, off=40, buf_index=7, user_data=1
    )
    expect("provide", bench.result(provide), 0)
    receiving = Sqe(Op.RECV, SQE_BUFFER_SELECT, fd=fd, buf_index=7, user_data=1)
    for buffer_id, data in ((40, b"first"), (41, b"second")):
        peer.send(data)
        bench.submit(receiving)
        event = bench.collect(1)[0]
        flags = CQE_F_BUFFER | buffer_id << CQE_BUFFER_SHIFT
        expect("completion", event, Completion(1, len(data), flags))
        expect("data", bench.get(len(data), 8 * (buffer_id - 40)), data)
    peer.send(b"third")
    expect_errno("none left", bench.result(receiving), errno.ENOBUFS)
    remove = Sqe(Op.REMOVE_BUFFERS, fd=5, buf_index=7, user_data=1)
    bench.result(provide)
    expect("remove", bench.result(remove), 2)
    unknown = Sqe(Op.REMOVE_BUFFERS, fd=5, buf_index=8, user_data=1)
    expect_errno("unknown group", bench.result(unknown), errno.ENOENT)


def receiving_again_and_again(bench: Bench) -> None:
    """RECV_MULTISHOT: a CQE with F_MORE per piece; 0 without F_MORE at the end."""
    fd, peer = bench.world.socketpair()
    provide = Sqe(Op.PROVIDE_BUFFERS, fd=4, len=8, addr=bench.block, off=1, user_data=1)
    bench.result(provide)
    bench.submit(Sqe(Op.RECV, SQE_BUFFER_SELECT, fd=fd, ioprio=RECV_MULTISHOT, user_data=1))
    for buffer_id, data in ((1, b"one"), (2, b"two")):
        peer.send(data)
        flags = CQE_F_BUFFER | CQE_F_MORE | buffer_id << CQE_BUFFER_SHIFT
        expect("piece", bench.collect(1), [Completion(1, len(data), flags)])
    peer.shutdown()
    last = bench.collect(1)[0]
    expect("end", (res_of(last), last.flags & CQE_F_MORE), (0, 0))  # type: ignore[union-attr]
    expect("in flight", bench.backend.in_flight(), 0)


# --- hangs and ends -------------------------------------------------------------------------


def closing_with_requests_in_flight(bench: Bench) -> None:
    """`close` takes down whatever is there: chains, drains, timeouts, external requests."""
    fd, _ = bench.world.socketpair()
    bench.submit(
        Sqe(Op.RECV, _LINK, fd=fd, addr=bench.block, len=4, user_data=1),
        nop(2),
        bench.timeout(3, 1000 * _MS),
        external(4),
        nop(5, _DRAIN),
        external(6),
    )
    bench.backend.poll()
    bench.backend.close()


LAWS: Final[Sequence[Law]] = (
    nops_complete_in_order,
    a_bad_sqe_ends_the_batch,
    refused_when_read,
    foreign_descriptors_are_refused,
    links_run_one_after_the_other,
    an_error_breaks_a_soft_link,
    a_hard_link_holds,
    a_short_transfer_breaks_a_soft_link,
    a_bad_sqe_cancels_its_chain,
    the_end_of_a_batch_closes_a_chain,
    successes_can_be_silent,
    a_drain_waits_for_everything,
    a_drain_inside_a_chain_drains_the_chain,
    an_external_request_takes_its_place,
    a_failed_external_request_breaks_soft_links,
    an_external_request_is_cancelled_with_its_chain,
    drains_wait_for_external_requests,
    what_is_aside_is_nothing_to_drains,
    a_waiting_external_request_is_no_progress,
    reads_and_writes,
    vectors,
    access_modes,
    opening,
    fixed_files,
    fixed_buffers,
    describing_and_syncing,
    timeouts_expire_in_order,
    timeouts_count_completions,
    an_expired_timeout_breaks_links,
    timeouts_can_be_removed_and_changed,
    a_timeout_can_repeat,
    a_linked_timeout_guards,
    cancellation,
    polls,
    streams,
    a_short_recv_keeps_the_link,
    back_pressure,
    pipes,
    connections,
    chosen_buffers,
    receiving_again_and_again,
    closing_with_requests_in_flight,
    *FAMILIES,
)

"""Laws of what a ring is asked and told about itself."""

from __future__ import annotations

import errno
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Final

from pybpfvm.uring_backend.abi import (
    AT_FDCWD,
    MSG_RING_CQE_SKIP,
    MSG_RING_FLAGS_PASS,
    MSG_SEND_FD,
    O_CREAT,
    O_RDONLY,
    O_RDWR,
    POLLIN,
    SETUP_CQE_MIXED,
    SQE_ASYNC,
    SQE_CQE_SKIP_SUCCESS,
    SQE_IO_DRAIN,
    SQE_IO_LINK,
    SQE_VALID_FLAGS,
    Op,
    Sqe,
)
from pybpfvm.uring_backend.base import Message
from pybpfvm.uring_backend.lawbench import Bench, Law, bad, expect, expect_errno, nop
from pybpfvm.uring_backend.settings import (
    CLOCK_BOOTTIME,
    CLOCK_MONOTONIC,
    RING_NUMBERS,
    Capabilities,
    Settings,
)

_SOME_FEATURES: Final = (1 << 14) - 1  # those of Linux 6.1
_FAR: Final = 1 << 31


def what_there_is(bench: Bench) -> None:
    """PROBE names what can be performed, QUERY the sizes and bits of the kernel's interface."""
    settings = bench.backend.settings
    opcodes = settings.probe()
    expect("old opcodes", opcodes >= set(range(Op.UNLINKAT + 1)), True)
    expect("no card", Op.RECV_ZC in opcodes, False)
    expect("performed", bench.result(nop(1)), 0)
    found = settings.query()
    if not isinstance(found, Capabilities):
        expect_errno("an older kernel", found, errno.EINVAL)
        return
    expect("opcodes", found.request_opcodes > max(opcodes), True)
    expect("features", found.features & _SOME_FEATURES, _SOME_FEATURES)
    expect("set-up flags", bool(found.setup_flags & SETUP_CQE_MIXED), True)
    expect("SQE flags", found.sqe_flags & SQE_VALID_FLAGS, SQE_VALID_FLAGS)


def personalities(bench: Bench) -> None:
    """Numbers go up, also past free ones; requests may have those that are registered."""
    settings = bench.backend.settings
    expect("none", bench.run(Sqe(Op.NOP, personality=1, user_data=1)), [(1, -errno.EINVAL)])
    first, second = settings.register_personality(), settings.register_personality()
    expect("numbers", (first, second), (1, 2))
    expect("known", set(settings.personalities), {1, 2})
    bench.world.add_file("f", b"content")
    fd = bench.world.open("f", O_RDONLY)
    for way in (0, SQE_ASYNC, SQE_IO_DRAIN):
        read = Sqe(Op.READ, way, fd=fd, addr=bench.block, len=7, personality=second, user_data=3)
        expect("read", bench.run(read), [(3, 7)])
    results = bench.run(
        Sqe(Op.NOP, SQE_IO_LINK, personality=first, user_data=1),
        Sqe(Op.CLOSE, fd=fd, personality=second, user_data=2),
    )
    expect("in a chain", results, [(1, 0), (2, 0)])
    expect_errno("closed", bench.result(read), errno.EBADF)
    expect("unregister", settings.unregister_personality(first), 0)
    expect_errno("twice", settings.unregister_personality(first), errno.EINVAL)
    expect_errno("never there", settings.unregister_personality(9), errno.EINVAL)
    expect_errno("gone", bench.result(Sqe(Op.NOP, personality=first)), errno.EINVAL)
    expect("the next", settings.register_personality(), 3)
    message = Sqe(Op.MSG_RING, fd=bench.backend.ring_fd(bench.backend), personality=second)
    expect_errno("of messages", bench.result(message), errno.EINVAL)


def workers(bench: Bench) -> None:
    """Where workers run, and how many: 0 asks."""
    settings = bench.backend.settings
    expect("nothing to undo", settings.unregister_iowq_aff(), 0)
    for cpus in ((0,), (0, 1), (), (0, 500)):
        expect(f"on {cpus}", settings.register_iowq_aff(cpus), 0)
    expect("performed", bench.result(nop(1, SQE_ASYNC)), 0)
    expect("anywhere", settings.unregister_iowq_aff(), 0)
    before = settings.iowq_max_workers(0, 0)
    assert isinstance(before, tuple)
    try:
        expect("as they were", settings.iowq_max_workers(3, 5), before)
        expect("asked", settings.iowq_max_workers(0, 0), (3, 5))
        expect("one of them", settings.iowq_max_workers(0, 7), (3, 5))
        expect("asked", settings.iowq_max_workers(0, 0), (3, 7))
        for wrong in ((_FAR, 0), (0, _FAR), (-1, 0)):
            number = settings.iowq_max_workers(*wrong)
            expect(f"{wrong}", number, -errno.EINVAL)
        expect("unchanged", settings.iowq_max_workers(0, 0), (3, 7))
        expect("performed", bench.result(nop(1, SQE_ASYNC)), 0)
    finally:
        settings.iowq_max_workers(*before)


def numbers_of_rings(bench: Bench) -> None:
    """A thread has a few numbers for rings; one that is taken is refused."""
    other = bench.another()
    with ThreadPoolExecutor(1) as thread:  # which has given none to a ring before
        thread.submit(_numbers, bench.backend.settings, other.backend.settings).result()


def _numbers(settings: Settings, other: Settings) -> None:
    number = settings.register_ring_fd()
    expect("a number", number in range(RING_NUMBERS), True, number)
    last = RING_NUMBERS - 1
    expect("this one", settings.register_ring_fd(last), last)
    expect_errno("taken", settings.register_ring_fd(last), errno.EBUSY)
    expect_errno("by another", other.register_ring_fd(last), errno.EBUSY)
    expect_errno("too far", settings.register_ring_fd(RING_NUMBERS), errno.EINVAL)
    expect("free again", settings.unregister_ring_fd(last), 0)
    expect("still free", settings.unregister_ring_fd(last), 0)
    expect_errno("too far", settings.unregister_ring_fd(RING_NUMBERS + 1), errno.EINVAL)
    taken = []
    while (free := other.register_ring_fd()) >= 0:
        taken.append(free)
    expect_errno("none is free", free, errno.EBUSY)
    expect("number of numbers", len(taken) < RING_NUMBERS, True)
    for each in (number, *taken):
        expect("unregister", settings.unregister_ring_fd(each), 0)


def clocks(bench: Bench) -> None:
    """Waits are timed by one of two clocks."""
    settings = bench.backend.settings
    for clock in (CLOCK_BOOTTIME, CLOCK_MONOTONIC):
        expect(f"clock {clock}", settings.register_clock(clock), 0)
        bench.quiet()
        expect("timeout", bench.run(bench.timeout(1, 1_000_000)), [(1, -errno.ETIME)])
    for clock in (0, 2, 3, 11, -1):
        expect_errno(f"clock {clock}", settings.register_clock(clock), errno.EINVAL)


def messages_without_a_ring(bench: Bench) -> None:
    """SEND_MSG_RING delivers at once what a MSG_RING request would, data only."""
    other = bench.another()
    send = bench.backend.settings.sync_message
    fd = bench.backend.ring_fd(other.backend)
    message = Sqe(Op.MSG_RING, fd=fd, off=99, len=7, user_data=5)
    expect("sent", send(message.pack()), 0)
    expect("delivered", other.collect(1), [Message(99, 7, 0)])
    expect("to itself", send(replace(message, fd=bench.backend.ring_fd(bench.backend)).pack()), 0)
    expect("delivered", bench.collect(1), [Message(99, 7, 0)])
    passed = replace(message, op_flags=MSG_RING_FLAGS_PASS, file_index=16)
    expect("with flags", send(passed.pack()), 0)
    expect("delivered", other.collect(1), [Message(99, 7, 16)])
    expect("an odd field", send(replace(message, ioprio=3).pack()), 0)
    expect("delivered", other.collect(1), [Message(99, 7, 0)])
    for wrong in (
        {"flags": SQE_IO_LINK},
        {"opcode": Op.NOP},
        {"addr": MSG_SEND_FD},
        {"addr": 5},
        {"personality": 3},
        {"buf_index": 3},
        {"op_flags": MSG_RING_CQE_SKIP},
        {"op_flags": 4},
        {"file_index": 3},
    ):
        expect_errno(f"{wrong}", send(replace(message, **wrong).pack()), errno.EINVAL)
    expect_errno("no descriptor", send(replace(message, fd=-1).pack()), errno.EBADF)
    eventfd = bench.world.eventfd()
    expect_errno("no ring", send(replace(message, fd=eventfd).pack()), errno.EBADFD)
    file = replace(message, fd=eventfd, addr=MSG_SEND_FD)
    expect_errno("a file for no ring", send(file.pack()), errno.EINVAL)
    other.quiet()


def what_workers_end(bench: Bench) -> None:
    """EVENTFD_ASYNC counts what workers end, also silently; nothing else."""
    settings, world = bench.backend.settings, bench.world
    counter = world.eventfd()
    expect_errno("none", settings.unregister_eventfd_async(), errno.ENXIO)
    expect_errno("no descriptor", settings.register_eventfd_async(-1), errno.EBADF)
    world.add_file("f", b"content")
    fd = world.open("f", O_RDWR)
    expect_errno("no eventfd", settings.register_eventfd_async(fd), errno.EINVAL)
    expect("register", settings.register_eventfd_async(counter), 0)
    expect_errno("twice", settings.register_eventfd_async(counter), errno.EBUSY)

    count = Sqe(Op.READ, fd=counter, addr=bench.block, len=8, user_data=900)

    def counts(what: str, wanted: int, *sqes: Sqe, silent: int = 0) -> None:
        expect("consumed", bench.submit(*sqes), len(sqes))
        bench.collect(len(sqes) - silent)
        bench.quiet()
        world.signal(counter)  # so that there is something to read
        expect(what, (bench.result(count), struct.unpack("<Q", bench.get(8))[0]), (8, wanted + 1))

    counts("inline", 0, nop(1))
    counts("by a worker", 1, nop(1, SQE_ASYNC))
    counts("a failure there", 1, nop(1, SQE_ASYNC, fails=True))
    counts("two", 2, nop(1, SQE_ASYNC), nop(2, SQE_ASYNC))
    counts("a chain", 2, nop(1, SQE_ASYNC | SQE_IO_LINK), nop(2))
    failing = nop(1, SQE_ASYNC | SQE_IO_LINK, fails=True)
    counts("the rest is cancelled", 1, failing, nop(2))
    counts("refused", 0, bad(1, SQE_ASYNC))
    counts("no such file", 0, Sqe(Op.READ, SQE_ASYNC, addr=bench.block, len=1, user_data=1))
    counts("a timer", 0, bench.timeout(1, 1_000_000))
    path = bench.path("none")
    missing = Sqe(Op.OPENAT, SQE_ASYNC, fd=AT_FDCWD, addr=path, op_flags=O_RDWR, user_data=1)
    counts("no such name", 1, missing)
    counts("a new file", 1, replace(missing, flags=0, op_flags=O_RDWR | O_CREAT, len=0o600))
    counts("sync", 1, Sqe(Op.FSYNC, fd=fd, user_data=1))
    reader, writer = world.pipe()
    write = Sqe(Op.WRITE, fd=writer, addr=bench.put(b"abc", 64), len=3, user_data=2)
    poll = Sqe(Op.POLL_ADD, fd=reader, op_flags=POLLIN, user_data=1)
    counts("a poll", 0, poll, write)
    expect("unregister", settings.unregister_eventfd_async(), 0)
    expect_errno("twice", settings.unregister_eventfd_async(), errno.ENXIO)
    counts("no more", 0, nop(1, SQE_ASYNC))
    expect("again", settings.register_eventfd_async(counter), 0)
    counts("a silent one", 1, nop(1, SQE_ASYNC | SQE_CQE_SKIP_SUCCESS), silent=1)
    ring = bench.another()
    counter = ring.world.eventfd()
    expect("of another ring", ring.backend.settings.register_eventfd_async(counter), 0)
    expect("a drain", ring.run(nop(1, SQE_IO_DRAIN)), [(1, 0)])
    expect("read", ring.result(replace(count, fd=counter, addr=ring.block)), 8)
    expect("counted", struct.unpack("<Q", ring.get(8)), (1,))


LAWS: Final[Sequence[Law]] = (
    what_there_is,
    personalities,
    workers,
    numbers_of_rings,
    clocks,
    messages_without_a_ring,
    what_workers_end,
)

"""CQs, overflow and userspace waiting: section 3.5, and the rows of 4.6 about them."""

from __future__ import annotations

import errno
import struct

import pytest

from pybpfvm.errors import RingError, RingHang
from pybpfvm.events import CqePosted
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.abi import Cqe, Op
from pybpfvm.uring_backend.bpf import Budgets
from tests.support.ring_bench import MakeBench, on_every_backend
from tests.support.ring_programs import Run, bpf, sqe

ENOMEM, ETIME = -errno.ENOMEM, -errno.ETIME
on_both = pytest.mark.parametrize("profile", ["v2", "v3"])


@on_both
def test_emitting_129_times_to_128_entries(make_bench: MakeBench, profile: str) -> None:
    results: list[int] = []

    def program(run: Run) -> int:
        results.extend(run.emit(1, number) for number in range(129))
        return run.done()

    bench = make_bench(profile, program)
    bench.submit(bpf(0, user_data=9))
    assert results == [0] * 128 + [ENOMEM]
    assert bench.ring.cq_overflow == 1
    assert bench.ring.sq_flags == 0
    main = bench.ring.mmap(0, 64)
    assert struct.unpack("<I", bench.memory.read(main + 44, 4)) == (1,)
    assert len(bench.cqes(1)) == 128
    assert [e.fate for e in bench.events if isinstance(e, CqePosted)].count("dropped") == 1


@on_both
def test_emitting_17_times_to_16_entries_of_cq_0(make_bench: MakeBench, profile: str) -> None:
    results: list[int] = []

    def program(run: Run) -> int:
        results.extend(run.emit(0, number) for number in range(17))
        return run.done()

    bench = make_bench(profile, program)
    bench.submit(bpf(0, user_data=99))
    assert results == [0] * 17
    assert bench.ring.sq_flags & abi.SQ_CQ_OVERFLOW
    assert bench.ring.cq_overflow == 0
    assert (bench.ring.ready(), bench.ring.cqs.backlog) == (16, 2)
    assert bench.ring.reap() == Cqe(0, 0)
    assert bench.ring.ready() == 15  # nothing moves before the next enter
    bench.ring.submit()
    assert bench.ring.ready() == 16
    assert bench.ring.sq_flags & abi.SQ_CQ_OVERFLOW
    assert [user_data for user_data, _ in bench.cqes()] == list(range(1, 17))
    bench.ring.submit()
    assert bench.cqes() == [(99, 0)]
    assert bench.ring.sq_flags == 0


def test_new_cqes_overtake_the_backlog(make_bench: MakeBench) -> None:
    def fill(run: Run) -> int:
        for number in range(17):
            run.emit(0, number)
        assert run.reap(0) == Cqe(0, 0)
        run.emit(0, 77)
        return run.done()

    bench = make_bench("v2", fill)
    bench.submit(bpf(0, user_data=99))
    order = [user_data for user_data, _ in bench.cqes()]
    bench.ring.submit()
    order += [user_data for user_data, _ in bench.cqes()]
    assert order == [*range(1, 16), 77, 16, 99]


def test_the_backlog_is_bounded(make_bench: MakeBench) -> None:
    results: list[int] = []

    def fill(run: Run) -> int:
        results.extend(run.emit(0, number) for number in range(20))
        return run.done()

    bench = make_bench("v2", fill, budgets=Budgets(backlog_entries=3))
    bench.submit(bpf(0, user_data=99))
    assert results == [0] * 19 + [ENOMEM]
    assert bench.ring.cq_overflow == 2  # and the request's own CQE


def test_a_sink_that_nobody_reaps(make_bench: MakeBench) -> None:
    """Wild programs send results they do not want to a queue that overflows for ever."""

    def writer(run: Run) -> int:
        if run.number > 1:
            run.reap(2)
        run.submit(sqe(cq=1))
        run.submit(sqe(cq=2))
        return run.done() if run.number == 1000 else run.wait(1, 2)

    bench = make_bench("v2", writer)
    bench.submit(bpf(0, user_data=9))
    assert bench.cqes() == [(9, 0)]
    assert bench.ring.ready(1) == 128
    assert bench.ring.cq_overflow == 1000 - 128


@on_both
def test_heads_and_tails_wrap(make_bench: MakeBench, profile: str) -> None:
    bench = make_bench(profile, cq_entries=(4,))
    for number in range(23):
        bench.submit(sqe(cq=1, user_data=number), sqe(cq=1, user_data=100 + number))
        assert bench.cqes(1) == [(number, 0), (100 + number, 0)]
    extra = bench.ring.mmap(0x1300000, 64)
    assert struct.unpack("<II", bench.memory.read(extra + 8, 8)) == (46, 46)


def test_a_head_that_its_reader_broke(make_bench: MakeBench) -> None:
    """Userspace owns the head: a wild one may hide CQEs, never break the ring."""
    bench = make_bench("v2", cq_entries=(4,))
    head = bench.ring.mmap(0x1300000, 64) + 8
    bench.memory.write(head, struct.pack("<I", 0x8000_0001))
    bench.submit(sqe(cq=1, user_data=1))
    assert bench.ring.cq_overflow == 1
    assert bench.ring.reap(1) is not None
    bench.memory.write(head, struct.pack("<I", 0))
    bench.submit(sqe(cq=1, user_data=2))
    assert bench.cqes(1) == [(2, 0)]


def test_peeking_leaves_cqes(make_bench: MakeBench) -> None:
    bench = make_bench("v2")
    bench.submit(sqe(user_data=1), sqe(user_data=2))
    ring = bench.ring
    assert (ring.peek(), ring.peek(0, 1), ring.peek(0, 2)) == (Cqe(1, 0), Cqe(2, 0), None)
    assert ring.ready() == 2
    for cq in (3, -1):
        with pytest.raises(RingError):
            ring.peek(cq)


# --- waiting ------------------------------------------------------------------------------------


@on_every_backend
def test_waiting_lets_timers_pass(make_bench: MakeBench) -> None:
    bench = make_bench("v2")
    bench.submit(bench.timeout(10, user_data=1, cq=1), bench.timeout(1, user_data=2))
    assert bench.ring.wait_cqes(1, cq=1) == 1
    assert bench.cqes() == [(2, ETIME)]
    assert bench.ring.wait_cqes(0) == 0


@on_every_backend
def test_a_timeout_of_the_wait_itself(make_bench: MakeBench) -> None:
    bench = make_bench("v2")
    bench.submit(bench.timeout(20_000, user_data=1))
    before = bench.backend.now_ns()
    assert bench.ring.wait_cqes(1, timeout_ns=3_000_000) == 0
    assert 3_000_000 <= bench.backend.now_ns() - before < 5_000_000_000
    assert bench.ring.wait_cqes(1, timeout_ns=0) == 0


@on_every_backend
def test_enter_returns_early_when_any_timeout_ends(make_bench: MakeBench) -> None:
    bench = make_bench("v2")
    # Long enough to be still armed when the wait begins, whatever else the machine does.
    for raw in (bench.timeout(300, user_data=1, cq=1), bench.timeout(60_000, user_data=2)):
        bench.ring.queue(raw)
    assert bench.ring.submit(1) == 2
    assert (bench.ring.ready(0), bench.ring.ready(1)) == (0, 1)


@on_every_backend
def test_min_complete_is_clamped_to_cq_0(make_bench: MakeBench) -> None:
    bench = make_bench("v2", entries=2)
    bench.submit(sqe(), sqe())
    bench.ring.queue(sqe())
    bench.ring.queue(sqe())
    assert bench.ring.submit(1000) == 2
    assert bench.ring.wait_cqes(1000) == 4


def test_a_short_submission_does_not_wait(make_bench: MakeBench) -> None:
    bench = make_bench("v2")
    bench.ring.queue(sqe(200))
    bench.ring.queue(sqe())
    assert bench.ring.submit(2) == 1


@on_every_backend
def test_idle_and_not(make_bench: MakeBench) -> None:
    bench = make_bench("v2")
    assert bench.ring.run_until_idle()
    bench.submit(bench.timeout(5, user_data=1))
    assert not bench.ring.run_until_idle(timeout_ns=0)
    assert bench.ring.run_until_idle()
    assert bench.cqes() == [(1, ETIME)]


# --- TIMEOUT that counts ------------------------------------------------------------------------


@on_every_backend
def test_a_counted_timeout_counts_cq_0_only(make_bench: MakeBench) -> None:
    bench = make_bench("v2")
    bench.submit(bench.timeout(60_000, user_data=1, off=2, cq=1))
    bench.submit(sqe(cq=1), sqe(cq=2), sqe(user_data=5))
    assert bench.ring.ready(1) == 1
    bench.submit(sqe(user_data=6))
    assert bench.cqes(1) == [(0, 0), (1, 0)]
    assert bench.ring.run_until_idle(timeout_ns=1_000_000)  # its timer is gone


@on_every_backend
def test_a_counted_timeout_may_run_out(make_bench: MakeBench) -> None:
    bench = make_bench("v2")
    bench.submit(bench.timeout(2, user_data=1, off=2), sqe(user_data=5))
    bench.ring.wait_cqes(2)
    assert bench.cqes() == [(5, 0), (1, ETIME)]


@pytest.mark.parametrize(
    "backend_name", ["sim", pytest.param("kernel", marks=pytest.mark.kernel_ring)]
)
def test_a_timeout_that_repeats_counts_no_cqes(make_bench: MakeBench) -> None:
    bench = make_bench("v3")
    repeated = {"len": 1, "op_flags": abi.TIMEOUT_MULTISHOT, "user_data": 1}
    bench.submit(sqe(Op.TIMEOUT, addr=bench.timespec(2), off=3, **repeated))
    bench.ring.wait_cqes(3)
    assert bench.cqes() == [(1, ETIME)] * 3
    bench.submit(sqe(Op.TIMEOUT, addr=bench.timespec(60_000), off=1, **repeated))
    bench.submit(sqe(user_data=5))
    assert bench.cqes() == [(5, 0)]
    bench.submit(sqe(Op.ASYNC_CANCEL, fd=-1, addr=1, user_data=6))
    bench.ring.wait_cqes(2)
    assert sorted(bench.cqes()) == [(1, -errno.ECANCELED), (6, 0)]


def test_counted_timeouts_that_ran_out_are_forgotten(make_bench: MakeBench) -> None:
    bench = make_bench("v2")
    for _ in range(200):
        bench.submit(bench.timeout(1, user_data=1, off=60_000))
        bench.ring.wait_cqes(1)
        bench.cqes()
    assert len(bench.ring._submitter.performed._counted) < 50


def test_timeouts_are_not_counted(make_bench: MakeBench) -> None:
    bench = make_bench("v2")
    bench.submit(bench.timeout(100, user_data=1, off=1), bench.timeout(1, user_data=2))
    bench.ring.wait_cqes(2)
    assert bench.cqes() == [(2, ETIME), (1, ETIME)]


def test_emitted_cqes_are_counted(make_bench: MakeBench) -> None:
    def program(run: Run) -> int:
        timeout = sqe(Op.TIMEOUT, addr=run.user_data, len=1, off=1, user_data=7)
        assert run.submit(timeout) == 1
        assert run.emit(1, 1) == 0
        assert run.ring.ready() == 0
        assert run.emit(0, 2) == 0
        assert run.ring.ready() == 2
        return run.done()

    bench = make_bench("v2", program)
    timespec = bench.timespec(1000)
    bench.submit(bpf(0, user_data=timespec))
    assert bench.cqes() == [(2, 0), (7, 0), (timespec, 0)]


@on_every_backend
@pytest.mark.parametrize(
    ("cqes", "follower"), [(1, 0), (0, -errno.ECANCELED)], ids=["counted", "ran out"]
)
def test_a_counted_timeout_in_a_chain(make_bench: MakeBench, cqes: int, follower: int) -> None:
    bench = make_bench("v2")
    timer = sqe(
        Op.TIMEOUT,
        addr=bench.timespec(20),
        len=1,
        off=1,
        user_data=1,
        flags=abi.SQE_IO_LINK,
        cq=1,
    )
    bench.submit(sqe(user_data=8, cq=1, flags=abi.SQE_IO_LINK), timer, sqe(user_data=2, cq=1))
    bench.submit(*[sqe()] * cqes)
    bench.ring.wait_cqes(3, cq=1)
    assert bench.cqes(1) == [(8, 0), (1, 0 if cqes else ETIME), (2, follower)]


def test_a_counted_timeout_with_a_bad_timespec(make_bench: MakeBench) -> None:
    bench = make_bench("v2")
    bench.submit(sqe(Op.TIMEOUT, addr=16, len=1, off=1, user_data=1))
    assert bench.cqes() == [(1, -errno.EFAULT)]


def test_cqes_that_fit_later_are_counted_later(make_bench: MakeBench) -> None:
    bench = make_bench("v2", entries=2)
    bench.submit(sqe(), sqe())
    bench.submit(sqe(), sqe())
    bench.submit(bench.timeout(1000, user_data=1, off=1, cq=1), sqe())
    assert bench.ring.ready(1) == 0
    bench.cqes()
    bench.ring.submit()
    assert bench.cqes(1) == [(1, 0)]


def test_waiting_for_what_can_not_come(make_bench: MakeBench) -> None:
    bench = make_bench("v2")
    with pytest.raises(RingHang) as caught:
        bench.ring.wait_cqes(129, cq=1)
    assert caught.value.waiters == (
        "user waits for 129 CQEs on CQ 1, which holds 0 and can never hold more than 128",
    )

"""Rings that can not go on, and rings that are closed: hang detection, section 3.6."""

from __future__ import annotations

import errno
import time

import pytest

from pybpfvm.errors import RingError, RingHang, Trap, TrapKind
from pybpfvm.events import CqePosted
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.abi import Op
from pybpfvm.uring_backend.bpf import Budgets
from tests.support.ring_bench import MakeBench, on_every_backend
from tests.support.ring_programs import Run, bpf, sqe

EAGAIN, ECANCELED = -errno.EAGAIN, -errno.ECANCELED
on_both = pytest.mark.parametrize("profile", ["v2", "v3"])


def pingpong(run: Run) -> int:
    return run.wait(1, run.user_data + 1)


# --- hangs --------------------------------------------------------------------------------------


@on_every_backend
@on_both
def test_two_requests_that_wait_for_each_other(make_bench: MakeBench, profile: str) -> None:
    bench = make_bench(profile, pingpong)
    bench.submit(sqe(), bpf(0, user_data=1), bpf(0, user_data=0))
    with pytest.raises(RingHang) as caught:
        bench.ring.wait_cqes(2)
    assert caught.value.reason == "nothing in flight can complete"
    assert caught.value.waiters == (
        "user waits for 2 CQEs on CQ 0, which holds 1",
        "request 2 (pingpong) waits for 1 CQE on CQ 2, which holds 0",
        "request 3 (pingpong) waits for 1 CQE on CQ 1, which holds 0",
    )


@on_both
def test_a_wait_that_no_queue_can_satisfy(make_bench: MakeBench, profile: str) -> None:
    def greedy(run: Run) -> int:
        return run.wait(129, 1)

    bench = make_bench(profile, greedy)
    bench.submit(bpf(0))
    with pytest.raises(RingHang) as caught:
        bench.ring.submit(1)
    assert caught.value.waiters[1] == (
        "request 1 (greedy) waits for 129 CQEs on CQ 1, "
        "which holds 0 and can never hold more than 128"
    )


def test_many_waiters_are_summed_up(make_bench: MakeBench) -> None:
    bench = make_bench("v2", pingpong, entries=64)
    bench.submit(*[bpf(0)] * 50)
    with pytest.raises(RingHang) as caught:
        bench.ring.wait_cqes()
    assert len(caught.value.waiters) == 51, "the user and every request"
    message = str(caught.value).splitlines()
    assert len(message) == 22
    assert message[-1] == "  and 31 more"


@on_every_backend
def test_a_hang_can_be_mended(make_bench: MakeBench) -> None:
    def one(run: Run) -> int:
        return run.done() if run.number > 1 else run.wait(1, 1)

    bench = make_bench("v2", one)
    bench.submit(bpf(0, user_data=9))
    with pytest.raises(RingHang):
        bench.ring.wait_cqes()
    bench.submit(sqe(cq=1))
    assert bench.cqes() == [(9, 0)]


def test_silence_is_a_hang(make_bench: MakeBench) -> None:
    """A backend that could still go on but never does, as a socket that nobody writes to."""

    class Silent:
        def __init__(self) -> None:
            self.waits: list[int | None] = []

        def can_progress(self) -> bool:
            return True

        def wait(self, timeout_ns: int | None) -> bool:
            self.waits.append(timeout_ns)
            time.sleep((timeout_ns or 0) / 1e9)
            return False

    bench = make_bench("v2", budgets=Budgets(idle_timeout_ns=20_000_000))
    silent = Silent()
    bench.fake.can_progress = silent.can_progress  # type: ignore[method-assign]
    bench.fake.wait = silent.wait  # type: ignore[method-assign]
    with pytest.raises(RingHang, match=r"no event for 0\.02 s"):
        bench.ring.wait_cqes()
    assert not bench.ring.run_until_idle()
    assert len(silent.waits) <= 4
    bench.ring.wait_cqes(timeout_ns=0)  # a timeout of the caller's own is no hang


@pytest.mark.parametrize("backend_name", ["fake", "sim"])
def test_long_virtual_times_are_no_hang(make_bench: MakeBench) -> None:
    bench = make_bench("v2")
    year_ms = 365 * 24 * 3600 * 1000
    bench.submit(bench.timeout(100 * year_ms, user_data=1))
    started = time.monotonic()
    assert bench.ring.wait_cqes() == 1
    assert time.monotonic() - started < 5


# --- live-locks ---------------------------------------------------------------------------------


@on_every_backend
@on_both
def test_waiting_on_a_satisfied_queue_without_reaping(make_bench: MakeBench, profile: str) -> None:
    def spin(run: Run) -> int:
        return run.wait(1, 1)

    bench = make_bench(profile, spin, budgets=Budgets(livelock_runs=100))
    with pytest.raises(RingHang) as caught:
        bench.submit(sqe(cq=1), bpf(0, user_data=9))
    assert "live-lock: 100 runs in a row, the last of program spin" in caught.value.reason
    assert caught.value.waiters == ("request 2 (spin) waits for 1 CQE on CQ 1, which holds 1",)
    assert bench.runner.runs <= 110
    bench.ring.close()
    posted = [(e.user_data, e.res) for e in bench.events if isinstance(e, CqePosted)]
    assert posted == [(0, 0), (9, EAGAIN)]


def test_endless_self_resubmission(make_bench: MakeBench) -> None:
    def again(run: Run) -> int:
        run.submit(bpf(0, cq=1))
        return run.done()

    bench = make_bench("v2", again, budgets=Budgets(livelock_runs=1000))
    with pytest.raises(RingHang, match="live-lock"):
        bench.submit(bpf(0))
    assert bench.runner.runs < 1300  # 128 fill CQ 1, which is a change


def test_two_programs_that_keep_each_other_busy(make_bench: MakeBench) -> None:
    def ball(run: Run) -> int:
        run.reap(1 + run.user_data)
        run.emit(2 - run.user_data, 0)
        return run.wait(1, 1 + run.user_data)

    bench = make_bench("v2", ball, budgets=Budgets(livelock_runs=1000))
    with pytest.raises(RingHang, match="live-lock"):
        bench.submit(bpf(0, user_data=0), bpf(0, user_data=1))
    assert bench.runner.runs < 1200


def test_the_budget_of_runs(make_bench: MakeBench) -> None:
    def writer(run: Run) -> int:
        run.reap(1)
        run.submit(sqe(cq=1))
        return run.wait(1, 1)

    bench = make_bench("v2", writer, budgets=Budgets(max_runs=500, livelock_runs=50))
    with pytest.raises(RingHang, match="budget of 500 program runs"):
        bench.submit(bpf(0))
    assert bench.runner.runs == 500
    with pytest.raises(RingHang):
        bench.ring.submit()  # a whole new budget
    assert bench.runner.runs == 1000


@pytest.mark.parametrize("backend_name", ["fake", "sim"])
def test_a_program_that_polls_sees_time_pass(make_bench: MakeBench) -> None:
    def poll(run: Run) -> int:
        return run.wait(1, 1) if isinstance(run.reap(2), int) else run.done()

    bench = make_bench("v2", poll, budgets=Budgets(livelock_runs=50))
    bench.submit(sqe(cq=1), bench.timeout(30, cq=2), bpf(0, user_data=9))
    assert bench.cqes() == [(9, 0)]
    assert 50 <= bench.runner.runs < 120


def test_a_long_chain_of_writes_is_legal_and_linear(make_bench: MakeBench) -> None:
    def writer(run: Run) -> int:
        if run.number > 1:
            run.reap(1)
        run.submit(sqe(cq=1))
        return run.done() if run.number % 4000 == 0 else run.wait(1, 1)

    bench = make_bench("v2", writer, budgets=Budgets(livelock_runs=100))
    bench.submit(bpf(0, user_data=9))
    assert bench.runner.runs == 4000
    assert bench.cqes() == [(9, 0)]


def test_waking_is_linear_in_the_waiters_of_one_queue(make_bench: MakeBench) -> None:
    """300 requests parked on CQ 2 cost nothing per CQE on CQ 1."""

    def program(run: Run) -> int:
        if run.user_data == 0:
            return run.wait(1, 2)
        for number in range(3000):
            run.emit(1, number)
            run.reap(1)
        return run.done()

    bench = make_bench("v2", program, entries=512)
    bench.submit(*[bpf(0)] * 300)
    started = time.process_time()
    bench.submit(bpf(0, user_data=1))
    busy = time.process_time() - started
    bench.submit(*[bpf(0)] * 200)
    started = time.process_time()
    bench.submit(bpf(0, user_data=1))
    assert time.process_time() - started < 5 * busy + 0.5


# --- the end ------------------------------------------------------------------------------------


@on_every_backend
@pytest.mark.parametrize("profile", ["v2", "v2-futex", "v3base", "v3", "x"])
def test_closing_ends_parked_requests(make_bench: MakeBench, profile: str) -> None:
    bench = make_bench(profile, pingpong)
    bench.submit(bpf(0, user_data=0), bpf(0, user_data=1), bench.timeout(60_000, user_data=7))
    assert bench.runner.runs == 2
    del bench.events[:]
    bench.ring.close()
    posted = [(e.user_data, e.res) for e in bench.events if isinstance(e, CqePosted)]
    assert posted == [(0, EAGAIN), (1, EAGAIN), (7, ECANCELED)]
    assert bench.runner.runs == 2


@on_every_backend
def test_closing_ends_chains_and_what_they_hold(make_bench: MakeBench) -> None:
    bench = make_bench("v2", pingpong)
    bench.submit(
        bpf(0, user_data=0, flags=abi.SQE_IO_LINK),
        bpf(0, user_data=1, flags=abi.SQE_IO_LINK),
        sqe(user_data=2),
    )
    timer = sqe(
        Op.TIMEOUT,
        addr=bench.timespec(60_000),
        len=1,
        user_data=3,
        flags=abi.SQE_IO_HARDLINK,
    )
    bench.submit(timer, bpf(0, user_data=4))
    bench.submit(bench.timeout(60_000, user_data=5, off=9))
    del bench.events[:]
    bench.ring.close()
    posted = {e.user_data: e.res for e in bench.events if isinstance(e, CqePosted)}
    assert posted.keys() == {0, 1, 2, 3, 4, 5}
    assert (posted[0], posted[1]) == (EAGAIN, EAGAIN)
    assert all(posted[number] < 0 for number in (3, 4, 5))
    assert bench.runner.runs == 1


def test_closing_after_a_trap(make_bench: MakeBench) -> None:
    def faulty(run: Run) -> int:
        run.submit(sqe(user_data=1, flags=abi.SQE_IO_LINK))
        raise Trap(TrapKind.NULL)

    bench = make_bench("v2", faulty, pingpong)
    with pytest.raises(Trap):
        bench.submit(bpf(0), bpf(1), bpf(0))
    bench.ring.close()
    bench.ring.close()
    assert bench.fake.closed == 1
    assert all(
        region.kind.value not in ("ring memory", "context") for region in bench.memory.regions()
    )


def test_an_exception_leaves_the_with_block_closed(make_bench: MakeBench) -> None:
    bench = make_bench("v2", pingpong)
    bench.submit(bpf(0))
    with pytest.raises(RingHang), bench.ring as ring:
        ring.wait_cqes()
    assert bench.fake.closed == 1


@on_every_backend
def test_memory_that_is_closed_first_closes_the_ring(make_bench: MakeBench) -> None:
    bench = make_bench("v2", pingpong)
    bench.submit(bpf(0, user_data=1))
    bench.memory.close()
    posted = [(e.user_data, e.res) for e in bench.events if isinstance(e, CqePosted)]
    assert posted == [(1, EAGAIN)]
    with pytest.raises(RingError):
        bench.ring.ready()

"""Requests that wait, moved by a program: onto another queue, or behind its open chain."""

from __future__ import annotations

import errno

import pytest

from pybpfvm.events import CqePosted, Noted, Parked
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.abi import Op
from pybpfvm.uring_backend.requests import LINK
from tests.support.ring_bench import Bench, MakeBench, on_every_backend
from tests.support.ring_programs import Program, Run, bpf, sqe

EINVAL, ECANCELED, EAGAIN = -errno.EINVAL, -errno.ECANCELED, -errno.EAGAIN
IDLE, WORK, BELL = 1, 2, 3
CQS = (8, 8, 8)
DISPATCHER = 100  # its user_data; of workers 0, 1, ...


class Office:
    """Workers wait on IDLE; a worker that runs again notes its number and what it finds in WORK,
    and is done. The dispatcher is `program`, and runs when BELL is rung."""

    def __init__(self, make_bench: MakeBench, dispatcher: Program, workers: int = 3) -> None:
        self.found: list[tuple[int, object]] = []
        self._started: set[int] = set()
        self._dispatcher = dispatcher
        self.bench: Bench = make_bench("x", self.work, self.dispatch, cq_entries=CQS)
        self.bench.submit(*[bpf(0, user_data=number) for number in range(workers)])
        assert len(self._started) == workers

    def work(self, run: Run) -> int:
        me = run.user_data
        if me not in self._started:
            self._started.add(me)
            return run.wait(1, IDLE)
        cqe = run.reap(WORK)
        self.found.append((me, cqe if isinstance(cqe, int) else cqe.user_data))
        return run.done()

    def dispatch(self, run: Run) -> int:
        self._dispatcher(run)
        return run.done()

    def ring(self) -> None:
        """Let the dispatcher run."""
        self.bench.submit(bpf(1, user_data=DISPATCHER))
        self.bench.ring.run_until_idle(1_000_000_000)


@on_every_backend
def test_one_event_wakes_one_of_many(make_bench: MakeBench) -> None:
    def dispatch(run: Run) -> None:
        assert run.emit(WORK, 7) == 0
        assert run.requeue(IDLE, WORK, 1) == 1

    office = Office(make_bench, dispatch)
    office.ring()
    assert office.found == [(0, 7)]
    office.ring()
    assert office.found == [(0, 7), (1, 7)]
    assert sorted(office.bench.cqes()) == [(0, 0), (1, 0), (DISPATCHER, 0), (DISPATCHER, 0)]


@on_every_backend
def test_who_is_moved_waits_there_and_no_more_where_it_was(make_bench: MakeBench) -> None:
    office = Office(make_bench, lambda run: moved.append(run.requeue(IDLE, WORK, 2)))
    moved: list[int] = []
    office.ring()
    assert (moved, office.found) == ([2], [])
    office.bench.submit(sqe(user_data=5, cq=IDLE))
    assert office.found == [(2, -errno.ENOENT)]  # the one that was left
    office.bench.submit(sqe(user_data=6, cq=WORK))
    assert office.found[1:] == [(0, 6), (1, -errno.ENOENT)]  # both were satisfied


def test_as_many_as_there_are_the_oldest_first(make_bench: MakeBench) -> None:
    def dispatch(run: Run) -> None:
        assert run.requeue(IDLE, WORK, 0) == 0
        assert run.requeue(IDLE, WORK, 1) == 1
        assert run.requeue(IDLE, BELL, 1 << 31) == 2
        assert run.requeue(IDLE, WORK, 1) == 0
        assert run.requeue(BELL, WORK, 5) == 2
        assert run.emit(WORK, 1) == 0

    office = Office(make_bench, dispatch)
    office.ring()
    assert [worker for worker, _ in office.found] == [0, 1, 2]


def test_the_context_tells_where_it_waited(make_bench: MakeBench) -> None:
    seen = []

    def worker(run: Run) -> int:
        seen.append(run.wait_fields)
        return run.wait(1, IDLE) if len(seen) == 1 else run.done()

    def mover(run: Run) -> int:
        assert run.emit(WORK, 1) == 0
        assert run.requeue(IDLE, WORK, 1) == 1
        return run.done()

    bench = make_bench("x", worker, mover, cq_entries=CQS)
    bench.submit(bpf(0))
    bench.submit(bpf(1))
    assert seen == [(0, 0), (1, WORK)]


def test_one_that_only_just_asked_to_wait_can_be_moved(make_bench: MakeBench) -> None:
    """In the same submission the worker has not parked yet when the mover runs."""
    runs = []

    def worker(run: Run) -> int:
        runs.append("worker")
        return run.wait(1, IDLE) if len(runs) == 1 else run.done()

    def mover(run: Run) -> int:
        runs.append("mover")
        assert run.requeue(IDLE, WORK, 1) == 1
        assert run.emit(WORK, 1) == 0
        return run.done()

    bench = make_bench("x", worker, mover, cq_entries=CQS)
    bench.submit(bpf(0), bpf(1))
    assert runs == ["worker", "mover", "worker"]


@pytest.mark.parametrize(
    ("source", "target"), [(4, 1), (1, 4), (1, 1), (LINK, 1), (1 << 31, 1), (1, LINK - 1)]
)
def test_queues_that_are_not_there(make_bench: MakeBench, source: int, target: int) -> None:
    answers = []
    office = Office(make_bench, lambda run: answers.append(run.requeue(source, target)))
    office.ring()
    assert answers == [EINVAL]


# --- behind a chain -----------------------------------------------------------------------------


def sleeping(bench: Bench, flags: int, ms: float = 5.0) -> bytes:
    addr = bench.timespec(ms)
    return sqe(Op.TIMEOUT, addr=addr, len=1, user_data=50, cq=WORK, flags=flags)


@on_every_backend
def test_behind_a_chain_it_runs_when_that_is_over(make_bench: MakeBench) -> None:
    linked: list[int] = []

    def dispatch(run: Run) -> None:
        assert run.submit(sleeping(office.bench, abi.SQE_IO_HARDLINK)) == 1
        linked.append(run.requeue(IDLE, LINK))
        linked.append(run.requeue(IDLE, LINK))

    office = Office(make_bench, dispatch)
    office.bench.submit(bpf(1, user_data=DISPATCHER))
    assert office.found == []
    assert office.bench.ring.run_until_idle(2_000_000_000)
    assert linked == [1, EINVAL]  # the first has closed the chain
    assert office.found == [(0, 50)]
    assert office.bench.cqes() == [(DISPATCHER, 0), (0, 0)]


@on_every_backend
def test_a_chain_that_fails_ends_it(make_bench: MakeBench) -> None:
    def dispatch(run: Run) -> None:
        assert run.submit(sleeping(office.bench, abi.SQE_IO_LINK)) == 1
        assert run.requeue(IDLE, LINK) == 1

    office = Office(make_bench, dispatch)
    office.ring()
    assert office.found == []
    assert sorted(office.bench.cqes()) == [(0, ECANCELED), (DISPATCHER, 0)]
    assert office.bench.cqes(WORK) == [(50, -errno.ETIME)]


@on_every_backend
def test_it_may_wait_again_and_be_linked_again(make_bench: MakeBench) -> None:
    runs: list[str] = []

    def worker(run: Run) -> int:
        runs.append("worker")
        return run.done() if len(runs) > 4 else run.wait(1, IDLE)

    def mover(run: Run) -> int:
        runs.append("mover")
        assert run.submit(sqe(user_data=1, cq=WORK, flags=abi.SQE_IO_LINK)) == 1
        assert run.requeue(IDLE, LINK) == 1
        return run.done()

    bench = make_bench("x", worker, mover, cq_entries=CQS)
    bench.submit(bpf(0, user_data=9))
    for _ in range(2):
        bench.submit(bpf(1))
        bench.ring.run_until_idle(1_000_000_000)
    assert runs == ["worker", "mover", "worker", "mover", "worker"]
    assert bench.cqes() == [(0, 0), (0, 0), (9, 0)]


def test_nobody_waits(make_bench: MakeBench) -> None:
    """The chain is left open, and closed by the next request or the end of the run."""

    def dispatch(run: Run) -> None:
        assert run.submit(sqe(user_data=1, cq=WORK, flags=abi.SQE_IO_LINK)) == 1
        assert run.requeue(BELL, LINK) == 0
        assert run.submit(sqe(user_data=2, cq=WORK)) == 1

    office = Office(make_bench, dispatch)
    office.ring()
    assert office.bench.cqes(WORK) == [(1, 0), (2, 0)]


@pytest.mark.parametrize("flags", [abi.SQE_IO_LINK, abi.SQE_IO_HARDLINK, abi.SQE_IO_DRAIN])
def test_who_has_a_place_among_others_keeps_it(make_bench: MakeBench, flags: int) -> None:
    answers = []

    def worker(run: Run) -> int:
        return run.wait(1, IDLE)

    def mover(run: Run) -> int:
        assert run.submit(sqe(cq=WORK, flags=abi.SQE_IO_LINK)) == 1
        answers.append(run.requeue(IDLE, LINK))
        answers.append(run.requeue(IDLE, WORK, 5))
        return run.done()

    bench = make_bench("x", worker, mover, cq_entries=CQS)
    bench.submit(bpf(0, flags=flags), sqe(user_data=8, cq=BELL))
    bench.submit(bpf(1))
    assert answers == [0, 1]


@on_every_backend
def test_closing_ends_what_was_moved(make_bench: MakeBench) -> None:
    def dispatch(run: Run) -> None:
        long = sleeping(office.bench, abi.SQE_IO_HARDLINK, 60_000)
        assert run.submit(long) == 1
        assert run.requeue(IDLE, LINK) == 1
        assert run.requeue(IDLE, BELL, 1) == 1

    office = Office(make_bench, dispatch)
    office.bench.submit(bpf(1, user_data=DISPATCHER))
    office.bench.cqes()
    del office.bench.events[:]
    office.bench.ring.close()
    posted = [(e.user_data, e.res) for e in office.bench.events if isinstance(e, CqePosted)]
    assert sorted(posted) == [(0, ECANCELED), (1, EAGAIN), (2, EAGAIN), (50, ECANCELED)]
    assert office.found == []


def test_what_happens_is_told(make_bench: MakeBench) -> None:
    def dispatch(run: Run) -> None:
        assert run.requeue(IDLE, WORK, 1) == 1
        assert run.submit(sqe(cq=BELL, flags=abi.SQE_IO_LINK)) == 1
        assert run.requeue(IDLE, LINK) == 1

    office = Office(make_bench, dispatch)
    del office.bench.events[:]
    office.ring()
    told = [(e.request, e.text) for e in office.bench.events if isinstance(e, Noted)]
    assert told == [(1, "waits on CQ 2 from now on"), (2, "runs behind the chain")]
    assert [e.cq for e in office.bench.events if isinstance(e, Parked)] == [WORK]

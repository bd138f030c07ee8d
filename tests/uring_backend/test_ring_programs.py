"""Runs of BPF requests: contexts, waiting, re-running, helpers; sections 2.3, 2.4, 3.1 to 3.4."""

from __future__ import annotations

import errno

import pytest

from pybpfvm.errors import InputError, InternalError, RingHang, Trap, TrapKind, UnsupportedError
from pybpfvm.events import (
    CqePosted,
    CqeReaped,
    Event,
    HostWaits,
    HostWoke,
    Parked,
    RequestEnded,
    RequestStarted,
    RunEnded,
    RunStarted,
    SqeIssued,
    Woken,
)
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.abi import Cqe, Op
from pybpfvm.uring_backend.bpf import Budgets
from tests.support.ring_bench import MakeBench, on_every_backend
from tests.support.ring_programs import RING_PROFILES, Program, Run, bpf, sqe

LINK, HARDLINK = abi.SQE_IO_LINK, abi.SQE_IO_HARDLINK
EINVAL, EFAULT, ECANCELED = -errno.EINVAL, -errno.EFAULT, -errno.ECANCELED
ENOENT, ENOMEM, ETIME = -errno.ENOENT, -errno.ENOMEM, -errno.ETIME
ALL = [name.removeprefix("iouring-") for name in RING_PROFILES]
V2S, V3S = ["v2", "v2-futex"], ["v3base", "v3", "x"]
WAITING = [*V2S, *V3S]
on_waiting_abis = pytest.mark.parametrize("profile", WAITING)


def nothing(run: Run) -> int:
    return run.done()


def once(body: Program) -> Program:
    """A program that does `body` in its first run and ends after its second."""
    seen: set[int] = set()

    def program(run: Run) -> int | None:
        if run.user_data in seen:
            return run.done()
        seen.add(run.user_data)
        return body(run)

    return program


# --- the acceptance programs (sections 4.1 to 4.3), as Python ------------------------------------


@on_every_backend
@on_waiting_abis
def test_emit_reap_submit(make_bench: MakeBench, profile: str) -> None:
    def test(run: Run) -> int:
        if run.number > 1:
            return run.done()
        assert run.emit(0, 3, 13) == 0
        assert (run.emit(1, 4, 17), run.emit(1, 5, 19)) == (0, 0)
        assert (run.reap(1), run.reap(1)) == (Cqe(4, 17), Cqe(5, 19))
        assert run.submit(sqe(user_data=2)) == 1
        return run.wait(1, 0)

    bench = make_bench(profile, test)
    assert bench.submit(bpf(0, user_data=0x7000)) == 1
    assert bench.runner.runs == 2
    assert bench.cqes(0) == [(3, 13), (2, 0), (0x7000, 0)]
    assert bench.cqes(1) == bench.cqes(2) == []


@on_every_backend
@on_waiting_abis
def test_counting_timeouts(make_bench: MakeBench, profile: str) -> None:
    def counting(run: Run) -> int:
        if run.number > 11:
            return run.done()
        if run.number > 1:
            assert run.reap(1) == Cqe(5, ETIME)
        timeout = sqe(Op.TIMEOUT, addr=run.user_data, len=1, user_data=5, cq=1)
        assert run.submit(timeout) == 1
        return run.wait(1, 1)

    bench = make_bench(profile, counting)
    timespec = bench.timespec(4)
    assert bench.submit(bpf(0, user_data=timespec)) == 1
    assert bench.ring.wait_cqes() == 1
    assert bench.runner.runs == 12
    assert bench.cqes(0) == [(timespec, 0)]
    assert bench.cqes(1) == [(5, ETIME)]
    assert bench.backend.now_ns() >= 44_000_000


@on_every_backend
@on_waiting_abis
def test_ping_pong_between_two_requests(make_bench: MakeBench, profile: str) -> None:
    started = set()
    trace = []

    def pingpong(run: Run) -> int:
        me = run.user_data
        if me not in started:
            started.add(me)
            return run.wait(1, me + 1)
        ball = run.reap(me + 1)
        assert isinstance(ball, Cqe)
        trace.append((me, ball.user_data))
        assert run.emit(2 - me, ball.user_data + 1) == 0
        return run.done() if ball.user_data >= 20 else run.wait(1, me + 1)

    bench = make_bench(profile, pingpong)
    assert bench.submit(bpf(0, user_data=0), bpf(0, user_data=1), sqe(cq=1)) == 3
    assert trace == [(number % 2, number) for number in range(22)]
    assert bench.runner.runs == 24
    assert bench.cqes(0) == [(0, 0), (1, 0)]
    assert (bench.cqes(1), bench.cqes(2)) == ([(22, 0)], [])


@on_every_backend
@pytest.mark.parametrize("profile", ALL)
def test_junk_submitted_by_a_program(make_bench: MakeBench, profile: str) -> None:
    results = []

    def asm(run: Run) -> int:
        results.append(run.submit(sqe(244, user_data=60)))
        return run.done()

    bench = make_bench(profile, asm, register=False)
    bench.ring.register_bpf([0, 0, 0])
    bench.submit(bpf(1, user_data=13))
    v1 = profile == "v1"
    assert results == [EINVAL if v1 else 0]
    assert bench.cqes() == ([(13, 0)] if v1 else [(60, EINVAL), (13, 0)])


# --- the context --------------------------------------------------------------------------------


@on_waiting_abis
def test_what_a_rerun_finds_in_its_context(make_bench: MakeBench, profile: str) -> None:
    seen = []

    def look(run: Run) -> int:
        seen.append((run.user_data, run.wait_fields))
        if run.number < 3:
            run.memory.write(run.ctx_addr, bytes(8))  # no effect outside the run
            return run.wait(1, 1)
        return run.done()

    bench = make_bench(profile, look)
    bench.submit(sqe(cq=1), bpf(0, user_data=9))
    again = (1, 1) if profile in ("v3", "x") else (0, 0)
    assert seen == [(9, (0, 0)), (9, again), (9, again)]
    assert bench.cqes() == [(9, 0)]


def test_contexts_of_two_requests_do_not_mix(make_bench: MakeBench) -> None:
    seen = []

    def look(run: Run) -> int:
        seen.append((run.user_data, run.wait_fields))
        if len(seen) > 4:
            return run.done()
        return run.wait(1 + run.user_data, 1)

    bench = make_bench("v3", look)
    bench.submit(sqe(cq=1), sqe(cq=1), bpf(0, user_data=0), bpf(0, user_data=1))
    assert seen[2:4] == [(0, (1, 1)), (1, (2, 1))]


def test_v1_context_tells_nothing(make_bench: MakeBench) -> None:
    seen = []

    def look(run: Run) -> int:
        seen.append((run.user_data, run.wait_fields))
        return run.wait(1, 1)

    bench = make_bench("v1", look)
    bench.submit(bpf(0, user_data=9))
    bench.submit(bpf(0, user_data=9))
    assert seen[0] == (0, (0, 0))
    assert bench.cqes() == [(9, 0), (9, 0)]


# --- waiting ------------------------------------------------------------------------------------


@on_waiting_abis
@pytest.mark.parametrize(("nr", "idx"), [(1, 3), (1, 0xFFFF_FFFF), (0xFFFF_FFFF, 3)])
def test_wait_on_a_queue_that_is_not_there(
    make_bench: MakeBench, profile: str, nr: int, idx: int
) -> None:
    bench = make_bench(profile, lambda run: run.wait(nr, idx))
    bench.submit(bpf(0, user_data=9))
    assert bench.cqes() == [(9, EINVAL)]
    assert bench.runner.runs == 1


@on_waiting_abis
def test_wait_for_nothing(make_bench: MakeBench, profile: str) -> None:
    bench = make_bench(profile, lambda run: run.wait(0, 1))
    bench.submit(bpf(0, user_data=9))
    assert bench.cqes() == [(9, EINVAL if profile in ("v3", "x") else 0)]


def test_only_the_return_value_counts_in_v3(make_bench: MakeBench) -> None:
    def forgetful(run: Run) -> int:
        run.wait(1, 1)
        return 0

    bench = make_bench("v3", forgetful)
    bench.submit(bpf(0, user_data=9))
    assert bench.cqes() == [(9, 0)]


@pytest.mark.parametrize("profile", ["v2", "v3base"])
def test_only_wait_nr_counts_before_v3(make_bench: MakeBench, profile: str) -> None:
    bench = make_bench(profile, lambda run: run.done() or 1)
    bench.submit(bpf(0, user_data=9))
    assert bench.cqes() == [(9, 0)]


@on_waiting_abis
def test_unreaped_cqes_from_before_the_wait_count(make_bench: MakeBench, profile: str) -> None:
    bench = make_bench(profile, once(lambda run: run.wait(3, 1)))
    bench.submit(*[sqe(cq=1)] * 2)
    bench.submit(bpf(0, user_data=9))
    assert bench.runner.runs == 1
    bench.submit(sqe(cq=2))
    assert bench.runner.runs == 1
    bench.submit(sqe(cq=1))
    assert bench.runner.runs == 2
    assert bench.ring.ready(1) == 3  # waiting consumed nothing
    assert bench.cqes() == [(9, 0)]


@on_waiting_abis
def test_one_cqe_wakes_everybody_and_the_loser_finds_nothing(
    make_bench: MakeBench, profile: str
) -> None:
    got: list[tuple[int, Cqe | int]] = []
    started = set()

    def consumer(run: Run) -> int:
        if run.user_data not in started:
            started.add(run.user_data)
            return run.wait(1, 1)
        got.append((run.user_data, run.reap(1)))
        return run.done()

    bench = make_bench(profile, consumer)
    bench.submit(*[bpf(0, user_data=number) for number in range(3)])
    bench.submit(sqe(cq=1, user_data=77))
    assert got == [(0, Cqe(77, 0)), (1, ENOENT), (2, ENOENT)]


@on_waiting_abis
def test_the_host_may_reap_what_satisfied_a_wait(make_bench: MakeBench, profile: str) -> None:
    got: list[Cqe | int] = []

    def consumer(run: Run) -> int:
        if run.number == 1:
            return run.wait(1, 1)
        got.append(run.reap(1))
        return run.done()

    def thief(run: Run) -> int:
        assert run.emit(1, 5) == 0
        assert bench.ring.reap(1) == Cqe(5, 0)  # another thread, in the middle of this run
        return run.done()

    bench = make_bench(profile, consumer, thief)
    bench.submit(bpf(0, user_data=1))
    assert bench.runner.runs == 1
    bench.submit(bpf(1, user_data=2))
    assert got == [ENOENT]
    assert bench.cqes() == [(2, 0), (1, 0)]


def test_v3_looks_again_before_it_parks(make_bench: MakeBench) -> None:
    """Work queued behind a request that has to wait may satisfy it without parking (3.4)."""

    def producer(run: Run) -> int:
        run.emit(1, 5)
        return run.done()

    for profile, parks in (("v2", 1), ("v3", 0)):
        bench = make_bench(profile, once(lambda run: run.wait(1, 1)), producer)
        bench.submit(bpf(0, user_data=1), bpf(1, user_data=2))
        assert bench.cqes() == [(2, 0), (1, 0)]
        assert sum(isinstance(event, Parked) for event in bench.events) == parks


def test_wait_for_more_than_the_ring_sees_backlogged(make_bench: MakeBench) -> None:
    """The overflow backlog does not count: CQ 0 never holds 17 CQEs."""

    def flood(run: Run) -> int:
        for number in range(20):
            assert run.emit(0, number) == 0
        return run.wait(17, 0)

    bench = make_bench("v2", once(flood))
    bench.submit(bpf(0, user_data=9))
    assert bench.runner.runs == 1
    assert (bench.ring.ready(), bench.ring.cqs.backlog) == (16, 4)


# --- task work ----------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ALL)
def test_no_nesting_and_fifo_order(make_bench: MakeBench, profile: str) -> None:
    order = []

    def outer(run: Run) -> int:
        order.append("outer")
        assert run.submit(bpf(1)) == (0 if profile == "v1" else 1)
        order.append("outer ends")
        return run.done()

    def inner(run: Run) -> int:
        order.append("inner")
        return run.done()

    bench = make_bench(profile, outer, inner)
    bench.submit(bpf(0), bpf(1), bpf(0))
    assert order == [
        *["outer", "outer ends", "inner", "outer", "outer ends"],
        *["inner", "inner"],
    ]


def test_the_host_can_not_enter_while_a_program_runs(make_bench: MakeBench) -> None:
    def reenter(run: Run) -> int:
        for call in (run.ring.submit, run.ring.close, run.ring.wait_cqes, run.ring.unregister_bpf):
            with pytest.raises(InputError, match="running a program"):
                call()
        return run.done()

    bench = make_bench("v2", reenter)
    bench.submit(bpf(0, user_data=4))
    assert bench.cqes() == [(4, 0)]


def test_helpers_need_a_run(make_bench: MakeBench) -> None:
    ring = make_bench("v2").ring
    with pytest.raises(InternalError):
        ring.bpf_emit(0, 1, 2, 3)


# --- submit (2.4 a, 3.3) ------------------------------------------------------------------------


@on_every_backend
@on_waiting_abis
def test_inline_completions_come_at_the_end_of_the_run(make_bench: MakeBench, profile: str) -> None:
    found = []

    def program(run: Run) -> int:
        run.submit(sqe(user_data=1, cq=1))
        found.append(run.reap(1))
        run.emit(1, 2)
        return run.done()

    bench = make_bench(profile, program)
    bench.submit(bpf(0, user_data=9, cq=1))
    assert found == [ENOENT]
    assert bench.cqes(1) == [(2, 0), (1, 0), (9, 0)]


@on_every_backend
@pytest.mark.parametrize("count", [31, 32, 33, 64, 100])
def test_deferred_completions_come_by_32(make_bench: MakeBench, count: int) -> None:
    seen = []

    def program(run: Run) -> int:
        for number in range(count):
            assert run.submit(sqe(user_data=number, cq=1)) == 1
            seen.append(run.ring.ready(1))
        return run.done()

    bench = make_bench("v2", program)
    bench.submit(bpf(0))
    assert seen == [(number + 1) // 32 * 32 for number in range(count)]
    assert bench.cqes(1) == [(number, 0) for number in range(count)]


@pytest.mark.parametrize("profile", ALL)
@pytest.mark.parametrize(
    ("raw", "res"),
    [
        (sqe(38, user_data=6), EINVAL),
        (sqe(flags=0x80, user_data=6), EINVAL),
        (sqe(37, len=1, user_data=6), EINVAL),
        (sqe(37, off=7, user_data=6), EFAULT),
        (sqe(ioprio=1, user_data=6), EINVAL),  # found by the backend
    ],
)
def test_bad_sqes_of_a_program(make_bench: MakeBench, profile: str, raw: bytes, res: int) -> None:
    results = []

    def program(run: Run) -> int:
        results.append(run.submit(sqe(user_data=1)))
        results.append(run.submit(raw))
        results.append(run.ring.ready(0))
        return run.done()

    bench = make_bench(profile, program)
    bench.submit(bpf(0, user_data=9))
    if profile == "v1":
        assert results == [0, res, 0]
        assert bench.cqes() == [(1, 0), (9, 0)]
    else:  # the error CQE comes at once, before the deferred one
        assert results == [1, 0, 1]
        assert bench.cqes() == [(6, res), (1, 0), (9, 0)]


@on_waiting_abis
def test_bad_cq_idx_from_a_program(make_bench: MakeBench, profile: str) -> None:
    results = []

    def program(run: Run) -> int:
        results.append(run.submit(sqe(user_data=6, cq=9)))
        return run.done()

    bench = make_bench(profile, program)
    bench.submit(bpf(0, user_data=9))
    assert results == [0]
    assert bench.cqes() == [(6, EINVAL), (9, 0)]


def test_no_room_for_more_requests(make_bench: MakeBench) -> None:
    results = []

    def program(run: Run) -> int:
        for _ in range(4):
            results.append(run.submit(sqe(Op.POLL_ADD, fd=0)))
        return run.done()

    bench = make_bench("v2", program, budgets=Budgets(live_requests=3))
    bench.submit(bpf(0, user_data=9))
    assert results == [1, 1, ENOMEM, ENOMEM]  # the BPF request is the third


@on_every_backend
@pytest.mark.parametrize("profile", ALL)
def test_a_chain_starts_when_it_is_closed(make_bench: MakeBench, profile: str) -> None:
    order = []

    def outer(run: Run) -> int:
        accepted = 0 if profile == "v1" else 1
        assert run.submit(sqe(user_data=1, flags=HARDLINK)) == accepted
        assert run.submit(bpf(1, user_data=2, flags=LINK)) == accepted
        assert run.submit(sqe(user_data=3)) == accepted
        order.append("outer")
        return run.done()

    def inner(run: Run) -> int:
        order.append("inner")
        assert run.ring.ready() >= 1  # the I/O's CQE is there
        return run.done()

    bench = make_bench(profile, outer, inner)
    bench.submit(bpf(0, user_data=9))
    bench.ring.wait_cqes(4)
    assert order == ["outer", "inner"]
    cqes = bench.cqes()
    assert [cqe for cqe in cqes if cqe[0] != 9] == [(1, 0), (2, 0), (3, 0)]
    assert (9, 0) in cqes


@on_every_backend
@on_waiting_abis
def test_the_end_of_a_run_closes_its_chain(make_bench: MakeBench, profile: str) -> None:
    def program(run: Run) -> int:
        assert run.submit(sqe(user_data=run.number, cq=1, flags=LINK)) == 1
        if run.number == 3:
            return run.done()
        return run.wait(run.number, 1)

    bench = make_bench(profile, program)
    bench.submit(bpf(0, user_data=9))
    bench.ring.wait_cqes()
    assert bench.cqes(1) == [(1, 0), (2, 0), (3, 0)]


@on_every_backend
@pytest.mark.parametrize(("link", "res", "runs"), [(LINK, ECANCELED, 1), (HARDLINK, 0, 2)])
def test_a_failure_before_a_bpf_member(
    make_bench: MakeBench, link: int, res: int, runs: int
) -> None:
    def outer(run: Run) -> int:
        assert run.submit(sqe(Op.TIMEOUT_REMOVE, addr=123, user_data=1, flags=link)) == 1
        assert run.submit(bpf(1, user_data=2, cq=2)) == 1
        return run.done()

    bench = make_bench("v2", outer, nothing)
    bench.submit(bpf(0, user_data=9))
    bench.ring.wait_cqes(cq=2)
    assert bench.cqes(2) == [(2, res)]
    assert bench.runner.runs == runs
    assert (1, ENOENT) in bench.cqes(0)


@pytest.mark.parametrize("profile", WAITING)
def test_a_bad_sqe_behind_an_open_chain(make_bench: MakeBench, profile: str) -> None:
    results = []

    def program(run: Run) -> int:
        results.append(run.submit(sqe(user_data=1, flags=LINK)))
        results.append(run.submit(sqe(200, user_data=2, flags=LINK)))
        results.append(run.submit(bpf(1, user_data=3)))
        results.append(run.submit(sqe(user_data=4)))
        return run.done()

    bench = make_bench(profile, program, nothing)
    bench.submit(bpf(0, user_data=9))
    if profile in V3S:
        assert results == [1, 1, 1, 1]
        first = [(1, ECANCELED), (2, EINVAL), (3, ECANCELED)]
        assert bench.cqes() == [*first, (4, 0), (9, 0)]
        assert bench.runner.runs == 1
    else:  # the chain is gone at once, and what follows stands alone
        assert results == [1, 0, 1, 1]
        assert bench.cqes() == [(1, ECANCELED), (2, EINVAL), (4, 0), (9, 0), (3, 0)]


def test_a_bad_sqe_with_a_link_flag_starts_a_chain_in_v3(make_bench: MakeBench) -> None:
    results = []

    def program(run: Run) -> int:
        results.append(run.submit(sqe(200, user_data=2, flags=LINK)))
        return run.done()

    bench = make_bench("v3", program)
    bench.submit(bpf(0, user_data=9))
    assert results == [1]
    assert bench.cqes() == [(2, EINVAL), (9, 0)]


def test_v1_reports_what_it_accepted(make_bench: MakeBench) -> None:
    """A chain of one found bad when the run ends: the helper has said 0, so a CQE must tell."""

    def program(run: Run) -> int:
        assert run.submit(sqe(ioprio=1, user_data=1, flags=LINK)) == 0
        return run.done()

    bench = make_bench("v1", program)
    bench.submit(bpf(0, user_data=9))
    assert bench.cqes() == [(1, EINVAL), (9, 0)]


def test_chains_never_span_runs(make_bench: MakeBench) -> None:
    def program(run: Run) -> int:
        if run.number == 1:
            run.submit(sqe(Op.POLL_ADD, fd=0, user_data=1, flags=LINK))
            run.emit(1, 0)
            return run.wait(1, 1)
        run.submit(sqe(user_data=2))
        return run.done()

    bench = make_bench("v2", program)
    bench.submit(bpf(0, user_data=9))
    assert bench.cqes() == [(2, 0), (9, 0)]


# --- emit and reap (2.4 b, c) -------------------------------------------------------------------


def test_emit_and_reap_of_queues_that_are_not_there(make_bench: MakeBench) -> None:
    results: list[Cqe | int] = []

    def program(run: Run) -> int:
        results.append(run.emit(9, 1))
        results.append(run.emit(3, 1))
        results.append(run.reap(9))
        results.append(run.reap(1))
        return run.done()

    bench = make_bench("v2", program)
    bench.submit(bpf(0))
    assert results == [EINVAL, EINVAL, EINVAL, ENOENT]


def test_arguments_are_cut_to_their_c_types(make_bench: MakeBench) -> None:
    def program(run: Run) -> int:
        run.emit(0, (1 << 64) + 7, 0xFFFF_FFFE, (1 << 32) + 3)
        return run.done()

    bench = make_bench("v2", program)
    bench.submit(bpf(0))
    assert bench.ring.reap() == Cqe(7, -2, 3)


def test_a_program_may_reap_the_main_queue(make_bench: MakeBench) -> None:
    got: list[Cqe | int] = []

    def program(run: Run) -> int:
        got.extend((run.reap(0), run.reap(0), run.reap(0)))
        return run.done()

    bench = make_bench("v2", program)
    bench.submit(sqe(user_data=1), sqe(user_data=2), bpf(0))
    assert got == [Cqe(1, 0), Cqe(2, 0), ENOENT]


# --- files (sections 4.4 and 4.6) ---------------------------------------------------------------

on_real_files = pytest.mark.parametrize(
    "backend_name", ["sim", pytest.param("kernel", marks=pytest.mark.kernel_ring)]
)


@on_real_files
@on_waiting_abis
def test_writing_a_file_four_blocks_at_a_time(make_bench: MakeBench, profile: str) -> None:
    block, blocks, depth = 4096, 16, 4
    state = {"next": 0, "in flight": 0}

    def write_file(run: Run) -> int:
        for _ in range(state["in flight"]):
            assert run.reap(1) == Cqe(0, block)
        state["in flight"] = 0
        while state["in flight"] < depth and state["next"] < blocks:
            offset = state["next"] * block
            write = sqe(
                Op.WRITE,
                fd=0,
                flags=abi.SQE_FIXED_FILE,
                addr=run.user_data + offset,
                len=block,
                off=offset,
                cq=1,
            )
            assert run.submit(write) == 1
            state["next"] += 1
            state["in flight"] += 1
        return run.wait(depth, 1) if state["in flight"] else run.done()

    bench = make_bench(profile, write_file)
    world = bench.backend.world
    content = bytes(number // block + 1 for number in range(block * blocks))
    world.add_file("out", b"")
    bench.ring.register_files([world.open("out", abi.O_RDWR)])
    buffer = bench.user(content)
    bench.submit(bpf(0, user_data=buffer))
    bench.ring.wait_cqes()
    assert bench.cqes() == [(buffer, 0)]
    assert bench.runner.runs == 5
    assert world.file_data("out") == content


@on_real_files
@on_waiting_abis
@pytest.mark.parametrize("from_program", [False, True])
@pytest.mark.parametrize(("link", "res", "runs"), [(LINK, ECANCELED, 0), (HARDLINK, 0, 1)])
def test_a_short_read_before_a_bpf_request(
    make_bench: MakeBench, profile: str, from_program: bool, link: int, res: int, runs: int
) -> None:
    ran = []

    def after(run: Run) -> int:
        assert run.reap(1) == Cqe(1, 3)  # the read's own CQE is there
        ran.append(run.number)
        return run.done()

    def both(run: Run) -> int:
        assert [run.submit(raw) for raw in pair] == [1, 1]
        return run.done()

    bench = make_bench(profile, after, both)
    world = bench.backend.world
    world.add_file("short", b"abc")
    fd = world.open("short", abi.O_RDONLY)
    read = sqe(Op.READ, fd=fd, addr=bench.user(bytes(10)), len=10, user_data=1, cq=1, flags=link)
    pair = (read, bpf(0, user_data=2, cq=2))
    bench.submit(*([bpf(1)] if from_program else pair))
    bench.ring.wait_cqes(cq=2)
    assert bench.cqes(2) == [(2, res)]
    assert len(ran) == runs


# --- faults -------------------------------------------------------------------------------------


@on_every_backend
@on_waiting_abis
def test_a_trap_leaves_the_ring_usable(make_bench: MakeBench, profile: str) -> None:
    def faulty(run: Run) -> int:
        run.submit(sqe(user_data=1))
        run.submit(sqe(user_data=2, flags=LINK))
        run.emit(1, 3)
        raise Trap(TrapKind.NULL, program="faulty")

    bench = make_bench(profile, faulty, once(lambda run: run.wait(1, 1)))
    bench.submit(bpf(1, user_data=8))
    chain = (bpf(0, user_data=9, flags=LINK), sqe(user_data=10))
    with pytest.raises(Trap):
        bench.submit(*chain)
    bench.ring.wait_cqes(5)
    cqes = bench.cqes()
    assert cqes[:3] == [(2, ECANCELED), (1, 0), (9, ECANCELED)]
    assert sorted(cqes[3:]) == [(8, 0), (10, ECANCELED)]
    assert bench.submit(sqe(user_data=11)) == 1
    assert bench.cqes() == [(11, 0)]


def test_runs_queued_behind_a_trap_are_not_lost(make_bench: MakeBench) -> None:
    def faulty(run: Run) -> int:
        raise Trap(TrapKind.NULL)

    bench = make_bench("v2", faulty, nothing)
    with pytest.raises(Trap):
        bench.submit(bpf(0, user_data=1), bpf(1, user_data=2))
    assert bench.ring.wait_cqes(2) == 2
    assert bench.cqes() == [(1, ECANCELED), (2, 0)]


@pytest.mark.parametrize("chained", [False, True])
def test_an_opcode_the_backend_lacks(make_bench: MakeBench, chained: bool) -> None:
    def program(run: Run) -> int:
        run.submit(sqe(user_data=1))
        flags = LINK if chained else 0
        run.submit(sqe(Op.WRITE, user_data=2, flags=flags))
        return run.done()

    bench = make_bench("v2", program)
    bench.fake.lacks = Op.WRITE
    with pytest.raises(UnsupportedError):
        bench.submit(bpf(0, user_data=9))
    assert bench.cqes() == [(1, 0), (9, ECANCELED)]
    assert bench.submit(sqe(user_data=3)) == 1
    for raw in (sqe(user_data=4), sqe(Op.WRITE)):
        bench.ring.queue(raw)
    with pytest.raises(UnsupportedError):
        bench.ring.submit()
    assert bench.ring.run_until_idle()


# --- events -------------------------------------------------------------------------------------


def test_the_account_of_a_run(make_bench: MakeBench) -> None:
    def pair(run: Run) -> int:
        if run.number == 1:
            run.submit(sqe(user_data=4, cq=1))
            return run.wait(2, 1)
        run.reap(1)
        return run.done()

    bench = make_bench("v2", pair)
    bench.submit(bpf(0, user_data=9))
    linked = sqe(user_data=5, cq=1, flags=HARDLINK)
    bench.submit(linked)
    bench.ring.reap()
    expected: list[Event] = [
        SqeIssued(0, 1, 37, 9, 0, 0, "user", bpf(0, user_data=9)),
        RequestStarted(0, 1),
        RunStarted(0, 1, "pair", 0, 1, 9),
        SqeIssued(0, 2, 0, 4, 1, 0, "pair", sqe(user_data=4, cq=1)),
        RunEnded(0, 1, "pair", 1, 0, 1, 1, 2),
        RequestEnded(0, 2, 0, 0, False),
        CqePosted(0, 1, 4, 0, 0, "posted", "pair", 2),
        Parked(0, 1, "pair", 1, 2),
        SqeIssued(0, 3, 0, 5, 1, HARDLINK, "user", linked, 3),
        RequestEnded(0, 3, 0, 0, False),
        CqePosted(0, 1, 5, 0, 0, "posted", "user", 3),
        Woken(0, 1, "pair", 1, 2),
        RunStarted(0, 1, "pair", 0, 2, 9),
        CqeReaped(0, 1, 4, 0, 0, "pair"),
        RunEnded(0, 1, "pair", 2, 0, 1, None, 0),
        RequestEnded(0, 1, 0, 0, False),
        CqePosted(0, 0, 9, 0, 0, "posted", "user", 1),
        CqeReaped(0, 0, 9, 0, 0, "user"),
    ]
    assert bench.events == expected


def test_every_request_ends_once_and_says_so_before_its_last_cqe(make_bench: MakeBench) -> None:
    """Also those without a CQE, and those that the helper refuses by its result."""

    def bad(run: Run) -> int:
        run.submit(sqe(200, user_data=7))
        run.submit(sqe(user_data=8, flags=abi.SQE_CQE_SKIP_SUCCESS))
        return run.done()

    for profile in ("v1", "v3"):
        bench = make_bench(profile, bad)
        bench.submit(bpf(0, user_data=9))
        issued = [event.request for event in bench.events if isinstance(event, SqeIssued)]
        ended = {e.request: e for e in bench.events if isinstance(e, RequestEnded)}
        assert sorted(ended) == issued == [1, 2, 3], profile
        assert sum(isinstance(event, RequestEnded) for event in bench.events) == 3
        assert [ended[request].quiet for request in issued] == [False, profile == "v1", True]
        for here, event in enumerate(bench.events):
            if isinstance(event, RequestEnded) and not event.quiet:
                after = bench.events[here + 1]
                assert isinstance(after, CqePosted)
                assert (after.request, after.res) == (event.request, event.res)


def test_waits_of_the_host_are_events(make_bench: MakeBench) -> None:
    bench = make_bench("v3", lambda run: run.done())
    timer = bench.timeout(1)
    bench.submit(timer)
    bench.ring.wait_cqes(1)
    assert bench.ring.wait_cqes(1) == 1, "what holds already is no wait"
    with pytest.raises(RingHang):
        bench.ring.wait_cqes(2)
    waits = [e for e in bench.events if isinstance(e, HostWaits | HostWoke)]
    assert waits == [
        HostWaits(0, 0, 1),
        HostWoke(1_000_000, 0, 1, False),
        HostWaits(1_000_000, 0, 2),
    ]

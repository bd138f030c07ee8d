"""Submission by userspace: checks in order, steering, chains, drains; sections 1.1 and 1.6."""

from __future__ import annotations

import errno
import os
import struct

import pytest

from pybpfvm.events import SqeIssued
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.abi import Op
from pybpfvm.uring_backend.bpf import Budgets
from tests.support.ring_bench import MakeBench
from tests.support.ring_programs import BPF, RING_PROFILES, Run, bpf, sqe

LINK, HARDLINK, DRAIN = abi.SQE_IO_LINK, abi.SQE_IO_HARDLINK, abi.SQE_IO_DRAIN
SKIP = abi.SQE_CQE_SKIP_SUCCESS
EINVAL, EFAULT, ECANCELED = -errno.EINVAL, -errno.EFAULT, -errno.ECANCELED
ALL = [name.removeprefix("iouring-") for name in RING_PROFILES]
V2S, V3S = ["v2", "v2-futex"], ["v3base", "v3", "x"]
BAD = sqe(200, user_data=99)


def nothing(run: Run) -> int:
    return run.done()


def bad_wait(run: Run) -> int:
    return run.wait(1, 77)


def second_time(run: Run) -> int:
    return run.wait(1, 1) if isinstance(run.reap(1), int) else run.done()


def one_second(user: int) -> bytes:
    return sqe(Op.TIMEOUT, addr=user, len=1, user_data=50)


def test_every_abi_is_tested() -> None:
    assert ALL == ["v1", "v2", "v2-futex", "v3base", "v3", "x"]


@pytest.mark.parametrize("profile", ALL)
@pytest.mark.parametrize(
    ("raw", "res"),
    [
        pytest.param(sqe(BPF, off=0), 0, id="good"),
        pytest.param(sqe(BPF, off=1 << 32), 0, id="only 32 bits of the index count"),
        pytest.param(sqe(BPF, off=2), EFAULT, id="index beyond the table"),
        pytest.param(sqe(BPF, off=100), EFAULT, id="index 100"),
        pytest.param(sqe(BPF, off=1), EFAULT, id="an empty slot"),
        pytest.param(sqe(BPF, ioprio=1), EINVAL, id="ioprio"),
        pytest.param(sqe(BPF, len=1), EINVAL, id="len"),
        pytest.param(sqe(BPF, op_flags=3), EINVAL, id="op flags"),
        pytest.param(sqe(BPF, addr=1), EINVAL, id="addr"),
        pytest.param(sqe(BPF, addr=1, off=100), EINVAL, id="fields before index"),
        pytest.param(sqe(BPF, fd=77), 0, id="fd is ignored"),
        pytest.param(sqe(BPF, flags=abi.SQE_FIXED_FILE), EINVAL, id="FIXED_FILE"),
        pytest.param(sqe(BPF, flags=abi.SQE_BUFFER_SELECT), -errno.EOPNOTSUPP, id="BUFFER_SELECT"),
        pytest.param(sqe(BPF, flags=abi.SQE_ASYNC), 0, id="ASYNC"),
        pytest.param(sqe(BPF, flags=DRAIN), 0, id="DRAIN"),
        pytest.param(sqe(BPF, flags=LINK), 0, id="a chain of one"),
        pytest.param(sqe(BPF, personality=1), EINVAL, id="personality"),
        pytest.param(sqe(BPF, flags=0x80), EINVAL, id="flag bit 7"),
        pytest.param(sqe(38), EINVAL, id="opcode 38"),
        pytest.param(sqe(255), EINVAL, id="the backend's own opcode"),
        pytest.param(sqe(Op.NOP, flags=abi.SQE_BUFFER_SELECT), -errno.EOPNOTSUPP, id="NOP buffers"),
        pytest.param(sqe(Op.NOP, personality=3), EINVAL, id="NOP personality"),
    ],
)
def test_checks(make_bench: MakeBench, profile: str, raw: bytes, res: int) -> None:
    bench = make_bench(profile, nothing, register=False)
    bench.ring.register_bpf([0, None])
    assert bench.submit(raw) == 1
    assert bench.cqes() == [(0, res)]


@pytest.mark.parametrize("flags", [abi.SETUP_IOPOLL, abi.SETUP_SQPOLL])
def test_polled_rings_refuse_bpf(make_bench: MakeBench, flags: int) -> None:
    bench = make_bench("v2", nothing, flags=flags)
    bench.submit(bpf(0))
    assert bench.cqes() == [(0, EINVAL)]


@pytest.mark.parametrize(
    "backend_name", ["sim", pytest.param("kernel", marks=pytest.mark.kernel_ring)]
)
def test_a_ring_that_polls_refuses_what_is_not_polled(make_bench: MakeBench) -> None:
    bench = make_bench("v2", nothing, flags=abi.SETUP_IOPOLL)
    bench.backend.world.add_file("f", b"content")
    fd = bench.backend.world.open("f", abi.O_RDONLY)
    at = bench.user(bytes(8))
    for refused in (
        bpf(0, user_data=1),
        bench.timeout(1, user_data=1),
        bench.timeout(1, user_data=1, off=1),  # counted by the ring, not by the backend
        sqe(Op.ASYNC_CANCEL, addr=7, user_data=1),  # whose target the ring looks up
        sqe(Op.CLOSE, fd=fd, user_data=1),
    ):
        assert bench.submit(refused) == 1
        assert bench.cqes() == [(1, EINVAL)]
    read = sqe(Op.READ, fd=fd, addr=at, len=8, user_data=2, cq=1)
    assert bench.submit(read, sqe(user_data=3, cq=2)) == 2
    bench.ring.wait_cqes(1, cq=1)
    assert (bench.cqes(1), bench.cqes(2)) == ([(2, -errno.EOPNOTSUPP)], [(3, 0)])


def test_ignored_fields_of_a_bpf_sqe(make_bench: MakeBench) -> None:
    bench = make_bench("v2", nothing)
    raw = bytearray(bpf(0, user_data=5))
    raw[40:42] = raw[44:48] = b"\x07\x07"  # buf_index, file_index (shortens: see below)
    raw = bytearray(bpf(0, user_data=5))
    raw[40:42] = b"\x07\x07"
    raw[44:48] = b"\x07\x07\x07\x07"
    raw[50:64] = b"\x07" * 14
    bench.submit(bytes(raw))
    assert bench.cqes() == [(5, 0)]


def test_cq_idx_steers_every_opcode_and_is_hidden(make_bench: MakeBench) -> None:
    bench = make_bench("v2", nothing)
    user = bench.user(struct.pack("<qq", 0, 1))
    bench.submit(
        sqe(user_data=1, cq=1),
        sqe(Op.TIMEOUT, addr=user, len=1, user_data=2, cq=2),
        bpf(0, user_data=3, cq=2),
        sqe(200, user_data=4, cq=1),
    )
    bench.ring.wait_cqes(2, cq=2)
    assert bench.cqes(0) == []
    assert bench.cqes(1) == [(1, 0), (4, EINVAL)]
    assert bench.cqes(2) == [(3, 0), (2, -errno.ETIME)]
    # FakeBackend asserts that byte 48 on is clear; tokens are the requests' numbers.
    assert [(given.opcode, given.user_data) for given in bench.fake.submitted] == [
        (Op.NOP, 1),
        (Op.TIMEOUT, 2),
        (255, 3),
    ]


@pytest.mark.parametrize("profile", ALL[1:])
def test_bad_cq_idx_fails_on_cq_0(make_bench: MakeBench, profile: str) -> None:
    bench = make_bench(profile, nothing, entries=2, cq_entries=())
    assert bench.submit(sqe(user_data=6, cq=2)) == 1
    assert bench.cqes() == [(6, EINVAL)]
    bench = make_bench(profile, nothing)
    assert bench.submit(sqe(user_data=6, cq=3, flags=0x80)) == 1
    assert bench.cqes() == [(6, EINVAL)]


def test_v1_does_not_look_at_cq_idx(make_bench: MakeBench) -> None:
    bench = make_bench("v1", nothing)
    bench.submit(sqe(user_data=6, cq=3), bpf(0, user_data=7, cq=9))
    assert bench.cqes() == [(6, 0), (7, 0)]


# --- the submit loop ----------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ALL)
@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(BAD, id="found by the ring"),
        pytest.param(sqe(user_data=99, ioprio=7), id="found by the backend"),
    ],
)
def test_a_bad_sqe_ends_the_loop(make_bench: MakeBench, profile: str, bad: bytes) -> None:
    bench = make_bench(profile, nothing)
    for raw in (sqe(user_data=1), bad, sqe(user_data=2), bpf(0, user_data=3)):
        bench.ring.queue(raw)
    assert bench.ring.submit() == 2
    assert bench.cqes() == [(1, 0), (99, EINVAL)]
    assert bench.ring.submit() == 2
    assert bench.cqes() == [(2, 0), (3, 0)]
    issued = [event for event in bench.events if isinstance(event, SqeIssued)]
    assert [(event.request, event.user_data) for event in issued] == [
        (1, 1),
        (2, 99),
        (3, 2),
        (4, 3),
    ]


def test_enter_may_submit_a_part(make_bench: MakeBench) -> None:
    bench = make_bench("v2", nothing)
    for number in range(4):
        bench.ring.queue(sqe(user_data=number))
    bench.ring.sq.publish()
    assert bench.ring.enter(3) == 3
    assert bench.ring.enter(9) == 1
    assert len(bench.cqes()) == 4


def test_too_many_live_requests_stay_in_the_sq(make_bench: MakeBench) -> None:
    bench = make_bench("v2", nothing, budgets=Budgets(live_requests=2))
    polls = [sqe(Op.POLL_ADD, fd=0, user_data=number) for number in range(3)]
    assert bench.submit(*polls) == 2
    bench.fake.fire()
    assert bench.ring.submit() == 1
    assert bench.cqes() == [(0, 1), (1, 1)]


# --- chains -------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["v1", *V2S])
def test_a_bad_sqe_cancels_an_open_chain(make_bench: MakeBench, profile: str) -> None:
    bench = make_bench(profile, nothing)
    chain = (sqe(user_data=1, flags=LINK), bpf(0, user_data=2, flags=HARDLINK), BAD)
    assert bench.submit(sqe(user_data=0), *chain, sqe(user_data=3)) == 4
    assert bench.cqes() == [(0, 0), (1, ECANCELED), (2, ECANCELED), (99, EINVAL)]
    assert bench.runner.runs == 0
    assert bench.ring.submit() == 1


@pytest.mark.parametrize("profile", V3S)
def test_a_bad_sqe_joins_an_open_chain(make_bench: MakeBench, profile: str) -> None:
    bench = make_bench(profile, nothing)
    bad = sqe(200, user_data=99, flags=LINK)
    chain = (sqe(user_data=1, flags=LINK), bad, bpf(0, user_data=2))
    assert bench.submit(sqe(user_data=0), *chain, sqe(user_data=3)) == 5
    assert bench.cqes() == [(0, 0), (1, ECANCELED), (99, EINVAL), (2, ECANCELED), (3, 0)]
    assert bench.runner.runs == 0
    # A bad first member starts a chain, and the end of the submission closes one.
    assert bench.submit(bad, sqe(user_data=4), sqe(user_data=5)) == 3
    assert bench.cqes() == [(99, EINVAL), (4, ECANCELED), (5, 0)]
    assert bench.submit(sqe(user_data=6), bad) == 2
    assert bench.cqes() == [(6, 0), (99, EINVAL)]


@pytest.mark.parametrize("profile", V2S)
def test_a_bad_first_member_ends_the_loop_in_v2(make_bench: MakeBench, profile: str) -> None:
    bench = make_bench(profile, nothing)
    assert bench.submit(sqe(200, user_data=99, flags=LINK), sqe(user_data=4)) == 1
    assert bench.ring.submit() == 1
    assert bench.cqes() == [(99, EINVAL), (4, 0)]


@pytest.mark.parametrize("profile", ALL)
@pytest.mark.parametrize("link", [LINK, HARDLINK])
def test_bpf_in_a_chain(make_bench: MakeBench, profile: str, link: int) -> None:
    bench = make_bench(profile, nothing)
    bench.submit(sqe(user_data=1, flags=link), bpf(0, user_data=2, flags=link), sqe(user_data=3))
    assert bench.cqes() == [(1, 0), (2, 0), (3, 0)]
    assert bench.runner.runs == 1


@pytest.mark.parametrize("profile", ALL[1:])
def test_a_negative_bpf_result_breaks_no_chain(make_bench: MakeBench, profile: str) -> None:
    bench = make_bench(profile, bad_wait)
    bench.submit(bpf(0, user_data=1, flags=LINK), sqe(user_data=2))
    assert bench.cqes() == [(1, EINVAL), (2, 0)]


@pytest.mark.parametrize("profile", ALL)
@pytest.mark.parametrize(("link", "res", "runs"), [(LINK, ECANCELED, 0), (HARDLINK, 0, 1)])
def test_bpf_behind_a_failure(
    make_bench: MakeBench, profile: str, link: int, res: int, runs: int
) -> None:
    bench = make_bench(profile, nothing)
    removal = sqe(Op.TIMEOUT_REMOVE, addr=12345, user_data=1, flags=link)
    bench.submit(removal, bpf(0, user_data=2))
    assert bench.cqes() == [(1, -errno.ENOENT), (2, res)]
    assert bench.runner.runs == runs


@pytest.mark.parametrize("profile", ALL[1:])
def test_a_chain_waits_for_a_parked_member(make_bench: MakeBench, profile: str) -> None:
    bench = make_bench(profile, second_time)
    bench.submit(bpf(0, user_data=1, flags=LINK), sqe(user_data=2))
    assert bench.cqes() == []
    bench.submit(sqe(cq=1))
    assert bench.cqes() == [(1, 0), (2, 0)]


@pytest.mark.parametrize("profile", ALL[1:])
def test_a_drain_waits_for_a_parked_request(make_bench: MakeBench, profile: str) -> None:
    bench = make_bench(profile, second_time, nothing)
    timer = one_second(bench.user(struct.pack("<qq", 1, 0)))
    bench.submit(timer, bpf(0, user_data=1), bpf(1, user_data=2, flags=DRAIN), sqe(user_data=3))
    assert bench.cqes() == []
    bench.ring.wait_cqes(1)
    assert bench.cqes() == [(50, -errno.ETIME)]
    # The NOP itself is held behind the drain: only a program can break this knot.
    bench.submit(sqe(cq=1))
    assert bench.ring.ready(1) == 0


def test_task_work_runs_after_the_whole_submission(make_bench: MakeBench) -> None:
    seen = []

    def look(run: Run) -> int:
        seen.append(run.reap(1))
        return run.done()

    bench = make_bench("v2", look)
    bench.submit(bpf(0), bpf(0), sqe(cq=1, user_data=4))
    assert seen[0] == abi.Cqe(4, 0)
    assert seen[1] == -errno.ENOENT


# --- CQE_SKIP_SUCCESS ---------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["v1", *V2S])
def test_skip_is_an_unknown_flag_before_v3(make_bench: MakeBench, profile: str) -> None:
    bench = make_bench(profile, nothing)
    bench.submit(sqe(user_data=1, flags=SKIP))
    assert bench.cqes() == [(1, EINVAL)]


@pytest.mark.parametrize("profile", V3S)
def test_skip_hides_success_only(make_bench: MakeBench, profile: str) -> None:
    bench = make_bench(profile, nothing, bad_wait)
    user = bench.user(struct.pack("<qq", 0, 1))
    bench.submit(
        sqe(user_data=1, flags=SKIP),
        bpf(0, user_data=2, flags=SKIP),
        bpf(1, user_data=3, flags=SKIP),  # -EINVAL by wait_idx is no failure either
        sqe(Op.TIMEOUT, addr=user, len=1, user_data=4, flags=SKIP),
        sqe(Op.TIMEOUT_REMOVE, addr=77, user_data=5, flags=SKIP),
        bpf(9, user_data=6, flags=SKIP),
    )
    bench.ring.wait_cqes(3)
    assert bench.cqes() == [(5, -errno.ENOENT), (6, EFAULT), (4, -errno.ETIME)]
    assert bench.runner.runs == 2
    assert all(not given.flags & SKIP for given in bench.fake.submitted)


@pytest.mark.parametrize(
    "backend_name", ["sim", pytest.param("kernel", marks=pytest.mark.kernel_ring)]
)
def test_a_short_transfer_is_no_success_to_skip(make_bench: MakeBench) -> None:
    """Also of vectors, and of a receive that waits for everything."""
    bench = make_bench("v3")
    world = bench.ring.backend.world
    world.add_file("five", b"12345")
    fd = world.open("five", os.O_RDONLY)
    at = bench.user(bytes(64))
    more, exact = (bench.user(struct.pack("<QQ", at, size)) for size in (6, 5))
    socket, peer = world.socketpair()
    peer.send(b"abc")
    peer.shutdown()
    bench.submit(
        sqe(Op.READV, fd=fd, addr=more, len=1, user_data=1, flags=SKIP),
        sqe(Op.READV, fd=fd, addr=exact, len=1, user_data=2, flags=SKIP),
        sqe(Op.READ, fd=fd, addr=at, len=6, user_data=3, flags=SKIP),
        sqe(Op.READ, fd=fd, addr=at, len=5, user_data=4, flags=SKIP),
        sqe(Op.RECV, fd=socket, addr=at, len=6, op_flags=0x100, user_data=5, flags=SKIP),
        sqe(Op.RECV, fd=socket, addr=at, len=6, user_data=6, flags=SKIP),
    )
    assert bench.ring.run_until_idle()
    assert sorted(bench.cqes()) == [(1, 5), (3, 5), (5, 3)]


def test_skipping_in_a_chain(make_bench: MakeBench) -> None:
    bench = make_bench("v3", nothing)
    bench.submit(
        sqe(Op.TIMEOUT_REMOVE, addr=77, user_data=5, flags=LINK | SKIP),
        bpf(0, user_data=6, flags=SKIP),
    )
    assert bench.cqes() == [(5, -errno.ENOENT), (6, ECANCELED)]


def test_drains_end_once_a_cqe_was_skipped(make_bench: MakeBench) -> None:
    bench = make_bench("v3", nothing)
    bench.submit(sqe(user_data=1, flags=DRAIN), sqe(user_data=2, flags=SKIP))
    bench.submit(sqe(user_data=3, flags=DRAIN))
    assert bench.cqes() == [(1, 0), (3, -errno.EOPNOTSUPP)]

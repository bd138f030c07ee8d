"""Requests that name others by user_data: host-supervisor.md, section 5, and section 3.6."""

from __future__ import annotations

import errno
import struct

import pytest

from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.abi import Op
from tests.support.ring_bench import Bench, MakeBench, on_every_backend
from tests.support.ring_programs import Run, bpf, sqe

ECANCELED, ENOENT, EINVAL, ETIME = (
    -errno.ECANCELED,
    -errno.ENOENT,
    -errno.EINVAL,
    -errno.ETIME,
)
LINK = abi.SQE_IO_LINK


def cancel(user_data: int, flags: int = 0, *, own: int = 90, **more: int) -> bytes:
    return sqe(Op.ASYNC_CANCEL, addr=user_data, op_flags=flags, user_data=own, **more)


def armed(bench: Bench, *user_data: int) -> None:
    """Long timers, each with its user_data."""
    bench.submit(*[bench.timeout(60_000, user_data=number) for number in user_data])


def parked(run: Run) -> int:
    return run.wait(1, 1)


@on_every_backend
def test_cancel_by_user_data(make_bench: MakeBench) -> None:
    bench = make_bench("v2")
    armed(bench, 5, 6)
    bench.submit(cancel(6))
    assert sorted(bench.cqes()) == [(6, ECANCELED), (90, 0)]
    bench.submit(cancel(6), cancel(2**64 - 1, own=91))
    assert bench.cqes() == [(90, ENOENT), (91, ENOENT)]
    assert bench.backend.in_flight() == 1


@on_every_backend
def test_cancel_finds_the_oldest_match_each_time(make_bench: MakeBench) -> None:
    bench = make_bench("v2", cq_entries=(8, 8, 8))
    for cq in (3, 1, 2):
        timer = sqe(Op.TIMEOUT, addr=bench.timespec(60_000), len=1, user_data=5, cq=cq)
        bench.submit(timer)
    bench.submit(cancel(5), cancel(5, own=91))
    assert [bench.cqes(cq) for cq in (3, 1, 2)] == [[(5, ECANCELED)], [(5, ECANCELED)], []]
    assert bench.cqes() == [(90, 0), (91, 0)]


@on_every_backend
def test_cancel_all(make_bench: MakeBench) -> None:
    bench = make_bench("v2")
    armed(bench, 5, 6, 5, 5)
    bench.submit(cancel(5, abi.ASYNC_CANCEL_ALL))
    assert sorted(bench.cqes()) == [(5, ECANCELED)] * 3 + [(90, 3)]
    bench.submit(cancel(5, abi.ASYNC_CANCEL_ALL))
    assert bench.cqes() == [(90, 0)]
    bench.submit(cancel(0, abi.ASYNC_CANCEL_ANY))
    assert sorted(bench.cqes()) == [(6, ECANCELED), (90, 1)]


@on_every_backend
def test_cancel_by_opcode(make_bench: MakeBench) -> None:
    bench = make_bench("v2")
    armed(bench, 5)
    by_opcode = abi.ASYNC_CANCEL_OP
    bench.submit(
        cancel(0, by_opcode, len=Op.POLL_ADD), cancel(0, by_opcode, own=91, len=Op.TIMEOUT)
    )
    assert sorted(bench.cqes()) == [(5, ECANCELED), (90, ENOENT), (91, 0)]


@on_every_backend
@pytest.mark.parametrize("profile", ["v2", "v3"])
def test_a_parked_request_is_not_found(make_bench: MakeBench, profile: str) -> None:
    bench = make_bench(profile, parked)
    bench.submit(bpf(0, user_data=5))
    bench.submit(cancel(5), cancel(5, abi.ASYNC_CANCEL_ALL, own=91))
    assert bench.cqes() == [(90, ENOENT), (91, 0)]


@on_every_backend
def test_a_cancel_in_a_chain_looks_when_its_turn_comes(make_bench: MakeBench) -> None:
    bench = make_bench("v2")
    short = sqe(Op.TIMEOUT, addr=bench.timespec(5), len=1, user_data=1, flags=abi.SQE_IO_HARDLINK)
    bench.submit(short, cancel(7, flags=0, own=2))
    armed(bench, 7)
    bench.ring.wait_cqes(3)
    assert sorted(bench.cqes()) == [(1, ETIME), (2, 0), (7, ECANCELED)]


@on_every_backend
def test_a_cancel_that_fails_breaks_its_chain(make_bench: MakeBench) -> None:
    bench = make_bench("v2")
    failing = sqe(Op.ASYNC_CANCEL, addr=77, user_data=90, flags=LINK)
    bench.submit(failing, sqe(user_data=2))
    bench.ring.wait_cqes(2)
    assert bench.cqes() == [(90, ENOENT), (2, ECANCELED)]
    armed(bench, 77)
    bench.submit(failing, sqe(user_data=2))
    bench.ring.wait_cqes(3)
    assert sorted(bench.cqes()) == [(2, 0), (77, ECANCELED), (90, 0)]


@on_every_backend
def test_timeout_remove_and_update(make_bench: MakeBench) -> None:
    bench = make_bench("v2")
    armed(bench, 5, 6)
    update = sqe(
        Op.TIMEOUT_REMOVE,
        addr=5,
        off=bench.timespec(1),
        op_flags=abi.TIMEOUT_UPDATE,
        user_data=90,
    )
    bench.submit(update, sqe(Op.TIMEOUT_REMOVE, addr=6, user_data=91))
    bench.ring.wait_cqes(4)
    assert sorted(bench.cqes()) == [(5, ETIME), (6, ECANCELED), (90, 0), (91, 0)]
    bench.submit(sqe(Op.TIMEOUT_REMOVE, addr=6, user_data=91))
    assert bench.cqes() == [(91, ENOENT)]


@on_every_backend
def test_counted_timeouts_can_be_found(make_bench: MakeBench) -> None:
    bench = make_bench("v2")
    for number in (5, 6, 7):
        bench.submit(bench.timeout(60_000, user_data=number, off=100, cq=1))
    update = sqe(
        Op.TIMEOUT_REMOVE,
        addr=5,
        off=bench.timespec(1),
        op_flags=abi.TIMEOUT_UPDATE,
        user_data=90,
    )
    bench.submit(cancel(6, own=91), sqe(Op.TIMEOUT_REMOVE, addr=7, user_data=92), update)
    bench.ring.wait_cqes(3, cq=1)
    assert bench.cqes(1) == [(6, ECANCELED), (7, ECANCELED), (5, ETIME)]
    assert sorted(bench.cqes()) == [(90, 0), (91, 0), (92, 0)]
    assert bench.ring.run_until_idle(timeout_ns=0)


def test_a_counted_timeout_that_waits_in_a_chain_is_not_found(make_bench: MakeBench) -> None:
    bench = make_bench("v2")
    poll = sqe(Op.POLL_ADD, fd=0, user_data=1, flags=LINK)
    timer = bench.timeout(5, user_data=2, off=9)
    bench.submit(poll, timer)
    bench.submit(cancel(2))
    assert bench.cqes() == [(90, ENOENT)]


def test_only_timers_are_removed_by_timeout_remove(make_bench: MakeBench) -> None:
    bench = make_bench("v2")
    bench.submit(sqe(Op.POLL_ADD, fd=0, user_data=5))
    bench.submit(sqe(Op.TIMEOUT_REMOVE, addr=5, user_data=90))
    bench.submit(sqe(Op.POLL_REMOVE, addr=5, user_data=91))
    assert bench.cqes() == [(90, ENOENT), (5, ECANCELED), (91, 0)]


def test_poll_updates(make_bench: MakeBench) -> None:
    bench = make_bench("v2")
    bench.submit(sqe(Op.POLL_ADD, fd=0, user_data=5, len=abi.POLL_ADD_MULTI, cq=1))
    bench.fake.fire()
    rename = sqe(Op.POLL_REMOVE, addr=5, off=6, len=abi.POLL_UPDATE_USER_DATA, user_data=90)
    bench.submit(rename)
    bench.fake.fire()
    both = sqe(
        Op.POLL_REMOVE,
        addr=6,
        off=7,
        len=abi.POLL_UPDATE_USER_DATA | abi.POLL_UPDATE_EVENTS,
        user_data=91,
    )
    bench.submit(both)
    bench.fake.fire()
    bench.submit(rename, sqe(Op.POLL_REMOVE, addr=6, user_data=92), cancel(7, own=93))
    assert bench.cqes() == [(90, 0), (91, 0), (90, ENOENT), (92, ENOENT), (93, 0)]
    assert bench.cqes(1) == [(5, 1), (6, 1), (7, 1), (7, ECANCELED)]


@on_every_backend
def test_programs_cancel_too(make_bench: MakeBench) -> None:
    def program(run: Run) -> int:
        timer = sqe(Op.TIMEOUT, addr=run.user_data, len=1, user_data=5, cq=1)
        assert run.submit(timer) == 1
        assert run.submit(cancel(5)) == 1
        assert run.submit(cancel(6)) == 1
        return run.done()

    bench = make_bench("v2", program)
    bench.submit(bpf(0, user_data=bench.timespec(60_000)))
    bench.ring.wait_cqes(3)
    assert bench.cqes(1) == [(5, ECANCELED)]
    assert bench.cqes()[:2] == [(90, 0), (90, ENOENT)]


def test_tokens_never_reach_the_user(make_bench: MakeBench) -> None:
    """The address in a cancel is a user_data, even when it equals some request's token."""
    bench = make_bench("v2")
    armed(bench, 1000)  # token 1
    bench.submit(cancel(1))
    bench.submit(sqe(Op.TIMEOUT_REMOVE, addr=1, user_data=91))
    assert bench.cqes() == [(90, ENOENT), (91, ENOENT)]


def test_bad_fields_of_a_cancel_are_the_backends_to_refuse(make_bench: MakeBench) -> None:
    bench = make_bench("v2")
    armed(bench, 5)
    raw = bytearray(cancel(5))
    raw[2:4] = struct.pack("<H", 1)  # ioprio
    bench.submit(bytes(raw))
    assert bench.cqes() == [(90, EINVAL)]

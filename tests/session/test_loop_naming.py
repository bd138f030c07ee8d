"""Requests on a ring with a loop that name others by their user_data, on both backends."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from pybpfvm.errors import UnsupportedError
from pybpfvm.session import LoopRing, Machine
from pybpfvm.session.hostring import BackendName
from pybpfvm.uring_backend.abi import (
    ASYNC_CANCEL_ALL,
    ASYNC_CANCEL_OP,
    ASYNC_CANCEL_USERDATA,
    POLL_UPDATE_USER_DATA,
    POLLIN,
    SQE_IO_LINK,
    TIMEOUT_UPDATE,
    Op,
    Sqe,
)
from tests.support.session_ring import SIM_AND_KERNEL, need_backend

ROWS = Path(__file__).resolve().parents[1] / "acceptance" / "loop_rows.bpf.o"
both_backends = pytest.mark.parametrize("backend", SIM_AND_KERNEL)


@contextmanager
def rings(backend: BackendName) -> Iterator[LoopRing]:
    need_backend(backend)
    with Machine() as machine, LoopRing(16, backend=backend, machine=machine) as ring:
        yield ring


def submit(ring: LoopRing, *sqes: Sqe) -> None:
    for sqe in sqes:
        ring.core.queue(sqe.pack())
    assert ring.core.submit() == len(sqes)


def timeout(ring: LoopRing, user_data: int, seconds: int = 1000) -> Sqe:
    spec = ring.user.alloc(struct.pack("<qq", seconds, 0)).addr
    return Sqe(Op.TIMEOUT, addr=spec, len=1, user_data=user_data)


def results(ring: LoopRing, count: int) -> dict[int, list[int]]:
    """Results of the next completions, in order, by user_data."""
    found: dict[int, list[int]] = {}
    for _ in range(count):
        cqe = ring.wait_cqe()
        found.setdefault(cqe.user_data, []).append(cqe.res)
    return found


@both_backends
def test_a_cancel_finds_the_request_of_that_user_data(backend: BackendName) -> None:
    with rings(backend) as ring:
        submit(ring, timeout(ring, 70), timeout(ring, 71))
        submit(ring, Sqe(Op.ASYNC_CANCEL, addr=71, user_data=1))
        assert results(ring, 2) == {1: [0], 71: [-errno.ECANCELED]}
        # The token of the first is 1: nobody has user_data 1 any more.
        submit(ring, Sqe(Op.ASYNC_CANCEL, addr=1, user_data=2))
        assert results(ring, 1) == {2: [-errno.ENOENT]}
        assert ring.core.in_flight() == 1


@both_backends
def test_in_one_batch_and_by_opcode_too(backend: BackendName) -> None:
    with rings(backend) as ring:
        by_both = ASYNC_CANCEL_OP | ASYNC_CANCEL_USERDATA
        submit(
            ring,
            timeout(ring, 70),
            Sqe(Op.ASYNC_CANCEL, addr=70, len=Op.READ, op_flags=by_both, user_data=1),
            Sqe(Op.ASYNC_CANCEL, addr=70, len=Op.TIMEOUT, op_flags=by_both, user_data=2),
        )
        assert results(ring, 3) == {1: [-errno.ENOENT], 2: [0], 70: [-errno.ECANCELED]}


@both_backends
@pytest.mark.parametrize("count", [0, 1, 3])
def test_all_of_one_user_data_are_counted(backend: BackendName, count: int) -> None:
    with rings(backend) as ring:
        submit(ring, timeout(ring, 8), *(timeout(ring, 7) for _ in range(count)))
        submit(ring, Sqe(Op.ASYNC_CANCEL, addr=7, op_flags=ASYNC_CANCEL_ALL, user_data=1))
        expected = {1: [count], 7: [-errno.ECANCELED] * count}
        assert results(ring, 1 + count) == {k: v for k, v in expected.items() if v}
        assert ring.core.in_flight() == 1


@both_backends
def test_timeouts_and_polls_are_found_among_their_kind(backend: BackendName) -> None:
    with rings(backend) as ring:
        event = ring.world.eventfd()
        submit(ring, Sqe(Op.POLL_ADD, fd=event, op_flags=POLLIN, user_data=7), timeout(ring, 7))
        submit(ring, Sqe(Op.TIMEOUT_REMOVE, addr=7, user_data=1))
        assert results(ring, 2) == {1: [0], 7: [-errno.ECANCELED]}
        submit(ring, Sqe(Op.TIMEOUT_REMOVE, addr=7, user_data=2))
        assert results(ring, 1) == {2: [-errno.ENOENT]}
        submit(ring, Sqe(Op.POLL_REMOVE, addr=7, user_data=3))
        assert results(ring, 2) == {3: [0], 7: [-errno.ECANCELED]}
        assert ring.core.in_flight() == 0


@both_backends
def test_one_that_can_not_be_found_yet_is_passed_over(backend: BackendName) -> None:
    """It waits for the one before it in its chain."""
    with rings(backend) as ring:
        first = replace(timeout(ring, 5), flags=SQE_IO_LINK)
        submit(ring, first, Sqe(Op.NOP, user_data=7), timeout(ring, 7))
        submit(ring, Sqe(Op.ASYNC_CANCEL, addr=7, user_data=1))
        assert results(ring, 2) == {1: [0], 7: [-errno.ECANCELED]}
        assert ring.core.in_flight() == 2


@both_backends
def test_a_timeout_is_moved(backend: BackendName) -> None:
    with rings(backend) as ring:
        submit(ring, timeout(ring, 7))
        soon = ring.user.alloc(struct.pack("<qq", 0, 1_000_000)).addr
        update = Sqe(Op.TIMEOUT_REMOVE, addr=7, off=soon, op_flags=TIMEOUT_UPDATE, user_data=1)
        submit(ring, update)
        assert results(ring, 2) == {1: [0], 7: [-errno.ETIME]}


@both_backends
def test_a_poll_gets_another_name(backend: BackendName) -> None:
    with rings(backend) as ring:
        event = ring.world.eventfd()
        submit(ring, Sqe(Op.POLL_ADD, fd=event, op_flags=POLLIN, user_data=7))
        rename = Sqe(Op.POLL_REMOVE, addr=7, off=9, len=POLL_UPDATE_USER_DATA, user_data=1)
        submit(ring, rename)
        assert results(ring, 1) == {1: [0]}
        submit(ring, rename)
        assert results(ring, 1) == {1: [-errno.ENOENT]}
        ring.world.signal(event)
        assert results(ring, 1) == {9: [POLLIN]}


@both_backends
def test_a_program_cancels(backend: BackendName) -> None:
    need_backend(backend)
    with Machine() as machine:
        obj = machine.load(ROWS, abi="loop-7.2")
        with LoopRing(8, backend=backend, machine=machine) as ring:
            submit(ring, timeout(ring, 70))
            ring.core.queue(Sqe(Op.ASYNC_CANCEL, addr=70, user_data=1).pack())
            obj.globals["nr"] = 1
            with ring.attach(obj, "submit"):
                assert ring.core.submit() == 0
            assert obj.globals["submitted"] == 1
            assert results(ring, 2) == {1: [0], 70: [-errno.ECANCELED]}


def test_trying_several_in_a_chain_is_not_supported() -> None:
    with rings("sim") as ring:
        submit(ring, timeout(ring, 7), timeout(ring, 7))
        ring.core.queue(Sqe(Op.ASYNC_CANCEL, flags=SQE_IO_LINK, addr=7, user_data=1).pack())
        with pytest.raises(UnsupportedError, match="names several by one user_data, linked"):
            ring.core.submit()
        assert ring.core.in_flight() == 2

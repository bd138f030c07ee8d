"""Rings and the objects around them: eventfds that count CQEs, messages, fields after cq_idx."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from pybpfvm.errors import InputError, RingError
from pybpfvm.memory import AddressSpace, RegionKind
from pybpfvm.profiles import PROFILES
from pybpfvm.uring_backend.abi import (
    FUTEX2_PRIVATE,
    FUTEX2_SIZE_U32,
    Cqe,
    Op,
    Sqe,
)
from pybpfvm.uring_backend.ring import Ring
from tests.support.ring_bench import make_backend
from tests.support.ring_programs import PythonRunner


@pytest.fixture(params=["sim", pytest.param("kernel", marks=pytest.mark.kernel_ring)])
def rings(request: pytest.FixtureRequest) -> Iterator[tuple[Ring, Ring]]:
    """Two rings over one memory."""
    with AddressSpace() as memory:
        made = [
            Ring(
                PROFILES["iouring-v3"],
                memory,
                make_backend(request.param, memory),
                8,
                (8,),
                runner=PythonRunner(memory),
                later_opcodes=True,
            )
            for _ in range(2)
        ]
        yield made[0], made[1]
        for ring in made:
            ring.close()


def cqe(ring: Ring) -> Cqe:
    ring.wait_cqes(1, 10**9)
    found = ring.reap()
    assert found is not None
    return found


def test_an_eventfd_counts_the_cqes_of_a_ring(rings: tuple[Ring, Ring]) -> None:
    ring, other = rings
    fd = ring.backend.world.eventfd()
    ring.register_eventfd(fd)
    with pytest.raises(RingError, match="EBUSY"):
        ring.register_eventfd(fd)
    for _ in range(3):
        ring.queue(Sqe(Op.NOP).pack())
    ring.submit(3)
    ring.unregister_eventfd()
    with pytest.raises(RingError, match="ENXIO"):
        ring.unregister_eventfd()
    buffer = ring.memory.alloc(8, RegionKind.USER, "count")
    ring.queue(Sqe(Op.READ, fd=fd, addr=buffer.start, len=8, user_data=9).pack())
    ring.submit(4)
    assert [ring.reap() for _ in range(3)] == [Cqe(0, 0)] * 3
    assert cqe(ring) == Cqe(9, 8)
    assert ring.memory.user_read(buffer.start, 8) == (3).to_bytes(8, "little")
    with pytest.raises(InputError):
        other.register_eventfd(other.backend.world.pipe()[0])


def test_rings_send_messages_to_one_another(rings: tuple[Ring, Ring]) -> None:
    ring, other = rings
    fd = ring.backend.ring_fd(other.backend)
    ring.queue(Sqe(Op.MSG_RING, fd=fd, off=1, len=7, user_data=2).pack())
    ring.submit(1)
    assert cqe(ring) == Cqe(2, 0)
    assert cqe(other) == Cqe(1, 7)
    assert other.reap() is None


def test_a_futex_mask_lies_above_cq_idx(rings: tuple[Ring, Ring]) -> None:
    """And rings over one memory wake one another."""
    ring, other = rings
    word = ring.memory.alloc(4, RegionKind.USER, "word").start
    flags = FUTEX2_PRIVATE | FUTEX2_SIZE_U32
    ring.queue(Sqe(Op.FUTEX_WAIT, fd=flags, addr=word, addr3=1, user_data=1).pack())
    ring.submit()
    assert ring.reap(1) is not None, "the 1 is a CQ: the mask is 0, and the result an error there"
    ring.queue(Sqe(Op.FUTEX_WAIT, fd=flags, addr=word, addr3=0xFFFF_0000, user_data=1).pack())
    ring.submit()
    assert ring.reap() is None
    other.queue(
        Sqe(Op.FUTEX_WAKE, fd=flags, addr=word, off=1, addr3=0xFFFF_0000, user_data=2).pack()
    )
    other.submit(1)
    assert cqe(other) == Cqe(2, 1)
    assert cqe(ring) == Cqe(1, 0)


def test_cancelling_a_waiter_is_told(rings: tuple[Ring, Ring]) -> None:
    ring, _ = rings
    word = ring.memory.alloc(4, RegionKind.USER, "word").start
    flags = FUTEX2_PRIVATE | FUTEX2_SIZE_U32
    ring.queue(Sqe(Op.FUTEX_WAIT, fd=flags, addr=word, addr3=0xFFFF_0000, user_data=1).pack())
    ring.queue(Sqe(Op.ASYNC_CANCEL, addr=1, user_data=2).pack())
    ring.submit(2)
    found = {entry.user_data: entry.res for entry in (cqe(ring), cqe(ring))}
    assert found == {1: -errno.ECANCELED, 2: 1}

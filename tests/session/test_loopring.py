"""A program drives a ring from inside io_uring_enter, on both backends and by every engine."""

from __future__ import annotations

import errno
import struct
from pathlib import Path

import pytest

from pybpfvm.btf.types import Btf, BtfKind, Int, Struct
from pybpfvm.errors import InputError, RingError
from pybpfvm.profiles import profile_named
from pybpfvm.profiles.loop_upstream import kernel_btf_of
from pybpfvm.session import LoopRing, Machine
from pybpfvm.session.hostring import BackendName
from pybpfvm.session.loopring import LOOP_FLAGS
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.abi import Cqe, Sqe
from pybpfvm.uring_backend.loop.budgets import LoopBudgets
from pybpfvm.verifier.verdict import Accepted
from tests.support.session_ring import SIM_AND_KERNEL, need_backend

NOPS = Path(__file__).resolve().parents[2] / "examples" / "loop_nops" / "prog.bpf.o"
SIZES = {"sq_entries": 8, "cq_entries": 8}


@pytest.mark.parametrize("engine", ["interp", "auto"])
@pytest.mark.parametrize("backend", SIM_AND_KERNEL)
def test_a_thousand_nops(backend: BackendName, engine: str) -> None:
    need_backend(backend)
    with Machine() as machine:
        obj = machine.load(NOPS, abi="loop-7.2", constants=SIZES)
        with LoopRing(8, cq_entries=8, backend=backend, engine=engine, machine=machine) as ring:
            obj.globals["to_run"] = 1000
            with ring.attach(obj):
                assert ring.enter(5, 3) == 0  # what else enter is given is ignored
            assert (obj.globals["to_run"], obj.globals["in_flight"]) == (0, 0)
            assert obj.globals["strangers"] == 0
            # Eight at once, visible at once: the first step submits, the last reaps.
            assert (ring.core.steps, obj.globals["steps"]) == (126, 126)
            words = ring.core.queues.words
            assert (words["cq_head"], words["cq_tail"]) == (1000, 1000)
            assert (words["sq_head"], words["sq_tail"]) == (0, 0)
            assert ring.enter() == 0  # an ordinary ring again
            assert ring.core.steps == 126


@pytest.mark.parametrize("backend", SIM_AND_KERNEL)
def test_submitting_wakes_the_thread_of_a_ring(backend: BackendName) -> None:
    need_backend(backend)
    with LoopRing(8, backend=backend, flags=abi.SETUP_SQPOLL) as ring:
        for number in range(3):
            ring.get_sqe().prep_nop(user_data=number)
        assert ring.submit() == 3  # it has never been awake
        assert [ring.wait_cqe(10**9).user_data for _ in range(3)] == [0, 1, 2]
        assert not ring.core.queues.words["sq_flags"] & abi.SQ_NEED_WAKEUP
        ring.core.rest(1_100_000_000)  # it falls asleep after a second
        ring.get_sqe().prep_nop(user_data=3)
        assert ring.submit() == 1
        assert ring.wait_cqe(10**9).user_data == 3


@pytest.mark.parametrize("backend", SIM_AND_KERNEL)
def test_requests_without_a_cqe_end_all_the_same(backend: BackendName) -> None:
    need_backend(backend)
    with LoopRing(8, backend=backend, budgets=LoopBudgets(live_requests=4)) as ring:
        silent, _ = ring.world.socketpair()
        buffer = ring.user.alloc(8).addr
        skip = abi.SQE_CQE_SKIP_SUCCESS
        waits = Sqe(abi.Op.RECV, flags=skip, fd=silent, addr=buffer, len=1, user_data=3)
        ring.core.queue(waits.pack())
        for number in range(20):
            ring.core.queue(Sqe(abi.Op.NOP, flags=skip, user_data=1).pack())
            bad = Sqe(abi.Op.READ, flags=skip, fd=-1, user_data=2)
            ring.core.queue(bad.pack())
            assert ring.core.submit() == 2 + (number == 0)
            assert [(cqe.user_data, cqe.res) for cqe in ring.reap()] == [(2, -errno.EBADF)]
            assert ring.core.in_flight() == ring.backend.in_flight() == 1  # the RECV


@pytest.mark.parametrize("backend", SIM_AND_KERNEL)
def test_messages_come_from_other_rings_and_from_this_one(backend: BackendName) -> None:
    """As task work: with DEFER_TASKRUN an enter shows them."""
    need_backend(backend)
    with (
        Machine() as machine,
        LoopRing(backend=backend, machine=machine) as ring,
        LoopRing(backend=backend, machine=machine, cq_entries=8) as other,
    ):
        for to in (other, ring):
            sqe = Sqe(abi.Op.MSG_RING, fd=ring.ring_fd(to), off=7, len=5, user_data=1)
            ring.core.queue(sqe.pack())
            assert ring.submit() == 1
            assert [ring.wait_cqe(10**9), to.wait_cqe(10**9)] == [Cqe(1, 0), Cqe(7, 5)]
        assert (ring.counts.posted[0], other.counts.posted[0]) == (3, 1)
    with pytest.raises(RingError, match="closed"):
        ring.ring_fd(other)


@pytest.mark.parametrize("backend", SIM_AND_KERNEL)
def test_entries_of_twice_the_size(backend: BackendName) -> None:
    """Regions, strides and the second half of CQEs, through the CQ's end and a backlog."""
    need_backend(backend)
    flags = LOOP_FLAGS & ~abi.SETUP_SQ_REWIND | abi.SETUP_SQE128 | abi.SETUP_CQE32
    with Machine() as machine, LoopRing(8, backend=backend, flags=flags, machine=machine) as ring:
        core, memory = ring.core, machine.memory
        sq, cq = core.region_addr(2, 8 * 128), core.region_addr(1, 64 + 16 * 32)
        assert sq
        assert cq
        told: list[Cqe] = []
        for number in range(30):
            words = {"off": number, "addr": number + 1, "op_flags": abi.NOP_CQE32}
            core.queue(Sqe(abi.Op.NOP, user_data=number, **words).pack())
            assert memory.read(sq + number % 8 * 128 + 32, 8) == number.to_bytes(8, "little")
            assert core.submit() == 1
            if number >= 20:  # 16 are in the CQ, the others wait
                found = memory.read(cq + 64 + (number - 20) * 32, 32)
                assert found == struct.pack("<QiIQQ", number - 20, 0, 0, number - 20, number - 19)
                told += [cqe for cqe in [ring.reap_one()] if cqe]
                ring.enter(0, 0, abi.ENTER_GETEVENTS)
        told += ring.reap() + ring.reap()
        ring.enter(0, 0, abi.ENTER_GETEVENTS)
        told += ring.reap()
        assert told == [Cqe(number, 0, 0, (number, number + 1)) for number in range(30)]


@pytest.mark.parametrize("backend", SIM_AND_KERNEL)
def test_an_opcode_that_no_kernel_has(backend: BackendName) -> None:
    need_backend(backend)
    with LoopRing(8, backend=backend) as ring:
        for opcode in (254, 255):
            ring.core.queue(Sqe(opcode, user_data=opcode).pack())
            assert ring.core.submit() == 1
        assert [(cqe.user_data, cqe.res) for cqe in ring.reap()] == [
            (254, -errno.EINVAL),
            (255, -errno.EINVAL),
        ]


def test_in_71_the_rings_struct_can_be_read() -> None:
    """Numbers only: what its pointers lead to is not there, nor are they."""
    for name in ("loop-7.1", "loop-2025-06", "loop-2025-11"):
        profile = profile_named(name)
        btf, rules = kernel_btf_of(profile), profile.loop
        assert btf is not None
        assert rules is not None
        found = btf.find(rules.ctx, BtfKind.STRUCT)
        assert found is not None
        struct = btf.type(found)
        assert isinstance(struct, Struct)
        assert struct.size == rules.ctx_bytes
        assert struct.members
        for member in struct.members:
            assert isinstance(btf.type(btf.resolve(member.type_id)), Int)
    with Machine() as machine:
        obj = machine.load(NOPS, abi="loop-7.1", constants=SIZES)
        with LoopRing(8, cq_entries=8, abi="loop-7.1", machine=machine) as ring:
            assert machine.memory.load(ring.core.handle + 116, 4) == 8
            assert machine.memory.load(ring.core.handle + 532, 4) == 8
            obj.globals["to_run"] = 20
            with ring.attach(obj):
                assert ring.enter() == 0
            assert obj.globals["to_run"] == 0


def test_object_and_ring_are_of_one_dialect() -> None:
    with Machine() as machine:
        obj = machine.load(NOPS, abi="loop-7.1", constants=SIZES)
        with (
            LoopRing(8, abi="loop-7.2", machine=machine) as ring,
            pytest.raises(InputError, match="is loaded as loop"),
        ):
            ring.attach(obj)


def test_an_object_for_a_kernel_of_ones_own_does_not_run_here() -> None:
    """Its kernel functions have other numbers there, by which the verdict goes."""
    ours = kernel_btf_of(profile_named("loop-7.2"))
    assert ours is not None
    submit, region = (
        ours.find(f"bpf_io_uring_{name}", BtfKind.FUNC) for name in ("submit_sqes", "get_region")
    )
    assert submit is not None
    assert region is not None
    swapped = {submit: region, region: submit}
    theirs = Btf.of([ours.type(swapped.get(id_, id_)) for id_, _ in ours if id_])
    with Machine() as machine:
        obj = machine.load(NOPS, abi="loop-7.2", constants=SIZES, btf=theirs)
        assert isinstance(obj["keep_busy"].verdict(), Accepted)
        with (
            LoopRing(8, cq_entries=8, machine=machine) as ring,
            pytest.raises(InputError, match="loaded for a kernel of your own"),
        ):
            ring.attach(obj)


def test_outside_a_ring_it_is_said_where_it_runs() -> None:
    with Machine() as machine:
        with pytest.raises(InputError, match="the ABI is ambiguous"):
            machine.load(NOPS)["keep_busy"].run()
        with pytest.raises(InputError, match="outside there is none") as caught:
            machine.load(NOPS, abi="loop-7.2")["keep_busy"].run()
        assert "LoopRing" in caught.value.remedy


def test_what_a_ring_holds_is_bounded() -> None:
    budgets = LoopBudgets(backlog_entries=3, live_requests=2)
    with Machine() as machine, LoopRing(4, cq_entries=4, machine=machine, budgets=budgets) as ring:
        for _ in range(4):
            for _ in range(2):
                ring.get_sqe().prep_nop()
            assert ring.submit() == 2
        assert (len(ring.reap()), ring.core.queues.words["cq_overflow"]) == (4, 1)
        for _ in range(3):
            ring.get_sqe().prep_timeout(_second(ring), 0)
        assert ring.submit() == 2  # no more can be alive
        ring.get_sqe().prep_nop()
        assert ring.core.submit_sqes(1) == -errno.EAGAIN


def _second(ring: LoopRing) -> int:
    return ring.user.alloc(struct.pack("<qq", 1, 0)).addr

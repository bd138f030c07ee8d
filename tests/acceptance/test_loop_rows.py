"""The merged upstream ABI, row by row, on programs that are run: abi/iouring-bpf-upstream, 5.9."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pybpfvm.errors import LoadRejected, RingError, UnsupportedError
from pybpfvm.session import LoadedObject, LoopRing, Machine, timespec
from pybpfvm.session.hostring import BackendName
from pybpfvm.session.loopring import LOOP_FLAGS
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.loop.attach import OpsValue
from tests.support.session_ring import SIM_AND_KERNEL, need_backend

ROWS = Path(__file__).with_name("loop_rows.bpf.o")
TAIL_FLAGS = abi.SETUP_SINGLE_ISSUER | abi.SETUP_DEFER_TASKRUN
MS = 1_000_000
both_backends = pytest.mark.parametrize("backend", SIM_AND_KERNEL)


@contextmanager
def desk(
    entries: int = 8,
    cq_entries: int = 16,
    flags: int = LOOP_FLAGS,
    backend: BackendName = "sim",
    **constants: int,
) -> Iterator[tuple[LoopRing, LoadedObject]]:
    need_backend(backend)
    sizes = {"sq_entries": entries, "cq_entries": cq_entries, **constants}
    with Machine() as machine:
        obj = machine.load(ROWS, abi="loop-7.2", constants=sizes)
        with LoopRing(
            entries, cq_entries=cq_entries, flags=flags, backend=backend, machine=machine
        ) as ring:
            yield ring, obj


def refused(number: int) -> pytest.RaisesExc[RingError]:
    return pytest.RaisesExc(RingError, check=lambda error: error.errno == number)


# --- registration: 1.4, 1.5 -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "number"),
    [
        (0, errno.EOPNOTSUPP),
        (abi.SETUP_SINGLE_ISSUER, errno.EOPNOTSUPP),
        (abi.SETUP_IOPOLL, errno.EOPNOTSUPP),
        (abi.SETUP_IOPOLL | TAIL_FLAGS, errno.EOPNOTSUPP),
        (abi.SETUP_SQPOLL, errno.EOPNOTSUPP),
    ],
)
@both_backends
def test_rings_that_take_no_callbacks(backend: BackendName, flags: int, number: int) -> None:
    with desk(flags=flags, backend=backend) as (ring, obj), refused(number):
        ring.attach(obj, "stop")


@both_backends
def test_descriptors_that_are_no_ring(backend: BackendName) -> None:
    with desk(backend=backend) as (ring, obj):
        with refused(errno.EBADF):
            ring.attach(obj, "stop", ring_fd=999)
        with refused(errno.EOPNOTSUPP):
            ring.attach(obj, "stop", ring_fd=ring.machine.rings.add(None))
        with refused(errno.EINVAL):
            ring.attach(obj, "empty")
        ring.attach(obj, "stop")
        with refused(errno.EBUSY):
            ring.attach(obj, "submit")


def test_a_value_is_on_one_ring_at_a_time() -> None:
    with desk() as (ring, _), LoopRing(8, machine=ring.machine) as other:
        value = OpsValue(_Never(), ring.fd)
        ring.machine.rings.attach(value)
        value.ring_fd = other.fd
        with refused(errno.EBUSY):
            ring.machine.rings.attach(value)
        assert other.core.attached is None
        with refused(errno.EINVAL):
            ring.machine.rings.attach(OpsValue(_Never(), other.fd, priv=1))


def test_the_kernels_own_member_is_zero() -> None:
    """`priv`: whatever byte of it is set. A member that no kernel has is another error."""
    with Machine() as machine:
        obj = machine.load(ROWS.with_name("loop_members.bpf.o"), abi="loop-7.2")
        with LoopRing(machine=machine) as ring:
            for name in ("own", "highest"):
                with refused(errno.EINVAL):
                    ring.attach(obj, name)
            with pytest.raises(LoadRejected, match=r"unknown\.later is set") as rejected:
                ring.attach(obj, "unknown")
            assert rejected.value.errno == errno.ENOTSUP
            ring.attach(obj, "plain")
            assert ring.enter() == 0


@both_backends
def test_a_ring_that_is_closed_has_no_descriptor(backend: BackendName) -> None:
    with desk(backend=backend) as (ring, obj):
        with LoopRing(machine=ring.machine, backend=backend) as other:
            fd = other.fd
        with refused(errno.EBADF):
            ring.attach(obj, "stop", ring_fd=fd)


@contextmanager
def two_rings(
    version: str, backend: BackendName = "sim"
) -> Iterator[tuple[LoopRing, LoopRing, LoadedObject]]:
    need_backend(backend)
    with Machine() as machine:
        obj = machine.load(ROWS, abi=version, constants={"sq_entries": 8, "cq_entries": 16})
        with (
            LoopRing(abi=version, machine=machine, backend=backend) as first,
            LoopRing(abi=version, machine=machine, backend=backend) as second,
        ):
            yield first, second, obj


@pytest.mark.parametrize("version", ["loop-7.1", "loop-7.2"])
@both_backends
def test_one_map_gets_onto_no_second_ring(backend: BackendName, version: str) -> None:
    """From 7.1.5 on. Another map of the same object does, and so does this one afterwards."""
    with two_rings(version, backend) as (first, second, obj):
        link = first.attach(obj, "stop")
        with refused(errno.EBUSY):
            second.attach(obj, "stop")
        second.attach(obj, "answer_ops").destroy()
        link.destroy()
        second.attach(obj, "stop")
        assert (first.enter(), obj.globals["steps"]) == (0, 0)
        assert (second.enter(), obj.globals["steps"]) == (0, 1)


def test_one_map_on_two_rings() -> None:
    """7.1.0 to 7.1.4: accepted. The map forgets the first ring, which goes on to call it."""
    with two_rings("loop-7.1.0") as (first, second, obj):
        links = [ring.attach(obj, "stop") for ring in (first, second)]
        assert (first.enter(), second.enter(), obj.globals["steps"]) == (0, 0, 2)
        links[0].destroy()  # takes the map off the ring that it was put on last
        assert (second.enter(), obj.globals["steps"]) == (0, 2)
        assert (first.enter(), obj.globals["steps"]) == (0, 3)
        links[1].destroy()  # the map is freed, and the first ring does not know
        with pytest.raises(UnsupportedError, match="callbacks that were freed"):
            first.enter()
        with refused(errno.EBUSY):
            first.attach(obj, "answer_ops")
        assert obj.globals["steps"] == 3


class _Never:
    def step(self) -> int:
        raise AssertionError("no step was to run")

    def call(self, *args: int) -> int:
        raise AssertionError("nothing was to be called")


@both_backends
def test_removal_and_another_program(backend: BackendName) -> None:
    with desk(backend=backend) as (ring, obj):
        link = ring.attach(obj, "stop")
        assert (ring.enter(), obj.globals["steps"]) == (0, 1)
        link.destroy()
        assert (ring.enter(), obj.globals["steps"]) == (0, 1)
        ring.attach(obj, "stop")
        assert (ring.enter(), obj.globals["steps"]) == (0, 2)


# --- entering: 2.1 ------------------------------------------------------------------------------


@both_backends
def test_enter_is_refused_before_the_program_is_called(backend: BackendName) -> None:
    with desk(flags=LOOP_FLAGS | abi.SETUP_R_DISABLED, backend=backend) as (ring, obj):
        ring.attach(obj, "stop")
        with refused(errno.EBADFD):
            ring.enter()
        with refused(errno.EINVAL):
            ring.enter(flags=1 << 30)
        ring.enable()
        with refused(errno.EBADFD):
            ring.enable()
        with refused(errno.EINVAL):
            ring.enter(flags=1 << 30)
        caught: list[int | None] = []

        def elsewhere() -> None:
            try:
                ring.enter()
            except RingError as error:
                caught.append(error.errno)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert (caught, obj.globals["steps"]) == ([errno.EEXIST], 0)
        assert ring.enter(5, 3) == 0
        assert obj.globals["steps"] == 1


# --- the loop: 2.2, 2.3 -------------------------------------------------------------------------


@both_backends
@pytest.mark.parametrize("answer", [2, -1])
def test_any_other_answer_ends_the_enter_and_not_the_program(
    backend: BackendName, answer: int
) -> None:
    with desk(backend=backend) as (ring, obj), ring.attach(obj, "answer_ops"):
        obj.globals["answer"] = answer
        for calls in (1, 2):
            with refused(errno.EINVAL):
                ring.enter()
            assert obj.globals["steps"] == calls
        obj.globals["answer"] = 1
        assert ring.enter() == 0


@both_backends
def test_parameters_last_one_enter(backend: BackendName) -> None:
    with desk(backend=backend) as (ring, obj), ring.attach(obj, "remember"):
        assert ring.enter() == 0
        assert obj.globals["seen"] == [0, 0x90000000, 0, 0]
        assert ring.enter() == 0
        assert obj.globals["seen"] == [0, 0x90000000, 0, 0]


def waiting(ring: LoopRing, obj: LoadedObject, index: int, timeout_ns: int = 0) -> None:
    """A program that waits for `index` once, over a timeout of the host's."""
    obj.globals["wait_idx"], obj.globals["wait_steps"] = index, 1
    if timeout_ns:
        at = ring.user.alloc(timespec(timeout_ns))
        ring.get_sqe().prep_timeout(at.addr, user_data=7)
        obj.globals["nr"] = 1
    ring.attach(obj, "wait")


@both_backends
def test_a_signal_ends_a_wait(backend: BackendName) -> None:
    with desk(backend=backend) as (ring, obj):
        waiting(ring, obj, 1000)
        ring.core.at(5 * MS, ring.core.signal)
        with refused(errno.EINTR):
            ring.enter()
        assert ring.core.now_ns() >= 5 * MS
        assert obj.globals["steps"] == 1


@both_backends
def test_detaching_does_not_wake(backend: BackendName) -> None:
    with desk(backend=backend) as (ring, obj):
        waiting(ring, obj, 1, 20 * MS)
        link = ring._links[-1]
        ring.core.at(5 * MS, link.destroy)
        with refused(errno.EFAULT):
            ring.submit()
        assert ring.core.now_ns() >= 20 * MS
        assert backend == "kernel" or ring.core.now_ns() == 20 * MS
        assert obj.globals["steps"] == 1


@both_backends
def test_overflow_keeps_every_completion(backend: BackendName) -> None:
    with desk(32, 128, backend=backend) as (ring, obj), ring.attach(obj, "overflow"):
        obj.globals["to_run"] = 256
        assert ring.enter() == 0
        words = ring.core.queues.words
        assert (words["cq_head"], words["cq_tail"], words["cq_overflow"]) == (256, 256, 0)
        assert obj.globals["last_flags"] == abi.SQ_CQ_OVERFLOW
        assert (words["sq_flags"], obj.globals["steps"]) == (0, 259)


def test_a_pass_has_an_end() -> None:
    """What completed outside is task work: 20 items of it between two steps."""
    with desk(64, 128) as (ring, obj):
        at = ring.user.alloc(timespec(MS))
        for index in range(50):
            ring.get_sqe().prep_timeout(at.addr, user_data=index)
        assert ring.submit() == 50
        assert ring.run_until_idle()
        obj.globals["to_run"] = 50
        with ring.attach(obj, "look"):
            assert ring.enter() == 0
        assert obj.globals["tails"] == [0, 20, 40, 50, 0, 0, 0, 0]


@both_backends
def test_members_of_a_chain_are_there_at_once(backend: BackendName) -> None:
    """Here: a kernel has them as task work, behind the step (docs/abi-upstream.md)."""
    with desk(backend=backend) as (ring, obj), ring.attach(obj, "submit"):
        for index, flags in enumerate((abi.SQE_IO_LINK, abi.SQE_IO_LINK, 0)):
            ring.get_sqe().prep_nop(user_data=index, flags=flags)
        obj.globals["nr"] = 3
        assert ring.submit() == 0
        assert (obj.globals["submitted"], obj.globals["tail_after"]) == (3, 3)


def test_after_stop_nothing_is_flushed() -> None:
    """2.2: what waits for room goes on waiting, until an enter flushes."""
    with desk(8, 8) as (ring, obj), ring.attach(obj, "submit"):
        obj.globals["nr"] = 8
        assert (ring.enter(), ring.enter()) == (0, 0)
        words = ring.core.queues.words
        assert (words["cq_tail"], words["sq_flags"]) == (8, abi.SQ_CQ_OVERFLOW)
        assert len(ring.reap()) == 8
        obj.globals["nr"] = 0
        assert (ring.enter(), ring.peek_cqe()) == (0, None)
        ring._links[-1].destroy()
        assert ring.enter(flags=abi.ENTER_GETEVENTS) == 0
        assert len(ring.reap()) == 8
        assert ring.core.queues.words["sq_flags"] == 0


def test_a_signal_comes_before_deferred_work() -> None:
    """2.2, 8 and 9: also where the program waits for nothing, and is called again by the next."""
    with desk() as (ring, obj):
        at = ring.user.alloc(timespec(MS))
        ring.get_sqe().prep_timeout(at.addr, user_data=7)
        assert ring.submit() == 1
        assert ring.run_until_idle()
        with ring.attach(obj, "look"):
            obj.globals["to_run"] = 1
            ring.core.signal()
            with refused(errno.EINTR):
                ring.enter()
            assert (obj.globals["steps"], ring.core.queues.words["cq_tail"]) == (1, 0)
            assert ring.enter() == 0
            assert obj.globals["tails"] == [0, 0, 1, 0, 0, 0, 0, 0]


@both_backends
def test_a_link_outlives_its_ring(backend: BackendName) -> None:
    """1.5: destroyed afterwards it does nothing, and the map is free for another ring."""
    with desk(backend=backend) as (ring, obj):
        with LoopRing(8, machine=ring.machine, backend=backend) as other:
            link = other.attach(obj, "stop")
            other.core.close()
        link.destroy()
        with ring.attach(obj, "stop"):
            assert (ring.enter(), obj.globals["steps"]) == (0, 1)


# --- submitting: 3.1 ----------------------------------------------------------------------------


@both_backends
@pytest.mark.parametrize(("nr", "taken"), [(0, 0), (3, 3), (9, 8), (0xFFFFFFFF, 8)])
def test_no_more_than_there_is(backend: BackendName, nr: int, taken: int) -> None:
    with desk(backend=backend) as (ring, obj), ring.attach(obj, "submit"):
        obj.globals["nr"] = nr
        assert ring.enter() == 0
        assert (obj.globals["submitted"], obj.globals["tail_after"]) == (taken, taken)


@both_backends
@pytest.mark.parametrize("array", [0, abi.SETUP_NO_SQARRAY])
def test_the_tail_says_how_many(backend: BackendName, array: int) -> None:
    with desk(flags=TAIL_FLAGS | array, backend=backend) as (ring, obj):
        with ring.attach(obj, "submit"):
            for _ in range(3):
                ring.get_sqe().prep_nop()
            obj.globals["nr"] = 5
            assert ring.submit() == 0
            assert obj.globals["submitted"] == 3
        with ring.attach(obj, "tail"):
            obj.globals["to_run"], obj.globals["steps"] = 1000, 0
            assert ring.enter() == 0
        words = ring.core.queues.words
        assert (words["sq_head"], words["sq_tail"]) == (1003, 1003)
        assert (words["cq_head"], words["cq_tail"]) == (1003, 1003)
        assert (obj.globals["to_run"], obj.globals["steps"]) == (0, 126)


@both_backends
@pytest.mark.parametrize("array", [0, abi.SETUP_NO_SQARRAY])
def test_a_program_goes_on_after_a_resize(backend: BackendName, array: int) -> None:
    with desk(flags=TAIL_FLAGS | array, backend=backend) as (ring, obj):
        with ring.attach(obj, "submit"):
            for user_data in (1, 2, 3):
                ring.get_sqe().prep_nop(user_data=user_data)
            obj.globals["nr"] = 1
            assert ring.submit() == 0
            with refused(errno.EOVERFLOW):
                ring.resize(1)
            ring.resize(64, 128)
            obj.globals["nr"] = 9
            assert ring.enter() == 0
            assert obj.globals["submitted"] == 2
        assert [(cqe.user_data, cqe.res) for cqe in ring.reap()] == [(1, 0), (2, 0), (3, 0)]
        assert (ring.layout["sq_entries"], ring.layout["cq_entries"]) == (64, 128)
        words = ring.core.queues.words
        assert (words["sq_head"], words["sq_tail"], words["cq_head"]) == (3, 3, 3)


def test_other_rings_keep_their_size() -> None:
    with desk(flags=abi.SETUP_SINGLE_ISSUER) as (ring, _), refused(errno.EINVAL):
        ring.resize(16)


@both_backends
@pytest.mark.parametrize(
    ("flag", "taken", "results"),
    [(0, 2, [0, -errno.EINVAL]), (abi.SETUP_SUBMIT_ALL, 4, [0, -errno.EINVAL, 0, 0])],
)
def test_a_bad_opcode_ends_the_batch(
    backend: BackendName, flag: int, taken: int, results: list[int]
) -> None:
    with desk(flags=LOOP_FLAGS | flag, backend=backend) as (ring, obj), ring.attach(obj, "submit"):
        for index in range(4):
            entry = ring.get_sqe().prep_nop(user_data=index)
            if index == 1:
                entry.set(opcode=250)
        obj.globals["nr"] = 4
        assert ring.submit() == 0
        assert obj.globals["submitted"] == taken
        assert [cqe.res for cqe in ring.reap()] == results


@both_backends
def test_a_bad_index_is_dropped(backend: BackendName) -> None:
    with desk(flags=TAIL_FLAGS, backend=backend) as (ring, obj), ring.attach(obj, "submit"):
        for index in range(3):
            ring.get_sqe().prep_nop(user_data=index)
            ring.core.queue(ring._pending.pop().pack())
        array = ring.core.queues._array
        assert array is not None
        array[1] = 8
        obj.globals["nr"] = 3
        assert ring.enter() == 0
        assert obj.globals["submitted"] == 1
        words = ring.core.queues.words
        assert (words["sq_dropped"], words["sq_head"]) == (1, 2)


# --- regions: 3.2, 3.3 --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("region", "size", "found"),
    [
        (1, 4096, 1),
        (1, 4097, 0),
        (2, 4096, 1),
        (2, 4097, 0),
        (0, 1, 0),
        (3, 1, 0),
        (0xFFFFFFFF, 1, 0),
    ],
)
@both_backends
def test_regions_end_with_their_page(
    backend: BackendName, region: int, size: int, found: int
) -> None:
    with desk(backend=backend, probe_size=size) as (ring, obj), ring.attach(obj, "probe"):
        obj.globals["probe_id"] = region
        assert ring.enter() == 0
        assert (obj.globals["found"], obj.globals["steps"]) == (found, 1)


@both_backends
def test_memory_of_the_hosts(backend: BackendName) -> None:
    with desk(backend=backend) as (ring, obj), ring.attach(obj, "mem"):
        assert (ring.enter(), obj.globals["steps"]) == (0, 0)
        block = ring.register_mem(4096)
        block.write((21).to_bytes(4, "little"))
        assert (ring.enter(), block.u32(4)) == (0, 42)
        with refused(errno.EBUSY):
            ring.register_mem(4096)


@both_backends
def test_a_rate_limiter(backend: BackendName) -> None:
    """Eight timeouts of 500 ms, two at a time: 5.4."""
    with desk(flags=TAIL_FLAGS, backend=backend) as (ring, obj), ring.attach(obj, "limit"):
        block = ring.register_mem(4096)
        block.write((2).to_bytes(4, "little"), 4)
        at = ring.user.alloc(timespec(500 * MS))
        for index in range(8):
            ring.get_sqe().prep_timeout(at.addr, user_data=index)
        assert ring.submit() == 0
        assert (block.u32(), obj.globals["steps"]) == (2, 1)
        block.write((8).to_bytes(4, "little"), 20)
        assert ring.enter() == 0
        assert ring.core.now_ns() >= 2000 * MS
        assert backend == "kernel" or ring.core.now_ns() == 2000 * MS
        found = [(cqe.user_data, cqe.res) for cqe in ring.reap()]
        if backend == "kernel":
            found.sort()  # two that end at the same time may do so in any order
        assert found == [(index, -errno.ETIME) for index in range(8)]
        assert block.u32(24) == 0

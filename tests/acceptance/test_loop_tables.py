"""The programs of the merged ABI's acceptance tables, run: abi/iouring-bpf-upstream, 5.1 to 5.5.

Calls of `loop_step` are those that the document derives for requests that complete inline. Where a
backend completes them later the number differs, and what is there at the end must not.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pybpfvm.errors import InputError, RingError
from pybpfvm.session import LoadedObject, LoopRing, Machine
from pybpfvm.session.hostring import BackendName
from pybpfvm.session.loopring import LOOP_FLAGS
from pybpfvm.uring_backend import abi
from tests.support.session_ring import SIM_AND_KERNEL, need_backend

TABLES = Path(__file__).with_name("loop_tables.bpf.o")
TAIL_FLAGS = abi.SETUP_SINGLE_ISSUER | abi.SETUP_DEFER_TASKRUN
BLOCK = 4096
both_backends = pytest.mark.parametrize("backend", SIM_AND_KERNEL)


@contextmanager
def desk(
    backend: BackendName,
    entries: int = 8,
    cq_entries: int = 8,
    flags: int = LOOP_FLAGS,
    engine: str = "auto",
) -> Iterator[tuple[LoopRing, LoadedObject]]:
    need_backend(backend)
    sizes = {"sq_entries": entries, "cq_entries": cq_entries}
    with Machine() as machine:
        obj = machine.load(TABLES, abi="loop-7.2", constants=sizes)
        with LoopRing(
            entries,
            cq_entries=cq_entries,
            flags=flags,
            backend=backend,
            engine=engine,
            machine=machine,
        ) as ring:
            yield ring, obj


@both_backends
@pytest.mark.parametrize("engine", ["interp", "auto"])
def test_nops(backend: BackendName, engine: str) -> None:
    """5.1: 1000 NOPs, eight at a time."""
    with desk(backend, engine=engine) as (ring, obj), ring.attach(obj, "ops_nops"):
        obj.globals["reqs_to_run"] = 1000
        assert ring.enter(flags=abi.ENTER_GETEVENTS) == 0
        assert (obj.globals["reqs_to_run"], obj.globals["reqs_in_flight"]) == (0, 0)
        words = ring.core.queues.words
        assert (words["cq_head"], words["cq_tail"]) == (1000, 1000)
        assert (words["sq_head"], words["sq_tail"]) == (0, 0)
        assert (ring.core.steps, obj.globals["steps"]) == (125, 125)
        assert (obj.globals["short_submits"], obj.globals["waits"]) == (0, 0)


@both_backends
@pytest.mark.parametrize("engine", ["interp", "auto"])
def test_an_eventfd_counts_what_a_loop_posts(backend: BackendName, engine: str) -> None:
    """2.4: as usual; also once compiled code has made loops by itself."""
    with desk(backend, engine=engine) as (ring, obj):
        link = ring.attach(obj, "ops_nops")
        obj.globals["reqs_to_run"] = 100
        assert ring.enter() == 0
        fd = ring.world.eventfd()
        ring.register_eventfd(fd)
        with pytest.raises(RingError, match="EBUSY"):
            ring.register_eventfd(fd)
        obj.globals["reqs_to_run"] = 1000
        assert ring.enter() == 0
        ring.unregister_eventfd()
        with pytest.raises(RingError, match="ENXIO"):
            ring.unregister_eventfd()
        obj.globals["reqs_to_run"] = 10
        assert ring.enter() == 0
        buffer = ring.user.alloc(8)
        ring.core.queue(abi.Sqe(abi.Op.READ, fd=fd, addr=buffer.addr, len=8).pack())
        link.destroy()
        assert ring.submit() == 1
        assert (ring.wait_cqe(10**9).res, buffer.read()) == (8, (1000).to_bytes(8, "little"))
        with pytest.raises(InputError):
            ring.register_eventfd(ring.world.pipe()[0])


@both_backends
@pytest.mark.parametrize("size", [0, 1, BLOCK, 3 * BLOCK, 3 * BLOCK + 100])
def test_copy(backend: BackendName, size: int) -> None:
    """5.2. Files here are buffered: the last, short block is no error."""
    content = bytes(index * 7 & 0xFF for index in range(size))
    with desk(backend) as (ring, obj), ring.attach(obj, "ops_cp"):
        ring.world.add_file("in", content)
        ring.world.add_file("out", b"")
        obj.globals["input_fd"] = ring.world.open("in", abi.O_RDONLY)
        obj.globals["output_fd"] = ring.world.open("out", abi.O_WRONLY)
        obj.globals["buffer_uptr"] = ring.user.alloc(BLOCK).addr
        obj.globals["buffer_size"] = BLOCK
        obj.globals["cp_result"] = -errno.EBUSY
        assert ring.enter(flags=abi.ENTER_GETEVENTS) == 0
        assert ring.world.file_data("out") == content
        blocks = -(-size // BLOCK)
        assert obj.globals["cp_result"] == 0
        assert (obj.globals["reads"], obj.globals["writes"]) == (blocks + 1, blocks)
        assert (obj.globals["cur_offset"], obj.globals["nr_in_flight"]) == (size, 1)
        words = ring.core.queues.words
        assert words["cq_tail"] - words["cq_head"] == 1  # the CQE that says the file has ended


@both_backends
def test_copies_that_end_early(backend: BackendName) -> None:
    with desk(backend) as (ring, obj):
        ring.world.add_file("in", b"text")
        obj.globals["input_fd"] = ring.world.open("in", abi.O_WRONLY)  # not to be read
        obj.globals["buffer_uptr"] = ring.user.alloc(BLOCK).addr
        obj.globals["buffer_size"] = BLOCK
        with ring.attach(obj, "ops_cp"):
            assert ring.enter() == 0
        assert obj.globals["cp_result"] == -errno.EBADF
        # A mark that is neither: the CQE of the read before is taken first.
        assert len(ring.reap()) == 1
        obj.globals["input_fd"] = ring.world.open("in", abi.O_RDONLY)
        obj.globals["nr_in_flight"], obj.globals["foreign_tag"] = 0, 9
        with ring.attach(obj, "ops_cp"):
            assert ring.enter() == 0
        assert obj.globals["cp_result"] == -errno.EINVAL
        # One CQE is still there, and the read's own makes two.
        obj.globals["nr_in_flight"] = 0
        with ring.attach(obj, "ops_cp"):
            assert ring.enter() == 0
        assert obj.globals["cp_result"] == -errno.ERANGE


@both_backends
def test_nops_with_their_state_in_memory_of_the_hosts(backend: BackendName) -> None:
    """5.3, `nops_loop`: 32 in flight."""
    with desk(backend, 32, 128) as (ring, obj), ring.attach(obj, "ops_mem_nops"):
        block = ring.register_mem(4096)
        block.write((1000).to_bytes(4, "little"), 16)
        assert ring.enter() == 0
        cqes, sqes, result, in_flight, left = (block.u32(4 * word) for word in range(5))
        assert (cqes, sqes, result, in_flight, left) == (1000, 1000, 0, 0, 0)
        assert ring.core.steps == 32


@both_backends
@pytest.mark.parametrize("size", [0, BLOCK, 2 * BLOCK + 100])
def test_a_copy_with_its_state_in_memory_of_the_hosts(backend: BackendName, size: int) -> None:
    """5.4, `cp`. Files here are buffered, as in `test_copy`."""
    content = bytes(index * 5 & 0xFF for index in range(size))
    with desk(backend) as (ring, obj), ring.attach(obj, "ops_mem_cp"):
        ring.world.add_file("in", content)
        ring.world.add_file("out", b"")
        fds = ring.world.open("in", abi.O_RDONLY), ring.world.open("out", abi.O_WRONLY)
        buffer = ring.user.alloc(BLOCK)
        block = ring.register_mem(4096)
        block.write(struct.pack("<iiQIIQi", *fds, buffer.addr, 0, 0, BLOCK, -errno.EBUSY))
        assert ring.enter(flags=abi.ENTER_GETEVENTS) == 0
        assert ring.world.file_data("out") == content
        assert (block.u32(32), block.u32(20)) == (0, size)  # res, offset
        words = ring.core.queues.words
        assert words["cq_tail"] - words["cq_head"] == 1  # the CQE that says the file has ended


@both_backends
def test_one_object_after_the_other(backend: BackendName) -> None:
    """5.3, `unreg`: the second of two objects goes on where the first one was."""
    with desk(backend) as (ring, obj):
        second = ring.machine.load(TABLES, abi="loop-7.2")
        block = ring.register_mem(4096)
        with ring.attach(obj, "ops_counts"):
            assert (ring.enter(), block.u32()) == (0, 1)
        assert (ring.enter(), block.u32()) == (0, 1)  # an ordinary enter
        with ring.attach(second, "ops_counts"):
            assert (ring.enter(), block.u32()) == (0, 2)


@both_backends
@pytest.mark.parametrize("array", [0, abi.SETUP_NO_SQARRAY])
def test_nops_through_the_tail_with_a_map(backend: BackendName, array: int) -> None:
    """5.5: the first step submits, the last one only takes."""
    with desk(backend, flags=TAIL_FLAGS | array) as (ring, obj):
        with ring.attach(obj, "ops_array_nops"):
            obj.globals["reqs_to_run"] = 1000
            assert ring.enter() == 0
        assert (obj.maps["results"][0], obj.globals["reqs_to_run"]) == (1, 0)
        words = ring.core.queues.words
        assert (words["sq_head"], words["sq_tail"]) == (1000, 1000)
        assert ring.core.steps == 126


@both_backends
def test_what_the_map_says_of_failures(backend: BackendName) -> None:
    """5.5: -1 no regions, -2 a short submission, -3 a foreign CQE."""
    with desk(backend, flags=TAIL_FLAGS) as (ring, obj):
        ring.get_sqe().prep_nop(user_data=5)
        ring.submit()
        with ring.attach(obj, "ops_array_nops"):
            assert ring.enter() == 0
            assert obj.maps["results"][0] == -3
            ring.reap()
            array = ring.core.queues._array
            assert array is not None
            array[3] = 8  # no SQE has this number
            obj.globals["reqs_to_run"] = 8
            assert ring.enter() == 0
            assert obj.maps["results"][0] == -2
    sizes = {"sq_entries": 128, "cq_entries": 128}  # more than the ring's regions have
    with Machine() as machine:
        obj = machine.load(TABLES, abi="loop-7.2", constants=sizes)
        with LoopRing(8, cq_entries=8, backend=backend, machine=machine) as ring:
            with ring.attach(obj, "ops_array_nops"):
                assert ring.enter() == 0
            assert obj.maps["results"][0] == -1

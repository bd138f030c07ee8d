"""Memory that requests of iouring-x name: what their runs get, what is refused, what stays."""

from __future__ import annotations

import errno
import struct

import pytest

from pybpfvm.errors import InputError, RingError
from pybpfvm.memory import Region, RegionKind
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.abi import Sqe
from pybpfvm.uring_backend.contexts import BPF_CONTEXT, Context
from tests.support.ring_bench import Bench, MakeBench, on_every_backend
from tests.support.ring_programs import BPF, Run, bpf, sqe

EFAULT, EINVAL = -errno.EFAULT, -errno.EINVAL
SIZE = 100


def naming(index: int, at: int = 0, length: int = 0, user_data: int = 0) -> bytes:
    """A BPF request that names a part of a descriptor."""
    return Sqe(
        BPF, op_flags=BPF_CONTEXT, buf_index=index, addr=at, len=length, user_data=user_data
    ).pack()


def data(run: Run) -> tuple[int, int]:
    start, end = struct.unpack("<QQ", run.memory.read(run.ctx_addr + 16, 16))
    return start, end


class Seen:
    """A program that notes what it gets; `bench` makes a ring with it and two descriptors: a buffer
    of 100 bytes, and 4 elements of 12 bytes, 16 apart."""

    def __init__(self) -> None:
        self.runs: list[tuple[int, int]] = []
        self.buffer: Region
        self.map: Region

    def look(self, run: Run) -> int:
        self.runs.append(data(run))
        return run.done()

    def bench(self, make_bench: MakeBench) -> Bench:
        bench = make_bench("x", self.look)
        self.buffer = bench.memory.alloc(SIZE, RegionKind.SHARED, "buffer")
        self.map = bench.memory.alloc(64, RegionKind.MAP_VALUE, "map")
        buffer = Context(self.buffer.start, SIZE)
        bench.ring.register_contexts([buffer, Context(self.map.start, 12, 16, 4)])
        return bench


@on_every_backend
def test_a_run_gets_what_its_request_named(make_bench: MakeBench) -> None:
    seen = Seen()
    bench = seen.bench(make_bench)
    bench.submit(
        naming(0), naming(0, 40, 8), naming(0, 99), naming(1), naming(1, 3), naming(1, 2, 5), bpf(0)
    )
    start, first = seen.buffer.start, seen.map.start
    assert seen.runs == [
        (start, start + SIZE),
        (start + 40, start + 48),
        (start + 99, start + SIZE),
        (first, first + 12),
        (first + 48, first + 60),
        (first + 32, first + 37),
        (0, 0),
    ]
    assert [res for _, res in bench.cqes()] == [0] * 7


@pytest.mark.parametrize(
    ("raw", "res"),
    [
        pytest.param(naming(2), EFAULT, id="no such descriptor"),
        pytest.param(naming(0, SIZE), EFAULT, id="behind the buffer"),
        pytest.param(naming(0, 1, SIZE), EFAULT, id="a byte too long"),
        pytest.param(naming(0, (1 << 64) - 1, 2), EFAULT, id="an offset that wraps"),
        pytest.param(naming(0, 0, (1 << 32) - 1), EFAULT, id="the greatest length"),
        pytest.param(naming(1, 4), EFAULT, id="behind the last element"),
        pytest.param(naming(1, 0, 13), EFAULT, id="more than an element"),
        pytest.param(naming(1, 1 << 60), EFAULT, id="an element that wraps"),
        pytest.param(sqe(BPF, op_flags=2), EINVAL, id="an unknown flag"),
        pytest.param(sqe(BPF, op_flags=3), EINVAL, id="one beside it"),
        pytest.param(sqe(BPF, addr=1), EINVAL, id="an element of nothing"),
        pytest.param(sqe(BPF, len=1), EINVAL, id="a length of nothing"),
        pytest.param(sqe(BPF, op_flags=1, ioprio=1), EINVAL, id="a priority"),
        pytest.param(sqe(BPF, op_flags=1, off=9), EFAULT, id="no such program"),
    ],
)
def test_what_is_not_there_is_refused(make_bench: MakeBench, raw: bytes, res: int) -> None:
    seen = Seen()
    bench = seen.bench(make_bench)
    bench.submit(raw)
    assert (bench.cqes(), seen.runs) == ([(0, res)], [])


def test_the_memory_stays_from_run_to_run_and_from_request_to_request(
    make_bench: MakeBench,
) -> None:
    runs = []

    def twice(run: Run) -> int:
        runs.append((run.user_data, data(run)))
        return run.wait(1, 1 + run.user_data) if len(runs) <= 2 else run.done()

    bench = make_bench("x", twice)
    block = bench.memory.alloc(16, RegionKind.SHARED, "block")
    bench.ring.register_contexts([Context(block.start, 16)])
    bench.submit(naming(0, 0, 8), naming(0, 8, 8, user_data=1))
    bench.submit(sqe(cq=2), sqe(cq=1))
    ours, others = (block.start, block.start + 8), (block.start + 8, block.end)
    assert sorted(runs) == [(0, ours), (0, ours), (1, others), (1, others)]


def test_a_program_names_memory_too(make_bench: MakeBench) -> None:
    found = []

    def outer(run: Run) -> int:
        raw = Sqe(BPF, off=1, op_flags=BPF_CONTEXT, addr=3, len=4).pack()
        assert run.submit(raw) == 1
        assert run.submit(Sqe(BPF, off=1, op_flags=BPF_CONTEXT, buf_index=1).pack()) == 0
        return run.done()

    def inner(run: Run) -> int:
        found.append(data(run))
        return run.done()

    bench = make_bench("x", outer, inner)
    block = bench.memory.alloc(8, RegionKind.SHARED, "block")
    bench.ring.register_contexts([Context(block.start, 8)])
    bench.submit(bpf(0, user_data=7))
    assert found == [(block.start + 3, block.start + 7)]
    assert bench.cqes() == [(0, EFAULT), (7, 0), (0, 0)]


def refusal(bench: Bench, *contexts: Context) -> int:
    with pytest.raises(RingError) as refused:
        bench.ring.register_contexts(contexts)
    return refused.value.errno


def test_registering_is_refused(make_bench: MakeBench) -> None:
    bench = make_bench("x", lambda run: run.done())
    memory = bench.memory
    shared = memory.alloc(64, RegionKind.SHARED, "shared")
    user = memory.alloc(64, RegionKind.USER, "user")
    fixed = memory.alloc(64, RegionKind.MAP_VALUE, "fixed", writable=False)
    stack = memory.alloc(64, RegionKind.STACK, "stack")
    assert refusal(bench) == errno.EINVAL
    assert refusal(bench, *[Context(shared.start, 1)] * 1025) == errno.EINVAL
    for region in (user, fixed, stack):
        assert refusal(bench, Context(shared.start, 64), Context(region.start, 64)) == errno.EFAULT
    assert refusal(bench, Context(shared.start, 65)) == errno.EFAULT
    assert refusal(bench, Context(shared.start, 0)) == errno.EFAULT
    assert refusal(bench, Context(shared.start, 16, 16, 5)) == errno.EFAULT
    assert refusal(bench, Context(shared.start, 16, 16, 0)) == errno.EFAULT
    assert refusal(bench, Context(0, 16)) == errno.EFAULT
    bench.ring.register_contexts([Context(shared.start, 16, 16, 4)])
    assert refusal(bench, Context(shared.start, 64)) == errno.EBUSY
    with pytest.raises(RingError) as refused:
        make_bench("v3", lambda run: run.done()).ring.register_contexts([Context(1, 1)])
    assert refused.value.errno == errno.EINVAL


def test_registered_memory_is_pinned(make_bench: MakeBench) -> None:
    seen = Seen()
    bench = seen.bench(make_bench)
    with pytest.raises(InputError, match="shared memory buffer is pinned"):
        bench.memory.free(seen.buffer)
    bench.submit(naming(0))
    assert len(seen.runs) == 1
    bench.ring.unregister_contexts()
    bench.memory.free(seen.buffer)
    with pytest.raises(RingError):
        bench.ring.unregister_contexts()
    bench.submit(naming(1))
    assert len(seen.runs) == 1
    assert bench.cqes() == [(0, 0), (0, EFAULT)]
    bench.ring.register_contexts([Context(seen.map.start, 64)])
    bench.ring.close()
    bench.memory.free(seen.map)


# --- what user_data points to ---------------------------------------------------------------------


def pointing(make_bench: MakeBench, size: int, seen: list[int]) -> Bench:
    """A ring whose program wants `size` bytes, notes where they are, and waits once on CQ 1."""

    def look(run: Run) -> int:
        seen.append(struct.unpack("<Q", run.memory.read(run.ctx_addr + 32, 8))[0])
        return run.done() if run.wait_fields != (0, 0) else run.wait(1, 1)

    bench = make_bench("x", look, register=False)
    bench.ring.register_bpf([0], [size])
    return bench


@on_every_backend
def test_user_data_must_point_to_shared_memory(make_bench: MakeBench) -> None:
    seen: list[int] = []
    bench = pointing(make_bench, 24, seen)
    memory = bench.memory
    shared = memory.alloc(40, RegionKind.SHARED, "shared")
    user = memory.alloc(40, RegionKind.USER, "user")
    stack = memory.alloc(40, RegionKind.STACK, "stack")
    for wrong in (0, user.start, stack.start, shared.start + 24, shared.end, shared.start - 8):
        bench.submit(bpf(0, user_data=wrong))
        assert bench.cqes() == [(wrong, EFAULT)]
    bench.submit(bpf(0, user_data=shared.start + 4))
    assert bench.cqes() == [(shared.start + 4, EINVAL)]
    bench.submit(sqe(cq=1), bpf(0, user_data=shared.start), bpf(0, user_data=shared.start + 16))
    assert seen == [shared.start, shared.start + 16] * 2
    assert bench.cqes() == [(shared.start, 0), (shared.start + 16, 0)]


@on_every_backend
def test_it_is_pinned_while_the_request_lives(make_bench: MakeBench) -> None:
    seen: list[int] = []
    bench = pointing(make_bench, 8, seen)
    block = bench.memory.alloc(8, RegionKind.SHARED, "block")
    bench.submit(bpf(0, user_data=block.start), bpf(0, user_data=block.start))
    with pytest.raises(InputError, match="block is pinned"):
        bench.memory.free(block)
    bench.submit(sqe(cq=1))
    assert len(seen) == 4
    bench.memory.free(block)
    bench.submit(bpf(0, user_data=block.start))
    assert bench.cqes()[-1] == (block.start, EFAULT)
    assert len(seen) == 4


def test_closing_gives_up_what_is_pinned(make_bench: MakeBench) -> None:
    bench = pointing(make_bench, 8, [])
    block = bench.memory.alloc(8, RegionKind.SHARED, "block")
    bench.submit(bpf(0, user_data=block.start))
    bench.ring.close()
    bench.memory.free(block)


def test_a_chain_that_is_cancelled_gives_up_what_it_pinned(make_bench: MakeBench) -> None:
    bench = pointing(make_bench, 8, [])
    block = bench.memory.alloc(8, RegionKind.SHARED, "block")
    linked = bpf(0, user_data=block.start)
    bench.submit(sqe(99, flags=abi.SQE_IO_LINK), linked)
    assert bench.cqes() == [(0, EINVAL), (block.start, -errno.ECANCELED)]
    bench.memory.free(block)


def test_others_are_told_of_no_memory(make_bench: MakeBench) -> None:
    seen = Seen()
    bench = seen.bench(make_bench)
    bench.submit(bpf(0, user_data=seen.buffer.start))
    assert seen.runs == [(0, 0)]
    assert bench.memory.read(bench.ring._memory.ctx.start + 32, 8) == bytes(8)

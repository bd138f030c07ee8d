"""Map helpers as programs call them: results, errno, and what stops a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from errno import E2BIG, EEXIST, EINVAL, ENOENT, ENOSPC

import pytest

from pybpfvm.helpers.context import BadArgument, TailCall
from pybpfvm.maps.queue import QueueMap
from pybpfvm.memory import MemoryFault
from pybpfvm.program import BPF_F_NO_PREALLOC, BPF_F_RDONLY_PROG, MapType
from tests.support.fake_context import FakeContext


@pytest.fixture
def ctx() -> Iterator[FakeContext]:
    with FakeContext() as context:
        yield context


def k(number: int, size: int = 4) -> bytes:
    return number.to_bytes(size, "little")


def test_lookup_update_delete_on_a_hash(ctx: FakeContext) -> None:
    made = ctx.map(MapType.HASH, 4, 8, 2)
    value = ctx.put(k(99, 8), 64)

    def update(key: int, flags: int) -> int:
        return ctx.run("map_update_elem", made.handle, ctx.put(k(key)), value, flags)

    assert ctx.run("map_lookup_elem", made.handle, ctx.put(k(1))) == 0
    assert update(1, 2) == -ENOENT
    assert update(1, 0) == 0
    assert update(1, 1) == -EEXIST
    assert update(1, 3) == -EINVAL
    assert update(1, 1 << 63) == -EINVAL
    assert update(2, 1) == 0
    assert update(3, 0) == -E2BIG
    addr = ctx.run("map_lookup_elem", made.handle, ctx.put(k(1)))
    assert ctx.memory.load(addr, 8) == 99
    assert ctx.run("map_delete_elem", made.handle, ctx.put(k(1))) == 0
    assert ctx.run("map_delete_elem", made.handle, ctx.put(k(1))) == -ENOENT


def test_arrays_and_tries_answer_with_their_own_errno(ctx: FakeContext) -> None:
    array = ctx.map(MapType.ARRAY, 4, 8, 2)
    key, value = ctx.put(k(2)), ctx.put(bytes(8), 64)
    assert ctx.run("map_update_elem", array.handle, key, value, 0) == -E2BIG
    assert ctx.run("map_delete_elem", array.handle, ctx.put(k(0))) == -EINVAL
    assert ctx.run("map_update_elem", array.handle, ctx.put(k(0)), value, 1) == -EEXIST
    trie = ctx.map(MapType.LPM_TRIE, 8, 8, 1, BPF_F_NO_PREALLOC)
    assert ctx.run("map_update_elem", trie.handle, ctx.put(k(8) + b"\1\0\0\0"), value, 0) == 0
    assert ctx.run("map_update_elem", trie.handle, ctx.put(k(8) + b"\2\0\0\0"), value, 0) == -ENOSPC
    assert ctx.run("map_update_elem", trie.handle, ctx.put(k(33) + bytes(4)), value, 0) == -EINVAL


def test_wild_pointers_fault(ctx: FakeContext) -> None:
    made = ctx.map(MapType.HASH, 4, 8, 2)
    end = ctx.scratch.end
    for arguments in (
        ("map_lookup_elem", made.handle, 0),
        ("map_lookup_elem", made.handle, end - 3),
        ("map_lookup_elem", made.handle, ctx.user.start),
        ("map_update_elem", made.handle, ctx.scratch.start, end - 7),
        ("map_delete_elem", made.handle, (1 << 64) - 1),
    ):
        with pytest.raises(MemoryFault):
            ctx.run(*arguments)


@pytest.mark.parametrize(
    ("helper", "type_", "sizes"),
    [
        ("map_lookup_elem", MapType.QUEUE, (0, 8, 1)),
        ("map_update_elem", MapType.RINGBUF, (0, 0, 4096)),
        ("map_delete_elem", MapType.PROG_ARRAY, (4, 4, 1)),
        ("map_lookup_percpu_elem", MapType.ARRAY, (4, 8, 1)),
        ("map_push_elem", MapType.ARRAY, (4, 8, 1)),
        ("map_pop_elem", MapType.HASH, (4, 8, 1)),
        ("map_peek_elem", MapType.HASH, (4, 8, 1)),
        ("ringbuf_output", MapType.ARRAY, (4, 8, 1)),
        ("ringbuf_reserve", MapType.ARRAY, (4, 8, 1)),
        ("ringbuf_query", MapType.ARRAY, (4, 8, 1)),
    ],
)
def test_maps_of_the_wrong_type_are_bad_arguments(
    ctx: FakeContext, helper: str, type_: MapType, sizes: tuple[int, int, int]
) -> None:
    made = ctx.map(type_, *sizes)
    with pytest.raises(BadArgument) as caught:
        ctx.run(helper, made.handle, ctx.scratch.start, ctx.scratch.start)
    assert caught.value.index == 1
    with pytest.raises(BadArgument):
        ctx.run(helper, ctx.scratch.start, ctx.scratch.start, ctx.scratch.start)


def test_maps_read_only_for_programs_are_bad_arguments_of_writers(ctx: FakeContext) -> None:
    array = ctx.map(MapType.ARRAY, 4, 8, 1, BPF_F_RDONLY_PROG)
    queue = ctx.map(MapType.QUEUE, 0, 8, 1, BPF_F_RDONLY_PROG)
    scratch = ctx.scratch.start
    for helper, handle in (
        ("map_update_elem", array.handle),
        ("map_delete_elem", array.handle),
        ("map_push_elem", queue.handle),
        ("map_pop_elem", queue.handle),
    ):
        with pytest.raises(BadArgument):
            ctx.run(helper, handle, scratch, scratch)
    assert ctx.run("map_lookup_elem", array.handle, scratch) != 0


@pytest.mark.parametrize(("type_", "first"), [(MapType.QUEUE, 1), (MapType.STACK, 2)])
def test_push_peek_pop(ctx: FakeContext, type_: MapType, first: int) -> None:
    made = ctx.map(type_, 0, 8, 2)
    out = ctx.put(b"\xff" * 8, 64)
    assert ctx.run("map_pop_elem", made.handle, out) == -ENOENT
    assert ctx.get(8, 64) == bytes(8), "a failed pop zeroes the value"
    ctx.put(b"\xff" * 8, 64)
    assert ctx.run("map_peek_elem", made.handle, out) == -ENOENT
    assert ctx.get(8, 64) == bytes(8)
    for number in (1, 2):
        assert ctx.run("map_push_elem", made.handle, ctx.put(k(number, 8)), 0) == 0
    assert ctx.run("map_push_elem", made.handle, ctx.put(k(3, 8)), 0) == -E2BIG
    assert ctx.run("map_push_elem", made.handle, ctx.put(k(3, 8)), 1) == -EINVAL
    assert ctx.run("map_push_elem", made.handle, ctx.put(k(3, 8)), 4) == -EINVAL
    assert ctx.run("map_peek_elem", made.handle, out) == 0
    assert ctx.get(8, 64) == k(first, 8)
    assert ctx.run("map_push_elem", made.handle, ctx.put(k(3, 8)), 2) == 0, "the oldest goes"
    popped = []
    while ctx.run("map_pop_elem", made.handle, out) == 0:
        popped.append(int.from_bytes(ctx.get(8, 64), "little"))
    assert popped == ([2, 3] if type_ is MapType.QUEUE else [3, 2])


def test_a_pop_into_bad_memory_takes_nothing(ctx: FakeContext) -> None:
    made = ctx.map(MapType.QUEUE, 0, 8, 2)
    ctx.run("map_push_elem", made.handle, ctx.put(k(1, 8)), 0)
    with pytest.raises(MemoryFault):
        ctx.run("map_pop_elem", made.handle, ctx.scratch.end - 4)
    assert isinstance(made, QueueMap)
    assert len(made) == 1


def test_percpu_lookup_of_another_cpu(ctx: FakeContext) -> None:
    made = ctx.map(MapType.PERCPU_ARRAY, 4, 8, 2, cpus=2)
    ctx.cpu = 1
    mine = ctx.run("map_lookup_elem", made.handle, ctx.put(k(1)))
    assert mine == ctx.run("map_lookup_percpu_elem", made.handle, ctx.put(k(1)), 1)
    assert mine != ctx.run("map_lookup_percpu_elem", made.handle, ctx.put(k(1)), 0)
    assert ctx.run("map_lookup_percpu_elem", made.handle, ctx.put(k(1)), 2) == 0
    assert mine == ctx.run("map_lookup_percpu_elem", made.handle, ctx.put(k(1)), (7 << 32) | 1)


def test_tail_call(ctx: FakeContext) -> None:
    made = ctx.map(MapType.PROG_ARRAY, 4, 4, 2)
    program = object()
    made.host_update(k(1), k(ctx.memory.handle(program), 8))
    assert ctx.run("tail_call", ctx.ctx_addr, made.handle, 0) == -ENOENT
    assert ctx.run("tail_call", ctx.ctx_addr, made.handle, 2) == -EINVAL
    with pytest.raises(TailCall) as leaving:
        ctx.run("tail_call", ctx.ctx_addr, made.handle, (5 << 32) | 1)
    assert leaving.value.program is program
    with pytest.raises(BadArgument):
        ctx.run("tail_call", ctx.ctx_addr + 8, made.handle, 1)
    with pytest.raises(BadArgument):
        ctx.run("tail_call", ctx.ctx_addr, ctx.map(MapType.ARRAY, 4, 4, 2).handle, 1)


def test_for_each_visits_until_told_to_stop(ctx: FakeContext) -> None:
    made = ctx.map(MapType.HASH, 4, 8, 5)
    for number in (4, 2, 7):
        made.update(k(number), k(10 * number, 8), 0, 0)
    seen: list[tuple[int, int]] = []

    def visit(map_: int, key: int, value: int, callback_ctx: int) -> int:
        assert (map_, callback_ctx) == (made.handle, 1234)
        seen.append((ctx.memory.load(key, 4), ctx.memory.load(value, 8)))
        with pytest.raises(MemoryFault):
            ctx.memory.store(key, 4, 0)
        made.delete(k(seen[-1][0]))
        return int(len(seen) == 2)

    before = ctx.memory.regions()
    callback = ctx.function(visit)
    assert ctx.run("for_each_map_elem", made.handle, callback, 1234, 0) == 2
    assert seen == [(4, 40), (2, 20)]
    assert ctx.memory.regions() == before, "the key's memory is given back"
    assert ctx.run("for_each_map_elem", made.handle, callback, 1234, 1) == -EINVAL
    queue = ctx.map(MapType.QUEUE, 0, 8, 5)
    assert ctx.run("for_each_map_elem", queue.handle, callback, 1234, 0) == -EINVAL
    with pytest.raises(BadArgument):
        ctx.run("for_each_map_elem", made.handle, ctx.scratch.start, 1234, 0)


@pytest.mark.parametrize(("stop_at", "calls"), [(3, 4), (None, 10)], ids=["stopped", "to the end"])
def test_loop(ctx: FakeContext, stop_at: int | None, calls: int) -> None:
    seen: list[int] = []

    def body(index: int, callback_ctx: int) -> int:
        assert callback_ctx == 77
        seen.append(index)
        return int(index == stop_at)

    assert ctx.run("loop", (1 << 40) | 10, ctx.function(body), 77, 0) == calls
    assert seen == list(range(calls))


def test_loop_limits(ctx: FakeContext) -> None:
    nothing: Callable[..., int] = lambda *_: 1  # noqa: E731
    callback = ctx.function(nothing)
    assert ctx.run("loop", (1 << 23) + 1, callback, 0, 0) == -E2BIG
    assert ctx.run("loop", 1 << 23, callback, 0, 0) == 1
    assert ctx.run("loop", 1, callback, 0, 8) == -EINVAL
    assert ctx.run("loop", 0, callback, 0, 0) == 0


def test_spin_lock(ctx: FakeContext) -> None:
    made = ctx.map(MapType.ARRAY, 4, 16, 1)
    lock = made.lookup(k(0), 0) + 4
    with pytest.raises(BadArgument, match="not held"):
        ctx.run("spin_unlock", lock)
    assert ctx.run("spin_lock", lock) == 0
    with pytest.raises(BadArgument, match="deadlock"):
        ctx.run("spin_lock", lock)
    assert ctx.run("spin_unlock", lock) == 0
    assert ctx.run("spin_lock", lock) == 0
    ctx.memory.store(lock, 4, 5)
    with pytest.raises(BadArgument, match="overwritten"):
        ctx.run("spin_unlock", lock)
    for wrong in (lock + 1, ctx.scratch.start):
        with pytest.raises(BadArgument, match="not a spin lock"):
            ctx.run("spin_lock", wrong)
    with pytest.raises(MemoryFault):
        ctx.run("spin_lock", 0)


def test_ring_buffer(ctx: FakeContext) -> None:
    made = ctx.map(MapType.RINGBUF, 0, 0, 4096)
    data = ctx.put(b"a record")
    assert ctx.run("ringbuf_output", made.handle, data, 8, 0) == 0
    assert ctx.run("ringbuf_output", made.handle, data, 8, 4) == -EINVAL
    assert ctx.run("ringbuf_output", made.handle, ctx.scratch.start, 4096, 0) == -11
    sample = ctx.run("ringbuf_reserve", made.handle, 16, 0)
    ctx.memory.program_write(sample, b"0123456789abcdef")
    with pytest.raises(BadArgument):
        ctx.run("ringbuf_submit", sample + 8, 0)
    assert ctx.run("ringbuf_query", made.handle, 0) == 16 + 24
    assert ctx.run("ringbuf_query", made.handle, 1) == 4096
    assert ctx.run("ringbuf_query", made.handle, 9) == 0
    assert ctx.run("ringbuf_submit", sample, 2) == 0
    for helper in ("ringbuf_submit", "ringbuf_discard"):
        with pytest.raises(BadArgument):
            ctx.run(helper, sample, 0)
    assert made.drain() == [b"a record", b"0123456789abcdef"]  # type: ignore[attr-defined]
    assert ctx.run("ringbuf_reserve", made.handle, 1 << 40, 0) == 0
    with pytest.raises(MemoryFault):
        ctx.run("ringbuf_output", made.handle, data, 1 << 40, 0)

"""Snapshots of memory: what comes back, at which addresses, what is shared, what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from pybpfvm.errors import InputError
from pybpfvm.memory import PAGE, AddressSpace, MemoryFault, MemorySnapshot, Region, RegionKind

MIB = 1 << 20


@pytest.fixture
def memory() -> Iterator[AddressSpace]:
    with AddressSpace() as made:
        yield made


def test_a_base_is_had_once() -> None:
    with AddressSpace() as first:
        base = first.base
        with pytest.raises(InputError, match="taken"):
            AddressSpace(base=base)
    with AddressSpace(base=base) as second:
        assert second.base == base
        assert second.alloc(8, RegionKind.MAP_VALUE, "v").start > base


@pytest.mark.parametrize("base", [0, 1 << 31, (1 << 45) + PAGE, 1 << 47, -(1 << 32)])
def test_what_can_be_no_base(base: int) -> None:
    with pytest.raises(InputError, match="no address space begins here"):
        AddressSpace(base=base)


def test_bytes_and_regions_come_back(memory: AddressSpace) -> None:
    kept = memory.alloc(3 * PAGE + 5, RegionKind.MAP_VALUE, "kept")
    freed = memory.alloc(8, RegionKind.USER, "freed")
    fixed = memory.alloc(8, RegionKind.MAP_VALUE, "fixed", writable=False)
    host = memory.alloc(8, RegionKind.HOST, "host")
    for region in (kept, freed, fixed, host):
        memory.write(region.start, b"original")
    taken = memory.snapshot()
    memory.write(kept.end - 8, b"12345678")
    memory.write(fixed.start, b"12345678")
    memory.write(host.start, b"12345678")
    memory.free(freed)
    memory.free(fixed)
    came = memory.alloc(8, RegionKind.RING, "came")
    handle = memory.handle("since")
    changes, committed = memory.changes, memory.committed_bytes

    memory.restore(taken)
    assert memory.regions() == [host, kept, fixed, freed]
    assert memory.read(kept.start, 8) == b"original"
    assert memory.read(kept.end - 8, 8) == bytes(8)
    assert memory.read(freed.start, 8) == memory.read(fixed.start, 8) == b"original"
    assert memory.load(fixed.start, 1) == ord("o")
    assert memory.read(host.start, 8) == b"12345678"  # what is an engine's stays
    assert memory.changes > changes
    assert memory.committed_bytes == committed + 2 * PAGE - PAGE
    with pytest.raises(MemoryFault):
        memory.store(fixed.start, 1, 0)
    assert memory.resolve(handle) is None
    assert memory.handle("since") == handle
    assert memory.alloc(8, RegionKind.RING, "came").start == came.start
    memory.free(freed)  # they are the same, to whoever kept them
    memory.free(fixed)


def test_a_read_only_region_is_mapped_twice_again(memory: AddressSpace) -> None:
    fixed = memory.alloc(PAGE, RegionKind.MAP_VALUE, "fixed", writable=False)
    taken = memory.snapshot()
    memory.free(fixed)
    memory.restore(taken)
    with pytest.raises(OSError), open("/proc/self/mem", "r+b", buffering=0) as own:
        _unwritable(own.fileno(), fixed.start)
    memory.write(fixed.start, b"ours")
    assert memory.load(fixed.start, 4) == int.from_bytes(b"ours", "little")


def _unwritable(fd: int, addr: int) -> None:
    """OSError if the processor does not let the address be written: asked of /proc/self/maps."""
    with open("/proc/self/maps", encoding="ascii") as maps:
        for line in maps:
            span, access = line.split()[:2]
            first, last = (int(part, 16) for part in span.split("-"))
            if first <= addr < last and "w" not in access:
                raise PermissionError(f"{addr:#x} is {access}")


def test_pages_that_did_not_change_are_shared(memory: AddressSpace) -> None:
    big = memory.alloc(4 * MIB, RegionKind.MAP_VALUE, "big")
    memory.write(big.start, Random(1).randbytes(4 * MIB))
    first = memory.snapshot()
    assert memory.snapshot().contents[0] is first.contents[0]
    memory.write(big.start + 5 * PAGE, b"changed")
    second = memory.snapshot()
    differ = [
        number
        for number, pages in enumerate(zip(first.contents[0], second.contents[0], strict=True))
        if pages[0] is not pages[1]
    ]
    assert differ == [5]
    memory.restore(first)
    assert memory.snapshot().contents[0] is first.contents[0]
    assert memory.read(big.start, 4 * MIB) == b"".join(first.contents[0])


def test_engines_hear_of_regions_that_went(memory: AddressSpace) -> None:
    taken = memory.snapshot()
    heard: list[list[Region]] = []
    memory.on_free(lambda _: heard.append(memory.regions()))
    memory.restore(taken)
    assert heard == []
    memory.alloc(8, RegionKind.MAP_VALUE, "came")
    memory.restore(taken)
    assert heard == [[]]


def test_slices_of_what_came_since_must_go_first(memory: AddressSpace) -> None:
    taken = memory.snapshot()
    came = memory.alloc(8, RegionKind.MAP_VALUE, "came")
    held = memory.view(came)[2:4]
    with pytest.raises(InputError, match="held"):
        memory.restore(taken)
    memory.write(came.start, b"12345678")
    assert bytes(held) == b"34"
    assert memory.regions() == [came]
    memory.free(came)
    with pytest.raises(InputError, match="held"):
        memory.restore(taken)
    held.release()
    memory.restore(taken)
    assert memory.regions() == []
    assert memory.alloc(8, RegionKind.MAP_VALUE, "came").start == came.start


@pytest.mark.parametrize("writable", [True, False])
@pytest.mark.parametrize("let_go", [True, False])
def test_slices_of_what_was_freed_see_it_again(
    memory: AddressSpace, writable: bool, let_go: bool
) -> None:
    region = memory.alloc(8, RegionKind.MAP_VALUE, "v", writable=writable)
    memory.write(region.start, b"12345678")
    taken = memory.snapshot()
    held = memory.view(region)[2:4]
    memory.free(region)
    held[:] = b"xx"
    if let_go:
        held.release()
    memory.restore(taken)
    assert memory.read(region.start, 8) == b"12345678"
    if not let_go:
        assert bytes(held) == b"34"


def test_pinned_regions_stay(memory: AddressSpace) -> None:
    kept = memory.alloc(8, RegionKind.USER, "kept")
    taken = memory.snapshot()
    came = memory.alloc(8, RegionKind.USER, "came")
    pinned = [memory.pin_at(r.start, 8, {RegionKind.USER}) for r in (kept, came)]
    with pytest.raises(InputError, match="pinned"):
        memory.restore(taken)
    assert memory.regions() == [kept, came]
    memory.user_write(came.start, b"still")
    assert pinned[1] is came
    memory.unpin(came)
    memory.restore(taken)
    assert memory.regions() == [kept]
    memory.unpin(kept)


def test_a_closed_machine_has_none(memory: AddressSpace) -> None:
    taken = memory.snapshot()
    memory.close()
    for action in (memory.snapshot, lambda: memory.restore(taken)):
        with pytest.raises(InputError, match="closed"):
            action()


_KINDS = st.sampled_from([kind for kind in RegionKind if kind is not RegionKind.HOST])
_Done = tuple[str, int, int]


class Replayed(RuleBasedStateMachine):
    """What is done between snapshot and restore leaves no trace: beside the memory that goes back
    and forth runs another, anew, in which only what counts was done."""

    @initialize()
    def begin(self) -> None:
        self.memory = AddressSpace(limit_bytes=64 * PAGE)
        self.regions: list[Region] = []
        self.done: list[_Done] = []
        self.taken: list[tuple[MemorySnapshot, list[_Done], list[Region]]] = []

    @rule(size=st.integers(1, 3 * PAGE), kind=_KINDS, twice=st.booleans())
    def alloc(self, size: int, kind: RegionKind, twice: bool) -> None:
        self.do("twice" if twice else "alloc", size, list(RegionKind).index(kind))

    @rule(which=st.integers(0, 99))
    def free(self, which: int) -> None:
        self.do("free", which, 0)

    @rule(which=st.integers(0, 99), at=st.integers(0, 3 * PAGE))
    def write(self, which: int, at: int) -> None:
        self.do("write", which, at)

    @rule()
    def handle(self) -> None:
        self.do("handle", len(self.done), 0)

    @rule()
    def take(self) -> None:
        self.taken.append((self.memory.snapshot(), list(self.done), list(self.regions)))

    @precondition(lambda self: self.taken)
    @rule(which=st.integers(0, 99))
    def go_back(self, which: int) -> None:
        taken, done_then, regions = self.taken[which % len(self.taken)]
        self.memory.restore(taken)
        self.done = list(done_then)
        self.regions = list(regions)
        assert self.memory.snapshot() == taken
        assert sum(-(-r.size // PAGE) * PAGE for r in regions) == self.memory.committed_bytes

    def do(self, what: str, first: int, second: int) -> None:
        self.done.append((what, first, second))
        done(self.memory, self.regions, what, first, second)

    def teardown(self) -> None:
        found = self.memory.snapshot()
        self.memory.close()
        with AddressSpace(limit_bytes=64 * PAGE, base=self.memory.base) as anew:
            regions: list[Region] = []
            for one in self.done:
                done(anew, regions, *one)
            assert anew.snapshot() == found
            assert regions == self.regions


def done(memory: AddressSpace, regions: list[Region], what: str, first: int, second: int) -> None:
    if what == "handle":
        memory.handle(first)
    elif what in ("alloc", "twice"):
        kind = list(RegionKind)[second]
        try:
            regions.append(memory.alloc(first, kind, "made", writable=what == "alloc"))
        except InputError:
            assert memory.committed_bytes > 60 * PAGE
    elif regions and what == "free":
        memory.free(regions.pop(first % len(regions)))
    elif regions:
        region = regions[first % len(regions)]
        memory.write(region.start + second % region.size, bytes((second % 255 + 1,)))


Replayed.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestReplayed = Replayed.TestCase


def test_frames_stay_and_what_comes_next_goes_around_them(memory: AddressSpace) -> None:
    taken = memory.snapshot()
    ring = memory.alloc(8, RegionKind.RING, "ring")
    with memory.lasting():
        frames = memory.alloc_frames(2, 512)
    later = memory.alloc(3 * PAGE, RegionKind.MAP_VALUE, "later")
    memory.write(frames[0].start, b"left over")
    for _ in range(2):
        memory.restore(taken)
        assert memory.regions() == frames
        assert memory.read(frames[0].start, 16) == bytes(16)
        again = [memory.alloc(8, RegionKind.RING, "ring")]
        again.append(memory.alloc(3 * PAGE, RegionKind.MAP_VALUE, "later"))
        assert [region.start for region in again] == [ring.start, later.start]
    large = memory.snapshot()
    memory.restore(taken)
    # What does not fit before the frames comes behind them; frames that are gone are no obstacle.
    assert memory.alloc(2 * PAGE, RegionKind.RING, "ring").start == frames[1].end + 2 * PAGE - 512
    memory.restore(large)
    assert memory.regions() == [again[0], *frames, again[1]]
    memory.restore(taken)
    for frame in frames:
        memory.free(frame)
    assert memory.alloc(2 * PAGE, RegionKind.RING, "ring").start == ring.start


def test_frames_where_a_region_comes_back(memory: AddressSpace) -> None:
    memory._program_range._end = memory._program_range.fresh + 4 * PAGE  # room for little
    freed = memory.alloc(3 * PAGE, RegionKind.MAP_VALUE, "freed")
    taken = memory.snapshot()
    memory.free(freed)
    with memory.lasting():
        frames = memory.alloc_frames(1, 512)
    with pytest.raises(InputError, match="in use"):
        memory.restore(taken)
    assert memory.regions() == frames
    memory.free(frames[0])
    memory.restore(taken)
    assert memory.regions() == [freed]


def test_freed_places_with_frames_in_them(memory: AddressSpace) -> None:
    memory._program_range._end = memory._program_range.fresh + 6 * PAGE
    freed = memory.alloc(5 * PAGE, RegionKind.MAP_VALUE, "freed")
    memory.free(freed)
    taken = memory.snapshot()
    before = memory.alloc(8, RegionKind.RING, "before")
    with memory.lasting():
        frames = memory.alloc_frames(1, 512)
    behind = memory.alloc(8, RegionKind.RING, "behind")
    memory.restore(taken)
    assert memory.regions() == frames
    again = [memory.alloc(8, RegionKind.RING, name) for name in ("before", "behind")]
    assert [region.start for region in again] == [before.start, behind.start]

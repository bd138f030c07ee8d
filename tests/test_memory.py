"""The address space: what programs may reach, what faults and how, and that nothing leaks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pybpfvm.errors import InputError, InternalError, TrapKind
from pybpfvm.memory import (
    PAGE,
    AddressSpace,
    MemoryFault,
    Region,
    RegionKind,
    UserFault,
    _Ranges,
)

GIB = 1 << 30


@pytest.fixture
def memory() -> Iterator[AddressSpace]:
    with AddressSpace() as made:
        yield made


def fault_kind(memory: AddressSpace, addr: int, size: int = 1, *, write: bool = False) -> TrapKind:
    with pytest.raises(MemoryFault) as caught:
        memory.check(addr, size, write=write)
    assert (caught.value.addr, caught.value.size) == (addr, size)
    return caught.value.kind


def test_values_come_back_in_byte_order(memory: AddressSpace) -> None:
    region = memory.alloc(16, RegionKind.STACK, "s")
    memory.store(region.start + 3, 4, 0x1_1122_3344)
    assert memory.load(region.start + 3, 4) == 0x1122_3344
    assert memory.load(region.start + 3, 1) == 0x44
    memory.byteorder = "big"
    assert memory.load(region.start + 3, 1) == 0x44
    memory.store(region.start, 2, 0x0102)
    assert memory.read(region.start, 2) == b"\1\2"


@pytest.mark.parametrize("size", [1, 8, PAGE - 1, PAGE, PAGE + 1])
def test_the_bounds_are_exact(memory: AddressSpace, size: int) -> None:
    region = memory.alloc(size, RegionKind.MAP_VALUE, "v")
    memory.store(region.start, 1, 1)
    memory.store(region.end - 1, 1, 1)
    assert fault_kind(memory, region.end) is TrapKind.OUT_OF_BOUNDS
    assert fault_kind(memory, region.start - 1) is TrapKind.OUT_OF_BOUNDS
    assert fault_kind(memory, region.end - 1, 2, write=True) is TrapKind.OUT_OF_BOUNDS


def test_neighbours_are_guarded(memory: AddressSpace) -> None:
    first, second = (memory.alloc(PAGE, RegionKind.MAP_VALUE, n) for n in "ab")
    assert second.start - first.end >= PAGE
    assert fault_kind(memory, first.end - 4, 8) is TrapKind.OUT_OF_BOUNDS


def test_each_kind_of_wrong_access(memory: AddressSpace) -> None:
    fixed = memory.alloc(8, RegionKind.MAP_VALUE, "rodata", writable=False)
    user = memory.alloc(8, RegionKind.USER, "block")
    host = memory.alloc(8, RegionKind.HOST, "ours")
    handle = memory.handle("a map")
    assert memory.load(fixed.start, 8) == 0
    assert fault_kind(memory, fixed.start, write=True) is TrapKind.READ_ONLY
    assert fault_kind(memory, user.start) is TrapKind.USER_MEMORY
    assert fault_kind(memory, user.start, write=True) is TrapKind.USER_MEMORY
    assert fault_kind(memory, host.start) is TrapKind.OUT_OF_BOUNDS
    assert fault_kind(memory, handle) is TrapKind.NOT_MEMORY
    assert fault_kind(memory, 0) is TrapKind.NULL
    assert fault_kind(memory, 4095, 8) is TrapKind.NULL
    assert fault_kind(memory, (1 << 64) - 1, 8) is TrapKind.OUT_OF_BOUNDS


def test_user_pointers_never_alias_program_memory(memory: AddressSpace) -> None:
    """The low half of a user pointer lies above 2 GiB, that of a program's below."""
    kinds = [kind for kind in RegionKind for _ in range(3)]
    for number, kind in enumerate(kinds):
        region = memory.alloc(1 + number * 1000, kind, "r")
        low = region.start & 0xFFFF_FFFF
        if kind is RegionKind.USER:
            assert memory.user_base + 2 * GIB <= region.start
            assert 2 * GIB <= low < region.size + low <= 4 * GIB
        elif kind is RegionKind.HOST:  # base + zero-extended low half never gets there
            assert memory.base - GIB <= region.start < region.end < memory.base
        else:
            assert memory.base <= region.start < memory.base + 2 * GIB
            assert low + region.size <= 2 * GIB
    assert memory.base % (4 * GIB) == 0
    assert memory.user_base == memory.base + 4 * GIB


def test_user_copies(memory: AddressSpace) -> None:
    block = memory.alloc(8, RegionKind.USER, "block")
    memory.user_write(block.start, b"abc\0efgh")
    assert memory.user_read(block.start + 1, 2) == b"bc"
    assert memory.user_cstring(block.start) == b"abc"
    assert memory.user_read(1234, 0) == b""
    with pytest.raises(UserFault):
        memory.user_read(block.start + 1, 8)
    with pytest.raises(UserFault):
        memory.user_write(block.start + 6, b"xyz")
    assert memory.user_read(block.start, 8) == b"abc\0efxy", "what fits is written"
    with pytest.raises(UserFault):
        memory.user_cstring(block.start + 4)
    stack = memory.alloc(8, RegionKind.STACK, "s")
    with pytest.raises(UserFault):
        memory.user_read(stack.start, 1)
    with pytest.raises(UserFault):
        memory.user_write(stack.start, b"1")
    assert memory.is_user(block.start, 8)
    assert not memory.is_user(block.start, 9)


@pytest.mark.parametrize("size", [0, -1, GIB + 1, 1 << 40, 1 << 63])
def test_absurd_sizes_are_bad_input(memory: AddressSpace, size: int) -> None:
    with pytest.raises(InputError):
        memory.alloc(size, RegionKind.MAP_VALUE, "v")
    assert memory.committed_bytes == 0
    memory.alloc(1, RegionKind.MAP_VALUE, "v")


def test_the_limit_counts_what_exists(memory: AddressSpace) -> None:
    memory.limit_bytes = 3 * PAGE
    regions = [memory.alloc(1, RegionKind.STACK, "s") for _ in range(3)]
    with pytest.raises(InputError, match="memory limit"):
        memory.alloc(1, RegionKind.STACK, "s")
    memory.free(regions.pop())
    memory.alloc(PAGE, RegionKind.STACK, "s")


def test_the_largest_region_that_fits_is_only_reserved(memory: AddressSpace) -> None:
    region = memory.alloc(GIB, RegionKind.MAP_VALUE, "huge")
    memory.store(region.end - 8, 8, 5)
    memory.free(region)
    assert memory.committed_bytes == 0


def test_freed_memory_faults_and_does_not_come_back_at_once(memory: AddressSpace) -> None:
    region = memory.alloc(8, RegionKind.RINGBUF, "record")
    memory.store(region.start, 8, 7)
    memory.free(region)
    other = memory.alloc(8, RegionKind.RINGBUF, "record")
    assert other.start != region.start
    assert fault_kind(memory, region.start) is TrapKind.OUT_OF_BOUNDS
    with pytest.raises(InternalError):
        memory.free(region)
    with pytest.raises(InternalError):
        memory.view(region)


def test_addresses_are_reused_when_none_are_fresh_and_are_zero_again(
    memory: AddressSpace,
) -> None:
    starts = set()
    for _ in range(20):
        region = memory.alloc(GIB // 4, RegionKind.MAP_VALUE, "big")
        assert memory.load(region.start, 8) == 0
        memory.store(region.start, 8, 1)
        starts.add(region.start)
        memory.free(region)
    assert 1 < len(starts) < 20


def test_small_pieces_merge_into_a_large_one() -> None:
    ranges = _Ranges(0, 100)
    pieces = [ranges.take(10) for _ in range(9)]
    assert None not in pieces
    assert ranges.take(20) is None
    for start in pieces:
        assert start is not None
        ranges.give(start, 10)
    assert ranges.take(100) == 0
    assert ranges.take(1) is None


def test_a_slice_held_when_its_region_is_freed_stays_harmless(memory: AddressSpace) -> None:
    region = memory.alloc(8, RegionKind.RING, "ring")
    memory.write(region.start, b"12345678")
    held = memory.view(region)[2:4]
    memory.free(region)
    assert fault_kind(memory, region.start) is TrapKind.OUT_OF_BOUNDS
    assert bytes(held) == b"34"
    held[0] = 0
    memory.close()
    assert held[1] == ord("4")


def test_nothing_is_reached_after_close() -> None:
    memory = AddressSpace()
    region = memory.alloc(8, RegionKind.STACK, "s")
    view = memory.view(region)
    memory.close()
    memory.close()
    assert memory.closed
    assert fault_kind(memory, region.start) is TrapKind.OUT_OF_BOUNDS
    with pytest.raises(ValueError, match="released"):
        bytes(view)
    with pytest.raises(InputError, match="closed"):
        memory.alloc(8, RegionKind.STACK, "s")


def test_a_held_slice_stays_harmless_after_close() -> None:
    memory = AddressSpace()
    region = memory.alloc(8, RegionKind.RING, "ring")
    held = memory.view(region)[:]
    memory.close()
    held[0] = 1
    assert held[0] == 1


def _reserved_bytes() -> int:
    with open("/proc/self/status", encoding="ascii") as status:
        line = next(line for line in status if line.startswith("VmSize"))
    return int(line.split()[1]) << 10


def test_closing_gives_the_reservation_back() -> None:
    AddressSpace().close()
    before = _reserved_bytes()
    for _ in range(50):
        with AddressSpace() as memory:
            memory.alloc(PAGE, RegionKind.STACK, "s")
    assert _reserved_bytes() - before < GIB


def test_handles_stand_for_objects(memory: AddressSpace) -> None:
    first, second = object(), object()
    addrs = [memory.handle(first), memory.handle(second)]
    assert len(set(addrs)) == 2
    assert [memory.resolve(addr) for addr in addrs] == [first, second]
    assert memory.resolve(addrs[0] + 1) is None
    assert memory.region_at(addrs[0]) is None


def test_places_are_explained(memory: AddressSpace) -> None:
    region = memory.alloc(8, RegionKind.STACK, "frame 0")
    assert memory.explain(region.start + 3) == "stack frame 0+3"
    assert memory.explain(region.end + 2) == "2 bytes past the end of stack frame 0"
    assert memory.explain(5) == "below every region"
    assert "handle" in memory.explain(memory.handle("a map"))


class AllocationModel(RuleBasedStateMachine):
    """Regions never overlap, hold what was written, and everything beside them faults."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = AddressSpace(limit_bytes=64 * PAGE)
        self.live: dict[Region, bytes] = {}

    @rule(
        size=st.integers(1, 5 * PAGE),
        kind=st.sampled_from((RegionKind.STACK, RegionKind.MAP_VALUE, RegionKind.USER)),
        fill=st.integers(0, 255),
    )
    def alloc(self, size: int, kind: RegionKind, fill: int) -> None:
        try:
            region = self.memory.alloc(size, kind, f"r{len(self.live)}")
        except InputError:
            assert self.memory.committed_bytes + size + PAGE > 64 * PAGE
            return
        assert self.memory.read(region.start, size) == bytes(size)
        self.memory.write(region.start, bytes([fill]) * size)
        self.live[region] = bytes([fill]) * size

    @rule(index=st.integers(0, 99))
    def free(self, index: int) -> None:
        if self.live:
            region = list(self.live)[index % len(self.live)]
            self.memory.free(region)
            del self.live[region]

    @invariant()
    def regions_hold_their_bytes(self) -> None:
        for region, content in self.live.items():
            assert self.memory.read(region.start, region.size) == content
            assert self.memory.region_at(region.start - 1) is None
            assert self.memory.region_at(region.end) is None
        assert self.memory.regions() == sorted(self.live, key=lambda r: r.start)
        pages = sum(-(-region.size // PAGE) for region in self.live)
        assert self.memory.committed_bytes == pages * PAGE

    def teardown(self) -> None:
        self.memory.close()


TestAllocation = AllocationModel.TestCase
TestAllocation.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)


def test_what_is_recycled_comes_back_zeroed_at_its_address() -> None:
    with AddressSpace() as memory:
        memory.recycle()
        first = memory.alloc(100, RegionKind.USER, "block")
        other = memory.alloc(100, RegionKind.USER, "another")
        memory.user_write(first.start, b"x" * 100)
        memory.free(first)
        with pytest.raises(UserFault):
            memory.user_read(first.start, 1)
        assert memory.alloc(100, RegionKind.USER, "a third").start not in (first.start, other.start)
        again = memory.alloc(100, RegionKind.USER, "block")
        assert again.start == first.start
        assert memory.user_read(again.start, 100) == bytes(100)
        memory.free(other)
        with pytest.raises(UserFault):
            memory.user_read(other.start, 1)


def test_what_is_not_recycled_gets_fresh_addresses() -> None:
    with AddressSpace() as memory:
        first = memory.alloc(100, RegionKind.USER, "block")
        memory.free(first)
        assert memory.alloc(100, RegionKind.USER, "block").start != first.start


def test_regions_come_where_a_recording_had_them() -> None:
    with AddressSpace() as memory:
        first = memory.alloc(100, RegionKind.CTX, "first")
        user = memory.alloc(5000, RegionKind.USER, "user")
        place = memory.place
        later = memory.alloc(100, RegionKind.MAP_VALUE, "later")
        base = memory.base
    with AddressSpace(base=base) as memory:
        for region in (first, user):
            made = memory.alloc_at(region.start, region.size, region.kind, region.name)
            assert made == region
        memory.write(first.start, b"x")
        memory.place = place
        assert memory.alloc(100, RegionKind.MAP_VALUE, "later") == later
        assert memory.handle("one") == place[1]
        memory.free(memory.regions()[0])
        memory.alloc_at(first.start, first.size, first.kind, first.name)
        assert memory.read(first.start, 1) == b"\0"


def test_regions_do_not_come_where_others_are_or_none_can_be() -> None:
    with AddressSpace() as memory:
        there = memory.alloc(3 * PAGE, RegionKind.CTX, "there")
        end = there.start + 3 * PAGE
        for start, size, kind in (
            (there.start, 1, RegionKind.CTX),
            (there.start + PAGE, 1, RegionKind.CTX),
            (there.start - PAGE, 2 * PAGE, RegionKind.CTX),
            (end + 8, 8, RegionKind.CTX),
            (end, 0, RegionKind.CTX),
            (memory.base, 8, RegionKind.CTX),
            (memory.user_base, 8, RegionKind.CTX),
            (end, 8, RegionKind.USER),
            (memory.user_base + (1 << 32), 8, RegionKind.USER),
        ):
            with pytest.raises(InputError, match="no free place"):
                memory.alloc_at(start, size, kind, "x")
        with pytest.raises(InputError, match="limit"):
            memory.alloc_at(end, 1 << 30, RegionKind.CTX, "large")
        for place in ((0, memory.place[1]), (end + 8, memory.place[1]), (end, 0), (end, 1 << 63)):
            with pytest.raises(InputError, match="none can be"):
                memory.place = place


def test_a_watcher_is_told_what_comes_and_goes() -> None:
    told: list[tuple[str, object]] = []

    class Watcher:
        def came(self, region: Region) -> None:
            told.append(("came", region))

        def went(self, region: Region) -> None:
            told.append(("went", region))

        def named(self, addr: int, target: object) -> None:
            told.append(("named", target))

    with AddressSpace() as memory:
        memory.watcher = Watcher()
        one = memory.alloc(8, RegionKind.USER, "one")
        memory.handle("thing")
        memory.free(one)
    assert told == [("came", one), ("named", "thing"), ("went", one)]

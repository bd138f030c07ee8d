"""What programs see of maps, and what only we promise: addresses, limits, order, laziness."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from errno import E2BIG, EBADF, EINVAL, ENOENT, ENOMEM, EPERM

import pytest

from pybpfvm.errors import InputError, TrapKind, UnsupportedError
from pybpfvm.maps import make_map
from pybpfvm.maps.array import ArrayMap
from pybpfvm.maps.base import MapError
from pybpfvm.maps.handles import ProgArrayMap
from pybpfvm.maps.hash import HashMap
from pybpfvm.maps.live import LiveMap
from pybpfvm.maps.lpm import LpmTrieMap
from pybpfvm.maps.ringbuf import RingbufMap
from pybpfvm.memory import AddressSpace, MemoryFault
from pybpfvm.program import BPF_F_NO_PREALLOC, BPF_F_RDONLY_PROG, MapSpec, MapType


@pytest.fixture
def memory() -> Iterator[AddressSpace]:
    with AddressSpace(limit_bytes=16 << 20) as space:
        yield space


def live(
    memory: AddressSpace,
    type_: MapType,
    key: int,
    value: int,
    entries: int,
    flags: int = 0,
    *,
    cpus: int = 1,
) -> LiveMap:
    made = make_map(MapSpec("m", type_, key, value, entries, flags), memory, cpus=cpus)
    assert isinstance(made, LiveMap)
    return made


def k(number: int, size: int = 4) -> bytes:
    return number.to_bytes(size, "little")


def refused(errno: int, call: object, *args: object) -> None:
    assert callable(call)
    with pytest.raises(MapError) as caught:
        call(*args)
    assert caught.value.errno == errno


def test_array_elements_lie_at_a_stride_of_eight_bytes(memory: AddressSpace) -> None:
    made = live(memory, MapType.ARRAY, 4, 5, 3)
    first = made.lookup(k(0), 0)
    assert [made.lookup(k(i), 0) - first for i in range(3)] == [0, 8, 16]
    assert made.lookup(k(3), 0) == 0
    memory.store(first + 8, 4, 0x01020304)
    assert made.host_lookup(k(1)) == bytes((4, 3, 2, 1, 0))
    with pytest.raises(MemoryFault):
        memory.load(first + 24, 1)


def test_array_index_is_in_the_programs_byte_order(memory: AddressSpace) -> None:
    memory.byteorder = "big"
    made = live(memory, MapType.ARRAY, 4, 8, 3)
    assert made.lookup(b"\0\0\0\2", 0) == made.lookup(bytes(4), 0) + 16
    assert made.next_key(b"\0\0\0\1") == b"\0\0\0\2"


def test_initial_data_and_rdonly_prog(memory: AddressSpace) -> None:
    spec = MapSpec(".rodata", MapType.ARRAY, 4, 8, 1, BPF_F_RDONLY_PROG, data=b"constant")
    made = make_map(spec, memory)
    addr = made.lookup(k(0), 0)
    assert memory.program_read(addr, 8) == b"constant"
    with pytest.raises(MemoryFault) as caught:
        memory.store(addr, 1, 0)
    assert caught.value.kind is TrapKind.READ_ONLY
    made.host_update(k(0), b"replaced")
    made.freeze()
    refused(EPERM, made.host_update, k(0), b"too late")
    assert made.host_lookup(k(0)) == b"replaced"
    with pytest.raises(InputError):
        make_map(dataclasses.replace(spec, data=bytes(9)), memory)


@pytest.mark.parametrize("type_", [MapType.PERCPU_ARRAY, MapType.PERCPU_HASH])
def test_per_cpu_values_are_apart(memory: AddressSpace, type_: MapType) -> None:
    made = live(memory, type_, 4, 8, 2, cpus=3)
    made.update(k(1), k(7, 8), 0, 2)
    assert made.host_lookup(k(1)) == k(0, 8) + k(0, 8) + k(7, 8)
    memory.store(made.lookup(k(1), 0), 8, 5)
    assert made.host_lookup(k(1)) == k(5, 8) + k(0, 8) + k(7, 8)
    assert [key for key, _ in made.elements(2)][-1] == k(1)
    refused(EINVAL, made.host_update, k(1), k(0, 8))


def test_a_reused_per_cpu_slot_starts_with_zeroes(memory: AddressSpace) -> None:
    made = live(memory, MapType.PERCPU_HASH, 4, 8, 1, cpus=2)
    made.host_update(k(1), bytes(range(16)))
    made.delete(k(1))
    made.update(k(2), k(9, 8), 0, 0)
    assert made.host_lookup(k(2)) == k(9, 8) + bytes(8)


def test_updating_a_hash_element_leaves_the_old_value_to_its_holders(memory: AddressSpace) -> None:
    made = live(memory, MapType.HASH, 4, 8, 1)
    made.update(k(1), k(10, 8), 0, 0)
    held = made.lookup(k(1), 0)
    made.update(k(1), k(20, 8), 0, 0)
    assert memory.load(held, 8) == 10
    assert memory.load(made.lookup(k(1), 0), 8) == 20


def test_hash_iterates_in_order_of_insertion(memory: AddressSpace) -> None:
    made = live(memory, MapType.HASH, 4, 8, 8)
    for number in (5, 3, 9, 1):
        made.update(k(number), bytes(8), 0, 0)
    made.delete(k(9))
    made.update(k(5), bytes(8), 2, 0)
    keys = [made.next_key(None)]
    keys += [made.next_key(keys[0]), made.next_key(k(3))]
    refused(ENOENT, made.next_key, k(1))
    assert keys == [k(5), k(3), k(1)]
    assert made.next_key(k(9)) == k(5), "a key that is gone starts over"
    for key, _ in made.elements(0):
        made.delete(key)
    refused(ENOENT, made.next_key, None)


def test_a_huge_hash_costs_nothing_until_used(memory: AddressSpace) -> None:
    made = live(memory, MapType.HASH, 4, 8, 1 << 27, BPF_F_NO_PREALLOC)
    assert memory.committed_bytes == 0
    made.update(k(1), bytes(8), 0, 0)
    assert memory.committed_bytes == 4096


def test_a_hash_that_outgrows_the_memory_limit_answers_enomem(memory: AddressSpace) -> None:
    made = live(memory, MapType.HASH, 4, 1 << 20, 100)
    for number in range(16):
        made.update(k(number), bytes(1 << 20), 0, 0)
    refused(ENOMEM, made.update, k(16), bytes(1 << 20), 0, 0)
    assert isinstance(made, HashMap)
    assert len(made) == 16


def test_lru_drops_what_was_not_used_for_longest(memory: AddressSpace) -> None:
    made = live(memory, MapType.LRU_HASH, 4, 8, 3)
    for number in (1, 2, 3):
        made.update(k(number), bytes(8), 0, 0)
    made.lookup(k(1), 0)  # use
    made.update(k(2), bytes(8), 0, 0)  # use
    made.host_lookup(k(3))  # no use
    made.update(k(4), bytes(8), 0, 0)
    assert [made.lookup(k(n), 0) != 0 for n in (1, 2, 3, 4)] == [True, True, False, True]


def test_trie_finds_the_longest_prefix(memory: AddressSpace) -> None:
    made = live(memory, MapType.LPM_TRIE, 8, 4, 10, BPF_F_NO_PREALLOC)
    for length, address in ((0, "0.0.0.0"), (8, "10.0.0.0"), (24, "10.1.2.255")):
        data = bytes(map(int, address.split(".")))
        made.update(k(length) + data, k(length), 0, 0)

    def value(length: int, address: str) -> int:
        addr = made.lookup(k(length) + bytes(map(int, address.split("."))), 0)
        return memory.load(addr, 4) if addr else -1

    assert value(32, "10.1.2.3") == 24
    assert value(32, "10.9.2.3") == 8
    assert value(16, "10.1.2.3") == 8, "a longer prefix than the key's does not match"
    assert value(32, "11.0.0.0") == 0
    assert value(33, "10.1.2.3") == -1
    assert isinstance(made, LpmTrieMap)
    assert len(made) == 3


def test_program_arrays_take_programs_only(memory: AddressSpace) -> None:
    made = live(memory, MapType.PROG_ARRAY, 4, 4, 2)
    assert isinstance(made, ProgArrayMap)
    program = object()
    handle = memory.handle(program)
    made.host_update(k(1), k(handle, 8))
    assert made.program_at(1) is program
    assert made.program_at(0) is None
    assert made.program_at(99) is None
    refused(EINVAL, made.host_update, k(0), k(made.handle, 8))
    refused(EBADF, made.host_update, k(0), k(12345, 8))
    refused(E2BIG, made.host_update, k(2), k(handle, 8))
    made.host_delete(k(1))
    refused(ENOENT, made.host_delete, k(1))


@pytest.mark.parametrize("type_", [MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS])
def test_lookup_in_a_map_of_maps_gives_the_inner_map(memory: AddressSpace, type_: MapType) -> None:
    inner = MapSpec("inner", MapType.ARRAY, 4, 8, 1)
    outer = make_map(MapSpec("outer", type_, 4, 4, 2, inner=inner), memory)
    one = make_map(inner, memory)
    assert outer.lookup(k(1), 0) == 0
    outer.host_update(k(1), k(one.handle, 8))
    found = outer.lookup(k(1), 0)
    assert memory.resolve(found) is one
    assert outer.host_lookup(k(1)) == k(one.handle, 8)
    with pytest.raises(MemoryFault) as caught:
        memory.load(found, 8)
    assert caught.value.kind is TrapKind.NOT_MEMORY
    with pytest.raises(InputError, match="inner map"):
        make_map(MapSpec("outer", type_, 4, 4, 2), memory)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (MapSpec("a", MapType.ARRAY, 8, 8, 1), r"map a: .*key_size is 8.*-EINVAL"),
        (MapSpec("a", MapType.ARRAY, 4, 1 << 31, 1), "-E2BIG"),
        (MapSpec("a", MapType.ARRAY, 4, 8, 0xFFFFFFFF), "memory limit"),
        (MapSpec("a", MapType.PERCPU_ARRAY, 4, 32768, 1 << 20), "memory limit"),
        (MapSpec("q", MapType.QUEUE, 0, 8, 0xFFFFFFFF), "memory limit"),
        (MapSpec("r", MapType.RINGBUF, 0, 0, 1 << 31), "memory limit"),
        (MapSpec("r", MapType.RINGBUF, 0, 0, 5000), "power of two"),
        (MapSpec("h", MapType.HASH, 4, 8, 0xFFFFFFFF), "-E2BIG"),
    ],
)
def test_bad_declarations_are_input_errors(memory: AddressSpace, spec: MapSpec, text: str) -> None:
    with pytest.raises(InputError, match=text):
        make_map(spec, memory)
    assert memory.committed_bytes == 0


@pytest.mark.parametrize(
    ("number", "name"), [(MapType.ARENA, "ARENA"), (MapType.SOCKMAP, "SOCKMAP"), (99, "99")]
)
def test_other_types_are_named_as_unsupported(memory: AddressSpace, number: int, name: str) -> None:
    with pytest.raises(UnsupportedError, match=f"map type {name}"):
        make_map(MapSpec("m", number, 4, 4, 1), memory)


def ring(memory: AddressSpace, size: int = 4096) -> RingbufMap:
    made = live(memory, MapType.RINGBUF, 0, 0, size)
    assert isinstance(made, RingbufMap)
    return made


def test_ring_drains_in_order_of_reservation(memory: AddressSpace) -> None:
    made = ring(memory)
    first, second, third = (made.reserve(5, 0) for _ in range(3))
    made.submit(third)
    assert made.drain() == []
    memory.program_write(first, b"first")
    made.discard(second)
    made.submit(first)
    assert made.drain() == [b"first", bytes(5)]
    with pytest.raises(MemoryFault):
        memory.load(first, 1)
    assert made.query(0) == 0
    assert made.query(2) == made.query(3) == 3 * 16


def test_ring_is_full_one_byte_before_its_size(memory: AddressSpace) -> None:
    made = ring(memory)
    assert made.reserve(4096 - 8, 0) == 0
    whole = made.reserve(4096 - 16, 0)
    assert whole != 0
    assert made.reserve(0, 0) == 0
    made.discard(whole)
    assert made.reserve(0, 0) == 0, "discarding gives nothing back before the host drains"
    assert made.drain() == []
    assert made.reserve(0, 0) != 0
    assert made.reserve(8, 1) == 0, "flags"


def test_ring_record_ends_where_it_ends(memory: AddressSpace) -> None:
    made = ring(memory)
    record = made.reserve(5, 0)
    memory.store(record + 4, 1, 1)
    with pytest.raises(MemoryFault):
        memory.store(record + 5, 1, 1)
    with pytest.raises(MemoryFault):
        memory.store(record - 1, 1, 1)


def test_array_region_is_the_hosts_mapping(memory: AddressSpace) -> None:
    made = live(memory, MapType.ARRAY, 4, 8, 2, 1 << 10)
    assert isinstance(made, ArrayMap)
    memory.view(made.region)[8:16] = k(77, 8)
    assert memory.load(made.lookup(k(1), 0), 8) == 77

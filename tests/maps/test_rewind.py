"""Maps go back to how they were, and give the same addresses again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pybpfvm.maps import BpfMap, make_map
from pybpfvm.maps.queue import QueueMap
from pybpfvm.maps.rewind import rewinder
from pybpfvm.memory import AddressSpace
from pybpfvm.program import MapSpec, MapType


@pytest.fixture
def memory() -> Iterator[AddressSpace]:
    with AddressSpace() as made:
        yield made


def made(memory: AddressSpace, kind: MapType, entries: int = 600) -> BpfMap:
    key = 0 if kind in (MapType.QUEUE, MapType.STACK) else 4
    return make_map(MapSpec("m", kind, key, 16, entries, 0), memory)


def key(number: int) -> bytes:
    return number.to_bytes(4, "little")


@pytest.mark.parametrize("kind", [MapType.HASH, MapType.LRU_HASH])
def test_hashes_are_empty_again(memory: AddressSpace, kind: MapType) -> None:
    live = made(memory, kind)
    rewind = rewinder(live)
    assert rewind is not None
    seen = []
    for _ in range(3):
        for number in range(500):  # more than the slab's first chunk
            live.update(key(number), bytes([number % 256]) * 16, 0, 0)
        live.delete(key(7))
        live.update(key(7), bytes(16), 0, 0)
        seen.append([live.lookup(key(number), 0) for number in range(500)])
        rewind()
        assert live.lookup(key(3), 0) == 0
    assert seen[0] == seen[1] == seen[2]


def test_arrays_have_their_content_again(memory: AddressSpace) -> None:
    live = made(memory, MapType.ARRAY, 4)
    live.host_update(key(2), b"x" * 16)
    rewind = rewinder(live)
    assert rewind is not None
    live.update(key(2), b"y" * 16, 0, 0)
    live.update(key(0), b"z" * 16, 0, 0)
    rewind()
    assert [live.host_lookup(key(n)) for n in range(3)] == [bytes(16), bytes(16), b"x" * 16]


def test_queues_are_empty_again(memory: AddressSpace) -> None:
    live = made(memory, MapType.QUEUE)
    assert isinstance(live, QueueMap)
    rewind = rewinder(live)
    assert rewind is not None
    live.push(bytes(16), 0)
    rewind()
    assert len(live) == 0


def test_what_nothing_brings_back(memory: AddressSpace) -> None:
    full = made(memory, MapType.HASH)
    full.host_update(key(1), bytes(16))
    assert rewinder(full) is None
    ringbuf = make_map(MapSpec("r", MapType.RINGBUF, 0, 0, 4096, 0), memory)
    assert rewinder(ringbuf) is None

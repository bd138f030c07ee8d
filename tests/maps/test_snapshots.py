"""Maps of every type go back to a snapshot, and go on from it as if nothing had happened since."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from pybpfvm.image import Image, ImageSnapshot
from pybpfvm.isa.asm import assemble
from pybpfvm.maps import _MAKERS
from pybpfvm.maps.base import MapError, MapState
from pybpfvm.maps.hash import HashMap
from pybpfvm.maps.queue import QueueMap
from pybpfvm.maps.ringbuf import RingbufMap
from pybpfvm.memory import AddressSpace
from pybpfvm.program import BPF_F_NO_PREALLOC, BpfObject, MapSpec, MapType, Program

_INNER = MapSpec("inner", MapType.ARRAY, 4, 8, 2)
_SPECS = (
    MapSpec("array", MapType.ARRAY, 4, 8, 3),
    MapSpec("percpu array", MapType.PERCPU_ARRAY, 4, 8, 2),
    MapSpec("hash", MapType.HASH, 4, 8, 4),
    MapSpec("large values", MapType.HASH, 4, 3000, 4),
    MapSpec("percpu hash", MapType.PERCPU_HASH, 4, 8, 3),
    MapSpec("lru", MapType.LRU_HASH, 4, 8, 3),
    MapSpec("percpu lru", MapType.LRU_PERCPU_HASH, 4, 8, 3),
    MapSpec("lpm", MapType.LPM_TRIE, 5, 8, 4, flags=BPF_F_NO_PREALLOC),
    MapSpec("queue", MapType.QUEUE, 0, 8, 3),
    MapSpec("stack", MapType.STACK, 0, 8, 3),
    MapSpec("ring", MapType.RINGBUF, 0, 0, 4096),
    MapSpec("programs", MapType.PROG_ARRAY, 4, 4, 3, slots={0: "first"}),
    _INNER,
    MapSpec("second inner", MapType.ARRAY, 4, 8, 2),
    MapSpec("array of maps", MapType.ARRAY_OF_MAPS, 4, 4, 3, inner=_INNER, slots={1: "inner"}),
    MapSpec("hash of maps", MapType.HASH_OF_MAPS, 4, 4, 3, inner=_INNER),
)
_PROGRAMS = tuple(Program(name, "test", assemble("r0 = 0\nexit")) for name in ("first", "second"))
_OBJECT = BpfObject("maps", "", _PROGRAMS, _SPECS)
_NAMES = [spec.name for spec in _SPECS]
# (map, operation, number that its key is made of, number that its value is made of)
_Op = tuple[str, str, int, int]


def test_every_type_is_here() -> None:
    assert {spec.type for spec in _SPECS} == set(_MAKERS)


def key_of(spec: MapSpec, number: int) -> bytes:
    if spec.type == MapType.LPM_TRIE:
        return (number % 9).to_bytes(4, "little") + bytes((0xA5,))
    return number.to_bytes(spec.key_size, "little") if spec.key_size else b""


def value_of(image: Image, live: Any, number: int) -> bytes:
    spec = live.spec
    if spec.type == MapType.PROG_ARRAY:
        return image.program_handle(("first", "second")[number % 2]).to_bytes(8, "little")
    if spec.type in (MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS):
        inner = image.maps[("inner", "second inner")[number % 2]]
        return inner.handle.to_bytes(8, "little")
    return bytes((number + 1,) * spec.value_size)


def per_cpu(live: Any, value: bytes) -> bytes:
    return value * 2 if "percpu" in live.spec.name else value


def do(image: Image, op: _Op) -> object:
    """Do it; what came of it."""
    name, what, key_number, value_number = op
    live: Any = image.maps[name]
    key = key_of(live.spec, key_number)
    value = value_of(image, live, value_number)
    actions: dict[str, Callable[[], object]] = {
        "lookup": lambda: live.lookup(key, 1),
        "update": lambda: live.update(key, value, 0, 1),
        "delete": lambda: live.delete(key),
        "host lookup": lambda: live.host_lookup(key),
        "host update": lambda: live.host_update(key, per_cpu(live, value)),
        "host delete": lambda: live.host_delete(key),
        "pop": lambda: live.host_lookup_and_delete(key),
        "next": lambda: live.next_key(key if key_number else None),
        "walk": lambda: list(live.elements(0)),
        "freeze": lambda: live.freeze(),
    }
    try:
        if isinstance(live, RingbufMap):
            return on_ring(live, what, key_number, value)
        if what == "pop" and isinstance(live, QueueMap):
            return live.pop()
        return actions[what]()
    except MapError as error:
        return error.errno


_WHAT = (
    *("lookup", "update", "delete", "pop", "next", "walk", "freeze"),
    *("host lookup", "host update", "host delete"),
)


def on_ring(live: RingbufMap, what: str, number: int, value: bytes) -> object:
    reserved = sorted(r.region.start for r in live._records if r.region is not None)
    if what in ("update", "host update"):
        return live.reserve(1 + 100 * number, 0)
    if what == "walk":
        return live.drain()
    if what == "lookup":
        live.output(bytes(50 * number), 0)
        return None
    if reserved and what in ("delete", "pop"):
        finish = live.submit if what == "pop" else live.discard
        finish(reserved[number % len(reserved)])
        return None
    return live.query(number % 4)


def compared(image: Image) -> tuple[object, list[tuple[str, MapState]]]:
    """A snapshot as values that two images can have in common."""
    taken = image.snapshot()
    handles = [type(target) for target in taken.memory.handles.values()]
    memory = taken.memory
    there = memory.regions, memory.contents, memory.program_range, handles, memory.next_handle
    return there, [(live.spec.name, state) for live, state in taken.maps]


class Replayed(RuleBasedStateMachine):
    """Beside the maps that go back and forth stand others, in which only what counts was done."""

    @initialize(names=st.lists(st.sampled_from(_NAMES), min_size=1, max_size=2))
    def begin(self, names: list[str]) -> None:
        self.names = names
        self.image = Image(_OBJECT, cpus=2)
        for live in self.image.maps.values():
            if isinstance(live, HashMap):
                live.index()
        self.done: list[_Op] = []
        self.came: list[object] = []
        self.taken: list[tuple[ImageSnapshot, list[_Op], list[object]]] = []
        self.take()

    @rule(
        which=st.integers(0, 1),
        what=st.sampled_from(_WHAT),
        key=st.integers(0, 5),
        value=st.integers(0, 3),
    )
    def act(self, which: int, what: str, key: int, value: int) -> None:
        name = self.names[which % len(self.names)]
        if what == "freeze" and value:
            return
        self.done.append((name, what, key, value))
        self.came.append(do(self.image, self.done[-1]))

    @rule()
    def take(self) -> None:
        self.taken.append((self.image.snapshot(), list(self.done), list(self.came)))
        for live in self.image.maps.values():
            reserved = isinstance(live, RingbufMap) and bool(live._reserved)
            assert live.accepts(live.state()) != reserved, live

    @precondition(lambda self: self.taken)
    @rule(which=st.integers(0, 99))
    def go_back(self, which: int) -> None:
        taken, done, came = self.taken[which % len(self.taken)]
        self.image.restore(taken)
        self.done, self.came = list(done), list(came)
        assert self.image.snapshot() == taken
        for live in self.image.maps.values():
            if isinstance(live, HashMap):
                check_index(live)

    def teardown(self) -> None:
        found = compared(self.image)
        base = self.image.memory.base
        self.image.close()
        with Image(_OBJECT, AddressSpace(base=base), cpus=2) as anew:
            assert [do(anew, op) for op in self.done] == self.came
            assert compared(anew) == found


# What no such map can be in, made of what it is in.
_WRONG: dict[str, tuple[Callable[[Any], object], ...]] = {
    "array": (lambda s: (1,), lambda s: (False, 0)),
    "hash": (
        lambda s: (s[0], s[1], (*s[2], s[2][0])),
        lambda s: (s[0], s[1], ((s[2][0][0], s[2][0][1] + 1), *s[2][1:])),
        lambda s: (s[0], s[1], ((s[2][0][0], s[2][1][1]), *s[2][1:])),
        lambda s: (s[0], s[1], ((b"short", s[2][0][1]), *s[2][1:])),
        lambda s: (s[0], (*s[1][:2], (*s[1][2], s[2][0][1])), s[2]),
        lambda s: (s[0], (99, *s[1][1:]), s[2]),
        lambda s: (s[0], s[1], dict.fromkeys(s[2])),
        lambda s: (s[0], (s[1][0], 0, s[1][2]), s[2]),
        lambda s: (s[0], (0.0, *s[1][1:]), s[2]),
        lambda s: (s[0], (False, *s[1][1:]), s[2]),
        lambda s: (s[0], (s[1][0], 4096.0, s[1][2]), s[2]),
        lambda s: (s[0], (*s[1][:2], (float(s[1][2][0]), *s[1][2][1:])), s[2]),
        lambda s: (s[0], (*s[1][:2], (float("inf"), *s[1][2][1:])), s[2]),
        lambda s: (s[0], s[1], ((s[2][0][0], float(s[2][0][1])), *s[2][1:])),
    ),
    "lru": (lambda s: (*s[:3], s[3][1:]), lambda s: (*s[:3], (*s[3][1:], b"abcd"))),
    "lpm": (
        lambda s: (s[0], s[1], ((s[2][0][0], s[2][1][1]), *s[2][1:])),
        lambda s: (s[0], s[1], ((s[2][1][0], s[2][0][1]), *s[2][1:])),
        lambda s: (s[0], s[1], ((s[2][0][0], 0), *s[2][1:])),
        lambda s: (s[0], s[1], ((s[2][0][0], float(s[2][0][1])), *s[2][1:])),
        lambda s: (s[0], s[1], ((b"\xff" * 5, s[2][0][1]), *s[2][1:])),
        lambda s: (s[0], s[1], ((tuple(s[2][0][0]), s[2][0][1]), *s[2][1:])),
    ),
    "queue": (lambda s: (s[0], (b"short",)), lambda s: (s[0], s[1] * 4)),
    "ring": (
        lambda s: (*s[:3], s[3][1:]),
        lambda s: (s[0], s[1] + 8, s[2], s[3]),
        lambda s: (s[0], 0, 0, ((8, 5, None),)),
        lambda s: (s[0], 8, 0, ((8, None, b"more than that"),)),
        lambda s: (s[0], float(s[1]), *s[2:]),
        lambda s: (s[0], s[1], False, s[3]),
        lambda s: (s[0], 8, 0, ((8.0, None, None),)),
        lambda s: (s[0], (1 << 64) - 8, (1 << 64) - 8, ()),
        lambda s: (s[0], float("inf"), float("inf"), ()),
    ),
    "programs": (
        lambda s: (s[0], {0: 5}),
        lambda s: (s[0], {9: s[1][0]}),
        lambda s: (s[0], {0.5: s[1][0]}),
        lambda s: (s[0], {False: s[1][0]}),
        lambda s: (s[0], {0: float(s[1][0])}),
    ),
    "array of maps": (lambda s: (s[0], {0: 5}), lambda s: (s[0], {-1: s[1][1]})),
    "hash of maps": (lambda s: (s[0], s[1], ((s[2][0][0], s[1][2][0]), *s[2][1:])),),
}


@pytest.mark.parametrize("name", _WRONG)
def test_a_state_that_can_not_be_is_not_accepted(name: str) -> None:
    with Image(_OBJECT, cpus=2) as image:
        live: Any = image.maps[name]
        for number in (1, 2):
            do(image, (name, "lookup" if name == "ring" else "host update", number, number))
        assert live.accepts(live.state())
        for wrong in _WRONG[name]:
            given = wrong(live.state())
            with contextlib.suppress(TypeError, ValueError):
                assert not live.accepts(given)


def test_states_can_be_recorded() -> None:
    """Prefixes of IPv6 have more bits than a number in a recording."""
    spec = MapSpec("wide", MapType.LPM_TRIE, 20, 8, 4, flags=BPF_F_NO_PREALLOC)
    with Image(BpfObject("maps", "", _PROGRAMS, (spec,)), cpus=1) as image:
        live = image.maps["wide"]
        for bits in (128, 100):
            live.host_update(bits.to_bytes(4, "little") + b"\xa5" * 16, bytes(8))
        state = live.state()
        assert msgpack.unpackb(msgpack.packb(state), use_list=False) == state
        before = list(live.content())
        live.host_delete(bits.to_bytes(4, "little") + b"\xa5" * 16)
        assert live.accepts(state)
        live.restore(state)
        assert list(live.content()) == before


def test_orders_come_back() -> None:
    with Image(_OBJECT, cpus=2) as image:
        for key in (0, 1, 2):
            for name in ("hash", "lru", "queue", "stack"):
                do(image, (name, "update" if name in ("hash", "lru") else "host update", key, key))
        do(image, ("lru", "lookup", 0, 0))
        taken = image.snapshot()
        for name in ("hash", "lru"):
            do(image, (name, "delete", 1, 0))
            do(image, (name, "update", 1, 0))
        for name in ("queue", "stack"):
            do(image, (name, "pop", 0, 0))
            do(image, (name, "host update", 0, 3))
        image.restore(taken)
        keys = [key_of(image.maps["hash"].spec, key) for key in range(4)]
        for name in ("hash", "lru"):
            walked = do(image, (name, "walk", 0, 0))
            assert isinstance(walked, list)
            assert [key for key, _ in walked] == keys[:3]
        do(image, ("lru", "update", 3, 3))  # drops what was used least recently
        assert not image.maps["lru"].lookup(keys[1], 0)
        for name, order in (("queue", (1, 2, 3)), ("stack", (3, 2, 1))):
            popped = [do(image, (name, "pop", 0, 0)) for _ in order]
            assert popped == [bytes((number,) * 8) for number in order]


def check_index(live: HashMap) -> None:
    """Compiled code finds what is there: each key once, beside the address of its value."""
    index = live.index()
    if index is None:
        return
    words = index._view
    size = index._entry_bytes
    found = {}
    for at in range(0, len(words), size):
        hashed, addr = (int.from_bytes(words[at + o : at + o + 8], "little") for o in (0, 8))
        if hashed & 1:
            found[bytes(words[at + 16 : at + 16 + live.spec.key_size])] = addr
    assert found == dict(live.elements(0))


Replayed.TestCase.settings = settings(max_examples=120, stateful_step_count=50, deadline=None)
TestReplayed = Replayed.TestCase

"""Helpers as bytecode of our own against the implementation in Python."""

from __future__ import annotations

import struct
from random import Random

import pytest

from pybpfvm.engine import RunEnvironment
from pybpfvm.helpers.table import HELPERS
from pybpfvm.image import Image
from pybpfvm.isa.asm import assemble
from pybpfvm.jit.assemble import SOURCES
from pybpfvm.jit.bytecode import binary
from pybpfvm.jit.engine import JitEngine
from pybpfvm.jit.options import Checks
from pybpfvm.maps.base import MapError
from pybpfvm.maps.hash import HashMap
from pybpfvm.maps.hashindex import HashIndex
from pybpfvm.memory import AddressSpace, RegionKind
from pybpfvm.program import BpfObject, MapSpec, MapType, Program
from pybpfvm.session.engines import jit_refusal

pytestmark = pytest.mark.skipif(jit_refusal() is not None, reason=str(jit_refusal()))

_LOOKUP = 1
_HELPERS = {_LOOKUP: HELPERS["map_lookup_elem"]}
_CODE = "r2 = r1\nr1 = map[m] ll\ncall map_lookup_elem\nexit"


def lookup_program() -> Program:
    """Looks up the key that the context holds; the address of the value, or 0."""
    calls = {"map_lookup_elem": _LOOKUP}
    return Program("lookup", "test", assemble(_CODE, calls=calls, maps={"m": 0}))


def test_what_is_shipped_is_what_the_sources_say() -> None:
    for name, assembled in SOURCES.items():
        assert binary(name).read_bytes() == assembled(), f"make bytecode: {name}"


@pytest.mark.parametrize("key_bytes", [1, 2, 3, 4, 5, 7, 8, 12, 13, 16, 20, 64])
def test_hash_lookups(key_bytes: int) -> None:
    """After each of thousands of updates and deletions a lookup finds what Python finds."""
    random = Random(key_bytes)
    spec = MapSpec("m", MapType.HASH, key_bytes, 8, 100)
    program = lookup_program()
    with (
        Image(BpfObject("test", "", (program,), (spec,))) as image,
        JitEngine(image, _HELPERS, RunEnvironment(), checks=Checks.NONE) as engine,
    ):
        ctx = image.memory.alloc(64, RegionKind.CTX, "context")
        live = image.maps["m"]
        assert isinstance(live, HashMap)
        keys = [bytes(random.randrange(3) for _ in range(key_bytes)) for _ in range(200)]
        found = 0
        for step in range(3_000):
            key = random.choice(keys)
            try:
                if random.random() < 0.5:
                    live.update(key, struct.pack("<Q", step), 0, 0)
                else:
                    live.delete(key)
            except MapError:
                pass
            image.memory.write(ctx.start, key)
            result = engine.run(program, ctx.start).r0
            assert result == live.lookup(key, 0), f"step {step}"
            found += result != 0
        assert 0 < found < 3_000
        assert live._index is not None, "compiled code did not look up by itself"


def test_array_lookups() -> None:
    spec = MapSpec("m", MapType.ARRAY, 4, 12, 7)
    program = lookup_program()
    with (
        Image(BpfObject("test", "", (program,), (spec,))) as image,
        JitEngine(image, _HELPERS, RunEnvironment(), checks=Checks.NONE) as engine,
    ):
        ctx = image.memory.alloc(4, RegionKind.CTX, "context")
        for index in (*range(9), 1 << 31, (1 << 32) - 1):
            image.memory.write(ctx.start, index.to_bytes(4, "little"))
            expected = image.maps["m"].lookup(index.to_bytes(4, "little"), 0)
            assert engine.run(program, ctx.start).r0 == expected
            assert (expected == 0) == (index >= 7)


@pytest.mark.parametrize(
    "kind", [MapType.LRU_HASH, MapType.PERCPU_HASH, MapType.PERCPU_ARRAY, MapType.LPM_TRIE]
)
def test_other_maps_stay_with_python(kind: MapType) -> None:
    """Looking up there is more than that."""
    flags = 1 if kind is MapType.LPM_TRIE else 0
    spec = MapSpec("m", kind, 4 if kind is MapType.PERCPU_ARRAY else 8, 8, 4, flags=flags)
    program = lookup_program()
    with (
        Image(BpfObject("test", "", (program,), (spec,))) as image,
        JitEngine(image, _HELPERS, RunEnvironment(), checks=Checks.NONE) as engine,
    ):
        ctx = image.memory.alloc(8, RegionKind.CTX, "context")
        live = image.maps["m"]
        key = bytes(live.spec.key_size)
        live.update(key, bytes(8), 0, 0)
        assert engine.run(program, ctx.start).r0 == live.lookup(key, 0) != 0


def test_deleted_entries_do_not_fill_the_index() -> None:
    """Tens of thousands of keys come and go in a map of four."""
    with AddressSpace() as memory:
        index = HashIndex(memory, 4, 4, ())
        for number in range(20_000):
            index.put(number.to_bytes(4, "little"), number)
            if number >= 4:
                index.remove((number - 4).to_bytes(4, "little"))
        assert len(index._places) == 4
        assert index._used <= index._mask

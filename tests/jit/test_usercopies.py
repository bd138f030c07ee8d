"""User copies as bytecode of our own against the helpers in Python: results and memory."""

from __future__ import annotations

import struct
from collections.abc import Callable
from importlib.util import find_spec
from random import Random

import pytest

from pybpfvm.engine import Engine, RunEnvironment
from pybpfvm.helpers.table import HELPERS
from pybpfvm.image import Image
from pybpfvm.isa.asm import assemble
from pybpfvm.jit.compiling import _COPIES
from pybpfvm.jit.engine import JitEngine
from pybpfvm.jit.options import Checks
from pybpfvm.jit.ringcode import RING
from pybpfvm.jit.usercopies import ENTRIES
from pybpfvm.memory import AddressSpace, Region, RegionKind
from pybpfvm.program import BpfObject, Program
from pybpfvm.session.engines import jit_refusal
from pybpfvm.userblocks import BLOCKS
from pybpfvm.vm.interp import Interpreter

pytestmark = pytest.mark.skipif(jit_refusal() is not None, reason=str(jit_refusal()))

_NAMES = ("copy_from_user", "bpf_copy_to_user", "probe_read_user")
_HELPERS = {number: HELPERS[name] for number, name in enumerate(_NAMES, 1)}
_BYTES = 64  # behind the three words of the context: what is copied to or from
_MOST = 48
# The context says what to copy: address, size, and where in its buffer.
_FROM = """
r2 = *(u64 *)(r1 + 8)
r3 = *(u64 *)(r1 + 0)
r4 = *(u64 *)(r1 + 16)
r1 += 24
r1 += r4
call {helper}
exit
"""
_TO = """
r5 = *(u64 *)(r1 + 0)
r3 = *(u64 *)(r1 + 8)
r2 = *(u64 *)(r1 + 16)
r1 += 24
r2 += r1
r1 = r5
call {helper}
exit
"""
Making = Callable[[Image], Engine]


def _program(helper: str) -> Program:
    calls = {name: number for number, name in enumerate(_NAMES, 1)}
    text = _TO if helper == "bpf_copy_to_user" else _FROM
    return Program(helper, "test", assemble(text.format(helper=helper), calls=calls))


def _jit(image: Image) -> Engine:
    return JitEngine(image, _HELPERS, RunEnvironment(), checks=Checks.NONE)


def _llvm(image: Image) -> Engine:
    from pybpfvm.jit.llvm.engine import LlvmEngine

    return LlvmEngine(image, _HELPERS, RunEnvironment(), checks=Checks.NONE, cache=None)


_ENGINES = [
    pytest.param(_jit, id="jit"),
    pytest.param(
        _llvm,
        id="llvm",
        marks=pytest.mark.skipif(
            find_spec("llvmlite") is None, reason="the extra llvm is not installed"
        ),
    ),
]


class Side:
    """One address space with blocks of user memory, and an engine."""

    def __init__(self, program: Program, make: Making) -> None:
        self.image = Image(BpfObject("test", "", (program,), ()))
        self.memory: AddressSpace = self.image.memory
        self.program = program
        self.ctx = self.memory.alloc(24 + _BYTES, RegionKind.CTX, "context")
        self.blocks = [self.block(size) for size in (1, 7, 8, 40, 4096, 5000)]
        self.engine = make(self.image)

    def block(self, size: int) -> Region:
        made = self.memory.alloc(size, RegionKind.USER, "block")
        self.memory.user_write(made.start, bytes(at * 7 & 255 for at in range(size)))
        return made

    def copy(self, addr: int, size: int, at: int) -> object:
        """What the program gives, and memory afterwards."""
        buffer = bytes(200 + index & 255 for index in range(_BYTES))
        self.memory.write(self.ctx.start, struct.pack("<QQQ", addr, size, at) + buffer)
        r0 = self.engine.run(self.program, self.ctx.start).r0
        return r0, self.memory.read(self.ctx.start, self.ctx.size), self.contents()

    def contents(self) -> list[bytes]:
        return [self.memory.user_read(one.start, one.size) for one in self.blocks]

    def close(self) -> None:
        self.engine.close()
        self.image.close()


@pytest.mark.parametrize("make", _ENGINES)
@pytest.mark.parametrize("helper", _NAMES)
def test_copies_at_the_edges_of_blocks(helper: str, make: Making) -> None:
    """Sizes and places around each edge: the result, what was copied, what was zeroed."""
    program = _program(helper)
    ours = Side(program, make)
    theirs = Side(program, lambda image: Interpreter(image, _HELPERS, RunEnvironment()))
    random = Random(helper)
    outcomes = set()
    for _ in range(600):
        which = random.randrange(len(ours.blocks))
        edge = random.choice((0, ours.blocks[which].size)) + random.randrange(-_MOST, 10)
        size, at = random.randrange(_MOST + 1), random.randrange(_BYTES - _MOST)
        upper = random.choice((0, 0, 1 << 32, 0xFFFF_FFFF << 32))  # of the size: not looked at
        got = ours.copy(ours.blocks[which].start + edge, size | upper, at)
        wanted = theirs.copy(theirs.blocks[which].start + edge, size | upper, at)
        assert isinstance(got, tuple)
        assert isinstance(wanted, tuple)
        # The first word of the context is an address, which differs.
        assert (got[0], got[1][8:], got[2]) == (wanted[0], wanted[1][8:], wanted[2]), (edge, size)
        outcomes.add(got[0])
    assert len(outcomes) == 2, "some copies succeed, some fail"
    for side in (ours, theirs):
        side.close()


@pytest.mark.parametrize("make", _ENGINES)
def test_addresses_that_are_none(make: Making) -> None:
    program = _program("copy_from_user")
    side = Side(program, make)
    for addr in (0, 1, (1 << 64) - 1, (1 << 64) - 8, side.memory.base, side.ctx.start, 1 << 63):
        for size in (1, 8, 16):
            got = side.copy(addr, size, 0)
            assert isinstance(got, tuple)
            assert got[0] == (1 << 64) - 14
            assert got[1][24 : 24 + size] == bytes(size)
    side.close()


def test_blocks_come_and_go_between_copies() -> None:
    """New blocks are found, more of them than the table holds, and freed ones are not copied
    from."""
    side = Side(_program("copy_from_user"), _jit)
    assert isinstance(side.engine, JitEngine)
    assert side.copy(side.blocks[3].start, 8, 0)
    copies = side.engine._copies
    assert copies is not None
    made = [side.block(16) for _ in range(BLOCKS + 4)]
    for block in made:
        got = side.copy(block.start, 16, 0)
        assert isinstance(got, tuple)
        assert (got[0], got[1][24:40]) == (0, bytes(at * 7 & 255 for at in range(16)))
    assert copies._blocks.starts() == [block.start for block in made[-BLOCKS:]]
    for block in made:
        side.memory.free(block)
        assert block.start not in copies._blocks.starts()
        got = side.copy(block.start, 16, 0)
        assert isinstance(got, tuple)
        assert (got[0], got[1][24:40]) == ((1 << 64) - 14, bytes(16))
    side.close()


def test_python_is_asked_only_for_what_no_block_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def is_user(_: AddressSpace, addr: int, _size: int) -> bool:
        asked.append(addr)
        return False

    monkeypatch.setattr(AddressSpace, "is_user", is_user)
    side = Side(_program("copy_from_user"), _jit)
    side.copy(side.blocks[4].start, 32, 0)
    assert asked == []
    side.copy(side.blocks[4].start + 4090, 32, 0)
    assert asked == [], "no block is new"
    side.block(8)
    side.copy(side.blocks[4].start + 4090, 32, 0)
    assert asked == [side.blocks[4].start + 4090]
    side.close()


def test_the_functions_are_those_of_the_source() -> None:
    assert set(_COPIES.values()) == set(ENTRIES)
    assert set(_COPIES) <= set(RING.native)

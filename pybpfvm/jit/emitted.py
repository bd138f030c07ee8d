"""What an emitter is told and what it makes: how to build, the code, the sites at which it asks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from pybpfvm.errors import TrapKind
from pybpfvm.helpers.proto import ArgType, Helper
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import Kind, Pseudo
from pybpfvm.jit.options import Checks
from pybpfvm.outline import Outline, written
from pybpfvm.program import Program
from pybpfvm.recording import NOTHING, Recording


class Ask(Enum):
    """What compiled code asks Python at a site."""

    FUEL = "may the block go on"
    ACCESS = "may the access be made"
    REFUSE = "nothing: this can not be executed"
    TAIL_CALL = "where does the tail call lead"
    PACKET = "what does the packet load give"
    HOOK = "the observer of instructions"
    KEY = "may the key be read"


@dataclass(slots=True)
class Site:
    """A place where compiled code asks; `site` is what returns there.

    `pc` and `index` are the instruction's, `after` is how many more its block has. ACCESS: `words`
    is the displacement of the site's words (0: always ask) and `skip` the offset behind the
    access. KEY: as for ACCESS, for `count` bytes at r2. PACKET: `skip` is the offset of the code
    that leaves the function. REFUSE: `why`. FUEL: the block has `count` instructions from `index`
    on, `edge` leads to it (None: the state knows); where control leaves the program, `why`.
    """

    ask: Ask
    pc: int
    index: int
    after: int
    words: int = 0
    skip: int = 0
    why: tuple[TrapKind, str] | None = None
    count: int = 0
    edge: int | None = None


@dataclass(slots=True)
class Code:
    """What `emit` makes: bytes, to be placed anywhere, and what is where in them.

    `starts[i]` is the pc of instruction i and `offsets[i]` where it begins, `entries` are the
    offsets of functions by pc, `sites` those behind the calls of the callout thunk, `ends` by
    index of the first instruction of a block that of its last; `rooms` likewise for instructions
    whose room in the trace is taken at once. `blocks` are the offsets of blocks by pc, `saved` by
    function the registers that its prologue pushes, `returns` by index of a local call where that
    comes back to. `start` is the offset of the way in, `tail` of
    the main function behind its prologue.
    """

    data: bytearray = field(default_factory=bytearray)
    outward: list[tuple[int, int]] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    entries: dict[int, int] = field(default_factory=dict)
    sites: dict[int, Site] = field(default_factory=dict)
    ends: dict[int, int] = field(default_factory=dict)
    rooms: dict[int, int] = field(default_factory=dict)
    starts: list[int] = field(default_factory=list)
    blocks: dict[int, int] = field(default_factory=dict)
    saved: dict[int, tuple[int, ...]] = field(default_factory=dict)
    returns: dict[int, int] = field(default_factory=dict)
    start: int = 0
    tail: int = 0


@dataclass(frozen=True, slots=True)
class Build:
    """How a program is compiled.

    `fuel`: instructions are counted and limited. `uniform`: every function saves all registers,
    so that tail calls may go from any to any. `hooked`: Python sees each instruction.
    `check_return`: note where the program ends, for its return value will be checked. `shares`:
    others change its memory while it runs, so each load is made once, where it stands. `walked`:
    frames are read from the native stack; such code is `uniform`, too, and checked EXACT.
    """

    checks: Checks = Checks.EXACT
    fuel: bool = True
    uniform: bool = False
    hooked: bool = False
    check_return: bool = False
    shares: bool = False
    walked: bool = False
    record: Recording = NOTHING


@dataclass(frozen=True, slots=True)
class Known:
    """A helper whose result is known: nothing is called."""

    result: int


# What to call for a helper: a Python object, or the address of machine code; or it is Known.
Callee = Callable[[Helper], object]
# For a map's handle: what its lookup gets in place of it, the address of the machine code, and the
# bytes of a key.
Lookup = Callable[[int], tuple[int, int, int] | None]


class Constants(Protocol):
    """What says which values the LDDW instructions of a program load: its image."""

    def constant(self, program: Program, pc: int, insn: Insn) -> int:
        """See Image.constant."""


def arguments_used(helper: Helper) -> int:
    """How many argument registers the implementation may look at."""
    if helper.checked_args < 5:
        return 5
    used = [n for n, kind in enumerate(helper.args, 1) if kind is not ArgType.DONTCARE]
    return max(used, default=0)


def map_in_r1(
    program: Program, outline: Outline, image: Constants, first: int, index: int
) -> int | None:
    """The handle of the map that r1 holds for certain at instruction `index` of a block that begins
    at `first`, None if that is not plain."""
    for before in range(index - 1, first - 1, -1):
        insn = program.insns[before]
        if insn.spec.kind is Kind.CALL:
            return None
        if written(insn) == 1:
            if insn.spec.kind is not Kind.LDDW or insn.src != Pseudo.MAP_IDX:
                return None
            return image.constant(program, outline.starts[before], insn)
    return None

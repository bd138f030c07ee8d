"""What is made of a program with its IR, and what the IR is written with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pybpfvm.errors import TrapKind
from pybpfvm.jit.emitted import Ask

# Words of the table that every program has; behind them its own.
ASK, HELPER, NATIVE, SITES = 0, 1, 7, 8
FIRST_OWN = 9
# What a patchpoint leaves room for: call [rip + x], before it for helpers mov r11, [rip + x].
CALL_BYTES, HELPER_BYTES = 6, 13

# LLVM's time grows faster than its basic blocks, and it makes long ones out of short ones: it gets
# no code of more instructions than these without a way to Python in it, unless it is a loop.
PIECE_INSNS = 128
LIKELY, UNLIKELY, PROGRAM, STATE = ", !prof !0", ", !prof !1", ", !tbaa !6", ", !tbaa !7"
FIXED = ", !invariant.load !2"


@dataclass(slots=True)
class Place:
    """Where Python is asked, or called: what it must know of the instruction.

    `after`: how many instructions its block has behind it. `shown`: the registers whose values the
    place's record gives, behind the fuel and in front of r10. FUEL: `count` is wanted.
    `site`: number of the access site, -1 for none. `callee`: for helpers the word of their object,
    or their address, `helper` that of their thunk.
    """

    index: int
    after: int
    shown: tuple[int, ...]
    ask: Ask | None = None
    count: int = 0
    site: int = -1
    why: tuple[TrapKind, str] | None = None
    callee: int = 0
    helper: int = 0


@dataclass(slots=True)
class Ir:
    """`text`, and what belongs to it: the places by patchpoint id, the words of the program's own
    by number, how many access sites there are, the index of the last instruction of each block by
    that of its first, the pcs of functions that may be called back."""

    text: str
    places: list[Place]
    words: list[int]
    sites: int
    ends: dict[int, int]
    starts: list[int]
    entries: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Lookup:
    """A function that looks up in one map, given `stands_for` in place of its handle; the registers
    it takes."""

    stands_for: int
    function: str
    registers: list[int]
    key_bytes: int


@dataclass(frozen=True, slots=True)
class Linked:
    """Functions that stand for helpers. `text` defines them. `lookup` is for map_lookup_elem: what
    there is for the map with a handle."""

    text: str
    lookup: Callable[[int], Lookup | None]


def word_at(number: int) -> str:
    """Where the word of this number in the engine's block is, as a constant of the IR."""
    return f"getelementptr (i8, ptr @words, i64 {8 * number})"

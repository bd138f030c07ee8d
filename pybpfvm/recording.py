"""What runs leave behind when an engine is asked to record them; the same from every engine.

An instruction is executed as the engine contract counts it: the one that traps is, the one that
the budget does not cover is not. Where control leaves the program, that counts once more, at the
instruction it came from. A Recorded is read and reset between runs, before its engine is closed;
it adds up what several runs leave. After a run that something else than a Trap ended (an exception
of a hook, an interrupt) nothing is promised of the block that was being executed.

edges   A map of EDGE_MAP_BYTES 8-bit counters that wrap around, as AFL keeps it. A block (see
        Outline.blocks) counts when its first instruction is executed, however the run gets there:
        falling through, by a jump, by a local call or the return from one, by a callback or from
        the helper that called it, by a tail call. `map[(before >> 1) ^ block] += 1`, where
        `before` is the number of the block that counted last in the run, 0 at its start, and
        numbers are those of `block_number`. Leaving the program, exits and traps are no blocks.
counts  How often each instruction was executed. They add up to what RunResult and Trap count.
trace   The last instructions executed, oldest first, each where it ended: a helper call behind
        the callbacks it made; a local call, which ends where the function begins, before it. The
        value is what the instruction left in the register it changes (`outline.changed`: r0 for
        helper calls, 0 behind a successful tail call); 0 for those that change none and for the
        one that trapped, with which the trace of such a run ends, but for the helper calls it was
        called back from.
"""

from __future__ import annotations

import zlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

from pybpfvm.errors import InputError
from pybpfvm.program import Program

EDGE_MAP_BYTES = 1 << 16
MAX_TRACE = 1 << 20


@dataclass(frozen=True, slots=True)
class Recording:
    """What to record; nothing costs nothing.

    `edges`: the map of edges. `counts`: executions of each instruction. `trace`: the last so many
    instructions executed, up to MAX_TRACE.
    """

    edges: bool = False
    counts: bool = False
    trace: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.trace <= MAX_TRACE:
            raise InputError(
                f"a trace of {self.trace} instructions",
                where="recording",
                remedy=f"0 to {MAX_TRACE}",
            )


NOTHING = Recording()


class Executed(NamedTuple):
    """One record of a trace: the instruction's program and pc, and the value that it left."""

    program: str
    pc: int
    value: int


class Recorded(Protocol):
    """What the runs of one engine left since it was made or reset; empty what was not asked."""

    @property
    def edges(self) -> bytes:
        """The map of edges."""

    @property
    def counts(self) -> Mapping[str, Mapping[int, int]]:
        """By program name, how often the instruction at each pc was executed, if it was."""

    @property
    def trace(self) -> Sequence[Executed]:
        """The last instructions executed, oldest first."""

    def reset(self) -> None:
        """Forget everything."""


@lru_cache(maxsize=1 << 16)
def block_number(program: str, pc: int) -> int:
    """The 16-bit number of the block that begins at `pc`: the same in every process."""
    # The finalizer of MurmurHash3, which spreads what a CRC leaves close together.
    mixed = zlib.crc32(program.encode()) ^ pc
    mixed = (mixed ^ mixed >> 16) * 0x85EB_CA6B & 0xFFFF_FFFF
    mixed = (mixed ^ mixed >> 13) * 0xC2B2_AE35 & 0xFFFF_FFFF
    return (mixed ^ mixed >> 16) & 0xFFFF


class Places:
    """Numbers for the instructions of all programs that an engine meets: its base plus the pc."""

    def __init__(self) -> None:
        # By identity, with the program kept alive: programs hold mappings, so no hash.
        self._base_of: dict[int, int] = {}
        self._bases: list[int] = []
        self._programs: list[Program] = []
        self.end = 0  # one more than the highest number

    def base(self, program: Program) -> int:
        """The number of the program's pc 0."""
        base = self._base_of.get(id(program))
        if base is None:
            base = self._base_of[id(program)] = self.end
            self._bases.append(base)
            self._programs.append(program)
            self.end += program.slots
        return base

    def executed(self, place: int, value: int) -> Executed:
        """The record of a trace."""
        index = bisect_right(self._bases, place) - 1
        return Executed(self._programs[index].name, place - self._bases[index], value)

    def by_program(self, counts: Sequence[int]) -> dict[str, dict[int, int]]:
        """`counts`, which are by place, as Recorded.counts."""
        found: dict[str, dict[int, int]] = {}
        for base, program in zip(self._bases, self._programs, strict=True):
            for pc, count in enumerate(counts[base : base + program.slots]):
                if count:
                    by_pc = found.setdefault(program.name, {})
                    by_pc[pc] = by_pc.get(pc, 0) + count
        return found

"""What runs leave behind, as compiled code notes it, and the code that does.

Map, counters and ring lie in the private range, so code reaches them from the window's base.

An edge is a constant where the emitter knows both blocks, and the map is a place of the state as
the others: processors forward what is stored to a fixed displacement at no cost, and take several
cycles where an index is added. Where a block is entered from one that is not known (functions,
what follows calls) the state knows its number.

The ring holds, for up to RUN instructions that are executed one after another, a word for the value
of each and behind them the number of the run, which tells what they are. Room for all is taken
with the first, so one word of the state changes that often, the values go to fixed places behind
it, and instructions that leave none cost nothing. Where there is not enough before the ring's end
the room is taken at its start, and TRACE_END tells where the older runs end. It is read backwards.
When an instruction traps Python ends its run there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from pybpfvm.jit.state import Slot, State
from pybpfvm.jit.thunks import BASE, load, store
from pybpfvm.jit.x86 import ADD, MOV, MOV_TO, R10, SUB, digit, group, imm32, mov_imm, rm, rx
from pybpfvm.memory import AddressSpace, Region, RegionKind
from pybpfvm.program import Program
from pybpfvm.recording import EDGE_MAP_BYTES, Executed, Places, Recording, block_number

RUN = 32  # instructions that room in the ring is taken for at once

# Instructions that are executed one after another: their places, whether they leave values.
Run = tuple[tuple[int, bool], ...]

_COUNTERS = 4096  # of a chunk
_MOV_IMM, _INC_BYTE, _INC = 0xC7, 0xFE, 0xFF


class _Counters:
    """A chunk of words that count the executions of a block."""

    def __init__(self, memory: AddressSpace) -> None:
        self.region = memory.alloc(8 * _COUNTERS, RegionKind.HOST, "block counters")
        self.words = memory.view(self.region).cast("Q")


class Recorder:
    """The JIT's Recorded, and the code that fills it."""

    def __init__(self, asked: Recording, memory: AddressSpace, state: State) -> None:
        self.asked = asked
        self._memory = memory
        self._state = state
        self._places = Places()
        # Counters are taken by (place of the first instruction, how many): recompiled code goes
        # on with those it had.
        self._counters: dict[tuple[int, int], int] = {}
        self._instructions: dict[tuple[int, int], Sequence[int]] = {}  # places of those, by key
        self._chunks: list[_Counters] = []
        self._missed: dict[int, int] = {}  # by place, what blocks counted and did not execute
        self._regions: list[Region] = []
        self._edges = memoryview(b"")
        self._ring = memoryview(b"")
        self._ring_end = 16 * (asked.trace + RUN)  # even if every run is of one instruction
        self._numbers: dict[Run, int] = {}
        self._runs: list[Run] = []
        if asked.edges:
            region = self._region(EDGE_MAP_BYTES, "edge map")
            self._edges = memory.view(region)
            self._map = region.start - memory.base
        if asked.trace:
            region = self._region(self._ring_end, "trace ring")
            self._ring = memory.view(region).cast("Q")
            self._ring_at = region.start - memory.base
        self.reset()

    def _region(self, size: int, name: str) -> Region:
        region = self._memory.alloc(size, RegionKind.HOST, name)
        self._regions.append(region)
        return region

    def close(self) -> None:
        """Give the memory back."""
        self._ring.release()
        for chunk in self._chunks:
            chunk.words.release()
            self._memory.free(chunk.region)
        for region in self._regions:
            self._memory.free(region)

    # --- code --------------------------------------------------------------------------------

    def place(self, program: Program, pc: int) -> int:
        """The number of an instruction."""
        return self._places.base(program) + pc

    def count_edge(self, edge: int) -> bytes:
        """Count an edge that is known."""
        return rm(_INC_BYTE, 0, BASE, self._map + edge, False)

    def leave_block(self, program: Program, pc: int) -> bytes:
        """Note that the block at `pc` counted last, for what is entered by `enter_block`."""
        code = rm(_MOV_IMM, 0, BASE, self._state.disp(Slot.PREVIOUS_EDGE), False)
        return code + imm32(block_number(program.name, pc) >> 1)

    def enter_block(self, program: Program, pc: int) -> bytes:
        """Count the edge to the block at `pc` from the one that the state knows."""
        code = rm(MOV, R10, BASE, self._state.disp(Slot.PREVIOUS_EDGE), False)
        code += digit(0x81, 6, R10, False) + imm32(block_number(program.name, pc))  # xor r10d
        return code + rx(_INC_BYTE, 0, BASE, R10, False, disp=self._map)

    def count_block(self, program: Program, pcs: Sequence[int]) -> bytes:
        """Count the instructions at `pcs`, which are executed one after another."""
        base = self._places.base(program)
        key = base + pcs[0], len(pcs)
        number = self._counters.get(key)
        if number is None:
            number = self._counters[key] = len(self._counters)
            self._instructions[key] = [base + pc for pc in pcs]
            if number == _COUNTERS * len(self._chunks):
                self._chunks.append(_Counters(self._memory))
        chunk = self._chunks[number // _COUNTERS]
        disp = chunk.region.start - self._memory.base + 8 * (number % _COUNTERS)
        return rm(_INC, 0, BASE, disp)

    def room(self, run: Run) -> tuple[bytes, bytes, bytes]:
        """Take room for a run: code that jumps on A to the second piece where there is not
        enough; that one joins at the third, which both go on to."""
        size = 8 * (len(run) + 1)
        at = self._state.disp(Slot.TRACE_AT)
        there = rm(MOV, R10, BASE, at, False) + group(ADD, R10, size, False)
        there += digit(0x81, 7, R10, False) + imm32(self._ring_end)  # cmp r10d, the ring's end
        around = group(SUB, R10, size, False) + store(self._state.disp(Slot.TRACE_END), R10)
        joined = store(at, R10) + rx(_MOV_IMM, 0, BASE, R10, disp=self._ring_at - 8)
        return there, around + mov_imm(R10, size), joined + imm32(self._number(run))

    def record(self, left: int, register: int) -> bytes:
        """Write the value of a native register, for an instruction with `left` more behind it in
        the run that room was taken for."""
        disp = self._ring_at - 8 * (left + 2)
        code = load(R10, self._state.disp(Slot.TRACE_AT))
        return code + rx(MOV_TO, register, BASE, R10, disp=disp)

    def _number(self, run: Run) -> int:
        number = self._numbers.get(run)
        if number is None:
            number = self._numbers[run] = len(self._runs)
            self._runs.append(run)
        return number

    # --- what the engine tells ---------------------------------------------------------------

    def run_begins(self) -> None:
        """No block was executed before the next."""
        self._state.words[Slot.PREVIOUS_EDGE] = 0

    def stopped(self, place: int, missed: Sequence[int], room: int) -> None:
        """The instruction at `place` trapped; those at the places `missed` had been counted with
        it, and room taken for `room` from its own on."""
        for other in missed:
            self._missed[other] = self._missed.get(other, 0) + 1
        if room and self.asked.trace:
            words = self._state.words
            at = words[Slot.TRACE_AT] >> 3
            run = self._runs[self._ring[at - 1]]
            done = len(run) - room
            at -= room
            self._ring[at] = self._number((*run[:done], (place, False)))
            words[Slot.TRACE_AT] = (at + 1) << 3
        else:
            self.ended(place)

    def ended(self, place: int) -> None:
        """An instruction that left no value ended."""
        if not self.asked.trace:
            return
        words = self._state.words
        at = words[Slot.TRACE_AT]
        if at + 16 > self._ring_end:
            words[Slot.TRACE_END] = at
            at = 0
        self._ring[(at >> 3) + 1] = self._number(((place, False),))
        words[Slot.TRACE_AT] = at + 16

    # --- Recorded ----------------------------------------------------------------------------

    @property
    def edges(self) -> bytes:
        """The map of edges."""
        return bytes(self._edges)

    @property
    def counts(self) -> Mapping[str, Mapping[int, int]]:
        """By program name, how often the instruction at each pc was executed, if it was."""
        by_place = [0] * self._places.end
        for key, number in self._counters.items():
            count = self._chunks[number // _COUNTERS].words[number % _COUNTERS]
            if count:
                for place in self._instructions[key]:
                    by_place[place] += count
        for place, count in self._missed.items():
            by_place[place] -= count
        return self._places.by_program(by_place)

    @property
    def trace(self) -> Sequence[Executed]:
        """The last instructions executed, oldest first."""
        newest = list(islice(self._backwards(), self.asked.trace))
        return newest[::-1]

    def _backwards(self) -> Iterator[Executed]:
        at, end = self._state.words[Slot.TRACE_AT] >> 3, self._state.words[Slot.TRACE_END] >> 3
        for first, behind in ((0, at), (at, end)):
            while behind > first:
                behind -= 1
                for place, leaves_value in reversed(self._runs[self._ring[behind]]):
                    behind -= 1
                    if behind < first:
                        return
                    yield self._places.executed(place, self._ring[behind] if leaves_value else 0)

    def reset(self) -> None:
        """Forget everything."""
        if self._edges:
            self._edges[:] = bytes(EDGE_MAP_BYTES)
        self._missed.clear()
        for chunk in self._chunks:
            chunk.words[:] = memoryview(bytes(8 * _COUNTERS)).cast("Q")
        self._state.words[Slot.TRACE_AT] = 0
        self._state.words[Slot.TRACE_END] = 0

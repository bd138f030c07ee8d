"""What runs leave behind, as the interpreter notes it: instruction by instruction."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from pybpfvm.helpers.proto import Helper
from pybpfvm.outline import Outline, changed
from pybpfvm.program import Program
from pybpfvm.recording import EDGE_MAP_BYTES, Executed, Places, Recording, block_number
from pybpfvm.vm.step import Step


class Recorder:
    """The interpreter's Recorded."""

    def __init__(self, asked: Recording) -> None:
        self._asked = asked
        self._places = Places()
        self._counts: list[int] = []
        self._edges = bytearray(EDGE_MAP_BYTES if asked.edges else 0)
        self._trace: deque[tuple[int, int]] = deque(maxlen=asked.trace)
        self._before = 0

    # --- what the interpreter tells ----------------------------------------------------------

    def number(
        self, program: Program, steps: Sequence[Step], helpers: Mapping[int, Helper]
    ) -> None:
        """Give the program's steps their places, those that begin blocks their numbers."""
        base = self._places.base(program)
        self._counts += [0] * (self._places.end - len(self._counts))
        leaders = Outline(program).blocks(helpers)
        for step in steps:
            step.place = base + step.pc
        for pc in leaders:
            steps[pc].block = block_number(program.name, pc)

    def run_begins(self) -> None:
        """No block was executed before the next."""
        self._before = 0

    def begins(self, step: Step) -> None:
        """The step is executed."""
        if self._asked.counts:
            self._counts[step.place] += 1
        if self._asked.edges and step.block is not None:
            edge = self._before >> 1 ^ step.block
            self._edges[edge] = self._edges[edge] + 1 & 0xFF
            self._before = step.block

    def ended(self, step: Step, regs: Sequence[int] | None) -> None:
        """The step left these registers; None: it trapped."""
        register = changed(step.insn)
        left = regs is not None and register is not None
        self._trace.append((step.place, regs[register] if left else 0))  # type: ignore[index]

    # --- Recorded ----------------------------------------------------------------------------

    @property
    def edges(self) -> bytes:
        """The map of edges."""
        return bytes(self._edges)

    @property
    def counts(self) -> Mapping[str, Mapping[int, int]]:
        """By program name, how often the instruction at each pc was executed, if it was."""
        return self._places.by_program(self._counts)

    @property
    def trace(self) -> Sequence[Executed]:
        """The last instructions executed, oldest first."""
        return [self._places.executed(*record) for record in self._trace]

    def reset(self) -> None:
        """Forget everything."""
        self._counts = [0] * len(self._counts)
        self._edges = bytearray(len(self._edges))
        self._trace.clear()

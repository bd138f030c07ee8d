"""Where the C lines of programs begin, and which functions code is of, inlined ones included."""

from __future__ import annotations

from dataclasses import dataclass

from pybpfvm.errors import SourceLine
from pybpfvm.program import Program
from pybpfvm.source.info import DebugInfo


@dataclass(frozen=True, slots=True)
class Spot:
    """The source of the code at a pc: `functions` the innermost first, each with the line where
    the next one out calls it; `line` None where no line is known. `begins`: a line's code begins
    here; without lines each instruction does."""

    functions: tuple[tuple[str, int], ...]
    line: SourceLine | None
    begins: bool

    @property
    def inlined(self) -> int:
        """How many of the functions were inlined."""
        return max(len(self.functions) - 1, 0)


class Lines:
    """The spots of all programs of one object, each looked up once."""

    def __init__(self, debug: DebugInfo) -> None:
        self.debug = debug
        self._spots: dict[tuple[str, int], Spot] = {}

    def spot(self, program: Program, pc: int) -> Spot:
        """The source of the code at `pc`."""
        key = program.name, pc
        found = self._spots.get(key)
        if found is None:
            found = self._spots[key] = self._found(program, pc)
        return found

    def _found(self, program: Program, pc: int) -> Spot:
        rows = self.debug.lines(program)
        start = max((sub.start for sub in program.subprogs if sub.start <= pc), default=0)
        line = next((rows[at] for at in range(pc, start - 1, -1) if at in rows), None)
        functions = tuple((one.function, one.call_line) for one in self.debug.frames(program, pc))
        return Spot(functions or ((program.name, 0),), line, pc in rows or not rows)

    def function_pcs(self, program: Program, name: str) -> list[int]:
        """Where code of the function `name` begins: itself, and each place it was inlined into."""
        own = [sub.start for sub in program.subprogs if sub.name == name]
        if own:
            return own
        found, inside = [], False
        for pc in sorted(self.debug.lines(program)):
            now = any(name == function for function, _ in self.spot(program, pc).functions)
            if now and not inside:
                found.append(pc)
            inside = now
        return found

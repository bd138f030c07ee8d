"""Where in the C source an instruction belongs, for people who wrote it.

Calls of inlined functions have lines of a header; what is told is the nearest line before them in
the program's own file.
"""

from __future__ import annotations

from pathlib import PurePath

from pybpfvm.errors import SourceLine
from pybpfvm.program import Program


class Places:
    """Lines of one program."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._file = program.own_file

    def line(self, pc: int) -> SourceLine | None:
        """The line of the program's own file at or before `pc`; None without line information."""
        return self._program.own_line_at(pc)

    def text(self, pc: int) -> str:
        """`line 82`, `near line 82` of an inlined function's call, or `instruction 15` where no
        line is known."""
        line, exact = self.line(pc), self._program.line_at(pc)
        if line is None:
            return f"instruction {pc}"
        inlined = exact is not None and exact.file != self._file
        return f"{'near ' if inlined else ''}line {line.line}"

    def name(self, pc: int) -> str:
        """A part of a C name: `82`, or `pc15`."""
        line = self.line(pc)
        return f"pc{pc}" if line is None else str(line.line)

    def order(self, pc: int) -> tuple[int, int]:
        """Sorts places as the source reads."""
        line = self.line(pc)
        return (0 if line is None else line.line, pc)

    @property
    def file(self) -> str:
        """The file's name, without its folder; "" if it is not known."""
        return PurePath(self._file).name

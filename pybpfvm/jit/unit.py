"""A compiled program on its pages, and from native addresses back to its instructions."""

from __future__ import annotations

from bisect import bisect_right

from pybpfvm.jit.emitted import Build, Code
from pybpfvm.jit.pages import Pages, code_area
from pybpfvm.program import Program


class Unit:
    """`program`, or a piece of it, compiled as `build` says."""

    def __init__(self, program: Program, build: Build, code: Code) -> None:
        self.program = program
        self.build = build
        self.code = code
        self.pages: Pages = code_area().place(code.data, code.outward)
        self.base = self.pages.start
        self._firsts = sorted(code.ends)
        self._rooms = sorted(code.rooms)

    def holds(self, address: int) -> bool:
        """Whether the address lies in this unit, or is where a call at its end returns to."""
        return 0 < address - self.base <= len(self.code.data)

    def index_at(self, address: int) -> int:
        """The instruction whose code the address is in, or just behind (a return address)."""
        return bisect_right(self.code.offsets, address - self.base - 1) - 1

    def index_of(self, address: int) -> int:
        """The instruction whose code begins at or holds the address."""
        return bisect_right(self.code.offsets, address - self.base) - 1

    def pc_of(self, index: int) -> int:
        """The pc of the instruction at `index`."""
        return self.code.starts[index]

    def after(self, index: int) -> int:
        """How many instructions its block has behind the one at `index`."""
        first = self._firsts[bisect_right(self._firsts, index) - 1]
        return self.code.ends[first] - index

    def room(self, index: int) -> int:
        """For how many instructions room in the trace is taken when that at `index` is executed,
        from it on."""
        place = bisect_right(self._rooms, index) - 1
        return 0 if place < 0 else max(0, self.code.rooms[self._rooms[place]] - index + 1)

    def close(self) -> None:
        """Give the pages back; nothing may run there any more."""
        code_area().release(self.pages)

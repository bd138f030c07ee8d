"""Code as it is written: the bytes so far, where in the program they are, and what goes behind the
code because it is seldom reached.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pybpfvm.bits import U32
from pybpfvm.errors import TrapKind
from pybpfvm.helpers.proto import Helper
from pybpfvm.jit.emitted import Ask, Build, Code, Site
from pybpfvm.jit.options import Checks
from pybpfvm.jit.state import Slot, State
from pybpfvm.jit.thunks import call_slot
from pybpfvm.jit.x86 import imm32
from pybpfvm.outline import outline_of
from pybpfvm.program import Program

# Jcc rel32 by condition code, its target open.
FAR = tuple(bytes((0x0F, 0x80 | condition, 0, 0, 0, 0)) for condition in range(16))


class Writer:
    """What those share that emit a program: it, its `build`, and where they are.

    `_late` is what is emitted behind the code. `_asked` are the sites there: where the jump to one
    has its rel32, the site, what must be done once more behind it, and where that goes on (None:
    nowhere).
    """

    def __init__(
        self,
        program: Program,
        helpers: Mapping[int, Helper],
        state: State,
        build: Build,
    ) -> None:
        self._program = program
        self._helpers = helpers
        self._state = state
        self._build = build
        self._outline = outline_of(program)
        self._functions = frozenset(self._outline.functions)
        self._code = Code()
        self._index = 0
        self._pc = 0
        self._block_first = self._block_last = 0
        self._block_pc = 0
        self._last_of: dict[int, int] = {}
        self._calls: list[tuple[int, int]] = []
        self._jumps: list[tuple[int, int]] = []  # where a rel32 is, the pc it leads to
        self._late: list[Callable[[], None]] = []
        self._asked: list[tuple[int, Site, bytes, int | None]] = []
        self._bound = self._code.blocks
        self._checked = build.checks is not Checks.NONE
        self._exact = build.checks is Checks.EXACT
        self._callout = call_slot(state.disp(Slot.CALLOUT))

    def _ask(self, ask: Ask, *, words: int = 0, why: tuple[TrapKind, str] | None = None) -> Site:
        site = self._site(ask, words, why)
        self._ask_site(site)
        return site

    def _site(self, ask: Ask, words: int = 0, why: tuple[TrapKind, str] | None = None) -> Site:
        index = self._index
        return Site(ask, self._pc, index, self._block_last - index, words, 0, why)

    def _ask_site(self, site: Site) -> None:
        code = self._code
        code.data += self._callout
        code.sites[len(code.data)] = site

    def _jump_late(self, condition: int) -> int:
        """Jump on the condition to somewhere behind the code; where its rel32 is."""
        data = self._code.data
        data += FAR[condition]
        return len(data) - 4

    def _land(self, at: int) -> None:
        """Let the jump whose rel32 is at `at` lead here."""
        data = self._code.data
        data[at : at + 4] = imm32(len(data) - at - 4)

    def _jump_to(self, offset: int) -> None:
        data = self._code.data
        data += b"\xe9" + (offset - len(data) - 5 & U32).to_bytes(4, "little")

    def _write_late(self) -> None:
        """What goes behind the code, and where jumps and calls lead."""
        for late in self._late:  # which may ask
            late()
        data, sites, callout = self._code.data, self._code.sites, self._callout
        for at, site, again, back in self._asked:
            here = len(data)
            data[at : at + 4] = (here - at - 4).to_bytes(4, "little")
            data += callout
            sites[here + len(callout)] = site
            if back is not None:
                data += again
                self._jump_to(back)
        for places, lead in ((self._jumps, self._bound), (self._calls, self._code.entries)):
            for at, pc in places:
                data[at : at + 4] = imm32(lead[pc] - at - 4)

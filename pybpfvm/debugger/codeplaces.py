"""Pcs of programs by what their instructions do: where searches have to look."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from pybpfvm.debugger.search import Places
from pybpfvm.isa.codec import pcs
from pybpfvm.isa.opcodes import Kind
from pybpfvm.program import Program

_CALLS = frozenset({Kind.CALL, Kind.CALL_KFUNC})
_WRITES = frozenset({Kind.ST, Kind.STX, Kind.ATOMIC, Kind.STORE_REL}) | _CALLS
_LEAVES = frozenset({Kind.CALL_LOCAL, Kind.EXIT})


@dataclass(slots=True)
class CodePlaces:
    """Pcs of all programs, by what their instructions do; each set is made once.

    `calls` of helpers; `around_calls` these and what follows them; `changes` and `tellings`
    around what may change memory, and what rings tell.
    """

    programs: Sequence[Program]
    _known: dict[str, Places] = field(default_factory=dict)

    def calls(self) -> Places:
        """Each call of a helper."""
        return self._of("calls", lambda pc, behind, _: (pc,))

    def around_calls(self) -> Places:
        """Each call of a helper, and what follows."""
        return self._of("around", lambda pc, behind, _: (pc, behind))

    def _of(self, name: str, at: Callable[[int, int, Kind], Iterable[int]]) -> Places:
        if name not in self._known:
            self._known[name] = {
                program.name: frozenset(
                    place
                    for pc, insn in zip(pcs(program.insns), program.insns, strict=True)
                    if insn.spec.kind in _CALLS
                    for place in at(pc, pc + insn.slots, insn.spec.kind)
                )
                for program in self.programs
            }
        return self._known[name]

    def changes(self) -> Places:
        """Where memory is for the first or for the last time as it is: stores and calls, and what
        follows them; where functions begin, with a zeroed frame, and where they end."""
        return self._edges("changes", _WRITES)

    def tellings(self) -> Places:
        """The same of rings, which programs change by calls only."""
        return self._edges("tellings", _CALLS)

    def _edges(self, name: str, kinds: frozenset[Kind]) -> Places:
        if name not in self._known:
            found = {}
            for program in self.programs:
                places = {0, *(sub.start for sub in program.subprogs)}
                for pc, insn in zip(pcs(program.insns), program.insns, strict=True):
                    if insn.spec.kind in kinds:
                        places |= {pc, pc + insn.slots}
                    elif insn.spec.kind in _LEAVES:
                        places.add(pc)
                found[program.name] = frozenset(places)
            self._known[name] = found
        return self._known[name]


__all__ = ["CodePlaces"]

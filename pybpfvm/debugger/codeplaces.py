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


@dataclass(slots=True)
class CodePlaces:
    """Pcs of all programs, by what their instructions do; each set is made once.

    `calls` of helpers; `around_calls` these and what follows them; `after_writes` what follows an
    instruction that may change memory.
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

    def after_writes(self) -> Places:
        """What follows stores and calls, and where functions begin, with a zeroed frame."""
        if "writes" not in self._known:
            found = {}
            for program in self.programs:
                places = {sub.start for sub in program.subprogs}
                for pc, insn in zip(pcs(program.insns), program.insns, strict=True):
                    if insn.spec.kind in _WRITES:
                        places.add(pc + insn.slots)
                found[program.name] = frozenset(places)
            self._known["writes"] = found
        return self._known["writes"]


__all__ = ["CodePlaces"]

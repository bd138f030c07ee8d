"""An observer that keeps warnings: what the lints of all rings have in common."""

from __future__ import annotations

from pybpfvm.isa.codec import pcs
from pybpfvm.program import Program
from pybpfvm.verifier.observe import Observer
from pybpfvm.verifier.states.state import PathNotes, State
from pybpfvm.verifier.verdict import Finding, Kind, Rule


class Watching(Observer):
    """Watches one exploration of a program, whose paths begin with the notes `start`; `warnings`
    says what it saw."""

    def __init__(self, program: Program, start: PathNotes) -> None:
        self._start = start
        self._program = program
        self._code = dict(zip(pcs(program.insns), program.insns, strict=True))
        self._globals = {sub.start for sub in program.subprogs if sub.is_global}
        self._found: dict[tuple[Rule, int], Finding] = {}

    def warnings(self, *, finished: bool = True) -> tuple[Finding, ...]:
        """What was found, by pc; to be asked for once the exploration is over. `finished`: all
        paths were seen, so that what was done on none of them is known too."""
        if finished:
            self._finish()
        return tuple(sorted(self._found.values(), key=lambda one: (one.pc, one.rule.value)))

    def _finish(self) -> None:
        """Warn of what was done on no path."""

    def _report(self, rule: Rule, pc: int, message: str, reason: str, suggestion: str) -> None:
        if (rule, pc) not in self._found:
            source = self._program.line_at(pc)
            self._found[rule, pc] = Finding(
                rule, Kind.LINT, pc, message, reason, suggestion, source
            )

    def resumed(self, origin: int, pc: int, state: State) -> None:
        if state.notes is None:
            state.notes = self._start

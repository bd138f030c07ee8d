"""Where an expression holds: at the positions where what it is of can have changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise

from pybpfvm.debugger.codeplaces import CodePlaces
from pybpfvm.debugger.history import History
from pybpfvm.debugger.met import Returns, placed
from pybpfvm.debugger.position import Position
from pybpfvm.debugger.scope import RecordedScope
from pybpfvm.debugger.search import Here, Places, Sought
from pybpfvm.expr.compiled import MAX_PLACES, Compiled, compile_expression
from pybpfvm.expr.mistake import ExpressionError
from pybpfvm.expr.scope import Moment, moment_of
from pybpfvm.isa.codec import pcs
from pybpfvm.outline import outline_of
from pybpfvm.program import Program

_RING = frozenset({"ring"})
_EVENTS = frozenset({"cqe", "sqe"})
_HELPERS = frozenset({"helper", "ret"})
_MOMENTS = _EVENTS | _HELPERS
_NOWHERE: Places = {}


@dataclass(frozen=True, slots=True)
class _Analysis:
    """Of a condition in the programs of an object: `places` where it is asked (None: anywhere),
    `alike` what it is of, if that is the same wherever its names are known, `of_events` whether
    it asks for an event everywhere, `of_helpers` whether it asks what helpers return anywhere."""

    places: Places | None = None
    alike: frozenset[str] | None = None
    of_events: bool = False
    of_helpers: bool = False


class Condition(Sought):
    """An expression that holds. Where it has no value it does not; `failed` says why it had none.
    One that asks for an event (`cqe.res < 0`) is asked about events only, any other where what it
    is of can have changed, or can be there for the last time."""

    def __init__(
        self,
        history: History,
        code: CodePlaces,
        text: str,
        scope: Callable[[int], RecordedScope],
        returns: Returns,
    ) -> None:
        self._history = history
        self._code = code
        self._text = text
        self._scope_of = scope
        self._returns = returns
        self._scope_at: tuple[int, RecordedScope] | None = None
        self._compiled: dict[int, Compiled | None] = {}
        self._tried: set[tuple[int, str, int]] = set()
        self._analyses: dict[int, _Analysis] = {}
        self.failed: ExpressionError | None = None
        self.had_value = False
        self._held: dict[Position, Moment] = {}  # of one run

    def compile_at(self, scope: RecordedScope) -> None:
        """Try it here, so that what is a mistake anywhere is told at once."""
        self._known(scope)

    def _scope(self, run: int) -> RecordedScope:
        if self._scope_at is None or self._scope_at[0] != run:
            self._scope_at = run, self._scope_of(run)
        return self._scope_at[1]

    def _known(self, scope: RecordedScope) -> Compiled | None:
        key = id(scope)
        found = self._compiled.get(key)
        if found is not None:
            return found
        place = (key, "" if scope.program is None else scope.program.name, scope.pc)
        if place in self._tried:
            return None
        self._tried.add(place)
        try:
            found = compile_expression(self._text, scope)
            found.check_condition()
        except ExpressionError as error:
            self.failed = error
            return None
        self._compiled[key] = found
        return found

    # --- where it can hold ----------------------------------------------------------------------

    def places(self, run: int) -> Places | None:
        """Of events around calls, of registers anywhere that its names are known, of memory and
        rings where these may change and just before."""
        found = self._analysis(run)
        if found.places is None:
            return None
        if found.of_events:
            told = found.of_helpers or self._history.told_in(run)
            return found.places if told else _NOWHERE
        entry = self._history.runs[run]
        if not entry.whole or (entry.how is not None and entry.how[0] != "trap"):
            return None  # it ends anywhere
        if entry.how is not None:
            name, pc = entry.how[2], entry.how[3]
            return {**found.places, name: found.places.get(name, frozenset()) | {pc}}
        return found.places

    def _analysis(self, run: int) -> _Analysis:
        """What the object says that run `run` is of; at the very end that of the last run."""
        run = min(run, len(self._history.runs) - 1)
        if run < 0:
            return _Analysis()
        scope = self._scope(run)
        if id(scope) not in self._analyses:
            self._analyses[id(scope)] = self._analysed(run, scope)
        return self._analyses[id(scope)]

    def _analysed(self, run: int, scope: RecordedScope) -> _Analysis:
        obj = self._history.object_of(run)
        programs = () if obj is None else tuple(obj.image.programs.values())
        if sum(len(one.insns) for one in programs) > MAX_PLACES:
            return _Analysis()
        known = {one.name: self._kinds(run, scope, one) for one in programs}
        kinds = {kind for of_one in known.values() for kind in of_one.values()}
        if not kinds:
            return _Analysis()  # its names may come with a block of memory
        found = {one.name: self._places_in(one, known[one.name]) for one in programs}
        of_helpers = any(kind & _HELPERS for kind in kinds)
        if of_helpers:  # the calls themselves are shown, to know that they came
            found = {name: one | self._code.around_calls()[name] for name, one in found.items()}
        alike = next(iter(kinds)) if len(kinds) == 1 else None
        return _Analysis(found, alike, all(kind & _MOMENTS for kind in kinds), of_helpers)

    def _kinds(self, run: int, scope: RecordedScope, program: Program) -> dict[int, frozenset[str]]:
        """What it is of at each pc of a program where its names are known."""
        found = {}
        for pc in pcs(program.insns):
            placed(scope, Here(run, 0, program, pc), None)
            compiled = self._known(scope)
            if compiled is not None:
                with suppress(ExpressionError):
                    found[pc] = compiled.depends(scope)
        return found

    def _places_in(self, program: Program, kinds: Mapping[int, frozenset[str]]) -> frozenset[int]:
        name = program.name
        calls, tellings = self._code.around_calls()[name], self._code.tellings()[name]
        changes = self._code.changes()[name]
        # Where names come to mean something else, it holds for the first or last time without any
        # change.
        borders: frozenset[int] = frozenset()
        if len(kinds) < len(program.insns) or len(set(kinds.values())) > 1:
            borders = _borders(program, kinds)

        def is_place(pc: int, kind: frozenset[str]) -> bool:
            if kind & _MOMENTS:
                return pc in calls
            if "regs" in kind or pc in borders:
                return True
            return pc in (changes if "memory" in kind else tellings)

        return frozenset(pc for pc, kind in kinds.items() if is_place(pc, kind))

    def possible(self, run: int) -> bool:
        """Where it is of what rings told, and of nothing else, that is asked without executing
        anything."""
        kind = self._analysis(run).alike
        if not kind or not (kind == _RING or kind <= _EVENTS):
            return True
        scope = placed(self._scope(min(run, len(self._history.runs) - 1)), Here(run), None)
        compiled = self._known(scope)
        if compiled is None:
            return True
        if kind == _RING:
            rings = scope.rings
            try:
                for scope.rings in self._history.ring_states(run):
                    if self._asked(compiled, scope):
                        return True
            finally:
                scope.rings = rings
            return False
        return any(
            self._asked(compiled, placed(scope, Here(run), moment_of(told.event)))
            for told in self._history.all_told(run)
        )

    # --- whether it does ------------------------------------------------------------------------

    def at_start(self, run: int) -> bool:
        """What is before a run, and at the very end, counts; of events, where there are some."""
        if not self._analysis(run).of_events:
            return True
        return any(True for _ in self._history.told_before(run))

    def prime(self, here: Here) -> None:
        """Remember what is called."""
        self._returns.seen(here)

    def holds(self, here: Here) -> bool:
        """Whether it does."""
        returned = self._returns.of(here) if self._analysis(here.run).of_helpers else None
        self._returns.seen(here)
        moments: list[Moment | None] = [moment_of(one.event) for one in here.events]
        moments += [returned and returned[1], None]
        for one in dict.fromkeys(moments):
            if self._at(here, one):
                if one is not None:
                    if any(at.run != here.run for at in self._held):
                        self._held.clear()
                    self._held[here.position] = one
                return True
        return False

    def moment_at(self, position: Position) -> Moment | None:
        """The event that it was of, where it was found to hold; None: of none."""
        return self._held.get(position)

    def _at(self, here: Here, moment: Moment | None) -> bool:
        scope = placed(self._scope(here.run), here, moment)
        compiled = self._known(scope)
        return compiled is not None and self._asked(compiled, scope)

    def _asked(self, compiled: Compiled, scope: RecordedScope) -> bool:
        try:
            held = compiled.holds(scope)
        except ExpressionError as error:
            self.failed = error
            return False
        self.had_value = True
        return held


def _borders(program: Program, kinds: Mapping[int, object]) -> frozenset[int]:
    """The pcs that are reached from, or go on to, one where names may mean something else."""
    starts = outline_of(program).starts
    blocks = outline_of(program).blocks({})
    found = set()
    for before, pc in pairwise((*starts, -1)):
        if pc in blocks or pc < 0 or kinds.get(before) != kinds.get(pc):
            found |= {before, pc}
    return frozenset(found)


__all__ = ["Condition"]

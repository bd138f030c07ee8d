"""What moves look for: lines, instructions, calls, CQEs, breakpoints, conditions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pybpfvm.debugger.breakpoints import Breakpoint
from pybpfvm.debugger.history import History, Told
from pybpfvm.debugger.lines import Lines
from pybpfvm.debugger.scope import RecordedScope
from pybpfvm.debugger.search import Here, Places, Sought
from pybpfvm.events import CqePosted, CqeReaped
from pybpfvm.expr.compiled import Compiled, compile_expression
from pybpfvm.expr.mistake import ExpressionError
from pybpfvm.expr.scope import moment_of
from pybpfvm.isa.codec import pcs
from pybpfvm.isa.opcodes import Kind
from pybpfvm.program import Program

_CALLS = frozenset({Kind.CALL, Kind.CALL_KFUNC})
_WRITES = frozenset({Kind.ST, Kind.STX, Kind.ATOMIC, Kind.STORE_REL}) | _CALLS
_NOWHERE: Places = {}


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


class LineSteps(Sought):
    """Where a line begins: any ("step"), or of a frame that is no deeper than `logical`."""

    def __init__(self, lines: Callable[[int], Lines], logical: int | None) -> None:
        self._lines = lines
        self.logical = logical
        self._before: object = None

    def places(self, run: int) -> Places | None:
        """Anywhere."""
        return None

    def at_start(self, run: int) -> bool:
        """As elsewhere."""
        return False

    def start(self, here: Here) -> None:
        """The move begins here."""
        self._before = self._key(here)

    def prime(self, here: Here) -> None:
        """Remember the line."""
        self._before = self._key(here)

    def _key(self, here: Here) -> object:
        assert here.program is not None
        spot = self._lines(here.run).spot(here.program, here.pc)
        line = None if spot.line is None else (spot.line.file, spot.line.line)
        if spot.line is None:
            line = ("", here.pc)
        return here.run, here.depth, spot.functions, line

    def holds(self, here: Here) -> bool:
        """Whether a line begins that is none of the instruction before."""
        assert here.program is not None
        spot = self._lines(here.run).spot(here.program, here.pc)
        before, self._before = self._before, self._key(here)
        if not spot.begins or (before == self._before and here.insns):
            return False
        return self.logical is None or here.depth + spot.inlined <= self.logical


class Shallower(Sought):
    """Where the frame is less deep than `logical`, inlined functions counted."""

    def __init__(self, lines: Callable[[int], Lines], logical: int) -> None:
        self._lines = lines
        self._logical = logical

    def places(self, run: int) -> Places | None:
        """Anywhere."""
        return None

    def at_start(self, run: int) -> bool:
        """As elsewhere."""
        return False

    def holds(self, here: Here) -> bool:
        """Whether it is."""
        assert here.program is not None
        spot = self._lines(here.run).spot(here.program, here.pc)
        return here.depth + spot.inlined < self._logical


class NoDeeper(Sought):
    """Any instruction of a frame that is no deeper than `depth`."""

    def __init__(self, depth: int) -> None:
        self._depth = depth

    def places(self, run: int) -> Places | None:
        """Anywhere."""
        return None

    def at_start(self, run: int) -> bool:
        """As elsewhere."""
        return False

    def holds(self, here: Here) -> bool:
        """Whether it is."""
        return here.depth <= self._depth


class HelperCalls(Sought):
    """Each call of a helper."""

    def __init__(self, code: CodePlaces) -> None:
        self._code = code

    def places(self, run: int) -> Places | None:
        """The calls."""
        return self._code.calls()

    def at_start(self, run: int) -> bool:
        """As elsewhere."""
        return False

    def holds(self, here: Here) -> bool:
        """There."""
        return here.program is not None and here.pc in self._code.calls()[here.program.name]


class CqeSteps(Sought):
    """Behind each CQE that is posted."""

    def __init__(self, history: History, code: CodePlaces) -> None:
        self._history = history
        self._code = code

    def places(self, run: int) -> Places | None:
        """Around calls, where there are CQEs."""
        return self._code.around_calls() if self._history.has_cqes(run) else _NOWHERE

    def at_start(self, run: int) -> bool:
        """Where there are CQEs from between runs."""
        return any(isinstance(one.event, CqePosted) for one in self._history.told_before(run))

    def holds(self, here: Here) -> bool:
        """Whether one has been posted."""
        return any(isinstance(one.event, CqePosted) for one in here.events)


class Breakpoints(Sought):
    """The breakpoints that are enabled; `matched` are those that were met where it held."""

    def __init__(
        self,
        history: History,
        code: CodePlaces,
        breakpoints: Sequence[Breakpoint],
        scope: Callable[[int], RecordedScope],
        fire: Callable[[Breakpoint, Here], bool] | None,
    ) -> None:
        self._history = history
        self._code = code
        self._all = breakpoints
        self._scope = scope
        self._fire = fire
        self.matched: list[Breakpoint] = []
        self._kinds = {one.kind for one in breakpoints}
        self._values: dict[int, bytes | None] = {}
        self._watched = [one for one in breakpoints if one.kind == "data"]
        self._static = self._joined()

    @property
    def any(self) -> bool:
        """Whether there are any."""
        return bool(self._all)

    def _joined(self) -> dict[str, frozenset[int]]:
        found: dict[str, frozenset[int]] = {}
        for one in self._all:
            for name, places in one.places.items():
                found[name] = found.get(name, frozenset()) | places
        return found

    def start(self) -> None:
        """The move begins where the history is: what is watched has its values there."""
        for one in self._watched:
            self._values[one.id] = self._history.memory.look(one.addr, one.size)

    def places(self, run: int) -> Places | None:
        """Where breakpoints are."""
        if self._watched:
            return None
        found = dict(self._static)
        if "cqe" in self._kinds and self._history.has_cqes(run):
            for name, places in self._code.around_calls().items():
                found[name] = found.get(name, frozenset()) | places
        if "trap" in self._kinds:
            how = self._history.runs[run].how
            if how is not None and how[0] == "trap":
                found[how[2]] = found.get(how[2], frozenset()) | {how[3]}
        return {name: places for name, places in found.items() if places}

    def at_start(self, run: int) -> bool:
        """Whether one may be met that is no place of code."""
        if self._watched:
            return True
        if run < len(self._history.runs) and "start" in self._kinds:
            program = self._history.runs[run].program
            if any(one.kind == "start" and one.program in ("", program) for one in self._all):
                return True
        return "cqe" in self._kinds and any(
            isinstance(one.event, CqePosted) for one in self._history.told_before(run)
        )

    def prime(self, here: Here) -> None:
        """Remember what is watched."""
        self.start()

    def holds(self, here: Here) -> bool:
        """Whether one is met that ends the move."""
        matched = [one for one in self._all if self._matches(one, here)]
        if self._fire is not None:
            matched = [one for one in matched if self._fire(one, here)]
        if matched:
            self.matched = matched
        return bool(matched)

    def _matches(self, one: Breakpoint, here: Here) -> bool:
        match one.kind:
            case "cqe":
                return any(self._is(one, here, told) for told in here.events if _is_of(one, told))
            case "start":
                if here.insns or here.program is None:
                    return False
                if one.program not in ("", self._history.runs[here.run].program):
                    return False
            case "data":
                now = self._history.memory.look(one.addr, one.size)
                before = self._values.get(one.id, now)
                self._values[one.id] = now
                if now == before:
                    return False
            case "trap":
                run = here.run
                runs = self._history.runs
                trapped = here.program is not None and runs[run].how is not None
                if not trapped or here.position != self._history.last(run):
                    return False
                how = runs[run].how
                if how is None or how[0] != "trap":
                    return False
            case _:
                program = here.program
                if program is None or here.pc not in one.places.get(program.name, ()):
                    return False
        return self._is(one, here, None)

    def _is(self, one: Breakpoint, here: Here, told: Told | None) -> bool:
        """Whether its condition holds."""
        if one.compiled is None:
            return True
        scope = placed(self._scope(here.run), here, told)
        try:
            return one.compiled.holds(scope)
        except ExpressionError as error:
            one.failed = str(error)
            return False


def _is_of(one: Breakpoint, told: Told) -> bool:
    event = told.event
    return (
        isinstance(event, CqePosted)
        and one.cq in (None, event.cq)
        and one.ring in (None, told.ring)
    )


def placed(scope: RecordedScope, here: Here, told: Told | None) -> RecordedScope:
    """The scope, as it is there."""
    scope.program, scope.pc, scope.regs = here.program, here.pc, here.regs
    scope.moment = None if told is None else moment_of(told.event)
    return scope


class Either(Sought):
    """One of two; each is asked."""

    def __init__(self, one: Sought, other: Sought) -> None:
        self.one, self.other = one, other
        self.by_one = self.by_other = False

    def places(self, run: int) -> Places | None:
        """Of both."""
        mine, others = self.one.places(run), self.other.places(run)
        if mine is None or others is None:
            return None
        names = {*mine, *others}
        none: frozenset[int] = frozenset()
        return {name: mine.get(name, none) | others.get(name, none) for name in names}

    def at_start(self, run: int) -> bool:
        """Of both."""
        return self.one.at_start(run) or self.other.at_start(run)

    def prime(self, here: Here) -> None:
        """Both."""
        self.one.prime(here)
        self.other.prime(here)

    def holds(self, here: Here) -> bool:
        """Of one."""
        mine, others = self.one.holds(here), self.other.holds(here)
        if mine or others:
            self.by_one, self.by_other = mine, others
        return mine or others


class Condition(Sought):
    """An expression that holds. Where it has no value it does not; `failed` says why it had none.
    One that asks for an event (`cqe.res < 0`) is asked about events only."""

    _EVENTS: Mapping[str, tuple[type, ...]] = {"cqe": (CqePosted, CqeReaped)}

    def __init__(
        self,
        history: History,
        code: CodePlaces,
        text: str,
        scope: Callable[[int], RecordedScope],
    ) -> None:
        self._history = history
        self._code = code
        self._text = text
        self._scope = scope
        self._compiled: dict[int, Compiled | None] = {}
        self._tried: set[tuple[int, str, int]] = set()
        self.failed: ExpressionError | None = None
        self.had_value = False
        self._of_events: bool | None = None

    def compile_at(self, scope: RecordedScope) -> None:
        """Try it here, so that what is a mistake anywhere is told at once."""
        self._known(scope)

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
        self._of_events = bool(found.needs & {"cqe", "sqe", "helper", "ret"})
        return found

    def places(self, run: int) -> Places | None:
        """Anywhere; of events around calls."""
        if self._of_events:
            return self._code.around_calls() if self._history.told_in(run) else _NOWHERE
        return None

    def at_start(self, run: int) -> bool:
        """What is before a run, and at the very end, counts too."""
        return True

    def holds(self, here: Here) -> bool:
        """Whether it does."""
        told: Sequence[Told | None] = (*here.events, None)
        return any(self._at(here, one) for one in told)

    def _at(self, here: Here, told: Told | None) -> bool:
        scope = placed(self._scope(here.run), here, told)
        compiled = self._known(scope)
        if compiled is None:
            return False
        try:
            held = compiled.holds(scope)
        except ExpressionError as error:
            self.failed = error
            return False
        self.had_value = True
        return held


__all__ = [
    "Breakpoints",
    "CodePlaces",
    "Condition",
    "CqeSteps",
    "Either",
    "HelperCalls",
    "LineSteps",
    "NoDeeper",
    "Shallower",
    "placed",
]

"""What moves look for besides breakpoints: lines, instructions, calls, CQEs, conditions."""

from __future__ import annotations

from collections.abc import Callable

from pybpfvm.debugger.codeplaces import CodePlaces
from pybpfvm.debugger.history import History
from pybpfvm.debugger.lines import Lines
from pybpfvm.debugger.met import Returns, placed
from pybpfvm.debugger.scope import RecordedScope
from pybpfvm.debugger.search import Here, Places, Sought
from pybpfvm.events import CqePosted
from pybpfvm.expr.compiled import Compiled, compile_expression
from pybpfvm.expr.mistake import ExpressionError
from pybpfvm.expr.scope import Moment, moment_of

_NOWHERE: Places = {}


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

    def behind_run(self, run: int) -> None:
        """Both."""
        self.one.behind_run(run)
        self.other.behind_run(run)

    def holds(self, here: Here) -> bool:
        """Of one."""
        mine, others = self.one.holds(here), self.other.holds(here)
        if mine or others:
            self.by_one, self.by_other = mine, others
        return mine or others


class Condition(Sought):
    """An expression that holds. Where it has no value it does not; `failed` says why it had none.
    One that asks for an event (`cqe.res < 0`) is asked about events only."""

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
        self._scope = scope
        self._returns = returns
        self._compiled: dict[int, Compiled | None] = {}
        self._tried: set[tuple[int, str, int]] = set()
        self.failed: ExpressionError | None = None
        self.had_value = False
        self._of_events = self._of_helpers = False

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
        self._of_helpers = bool(found.needs & {"helper", "ret"})
        return found

    def places(self, run: int) -> Places | None:
        """Anywhere; of events around calls."""
        if not self._of_events:
            return None
        told = self._of_helpers or self._history.told_in(run)
        return self._code.around_calls() if told else _NOWHERE

    def prime(self, here: Here) -> None:
        """Remember what is called."""
        self._returns.seen(here)

    def at_start(self, run: int) -> bool:
        """What is before a run, and at the very end, counts too."""
        return True

    def holds(self, here: Here) -> bool:
        """Whether it does."""
        returned = self._returns.of(here) if self._of_helpers else None
        self._returns.seen(here)
        moments = [*(moment_of(one.event) for one in here.events), returned and returned[1], None]
        return any(self._at(here, one) for one in dict.fromkeys(moments))

    def _at(self, here: Here, moment: Moment | None) -> bool:
        scope = placed(self._scope(here.run), here, moment)
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
    "Condition",
    "CqeSteps",
    "Either",
    "HelperCalls",
    "LineSteps",
    "NoDeeper",
    "Shallower",
]

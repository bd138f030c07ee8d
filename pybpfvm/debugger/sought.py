"""What moves look for besides breakpoints: lines, instructions, calls, CQEs."""

from __future__ import annotations

from collections.abc import Callable

from pybpfvm.debugger.codeplaces import CodePlaces
from pybpfvm.debugger.history import History
from pybpfvm.debugger.lines import Lines
from pybpfvm.debugger.search import Here, Places, Sought
from pybpfvm.events import CqePosted

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


__all__ = [
    "CqeSteps",
    "Either",
    "HelperCalls",
    "LineSteps",
    "NoDeeper",
    "Shallower",
]

"""The next or the last position of a recording where something holds.

Where it can hold at some pcs only, compiled code covers what is between them; elsewhere, and around
them, instructions are shown one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pybpfvm.debugger.history import History, Told
from pybpfvm.debugger.position import Position
from pybpfvm.program import Program
from pybpfvm.session.moments import Watch

WINDOW = 20_000  # instructions that are shown one by one around a place
_NARROW = 64
_WIDEST = 1_000_000
_SHORT = 20_000  # instructions of a run that is shown in one go, where each is asked about ...
_SPARSE = 1_000  # ... and where some are
_SLICE = 20_000_000  # compiled code is left so often, for whoever wants to interrupt

Places = Mapping[str, frozenset[int]]


@dataclass(slots=True)
class Here:
    """An instruction that comes next, and what happened since the one before it. `program` is None
    at the very end of the recording. `follows`: the one before was shown too, or there is none."""

    run: int
    insns: int = 0
    program: Program | None = None
    pc: int = 0
    regs: tuple[int, ...] | None = None
    depth: int = 0
    events: Sequence[Told] = ()
    follows: bool = False

    @property
    def position(self) -> Position:
        """Where that is."""
        return Position(self.run, self.insns)


class Sought:
    """What is looked for; a class for each kind."""

    def places(self, run: int) -> Places | None:
        """The pcs of a run where it can hold, by program; None: anywhere."""
        raise NotImplementedError

    def possible(self, run: int) -> bool:
        """Whether it can hold anywhere in a run, by what the recording says of it; for the number
        of runs, at the very end."""
        return True

    def at_start(self, run: int) -> bool:
        """Whether it can hold where a run begins, whatever instruction that is; also at the very
        end, for the number of runs."""
        raise NotImplementedError

    def prime(self, here: Here) -> None:
        """This instruction is shown because the next one is to be judged."""

    def behind_run(self, run: int) -> None:
        """Going backward, the beginning of `run` is judged next, by what is there at the end of the
        run before."""

    def holds(self, here: Here) -> bool:
        """Whether it holds here. Each instruction at one of `places` is asked about, in order; with
        None each one that is passed is either asked about or shown to `prime`."""
        raise NotImplementedError


class Search:
    """Searches of one history."""

    def __init__(self, history: History) -> None:
        self.history = history

    # --- forward ------------------------------------------------------------------------------

    def forward(self, start: Position, sought: Sought, *, whole_run: bool = False) -> Here | None:
        """The first place behind `start` where it holds; `whole_run`: in this run only."""
        history = self.history
        for run in range(start.run, len(history.runs)):
            history.stop_if_interrupted()
            first = start.insns + 1 if run == start.run else 0
            found = self._first_in(run, first, sought) if sought.possible(run) else None
            if found is not None or whole_run:
                return found
            if history.progress is not None:
                history.progress(history.number_of(Position(run, 0)), history.insns)
        end = history.end
        if start < end and sought.possible(end.run) and sought.at_start(end.run):
            here = Here(end.run, events=list(history.told_before(end.run)))
            history.at(end)
            if sought.holds(here):
                return here
        return None

    def _first_in(self, run: int, first: int, sought: Sought) -> Here | None:
        places = sought.places(run)
        starts = first == 0 and sought.at_start(run)
        if places is not None and not places and not starts:
            return None
        last = self.history.last(run).insns + 1
        if first == 0 and _is_short(last, places):
            return self._swept(run, places, starts, sought, first_only=True)
        if starts:
            for here in self._shown(run, 0, min(1, last), None, sought):
                if sought.holds(here):
                    return here
            first = 1
        if places is not None and not places:
            return None
        at, width = first, _NARROW
        while at < last:
            if places is None:
                return self._first_shown(run, at, last, None, sought)
            end = min(at + _SLICE, last)
            self.history.stop_if_interrupted()
            hit = self.history.hunt(run, at, end, places)
            if hit is None:
                at = end
                continue
            # Where one place comes soon after the other, more is shown at once.
            width = min(2 * width, WINDOW) if hit - at < 4 * width else _NARROW
            at = min(hit + width, last)
            found = self._first_shown(run, hit, at, places, sought)
            if found is not None:
                return found
        return None

    def _first_shown(
        self, run: int, first: int, last: int, places: Places | None, sought: Sought
    ) -> Here | None:
        for here in self._shown(run, first, last, places, sought, once=sought.holds):
            return here
        return None

    # --- backward -----------------------------------------------------------------------------

    def backward(self, end: Position, sought: Sought, *, whole_run: bool = False) -> Here | None:
        """The last place before `end` where it holds; `whole_run`: in this run only."""
        history = self.history
        if end == history.end and not history.runs:
            return None
        for run in range(min(end.run, len(history.runs) - 1), -1, -1):
            history.stop_if_interrupted()
            last = self.history.last(run).insns + 1
            if run == end.run:
                last = min(last, end.insns)
            found = self._last_in(run, last, sought) if sought.possible(run) else None
            if found is not None or whole_run:
                return found
            if history.progress is not None:
                history.progress(history.insns - history.number_of(Position(run, 0)), history.insns)
        return None

    def _last_in(self, run: int, last: int, sought: Sought) -> Here | None:
        places = sought.places(run)
        if last > self.history.last(run).insns and _is_short(last, places):
            starts = sought.at_start(run)
            if places is None or places or starts:
                return self._swept(run, places, starts, sought, first_only=False)
            return None
        end, width = last, _NARROW
        lowest = 0
        while end > lowest and (places is None or places):
            self.history.stop_if_interrupted()
            first = max(end - width, lowest)
            found = self._last_shown(run, first, end, places, sought)
            if found is not None:
                return found
            end, width = first, min(2 * width, _WIDEST)
            if places is not None and end > lowest:
                near = self._behind_last(run, lowest, end, places)
                if near is None:
                    break
                if end - near > 4 * width:
                    width = _NARROW
                end = near
        if last > 0 and places is not None and sought.at_start(run):
            sought.behind_run(run)
            for here in self._shown(run, 0, 1, None, sought):
                if sought.holds(here):
                    return here
        return None

    def _behind_last(self, run: int, first: int, last: int, places: Places) -> int | None:
        """Not much behind the last of `places` that the run comes to between these."""
        hit = self.history.hunt(run, first, last, places)
        if hit is None:
            return None
        low, high = hit, last
        while high - low > _NARROW:
            self.history.stop_if_interrupted()
            middle = (low + high) // 2
            hit = self.history.hunt(run, middle, high, places)
            if hit is None:
                high = middle
            else:
                low = hit
        return high

    def _last_shown(
        self, run: int, first: int, last: int, places: Places | None, sought: Sought
    ) -> Here | None:
        found = None
        if not first:
            sought.behind_run(run)
        for here in self._shown(run, first, last, places, sought, each=sought.holds):
            found = here
        return found

    # --- showing ------------------------------------------------------------------------------

    def _swept(
        self, run: int, places: Places | None, starts: bool, sought: Sought, *, first_only: bool
    ) -> Here | None:
        """The first or the last place of a run, which is shown in one go."""
        found: list[Here] = []
        if not first_only:
            sought.behind_run(run)
        ask = {"once" if first_only else "each": sought.holds}
        watch = self._watch(run, 0, places, sought, found, starts=starts, **ask)
        self.history.sweep(run, watch)
        return found[0] if found else None

    def _shown(
        self,
        run: int,
        first: int,
        last: int,
        places: Places | None,
        sought: Sought,
        *,
        once: Callable[[Here], bool] | None = None,
        each: Callable[[Here], bool] | None = None,
    ) -> Iterator[Here]:
        """The instructions from `first` on, before `last`, at `places`: the first where `once` is
        true, those where `each` is (they are asked while the run is there), or the only one."""
        found: list[Here] = []
        watch = self._watch(run, first, places, sought, found, once=once, each=each)
        self.history.walk(run, max(first - 1, 0), last, watch)
        yield from found

    def _watch(
        self,
        run: int,
        first: int,
        places: Places | None,
        sought: Sought,
        found: list[Here],
        *,
        starts: bool = False,
        once: Callable[[Here], bool] | None = None,
        each: Callable[[Here], bool] | None = None,
    ) -> Watch:
        """What is told the instructions of a run and fills `found`; `starts`: where the run begins
        is a place."""
        history = self.history
        told = history.told_in(run)
        after = {one.place: one for one in told}
        shown_from = max(first - 1, 0)
        answered = -1

        def watch(n: int, program: Program, pc: int, regs: tuple[int, ...], depth: int) -> bool:
            nonlocal answered
            before, answered = answered, history.replay.told
            if n < first:
                sought.prime(Here(run, n, program, pc, regs, depth))
                return False
            elsewhere = places is not None and pc not in places.get(program.name, ())
            if elsewhere and not (starts and n == 0):
                if n == shown_from:
                    sought.prime(Here(run, n, program, pc, regs, depth))
                return False
            events: Sequence[Told] = ()
            if n == 0:
                events = list(history.told_before(run))
            elif after and before >= 0 and before != answered:
                events = [after[at] for at in range(before, answered) if at in after]
            here = Here(run, n, program, pc, regs, depth, events, before >= 0 or n == 0)
            if once is None and each is None:
                found.append(here)
                return True
            if each is not None:
                if each(here):
                    found[:] = [here]
                return False
            if once is not None and once(here):
                found.append(here)
                return True
            return False

        return watch


def _is_short(last: int, places: Places | None) -> bool:
    """Whether a run of so many positions is shown in one go."""
    return last <= (_SHORT if places is None else _SPARSE)


__all__ = ["WINDOW", "Here", "Places", "Search", "Sought"]

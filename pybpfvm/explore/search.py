"""Exploring: schedule after schedule on one stage, until nothing is left or a budget is used up."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final

from pybpfvm.errors import InputError, LoadRejected
from pybpfvm.events import Event
from pybpfvm.explore.findings import Found, Shown, shown_by
from pybpfvm.explore.footprints import Footprints
from pybpfvm.explore.known import Came, Known
from pybpfvm.explore.shrink import Small, measured, smaller
from pybpfvm.explore.strategies import NAMES, Dfs, Drawn, OutOfTime, Redundant, Strategy, Unsteady
from pybpfvm.explore.table import Options, Table
from pybpfvm.interrupts import released
from pybpfvm.scenario import Scenario
from pybpfvm.scenario.schedule import Player, Schedule

_SMALL_SECONDS: Final = 5.0  # for what is found last to be made small


@dataclass(slots=True)
class Report:
    """What came of it. `exhaustive`: every order, and with `depth`: of so many actions. `saved` are
    answers that needed no schedule. `uncontrolled`: the same schedule went another way. `unended`:
    what did not end within the time, so that nothing is known of it, as a sentence."""

    strategy: str
    schedules: int = 0
    seconds: float = 0.0
    exhaustive: bool = False
    depth: int | None = None
    deviations: int | None = None
    longest: int = 0
    saved: int = 0
    different: int | None = None  # of those that were drawn; what comes again is not played again
    redundant: int = 0  # schedules that were broken off: all that could come had been seen
    reduced: bool = False
    questions: int = 0  # of the usual schedule
    uncontrolled: bool = False
    unended: str = ""
    interrupted: bool = False
    stopped_by: str = ""
    found: list[Found] = field(default_factory=list)
    states: set[int] = field(default_factory=set)  # hashes of what was there at the end

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, 1 for a finding, 3 when the run is not ours to repeat or did not end in
        time, else 0."""
        if self.interrupted:
            return 130
        if self.found:
            return 1
        return 3 if self.uncontrolled or self.unended else 0

    def out_of_time(self, over: OutOfTime, seconds: float) -> None:
        """Time was up within a schedule, after so many seconds in all: note it where it is that
        schedule which took them."""
        self.stopped_by = f"{seconds:g} s"
        if not self.schedules or over.seconds > seconds / 2:
            runs = "1 program run" if over.runs == 1 else f"{over.runs:,} program runs"
            self.unended = (
                f"a schedule did not end within the {seconds:g} s: it was stopped after "
                f"{over.seconds:.1f} s and {runs}"
            )


def explore(
    scenario: Scenario,
    options: Options,
    told: Callable[[Report], None] = lambda report: None,
) -> Report:
    """Explore the orders in which `scenario` can go. `told` is called after each schedule.

    Ctrl-C ends it, with what there was by then.
    Raises InputError, LoadRejected and UnsupportedError for what can not be run at all.
    """
    if options.strategy not in NAMES:
        raise InputError(
            f"no strategy is called {options.strategy!r}",
            where="--strategy",
            remedy=", ".join(NAMES),
        )
    report = Report(options.strategy, depth=options.depth, deviations=options.deviations)
    began = time.perf_counter()
    try:
        with released(), Table(scenario, options) as table:
            _Exploration(table, options, told, report).run()
    except KeyboardInterrupt:
        report.interrupted, report.stopped_by = True, "Ctrl-C"
        report.seconds = time.perf_counter() - began
    return report


class _Hash:
    """An observer that keeps of all events one number: a run may have millions of them."""

    def __init__(self) -> None:
        self.value = 0

    def __call__(self, event: Event) -> None:
        self.value = hash((self.value, event))


class _Exploration:
    def __init__(
        self, table: Table, options: Options, told: Callable[[Report], None], report: Report
    ) -> None:
        self._table = table
        self._options = options
        self._told = told
        self._report = report
        self._known: set[tuple[str, str]] = set()
        self._drawn = Known()
        self._began = time.perf_counter()

    def run(self) -> None:
        """Explore; what comes of it is in the report at any time."""
        self._table.ends_after(self._options.seconds)
        try:
            self._run()
        except OutOfTime as over:
            self._report.out_of_time(over, self._options.seconds)
        self._report.seconds = time.perf_counter() - self._began

    def _run(self) -> None:
        report, options = self._report, self._options
        first, usual = self._usual()
        strategy = self._strategy()
        dfs = strategy if isinstance(strategy, Dfs) else None
        if dfs is None:  # dfs begins with it anyway
            self._keep(usual, first)
            self._count(usual, first)
        while not self._over():
            player = strategy.player()
            if player is None:
                assert dfs is not None
                report.exhaustive = not dfs.cut or options.depth is not None
                break
            try:
                self._play(strategy, player)
            except Redundant:
                strategy.played(player)
                report.redundant += 1
            except Unsteady:
                report.uncontrolled = True
                break
            if dfs is not None and dfs.spoilt:  # once more, with everything
                strategy = dfs = self._dfs(None)
            if dfs is not None:
                report.saved = dfs.asleep
                report.longest, report.reduced = dfs.longest, dfs.reducing

    def _usual(self) -> tuple[tuple[Shown, ...], Player]:
        """Play the usual schedule twice: what it shows, and whether it is the same each time."""
        table, report = self._table, self._report
        seen: list[int] = []
        for _ in range(2):
            player, events = Player({}, self._options.faults), _Hash()
            outcome = table.play(player, observer=events, state=self._options.everything)
            if isinstance(outcome.stopped, LoadRejected) and not outcome.expected_stop:
                raise outcome.stopped
            table.left = len(outcome.left) if outcome.stopped is None else None
            seen.append(events.value)
        report.questions = len(player.answers)
        report.uncontrolled = seen[0] != seen[1]
        if report.uncontrolled:
            report.stopped_by = "the same schedule went two ways"
        return shown_by(outcome, table.scenario.path, faulty=False), player

    def _strategy(self) -> Strategy:
        options, report = self._options, self._report
        if options.strategy == "dfs":
            reduces = options.reduce and options.events
            return self._dfs(self._table.footprints() if reduces else None)
        return Drawn(options.strategy, options.seed, options.faults, report.questions)

    def _dfs(self, footprints: Footprints | None) -> Dfs:
        options = self._options
        return Dfs(footprints, options.faults, depth=options.depth, deviations=options.deviations)

    def _over(self) -> bool:
        report, options = self._report, self._options
        if report.uncontrolled or (report.found and not options.everything):
            return True
        if report.schedules >= options.schedules:
            report.stopped_by = f"{options.schedules:,} schedules"
        elif report.redundant >= options.schedules:
            report.stopped_by = f"{options.schedules:,} schedules that were broken off"
        elif time.perf_counter() - self._began >= options.seconds:
            report.stopped_by = f"{options.seconds:g} s"
        return bool(report.stopped_by)

    def _play(self, strategy: Strategy, player: Player) -> None:
        table = self._table
        if isinstance(strategy, Drawn):
            came = self._drawn.of(player)
            if came is not None:
                self._report.states.add(came.state)
                self._count(player, came.shown)
                return
            player = strategy.same()
        watching = strategy.footprints if isinstance(strategy, Dfs) else None
        outcome = table.play(
            player,
            observer=watching,
            heard=None if watching is None else watching.heard,
            on_start=None if watching is None else watching.begins,
            state=self._options.everything,
        )
        strategy.played(player)
        self._report.states.add(table.state)
        shown = shown_by(outcome, table.scenario.path, faulty=player.faulty)
        if isinstance(strategy, Drawn):
            self._keep(player, shown)
        self._count(player, shown)

    def _keep(self, player: Player, shown: tuple[Shown, ...]) -> None:
        """What was drawn has been played: know it when it comes again."""
        self._drawn.add(player, Came(shown, self._table.state))
        self._report.different = self._drawn.different

    def _count(self, player: Player, shown: tuple[Shown, ...]) -> None:
        """A schedule is over: note what is new."""
        report, options = self._report, self._options
        report.schedules += 1
        if shown and shown[0].key not in self._known:
            self._known |= {one.key for one in shown}
            schedule = Schedule(options.seed, options.faults, (), player.picks)
            seconds = time.perf_counter() - self._began
            small = Small(schedule, tuple(shown), player)
            first = Found(
                small.shown[0],
                schedule,
                small.answers,
                report.schedules,
                seconds,
                schedule,
                small.shown[1:],
            )
            report.found.append(first)  # as it is, if Ctrl-C comes before it is small
            if options.shrink:
                self._table.ends_after(_SMALL_SECONDS)
                small = smaller(self._table, small)
                report.found[-1] = replace(
                    first,
                    shown=small.shown[0],
                    schedule=small.schedule,
                    answers=small.answers,
                    also=small.shown[1:],
                )
                with suppress(OutOfTime):
                    sizes = measured(self._table, schedule), measured(self._table, small.schedule)
                    report.found[-1] = replace(report.found[-1], sizes=sizes)
        self._told(report)

"""Making a finding small: fewer answers that are not the usual one, fewer faults, fewer steps,
less data.

Delta debugging (Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", 2002)
over the answers of the schedule, then one by one over the steps of the scenario. A step may only go
if without it the usual schedule shows nothing of the kind that it did not show before: else what
is left would fail for another reason. Data of blocks, files and messages is cut under the same
condition; where only expectations stand against that, a finding that is none of them does without.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from pybpfvm.errors import PybpfvmError
from pybpfvm.events import Event
from pybpfvm.explore.findings import Shown, Size
from pybpfvm.explore.strategies import OutOfTime
from pybpfvm.explore.table import Table
from pybpfvm.scenario import less
from pybpfvm.scenario.less import data_of
from pybpfvm.scenario.schedule import Answer, Player, Schedule

_MOST_PLAYS: Final = 400
_MOST_RUNS: Final = 200_000  # of programs, in all plays


@dataclass(frozen=True, slots=True)
class Small:
    """A schedule, what it shows, most telling first, and the player that played it."""

    schedule: Schedule
    shown: tuple[Shown, ...]
    player: Player

    @property
    def answers(self) -> tuple[tuple[int, Answer], ...]:
        """Its questions that were not answered as usual, by number."""
        return tuple((at, one) for at, one in enumerate(self.player.answers) if one.index)


class _Shrinker:
    def __init__(self, table: Table, small: Small) -> None:
        self._table = table
        self.small = small
        self._key = small.shown[0].key
        self._plays = 0
        self._runs = 0  # of programs
        self._events = 0  # of what was played last
        self._fewest = 0  # of what is kept
        self._usual: frozenset[tuple[str, str]] = frozenset()  # what the usual schedule shows

    def all(self) -> None:
        """Everything that makes it smaller. Raises OutOfTime, with the smallest so far kept."""
        schedule = self.small.schedule
        self._play(schedule)
        self._fewest = self._events
        usual, _ = self._play(Schedule(schedule.seed, schedule.faults))
        self._usual = frozenset(one.key for one in usual)
        self.answers()
        self.values()
        self.faults()
        self.steps()
        self.data()
        if self.small.schedule.bare:
            self.steps()
        self.answers()

    def _play(self, schedule: Schedule) -> tuple[tuple[Shown, ...], Player]:
        self._plays += 1
        player = Player(schedule.picks, schedule.faults)
        self._events = 0
        try:
            scenario = schedule.applied(self._table.scenario)
            shown = self._table.shown(player, scenario, observer=self._count)
            self._runs += self._table.runs
            return shown, player
        except PybpfvmError:
            return (), player  # a scenario that can not be used any more

    def _count(self, _: Event) -> None:
        self._events += 1

    def _spent(self, more: int = 1) -> bool:
        """Whether so many plays more are too many."""
        return self._plays + more > _MOST_PLAYS or self._runs >= _MOST_RUNS

    def try_(self, schedule: Schedule, *, shorter: bool = False) -> bool:
        """Keep this schedule if it shows the same, and is not larger; `shorter`: nor longer."""
        if self._spent():
            return False
        shown, player = self._play(schedule)
        if not any(one.key == self._key for one in shown):
            return False
        picks, events = player.picks, self._events
        if shorter and events > self._fewest:
            return False
        if len(picks) > len(self.small.schedule.picks):
            return False
        first = sorted(shown, key=lambda one: one.key != self._key)
        self.small = Small(replace(schedule, picks=picks), tuple(first), player)
        self._fewest = events
        return True

    def answers(self) -> None:
        """Fewer answers: halves first, then smaller pieces."""
        piece = max(len(self.small.schedule.picks), 1)
        while piece:
            at = 0
            while at < len(self.small.schedule.picks):
                picks = sorted(self.small.schedule.picks.items())
                fewer = dict(picks[:at] + picks[at + piece :])
                if not self.try_(replace(self.small.schedule, picks=fewer)):
                    at += piece
            piece //= 2

    def values(self) -> None:
        """Smaller answers: the first that show the same."""
        for at, pick in sorted(self.small.schedule.picks.items()):
            for other in range(1, pick):
                if self.small.schedule.picks.get(at) == pick and self.try_(
                    replace(self.small.schedule, picks={**self.small.schedule.picks, at: other})
                ):
                    break

    def faults(self) -> None:
        """No more faults than it takes."""
        for fewer in range(self.small.schedule.faults):
            if self.try_(replace(self.small.schedule, faults=fewer)):
                return

    def steps(self) -> None:
        """Fewer steps, the last ones first."""
        for step in reversed(range(len(self._table.scenario.steps))):
            without = tuple(sorted({*self.small.schedule.without, step}))
            if self._spent():
                return
            self._try_less(replace(self.small.schedule, without=without))

    def _try_less(self, schedule: Schedule) -> bool:
        """Keep it if it shows the same, and the usual schedule of what is left nothing new."""
        if self._spent(more=2):
            return False
        shown, _ = self._play(replace(schedule, picks={}))
        new = [one for one in shown if one.key not in self._usual]
        if self._key in self._usual:
            # Of an expectation nobody could say whether it fails for the same reason.
            same = not new and self._key[0] != "expectation"
            return same and self.try_(schedule, shorter=True)
        if any(one.kind in ("expectation", self._key[0]) for one in new):
            return False
        return self.try_(schedule, shorter=True)

    def data(self) -> None:
        """Less data, and without expectations if that takes more of it away."""
        self._cut()
        judged = self.small
        sizes = self._sizes(judged)
        if self._key[0] == "expectation" or sum(sizes.values()) == len(sizes):
            return
        if self._try_less(replace(judged.schedule, bare=True)):
            self._cut()
            if sum(self._sizes(self.small).values()) == sum(sizes.values()):
                self.small = judged

    def _cut(self) -> None:
        """Cut messages together, for some answer others, then each piece of data by itself."""
        keys = list(self._sizes(self.small))
        messages = [key for key in keys if key.startswith("s")]
        for group in ([messages] if len(messages) > 1 else []) + [[key] for key in keys]:
            if self._cut_to(group, 1):
                continue
            sizes = self._sizes(self.small)
            few, enough = 1, max(sizes[key] for key in group)
            while enough - few > 1:
                half = (few + enough) // 2
                if self._cut_to(group, half):
                    enough = half
                else:
                    few = half

    def _cut_to(self, group: Sequence[str], size: int) -> bool:
        sizes = self._sizes(self.small)
        fewer = {key: size for key in group if sizes[key] > size}
        cut = {**self.small.schedule.cut, **fewer}
        return bool(fewer) and self._try_less(replace(self.small.schedule, cut=cut))

    def _sizes(self, small: Small) -> dict[str, int]:
        """The data of the steps that are left, and of the rest."""
        sizes = data_of(less.cut(self._table.scenario, small.schedule.cut))
        gone = {f"s{step}" for step in small.schedule.without}
        return {key: size for key, size in sizes.items() if key not in gone}


def smaller(table: Table, small: Small) -> Small:
    """The smallest schedule found, while there is time, that shows the same."""
    shrinker = _Shrinker(table, small)
    with suppress(OutOfTime):
        shrinker.all()
    return shrinker.small


def measured(table: Table, schedule: Schedule) -> Size:
    """Play it once more, to see how much it is."""
    events = 0

    def count(_: Event) -> None:
        nonlocal events
        events += 1

    scenario = schedule.applied(table.scenario)
    player = Player(schedule.picks, schedule.faults)
    table.play(player, scenario=scenario, observer=count)
    return Size(
        answers=len(schedule.picks),
        faults=schedule.faults - player.faults_left,
        steps=len(scenario.steps),
        data_bytes=sum(data_of(scenario).values()),
        events=events,
    )

"""Making a finding small: fewer answers that are not the usual one, fewer faults, fewer steps.

Delta debugging (Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", 2002)
over the answers of the schedule, then one by one over the steps of the scenario. A step may only go
if without it the usual schedule shows nothing of the kind that it did not show before: else what
is left would fail for another reason.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from pybpfvm.errors import PybpfvmError
from pybpfvm.explore.findings import Shown
from pybpfvm.scenario.schedule import Answer, Player, Schedule

if TYPE_CHECKING:
    from pybpfvm.explore.search import Table

_MOST_PLAYS: Final = 400


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
        self._usual = self._shows(Schedule(small.schedule.seed, small.schedule.faults))

    def _play(self, schedule: Schedule) -> tuple[tuple[Shown, ...], Player]:
        self._plays += 1
        player = Player(schedule.picks, schedule.faults)
        try:
            return self._table.shown(player, schedule.applied(self._table.scenario)), player
        except PybpfvmError:
            return (), player  # a scenario that can not be used any more

    def _shows(self, schedule: Schedule) -> bool:
        return any(one.key == self._key for one in self._play(schedule)[0])

    def try_(self, schedule: Schedule) -> bool:
        """Keep this schedule if it shows the same, and is not larger."""
        if self._plays >= _MOST_PLAYS:
            return False
        shown, player = self._play(schedule)
        if not any(one.key == self._key for one in shown):
            return False
        picks = player.picks
        if len(picks) > len(self.small.schedule.picks):
            return False
        first = sorted(shown, key=lambda one: one.key != self._key)
        self.small = Small(replace(schedule, picks=picks), tuple(first), player)
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
            for less in range(1, pick):
                if self.small.schedule.picks.get(at) == pick and self.try_(
                    replace(self.small.schedule, picks={**self.small.schedule.picks, at: less})
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
            usual = Schedule(self.small.schedule.seed, self.small.schedule.faults, without)
            if self._plays >= _MOST_PLAYS:
                return
            shown, _ = self._play(usual)
            if not self._usual and any(one.kind in ("expectation", self._key[0]) for one in shown):
                continue
            if self._usual and any(one.key != self._key for one in shown):
                continue
            self.try_(replace(self.small.schedule, without=without))


def smaller(table: Table, small: Small) -> Small:
    """The smallest schedule found that shows the same."""
    shrinker = _Shrinker(table, small)
    shrinker.answers()
    shrinker.values()
    shrinker.faults()
    shrinker.steps()
    shrinker.answers()
    return shrinker.small

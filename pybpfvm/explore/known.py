"""What came of schedules that were drawn, so that none is played twice.

The same answers lead to the same run, which is made sure of before anything is drawn. So the
questions of what was played are a tree: at each the answers that were given, at its leaves what
came of it. Who draws is asked along the tree, and plays only where that ends.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from pybpfvm.explore.findings import Shown
from pybpfvm.scenario.schedule import Player
from pybpfvm.uring_backend.choices import Point

_MOST: Final = 200_000  # questions that are kept


@dataclass(frozen=True, slots=True)
class Came:
    """What a schedule showed, and the hash of what was there at its end."""

    shown: tuple[Shown, ...]
    state: int


@dataclass(slots=True)
class _Question:
    point: Point
    options: tuple[object, ...]
    then: dict[int, _Question | Came] = field(default_factory=dict)


class Known:
    """The tree; `different` schedules are in it, or were too many to keep."""

    def __init__(self) -> None:
        self.different = 0
        self._first: _Question | Came | None = None
        self._kept = 0

    def of(self, player: Player) -> Came | None:
        """Ask a player who has not played; what comes of its answers, or None if that is not
        known: then the player is used up."""
        at = self._first
        while isinstance(at, _Question):
            at = at.then.get(player.answers_again(at.point, at.options))
        return at

    def add(self, player: Player, came: Came) -> None:
        """A player has played what was not known."""
        self.different += 1
        answers = player.answers
        if self._kept + len(answers) > _MOST:
            return
        if not answers:
            self._first = came
            return
        if self._first is None:
            self._first = self._question(player, 0)
        at = self._first
        for number, answer in enumerate(answers):
            assert isinstance(at, _Question)
            following = at.then.get(answer.index)
            if following is None:
                last = number + 1 == len(answers)
                following = came if last else self._question(player, number + 1)
                at.then[answer.index] = following
            at = following

    def _question(self, player: Player, number: int) -> _Question:
        self._kept += 1
        answer = player.answers[number]
        return _Question(answer.point, answer.options)

"""A schedule: what was chosen where the order of things is free, as a value and as one line.

    seed=0,faults=1,without=2+5,bare,cut=b0:16+s3:1,3:1,7:2

Questions with more than one answer are counted from 0; `3:1` answers the fourth one with option 1,
all others get option 0, which is what happens without a schedule. `faults` is how many faults may
be chosen, `without` the steps of the scenario (from 0) that are left out; `seed` is what draws
latencies and random numbers. `cut` says how many bytes of its data are left, by their keys in
`less`, and `bare` that its expectations are left out. All may be missing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from pybpfvm.errors import InputError
from pybpfvm.scenario import less
from pybpfvm.uring_backend.choices import CLOCK, HOST, Point, Race
from pybpfvm.uring_backend.faults import Harm, Late, UserReaps, UserWrites

if TYPE_CHECKING:
    from pybpfvm.scenario.model import Scenario

_ITEM: Final = re.compile(
    r"(seed|faults)=(\d{1,20})|without=(\d{1,6}(?:\+\d{1,6})*)|(\d{1,9}):(\d{1,6})"
    r"|(bare)|cut=([bfs]\d{1,6}:[1-9]\d{0,9}(?:\+[bfs]\d{1,6}:[1-9]\d{0,9})*)"
)
_REMEDY: Final = "as `explore` prints it, e.g. seed=0,3:1,7:2"


@dataclass(frozen=True, slots=True)
class Schedule:
    """Answers by question; those that are not there are 0."""

    seed: int = 0
    faults: int = 0
    without: tuple[int, ...] = ()
    picks: Mapping[int, int] = field(default_factory=dict)
    cut: Mapping[str, int] = field(default_factory=dict)
    bare: bool = False

    def __str__(self) -> str:
        parts = [f"seed={self.seed}"]
        parts += [f"faults={self.faults}"] if self.faults else []
        parts += [f"without={'+'.join(map(str, self.without))}"] if self.without else []
        parts += ["bare"] if self.bare else []
        cut = [f"{key}:{size}" for key, size in sorted(self.cut.items())]
        parts += [f"cut={'+'.join(cut)}"] if cut else []
        return ",".join([*parts, *(f"{at}:{pick}" for at, pick in sorted(self.picks.items()))])

    def applied(self, scenario: Scenario) -> Scenario:
        """The scenario without the steps, data and expectations that are left out. InputError if
        it has fewer."""
        if self.without and self.without[-1] >= len(scenario.steps):
            raise InputError(
                f"there is no step {self.without[-1]} to leave out",
                where=f"{scenario.path}: schedule",
                remedy=f"it has {len(scenario.steps)} steps",
            )
        scenario = less.cut(scenario, self.cut) if self.cut else scenario
        scenario = less.bare(scenario) if self.bare else scenario
        kept = (step for at, step in enumerate(scenario.steps) if at not in self.without)
        return replace(scenario, steps=tuple(kept)) if self.without else scenario


def parse_schedule(text: str, where: str = "schedule") -> Schedule:
    """Read what `str` of a schedule gives. Raises InputError that names `where`."""
    numbers = {"seed": 0, "faults": 0}
    without: tuple[int, ...] = ()
    picks: dict[int, int] = {}
    cut: dict[str, int] = {}
    bare = False
    for item in (part.strip() for part in text.split(",") if part.strip()):
        match = _ITEM.fullmatch(item)
        if match is None:
            raise InputError(f"{item!r} is no part of a schedule", where=where, remedy=_REMEDY)
        name, number, steps, at, pick, plain, data = match.groups()
        if name is not None:
            numbers[name] = int(number)
        elif steps is not None:
            without = tuple(sorted({int(step) for step in steps.split("+")}))
        elif plain is not None:
            bare = True
        elif data is not None:
            pairs = (one.split(":") for one in data.split("+"))
            cut = {key: int(size) for key, size in pairs}
        elif int(at) in picks:
            raise InputError(f"question {at} is answered twice", where=where)
        else:
            picks[int(at)] = int(pick)
    return Schedule(numbers["seed"], numbers["faults"], without, picks, cut, bare)


@dataclass(frozen=True, slots=True)
class Answer:
    """A question that had more than one answer: which was given, and what it means in words."""

    point: Point
    options: tuple[object, ...]
    index: int

    def __str__(self) -> str:
        chosen = self.options[self.index]
        if self.point is Point.RUN:
            usual = self.options[0]
            return f"request {chosen} runs" + (f" before request {usual}" if self.index else "")
        if self.point is Point.NEXT:
            return f"{_actor(chosen)}" + (
                f" before {_actor(self.options[0])}" if self.index else ""
            )
        return "as usual" if chosen is None else str(chosen)


def _actor(who: object) -> str:
    if who == HOST:
        return "the host goes on"
    return "time passes" if who == CLOCK else f"a worker takes request {who}"


class Player:
    """A chooser that answers as `picks` say, and keeps what was asked in `answers`.

    Others override `pick`. An answer that the question does not have is InputError where `strict`,
    else 0.
    """

    def __init__(
        self, picks: Mapping[int, int], faults: int = 0, *, strict: bool = False, where: str = ""
    ) -> None:
        self.faults_left = faults
        self.answers: list[Answer] = []
        self.over = False  # the run has ended: nothing is chosen any more
        self._picks = picks
        self._strict = strict
        self._where = where

    def require_all(self) -> None:
        """Raise InputError if there is an answer to a question that was not asked."""
        late = [at for at in sorted(self._picks) if at >= len(self.answers)]
        if late:
            raise InputError(
                f"question {late[0]} was not asked: there were {len(self.answers)}",
                where=self._where,
                remedy="the schedule is of another scenario, object or version",
            )

    def pick(self, point: Point, options: Sequence[object]) -> int:
        """The answer to the question with the number `len(self.answers)`."""
        at = len(self.answers)
        index = self._picks.get(at, 0)
        if index < len(options):
            return index
        if self._strict:
            raise InputError(
                f"question {at} has {len(options)} answers, and no answer {index}",
                where=self._where,
                remedy="the schedule is of another scenario, object or version",
            )
        return 0

    def order(self, point: Point, who: Sequence[int]) -> int:
        """See choices.Chooser."""
        return self._asked(point, who) if len(who) > 1 else 0

    def harm(self, token: int, harms: Sequence[Harm | None]) -> int:
        """See choices.Chooser."""
        index = self._asked(Point.HARM, harms)
        harm = harms[index]
        self.faults_left -= harm is not None and not isinstance(harm, Late)
        return index

    def user(self, acts: Sequence[UserWrites | UserReaps | None]) -> int:
        """See choices.Chooser."""
        index = self._asked(Point.USER, acts)
        self.faults_left -= acts[index] is not None
        return index

    def race(self, ends: Sequence[Race]) -> int:
        """See choices.Chooser."""
        return self._asked(Point.RACE, ends)

    def answers_again(self, point: Point, options: Sequence[Any]) -> int:
        """The answer to a question as it was kept in `answers`."""
        if point is Point.HARM:
            return self.harm(0, options)
        if point is Point.RACE:
            return self.race(options)
        return self.user(options) if point is Point.USER else self.order(point, options)

    def performs(self, token: int, what: object) -> None:
        """See choices.Chooser."""

    def host_acts(self) -> None:
        """See choices.Chooser."""

    def _asked(self, point: Point, options: Sequence[object]) -> int:
        if self.over:
            return 0
        index = self.pick(point, options)
        self.answers.append(Answer(point, tuple(options), index))
        return index

    @property
    def faulty(self) -> bool:
        """Whether a fault was chosen; being late is none."""
        return any(
            answer.point in (Point.HARM, Point.USER)
            and answer.options[answer.index] is not None
            and not isinstance(answer.options[answer.index], Late)
            for answer in self.answers
        )

    @property
    def picks(self) -> dict[int, int]:
        """What was answered otherwise than usual: replayed, it is the same run."""
        return {at: answer.index for at, answer in enumerate(self.answers) if answer.index}

"""Strategies: who answers the questions of a run, schedule after schedule.

dfs     every answer to every question, depth first, without those orders that only change
        places of independent actions (sleep sets: Godefroid 1996, section 5)
random  each answer is as likely as another, faults apart
pct     who acts has a priority, which changes at a few places (Burckhardt et al., "A
        Randomized Scheduler with Probabilistic Guarantees of Finding Bugs", ASPLOS 2010)
rr      round-robin: who acts next is who has not for the longest time
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final, Protocol

from pybpfvm.explore.footprints import Footprints, Touched
from pybpfvm.scenario.schedule import Player
from pybpfvm.uring_backend.choices import CLOCK, HOST, Point

NAMES: Final = ("dfs", "random", "pct", "rr")
_CHANGES: Final = 3  # of priorities, in one schedule of pct
_FAULT_ODDS: Final = 0.15  # of anything but "as usual", where a question is about faults
_FAULTS: Final = (Point.HARM, Point.USER)
_ORDERS: Final = (Point.RUN, Point.NEXT)  # questions of who acts; the others are about data


class Redundant(Exception):
    """What would come now has been seen, in another order of independent actions."""


class Unsteady(Exception):
    """The same answers led to other questions: something that is not controlled decides, too."""


class OutOfTime(Exception):
    """The time for all of it was over within a schedule, after so many `runs` of programs in it,
    and so many `seconds` of it."""

    def __init__(self, runs: int, seconds: float) -> None:
        super().__init__(f"{runs} runs, {seconds} s")
        self.runs = runs
        self.seconds = seconds


class Strategy(Protocol):
    """Gives a player for each schedule, None when there are no more."""

    def player(self) -> Player | None:
        """Who plays the next schedule."""

    def played(self, player: Player) -> None:
        """It is over, whatever came of it."""


class RandomPlayer(Player):
    """Answers drawn from a seed."""

    def __init__(self, seed: int, faults: int) -> None:
        super().__init__({}, faults)
        self._random = Random(seed)

    def pick(self, point: Point, options: Sequence[object]) -> int:
        if point in _FAULTS:
            return self.datum(len(options))
        return self._random.randrange(len(options))

    def datum(self, options: int) -> int:
        """The answer to a question about faults: mostly as usual."""
        usual = self._random.random() >= _FAULT_ODDS
        return 0 if usual else self._random.randrange(1, options)


class PctPlayer(RandomPlayer):
    """Who acts first has the highest priority; at `changes` (numbers of questions) it drops."""

    def __init__(self, seed: int, faults: int, questions: int) -> None:
        super().__init__(seed, faults)
        self._priorities: dict[object, float] = {}
        self._changes = {self._random.randrange(max(questions, 1)) for _ in range(_CHANGES)}

    def pick(self, point: Point, options: Sequence[object]) -> int:
        if point not in _ORDERS:
            return super().pick(point, options)
        of = self._priorities
        for who in options:
            of.setdefault(who, self._random.random())
        if len(self.answers) in self._changes:
            of[options[self._best(options)]] = -self._random.random()
        return self._best(options)

    def _best(self, options: Sequence[object]) -> int:
        order = sorted(range(len(options)), key=lambda at: self._priorities[options[at]])
        return order[-1]


class RoundRobinPlayer(RandomPlayer):
    """Who has acted least recently acts; `turn` rotates those who never have."""

    def __init__(self, turn: int, faults: int) -> None:
        super().__init__(turn, faults)
        self._turn = turn
        self._last: dict[object, int] = {}

    def pick(self, point: Point, options: Sequence[object]) -> int:
        if point not in _ORDERS:
            return super().pick(point, options) if self._turn else 0
        start = self._turn % len(options)
        order = [*range(start, len(options)), *range(start)]
        index: int = min(order, key=lambda at: self._last.get(options[at], -1))
        self._last[options[index]] = len(self.answers)
        return index


@dataclass(slots=True)
class Drawn:
    """random, pct and rr: without an end, a schedule for each number from `seed` on."""

    name: str
    seed: int
    faults: int
    questions: int  # that a run asks, about

    def player(self) -> Player:
        """See Strategy."""
        self.seed += 1
        return self.same()

    def same(self) -> Player:
        """The last player, before it played."""
        if self.name == "pct":
            return PctPlayer(self.seed, self.faults, self.questions)
        if self.name == "rr":
            return RoundRobinPlayer(self.seed - 1, self.faults)
        return RandomPlayer(self.seed, self.faults)

    def played(self, player: Player) -> None:
        """See Strategy."""


@dataclass(slots=True)
class _Node:
    """A question on the path: who could act, which answer is being explored, what was touched by
    each that was, and who sleeps: acting now is the same as having acted before."""

    options: tuple[object, ...]
    order: bool
    index: int = 0
    touched: dict[object, Touched] = field(default_factory=dict)
    sleeping: dict[object, Touched] = field(default_factory=dict)


class Dfs:
    """Every schedule of the first `depth` actions with at most `deviations` answers other than 0
    (None: any number); behind them everything is as usual.

    `reduce`: independent actions are explored in one order only. With a bound on deviations that
    could leave out what no other schedule within it shows, so then nothing is reduced.
    """

    def __init__(
        self,
        footprints: Footprints | None,
        faults: int,
        *,
        depth: int | None = None,
        deviations: int | None = None,
    ) -> None:
        self.footprints = footprints if deviations is None else None
        self.asleep = 0  # answers that were not tried
        self.cut = False  # whether a bound left something out
        self.longest = 0  # actions of the longest schedule
        self.depth, self.deviations = depth, deviations
        self.path: list[_Node] = []
        self._faults = faults
        self._begun = False

    def player(self) -> Player | None:
        """See Strategy."""
        if self._begun and not self._next():
            return None
        self._begun = True
        return DfsPlayer(self, self._faults)

    def played(self, player: Player) -> None:
        """See Strategy."""
        assert isinstance(player, DfsPlayer)
        player.ends()
        self.longest = max(self.longest, player.actions)

    @property
    def reducing(self) -> bool:
        """Whether independent actions are explored in one order only."""
        return self.footprints is not None and not self.footprints.reads_time

    @property
    def spoilt(self) -> bool:
        """Whether something was left out that would not have been, had it been known that the
        clock is read."""
        return self.footprints is not None and not self.reducing and bool(self.asleep)

    def _next(self) -> bool:
        """Move on to the next answer of the last question that has one; False if none has."""
        while self.path:
            node = self.path[-1]
            used = sum(one.index > 0 for one in self.path[:-1])
            while node.index + 1 < len(node.options):
                if self.deviations is not None and used >= self.deviations:
                    self.cut = True
                    break
                node.index += 1
                if self.reducing and node.options[node.index] in node.sleeping:
                    self.asleep += 1
                    continue
                return True
            self.path.pop()
        return False


class DfsPlayer(Player):
    """Follows the path as far as it goes, then takes the first answers that are not asleep."""

    def __init__(self, search: Dfs, faults: int) -> None:
        super().__init__({}, faults)
        self.actions = 0
        self._search = search
        self._at = 0  # how many nodes of the path were passed
        self._acting: tuple[_Node, object] | None = None
        self._point = Point.RUN
        self._touched = Touched()

    def order(self, point: Point, who: Sequence[int]) -> int:
        if self.over:
            return 0
        self._finish(point)
        self.actions += 1
        self._point = point
        search = self._search
        if search.depth is not None and self.actions > search.depth:
            search.cut |= len(who) > 1
            self._acting = None
            return super().order(point, who)
        node = self._node(tuple(who), order=True)
        self._acting = node, node.options[node.index]
        if search.footprints is not None and node.options[node.index] in (HOST, CLOCK):
            search.footprints.now.all = True
        return super().order(point, who)

    def pick(self, point: Point, options: Sequence[object]) -> int:
        if point not in _ORDERS:
            search = self._search
            if search.depth is not None and self.actions > search.depth:
                search.cut = True
                return 0
            return self._node(tuple(options), order=False).index
        return 0 if self._acting is None else self._acting[0].index

    def performs(self, token: int, what: object) -> None:
        if self._search.footprints is not None:
            self._search.footprints.performs(token, what)

    def host_acts(self) -> None:
        if self._search.footprints is not None:
            self._search.footprints.now.all = True

    def ends(self) -> None:
        """The run is over."""
        self._finish(None)

    def _finish(self, following: Point | None) -> None:
        """The action that was chosen last is over: note what it touched."""
        footprints = self._search.footprints
        if footprints is None:
            return
        touched = footprints.next()
        if self._acting is None:
            return
        if self._point is Point.NEXT and following is not Point.NEXT:
            touched.all = True  # after it only programs, or the host, can act
        node, who = self._acting
        known = node.touched.setdefault(who, touched)
        if known is not touched:
            known.add(touched)
        self._touched = touched

    def _node(self, options: tuple[object, ...], *, order: bool) -> _Node:
        """The node of this question: on the path, or new at its end. Raises Redundant."""
        path = self._search.path
        if self._at < len(path):
            node = path[self._at]
            if node.options != options:
                raise Unsteady
            self._at += 1
            return node
        node = _Node(options, order)
        if order and self._search.reducing:
            node.sleeping = self._sleepers()
            awake = [at for at, who in enumerate(options) if who not in node.sleeping]
            self._search.asleep += awake[0] if awake else len(options)
            if not awake:
                self.over = True
                self._acting = None
                raise Redundant
            node.index = awake[0]
        path.append(node)
        self._at += 1
        return node

    def _sleepers(self) -> dict[object, Touched]:
        """Who sleeps at a new question: who did at the last one, or acted there in schedules that
        are done, and does not depend on what has acted since."""
        if self._acting is None:
            return {}
        node, who = self._acting
        before = {**node.sleeping}
        for at in range(node.index):
            option = node.options[at]
            if option in node.touched:
                before[option] = node.touched[option]
        now = self._touched
        return {one: what for one, what in before.items() if one != who and what.independent(now)}

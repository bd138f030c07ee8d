"""A shard: work for one process, and what comes of it. The same shard always comes to the same.

It holds all that its result depends on: seeds or inputs, the corpus that inputs are changed from,
what counts as covered. What it needs nobody to tell it meanwhile; so it does not matter who does
it, when, or how often.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from hashlib import blake2b
from typing import Final

from pybpfvm.fuzz.corpus import name_of, same_problem, smallest
from pybpfvm.fuzz.findings import Finding
from pybpfvm.fuzz.target import Before, Problem, Target, Tried
from pybpfvm.interrupts import released

SHRINK_TRIES: Final = 5_000


class Kind(Enum):
    """What a shard is for."""

    INPUTS = "inputs"  # try inputs that there are
    SEEDS = "seeds"  # try what comes of seeds
    SHRINK = "shrink"  # make the input of a finding smaller


@dataclass(frozen=True, slots=True)
class Shard:
    """Work. `number` is its place in the campaign.

    SEEDS: `seeds` of them from `first` on but `without` some, with at most `most` executions and
    changed inputs of `corpus`. INPUTS: tries `inputs`. SHRINK: the one input, which shows the
    problem `bucket`, for `seconds` at most. `known` are the features that are not new.
    """

    kind: Kind
    number: int
    first: int
    seeds: int = 0
    most: int = 0
    inputs: tuple[bytes, ...] = ()
    corpus: tuple[bytes, ...] = ()
    known: frozenset[int] = frozenset()
    bucket: str = ""
    seconds: float = 0.0
    without: frozenset[int] = frozenset()

    @property
    def name(self) -> str:
        """What tells it from all others of a campaign."""
        if self.kind is Kind.SHRINK:
            return f"shrink {name_of(self.inputs[0])} {self.bucket}"
        return f"{self.kind.value} {self.number} {self.first}+{self.seeds} {self.most}"


@dataclass(frozen=True, slots=True)
class Result:
    """What a shard came to. `seeds` are those done, from `first` on; `whole` False: it was ended
    before it was done. `kept` are inputs that covered something new, with what they covered."""

    name: str
    kind: Kind
    number: int
    first: int
    seeds: int
    seconds: float
    whole: bool = True
    executions: int = 0
    outcomes: Mapping[str, int] = field(default_factory=dict)
    judged: int = 0
    accepted: int = 0
    hits: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    kept: tuple[tuple[bytes, frozenset[int]], ...] = ()
    findings: tuple[Finding, ...] = ()


class Performance:
    """A shard while it is done: `stop` is asked after every turn, and ends it if it says so.
    Ctrl-C ends it too, and `interrupted` tells. `before` is shown each seed and input first."""

    def __init__(
        self,
        target: Target,
        shard: Shard,
        stop: Callable[[Performance], bool],
        before: Callable[[int, bytes | bytearray], None] | None = None,
    ) -> None:
        self.executions = 0
        self.features: set[int] = set(shard.known)
        self.findings: dict[str, Finding] = {}
        self.interrupted = False
        self._target = target
        self._shard = shard
        self._stop = stop
        self._seed = shard.first
        self._shown: Before | None = None
        if before is not None:
            show = before
            self._shown = lambda data: show(self._seed, data)
        self._ids: dict[object, int] = {}
        self._outcomes: Counter[str] = Counter()
        self._hits: dict[str, Counter[str]] = {}
        self._kept: list[tuple[bytes, frozenset[int]]] = []
        self._judged = self._accepted = 0
        self._whole = True
        self._begun = time.monotonic()

    def run(self) -> Result:
        """Do it."""
        self._target.begin()
        self._target.before = self._shown
        try:
            with released():
                _DOING[self._shard.kind](self)
        except KeyboardInterrupt:
            self.interrupted, self._whole = True, False
        finally:
            self._target.before = None
        shard = self._shard
        return Result(
            shard.name,
            shard.kind,
            shard.number,
            shard.first,
            self._seed - shard.first,
            time.monotonic() - self._begun,
            self._whole,
            self.executions,
            dict(self._outcomes),
            self._judged,
            self._accepted,
            {what: dict(counts) for what, counts in self._hits.items()},
            tuple(self._kept),
            tuple(self.findings.values()),
        )

    def _inputs(self) -> None:
        for data in self._shard.inputs:
            if self._stops():
                return
            self._note(data, self._tried(data))

    def _seeds(self) -> None:
        shard = self._shard
        end = shard.first + shard.seeds
        corpus = list(shard.corpus)
        while self._seed < end and self.executions < shard.most:
            if self._stops():
                return
            if self._seed not in shard.without:
                left = shard.most - self.executions
                turn = self._target.turn(self._seed, corpus, left)
                for data, tried in turn.tried:
                    if self._note(data, tried):
                        corpus.append(data)
                self._outcomes.update(turn.others)
                self.executions += sum(turn.others.values())
            self._seed += 1

    def _shrink(self) -> None:
        (first,) = self._shard.inputs
        made, tries = smallest(
            self._target,
            first,
            same_problem(self._shard.bucket),
            seconds=self._shard.seconds,
            tries=SHRINK_TRIES,
            stop=self._stops,
        )
        problem = self._tried(made).problem
        if problem is not None and problem.bucket == self._shard.bucket:
            found = self._finding(problem, made)
            self.findings[problem.bucket] = replace(found, first=first, shrink_tries=tries)

    def _stops(self) -> bool:
        if self._stop(self):
            self._whole = False
        return not self._whole

    def _tried(self, data: bytes) -> Tried:
        if self._shown is not None:
            self._shown(data)
        return self._target.run(data)

    def _note(self, data: bytes, tried: Tried) -> bool:
        """Count an input that was tried; whether it covered something new."""
        self.executions += tried.executions
        self._outcomes[tried.outcome] += tried.executions
        if tried.accepted is not None:
            self._judged += 1
            self._accepted += tried.accepted
        for what, names in tried.hits.items():
            self._hits.setdefault(what, Counter()).update(names)
        if tried.problem is not None:
            self._found(data, tried.problem)
            return False
        new = frozenset(map(self._id, tried.features)) - self.features
        if new:
            self.features |= new
            self._kept.append((data, new))
        return bool(new)

    def _id(self, feature: object) -> int:
        """A feature as a number that is the same everywhere."""
        number = self._ids.get(feature)
        if number is None:
            digest = blake2b(repr(feature).encode(), digest_size=8).digest()
            number = self._ids[feature] = int.from_bytes(digest, "little")
        return number

    def _found(self, data: bytes, problem: Problem) -> None:
        kept = self.findings.get(problem.bucket)
        if kept is not None:
            self.findings[problem.bucket] = replace(kept, count=kept.count + 1)
        else:
            self.findings[problem.bucket] = self._finding(problem, data)

    def _finding(self, problem: Problem, data: bytes) -> Finding:
        seconds = time.monotonic() - self._begun
        files = dict(self._target.files(data))
        return Finding(problem, data, data, self._seed, self.executions, seconds, files=files)


_DOING = {
    Kind.INPUTS: Performance._inputs,
    Kind.SEEDS: Performance._seeds,
    Kind.SHRINK: Performance._shrink,
}

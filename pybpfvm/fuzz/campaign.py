"""A campaign: seeds one after the other on one target, until a budget is used up.

The work is a range of seeds. What two processes found of different ranges is merged by `merged`;
what is merged twice counts once, for reports say of which ranges they are.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from pybpfvm.errors import InputError
from pybpfvm.fuzz.corpus import Corpus, same_problem, smallest
from pybpfvm.fuzz.findings import Finding, command, save
from pybpfvm.fuzz.target import Problem, Target, Tried
from pybpfvm.interrupts import released

SHRINK_SECONDS = 10.0
_UNLIMITED = 1 << 62


@dataclass(frozen=True, slots=True)
class Budget:
    """When a campaign ends: `seconds` of wall time, `count` executions, whatever comes first. None
    is no limit."""

    seconds: float | None = None
    count: int | None = None


@dataclass(frozen=True, slots=True)
class Shard:
    """The seeds `first` to `first + count - 1`, and what they came to."""

    first: int
    count: int
    seconds: float
    executions: int
    outcomes: Mapping[str, int]
    judged: int
    accepted: int


@dataclass
class Report:
    """What a campaign found. `hits` and `known` are by what they are names of ("rules",
    "opcodes"); `corpus` inputs there are, of which `added` are new."""

    target: str
    shards: tuple[Shard, ...] = ()
    features: set[object] = field(default_factory=set)
    hits: dict[str, Counter[str]] = field(default_factory=dict)
    known: Mapping[str, frozenset[str]] = field(default_factory=dict)
    findings: dict[str, Finding] = field(default_factory=dict)
    corpus: int = 0
    added: int = 0
    interrupted: bool = False
    notes: tuple[str, ...] = ()

    @property
    def executions(self) -> int:
        """Inputs tried."""
        return sum(shard.executions for shard in self.shards)

    @property
    def seconds(self) -> float:
        """Time that the shards took together."""
        return sum(shard.seconds for shard in self.shards)

    @property
    def rate(self) -> float:
        """Executions a second, of one process."""
        return self.executions / self.seconds if self.seconds else 0.0

    @property
    def accept_rate(self) -> float | None:
        """The share of the judged inputs that was accepted; None if nothing judges."""
        judged = sum(shard.judged for shard in self.shards)
        return sum(shard.accepted for shard in self.shards) / judged if judged else None

    @property
    def outcomes(self) -> Counter[str]:
        """How the executions ended."""
        total: Counter[str] = Counter()
        for shard in self.shards:
            total.update(shard.outcomes)
        return total

    def never(self, what: str) -> list[str]:
        """The names of a kind that nothing hit, in order."""
        return sorted(self.known[what] - set(self.hits.get(what, ())))

    @property
    def exit_code(self) -> int:
        """0: nothing was found, 1: something was, 130: Ctrl-C came first."""
        return 130 if self.interrupted else 1 if self.findings else 0


def merged(one: Report, other: Report) -> Report:
    """Both reports as one. Shards that are in both count once, with what was hit in them.

    Raises InputError for reports of different targets, or whose shards overlap otherwise.
    """
    if one.target != other.target:
        raise InputError(f"reports of {one.target} and {other.target}", where="merge")
    have = set(_places(one))
    new = tuple(shard for shard in other.shards if (shard.first, shard.count) not in have)
    shards = tuple(sorted((*one.shards, *new), key=lambda shard: shard.first))
    for before, shard in pairwise(shards):
        if before.first + before.count > shard.first:
            raise InputError(
                f"seeds from {shard.first} on are in two shards that differ",
                where="merge",
                remedy="give each process a range of seeds of its own",
            )
    hits = {what: Counter(counts) for what, counts in one.hits.items()}
    if new:
        for what, counts in other.hits.items():
            hits.setdefault(what, Counter()).update(counts)
    findings = dict(one.findings)
    for bucket, found in other.findings.items():
        kept = findings.get(bucket)
        if kept is None or found.seed < kept.seed:
            count = found.count + (kept.count if kept is not None and new else 0)
            findings[bucket] = replace(found, count=count)
        elif new:
            findings[bucket] = replace(kept, count=kept.count + found.count)
    return Report(
        one.target,
        shards,
        one.features | other.features,
        hits,
        one.known,
        findings,
        max(one.corpus, other.corpus),
        one.added + (other.added if new else 0),
        one.interrupted or other.interrupted,
        tuple(dict.fromkeys((*one.notes, *other.notes))),
    )


def _places(report: Report) -> list[tuple[int, int]]:
    return [(shard.first, shard.count) for shard in report.shards]


class Campaign:
    """Fuzzes `target` with the seeds from `first` on. Findings go to `out` (None: nowhere);
    `options` are those of the command line, for the command that repeats a finding."""

    def __init__(
        self,
        target: Target,
        *,
        first: int = 0,
        corpus: Corpus | None = None,
        out: Path | None = None,
        options: Sequence[str] = (),
        shrink_seconds: float = SHRINK_SECONDS,
    ) -> None:
        self.target = target
        self.corpus = corpus or Corpus()
        self.findings: dict[str, Finding] = {}
        self.executions = 0
        self.features: set[object] = set()
        self._first = self._seed = first
        self._out = out
        self._options = tuple(options)
        self._shrink_seconds = shrink_seconds
        self._outcomes: Counter[str] = Counter()
        self._hits: dict[str, Counter[str]] = {}
        self._judged = self._accepted = self._added = 0
        self._begun = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._begun

    def run(self, budget: Budget, *, until: Callable[[Campaign], bool] | None = None) -> Report:
        """Fuzz until the budget is used up, or `until` says so after a turn; Ctrl-C ends it too,
        with a whole report."""
        self._begun = time.monotonic()
        interrupted = False
        seconds = 0.0
        try:
            with released():
                for data in list(self.corpus.entries):
                    self._note(data, self.target.run(data))
                self._turns(budget, until)
        except KeyboardInterrupt:
            interrupted = True
        seconds = self.seconds
        try:
            with released():
                self._shrink()
        except KeyboardInterrupt:
            interrupted = True
        return self._report(seconds, interrupted)

    def _turns(self, budget: Budget, until: Callable[[Campaign], bool] | None) -> None:
        most = _UNLIMITED if budget.count is None else budget.count
        end = float("inf") if budget.seconds is None else self._begun + budget.seconds
        while self.executions < most and time.monotonic() < end:
            turn = self.target.turn(self._seed, self.corpus.entries, most - self.executions)
            for data, tried in turn.tried:
                self._note(data, tried)
            self._outcomes.update(turn.others)
            self.executions += sum(turn.others.values())
            self._seed += 1
            if until is not None and until(self):
                return

    def _note(self, data: bytes, tried: Tried) -> None:
        """Count an input that was tried."""
        self.executions += tried.executions
        self._outcomes[tried.outcome] += tried.executions
        if tried.accepted is not None:
            self._judged += 1
            self._accepted += tried.accepted
        for what, names in tried.hits.items():
            self._hits.setdefault(what, Counter()).update(names)
        if tried.problem is not None:
            self._found(data, tried.problem)
        elif tried.features - self.features:
            self.features |= tried.features
            self._added += self.corpus.add(data)

    def _found(self, data: bytes, problem: Problem) -> None:
        kept = self.findings.get(problem.bucket)
        if kept is not None:
            self.findings[problem.bucket] = replace(kept, count=kept.count + 1)
            return
        found = Finding(problem, data, data, self._seed, self.executions, self.seconds)
        self.findings[problem.bucket] = self._saved(found)

    def _saved(self, found: Finding) -> Finding:
        if self._out is None:
            return found
        folder = save(found, self.target, self._out, self._options)
        line = command(self.target.name, self._options, folder / "input")
        return replace(found, folder=folder, command=line)

    def _shrink(self) -> None:
        """Make each finding smaller."""
        for bucket, found in list(self.findings.items()):
            if not self._shrink_seconds:
                return
            data, tried = smallest(
                self.target, found.first, same_problem(bucket), seconds=self._shrink_seconds
            )
            if data != found.first:
                problem = self.target.run(data).problem or found.problem
                found = replace(found, problem=problem, data=data, shrink_tries=tried)
                self.findings[bucket] = self._saved(found)

    def _report(self, seconds: float, interrupted: bool) -> Report:
        shard = Shard(
            self._first,
            self._seed - self._first,
            seconds,
            self.executions,
            dict(self._outcomes),
            self._judged,
            self._accepted,
        )
        return Report(
            self.target.name,
            (shard,),
            self.features,
            self._hits,
            self.target.known,
            self.findings,
            len(self.corpus.entries),
            self._added,
            interrupted,
            tuple(self.target.notes),
        )


def fuzz(
    target: Target, *, seconds: float | None = None, count: int | None = None, **how: Any
) -> Report:
    """A campaign in one call; `how` are Campaign's arguments. `target` is closed afterwards."""
    try:
        return Campaign(target, **how).run(Budget(seconds, count))
    finally:
        target.close()

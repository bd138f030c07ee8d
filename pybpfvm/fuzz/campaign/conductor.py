"""A campaign from its first shard to its report: hands shards to workers, merges what they come to,
notes it in a journal, saves findings and makes them small."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pybpfvm.errors import InputError
from pybpfvm.fuzz.campaign.careful import LOST
from pybpfvm.fuzz.campaign.journal import Journal
from pybpfvm.fuzz.campaign.plan import AHEAD, Plan
from pybpfvm.fuzz.campaign.report import Report
from pybpfvm.fuzz.campaign.shard import Kind, Result, Shard
from pybpfvm.fuzz.campaign.workers import Here, Interrupted, Workers
from pybpfvm.fuzz.corpus import Corpus, name_of
from pybpfvm.fuzz.findings import Finding, save
from pybpfvm.fuzz.target import Target
from pybpfvm.interrupts import held

SHRINK_SECONDS: Final = 10.0
_LAST_SECONDS: Final = 30.0  # for shards that are under way when time is up, at most
_LONG: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Budget:
    """When a campaign ends: `seconds` of wall time, `count` executions, `findings` of them,
    whatever comes first. None is no limit."""

    seconds: float | None = None
    count: int | None = None
    findings: int | None = None


class Campaign:
    """Fuzzes `target` with the seeds from `first` on. `workers` does the work, for the target that
    they make themselves; None: this process, with this target.

    Findings go to `out` (None: nowhere); `options` are those of the command line, for the command
    that repeats a finding. `journal` says what was done before and is told what is done; `about`
    is what it must be about (`Recipe.about`).
    """

    def __init__(
        self,
        target: Target,
        *,
        first: int = 0,
        corpus: Corpus | None = None,
        out: Path | None = None,
        options: Sequence[str] = (),
        shrink_seconds: float = SHRINK_SECONDS,
        workers: Workers | None = None,
        journal: Journal | None = None,
        about: Mapping[str, Any] | None = None,
        ahead: int = AHEAD,
    ) -> None:
        self.target = target
        self.corpus = corpus or Corpus()
        self.report = Report(target.name, target.known, notes=tuple(target.notes))
        self._first = first
        self._out = out
        self._options = tuple(options)
        self._shrink_seconds = shrink_seconds
        self._workers = workers
        self._journal = journal
        self._ahead = ahead
        self._under_way: dict[str, Shard] = {}
        self._ended: list[Result] = []  # of shards that were ended early
        self._begun = time.monotonic()
        self._inputs = self._begin(dict(about or {}))
        self.workers: Workers = workers or Here(target)

    def _begin(self, about: dict[str, Any]) -> list[bytes]:
        """The inputs to begin with: those of the corpus, as it was when the journal began."""
        by_name = {name_of(data): data for data in self.corpus.entries}
        if self._journal is None:
            return list(by_name.values())
        names = list(by_name) if self._journal.about is None else self._journal.about["corpus"]
        about |= {"first seed": self._first, "ahead": self._ahead, "target": self.target.name}
        self._journal.begin({**about, "corpus": names})
        missing = [name for name in names if name not in by_name]
        if missing:
            raise InputError(
                f"the corpus lacks {missing[0]}, with which this campaign began",
                where=str(self._journal.path),
                remedy="name the same --corpus, or another journal",
            )
        return [by_name[name] for name in names]

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._begun

    def run(self, budget: Budget) -> Report:
        """Fuzz until the budget is used up; Ctrl-C ends it too, with a whole report."""
        with held():
            return self._run(budget)

    def _run(self, budget: Budget) -> Report:
        self._begun = time.monotonic()
        if self._workers is None:
            self.workers = Here(self.target, findings=budget.findings)
        report, target = self.report, self.target
        report.jobs = self.workers.jobs
        plan = Plan(
            self._inputs,
            self._first,
            target.shard_seeds,
            target.seed_executions,
            count=budget.count,
            ahead=self._ahead,
        )
        end = float("inf") if budget.seconds is None else self._begun + budget.seconds
        try:
            go_on = self._all(
                plan.next, end, lambda result: self._done(plan, result), budget.findings
            )
            if go_on and self._shrink_seconds:
                shards = iter(self._shrinking())
                self._all(lambda: next(shards, None), float("inf"), self._shrunk)
        finally:
            for result in sorted(self._ended, key=lambda one: one.number):
                self._added(plan.ended(result))
            report.corpus = len(self.corpus.entries)
            report.notes += tuple(self.workers.notes)
            never = {what: report.never(what) for what in report.known}
            report.notes += tuple(self.target.advice(never))
            report.elapsed = self.seconds
        for found in report.findings.values():
            self._save(found)
        return report

    def _all(
        self,
        following: Callable[[], Shard | None],
        end: float,
        done: Callable[[Result], None],
        findings: int | None = None,
    ) -> bool:
        """Have shards done as they follow, until there are no more, or `end`, or Ctrl-C. False
        after a second one."""
        workers, under_way = self.workers, self._under_way
        stopped = False
        while True:
            enough = findings is not None and self.report.buckets >= findings
            if not stopped and (enough or time.monotonic() >= end):
                stopped, end = True, time.monotonic() + _LAST_SECONDS
                workers.stop()
            while not stopped and len(under_way) < workers.slots:
                shard = following()
                if shard is None:
                    break
                known = None if self._journal is None else self._journal.get(shard.name)
                if known is not None:
                    done(known)
                else:
                    workers.submit(shard)
                    under_way[shard.name] = shard
            left, again = end - time.monotonic(), False
            if not under_way:
                return True
            if stopped and left <= 0:
                self._abandon()
                return True
            try:
                results = workers.wait(min(max(left, 0.0), _LONG))
            except KeyboardInterrupt as error:
                self.report.interrupted = True
                results = [error.result] if isinstance(error, Interrupted) else []
                again = stopped
                stopped, end = True, time.monotonic() + _LAST_SECONDS
                workers.stop()
            for result in results:
                under_way.pop(result.name, None)
                done(result)
            if again:
                self._abandon()
                return False

    def _abandon(self) -> None:
        """Wait no longer for what is under way."""
        if self._under_way:
            self.workers.abandon()
            self._under_way.clear()

    def _done(self, plan: Plan, result: Result) -> None:
        """Take in what a shard came to."""
        if result.whole:
            if self._journal is not None:
                self._journal.add(result)
            self._added(plan.done(result))
        else:
            self._ended.append(result)
        self.report.add(result)
        for found in result.findings:
            if found.problem.bucket not in self.report.saved:
                self._save(found)

    def _added(self, inputs: Sequence[bytes]) -> None:
        self.report.added += sum(map(self.corpus.add, inputs))

    def _save(self, found: Finding) -> None:
        if self._out is not None:
            saved = save(found, self.target.name, self._out, self._options)
            self.report.saved[found.problem.bucket] = saved

    def _shrinking(self) -> list[Shard]:
        """A shard for each finding, that makes it smaller."""
        return [
            Shard(
                Kind.SHRINK,
                number,
                found.seed,
                inputs=(found.first,),
                bucket=bucket,
                seconds=self._shrink_seconds,
            )
            for number, (bucket, found) in enumerate(self.report.findings.items())
            if not bucket.startswith(f"{LOST}/")
        ]

    def _shrunk(self, result: Result) -> None:
        if result.whole and self._journal is not None:
            self._journal.add(result)
        self.report.add(result)


def fuzz(
    target: Target,
    *,
    seconds: float | None = None,
    count: int | None = None,
    findings: int | None = None,
    **how: Any,
) -> Report:
    """A campaign in one call; `how` are Campaign's arguments. `target` is closed afterwards."""
    try:
        return Campaign(target, **how).run(Budget(seconds, count, findings))
    finally:
        target.close()

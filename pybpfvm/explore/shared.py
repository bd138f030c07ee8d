"""Exploring by many processes: a campaign (`pybpfvm.fuzz.campaign`) each of whose seeds is an
exploration of its own, of so many schedules that are drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from pybpfvm.errors import InputError
from pybpfvm.explore.search import explore
from pybpfvm.explore.table import Options
from pybpfvm.fuzz.campaign import Recipe
from pybpfvm.fuzz.target import NO_INPUT, Problem, Target, Tried, Turn
from pybpfvm.scenario import Scenario

SCHEDULES: Final = 128  # of a seed: setting a scenario up for them takes about as long as they do
_TURN_SECONDS: Final = 3600.0  # what a seed may take, with its findings made small
DRAWN: Final = ("random", "pct")
UNCONTROLLED: Final = "the same schedule went two ways"
UNENDED: Final = "a schedule did not end within the time"
PLAYED: Final = "played"


class ScheduleTarget(Target):
    """Schedules of a scenario, as `options` say. Its inputs are schedules as text; they are made
    small where they are found. Raises InputError for a strategy that draws nothing."""

    name = "explore"
    known: Mapping[str, frozenset[str]] = {}
    shard_seeds = 4
    seed_executions = SCHEDULES

    def __init__(self, scenario: Scenario, options: Options) -> None:
        if options.strategy not in DRAWN:
            raise InputError(
                f"{options.strategy} is not shared out: each of its schedules depends on the last",
                where="--jobs",
                remedy=f"--strategy {' or '.join(DRAWN)}",
            )
        self.notes: list[str] = []
        self._scenario = scenario
        # Only what takes all of the time by itself is ended by it, so that others come to the same.
        self._options = replace(options, everything=True)

    def begin(self) -> None:
        pass

    def turn(self, seed: int, corpus: Sequence[bytes], most: int) -> Turn:
        options = replace(self._options, seed=seed, schedules=min(most, SCHEDULES))
        report = explore(self._scenario, options)
        if report.interrupted:
            raise KeyboardInterrupt  # the campaign ends, not this seed only
        if report.uncontrolled:
            return Turn([], {UNCONTROLLED: max(1, report.schedules)})
        tried: list[tuple[bytes, Tried]] = []
        for found in report.found:
            bucket = f"{found.shown.kind} {found.shown.place}".rstrip()
            problem = Problem(bucket, found.shown.text)
            tried.append((str(found.schedule).encode(), Tried("failed", problem=problem)))
        played = max(0, report.schedules - len(tried))
        return Turn(tried, Counter({PLAYED: played, UNENDED: int(bool(report.unended))}))

    def run(self, data: bytes) -> Tried:
        return Tried(NO_INPUT)

    def mutated(self, data: bytes, seed: int) -> bytes:
        return data

    def smaller(self, data: bytes) -> Iterator[bytes]:
        return iter(())

    def files(self, data: bytes) -> Mapping[str, bytes]:
        return {}

    def close(self) -> None:
        pass


def recipe(scenario: Scenario, options: Options) -> Recipe:
    """How processes make the target."""
    return Recipe(partial(ScheduleTarget, scenario, options), turn_seconds=_TURN_SECONDS)

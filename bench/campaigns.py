"""How much sooner two processes are done than one, and what it costs when one dies: of campaigns of
so many executions, which come to the same. Seconds are of the wall, without starting processes;
each figure is the best of some turns, taken in turns, for others use the machine too.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from threading import Timer

from pybpfvm.fuzz.campaign import Budget, Campaign, Recipe, Report
from pybpfvm.fuzz.campaign.journal import Journal
from pybpfvm.fuzz.campaign.processes import Processes
from pybpfvm.fuzz.program_inputs import Choice
from pybpfvm.fuzz.verifier import VerifierTarget

Row = tuple[str, float, str]

_COUNT = 1200
_TURNS = 3
_KILL_SECONDS = 1.0
_MADE = Recipe(partial(VerifierTarget, Choice(("typed",))))


def run(count: int = _COUNT, turns: int = _TURNS) -> list[Row]:
    """All rows."""
    times: dict[str, list[float]] = {"1": [], "2": [], "died": [], "resumed": []}
    busy: list[float] = []
    for _ in range(turns):
        for jobs in (1, 2):
            seconds, worked = _timed(count, jobs)
            times[str(jobs)].append(seconds)
        busy.append(worked)
        times["died"].append(_timed(count, 2, kill=True)[0])
        times["resumed"].append(_resumed(count))
    best = {name: min(seconds) for name, seconds in times.items()}
    return [
        ("programs judged, 1 process", count / best["1"], "programs/s"),
        ("programs judged, 2 processes", count / best["2"], "programs/s"),
        ("2 processes, as a multiple of 1", best["1"] / best["2"], ""),
        ("2 processes, share of the time that they worked", max(busy), ""),
        ("2 processes, one of them killed: longer by", best["died"] - best["2"], "s"),
        ("the whole campaign from its journal", best["resumed"], "s"),
    ]


def _timed(count: int, jobs: int, *, kill: bool = False) -> tuple[float, float]:
    """Seconds from when all processes have done something, and the share of it that they worked:
    the rest they waited for shards, or had come to the end before the others."""
    with closing(Processes(_MADE, jobs)) as workers:
        _campaign(workers, 16 * jobs, first=1 << 30)
        killer = Timer(_KILL_SECONDS, os.kill, (workers.pids[0], signal.SIGKILL))
        begun = time.monotonic()
        if kill:
            killer.start()
        report = _campaign(workers, count)
        seconds = time.monotonic() - begun
        killer.cancel()
        assert kill is any("SIGKILL" in note for note in report.notes), report.notes
        return seconds, report.seconds / (jobs * seconds)


def _campaign(workers: Processes | None, count: int, **how: object) -> Report:
    target = _MADE.make()
    campaign = Campaign(target, workers=workers, shrink_seconds=0, **how)  # type: ignore[arg-type]
    return campaign.run(Budget(count=count))


def _resumed(count: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal"
        for _ in range(2):
            with closing(Journal(path)) as journal:
                begun = time.monotonic()
                _campaign(None, count, journal=journal)
        return time.monotonic() - begun

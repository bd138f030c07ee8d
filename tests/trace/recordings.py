"""Recordings for tests: of scenarios, and with single records changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pybpfvm.errors import LoadRejected
from pybpfvm.scenario import Outcome, Scenario, run_scenario
from pybpfvm.trace.format import SET_UP, Record, TraceFile, TraceWriter
from pybpfvm.trace.records import Kind
from pybpfvm.trace.replay import Divergence, Replay

REPLAYERS = ("jit", "interp")
PLACED = (*SET_UP, Kind.STATE)


def recorded(scenario: Scenario, path: Path, **options: Any) -> Outcome:
    """Run the scenario, recorded to `path`."""
    outcome = run_scenario(scenario, record=path, **options)
    assert not isinstance(outcome.stopped, LoadRejected)
    return outcome


def replayed(path: Path, engine: str) -> tuple[Divergence | None, Replay]:
    """What replaying all of a recording comes to, and the replay, closed."""
    with Replay(path, engine=engine) as replay:
        return replay.rest(), replay


def require_same(path: Path, outcome: Outcome) -> None:
    """Replay on both engines, and find all of the outcome's runs again, and all digests."""
    for engine in REPLAYERS:
        found, replay = replayed(path, engine)
        assert found is None, f"{engine}: {found}"
        assert replay.damage is None
        assert replay.totals.runs == sum(outcome.runs.values())
        assert replay.totals.insns == outcome.insns
        assert replay.totals.digests == replay.index.digests > 0 or not outcome.runs


def records_of(path: Path) -> list[Record]:
    """All records of a file, in order."""
    with TraceFile(path) as file:
        found = [record for _, _, record in file.all_records()]
        assert file.damage is None
        return found


def write_records(path: Path, records: Sequence[Record]) -> None:
    """A recording of these records."""
    writer = TraceWriter(path)
    for record in records:
        if record and record[0] in PLACED:
            writer.place(record)
        else:
            writer.add(record)
    writer.close()


def changed(
    path: Path, to: Path, run: int, kind: Kind, change: Callable[[list[Any]], None]
) -> None:
    """Write `path` to `to` with the first record of a kind within run `run` changed in place."""
    records = records_of(path)
    starts = [n for n, record in enumerate(records) if record[0] == Kind.RUN]
    at = next(n for n in range(starts[run], len(records)) if records[n][0] == kind)
    assert at < starts[run + 1] if run + 1 < len(starts) else True
    new = list(records[at])
    change(new)
    assert tuple(new) != records[at]
    records[at] = tuple(new)
    write_records(to, records)

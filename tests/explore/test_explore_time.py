"""Schedules without an end: a budget of program runs calls them hangs, --seconds ends them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pybpfvm.cli import main
from pybpfvm.explore import explore
from pybpfvm.explore.strategies import OutOfTime
from pybpfvm.explore.table import Options, Table
from pybpfvm.explore.telling import story
from pybpfvm.scenario import Scenario
from pybpfvm.scenario.parse import parse_bytes
from pybpfvm.scenario.schedule import Player
from tests.explore.test_explore_livelocks import RESTS, tries
from tests.support.example_hosts import EXAMPLES
from tests.support.orders import DATA, WAITS, text_of_two

ENDLESS = 1 << 40  # program runs
LOOPING = f"""
object = "{EXAMPLES}/loop_nops/prog.bpf.o"
abi = "loop-7.2"
attach = "nops"
ring = {{ entries = 8, cq0_entries = 8 }}
constants = {{ sq_entries = {{ ring = "sq_entries" }}, cq_entries = {{ ring = "cq_entries" }} }}
globals = {{ to_run = 4_000_000_000 }}
steps = [{{ enter = true, result = 0 }}]
"""


def patient() -> Scenario:
    """A program that rests for a millisecond, 2^31 times, while the host sleeps for longer: no
    live-lock, for that wait ends."""
    return tries(RESTS, '{ sleep = "1000000 s" }', tries=(1 << 31) - 1)


def looping() -> Scenario:
    """The same in a ring with a loop."""
    return parse_bytes(LOOPING.encode(), "looping.toml", DATA)


MADE = pytest.mark.parametrize("made", [patient, looping])


@MADE
@pytest.mark.parametrize("events", [True, False])
def test_a_budget_of_runs_is_the_same_each_time(made: Callable[[], Scenario], events: bool) -> None:
    options = Options(budget_runs=700, events=events, seconds=100, shrink=False)
    report = explore(made(), options)
    assert not report.uncontrolled
    assert not report.unended
    (found,) = report.found
    assert found.shown.kind == "hang"
    assert "the budget of 700 " in found.shown.text


@MADE
@pytest.mark.parametrize("strategy", ["dfs", "random"])
def test_time_ends_a_schedule(made: Callable[[], Scenario], strategy: str) -> None:
    began = time.monotonic()
    report = explore(made(), Options(strategy=strategy, budget_runs=ENDLESS, seconds=1.5))
    assert time.monotonic() - began < 15
    assert not report.uncontrolled
    assert not report.found
    assert report.schedules == 0
    assert report.stopped_by == "1.5 s"
    assert report.unended.startswith("a schedule did not end within the 1.5 s")
    assert report.exit_code == 3


def test_what_it_says_of_that(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "looping.toml"
    path.write_text(LOOPING, encoding="utf-8")
    words = ["explore", str(path), "--budget-runs", str(ENDLESS)]
    for more in ((), ("--replay", "seed=0")):
        assert main([*words, "--seconds", "1.5", *more]) == 3
        out = capsys.readouterr().out
        assert "not ended: a schedule did not end within the 1.5 s: it was stopped after" in out
        assert " program runs; --budget-runs N calls" in out
        assert "two ways" not in out
        assert "nothing was found" not in out
    assert main([*words, "--seconds", "1.5", "--format", "json"]) == 3
    document = json.loads(capsys.readouterr().out)
    assert document["unended"].startswith("a schedule did not end")
    assert (document["exit_code"], document["uncontrolled"]) == (3, False)


def test_a_replay_has_the_budget(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "looping.toml"
    path.write_text(LOOPING, encoding="utf-8")
    assert main(["explore", str(path), "--budget-runs", "50"]) == 1
    out = capsys.readouterr().out
    assert "FOUND hang: the budget of 50 steps is used up" in out
    assert "found by the usual schedule" in out
    assert "--budget-runs 50" in out.split("--replay ")[1]
    assert main(["explore", str(path), "--budget-runs", "50", "--replay", "seed=0"]) == 1
    out = capsys.readouterr().out
    assert "shown by the schedule that was given, after " in out
    assert "usual schedule" not in out


def test_time_that_was_over_is_no_expected_hang() -> None:
    made = parse_bytes(f"{LOOPING}\n[expect]\nhang = true\n".encode(), "looping.toml", DATA)
    with Table(made, Options(budget_runs=50)) as table:
        assert table.play(Player({})).expected_stop
        assert table.runs == 50
    with Table(made, Options(budget_runs=ENDLESS)) as table:
        table.ends_after(0)
        with pytest.raises(OutOfTime):  # which also sets everything up
            table.play(Player({}))
        table.ends_after(1)
        with pytest.raises(OutOfTime) as over:
            table.play(Player({}))
    assert over.value.runs > 0


def test_the_usual_schedule_is_not_what_other_processes_drew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "two.toml"
    text = f'abi = "iouring-v3"\nobject = "{DATA / "orders.v3.bpf.o"}"\n{text_of_two(WAITS)}'
    path.write_text(text, encoding="utf-8")
    words = ["explore", str(path), "--strategy", "random", "--jobs", "1", "--seconds", "100"]
    assert main([*words, "--schedules", "20"]) == 1
    out = capsys.readouterr().out
    assert "FOUND hang: nothing in flight can complete" in out
    assert "found by schedule " in out
    assert "usual schedule" not in out


def test_a_live_lock_says_so_once() -> None:
    (found,) = explore(tries(RESTS), Options(shrink=False)).found
    first = next(story(found, {}))
    assert first.startswith("live-lock: 1,000 runs in a row")

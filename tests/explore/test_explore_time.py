"""Schedules without an end: a budget of program runs calls them hangs, --seconds ends them."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from pybpfvm.cli import main
from pybpfvm.explore import explore
from pybpfvm.explore.search import Options, Table
from pybpfvm.explore.strategies import OutOfTime
from pybpfvm.scenario import Scenario
from pybpfvm.scenario.parse import parse_bytes
from pybpfvm.scenario.schedule import Player
from tests.explore.test_explore_livelocks import RESTS, tries
from tests.support.example_hosts import EXAMPLES
from tests.support.orders import DATA, WAITS, text_of_two

ENDLESS = 1 << 40  # tries, or program runs
BALL = f"""
object = "{EXAMPLES}/03_pingpong/pingpong.v3.bpf.o"
"""


def patient() -> Scenario:
    """A program that rests for a millisecond, 2^31 times, while a timer is in flight that would
    end it: no live-lock for a long time."""
    return tries(RESTS, '{ sleep = "1000000 s" }', tries=(1 << 31) - 1)


def looping() -> Scenario:
    """The same in a ring with a loop."""
    text = f"""
object = "{EXAMPLES}/loop_nops/loop_nops.bpf.o"
abi = "loop-7.1"
globals = {{ depth = 1, left = 4294967295 }}
steps = [{{ enter = true, result = 0 }}]
"""
    return parse_bytes(text.encode(), "looping.toml", DATA)


@pytest.mark.parametrize("made", [patient, looping])
@pytest.mark.parametrize("events", [True, False])
def test_a_budget_of_runs_is_the_same_each_time(made: object, events: bool) -> None:
    assert callable(made)
    options = Options(budget_runs=700, events=events, seconds=100, shrink=False)
    report = explore(made(), options)
    assert not report.uncontrolled
    assert not report.unended
    (found,) = report.found
    assert found.shown.kind == "hang"
    assert "the budget of 700 " in found.shown.text


@pytest.mark.parametrize("made", [patient, looping])
@pytest.mark.parametrize("strategy", ["dfs", "random"])
def test_time_ends_a_schedule(made: object, strategy: str) -> None:
    assert callable(made)
    began = time.monotonic()
    report = explore(made(), Options(strategy=strategy, budget_runs=ENDLESS, seconds=1.5))
    assert time.monotonic() - began < 15
    assert not report.uncontrolled
    assert not report.found
    assert report.schedules == 0
    assert report.stopped_by == "1.5 s"
    assert report.unended.startswith("a schedule did not end within the 1.5 s")
    assert report.exit_code == 3

"""What was drawn before is not played again, and that changes nothing of what is reported."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from pybpfvm.explore import Report, explore
from pybpfvm.explore.known import Known
from pybpfvm.explore.table import Options, Table
from pybpfvm.scenario import Outcome, Scenario, parse
from pybpfvm.scenario.schedule import Player
from tests.support.example_hosts import EXAMPLES
from tests.support.orders import SPINS, TELLS, WAITS, apart, two

DRAWING = ("random", "pct", "rr")
CASES = {
    "ping-pong": (parse(EXAMPLES / "03_pingpong/scenario.toml"), 0),
    "a hang": (two(WAITS), 0),
    "a live-lock": (two(SPINS), 0),
    "a tale": (two(TELLS), 0),
    "one order": (apart(1), 0),
    "faults": (parse(EXAMPLES / "05_read_open/scenario.toml"), 1),
}


def told(report: Report) -> tuple[object, ...]:
    """All of a report but how long it took."""
    found = [replace(one, seconds=0.0) for one in report.found]
    return report.schedules, report.questions, report.states, report.stopped_by, found


@pytest.mark.parametrize("strategy", DRAWING)
@pytest.mark.parametrize("case", CASES)
def test_the_report_is_that_of_playing_everything(
    case: str, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, faults = CASES[case]
    options = Options(strategy=strategy, schedules=60, everything=True, faults=faults)
    quick = explore(made, options)
    monkeypatch.setattr(Known, "of", lambda self, player: None)
    slow = explore(made, options)
    assert told(quick) == told(slow)
    assert quick.different is not None
    assert quick.different <= quick.schedules


def plays(made: Scenario, options: Options, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each schedule is played."""
    played: Counter[str] = Counter()
    play = Table.play

    def counted(self: Table, player: object, **how: object) -> object:
        outcome = play(self, player, **how)  # type: ignore[arg-type]
        played[str(player.picks)] += 1  # type: ignore[attr-defined]
        return outcome

    monkeypatch.setattr(Table, "play", counted)
    report = explore(made, options)
    assert report.different == len(played)
    return played


def test_dfs_plays_each_schedule_once(monkeypatch: pytest.MonkeyPatch) -> None:
    played: Counter[str] = Counter()
    play = Table.play

    def counted(self: Table, player: Player, **how: Any) -> Outcome:
        outcome = play(self, player, **how)
        played[str(player.picks)] += 1
        return outcome

    monkeypatch.setattr(Table, "play", counted)
    report = explore(CASES["ping-pong"][0], Options(schedules=500))
    assert report.exhaustive
    assert played.pop("{}") == 3  # the usual one, twice to see that it is the same
    assert set(played.values()) == {1}
    assert len(played) == report.schedules - 1


def test_no_schedule_is_played_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    options = Options(strategy="random", schedules=80)
    played = plays(CASES["ping-pong"][0], options, monkeypatch)
    assert sum(played.values()) == len(played) + 1  # the usual one, to see that it is the same
    assert 20 < len(played) < 80

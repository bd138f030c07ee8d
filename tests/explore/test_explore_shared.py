"""`explore --jobs`: the same findings by any number of processes, told as ever."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from pybpfvm.cli import main
from pybpfvm.explore.shared import ScheduleTarget
from pybpfvm.explore.table import Options
from pybpfvm.fuzz.campaign import Budget, Campaign
from pybpfvm.scenario import parse
from tests.explore.test_explore_time import ENDLESS, LOOPING

EXAMPLES = Path(__file__).parents[2] / "examples"
FOLDER = EXAMPLES / "10_queue_depth"
SCENARIO, TWIN = str(FOLDER / "scenario.toml"), str(FOLDER / "twin.v3.bpf.o")


def explored(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any]:
    code = main(["explore", SCENARIO, "--object", TWIN, *words, "--format", "json"])
    return code, json.loads(capsys.readouterr().out)


def test_processes_find_what_this_one_finds(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--strategy", "random", "--all", "--schedules", "140", "--seconds", "300")
    code, document = explored(capsys, *words, "--jobs", "2", "--seed", "5")
    assert code == 1
    assert document["schedules"] == 140
    scenario = parse(SCENARIO)
    options = Options(strategy="random", object_path=TWIN, seed=5, everything=True)
    report = Campaign(ScheduleTarget(scenario, options), first=5, shrink_seconds=0).run(
        Budget(count=140)
    )
    found = {f"{one['kind']} {one['place']}".rstrip() for one in document["findings"]}
    assert found == set(report.findings)
    assert "buffer-in-flight" in {one["kind"] for one in document["findings"]}
    one = next(one for one in document["findings"] if one["kind"] == "buffer-in-flight")
    assert one["schedule"].encode() == report.findings[f"{one['kind']} {one['place']}"].data
    code, again = explored(capsys, "--replay", one["schedule"])
    assert code == 1
    assert one["kind"] in {other["kind"] for other in again["findings"]}


def test_strategies_that_go_on_from_the_last_schedule_are_not_shared_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for strategy in ("dfs", "rr"):
        assert main(["explore", SCENARIO, "--strategy", strategy, "--jobs", "2"]) == 2
        assert "--jobs: " in capsys.readouterr().err


def test_a_schedule_without_an_end_is_ended_by_the_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    endless = tmp_path / "endless.toml"
    endless.write_text(LOOPING)
    words = ["--jobs", "1", "--seconds", "2", "--budget-runs", str(ENDLESS)]
    began = time.monotonic()
    assert main(["explore", str(endless), "--strategy", "pct", *words]) == 3
    assert time.monotonic() - began < 30  # which is what others would be given behind the time
    out = capsys.readouterr().out
    assert "0 schedules by pct" in out
    assert "not ended: a schedule did not end within the time of 2 s; --budget-runs N" in out

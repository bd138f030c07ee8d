"""Schedules as text, in scenarios, and on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybpfvm.cli import main
from pybpfvm.errors import InputError
from pybpfvm.scenario import parse, run_scenario
from pybpfvm.scenario.schedule import Schedule, parse_schedule
from tests.report.test_schemas import check
from tests.support.orders import DATA, NOTHING, OVERLAPS, WAITS, text_of_two

HEAD = 'abi = "iouring-v3"\ntitle = "ü \\u007f"\n'
SMALL = st.integers(0, 1 << 16)


@given(SMALL, SMALL, st.sets(SMALL, max_size=4), st.dictionaries(SMALL, SMALL, max_size=5))
def test_text_of_a_schedule(seed: int, faults: int, steps: set[int], picks: dict[int, int]) -> None:
    schedule = Schedule(seed, faults, tuple(sorted(steps)), picks)
    assert parse_schedule(str(schedule)) == schedule


@pytest.mark.parametrize("text", ["1", "x=1", "1:2:3", "seed=-1", "without=", "3:1,3:2", "a:b"])
def test_what_is_no_schedule(text: str) -> None:
    with pytest.raises(InputError, match="--replay"):
        parse_schedule(text, "--replay")


def written(folder: Path, does: int) -> Path:
    path = folder / "made.toml"
    obj = f'object = "{DATA / "orders.v3.bpf.o"}"\n'
    path.write_text(HEAD + obj + text_of_two(does), encoding="utf-8")
    return path


@pytest.mark.parametrize(("does", "kind"), [(WAITS, "hang"), (OVERLAPS, "buffer-in-flight")])
def test_a_saved_finding_fails(
    does: int, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, saved = written(tmp_path, does), tmp_path / "sub" / "saved.toml"
    saved.parent.mkdir()
    assert main(["run", str(path), "--quiet"]) == 0
    assert main(["explore", str(path), "--save", str(saved)]) == 1
    out = capsys.readouterr().out
    assert f"FOUND {kind}" in out
    assert "request 2 (BPF) runs before request 1 (BPF)" in out
    assert ",0:1" in out.split("--replay ")[1]
    assert "Timeline of" in out
    assert parse(saved).schedule == "seed=0,0:1"
    assert not run_scenario(parse(saved)).ok
    assert main(["run", str(saved), "--quiet"]) == 1
    assert main(["run", str(path), "--quiet", "--schedule", "seed=0,0:1"]) == 1
    assert "--schedule seed=0,0:1" in capsys.readouterr().out
    assert main(["explore", str(path), "--replay", "seed=0,0:1"]) == 1
    assert main(["explore", str(path), "--replay", "seed=0"]) == 0


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, WAITS)
    assert main(["explore", str(path), "--format", "json"]) == 1
    found = json.loads(capsys.readouterr().out)
    check(found, "explore-1")
    assert found["findings"][0]["kind"] == "hang"
    assert main(["explore", str(written(tmp_path, NOTHING)), "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    check(found, "explore-1")
    assert (found["exhaustive"], found["findings"], found["schedules"]) == (True, [], 2)


@pytest.mark.parametrize("text", ["5:1", "0:9", "without=7"])
def test_a_schedule_of_something_else(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["explore", str(written(tmp_path, NOTHING)), "--replay", text])
    assert code == 2
    assert "error" in capsys.readouterr().err


def test_the_kernel_has_its_own_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, NOTHING)
    assert main(["run", str(path), "--backend", "kernel", "--schedule", "0:1"]) == 2
    assert "the kernel decides the order" in capsys.readouterr().err

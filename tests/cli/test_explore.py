"""`pybpfvm explore` and what users stumble over: Ctrl-C, the wrong file, a wrong option."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pybpfvm.cli import COMMANDS, main
from pybpfvm.explore import explore
from pybpfvm.explore.search import Report
from pybpfvm.explore.shared import ScheduleTarget
from pybpfvm.explore.table import Options, Table
from pybpfvm.scenario import parse
from tests.support.orders import WAITS, two

ROOT = Path(__file__).parents[2]
PINGPONG = "examples/03_pingpong/scenario.toml"


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_ends_with_what_there_was() -> None:
    script = f"""
import os, signal
from pybpfvm.cli import explore, main

class Line(explore._Line):
    def __call__(self, report):
        if report.schedules == 5:
            os.kill(os.getpid(), signal.SIGINT)

explore._Line = Line
raise SystemExit(main(["explore", "{PINGPONG}", "--format", FORMAT]))
"""
    for form in ("text", "json"):
        done = subprocess.run(
            [sys.executable, "-c", f"FORMAT = {form!r}\n{script}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 130
        assert not done.stderr
        if form == "text":
            assert "5 schedules by dfs" in done.stdout
            assert "not exhaustive (stopped by Ctrl-C)" in done.stdout
            assert "interrupted: this is what there was by then\nnothing was found" in done.stdout
        else:
            told = json.loads(done.stdout)
            assert (told["schedules"], told["interrupted"]) == (5, True)
            assert not told["exhaustive"]


def test_what_was_found_before_ctrl_c_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def shown(self: Table, *_: object, **__: object) -> object:
        interrupt()
        raise AssertionError

    monkeypatch.setattr(Table, "shown", shown)  # which only making small asks
    report = explore(two(WAITS), Options())
    assert report.interrupted
    assert report.exit_code == 130
    (found,) = report.found
    assert found.shown.kind == "hang"
    assert found.schedule == found.found_with


def test_ctrl_c_while_it_is_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Table, "play", lambda *_, **__: interrupt())
    report = explore(parse(ROOT / PINGPONG), Options())
    assert (report.interrupted, report.schedules) == (True, 0)
    assert isinstance(report, Report)


def test_ctrl_c_in_a_seed_ends_the_campaign(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Table, "play", lambda *_, **__: interrupt())
    target = ScheduleTarget(parse(ROOT / PINGPONG), Options(strategy="random"))
    with pytest.raises(KeyboardInterrupt):
        target.turn(0, (), 10)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What is said on stderr of a command line that can not be used."""
    try:
        code = main(words)
    except SystemExit as stop:
        code = int(str(stop.code))
    assert code == 2
    out, err = capsys.readouterr()
    assert not out
    return err


def test_an_object_is_no_scenario(capsys: pytest.CaptureFixture[str]) -> None:
    err = refused(capsys, "explore", str(ROOT / "examples/01_hello/prog.v3.bpf.o"))
    assert "an object, not a scenario" in err
    assert 'object = "prog.v3.bpf.o"' in err


def test_a_text_is_nothing_to_debug(capsys: pytest.CaptureFixture[str]) -> None:
    err = refused(capsys, "debug", str(ROOT / "README.md"))
    assert "neither a recording nor an object" in err
    assert "--record" in err


_NEEDED = {
    "dap": [],
    "demo": [],
    "doctor": [],
    "explain": [],
    "filter": ["explain", "a.file", "read"],
    "fuzz": ["verifier"],
    "gdbserver": ["--listen", ":0", "a.file"],
    "port": ["--to", "loop-7.1", "a.file"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_option_shows_the_usage_of_its_command(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    err = refused(capsys, command, *_NEEDED.get(command, ["a.file"]), "--frobnicate")
    assert err.startswith(f"usage: pybpfvm {command} ")
    assert err.endswith(f"pybpfvm {command}: error: unrecognized arguments: --frobnicate\n")

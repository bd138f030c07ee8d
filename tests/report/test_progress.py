"""The status line: on terminals only, after a while, gone before anything else is printed."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from pybpfvm.cli import main
from pybpfvm.events import Event, RunEnded, RunStarted
from pybpfvm.report.progress import Progress, rates, short_number

ROOT = Path(__file__).parents[2]
ENDED = RunEnded(0, 1, "p", 1, 0, 700, None, 0)
STARTED = RunStarted(0, 1, "p", 0, 1, 0)


def terminal() -> Console:
    environ = {"TERM": "xterm", "COLUMNS": "80"}
    return Console(file=io.StringIO(), force_terminal=True, _environ=environ)


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_observer_counts_and_passes_on() -> None:
    seen: list[Event] = []
    progress = Progress(terminal())
    observe = progress.observer(seen.append)
    for event in (STARTED, ENDED, STARTED, ENDED):
        observe(event)
    assert seen == [STARTED, ENDED, STARTED, ENDED]
    assert (progress.runs, progress.insns) == (2, 1400)
    assert re.fullmatch(r"2 runs, 1,400 instructions, \d+\.\d s", progress.text())


def test_nothing_is_spent_away_from_a_terminal() -> None:
    console = Console(file=io.StringIO(), force_terminal=False)
    progress = Progress(console, delay_s=0.0)

    def observer(event: Event) -> None:
        raise AssertionError(event)

    assert progress.observer(observer) is observer
    assert progress.each_run() is None
    with progress:
        time.sleep(0.05)
    assert written(console) == ""


def test_a_short_run_shows_nothing() -> None:
    console = terminal()
    with Progress(console, delay_s=60.0) as progress:
        progress.after_run(5)
    assert written(console) == ""


def test_a_long_run_shows_a_line_and_takes_it_away() -> None:
    console = terminal()
    with Progress(console, delay_s=0.01) as progress:
        progress.after_run(1_234_567)
        deadline = time.monotonic() + 20
        while "1 run, 1.2 M instructions" not in written(console):
            assert time.monotonic() < deadline, written(console)
            time.sleep(0.01)
        progress.stop()
        before = written(console)
        time.sleep(0.3)
        assert written(console) == before  # nothing moves after stop
    assert before.endswith("\x1b[2K")  # the line is erased
    assert before.count("\x1b[?25l") == before.count("\x1b[?25h") == 1  # the cursor is back


def test_at_most_ten_updates_a_second() -> None:
    console = terminal()
    start = time.monotonic()
    with Progress(console, delay_s=0.0) as progress:
        while time.monotonic() - start < 1.0:
            progress.after_run(1)
    seconds = time.monotonic() - start
    assert 1 <= written(console).count("instructions") <= 10 * seconds + 3  # start, stop


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (950, "950"), (12_345, "12,345"), (1_200_000, "1.2 M"), (3.4e9, "3.4 G")],
)
def test_numbers(value: float, text: str) -> None:
    assert short_number(value) == text


def test_rates() -> None:
    assert rates(10, 5_000_000, 2.0) == "5 runs/s, 2.5 M instructions/s"
    assert "runs/s" in rates(0, 0, 0.0)


def test_timings_of_commands(capsys: pytest.CaptureFixture[str]) -> None:
    for file in ("scenario.toml", "prog.v3.bpf.o"):
        path = ROOT / "examples/03_pingpong" / file
        assert main(["run", "--quiet", "--timings", str(path)]) == 0
        out, err = capsys.readouterr()
        assert re.search(r"took [\d.]+ ms: \S+( M)? runs/s, \S+( M)? instructions/s", out)
        assert err == ""


def test_the_command_shows_it_on_a_terminal() -> None:
    """stderr is a terminal, stdout is not: the line appears, and Ctrl-C leaves a clean screen."""
    ours, theirs = pty.openpty()
    path = ROOT / "examples/03_pingpong/prog.v3.bpf.o"
    command = [sys.executable, "-m", "pybpfvm", "run", str(path), "--repeat", "1000000000"]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(theirs)
    text = ""
    try:
        deadline = time.monotonic() + 60
        while not re.search(r"[\d,]+ runs, .* instructions, [\d.]+ s", text):
            assert time.monotonic() < deadline, text
            if select.select([ours], [], [], 1.0)[0]:
                text += os.read(ours, 4096).decode(errors="replace")
        process.send_signal(signal.SIGINT)
        while True:
            try:
                more = os.read(ours, 4096)
            except OSError:  # the terminal's other side is closed
                break
            if not more:
                break
            text += more.decode(errors="replace")
        assert process.wait(30) == 130
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        assert process.stdout is not None
        process.stdout.close()
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1
    assert "interrupted" in text
    assert "Traceback" not in text

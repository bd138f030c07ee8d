"""`make fuzz-night`: parts that run, a report that says what they found, and how time is shared."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz import night
from tests.fuzz.night import SHARES, Night, Part, rows, shared_out
from tests.fuzz.night_page import page
from tests.support import chromium


def test_time_is_shared_out_and_all_have_their_turn() -> None:
    many = [Part("programs", f"program {number}", ()) for number in range(10)]
    known = [Part(group, group, ()) for group in SHARES if group != "programs"] + many
    plan = list(shared_out(known, 8 * 3600.0, 5))
    assert len(plan) == len(known)
    assert sum(seconds for _, seconds in plan) == pytest.approx(8 * 3600)
    short = [list(shared_out(many, 20.0, turn)) for turn in range(10)]
    assert {len(one) for one in short} == {3}
    assert {part.title for one in short for part, _ in one} == {part.title for part in many}


@pytest.mark.parametrize("words", [("--minutes", "0"), ("--minutes", "nan"), ("--jobs", "0")])
def test_a_night_takes_time_and_processes(
    words: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        night.main(words)
    assert stopped.value.code == 2
    assert "must be more than 0" in capsys.readouterr().err


def test_the_parts_are_commands_of_every_target() -> None:
    known = list(night.parts())
    assert {"verifier", "loader", "ring", "schedules"} <= {part.group for part in known}
    assert len({part.title for part in known}) == len(known)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """Of a night of three parts, one of which can not run, with a finding that is made up."""
    out = tmp_path_factory.mktemp("night")
    one = Night(out, 0.1, 1, 7)
    one.run(
        [
            (Part("loader", "damaged objects", ("fuzz", "loader", "--count", "60")), 60.0),
            (Part("verifier", "of no type", ("fuzz", "verifier", "--type", "no")), 60.0),
            (
                Part(
                    "schedules",
                    "01_hello",
                    ("explore", "examples/01_hello/scenario.toml", "--schedules", "9"),
                ),
                60.0,
            ),
        ]
    )
    assert one.found == 1  # the part without a report
    found: dict[str, Any] = json.loads((out / "report.json").read_text())
    assert (out / "report.html").read_text() == page(found)
    found["parts"][0]["document"]["findings"].append(
        {
            "bucket": "crash/<b>",
            "message": "it crashed",
            "count": 3,
            "seed": 8,
            "executions": 99,
            "seconds": 1.0,
            "input_bytes": 5,
            "first_bytes": 900,
            "folder": "x",
            "command": "pybpfvm fuzz loader --repeat x/input",
        }
    )
    return found


def test_the_report_has_what_was_tried(report: Mapping[str, Any]) -> None:
    loader, refused, schedules = report["parts"]
    assert loader["document"]["executions"] > 0
    assert "--seed 7" in loader["command"]
    assert refused["document"] is None
    assert "no programs of type 'no'" in refused["error"]
    assert schedules["document"]["schedules"] > 0
    said = dict(rows(report))
    assert re.fullmatch(
        r"[\d,]+ \([\d,]+ a second of a process\): 1 findings",
        said["fuzz-night: damaged objects loaded"],
    )


def test_the_page_shows_findings_with_their_commands(report: Mapping[str, Any]) -> None:
    text = page(report)
    assert "crash/&lt;b&gt;" in text
    assert "pybpfvm fuzz loader --repeat x/input" in text
    assert "ended with 2, without a report" in text
    assert "src=" not in text
    assert "href=" not in text


def test_a_browser_shows_it_without_complaint(report: Mapping[str, Any], tmp_path: Path) -> None:
    if (missing := chromium.unavailable()) is not None:
        pytest.skip(missing)
    path = tmp_path / "report.html"
    path.write_text(page(report))
    for width in (1200, 400):
        with chromium.Page(path, width, 900) as shown:
            assert shown.run("document.querySelectorAll('.finding').length") == 2
            assert shown.run("document.documentElement.scrollWidth") <= width
            assert not shown.complaints


@pytest.mark.parametrize(
    ("ignores", "said", "how"),
    [("", "interrupted", 0), ("signal.SIG_IGN", "it did not end, and was killed", -signal.SIGKILL)],
)
def test_a_part_that_does_not_end_is_ended(
    ignores: str, said: str, how: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(night, "_STARTING_SECONDS", 1.0)
    program = """if True:
    import signal, sys, time
    signal.signal(signal.SIGINT, IGNORES or (lambda *_: sys.exit(print("interrupted"))))
    print("ready", file=sys.stderr, flush=True)
    time.sleep(60)
    """.replace("IGNORES", ignores or "None")
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=pipe, stderr=pipe, text=True
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "ready\n"
        out, err = Night(tmp_path, 1.0, 1, 0)._output(process, 0.1)
        assert (out + err).strip() == said
        assert process.returncode == how

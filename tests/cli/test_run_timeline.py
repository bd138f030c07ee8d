"""`run --timeline`: where the picture goes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pybpfvm.cli import main

ROOT = Path(__file__).parents[2]
EXAMPLE = str(ROOT / "examples/02_ticker/scenario.toml")
OBJECT = str(ROOT / "examples/02_ticker/prog.v3.bpf.o")


@pytest.mark.parametrize("option", [["--timeline"], ["--timeline", "-"]])
def test_on_the_terminal_it_replaces_the_account(
    option: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["run", EXAMPLE, *option]) == 0
    out = capsys.readouterr().out
    assert "Timeline of 90 events, 100.000 ms" in out
    assert "1 BPF ticker" in out
    assert "Account" not in out
    assert "all expectations met" in out
    picture = out[out.index("Timeline") : out.index("Completion queues")]
    assert max(map(len, picture.splitlines())) <= 100


def test_a_page_is_written_beside_the_account(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out.html"
    assert main(["run", EXAMPLE, "--timeline", str(target)]) == 0
    out = capsys.readouterr().out
    assert "Account" in out
    assert f"timeline: {target}" in out
    assert target.read_text().startswith("<!DOCTYPE html>")


def test_a_page_beside_a_json_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "out.html"
    assert main(["run", EXAMPLE, "--json", "--timeline", str(target)]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True
    assert target.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            (EXAMPLE, "--timeline", "missing/out.html"),
            "missing/out.html: No such file or directory",
        ),
        ((EXAMPLE, "--timeline", "dir.html"), "dir.html: Is a directory"),
        ((EXAMPLE, "--timeline", "/proc/out.html"), "/proc/out.html: No such file or directory"),
        ((EXAMPLE, "--timeline", "out.png"), "'out.png' is neither a page (.html) nor text (.txt)"),
        ((EXAMPLE, "--timeline", EXAMPLE), "is neither a page"),
        ((EXAMPLE, "--json", "--timeline"), "stdout is for the JSON document"),
        ((OBJECT, "--prog", "ticker", "--timeline"), "the option belongs to a scenario"),
    ],
)
def test_what_can_not_be_written_is_refused_before_anything_runs(
    arguments: tuple[str, ...],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dir.html").mkdir()
    before = Path(EXAMPLE).read_bytes()
    assert main(["run", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err.splitlines()[0]
    assert "Traceback" not in err
    assert Path(EXAMPLE).read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dir.html"]


def test_a_hang_is_drawn_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenario = tmp_path / "hang.toml"
    scenario.write_text(
        f'object = "{ROOT / "tests/acceptance/rows.v3.bpf.o"}"\nabi = "iouring-v3"\n'
        'programs = ["wait_for_nothing"]\n[ring]\ncq_entries = [16, 16]\n'
        "[[steps]]\nsubmit = [{ prog = 'wait_for_nothing' }]\n[[steps]]\nwait = 1\n"
    )
    target = tmp_path / "hang.html"
    assert main(["run", str(scenario), "--timeline", str(target)]) == 1
    capsys.readouterr()
    text = target.read_text()
    assert '<p class="stopped">hang: nothing in flight can complete</p>' in text
    assert "waits for 1 CQE on CQ 1, which holds 0" in text

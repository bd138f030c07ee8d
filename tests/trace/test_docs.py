"""docs/debugging.md shows what is printed, and code that runs."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from pybpfvm.cli import main

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "debugging.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(python|)\n(.*?)```", TEXT, re.DOTALL)


def test_the_session_shown_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    os.symlink(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    first = next(text for kind, text in BLOCKS if "--record t.bpftrace" in text).splitlines()[0]
    assert main(first.removeprefix("pybpfvm ").split()) == 0
    capsys.readouterr()
    assert main(["replay", "t.bpftrace"]) == 0
    shown = next(text for kind, text in BLOCKS if text.startswith("t.bpftrace: "))
    assert capsys.readouterr().out == shown
    code = next(text for kind, text in BLOCKS if "import Replay" in text)
    exec(compile(code, "docs/debugging.md", "exec"), {})
    assert capsys.readouterr().out.splitlines()[:2] == ["12 player", "all the same"]

"""An editor's own client, without a screen: Emacs' dap-mode, where both are installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.debugger.recorded import PINGPONG_C, ROOT, record_pingpong

_ASK = "(progn (require 'package) (package-initialize) (require 'dap-mode) (princ 'there))"


def _emacs() -> str:
    path = shutil.which("emacs")
    if path is None:
        pytest.skip("there is no emacs")
    found = subprocess.run(
        [path, "--batch", "--eval", _ASK], capture_output=True, text=True, check=False
    )
    if found.stdout != "there":
        pytest.skip("this emacs has no dap-mode")
    return path


def test_emacs_steps_both_ways(tmp_path: Path) -> None:
    emacs = _emacs()
    adapter = tmp_path / "adapter"
    adapter.write_text(
        f"#!/bin/sh\ncd {ROOT} && exec {sys.executable} -m pybpfvm dap\n", encoding="utf-8"
    )
    adapter.chmod(0o755)
    found = subprocess.run(
        [emacs, "--batch", "-l", str(Path(__file__).with_name("session.el"))],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=280,
        check=False,
        env=os.environ
        | {
            "HOME": str(tmp_path),  # dap-mode keeps breakpoints of sessions there
            "ADAPTER": str(adapter),
            "RECORDING": str(record_pingpong(tmp_path / "t.bpftrace")),
            "FOLDER": str(ROOT),
            "SOURCE": str(PINGPONG_C),
            "PYTHONPATH": str(ROOT),
        },
    ).stdout
    told = [line for line in found.splitlines() if line.startswith(("FRAME ", "VALUE "))]
    assert told == [
        "FRAME player 20", "FRAME player 22", "FRAME player 28", "FRAME player 22", "VALUE 1",
    ], found  # fmt: skip

"""docs/debugging.md shows a session that is one, and its server is mended as it says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pybpfvm.cli import main
from tests.debugger.recordings import ROOT
from tests.report.test_schemas import check
from tests.support.terminal_pictures import IMAGES, made, text_of

TEXT = (ROOT / "docs" / "debugging.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(python|)\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    os.symlink(ROOT / "tests", tmp_path / "tests")
    os.symlink(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shown(start: str) -> list[str]:
    """The lines of the block that begins with a command."""
    text: str = next(text for _, text in BLOCKS if text.startswith(f"$ {start}"))
    return text.splitlines()


def _placeless(lines: list[str]) -> list[str]:
    """Without addresses, which other machines of the process move."""
    return [re.sub(r"0x[0-9a-f]{9,}", "ADDRESS", line) for line in lines]


def test_the_walk_is_what_is_printed(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = shown("pybpfvm run")
    assert main(run[0].split()[2:]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[-len(run[2:]) :] == run[2:]
    session = shown("pybpfvm debug")
    script = "\n".join(line.partition(") ")[2] for line in session if line.startswith("(pybpfvm)"))
    (place / "script").write_text(script)
    assert main([*session[0].split()[2:], "-x", "script"]) == 0
    assert _placeless(capsys.readouterr().out.splitlines()) == _placeless(session[1:])


def test_the_mended_server_does_not_hang(place: Path) -> None:
    fixed = ["--object", "tests/data/hang/fixed.v3.bpf.o"]
    assert main(["run", "tests/data/hang/scenario.toml", *fixed]) == 0


def test_the_pictures_are_of_today() -> None:
    """What `make pictures` would draw says what the pictures say, and the page shows them all."""
    for name, svg in made().items():
        kept = (IMAGES / f"{name}.svg").read_text(encoding="utf-8")
        assert text_of(svg) == text_of(kept), f"{name}: make pictures"
        assert len(text_of(kept)) > 20
        assert f"(images/{name}.svg)" in TEXT


def test_where_it_held(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "examples/03_pingpong/scenario.toml", "--record", "t.bpftrace"]) == 0
    capsys.readouterr()
    assert main(["replay", "t.bpftrace", "--to", "me.hits == 3", "--first"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == (
        "me.hits == 3 held at 4:22: run 4 of player, 22 of 56 instructions, request 1 of ring 1"
    )
    assert out[-1] == "  me.hits = 3"
    to = ["replay", "t.bpftrace", "--format", "json", "--to"]
    for condition, code in (("players[1].hits == 3", 0), ("cqe.res < 0", 1)):
        assert main([*to, condition]) == code
        check(json.loads(capsys.readouterr().out), "replay-to-1")
    assert main(["replay", "t.bpftrace", "--to", "cqe.res < 0"]) == 1
    assert capsys.readouterr().out == "cqe.res < 0 never held\n"


_HOST = """
import pybpfvm
from pybpfvm.session import Machine

with Machine() as machine:
    obj = machine.load("examples/03_pingpong/prog.v3.bpf.o")
    with pybpfvm.Ring(8, [16, 16], machine=machine, record="now.bpftrace") as ring:
        ring.register_bpf([obj["player"]])
        block = ring.user.alloc(bytes([1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]), "ann")
        ring.get_sqe().prep_bpf(0, user_data=block.addr)
        ring.submit()
        pybpfvm.breakpoint(ring, ["ring", "rs", "bt"])
        {then}
"""


def hosted(then: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _HOST.format(then=then)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def test_breakpoint_in_a_host(place: Path) -> None:
    out = hosted("print('goes on')")
    assert "request 1: BPF of user" in out
    assert "*#0 player at ./examples/03_pingpong/prog.bpf.c" in out
    assert out.endswith("goes on\n")


def test_what_a_host_dies_of_is_where_it_opens(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "ZeroDivisionError" in hosted("1 / 0")
    assert main(["debug", "now.bpftrace", "--command", "ring"]) == 0
    assert (
        "ZeroDivisionError: division by zero\nthe end of the recording" in capsys.readouterr().out
    )

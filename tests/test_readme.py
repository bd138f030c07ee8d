"""What the README tells a newcomer to type works as written."""

from __future__ import annotations

import re
import shutil
import subprocess
import textwrap
from pathlib import Path

import pytest

from pybpfvm.cli import main
from pybpfvm.verifier.verdict import Accepted

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def block(language: str) -> str:
    found = re.search(rf" *```{language}\n(.*?)```", README, re.DOTALL)
    assert found is not None
    return textwrap.dedent(found.group(1))


def test_the_tutorial_program_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clang = shutil.which("clang-19")
    if clang is None:
        pytest.skip("no clang-19 on this machine (Debian: apt-get install clang-19)")
    source = tmp_path / "mine.bpf.c"
    source.write_text(block("c"))
    include = ROOT / "examples/include"
    options = ["-target", "bpf", "-O2", "-g", "-mcpu=v3", "-DIOURING_PROFILE=3", f"-I{include}"]
    subprocess.run(
        [clang, *options, "-c", str(source), "-o", str(tmp_path / "mine.bpf.o")], check=True
    )
    scenario = tmp_path / "mine.toml"
    scenario.write_text(block("toml"))
    assert main(["run", str(scenario)]) == 0
    assert "all expectations met" in capsys.readouterr().out
    scenario.write_text(block("toml").replace("u64 = [42]", "u64 = [43]"))
    assert main(["run", str(scenario)]) == 1


def test_the_python_example_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    exec(compile(block("python"), "README.md", "exec"), {})
    assert capsys.readouterr().out == "Cqe(user_data=29, res=42, flags=0) 71 1\n"


def test_the_python_example_of_contracts_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs/contracts.md").read_text()
    found = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert found is not None
    monkeypatch.chdir(ROOT)
    names: dict[str, object] = {}
    exec(compile(found.group(1), "docs/contracts.md", "exec"), names)
    assert isinstance(names["verdict"], Accepted)
    assert not names["verdict"].warnings


def test_every_command_named_exists() -> None:
    from pybpfvm.cli import COMMANDS

    table = README[README.index("## Commands") : README.index("Exit codes")]
    named = set(re.findall(r"`(\w+) ?[^`]*`", table))
    assert set(COMMANDS) <= named

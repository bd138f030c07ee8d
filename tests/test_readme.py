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


def test_the_python_examples_of_the_upstream_abi_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    text = (ROOT / "docs/abi-upstream.md").read_text()
    exec(compile("".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)), "docs", "exec"), {})
    assert capsys.readouterr().out == "126 0 12\n42\n"


def test_the_examples_of_filters_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "docs/filters.md").read_text()
    blocks = re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL)
    shell, toml, python = (body for _, body in blocks)
    monkeypatch.chdir(tmp_path)
    program, _, said = shell.partition("$ pybpfvm filter explain")
    Path("inet.cbpf").write_text(program.partition("inet.cbpf\n")[2])
    command, _, output = said.partition("\n")
    assert main(["filter", "explain", *command.split()]) == 1
    assert capsys.readouterr().out == output
    Path("no_creat.cbpf").write_text("ld [16]\njset #0x40, no\nret #1\nno: ret #0\n")
    Path("s.toml").write_text(f'object = "{ROOT}/examples/01_hello/prog.v2.bpf.o"\n{toml}')
    assert main(["run", "s.toml"]) == 0
    capsys.readouterr()
    exec(compile(python, "docs/filters.md", "exec"), {})
    assert capsys.readouterr().out == "[0, -13]\n"


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

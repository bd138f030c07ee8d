"""Every 2021 object of examples/ has a port: its skeleton compiles without a warning, loads, and our
verifier accepts it as loop-7.1."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pybpfvm.porting.skeleton import skeleton
from pybpfvm.porting.survey import Survey, survey
from pybpfvm.session.judging import JudgeRequest, judge_case, read_cases
from pybpfvm.verifier.verdict import Accepted

ROOT = Path(__file__).parents[2]
OBJECTS = sorted((ROOT / "examples").glob("[0-9]*/*.bpf.o"))
INCLUDE = ROOT / "examples/include"
TARGET = "loop-7.1"


def surveys(path: Path) -> Iterator[Survey]:
    cases = read_cases(path, JudgeRequest())
    for case in cases.cases:
        assert case.profile is not None
        yield survey(case.program, cases.obj, case.profile)


@pytest.fixture(scope="session")
def clang() -> str:
    found = os.environ.get("CLANG") or shutil.which("clang-19") or shutil.which("clang")
    if found is None:
        pytest.skip("no clang on this machine (Debian: apt-get install clang-19)")
    return found


_JUDGED: dict[str, tuple[str, ...]] = {}


def judged(clang: str, text: str, folder: Path) -> tuple[str, ...]:
    """What is wrong with a skeleton: compiled without a warning, loaded, and judged."""
    if text not in _JUDGED:
        _JUDGED[text] = _judged(clang, text, folder)
    return _JUDGED[text]


def _judged(clang: str, text: str, folder: Path) -> tuple[str, ...]:
    source, made = folder / "skeleton.bpf.c", folder / "skeleton.bpf.o"
    source.write_text(text)
    options = ["-target", "bpf", "-O2", "-g", "-mcpu=v3", "-std=gnu17", "-Wall", "-Wextra"]
    options += ["-Wno-unused-parameter", "-Werror", f"-I{INCLUDE}", "-c", str(source)]
    done = subprocess.run([clang, *options, "-o", str(made)], capture_output=True, text=True)
    if done.returncode:
        return (done.stderr,)
    request = JudgeRequest(abi=TARGET)
    cases = read_cases(made, request)
    assert len(cases.cases) == 1
    assert len(cases.obj.struct_ops) == 1
    verdict = judge_case(cases.obj, cases.cases[0], request)
    return () if isinstance(verdict, Accepted) else (str(verdict),)


def test_there_are_objects() -> None:
    assert len(OBJECTS) >= 70


@pytest.mark.parametrize("path", OBJECTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_skeleton_is_a_loop_program(
    path: Path, clang: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("skeleton")
    for seen in surveys(path):
        made = skeleton(seen, TARGET)
        # The two ABIs' objects of a source mostly have the same skeleton, but for its head.
        body = made.text.partition("*/\n")[2]
        assert not judged(clang, body, folder)

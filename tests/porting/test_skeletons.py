"""Every 2021 object of examples/ has a port: its skeleton compiles without a warning, loads, and
our verifier accepts it as loop-7.1, without a warning."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from pybpfvm.porting.port import Port, port
from pybpfvm.profiles import profile_named
from pybpfvm.session.judging import JudgeRequest, judge_case, read_cases
from pybpfvm.verifier.verdict import Accepted
from tests.porting.conftest import compiled

ROOT = Path(__file__).parents[2]
OBJECTS = sorted((ROOT / "examples").glob("[0-9]*/*.bpf.o"))
TARGET = "loop-7.1"


def ports(path: Path) -> Iterator[Port]:
    cases = read_cases(path, JudgeRequest())
    for case in cases.cases:
        yield port(case.program, cases.obj, case.profiles, profile_named(TARGET))


_JUDGED: dict[str, tuple[str, ...]] = {}


def judged(clang: str, text: str, folder: Path) -> tuple[str, ...]:
    """What is wrong with a skeleton: compiled without a warning, loaded, and judged."""
    if text not in _JUDGED:
        _JUDGED[text] = _judged(clang, text, folder)
    return _JUDGED[text]


def _judged(clang: str, text: str, folder: Path) -> tuple[str, ...]:
    source = folder / "skeleton.bpf.c"
    source.write_text(text)
    made = compiled(clang, source, folder)
    request = JudgeRequest(abi=TARGET)
    cases = read_cases(made, request)
    assert len(cases.cases) == 1
    assert len(cases.obj.struct_ops) == 1
    verdict = judge_case(cases.obj, cases.cases[0], request)
    warnings = tuple(str(warning) for warning in verdict.warnings)
    return warnings if isinstance(verdict, Accepted) else (str(verdict), *warnings)


def test_there_are_objects() -> None:
    assert len(OBJECTS) >= 70


def test_a_line_that_does_two_things_stands_once() -> None:
    """Reading user_data as an argument of a copy, and the copy."""
    (made,) = ports(ROOT / "examples" / "07_batch_writer" / "prog.v3.bpf.o")
    lines = [(piece.place, piece.old) for piece in made.skeleton.pieces]
    assert all(one != after for one, after in pairwise(lines))
    (copy,) = (piece for piece in made.skeleton.pieces if "copy_from_user" in piece.old)
    assert copy.new[0] == "/* shared->user_data */"
    assert "__builtin_memcpy(state.read_" in copy.new[1]
    assert made.skeleton.text.count("copy_from_user") == 1


@pytest.mark.parametrize("path", OBJECTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_skeleton_is_a_loop_program(
    path: Path, clang: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("skeleton")
    for one in ports(path):
        # The two ABIs' objects of a source mostly have the same skeleton, but for its head.
        body = one.skeleton.text.partition("*/\n")[2]
        assert not judged(clang, body, folder)

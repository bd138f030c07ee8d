"""What other fuzzers call: libFuzzer's and atheris's functions, AFL++'s custom mutator."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from pybpfvm.errors import InputError
from pybpfvm.fuzz import harness
from pybpfvm.fuzz.program_inputs import Choice, read
from pybpfvm.fuzz.verifier import VerifierTarget
from pybpfvm.verifier import checks

ROOT = Path(__file__).parents[2]


def test_an_input_that_shows_a_problem_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    target = VerifierTarget()
    one = harness.one_input(target)
    inputs = [Choice(("near",)).program(seed).data() for seed in range(300, 800)]
    one(b"anything")
    one(inputs[0])
    monkeypatch.setattr(checks, "check_map_value", lambda *_, **__: None)
    wrong = next(data for data in inputs if target.run(data).problem is not None)
    with pytest.raises(harness.Found, match="accepted"):
        one(wrong)


def test_the_custom_mutators_keep_to_the_size_and_programs_stay_programs() -> None:
    change = harness.custom_mutator(VerifierTarget())
    data = Choice(("near",)).program(3).data()
    assert read(change(data, 1 << 16, 5)).style == "near"
    assert len(change(data, 10, 5)) <= 10
    harness.init(3)
    first = harness.fuzz(bytearray(data), bytearray(), 100)
    second = harness.fuzz(bytearray(data), bytearray(), 100)
    assert len(first) <= 100
    assert first != second
    harness.init(3)
    assert harness.fuzz(bytearray(data), bytearray(), 100) == first


def test_targets_have_names() -> None:
    assert harness.target_named("loader").name == "loader"
    with pytest.raises(InputError, match="no target is called 'x'"):
        harness.target_named("x")


def _atheris(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pybpfvm.fuzz.harness", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_without_atheris_it_says_so() -> None:
    if find_spec("atheris") is not None:
        pytest.skip("atheris is installed")
    done = _atheris("verifier")
    assert (done.returncode, done.stderr) == (3, "atheris is not installed: pip install atheris\n")


def test_atheris_drives_a_target() -> None:
    if find_spec("atheris") is None:
        pytest.skip("atheris is not installed")
    done = _atheris("verifier", "-runs=200")
    assert done.returncode == 0, done.stderr

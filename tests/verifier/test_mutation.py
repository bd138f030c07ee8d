"""A few of the mutants of `make mutate`: the check itself must be able to fail."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.verifier.mutate import Mutant, mutants

ROOT = Path(__file__).parents[2]


def test_there_are_mutants_of_every_kind() -> None:
    kinds = [mutant.kind for mutant in mutants()]
    assert set(kinds) == {"refusal", "cover", "precision", "forget", "gap"}
    assert kinds.count("refusal") >= 100


@pytest.mark.timeout(900)  # all the tests of the verifier once, and on each mutant until one fails
def test_rules_that_are_switched_off_are_noticed() -> None:
    command = [sys.executable, "-m", "tests.verifier.mutate", "-j", "1"]
    for text in ("R{number} !read_ok", "frame pointer is read only", "forget_packet(state"):
        first = next(one for one in mutants() if text in _statement(one))
        command += ["--only", f"{first.file}:{first.line}:"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("[case: ") == 3


def _statement(mutant: Mutant) -> str:
    lines = (ROOT / "verifier" / mutant.file).read_text().splitlines()
    return "\n".join(lines[mutant.line - 1 : mutant.line + 3])

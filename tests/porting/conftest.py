"""What tests of ports need: a clang, and how it compiles for the loop."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

INCLUDE = Path(__file__).parents[2] / "examples/include"
_OPTIONS = ("-target", "bpf", "-O2", "-g", "-mcpu=v3", "-std=gnu17", "-Wall", "-Wextra", "-Werror")


@pytest.fixture(scope="session")
def clang() -> str:
    """A clang that makes BPF objects; the test is skipped where there is none."""
    found = os.environ.get("CLANG") or shutil.which("clang-19") or shutil.which("clang")
    if found is None:
        pytest.skip("no clang on this machine (Debian: apt-get install clang-19)")
    return found


def compiled(clang: str, source: Path, folder: Path) -> Path:
    """The object of `source`, compiled without a warning."""
    made = folder / "made.bpf.o"
    options = [*_OPTIONS, "-Wno-unused-parameter", f"-I{INCLUDE}", "-c", str(source)]
    done = subprocess.run(
        [clang, *options, "-o", str(made)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return made

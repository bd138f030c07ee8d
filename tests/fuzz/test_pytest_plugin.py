"""The pytest plugin: fixtures, what failures add, and that it costs nothing unused."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HELLO = ROOT / "examples/01_hello/prog.v3.bpf.o"
# By its module, whether or not it is installed under its name too.
PLUGIN = ("-p", "no:pybpfvm", "-p", "pybpfvm.pytest_plugin")

TESTS = f"""
import struct
import pytest
import pybpfvm

def test_runs(bpf_object, bpf_ring):
    obj = bpf_object({str(HELLO)!r}, abi="iouring-v3")
    ring = bpf_ring(8, [128], seed=7, faults="seed=3")
    ring.register_bpf([obj["hello"]])
    word = ring.user.alloc(struct.pack("<I", 29))
    ring.get_sqe().prep_bpf(0, user_data=word.addr)
    ring.submit()
    ring.wait_cqe()
    assert word.u32() == 0

def test_refused(bpf_object, bpf_machine):
    obj = bpf_object({str(HELLO)!r}, abi="iouring-v3")
    assert obj.image.memory is bpf_machine.memory
    name = next(iter(obj.programs))
    from pybpfvm.verifier.verdict import Finding, Kind, Rejected, Rule, Statistics
    found = Finding(Rule.POSSIBLY_NULL, Kind.UNSAFE, 3, "R0 invalid mem access", "it may be NULL")
    obj._verdicts[name, True] = Rejected(Statistics(), (found,))
    assert False

def test_without():
    assert False
"""


def _pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )


def test_the_documented_example_passes(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "fuzzing.md").read_text()
    example = text.partition("**pytest**")[2].partition("```python\n")[2].partition("```")[0]
    (tmp_path / "test_documented.py").write_text(example)
    done = _pytest(ROOT, *PLUGIN, "-q", str(tmp_path / "test_documented.py"))
    assert "1 passed" in done.stdout, done.stdout


def test_failures_say_what_the_verifier_said_and_how_to_make_the_ring_again(
    tmp_path: Path,
) -> None:
    (tmp_path / "test_mine.py").write_text(TESTS)
    done = _pytest(tmp_path, *PLUGIN, "test_mine.py")
    first, refused, without = (
        done.stdout.partition(f"_ {name} _")[2].partition("\n____")[0]
        for name in ("test_runs", "test_refused", "test_without")
    )
    assert "3 failed" in done.stdout
    assert "replay: bpf_ring(8, cq_entries=[128], faults='seed=3', seed=7)" in first
    assert "hello: not accepted: R0 invalid mem access" in refused
    assert "it may be NULL" in refused
    assert "explained by: pybpfvm explain possibly-null" in refused
    assert "pybpfvm -" not in without.partition("short test summary")[0]


def test_unused_it_imports_nothing(tmp_path: Path) -> None:
    (tmp_path / "test_other.py").write_text(
        "import sys\n\ndef test_nothing():\n"
        "    ours = [name for name in sys.modules if name.startswith('pybpfvm.')]\n"
        "    assert ours == ['pybpfvm.pytest_plugin'], ours\n"
    )
    done = _pytest(tmp_path, *PLUGIN, "test_other.py")
    assert "1 passed" in done.stdout, done.stdout


def test_pytest_finds_it_where_the_package_is_installed() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    points = config["options.entry_points"]
    assert points["pytest11"].split() == ["pybpfvm", "=", "pybpfvm.pytest_plugin"]

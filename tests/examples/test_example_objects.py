"""The committed objects are what clang makes of the sources beside them."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "examples" / "build.sh"
FOLDERS = (
    "examples/*",
    "tests/acceptance",
    "tests/data/dialects",
    "tests/data/hang",
    "tests/data/explore",
    "tests/data/lints",
    "tests/data/linking",
    "tests/data/loops",
    "tests/data/replacing",
    "tests/data/servers",
)
OBJECTS = sorted(
    (
        *(path for folder in FOLDERS for path in ROOT.glob(f"{folder}/*.bpf.o")),
        ROOT / "tests/verifier/data/advice.bpf.o",
        ROOT / "tests/verifier/data/sqe_param.bpf.o",
        ROOT / "tests/verifier/data/trusted.bpf.o",
    )
)
CLANG = shutil.which("clang-19")
SHF_EXECINSTR = 4
_DATA = ("maps", ".maps", "license", ".data", ".rodata", ".bss")


def loadable(data: bytes) -> dict[str, bytes]:
    """What a loader uses of an object: code, its relocations, and data, by section."""
    elf = ELFFile(io.BytesIO(data))
    code = {s.name for s in elf.iter_sections() if s["sh_flags"] & SHF_EXECINSTR}
    wanted = code | {f".rel{name}" for name in code} | set(_DATA)
    return {s.name: s.data() for s in elf.iter_sections() if s.name in wanted and s["sh_size"]}


@cache
def mentions_of_machine_paths(path: Path) -> list[bytes]:
    data = path.read_bytes()
    places = [os.fsencode(ROOT), b"/home/", b"/root/", b"/tmp/", b"/usr/"]
    return [place for place in places if place in data]


def test_there_are_objects() -> None:
    assert len(OBJECTS) >= 2 * 9 + 12 + 10 + 3 + 5


@pytest.mark.parametrize("path", OBJECTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_object_names_a_machine(path: Path) -> None:
    assert mentions_of_machine_paths(path) == []


@pytest.mark.skipif(CLANG is None, reason="clang-19 is not installed")
def test_rebuilding_gives_the_committed_code(tmp_path: Path) -> None:
    subprocess.run([str(BUILD), str(tmp_path)], check=True, timeout=240)
    rebuilt = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.bpf.o"))
    assert rebuilt == [path.relative_to(ROOT) for path in OBJECTS]
    for path in rebuilt:
        fresh = loadable((tmp_path / path).read_bytes())
        assert fresh == loadable((ROOT / path).read_bytes()), f"{path}: run examples/build.sh"


def test_a_missing_compiler_is_explained_in_a_line(tmp_path: Path) -> None:
    """PATH has the shell's own tools, and no clang."""
    for tool in ("sh", "dirname", "mkdir"):
        found = shutil.which(tool)
        assert found is not None
        (tmp_path / tool).symlink_to(found)
    done = subprocess.run(
        [str(tmp_path / "sh"), str(BUILD), str(tmp_path / "out")],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "install clang-19" in line

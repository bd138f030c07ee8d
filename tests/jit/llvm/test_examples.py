"""Every example ends as on the JIT, on the objects of both instruction sets."""

from __future__ import annotations

from pathlib import Path

import pytest

from pybpfvm.cli import main
from pybpfvm.engine import RunEnvironment
from pybpfvm.helpers.table import HELPERS
from pybpfvm.image import Image
from pybpfvm.jit.llvm.engine import LlvmEngine
from pybpfvm.jit.options import Checks
from pybpfvm.loader.object import load

ROOT = Path(__file__).resolve().parents[3]
# All but the one that makes 100,000 requests to show that it can.
SCENARIOS = sorted(set(ROOT.glob("examples/*/scenario.toml")) - set(ROOT.glob("examples/07_*/*")))
OBJECTS = sorted(
    path for folder in ("examples/*", "bench/programs") for path in ROOT.glob(f"{folder}/*.bpf.o")
)


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.parent.name)
def test_scenarios(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYBPFVM_CACHE", "")
    said = []
    for engine in ("jit", "llvm"):
        code = main(["run", str(path), "--engine", engine])
        said.append((code, capsys.readouterr().out.replace(f"engine {engine}", "engine")))
    assert said[0] == said[1]
    assert said[0][0] == 0


def test_objects_compile() -> None:
    """Two of each, with the ways of checking that differ most: LLVM asserts what it can."""
    helpers = dict(enumerate(HELPERS.values(), 1))
    made = 0
    for path in OBJECTS:
        obj = load(path)
        with Image(obj) as image:
            for checks in (Checks.NONE, Checks.EXACT):
                engine = LlvmEngine(image, helpers, RunEnvironment(), checks=checks, cache=None)
                for program in obj.programs[:2]:
                    made += len(engine.unit(program).code.data) > 0
                engine.close()
    assert made >= 2 * len(OBJECTS)

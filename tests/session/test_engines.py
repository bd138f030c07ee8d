"""When engines are imported: when programs are registered, not in the middle of a run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pybpfvm.session.engines import _MODULES, ENGINES, jit_refusal

ROOT = Path(__file__).parents[2]
_REGISTERS = f"""
import sys, pybpfvm
obj = pybpfvm.load({str(ROOT / "examples/01_hello/prog.v3.bpf.o")!r}, abi="iouring-v3")
with pybpfvm.Ring(8, [16], engine=sys.argv[1]) as ring:
    ring.register_bpf([obj["hello"]])
    before = set(sys.modules)
    ring.get_sqe().prep_bpf(0)
    ring.submit()
    assert ring.wait_cqe().res, "it reads at user address 0"
print(*sorted(one for one in set(sys.modules) - before if one.startswith("pybpfvm.")))
"""


def test_every_engine_has_its_module() -> None:
    assert {"auto", *_MODULES} == set(ENGINES)


@pytest.mark.parametrize("engine", ["interp", "jit"])
def test_the_first_run_imports_no_engine(engine: str) -> None:
    if engine == "jit" and jit_refusal() is not None:
        pytest.skip(str(jit_refusal()))
    done = subprocess.run(
        [sys.executable, "-c", _REGISTERS, engine], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert _MODULES[engine] not in done.stdout.split()

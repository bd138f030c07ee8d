"""When engines are imported: when programs are registered, not in the middle of a run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pybpfvm.events import Event, HelperCalled
from pybpfvm.scenario import parse, run_scenario
from pybpfvm.session.engines import _MODULES, ENGINES, jit_refusal
from tests.support.example_hosts import EXAMPLES

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


@pytest.mark.parametrize("engine", ["interp", "jit"])
def test_an_observer_is_told_of_the_helpers_that_are_heard(engine: str) -> None:
    if engine == "jit" and jit_refusal() is not None:
        pytest.skip(str(jit_refusal()))
    pingpong = parse(EXAMPLES / "03_pingpong/scenario.toml")
    everything: list[Event] = []
    assert run_scenario(pingpong, engine=engine, observer=everything.append).ok
    names = {event.helper for event in everything if isinstance(event, HelperCalled)}
    assert len(names) > 3
    for heard in (
        frozenset(),
        frozenset({"copy_from_user"}),
        frozenset(names - {"map_lookup_elem"}),
    ):
        told: list[Event] = []
        assert run_scenario(pingpong, engine=engine, observer=told.append, heard=heard).ok
        assert told == [
            e for e in everything if not isinstance(e, HelperCalled) or e.helper in heard
        ]

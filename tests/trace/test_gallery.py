"""Each scenario of the gallery, recorded and replayed: the same on both engines."""

from __future__ import annotations

from pathlib import Path

import pytest

from pybpfvm.scenario import parse
from pybpfvm.session.hostring import BackendName
from pybpfvm.uring_backend.faults import parse_faults
from tests.support.session_ring import need_backend
from tests.trace.recordings import recorded, replayed, require_same

EXAMPLES = Path(__file__).parents[2] / "examples"
SCENARIOS = sorted(path for path in EXAMPLES.glob("*/scenario*.toml"))
# A hundred thousand requests, which take the simulated ring half a minute: one recording is enough.
LONG = {"07_batch_writer"}
SHORT = [path for path in SCENARIOS if path.parent.name not in LONG]
GENERATED = ("03_pingpong", "06_accept_recv", "11_copy", "17_retry", "loop_echo", "loop_retry")


def ids(path: Path) -> str:
    return path.parent.name


def test_there_are_scenarios() -> None:
    assert len(SCENARIOS) > 40
    assert {path.parent.name for path in SCENARIOS} >= {*LONG, *GENERATED}


@pytest.mark.parametrize("path", SCENARIOS, ids=ids)
def test_verified_programs_on_the_jit_and_the_simulated_ring(path: Path, tmp_path: Path) -> None:
    trace = tmp_path / "t.bpftrace"
    require_same(trace, recorded(parse(path), trace, engine="jit"))


@pytest.mark.parametrize("path", SHORT, ids=ids)
def test_sandboxed_programs_on_the_interpreter(path: Path, tmp_path: Path) -> None:
    trace = tmp_path / "t.bpftrace"
    require_same(trace, recorded(parse(path), trace, engine="interp", verify=False))


@pytest.mark.parametrize("name", ["03_pingpong", "11_copy", "loop_echo"])
def test_what_llvm_compiled(name: str, tmp_path: Path) -> None:
    """Recorded with that engine, replayed with each, that one too."""
    pytest.importorskip("llvmlite", reason="the extra llvm is not installed")
    trace = tmp_path / "t.bpftrace"
    outcome = recorded(parse(EXAMPLES / name / "scenario.toml"), trace, engine="llvm")
    assert outcome.engine == "llvm"
    require_same(trace, outcome)
    found, replay = replayed(trace, "llvm")
    assert found is None
    assert replay.totals.insns == outcome.insns > 0


@pytest.mark.parametrize("backend", ["kernel", "liburing"])
@pytest.mark.parametrize("path", SHORT, ids=ids)
def test_the_real_ring(path: Path, backend: BackendName, tmp_path: Path) -> None:
    need_backend(backend)
    trace = tmp_path / "t.bpftrace"
    require_same(trace, recorded(parse(path), trace, backend=backend, verify=False))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", GENERATED)
def test_runs_that_meet_faults_drawn_from_a_seed(name: str, seed: int, tmp_path: Path) -> None:
    """Errors, short transfers, late and reordered completions: what programs do then, and where
    rings hang, is replayed as well."""
    trace = tmp_path / "t.bpftrace"
    scenario = parse(EXAMPLES / name / "scenario.toml")
    outcome = recorded(scenario, trace, seed=seed, faults=parse_faults("swarm"), verify=False)
    require_same(trace, outcome)

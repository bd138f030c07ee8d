"""Examples of iouring-x: each is accepted without a warning and does what its scenario says on both
rings and by every engine; its broken twin is caught by name."""

from __future__ import annotations

from functools import cache

import pytest

from pybpfvm.objectfile import detect_abi, read_object
from pybpfvm.profiles import profile_named
from pybpfvm.scenario import Outcome, parse, run_scenario
from pybpfvm.session.hostring import BackendName
from pybpfvm.session.judging import JudgeRequest, judge
from pybpfvm.verifier.usermemory.contract_parse import parse_contract
from pybpfvm.verifier.verdict import Accepted, Rejected, Verdict
from tests.support.example_hosts import EXAMPLES
from tests.support.example_hosts import TWINS as ALL_TWINS
from tests.support.session_ring import SIM_AND_KERNEL, need_backend

TWINS = {name: caught for name, caught in ALL_TWINS.items() if name.startswith("x_")}
EXPERIMENTS = sorted(path.parent.name for path in EXAMPLES.glob("x_*/scenario.toml"))


def run(name: str, object_name: str, backend: BackendName = "sim", engine: str = "auto") -> Outcome:
    folder = EXAMPLES / name
    return run_scenario(
        parse(folder / "scenario.toml"),
        backend=backend,
        object_path=folder / object_name,
        engine=engine,
    )


@cache
def verdicts(name: str, object_name: str) -> tuple[Verdict, ...]:
    folder = EXAMPLES / name
    obj = read_object(folder / object_name)
    contract = folder / "contract.toml"
    promised = parse_contract(contract.read_text(), obj, where=str(contract))
    request = JudgeRequest(contract=promised, witness_runs=0)
    return tuple(
        judge(program, obj, profile_named("iouring-x"), request) for program in obj.programs
    )


def test_every_one_has_a_twin_a_row_and_a_page() -> None:
    assert sorted(TWINS) == EXPERIMENTS
    index = (EXAMPLES / "README.md").read_text()
    for name in EXPERIMENTS:
        assert f"| [{name}]({name}) |" in index
        assert (EXAMPLES / name / "README.md").exists()


@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.parametrize("object_name", ["prog.x.bpf.o", "twin.x.bpf.o"])
def test_its_abi_is_detected(name: str, object_name: str) -> None:
    found = detect_abi(read_object(EXAMPLES / name / object_name))
    assert [profile.name for profile in found.candidates] == ["iouring-x"]


@pytest.mark.parametrize("engine", ["interp", "jit", "llvm"])
@pytest.mark.parametrize("backend", SIM_AND_KERNEL)
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_it_does_what_its_scenario_says(name: str, backend: BackendName, engine: str) -> None:
    need_backend(backend)
    if engine == "llvm":
        pytest.importorskip("llvmlite", reason="the extra llvm is not installed")
    outcome = run(name, "prog.x.bpf.o", backend, engine)
    assert (outcome.findings, outcome.stopped, outcome.ok) == ((), None, True)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_it_is_accepted_without_a_warning(name: str) -> None:
    for found in verdicts(name, "prog.x.bpf.o"):
        assert isinstance(found, Accepted)
        assert found.warnings == ()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_its_twin_is_caught_by_name(name: str) -> None:
    ((how, what),) = TWINS[name].items()
    found = verdicts(name, "twin.x.bpf.o")
    broken = [
        error.rule.value for one in found if isinstance(one, Rejected) for error in one.errors
    ]
    lints = {
        warning.rule.value for one in found if isinstance(one, Accepted) for warning in one.warnings
    }
    assert set(broken) == ({what} if how == "rule" else set())
    assert lints == ({what} if how == "lint" else set())
    if how == "fails":
        outcome = run(name, "twin.x.bpf.o")
        assert not outcome.ok
        assert outcome.findings[0].where.partition(": ")[2].startswith(what)
    else:
        assert how in ("rule", "lint")

"""The gallery: each program is accepted without a warning and does what its scenario says on both
rings and by both engines; its broken twin is caught by name."""

from __future__ import annotations

from functools import cache

import pytest

from pybpfvm.objectfile import read_object
from pybpfvm.profiles import profile_named
from pybpfvm.scenario import Outcome, parse, run_scenario
from pybpfvm.session.hostring import BackendName
from pybpfvm.session.judging import JudgeRequest, judge
from pybpfvm.verifier.usermemory.contract_parse import parse_contract
from pybpfvm.verifier.verdict import Accepted, Rejected, Verdict
from tests.support.example_hosts import EXAMPLES
from tests.support.example_hosts import TWINS as ALL_TWINS
from tests.support.session_ring import SIM_AND_KERNEL, need_backend

# The others: test_loop_gallery, test_experiments.
TWINS = {name: caught for name, caught in ALL_TWINS.items() if name[0].isdigit()}
GALLERY = sorted(path.parent.name for path in EXAMPLES.glob("[0-9]*/twin.bpf.c"))


def run(name: str, object_name: str, backend: BackendName = "sim", engine: str = "auto") -> Outcome:
    folder = EXAMPLES / name
    version = object_name.split(".")[1]
    return run_scenario(
        parse(folder / "scenario.toml"),
        backend=backend,
        object_path=folder / object_name,
        abi=f"iouring-{version}",
        engine=engine,
    )


@cache
def verdicts(name: str, object_name: str) -> tuple[Verdict, ...]:
    """One for each program of the object."""
    folder = EXAMPLES / name
    obj = read_object(folder / object_name)
    contract = folder / "contract.toml"
    promised = parse_contract(contract.read_text(), obj, where=str(contract))
    profile = profile_named(f"iouring-{object_name.split('.')[1]}")
    request = JudgeRequest(contract=promised, witness_runs=0)
    return tuple(judge(program, obj, profile, request) for program in obj.programs)


def test_every_program_has_a_twin_and_a_row() -> None:
    assert sorted(TWINS) == GALLERY
    assert len(GALLERY) == 18
    index = (EXAMPLES / "README.md").read_text()
    for name in GALLERY:
        assert f"[{name}]({name})" in index


@pytest.mark.parametrize("engine", ["interp", "auto"])
@pytest.mark.parametrize("backend", SIM_AND_KERNEL)
@pytest.mark.parametrize("name", GALLERY)
def test_it_does_what_its_scenario_says(name: str, backend: BackendName, engine: str) -> None:
    need_backend(backend)
    for version in ("v3",) if engine == "interp" else ("v2", "v3"):
        outcome = run(name, f"prog.{version}.bpf.o", backend, engine)
        assert outcome.findings == ()
        assert outcome.ok


@pytest.mark.parametrize("name", GALLERY)
def test_it_is_accepted_without_a_warning(name: str) -> None:
    for found in verdicts(name, "prog.v3.bpf.o"):
        assert isinstance(found, Accepted)
        assert found.warnings == ()


@pytest.mark.parametrize("name", GALLERY)
def test_its_twin_is_caught_by_name(name: str) -> None:
    ((how, what),) = TWINS[name].items()
    found = verdicts(name, "twin.v3.bpf.o")
    if how == "rule":
        (rejected,) = found
        assert isinstance(rejected, Rejected)
        assert {error.rule.value for error in rejected.errors} == {what}
        return
    lints = set()
    for verdict in found:
        assert isinstance(verdict, Accepted)
        lints |= {warning.rule.value for warning in verdict.warnings}
    if how == "lint":
        assert lints == {what}
        return
    assert how == "fails"
    assert not lints
    outcome = run(name, "twin.v3.bpf.o")
    assert not outcome.ok
    assert outcome.findings[0].where.partition(": ")[2].startswith(what)

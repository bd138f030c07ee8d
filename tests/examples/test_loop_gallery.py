"""Gallery programs of the merged ABI: each is accepted without a warning and does what its scenario
says on both rings and by both engines; its broken twin is caught by name."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from pybpfvm.scenario import Outcome, parse_bytes, run_scenario
from pybpfvm.session.hostring import BackendName
from pybpfvm.session.judging import JudgeRequest, judge_case, read_cases
from pybpfvm.uring_backend.faults import parse_faults
from pybpfvm.uring_backend.loop.shape import parse_setup, shape_of
from pybpfvm.verifier.verdict import Accepted
from tests.support.session_ring import SIM_AND_KERNEL, need_backend

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TWINS: dict[str, dict[str, str]] = {
    name: caught
    for name, caught in tomllib.loads((EXAMPLES / "twins.toml").read_text()).items()
    if name.startswith("loop_")
}
GALLERY = sorted(path.parent.name for path in EXAMPLES.glob("loop_*/twin.bpf.c"))
PROFILES = ("loop-7.1", "loop-7.2")
# The ring of the scenarios.
RING = shape_of(*parse_setup("entries=8,cq_entries=16,mem=8192"))


def run(
    name: str,
    backend: BackendName = "sim",
    engine: str = "auto",
    faults: str | None = None,
    globals: str = "",
) -> Outcome:
    """The scenario; `globals` in place of the values that it expects of variables."""
    path = EXAMPLES / name / "scenario.toml"
    head, expect, tail = path.read_text().partition("\n[expect]\n")
    if globals:
        tail = re.sub(r"^globals = .*$", f"globals = {globals}", tail, flags=re.MULTILINE)
    scenario = parse_bytes((head + expect + tail).encode(), path.name, path.parent)
    planned = None if faults is None else parse_faults(faults)
    return run_scenario(scenario, backend=backend, engine=engine, faults=planned)


def warned(name: str, object_name: str, abi: str) -> set[str]:
    """The rules of the warnings, without a ring and with the scenario's; the program is
    accepted."""
    request = JudgeRequest(abi=abi, constants={"cq_entries": "16"})
    found = read_cases(EXAMPLES / name / object_name, request)
    rules = set()
    for ring in (None, RING):
        (case,) = found.cases
        verdict = judge_case(found.obj, case, JudgeRequest(ring=ring))
        assert isinstance(verdict, Accepted)
        rules |= {warning.rule.value for warning in verdict.warnings}
    return rules


def test_every_twin_has_a_row_and_a_page() -> None:
    assert sorted(TWINS) == GALLERY
    assert len(GALLERY) == 3
    index = (EXAMPLES / "README.md").read_text()
    for name, caught in TWINS.items():
        assert f"| [{name}]({name}) |" in index
        assert f"| lint `{caught['lint']}` |" in index
        assert f"names it `{caught['lint']}`" in (EXAMPLES / name / "README.md").read_text()


@pytest.mark.parametrize("engine", ["interp", "auto"])
@pytest.mark.parametrize("backend", SIM_AND_KERNEL)
@pytest.mark.parametrize("name", GALLERY)
def test_it_does_what_its_scenario_says(name: str, backend: BackendName, engine: str) -> None:
    need_backend(backend)
    outcome = run(name, backend, engine)
    assert (outcome.findings, outcome.stopped, outcome.exit_code) == ((), None, 0)


@pytest.mark.parametrize("abi", PROFILES)
@pytest.mark.parametrize("name", GALLERY)
def test_it_is_accepted_without_a_warning(name: str, abi: str) -> None:
    assert warned(name, "prog.bpf.o", abi) == set()


@pytest.mark.parametrize("abi", PROFILES)
@pytest.mark.parametrize("name", GALLERY)
def test_its_twin_is_caught_by_name(name: str, abi: str) -> None:
    assert warned(name, "twin.bpf.o", abi) == {TWINS[name]["lint"]}


@pytest.mark.parametrize(
    ("plan", "left"),
    [
        ("READ#2=EINTR,READ#5=short:100,READ#9=ENOMEM", "retries = 2, bytes = 164000, error = 0"),
        # The last block is read once and tried again three times.
        (",".join(f"READ#{41 + n}=EINTR" for n in range(4)), "retries = 3, error = -4"),
        ("READ#3=EIO", "retries = 0, error = -5"),
    ],
)
def test_reads_are_tried_again_and_go_on(plan: str, left: str) -> None:
    outcome = run("loop_queue_depth", faults=plan, globals=f"{{ in_flight = 0, {left} }}")
    assert len(outcome.injected) == len(plan.split(","))
    assert not [one for one in outcome.findings if "globals" in one.where]
    assert outcome.stopped is None


@pytest.mark.parametrize(
    ("plan", "error"), [("READ#3=EIO", -5), ("READ#3=short:100", -5), ("READ#7=EINTR", -4)]
)
def test_a_block_that_can_not_be_read_makes_no_sum(plan: str, error: int) -> None:
    left = f"{{ error = {error}, in_flight = 0, busy = 0 }}"
    outcome = run("loop_checksum", faults=plan, globals=left)
    assert (outcome.findings, outcome.stopped) == ((), None)


def test_the_server_outlives_connections_that_break() -> None:
    outcome = run("loop_echo", faults="SEND#1=reset", globals="{ served = 5, error = 0 }")
    assert not [one for one in outcome.findings if "globals" in one.where]
    assert [str(fault) for fault in outcome.injected] == ["SEND#1=reset"]

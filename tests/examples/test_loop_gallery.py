"""Gallery programs of the merged ABI: each is accepted without a warning and does what its scenario
says on both rings and by both engines; its broken twin is caught by name."""

from __future__ import annotations

import re

import pytest

from pybpfvm.scenario import Outcome, parse_bytes, run_scenario
from pybpfvm.session.hostring import BackendName
from pybpfvm.session.judging import JudgeRequest, judge_case, read_cases
from pybpfvm.uring_backend.faults import parse_faults
from pybpfvm.uring_backend.loop.shape import parse_setup, shape_of
from pybpfvm.verifier.verdict import Accepted, Rejected
from tests.support.example_hosts import EXAMPLES
from tests.support.example_hosts import TWINS as ALL_TWINS
from tests.support.session_ring import SIM_AND_KERNEL, need_backend

TWINS = {name: caught for name, caught in ALL_TWINS.items() if name.startswith("loop_")}
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
    object_name: str = "prog.bpf.o",
) -> Outcome:
    """The scenario; `globals` in place of the values that it expects of variables."""
    path = EXAMPLES / name / "scenario.toml"
    head, expect, tail = path.read_text().partition("\n[expect]\n")
    if globals:
        tail = re.sub(r"^globals = .*$", f"globals = {globals}", tail, flags=re.MULTILINE)
    scenario = parse_bytes((head + expect + tail).encode(), path.name, path.parent)
    planned = None if faults is None else parse_faults(faults)
    return run_scenario(
        scenario,
        object_path=path.with_name(object_name),
        backend=backend,
        engine=engine,
        faults=planned,
    )


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
    assert len(GALLERY) == 15
    index = (EXAMPLES / "README.md").read_text()
    for name, caught in TWINS.items():
        ((how, what),) = caught.items()
        told = "its scenario" if how == "fails" else f"{how} `{what}`"
        row = next(line for line in index.splitlines() if f"| [{name}]({name}) |" in line)
        assert row.endswith(f"| {told} |")
        words = f"fails at `{what}`" if how == "fails" else f"names it `{what}`"
        assert words in (EXAMPLES / name / "README.md").read_text()


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
    ((how, what),) = TWINS[name].items()
    if how == "rule":
        request = JudgeRequest(abi=abi, constants={"cq_entries": "16"})
        found = read_cases(EXAMPLES / name / "twin.bpf.o", request)
        verdict = judge_case(found.obj, found.cases[0], request)
        assert isinstance(verdict, Rejected)
        assert {error.rule.value for error in verdict.errors} == {what}
        return
    warnings = warned(name, "twin.bpf.o", abi)
    if how == "lint":
        assert warnings == {what}
        return
    assert how == "fails"
    assert not warnings
    outcome = run(name, object_name="twin.bpf.o")
    assert not outcome.ok
    assert outcome.findings[0].where.partition(": ")[2] == what


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


@pytest.mark.parametrize(
    ("plan", "left"),
    [
        ("FSYNC#2=EIO", "written = 8, committed = 4, syncs = 2, group = 4, error = -5"),
        ("WRITE#6=ENOSPC", "written = 7, committed = 4, syncs = 1, group = 4, error = -28"),
        ("WRITE#1=short:7", "written = 3, committed = 0, syncs = 0, group = 4, error = -5"),
    ],
)
def test_what_is_not_on_the_disk_is_not_committed(plan: str, left: str) -> None:
    outcome = run("loop_group_commit", faults=plan, globals=f"{{ {left} }}")
    assert not [one for one in outcome.findings if "globals" in one.where]
    assert outcome.stopped is None


def test_a_proxy_sends_the_rest_of_what_was_cut_short() -> None:
    outcome = run("loop_proxy", faults="SEND#1=short:3,SEND#4=short:100")
    assert (outcome.findings, outcome.stopped, len(outcome.injected)) == ((), None, 2)


def test_a_line_too_many_ends_the_splitting() -> None:
    path = EXAMPLES / "loop_lines" / "scenario.toml"
    text = path.read_text().partition("[expect]")[0].replace("one\\n\\n", "\\n" * 20)
    text += "[expect]\nglobals = { count = 16, error = -28 }\n"
    outcome = run_scenario(parse_bytes(text.encode(), path.name, path.parent))
    assert (outcome.findings, outcome.stopped) == ((), None)

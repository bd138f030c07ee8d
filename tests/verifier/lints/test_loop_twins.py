"""Lints of rings with a loop: each warns of its bad twin, and of nothing else anywhere."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from pybpfvm.session.judging import JudgeRequest, ObjectCases, judge_case, read_cases
from pybpfvm.uring_backend.abi import SETUP_DEFER_TASKRUN, SETUP_IOPOLL, SETUP_SQ_REWIND
from pybpfvm.uring_backend.loop.shape import RingShape, parse_setup, shape_of
from pybpfvm.verifier.verdict import LINTS, Accepted, Kind, Rule

ROOT = Path(__file__).parents[3]
TWINS = "tests/data/lints/loop.bpf.o"
IDS = sorted((rule.value for rule in LINTS), key=len, reverse=True)
SETUP, _ = parse_setup("entries=8,cq_entries=16")
RING = shape_of(SETUP)
PLAIN = replace(RING, flags=RING.flags & ~SETUP_SQ_REWIND)
PROFILES = ("loop-7.1", "loop-7.2")
OF_LOOPS = {
    Rule.RING_OWNER,
    Rule.HEAD_STALE,
    Rule.CQ_MASK,
    Rule.SUBMIT_COUNT,
    Rule.RING_REGION,
    Rule.RING_SETUP,
    Rule.WAIT_NEVER,
    Rule.WAIT_STALE,
    Rule.WAIT_NO_PROGRESS,
    Rule.SUBMIT_UNCHECKED,
}


@cache
def loaded(path: str, abi: str, constants: tuple[tuple[str, str], ...] = ()) -> ObjectCases:
    return read_cases(ROOT / path, JudgeRequest(abi=abi, constants=dict(constants)))


def warned(found: ObjectCases, name: str, ring: RingShape | None = None) -> set[Rule]:
    """The rules of all warnings; the program is accepted."""
    (case,) = (case for case in found.cases if case.program.name == name)
    verdict = judge_case(found.obj, case, JudgeRequest(ring=ring))
    assert isinstance(verdict, Accepted), verdict
    for warning in verdict.warnings:
        assert warning.kind is Kind.LINT
        assert warning.message
        assert warning.reason
        assert warning.suggestion
    return {warning.rule for warning in verdict.warnings}


def rule_of(program: str) -> Rule:
    name = program.partition("_")[2].replace("_", "-")
    return Rule(next(one for one in IDS if re.match(rf"{one}(-|$)", name)))


def shape_for(program: str) -> RingShape | None:
    if program.endswith("of_the_plain_ring"):
        return PLAIN
    return RING if "of_the_ring" in program else None


NAMES = [program.name for program in loaded(TWINS, "loop-7.2").obj.programs]


@pytest.mark.parametrize("abi", PROFILES)
@pytest.mark.parametrize("name", NAMES)
def test_a_lint_is_about_the_bad_twin_only(name: str, abi: str) -> None:
    found = warned(loaded(TWINS, abi), name, shape_for(name))
    assert found == ({rule_of(name)} if name.startswith("bad_") else set())


@pytest.mark.parametrize("name", [name for name in NAMES if "of_the_" in name and "ring" in name])
def test_what_is_about_a_ring_is_not_said_without(name: str) -> None:
    if shape_for(name) is not None:
        assert warned(loaded(TWINS, "loop-7.2"), name) == set()


def test_every_lint_of_loops_has_twins() -> None:
    assert {rule_of(name) for name in NAMES if name.startswith("bad_")} == OF_LOOPS
    for name in NAMES:
        assert name.replace("bad_", "good_") in NAMES
        assert name.replace("good_", "bad_") in NAMES


DIALECTS = {"loop-2025-06": "2506", "loop-2025-11": "2511", "loop-timeout": "2606"}
_OF_ALL = {Rule.WAIT_NEVER, Rule.SUBMIT_COUNT, Rule.SUBMIT_UNCHECKED}
_OF_REGIONS = {Rule.RING_REGION, Rule.RING_OWNER, Rule.HEAD_STALE, Rule.CQ_MASK}
OF_DIALECTS = {
    "loop-2025-06": _OF_ALL,
    "loop-2025-11": _OF_ALL | _OF_REGIONS,
    "loop-timeout": _OF_ALL | _OF_REGIONS | {Rule.WAIT_NO_PROGRESS, Rule.WAIT_STALE},
}


@pytest.mark.parametrize("abi", DIALECTS)
def test_lints_of_the_dialects(abi: str) -> None:
    found = loaded(f"tests/data/lints/loop_dialect.{DIALECTS[abi]}.bpf.o", abi)
    names = [case.program.name for case in found.cases]
    for name in names:
        expected = {rule_of(name)} if name.startswith("bad_") else set()
        assert warned(found, name) == expected, name
        if not name.startswith("ok_"):
            assert {name.replace("bad_", "good_"), name.replace("good_", "bad_")} <= set(names)
    assert {rule_of(name) for name in names if name.startswith("bad_")} == OF_DIALECTS[abi]


@pytest.mark.parametrize("name", ["prototype", "june", "november", "timeout", "gate"])
def test_programs_of_the_dialects_are_not_warned_of_for_nothing(name: str) -> None:
    """What the test programs of each dialect do on purpose, and nothing else."""
    found = read_cases(ROOT / f"tests/data/dialects/{name}.bpf.o", JudgeRequest())
    told = {
        (case.program.name, warning.rule)
        for case in found.cases
        for warning in judge_case(found.obj, case, JudgeRequest()).warnings
    }
    assert told == ON_PURPOSE[name]


ON_PURPOSE: dict[str, set[tuple[str, Rule]]] = {
    "prototype": set(),
    "june": {("no_sleep", Rule.SUBMIT_UNCHECKED)},
    "november": {("regions", Rule.RING_REGION)},
    "timeout": set(),
    "gate": set(),
}


@pytest.mark.parametrize(
    "flags", [RING.flags & ~SETUP_DEFER_TASKRUN, RING.flags | SETUP_IOPOLL], ids=["ipi", "iopoll"]
)
def test_rings_that_take_no_program(flags: int) -> None:
    found = loaded(TWINS, "loop-7.2")
    ring = replace(RING, flags=flags)
    assert warned(found, "good_submit_count", ring) == {Rule.RING_SETUP}


@pytest.mark.parametrize("abi", PROFILES)
@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("examples/loop_*/prog.bpf.o")), ids=lambda path: path.parent.name
)
def test_the_examples_have_no_warnings(path: Path, abi: str) -> None:
    sizes = (("cq_entries", "16"), *((("sq_entries", "8"),) if "nops" in str(path) else ()))
    found = loaded(str(path.relative_to(ROOT)), abi, sizes)
    for case in found.cases:
        for ring in (None, replace(RING, mem_bytes=8192)):
            assert warned(found, case.program.name, ring) == set()

"""Judging objects: which profile each program is judged by, and what is made of a verdict."""

from __future__ import annotations

from pathlib import Path

import pytest

from pybpfvm.errors import InputError
from pybpfvm.session.judging import JudgeRequest, judge_case, read_cases
from pybpfvm.verifier.verdict import Accepted, Inconclusive, Kind, Rejected

ROOT = Path(__file__).parents[2]
MIXED = ROOT / "tests/ordinary/missing.bpf.o"
REQUEST = JudgeRequest()


def test_each_program_is_judged_by_its_own_type() -> None:
    found = read_cases(MIXED, REQUEST)
    types = {case.program.name: case.profile and case.profile.name for case in found.cases}
    assert types["past_the_end"] == "xdp"
    assert types["writes"] == "cgroup_skb"
    verdicts = {case.program.name: judge_case(found.obj, case, REQUEST) for case in found.cases}
    assert isinstance(verdicts["past_the_end"], Rejected)


def test_an_ambiguous_abi_gives_the_verdict_that_all_candidates_agree_on() -> None:
    found = read_cases(ROOT / "examples/01_hello/prog.v3.bpf.o", REQUEST)
    (case,) = found.cases
    assert len(case.profiles) > 1
    assert isinstance(judge_case(found.obj, case, REQUEST), Accepted)


def test_a_program_of_no_known_type_is_inconclusive() -> None:
    found = read_cases(ROOT / "tests/acceptance/load_checks.v3.bpf.o", REQUEST)
    verdict = judge_case(found.obj, found.cases[0], REQUEST)
    assert isinstance(verdict, Inconclusive)
    assert verdict.finding.kind is Kind.UNSUPPORTED
    assert "--abi" in verdict.finding.suggestion


def test_a_type_that_is_named_wins() -> None:
    found = read_cases(MIXED, JudgeRequest(program_type="xdp"))
    assert {case.profile and case.profile.name for case in found.cases} == {"xdp"}


def test_nothing_is_unsafe_without_a_witness() -> None:
    found = read_cases(MIXED, REQUEST)
    for case in found.cases:
        verdict = judge_case(found.obj, case, REQUEST)
        for error in getattr(verdict, "errors", ()):
            assert error.kind is not Kind.UNSAFE or error.witness is not None


def test_an_unknown_kernel_is_an_input_error() -> None:
    with pytest.raises(InputError, match=r"6\.18"):
        _ = JudgeRequest(kernel="4.4").rules

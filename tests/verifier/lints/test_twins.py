"""Each lint warns of its bad twin, of nothing else there, and of nothing in the good one."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from pybpfvm.objectfile import read_object
from pybpfvm.profiles import profile_named
from pybpfvm.program import BpfObject
from pybpfvm.session.judging import JudgeRequest, judge
from pybpfvm.verifier.usermemory.contract import Contract
from pybpfvm.verifier.usermemory.contract_parse import parse_contract
from pybpfvm.verifier.verdict import Accepted, Kind, Rejected, Rule

ROOT = Path(__file__).parents[3]
DATA = ROOT / "tests" / "data" / "lints"
IDS = sorted((rule.value for rule in Rule), key=len, reverse=True)
FIRST_LINT = list(Rule).index(Rule.USER_UNPROVEN)
LAST_LINT = list(Rule).index(Rule.SQE_BUFFER)
LINTS = list(Rule)[FIRST_LINT : LAST_LINT + 1]


@cache
def loaded(path: str) -> BpfObject:
    return read_object(ROOT / path)


def judged(path: str, program: str, contract: Contract | None) -> tuple[set[Rule], list[int]]:
    """Rules of all errors and warnings of one program; the verdict is in step with them."""
    obj = loaded(path)
    profile = profile_named(f"iouring-{path.split('.')[-3]}")
    request = JudgeRequest(contract=contract)
    verdict = judge(obj.program(program), obj, profile, request)
    assert isinstance(verdict, Accepted | Rejected), verdict
    errors = verdict.errors if isinstance(verdict, Rejected) else ()
    for warning in verdict.warnings:
        assert warning.kind is Kind.LINT
        assert warning.reason
        assert warning.suggestion
        assert "\n" not in warning.message
    assert all(error.rule is Rule.USER_RANGE for error in errors), errors
    found = (*errors, *verdict.warnings)
    return {one.rule for one in found}, [one.pc for one in found]


def twins() -> Iterator[tuple[str, str]]:
    for path in sorted(DATA.glob("*.bpf.o")):
        if path.name.startswith(("behaviours", "loop")):
            continue
        short = str(path.relative_to(ROOT))
        for program in loaded(short).programs:
            yield short, program.name


def rule_of(program: str) -> Rule:
    """The rule that the name of a twin begins with."""
    name = program.partition("_")[2].replace("_", "-")
    return Rule(next(one for one in IDS if re.match(rf"{one}(-|$)", name)))


def contract_of_twins(obj: BpfObject) -> Contract:
    table = tomllib.loads((DATA / "twins.toml").read_text())
    each = table["programs"].pop("@")
    table["programs"] = {program.name: each for program in obj.programs}
    return parse_contract(table, obj, where="twins.toml")


@pytest.mark.parametrize(("path", "program"), list(twins()), ids=lambda value: str(value)[-40:])
def test_a_lint_is_about_the_bad_twin_only(path: str, program: str) -> None:
    first = "first_posting" in path
    contract = None if first else contract_of_twins(loaded(path))
    found, _ = judged(path, program, contract)
    expected = {rule_of(program)} if program.startswith("bad_") else set()
    assert found == expected


def test_every_lint_has_twins() -> None:
    names = {program for _, program in twins()}
    bad = {rule_of(name) for name in names if name.startswith("bad_")}
    assert bad == {*LINTS, Rule.USER_RANGE}
    for name in names:
        assert name.replace("bad_", "good_") in names
        assert name.replace("good_", "bad_") in names


BROKEN = {
    "test": Rule.WAIT_NO_PROGRESS,
    "counting": Rule.POINTER_EXPOSED,
    "pingpong": Rule.CQ_INDEX,
    "write_file": Rule.FILE_OFFSET,
}


@pytest.mark.parametrize("version", ["v2", "v3"])
@pytest.mark.parametrize("program", list(BROKEN))
def test_a_broken_behaviour_breaks_its_rule_alone(version: str, program: str) -> None:
    path = f"tests/data/lints/behaviours.{version}.bpf.o"
    text = (ROOT / "tests/acceptance/contract.toml").read_text()
    found, _ = judged(path, program, parse_contract(text, loaded(path)))
    assert found == {BROKEN[program]}


def declared() -> Iterator[tuple[str, str]]:
    for path in sorted(ROOT.glob("examples/*/prog.*bpf.o")):
        if path.parent.name == "09_sink" and ".v2." in path.name:
            continue  # the same code as for v3, and by far the longest
        if path.parent.name.startswith("loop_"):
            continue  # these lints are for BPF requests
        yield str(path.relative_to(ROOT)), str(path.with_name("contract.toml").relative_to(ROOT))
    for path in sorted(ROOT.glob("tests/acceptance/tables.*.bpf.o")):
        named = [part for part in path.name.split(".") if part.startswith("v")]
        if path.name == f"tables.{named[0]}.bpf.o":
            yield str(path.relative_to(ROOT)), "tests/acceptance/contract.toml"


@pytest.mark.parametrize(("path", "contract"), list(declared()))
def test_what_is_declared_properly_has_no_warnings(path: str, contract: str) -> None:
    obj = loaded(path)
    promised = parse_contract((ROOT / contract).read_text(), obj, where=contract)
    for program in obj.programs:
        found, pcs = judged(path, program.name, promised)
        assert not found, (program.name, found, pcs)


@pytest.mark.parametrize(
    "path", [path for path, _ in declared() if ".v3." in path and "09_sink" not in path]
)
def test_lints_change_no_verdict(path: str) -> None:
    """Without a contract all are accepted; warnings may be there, for nothing is declared."""
    obj = loaded(path)
    profile = profile_named(f"iouring-{path.split('.')[-3]}")
    for program in obj.programs:
        assert isinstance(judge(program, obj, profile, JudgeRequest()), Accepted)

"""The corpus of tests/data/verifier: the running kernel confirms it, then we are judged by it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from itertools import groupby

import pytest

from pybpfvm import bpfsys
from pybpfvm.fuzz.kernel_verdicts import KernelVerifier
from pybpfvm.isa.disasm import format_program
from pybpfvm.verifier.kernelobjects.attach import is_btf_typed
from pybpfvm.verifier.verdict import Accepted, Inconclusive, Kind, Rejected, Verdict
from pybpfvm.verifier.verify import Options, verify
from tests.support.verifier_btf import BTF
from tests.support.verifier_cases import Case, common_maps, corpus

CASES = corpus()
ROWS = 29
BUDGET_INSNS = 100_000  # cases that never end are given up sooner than by default


@pytest.fixture(scope="module")
def kernel() -> Iterator[KernelVerifier]:
    reason = bpfsys.available()
    if reason is not None:
        pytest.skip(reason)
    with KernelVerifier(common_maps(), btf=BTF) as made:
        yield made


@pytest.mark.kernel_bpf
@pytest.mark.parametrize("file", sorted({case.file for case in CASES}))
def test_the_kernel_says_the_same(kernel: KernelVerifier, file: str) -> None:
    wrong = []
    asked = 0
    for case in CASES:
        if case.file != file or not case.kernel.verdict:
            continue
        asked += 1
        said = kernel.judge(
            case.program.insns,
            case.profile,
            section=case.program.section,
            subprogs=case.program.subprogs,
            license=case.program.license,
            caps=case.caps,
        )
        assert said is not None
        if said.errno == errno.EPERM and is_btf_typed(case.profile):
            asked -= 1  # some machines let nobody attach to functions
            continue
        verdict = "accept" if said.accepted else "reject"
        places = case.kernel.pcs
        if verdict != case.kernel.verdict or (
            not said.accepted and places and said.pc is not None and said.pc not in places
        ):
            wrong.append(
                f"{case.name}: {case.kernel.verdict} at {places} expected, "
                f"the kernel says {verdict} at {said.pc}: {said.message}"
            )
    if asked == 0:
        pytest.skip("no case in this file is of a type that the running kernel has")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_verdict(case: Case) -> None:
    options = Options(budget_insns=BUDGET_INSNS, caps=case.caps)
    verdict = verify(case.program, case.object, case.profile, options=options)
    problem = disagreement(case, verdict)
    assert not problem, "\n".join((problem, *format_program(case.program.insns, style="kernel")))


@pytest.mark.parametrize(
    ("id_", "probes"),
    [
        ("kptrs: untrusted, compared and read", True),
        ("kptrs: the program's own object, read and written where RCU keeps it", True),
        ("kptrs: NULL is stored to an untrusted pointer", False),
        ("objects: a pointer to numbers that was stored is read, probed", True),
        ("btf: memory that is no struct is probed", True),
        ("ctx: register of a kprobe", False),
    ],
)
def test_what_only_kernels_can_look_through_is_told(id_: str, probes: bool) -> None:
    (case,) = (one for one in CASES if one.id == id_)
    verdict = verify(case.program, case.object, case.profile)
    assert isinstance(verdict, Accepted)
    assert verdict.probes is probes


def disagreement(case: Case, verdict: Verdict) -> str:
    """What is wrong with the verdict, "" if nothing is."""
    expected = case.expected
    if expected.verdict == "accept":
        return "" if isinstance(verdict, Accepted) else f"not accepted: {first(verdict)}"
    if expected.verdict == "unsupported":
        if unsupported(verdict):
            return ""
        return f"unsupported ({expected.feature}) expected: {first(verdict)}"
    if expected.kind is Kind.LIMIT and isinstance(verdict, Inconclusive):
        return "" if verdict.finding.kind is Kind.LIMIT else f"limit expected: {first(verdict)}"
    if not isinstance(verdict, Rejected):
        return f"rejection expected: {first(verdict)}"
    error = verdict.errors[0]
    if error.rule not in expected.rules:
        names = ", ".join(rule.value for rule in expected.rules)
        return f"{names} expected: {first(verdict)}"
    if expected.pcs and error.pc not in expected.pcs:
        return f"at {expected.pcs} expected: {first(verdict)}"
    # A verifier may fail to find the inputs that prove harm; it must not claim any that there
    # are not, nor take a policy for harm or the other way round.
    allowed = {expected.kind, Kind.UNPROVEN} if expected.kind is Kind.UNSAFE else {expected.kind}
    return "" if error.kind in allowed else f"{expected.kind} expected: {first(verdict)}"


def unsupported(verdict: Verdict) -> bool:
    """Whether the verdict is that a feature is missing."""
    return isinstance(verdict, Inconclusive) and verdict.finding.kind is Kind.UNSUPPORTED


def first(verdict: Verdict) -> str:
    """The verdict's first finding in one line."""
    if isinstance(verdict, Accepted):
        return "accepted"
    finding = verdict.errors[0] if isinstance(verdict, Rejected) else verdict.finding
    name = type(verdict).__name__.lower()
    return f"{name} at {finding.pc}: {finding.rule.value}, {finding.kind.value}: {finding.message}"


def test_every_row_of_part_a_has_a_case() -> None:
    rows = {case.row for case in CASES}
    assert not [number for number in range(1, ROWS + 1) if f"A{number}" not in rows]


def test_rows_have_a_refused_program_and_an_accepted_twin() -> None:
    # That a loop does not end has no twin but the loops of loops.toml.
    single = {"C12", "B subprogram identity", "B does not end"}
    with_row = sorted((case for case in CASES if case.row), key=lambda case: case.row)
    for row, cases in groupby(with_row, key=lambda case: case.row):
        verdicts = {case.kernel.verdict or case.expected.verdict for case in cases}
        assert row in single or verdicts == {"accept", "reject"}, row


def test_corpus_is_large_and_balanced() -> None:
    accepted = sum(case.expected.verdict == "accept" for case in CASES)
    assert len(CASES) >= 150
    assert 0.3 < accepted / len(CASES) < 0.7

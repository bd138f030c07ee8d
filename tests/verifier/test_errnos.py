"""Errnos of refused programs: the running kernel gives them for the corpus."""

from __future__ import annotations

import errno
from collections import Counter, defaultdict

import pytest

from pybpfvm import bpfsys
from pybpfvm.fuzz.kernel_verdicts import KernelVerifier
from pybpfvm.verifier.errnos import errno_of
from pybpfvm.verifier.kernelobjects.attach import is_btf_typed
from pybpfvm.verifier.verdict import Rejected, Rule
from pybpfvm.verifier.verify import Options, verify
from tests.support.verifier_btf import BTF
from tests.support.verifier_cases import common_maps, corpus

BUDGET_INSNS = 100_000


@pytest.mark.kernel_bpf
def test_the_kernel_gives_these_most_often() -> None:
    reason = bpfsys.available()
    if reason is not None:
        pytest.skip(reason)
    given: dict[Rule, Counter[int]] = defaultdict(Counter)
    with KernelVerifier(common_maps(), btf=BTF) as kernel:
        for case in corpus():
            # Objects with BTF arguments may be refused for where they would be attached.
            if case.kernel.verdict != "reject" or is_btf_typed(case.profile):
                continue
            options = Options(budget_insns=BUDGET_INSNS, caps=case.caps)
            verdict = verify(case.program, case.object, case.profile, options=options)
            said = kernel.judge(
                case.program.insns,
                case.profile,
                section=case.program.section,
                subprogs=case.program.subprogs,
                license=case.program.license,
                log=False,
                caps=case.caps,
            )
            if isinstance(verdict, Rejected) and said is not None and not said.accepted:
                given[verdict.errors[0].rule][said.errno] += 1
    assert len(given) > 25
    wrong = [
        f"{rule.value}: {errno_of(rule)}, the kernel says {dict(counts)}"
        for rule, counts in given.items()
        if counts[errno_of(rule)] < max(counts.values())
    ]
    assert not wrong, "\n".join(wrong)


def test_rules_that_the_abi_speaks_of() -> None:
    assert errno_of(Rule.RETURN_VALUE) == errno.EINVAL
    assert errno_of(Rule.UNKNOWN_HELPER) == errno.EINVAL
    assert errno_of(Rule.CTX_ACCESS) == errno.EACCES

"""Calls of every helper from every program type: we accept nothing that the running kernel refuses.

PYBPFVM_ORACLE_CALLS is the share of all calls that are tried (0.002 by default; 1 is all of them,
some hundred thousand), PYBPFVM_ORACLE_SEED chooses them.
"""

from __future__ import annotations

import os
from collections import Counter
from random import Random

import pytest

from pybpfvm import bpfsys
from pybpfvm.fuzz.kernel_verdicts import Comparison, KernelVerifier, compared
from pybpfvm.helpers.table import HELPERS
from pybpfvm.program import BpfObject, MapSpec, Program
from pybpfvm.verifier.verdict import Inconclusive, Kind
from pybpfvm.verifier.verify import verify
from tests.support.helper_calls import Call, Caller, maps
from tests.support.kernel_types import Variant, variants

SHARE = float(os.environ.get("PYBPFVM_ORACLE_CALLS", "0.002"))
SEED = int(os.environ.get("PYBPFVM_ORACLE_SEED", "1"))
# What only a kernel with few CPUs accepts: it takes its own number of them for the limit.
_BY_CPUS = "get_smp_processor_id"


@pytest.fixture(autouse=True)
def kernel() -> None:
    reason = bpfsys.available()
    if reason is not None:
        pytest.skip(reason)


def judged(
    oracle: KernelVerifier, variant: Variant, call: Call, specs: tuple[MapSpec, ...]
) -> tuple[Comparison, bool]:
    """How our verdict stands to the kernel's, and whether the kernel accepted."""
    insns = call.insns
    said = oracle.judge(insns, variant.profile, section=variant.section, log=False)
    assert said is not None
    program = Program("call", variant.section, insns, license="GPL")
    ours = verify(program, BpfObject("", "", (program,), specs), variant.profile)
    if isinstance(ours, Inconclusive):
        assert ours.finding.kind is Kind.UNSUPPORTED
    return compared(said, ours), said.accepted


@pytest.mark.kernel_bpf
def test_calls_are_judged_alike() -> None:
    random = Random(SEED)
    specs = maps()
    tally: Counter[Comparison] = Counter()
    wrong = []
    accepted = 0
    for variant in variants():
        caller = Caller(variant.profile, specs)
        # Maps of programs and devices belong to the type, and attach type, that used them first.
        with KernelVerifier(specs) as oracle:
            for name in variant.profile.helpers.values():
                for call in caller.calls(name, lambda: random.random() < SHARE):
                    outcome, took = judged(oracle, variant, call, specs)
                    tally[outcome] += 1
                    accepted += took
                    agreed = outcome in (Comparison.AGREED, Comparison.INCONCLUSIVE)
                    if not agreed and name != _BY_CPUS:
                        wrong.append(f"{outcome.value}: {call.what} ({variant.id})")
    print(f"seed {SEED}: {dict(tally)}, the kernel accepted {accepted}")
    assert not wrong, "\n".join((f"seed {SEED}", *wrong))
    assert tally[Comparison.AGREED] > 100
    assert 0.1 < accepted / tally.total() < 0.7
    assert tally[Comparison.INCONCLUSIVE] < 0.15 * tally.total()


@pytest.mark.kernel_bpf
def test_every_helper_is_called() -> None:
    """Each helper that any type is offered, but for those that call back."""
    called = set()
    specs = maps()
    for variant in variants():
        caller = Caller(variant.profile, specs)
        for name in variant.profile.helpers.values():
            if next(caller.calls(name), None) is not None:
                called.add(name)
    offered = {name for variant in variants() for name in variant.profile.helpers.values()}
    calling_back = {name for name in offered if "PTR_TO_FUNC" in str(HELPERS[name].args)}
    assert called == offered - calling_back
    assert len(calling_back) == 5

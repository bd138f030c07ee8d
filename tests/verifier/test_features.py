"""Random programs of single features, judged by the running kernel and by us.

PYBPFVM_ORACLE_FEATURES programs of each (40), from seed PYBPFVM_ORACLE_SEED (0).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from random import Random

import pytest

from pybpfvm import bpfsys
from pybpfvm.fuzz.kernel_verdicts import Comparison, KernelVerifier, compared
from pybpfvm.verifier.verify import Options, verify
from tests.support.verifier_btf import BTF
from tests.support.verifier_cases import common_maps, program_of
from tests.support.verifier_features import FEATURES

SEED = int(os.environ.get("PYBPFVM_ORACLE_SEED", "0"))
COUNT = int(os.environ.get("PYBPFVM_ORACLE_FEATURES", "40"))
BUDGET_INSNS = 20_000  # for both: programs that the kernel follows further are left out


@pytest.fixture(scope="module")
def kernel() -> Iterator[KernelVerifier]:
    reason = bpfsys.available()
    if reason is not None:
        pytest.skip(reason)
    with KernelVerifier(common_maps(), btf=BTF) as made:
        yield made


@pytest.mark.kernel_bpf
@pytest.mark.parametrize("feature", sorted(FEATURES))
def test_the_kernel_judges_the_same(kernel: KernelVerifier, feature: str) -> None:
    counts: Counter[Comparison] = Counter()
    accepted, wrong = 0, []
    for seed in range(SEED, SEED + COUNT):
        text = FEATURES[feature](Random(seed))
        program, obj, profile = program_of(text, where=f"{feature}, seed {seed}")
        ours = verify(program, obj, profile, options=Options(budget_insns=BUDGET_INSNS))
        if ours.stats.processed_insns > BUDGET_INSNS:
            continue
        said = kernel.judge(program.insns, profile, subprogs=program.subprogs)
        assert said is not None
        outcome = compared(said, ours)
        counts[outcome] += 1
        accepted += said.accepted
        if outcome is not Comparison.AGREED:
            wrong.append(f"seed {seed}: {outcome.value}, kernel: {said.message or 'accepted'}")
    assert not wrong, f"{feature}: {dict(counts)}\n" + "\n".join(wrong)
    # Programs of one verdict only would show nothing.
    assert 0.1 * COUNT < accepted < 0.95 * sum(counts.values())

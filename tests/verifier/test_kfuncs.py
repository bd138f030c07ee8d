"""Every kfunc that the running kernel's BTF offers, called with arguments made after its prototype
and judged by the kernel and by us. PYBPFVM_ORACLE_SEED is the first seed, PYBPFVM_KFUNC_PROGRAMS
the number of programs."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace

import pytest

from pybpfvm import bpfsys
from pybpfvm.btf.types import Btf
from pybpfvm.fuzz.kernel_verdicts import Comparison, KernelVerifier, compared, same_place
from pybpfvm.loader.target import kernel_btf
from pybpfvm.verifier.kernelobjects import kfuncs
from pybpfvm.verifier.kernelobjects.kfunc_flags import KFUNCS, Kf
from pybpfvm.verifier.resources import iterator
from pybpfvm.verifier.verdict import Inconclusive
from pybpfvm.verifier.verify import verify
from tests.support import kfunc_programs
from tests.support.verifier_btf import BTF
from tests.support.verifier_cases import common_maps

PROGRAMS = int(os.environ.get("PYBPFVM_KFUNC_PROGRAMS", "600"))
FIRST_SEED = int(os.environ.get("PYBPFVM_ORACLE_SEED", "0"))


@pytest.fixture
def btf() -> Btf:
    reason, found = bpfsys.available(), kernel_btf()
    if reason is not None or found is None:
        pytest.skip(reason or "the running kernel shows no BTF")
    return found


@pytest.mark.kernel_bpf
def test_nothing_is_accepted_that_the_kernel_refuses(btf: Btf) -> None:
    names = kfunc_programs.kfuncs(btf)
    counted: Counter[object] = Counter()
    unknown: set[str] = set()
    with KernelVerifier(common_maps(), btf=BTF) as kernel:
        for seed in range(FIRST_SEED, FIRST_SEED + PROGRAMS):
            made = kfunc_programs.generate(seed, btf, names)
            program = made.program
            said = kernel.judge(
                program.insns, made.profile, section=program.section, subprogs=program.subprogs
            )
            assert said is not None
            ours = verify(program, made.object, made.profile)
            relation = compared(said, ours)
            assert relation is not Comparison.LOOSER, f"seed {seed}: {said.message}\n{made.text}"
            if isinstance(ours, Inconclusive):
                unknown.add(made.name)
            else:
                counted["accepted"] += said.accepted
                counted[relation] += 1
                counted[same_place(said, ours)] += 1
    judged = counted[Comparison.AGREED] + counted[Comparison.STRICTER]
    print(counted, sorted(unknown))
    assert counted[Comparison.AGREED] >= 0.98 * judged, counted
    assert counted[True] >= 0.97 * (counted[True] + counted[False]), counted
    assert 0.15 < counted["accepted"] / judged < 0.7
    # Kfuncs of programs of types that can not be loaded here are left: LSM, sessions, struct_ops.
    assert len(unknown) <= len(names) * 0.05, sorted(unknown)


@pytest.mark.kernel_bpf
@pytest.mark.parametrize("flag", [Kf.RCU, Kf.ACQUIRE, Kf.RCU_PROTECTED, Kf.RET_NULL, Kf.SLEEPABLE])
def test_a_flag_that_is_missing_is_noticed(
    btf: Btf, flag: Kf, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = {name: replace(one, flags=one.flags & ~flag) for name, one in KFUNCS.items()}
    for module in (kfuncs, iterator):
        monkeypatch.setattr(module, "KFUNCS", without)
    names = tuple(n for n in kfunc_programs.kfuncs(btf) if n in KFUNCS and KFUNCS[n].flags & flag)
    with KernelVerifier(common_maps(), btf=BTF) as kernel:
        for seed in range(PROGRAMS):
            made = kfunc_programs.generate(seed, btf, names)
            program = made.program
            said = kernel.judge(
                program.insns, made.profile, section=program.section, subprogs=program.subprogs
            )
            assert said is not None
            ours = verify(program, made.object, made.profile)
            if compared(said, ours) in (Comparison.LOOSER, Comparison.STRICTER):
                return
    pytest.fail(f"no program of {PROGRAMS} noticed")

"""Verdicts on the programs of an object, or on generated ones: ours and the running kernel's."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import pytest

from pybpfvm import bpfsys
from pybpfvm.fuzz.kernel_verdicts import Comparison, KernelVerdict, KernelVerifier, compared
from pybpfvm.profiles.base import Profile
from pybpfvm.program import BpfObject, Program
from pybpfvm.session.kernel_object import KernelObject
from pybpfvm.verifier.kernelobjects.attach import is_btf_typed
from pybpfvm.verifier.verdict import Accepted, Rejected, Rule, Verdict
from pybpfvm.verifier.verify import verify
from tests.support.verifier_btf import BTF
from tests.support.verifier_cases import common_maps, program_of


def broken_rule(obj: BpfObject, program: Program, profile: Profile) -> Rule | None:
    """The rule that our verdict names, None for an accepted program. Anything else fails."""
    verdict = verify(program, obj, profile)
    if isinstance(verdict, Accepted):
        return None
    assert isinstance(verdict, Rejected)
    return verdict.errors[0].rule


def kernel_accepts(obj: BpfObject, profile_of: Callable[[Program], Profile]) -> set[str]:
    """The names of the programs that the running kernel takes; skips where it is not asked."""
    _ask_the_kernel()
    found = set()
    with KernelObject(obj) as kernel:
        for program in obj.programs:
            with kernel.load(program, profile_of(program)) as loaded:
                if loaded.accepted:
                    found.add(program.name)
    return found


class Generated(NamedTuple):
    """A generated program: the kernel's verdict on it, ours, and how they stand to each other."""

    seed: int
    kernel: KernelVerdict
    ours: Verdict
    relation: Comparison


def beside_the_kernel(
    text_of: Callable[[int], str],
    seeds: Iterable[int],
    profile: Profile,
    section: str,
    *,
    typed: bool = True,
) -> Iterator[Generated]:
    """Judge the program of each seed, which may name the common maps, after the running kernel did;
    skips where it is not asked. `typed`: its functions have types."""
    _ask_the_kernel()
    with KernelVerifier(common_maps(), btf=BTF) as kernel:
        for seed in seeds:
            program, obj, _ = program_of(
                text_of(seed), where=f"seed {seed}", profile=profile, section=section, typed=typed
            )
            said = kernel.judge(program.insns, profile, section=section, subprogs=program.subprogs)
            assert said is not None
            if said.errno == errno.EPERM and is_btf_typed(profile):
                pytest.skip("this machine lets nobody attach to functions")
            ours = verify(program, obj, profile)
            yield Generated(seed, said, ours, compared(said, ours))


def _ask_the_kernel() -> None:
    reason = bpfsys.available()
    if reason is not None:
        pytest.skip(reason)

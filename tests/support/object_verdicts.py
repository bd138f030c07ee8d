"""Verdicts on the programs of an object, ours and the running kernel's."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pybpfvm import bpfsys
from pybpfvm.profiles.base import Profile
from pybpfvm.program import BpfObject, Program
from pybpfvm.session.kernel_object import KernelObject
from pybpfvm.verifier.verdict import Accepted, Rejected, Rule
from pybpfvm.verifier.verify import verify


def broken_rule(obj: BpfObject, program: Program, profile: Profile) -> Rule | None:
    """The rule that our verdict names, None for an accepted program. Anything else fails."""
    verdict = verify(program, obj, profile)
    if isinstance(verdict, Accepted):
        return None
    assert isinstance(verdict, Rejected)
    return verdict.errors[0].rule


def kernel_accepts(obj: BpfObject, profile_of: Callable[[Program], Profile]) -> set[str]:
    """The names of the programs that the running kernel takes; skips where it is not asked."""
    reason = bpfsys.available()
    if reason is not None:
        pytest.skip(reason)
    found = set()
    with KernelObject(obj) as kernel:
        for program in obj.programs:
            with kernel.load(program, profile_of(program)) as loaded:
                if loaded.accepted:
                    found.add(program.name)
    return found

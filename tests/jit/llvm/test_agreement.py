"""Code that LLVM compiled and the interpreter do the same."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pybpfvm.isa.opcodes import AluOp, AtomicOp, JmpOp
from pybpfvm.jit.llvm import arithmetic
from pybpfvm.jit.options import Checks
from tests.jit.agreement import interpreter, outcome
from tests.jit.llvm.agreement import compared
from tests.support.engine_programs import FAMILIES, generate


@pytest.mark.parametrize("family", FAMILIES)
def test_engines_agree(family: str) -> None:
    runs = dict.fromkeys(Checks, 0)
    for seed in range(3):
        case = generate(seed, family, programs=5)
        wanted = outcome(case, interpreter)
        for checks in Checks:
            count, difference = compared(case, checks, wanted)
            assert difference is None, difference
            runs[checks] += count
    assert runs[Checks.EXACT] > 10


@pytest.mark.parametrize("family", ["branches", "calls", "helpers", "lost", "hostile"])
def test_every_budget_ends_alike(family: str) -> None:
    case = generate(11, family, programs=1)
    case = replace(case, runs=tuple((0, budget) for budget in range(150)))
    _, difference = compared(case, Checks.EXACT, outcome(case, interpreter))
    assert difference is None, difference


def test_every_operation_has_a_meaning() -> None:
    assert set(arithmetic.ALU) == set(AluOp)
    assert set(arithmetic.CONDITION) == set(JmpOp)
    assert set(arithmetic.ATOMIC) == set(AtomicOp) - {AtomicOp.CMPXCHG}

"""Code that LLVM compiled and the interpreter do the same: 1,120 of the campaign's programs, every
budget of some."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pybpfvm.isa.asm import assemble
from pybpfvm.isa.opcodes import AluOp, AtomicOp, JmpOp, Pseudo
from pybpfvm.jit.llvm import arithmetic
from pybpfvm.jit.llvm.engine import LlvmEngine
from pybpfvm.jit.options import Checks
from pybpfvm.program import Program, Subprog
from tests.jit.agreement import interpreter, interpreters, outcome
from tests.jit.campaign import run_chunk
from tests.jit.llvm.agreement import compared
from tests.jit.test_agreement import UNLOADABLE, of_program
from tests.support.engine_programs import FAMILIES, generate
from tests.support.generate import insn
from tests.support.journal import Chunk

SEEDS = range(7)


@pytest.mark.parametrize("family", FAMILIES)
def test_engines_agree(family: str) -> None:
    runs = dict.fromkeys(Checks, 0)
    for seed in SEEDS:
        # What is watched runs on the JIT's templates.
        case = replace(generate(seed, family), hooked=False)
        reference = interpreters()
        wanted = outcome(case, reference)
        for checks in Checks:
            count, difference = compared(case, checks, wanted, reference)
            assert difference is None, difference
            runs[checks] += count
    assert runs[Checks.EXACT] == 24 * len(SEEDS)
    assert runs[Checks.PAGES] > 10


@pytest.mark.parametrize("family", ["branches", "calls", "helpers", "lost", "hostile"])
def test_every_budget_ends_alike(family: str) -> None:
    case = generate(11, family, programs=1)
    case = replace(case, runs=tuple((0, budget) for budget in range(150)))
    _, difference = compared(case, Checks.EXACT, outcome(case, interpreter))
    assert difference is None, difference


@pytest.mark.parametrize("name", UNLOADABLE)
def test_constants_are_all_judged_first(name: str) -> None:
    case = of_program(Program("p0", "x", UNLOADABLE[name]))
    wanted = outcome(case, interpreter)
    for checks in (Checks.EXACT, Checks.PAGES):
        assert compared(case, checks, wanted) == (1, None)


def test_functions_that_no_run_names_have_handles_too() -> None:
    """Handles go by turns, and programs see them."""
    lddw = insn("lddw", 0, Pseudo.FUNC, imm=4)
    insns = (insn("goto", off=3), insn("mov64_k", 10), lddw, lddw, insn("exit"))
    behind = assemble("r0 = 1\nexit\nr0 = 2\nexit")
    subprogs = (Subprog("f1", 7, 9), Subprog("f2", 9, 11))
    case = of_program(Program("p0", "x", (*insns, *behind), subprogs=subprogs))
    wanted = outcome(case, interpreter)
    assert wanted.ends[0][2] == 3
    assert compared(case, Checks.EXACT, wanted) == (1, None)


def test_the_campaign_compares_llvm_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """And notices what only LLVM's code does."""
    chunk = Chunk("llvm", 1, 1)
    found = run_chunk(chunk)
    assert (found["programs"], found["differences"]) == (32, {})
    monkeypatch.setattr(LlvmEngine, "executed", property(lambda _: 1), raising=False)
    assert "1-EXACT" in str(run_chunk(chunk)["differences"])


def test_every_operation_has_a_meaning() -> None:
    assert set(arithmetic.ALU) == set(AluOp)
    assert set(arithmetic.CONDITION) == set(JmpOp)
    assert set(arithmetic.ATOMIC) == set(AtomicOp) - {AtomicOp.CMPXCHG}

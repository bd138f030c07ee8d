"""Code that LLVM compiled and the interpreter do the same: 480 of the campaign's programs, 1,040
that emit every pair of rows and every extreme, and every budget of some."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pybpfvm.fuzz.agreement import interpreter, interpreters, outcome
from pybpfvm.fuzz.agreement_llvm import compared
from pybpfvm.fuzz.raw_programs import FAMILIES, Case, generate, steered
from pybpfvm.fuzz.visible import insn
from pybpfvm.isa.asm import assemble
from pybpfvm.isa.opcodes import AluOp, AtomicOp, JmpOp, Pseudo
from pybpfvm.jit.llvm import arithmetic
from pybpfvm.jit.llvm.engine import LlvmEngine
from pybpfvm.jit.options import Checks
from pybpfvm.program import Program, Subprog
from tests.jit import campaign
from tests.jit.campaign import Journal, llvm_chunks, run_chunk
from tests.jit.test_agreement import UNLOADABLE, of_program
from tests.support.journal import Chunk

SEEDS = range(4)


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


@pytest.fixture(scope="module")
def all_steered() -> list[Case]:
    return list(steered(0, 32))


@pytest.mark.parametrize("part", range(3))
def test_every_pair_and_every_extreme_is_emitted(all_steered: list[Case], part: int) -> None:
    """tests/jit/test_agreement.py counts them."""
    for case in all_steered[part::3]:
        case = replace(case, hooked=False)
        reference = interpreters()
        wanted = outcome(case, reference)
        _, difference = compared(case, Checks.EXACT, wanted, reference)
        assert difference is None, difference


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


def test_evidence_of_llvm_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One round of all families in so many; kept when it is enough of them."""
    chunks = llvm_chunks(3200, 5, 0)
    assert chunks == [Chunk("llvm", 0, len(FAMILIES)), Chunk("llvm", 50, len(FAMILIES))]
    found = run_chunk(Chunk("llvm", 0, 1))
    journal = Journal(tmp_path / "journal.jsonl")
    for chunk in chunks:
        journal.add(chunk, found)
    for name, value in (("", "3200"), ("_LLVM", "5"), ("_PART", "llvm"), ("_DIR", str(tmp_path))):
        monkeypatch.setenv(f"PYBPFVM_ENGINES{name}", value)
    kept: dict[str, list[tuple[str, str]]] = {}
    monkeypatch.setattr(campaign, "keep", lambda name, _, rows: kept.update({name: rows}))
    assert campaign.main() == 0
    assert not kept
    monkeypatch.setattr(campaign, "KEPT_LLVM", 64)
    assert campaign.main() == 0
    assert list(kept) == ["engines_llvm"]
    assert kept["engines_llvm"][0][1].startswith("64: 0 differences")


def test_every_operation_has_a_meaning() -> None:
    assert set(arithmetic.ALU) == set(AluOp)
    assert set(arithmetic.CONDITION) == set(JmpOp)
    assert set(arithmetic.ATOMIC) == set(AtomicOp) - {AtomicOp.CMPXCHG}

"""Accepted programs never trap, and every value they compute lies inside what was claimed of it.

PYBPFVM_CLAIMS_PROGRAMS is the number of generated programs, PYBPFVM_ORACLE_SEED the first seed.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from pybpfvm.fuzz.claims import Checker, claims, listing
from pybpfvm.fuzz.typed_programs import Generated, generate
from pybpfvm.isa.opcodes import AluOp
from pybpfvm.verifier import transfer
from pybpfvm.verifier.domains import alu as domain
from pybpfvm.verifier.domains.alu import alu
from pybpfvm.verifier.domains.scalar import Scalar
from pybpfvm.verifier.privileges.privilege import ALL
from pybpfvm.verifier.pruning import prune, screen
from pybpfvm.verifier.verdict import Accepted
from tests.support.verifier_cases import Case, corpus

PROGRAMS = int(os.environ.get("PYBPFVM_CLAIMS_PROGRAMS", "240"))
FIRST_SEED = int(os.environ.get("PYBPFVM_ORACLE_SEED", "0"))
RUNS = 3
UNPRUNED_INSNS = 4_000  # paths double at every branch: programs with more are only done pruned
BUDGET_INSNS = 20_000


def _problem(made: Generated | Case, seed: int, *, all_paths: bool, runs: int = RUNS) -> str | None:
    """What a run showed to be wrong; None if nothing, "" if the program was not accepted."""
    budget = UNPRUNED_INSNS if all_paths else BUDGET_INSNS
    claimed = claims(
        made.program, made.object, made.profile, all_paths=all_paths, budget_insns=budget
    )
    if not isinstance(claimed.verdict, Accepted):
        return ""
    checker = Checker(claimed)
    for run in range(runs):
        checker.run(seed * RUNS + run)
        if checker.trap is not None or checker.wrong:
            said = checker.wrong[0] if checker.wrong else f"trap: {checker.trap}"
            return f"seed {seed}, run {run}: {said}\n{listing(made.program)}"
    assert checker.checked
    return None


@pytest.mark.parametrize("all_paths", [True, False], ids=["all paths", "pruned"])
def test_generated_programs_stay_inside_what_is_claimed(all_paths: bool) -> None:
    accepted = 0
    for seed in range(FIRST_SEED, FIRST_SEED + PROGRAMS):
        problem = _problem(generate(seed), seed, all_paths=all_paths)
        assert not problem, problem
        accepted += problem is None
    print(f"{accepted} of {PROGRAMS} programs were accepted and run {RUNS} times each")
    assert accepted >= PROGRAMS * 0.3


@pytest.mark.parametrize("all_paths", [True, False], ids=["all paths", "pruned"])
def test_accepted_cases_of_the_corpus_do_too(all_paths: bool) -> None:
    ordinary = [case for case in corpus() if case.profile.ring is None and case.caps == ALL]
    ordinary = [case for case in ordinary if case.runnable]
    # What is claimed of a function that is verified by itself, runs of its callers do not tell.
    ordinary = [c for c in ordinary if not any(sub.is_global for sub in c.program.subprogs)]
    accepted = 0
    for number, case in enumerate(ordinary):
        problem = _problem(case, number, all_paths=all_paths, runs=1)
        assert not problem, f"{case.id}: {problem}"
        accepted += problem is None
    assert accepted >= 100


# Each is wrong in one way that a verifier might be: a result that is not a member, or too narrow.
_WRONG: dict[str, tuple[AluOp, Callable[[Scalar, Scalar], Scalar]]] = {
    "add forgets to carry": (AluOp.ADD, lambda a, b: alu(AluOp.OR, 64, a, b)),
    "and gives its mask": (AluOp.AND, lambda a, b: b),
    "right shift keeps the lower bound": (
        AluOp.RSH,
        lambda a, b: alu(AluOp.RSH, 64, Scalar.const(a.umin), b),
    ),
    "product is the factor": (AluOp.MUL, lambda a, b: a),
}


@pytest.mark.parametrize("wrong", _WRONG)
def test_a_wrong_transfer_does_not_stay_hidden(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broken, instead = _WRONG[wrong]
    right = domain.transfer_of

    def transfer_of(
        op: AluOp, width: int, *, as_kernel: bool = False
    ) -> Callable[[Scalar, Scalar], Scalar]:
        if (op, width) == (broken, 64):
            return instead
        return right(op, width, as_kernel=as_kernel)

    monkeypatch.setattr(transfer, "transfer_of", transfer_of)
    for seed in range(400):
        if _problem(generate(seed), seed, all_paths=True):
            return
    pytest.fail("400 programs did not notice")


def test_pruning_that_ignores_numbers_does_not_stay_hidden(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (prune, screen):
        monkeypatch.setattr(module, "is_subsumed_by", lambda new, old: True)
    # The quick tests of numbers would hide it.
    monkeypatch.setattr(screen, "_register_test", lambda *_: lambda frames: True)
    for seed in range(600):
        if _problem(generate(seed), seed, all_paths=False):
            return
    pytest.fail("600 programs did not notice")

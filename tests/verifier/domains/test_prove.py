"""The prover itself: it refutes what is false, and its claims at small widths hold."""

from __future__ import annotations

import time
from typing import Any

import pytest

pytest.importorskip("z3", reason="z3-solver is not installed (pip install .[prove])")

from pybpfvm.isa.opcodes import AluOp
from pybpfvm.verifier.domains import interval, tnum
from tests.verifier.domains import prove


def _prove(claim: prove.Claim, width: int) -> str:
    return prove.prove(claim, (width,), 60, products=True)[0]


def test_a_tnum_sum_that_forgets_carries_is_refuted() -> None:
    def add(av: Any, am: Any, bv: Any, bm: Any, full: int) -> Any:
        return (av + bv) & ~(am | bm) & full, am | bm

    assert _prove(prove._tnum_binary(AluOp.ADD, add), 8) == "REFUTED at 8 bits"
    assert _prove(prove._tnum_binary(AluOp.ADD, tnum.add), 8) == "proved at 8 bits"


def test_a_range_sum_that_forgets_overflow_is_refuted() -> None:
    def add(a: interval.Interval, b: interval.Interval, full: int) -> Any:
        return (*interval.everything(full)[:2], a[2] + b[2], a[3] + b[3])

    assert _prove(prove._interval_binary(AluOp.ADD, add), 6) == "REFUTED at 6 bits"
    assert _prove(prove._interval_binary(AluOp.ADD, interval.add), 6) == "proved at 6 bits"


def test_a_proof_that_does_not_end_says_so() -> None:
    claim = prove._interval_binary(AluOp.MUL, interval.mul)
    started = time.monotonic()
    assert prove.prove(claim, (64,), 0.2, products=True)[0] == "timed out"
    assert time.monotonic() - started < 30

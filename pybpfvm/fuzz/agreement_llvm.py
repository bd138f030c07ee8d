"""The comparison of engines for code that LLVM compiled.

Traps show 0 for registers that nothing reads again: those count as equal here.
"""

from __future__ import annotations

from dataclasses import replace

from pybpfvm.engine import RunEnvironment
from pybpfvm.fuzz.agreement import (
    Engine,
    Making,
    Outcome,
    difference,
    interpreter,
    outcome,
    settled,
)
from pybpfvm.fuzz.raw_programs import BY_NUMBER, Case
from pybpfvm.image import Image
from pybpfvm.isa.opcodes import FRAME_POINTER
from pybpfvm.jit.llvm.engine import LlvmEngine
from pybpfvm.jit.options import Checks


def llvm(checks: Checks) -> Making:
    """The LLVM engine with these checks, without its cache."""

    def make(image: Image, environment: RunEnvironment) -> Engine:
        return LlvmEngine(image, BY_NUMBER, environment, checks=checks, cache=None)

    return make


def compared(
    case: Case, checks: Checks, wanted: Outcome, reference: Making = interpreter
) -> tuple[int, str | None]:
    """How many runs were compared with the reference's, and the first difference."""
    if checks is Checks.NONE and not case.tidy:
        return 0, None
    if checks is not Checks.EXACT and wanted.broken is not None:
        case, wanted = settled(case, reference)
    if not case.runs:
        return 0, None
    got = outcome(case, llvm(checks))
    shown = [_as_shown(ours, theirs) for ours, theirs in zip(wanted.regs, got.regs, strict=True)]
    return len(case.runs), difference(case, replace(wanted, regs=shown), got, checks)


def _as_shown(wanted: tuple[int, ...], got: tuple[int, ...]) -> tuple[int, ...]:
    """The registers of a trap, with 0 where 0 is shown."""
    if len(wanted) != len(got):
        return wanted
    return tuple(
        ours if theirs or number == FRAME_POINTER else 0
        for number, (ours, theirs) in enumerate(zip(wanted, got, strict=True))
    )

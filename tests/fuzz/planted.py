"""Bugs planted in verifier, engines, loader and simulated ring, and how soon `fuzz` finds them.

Part of `make fuzz-planted`; or `python -m tests.fuzz.planted [--seeds N] [--seconds S] [--only
TEXT]`: each is looked for from a cold start with N seeds (20), at most S seconds each (60). Prints
a table of tries and time, median and worst; exit code 1 if one was not found.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any
from unittest.mock import patch

from pybpfvm.fuzz.campaign import Budget, Campaign, Report
from pybpfvm.fuzz.engine import EngineTarget
from pybpfvm.fuzz.loader import LoaderTarget
from pybpfvm.fuzz.program_inputs import Choice
from pybpfvm.fuzz.ring import RingTarget
from pybpfvm.fuzz.target import Target
from pybpfvm.fuzz.verifier import VerifierTarget
from pybpfvm.isa.opcodes import AluOp, JmpOp
from pybpfvm.jit import emit, flow, memorycode, templates, x86
from pybpfvm.loader import elf
from pybpfvm.uring_backend.sim import vfs
from pybpfvm.verifier import checks, transfer
from pybpfvm.verifier.domains import alu as domain
from pybpfvm.verifier.domains.alu import alu
from pybpfvm.verifier.domains.scalar import Scalar
from pybpfvm.verifier.pruning import prune, screen
from tests.fuzz.coldstarts import measure

SEED_STEP = 1_000_000  # between the first seeds of two cold starts
_JIT: tuple[ModuleType, ...] = (emit, flow, memorycode, templates, x86)


@dataclass(frozen=True, slots=True)
class Plant:
    """A bug: what is looked for with, and what plants it (to be undone by leaving it)."""

    name: str
    target: Callable[[], Target]
    planted: Callable[[], Any]


def _verifier() -> Target:
    return VerifierTarget(Choice(("near",)))


def _wrong_transfer(broken: AluOp, instead: Callable[[Scalar, Scalar], Scalar]) -> Any:
    right = domain.transfer_of

    def transfer_of(op: AluOp, width: int, *, as_kernel: bool = False) -> Any:
        return instead if (op, width) == (broken, 64) else right(op, width, as_kernel=as_kernel)

    return patch.object(transfer, "transfer_of", transfer_of)


@contextmanager
def _pruning_ignores_numbers() -> Iterator[None]:
    with (
        patch.object(prune, "is_subsumed_by", lambda new, old: True),
        patch.object(screen, "is_subsumed_by", lambda new, old: True),
        # The quick tests of numbers would hide it.
        patch.object(screen, "_register_test", lambda *_: lambda frames: True),
    ):
        yield


def _no_check(name: str) -> Any:
    """The rule `name` is never broken."""
    return patch.object(checks, name, lambda *_, **__: None)


@contextmanager
def _jit(planted: Any) -> Iterator[None]:
    """The JIT with a change; what it remembers of instructions is forgotten."""
    _forget()
    try:
        with planted:
            yield
    finally:
        _forget()


def _jit_table(name: str, change: Mapping[Any, Any]) -> Any:
    return _jit(patch.dict(getattr(templates, name), change))


def _forget() -> None:
    for module in _JIT:
        for value in vars(module).values():
            clear = getattr(value, "cache_clear", None)
            if clear is not None:
                clear()


def _short_records(section: Any, form: str, order: str, limit: int, path: str) -> Any:
    """As elf._records, without its checks."""
    return struct.Struct(order + form)


def _read_forgets_the_last_byte(self: Any, size: int, offset: int) -> bytes:
    return _READ(self, max(size - 1, 0), offset)


_READ = vfs.RegularFile.read

PLANTS = (
    Plant(
        "verifier: add forgets to carry",
        _verifier,
        lambda: _wrong_transfer(AluOp.ADD, lambda a, b: alu(AluOp.OR, 64, a, b)),
    ),
    Plant(
        "verifier: and gives its mask",
        _verifier,
        lambda: _wrong_transfer(AluOp.AND, lambda a, b: b),
    ),
    Plant(
        "verifier: right shift keeps the lower bound",
        _verifier,
        lambda: _wrong_transfer(
            AluOp.RSH, lambda a, b: alu(AluOp.RSH, 64, Scalar.const(a.umin), b)
        ),
    ),
    Plant(
        "verifier: product is the factor",
        _verifier,
        lambda: _wrong_transfer(AluOp.MUL, lambda a, b: a),
    ),
    Plant("verifier: pruning ignores numbers", _verifier, _pruning_ignores_numbers),
    Plant("verifier: map values have no end", _verifier, lambda: _no_check("check_map_value")),
    Plant("verifier: packets have no end", _verifier, lambda: _no_check("check_packet")),
    Plant(
        "jit: > is >=",
        EngineTarget,
        lambda: _jit_table("CONDITION", {JmpOp.JGT: x86.AE}),
    ),
    Plant(
        "jit: signed < is unsigned",
        EngineTarget,
        lambda: _jit_table("CONDITION", {JmpOp.JSLT: x86.B}),
    ),
    Plant(
        "jit: arithmetic shift is logical",
        EngineTarget,
        lambda: _jit_table("_SHIFTS", {AluOp.ARSH: x86.SHR}),
    ),
    Plant(
        "jit: loads of signed bytes are not extended",
        EngineTarget,
        lambda: _jit_table("LOADS", {(1, True): templates.LOADS[1, False]}),
    ),
    Plant(
        "jit: functions do not save r9",
        EngineTarget,
        lambda: _jit(patch.object(flow, "_CALLEE_SAVED", (6, 7, 8))),
    ),
    Plant(
        "loader: tables may end anywhere",
        LoaderTarget,
        lambda: patch.object(elf, "_records", _short_records),
    ),
    Plant(
        "ring: reads of files forget the last byte",
        RingTarget,
        lambda: patch.object(vfs.RegularFile, "read", _read_forgets_the_last_byte),
    ),
)


def find(plant: Plant, first: int, budget: Budget) -> Report:
    """Look for a planted bug from a cold start; ends with the first finding."""
    with plant.planted():
        target = plant.target()
        try:
            campaign = Campaign(target, first=first, shrink_seconds=0)
            return campaign.run(replace(budget, findings=1))
        finally:
            target.close()


def _tries(name: str, start: int, seconds: float) -> int | None:
    (plant,) = (one for one in PLANTS if one.name == name)
    report = find(plant, start * SEED_STEP, Budget(seconds))
    return next((one.executions for one in report.findings.values()), None)


def main() -> int:
    """The table; see coldstarts.measure."""
    names = (plant.name for plant in PLANTS)
    return measure("planted bugs", "planted", names, _tries, __doc__ or "")


if __name__ == "__main__":
    sys.exit(main())

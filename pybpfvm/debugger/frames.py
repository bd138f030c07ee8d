"""The functions that are being executed, inlined ones too, and their variables."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pybpfvm.debugger.lines import Lines
from pybpfvm.debugger.scope import RecordedScope
from pybpfvm.engine import Paused
from pybpfvm.expr.mistake import Mistake
from pybpfvm.expr.value import Value
from pybpfvm.expr.variables import variable
from pybpfvm.program import Program
from pybpfvm.source.info import DebugInfo

_REGISTER = re.compile(r"\$?r(10|[0-9])$")


@dataclass(frozen=True, slots=True)
class Frame:
    """A function that is being executed: `pc` in `program` is where it goes on. `line` is 0 where
    none is known. `inlined` into the next one, whose registers these are too."""

    index: int
    program: Program
    pc: int
    regs: tuple[int, ...]
    function: str
    file: str
    line: int
    text: str
    inlined: bool
    shown_pc: int  # the instruction that `line` is of: of callers the call


@dataclass(frozen=True, slots=True)
class Variable:
    """A local variable or parameter; `value` is None where `why` says it is not to be had."""

    name: str
    parameter: bool
    value: Value | None
    why: str = ""


def frames_of(paused: Paused, lines: Lines) -> list[Frame]:
    """Those at a pause, innermost first."""
    found: list[Frame] = []
    for number, one in enumerate(reversed(paused.frames)):
        shown = one.pc if number == 0 else max(one.pc - 1, 0)
        spot = lines.spot(one.program, shown)
        file, line = (spot.line.file, spot.line.line) if spot.line else ("", 0)
        text = spot.line.text if spot.line else ""
        for level, (function, call_line) in enumerate(spot.functions):
            inlined = level < spot.inlined
            frame = Frame(
                len(found), one.program, one.pc, one.regs, function, file, line, text, inlined,
                shown,
            )  # fmt: skip
            found.append(frame)
            line, text = call_line, ""
    return found


def variables_of(frame: Frame, debug: DebugInfo, scope: RecordedScope) -> Sequence[Variable]:
    """The local variables and parameters of a frame, innermost blocks first; `scope` is that of the
    frame."""
    found: dict[str, Variable] = {}
    for local in debug.variables(frame.program, frame.shown_pc):
        if local.function != frame.function or local.name in found:
            continue
        try:
            node = variable(local, debug, frame.program, frame.shown_pc, (0, 0))
            value = node.value(scope)
            found[local.name] = Variable(local.name, local.parameter, value)
        except Mistake as mistake:
            found[local.name] = Variable(local.name, local.parameter, None, mistake.reason)
    return list(found.values())


def register_of(text: str, frame: Frame, debug: DebugInfo) -> int | None:
    """The register that is called so, or that a local variable is in."""
    for local in debug.variables(frame.program, frame.shown_pc):
        if local.name == text and local.ops and len(local.ops) == 1:
            name = local.ops[0][0]
            if name.startswith("DW_OP_reg"):
                return int(name.removeprefix("DW_OP_reg"))
        if local.name == text:
            return None
    found = _REGISTER.match(text)
    return int(found[1]) if found else None


__all__ = ["Frame", "Variable", "frames_of", "register_of", "variables_of"]

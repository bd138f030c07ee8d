"""Where a condition held, as `replay --to` tells it: as text and as a JSON document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pybpfvm.debugger.debugger import Debugger, Frame, Stop
from pybpfvm.errors import InputError
from pybpfvm.expr.compiled import compile_expression
from pybpfvm.report.words import printable
from pybpfvm.uring_backend.abi import Cqe


def place_lines(debugger: Debugger, expression: str, stop: Stop) -> Iterator[str]:
    """Line by line: the position, the frames, the values that the condition is of."""
    if stop.reason != "goto":
        yield printable(stop.text)
        return
    yield f"{expression} held at {stop.position}: {debugger.run_info()}"
    for frame in debugger.frames():
        yield f"  #{frame.index} {_place(frame)}"
        if frame.text.strip():
            yield f"     {printable(frame.text.strip())}"
    for name, value in _values(debugger, expression, stop):
        yield f"  {name} = {printable(value)}"


def place_document(debugger: Debugger, expression: str, stop: Stop) -> Mapping[str, object]:
    """The body of pybpfvm.replay-to/1."""
    found = stop.reason == "goto"
    return {
        "recording": debugger.history.replay.file.path,
        "expression": expression,
        "found": found,
        "position": {
            "run": stop.position.run,
            "insns": stop.position.insns,
            "insn": debugger.history.number_of(stop.position),
        }
        if found
        else None,
        "frames": [
            {
                "function": frame.function,
                "program": frame.program.name,
                "pc": frame.pc,
                "file": frame.file,
                "line": frame.line,
                "inlined": frame.inlined,
            }
            for frame in (debugger.frames() if found else ())
        ],
        "values": dict(_values(debugger, expression, stop)) if found else {},
    }


def _place(frame: Frame) -> str:
    line = f"{frame.file}:{frame.line}" if frame.line else "no source line"
    inlined = "  (inlined)" if frame.inlined else ""
    return f"{frame.function} at {line}, {frame.program.name}+{frame.pc}{inlined}"


def cqe_text(stop: Stop) -> str:
    """The CQE that a condition was found to hold of; "" for none."""
    if stop.moment is None or stop.moment.cqe is None:
        return ""
    cqe = Cqe.unpack(stop.moment.cqe)
    return f"user_data {cqe.user_data:#x}, res {cqe.res}, flags {cqe.flags:#x}"


def _values(debugger: Debugger, expression: str, stop: Stop) -> Iterator[tuple[str, str]]:
    """The parts of the condition, with what they are."""
    if cqe := cqe_text(stop):
        yield "cqe", cqe
    scope = debugger.scope()
    scope.moment = stop.moment
    try:
        for part in compile_expression(expression, scope).parts(scope):
            yield part.text, part.value
    except InputError:
        return  # what it names is not known by those names here: it is of an event

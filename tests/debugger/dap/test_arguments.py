"""The fields of requests, and what is said of wrong ones."""

from __future__ import annotations

from typing import Any

import pytest

from pybpfvm.debugger.dap.arguments import (
    ArgumentsError,
    Disassemble,
    Launch,
    Nothing,
    SetBreakpoints,
    Source,
    SourceBreakpoint,
    Variables,
    arguments,
)


def test_fields_become_those_of_a_class_whatever_else_is_there() -> None:
    raw = {
        "source": {"path": "/a.c", "checksums": []},
        "breakpoints": [{"line": 3, "hitCondition": ">= 2", "column": 1}, {"line": 4.0}],
        "sourceModified": False,
    }
    assert arguments(SetBreakpoints, raw) == SetBreakpoints(
        Source(path="/a.c"),
        (SourceBreakpoint(3, hit_condition=">= 2"), SourceBreakpoint(4)),
    )


@pytest.mark.parametrize("raw", [None, {}, {"recording": None, "__sessionId": "x"}])
def test_what_need_not_be_there_has_a_default(raw: object) -> None:
    assert arguments(Launch, raw) == Launch()
    assert arguments(Nothing, raw) == Nothing()


@pytest.mark.parametrize(
    ("kind", "raw", "said"),
    [
        (SetBreakpoints, None, "arguments.source is missing"),
        (SetBreakpoints, [], "arguments: an object is wanted, not a list"),
        (SetBreakpoints, {"source": 3}, "arguments.source: an object is wanted, not 3"),
        (
            SetBreakpoints,
            {"source": {}, "breakpoints": [{"line": 1}, {"line": "x"}]},
            r"arguments.breakpoints\[1\].line: a whole number is wanted, not 'x'",
        ),
        (
            SetBreakpoints,
            {"source": {}, "breakpoints": {}},
            "arguments.breakpoints: a list is wanted, not an object",
        ),
        (Variables, {"variablesReference": True}, "a whole number is wanted, not True"),
        (Variables, {"variablesReference": 1.5}, "a whole number is wanted, not 1.5"),
        (Launch, {"stopOnEntry": "no"}, "true or false is wanted, not 'no'"),
        (Disassemble, {"memoryReference": 5, "instructionCount": 1}, "a string is wanted, not 5"),
    ],
)
def test_a_wrong_field_is_named(kind: type[Any], raw: object, said: str) -> None:
    with pytest.raises(ArgumentsError, match=said):
        arguments(kind, raw)

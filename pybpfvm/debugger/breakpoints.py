"""What a move stops at."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pybpfvm.errors import InputError
from pybpfvm.expr.compiled import Compiled
from pybpfvm.expr.value import Value, value_of

BreakpointKind = Literal["line", "function", "insn", "helper", "cqe", "start", "data", "trap"]

_HITS = re.compile(r"\s*(==|>=|<=|>|<|%)?\s*(\d+)\s*$")


@dataclass(slots=True)
class Breakpoint:
    """Ask for one by `kind` and what that needs; Debugger.set_breakpoint fills in the rest.

        line      file, line       where code of that line begins
        function  function         where the function begins, or code of it that was inlined
        insn      program, pc
        helper    helper           before each call of it, behind it where it asks for `ret`
        cqe       cq, ring         behind each CQE that is posted (None: to any)
        start     program          where a run of it begins ("": of any)
        data      addr, size or expression; behind what changed the bytes
        trap                       the instruction that traps

    `condition` is an expression, `hit_condition` a number of hits ("3", ">= 3", "% 10"), and
    `log_message` makes it a logpoint: it is told, with the values of {expressions}, and the move
    goes on; backward nothing is told. `verified`: there is such a place; else `message` says why
    not. `where` says where it is, `hits` how often a move came to it with its condition true.
    """

    kind: BreakpointKind
    file: str = ""
    line: int = 0
    function: str = ""
    program: str = ""
    pc: int = 0
    helper: str = ""
    cq: int | None = None
    ring: int | None = None
    addr: int = 0
    size: int = 0
    expression: str = ""
    condition: str = ""
    hit_condition: str = ""
    log_message: str | None = None
    temporary: bool = False
    enabled: bool = True
    id: int = 0
    verified: bool = False
    message: str = ""
    where: str = ""
    hits: int = 0
    places: Mapping[str, frozenset[int]] = field(default_factory=dict)
    behind: bool = False  # it is met when what is at its places has been executed
    compiled: Compiled | None = None
    value: Value | None = None  # what is watched, when it was set
    failed: str = ""  # why the condition had no value the last time

    def text_of(self, data: bytes | None) -> str:
        """These bytes, as what is watched is written; None: there is no memory."""
        if data is None:
            return "(no memory)"
        return shown_bytes(data) if self.value is None else written_as(self.value, data)

    def counts(self) -> bool:
        """Whether this many hits are what it waits for."""
        if not self.hit_condition:
            return True
        sign, number = parse_hits(self.hit_condition)
        match sign:
            case "==":
                return self.hits == number
            case ">":
                return self.hits > number
            case "<":
                return self.hits < number
            case "<=":
                return self.hits <= number
            case "%":
                return self.hits % number == 0
            case _:
                return self.hits >= number


def parse_hits(text: str) -> tuple[str, int]:
    """The comparison and the number of a hit condition; a number alone is `>=`. InputError."""
    found = _HITS.match(text)
    if found is None or (found[1] == "%" and not int(found[2])):
        raise InputError(
            f"{text!r} is no number of hits", where="breakpoint", remedy='"3", ">= 3" or "% 10"'
        )
    return found[1] or ">=", int(found[2])


def written_as(value: Value, data: bytes) -> str:
    """What these bytes would be instead of the value's own."""
    return value_of(value.type, data, value.addr, value.byteorder, value.scope).text()


def shown_bytes(data: bytes) -> str:
    """Little numbers as such, the rest as bytes."""
    if len(data) in (1, 2, 4, 8):
        return f"{int.from_bytes(data, 'little'):#x}"
    return data[:32].hex() + ("..." if len(data) > 32 else "")

"""Breakpoints as clients set them: each time all of a kind, or of a file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pybpfvm.debugger.breakpoints import Breakpoint
from pybpfvm.debugger.dap import arguments as wanted
from pybpfvm.debugger.dap.code import Code
from pybpfvm.debugger.dap.sources import SourceFile, Sources
from pybpfvm.debugger.target import Target
from pybpfvm.errors import InputError

Body = dict[str, Any]
_DATA = re.compile(r"(0x[0-9a-f]{1,16}):(\d{1,9})\Z")
# Filters that are breakpoints; of the others the session knows.
_HELPER, _CQE, _TRAP = "helper", "cqe", "trap"
_AT_THE_END = ("hang", "failed")


class Breakpoints:
    """The breakpoints of a client. `filters` are the exception filters that are on, and `told` the
    numbers of those breakpoints that the client knows."""

    def __init__(
        self, target: Target, sources: Sources, code: Code, client: wanted.Initialize
    ) -> None:
        self.filters: dict[str, bool] = {}
        self.told: set[int] = set()
        self._target = target
        self._sources = sources
        self._code = code
        self._first_line = int(client.lines_start_at1)
        self._groups: dict[str, dict[tuple[Any, ...], Breakpoint]] = {}

    # --- each kind ----------------------------------------------------------------------------

    def set_lines(self, args: wanted.SetBreakpoints) -> Body:
        """Those of a file."""
        file = self._sources.meant(args.source)
        if file is None:
            name = args.source.path or args.source.name
            missing = {"verified": False, "message": f"no program has lines of {name}"}
            return {"breakpoints": [missing for _ in args.breakpoints]}
        asked = [
            (self._of_line(file, one), {"source": file.reference()}) for one in args.breakpoints
        ]
        return self._set(f"file {file.name}", asked)

    def _of_line(self, file: SourceFile, one: wanted.SourceBreakpoint) -> Breakpoint:
        line = one.line + 1 - self._first_line
        found = file.line_from(line)
        return Breakpoint(
            "line",
            file=file.name,
            line=line if found is None else found,
            condition=one.condition or "",
            hit_condition=one.hit_condition or "",
            log_message=one.log_message,
        )

    def set_functions(self, args: wanted.SetFunctionBreakpoints) -> Body:
        """Those of functions."""
        asked: list[tuple[Breakpoint | str, Body]] = [
            (
                Breakpoint(
                    "function",
                    function=one.name,
                    condition=one.condition or "",
                    hit_condition=one.hit_condition or "",
                ),
                {},
            )
            for one in args.breakpoints
        ]
        return self._set("functions", asked)

    def set_instructions(self, args: wanted.SetInstructionBreakpoints) -> Body:
        """Those of instructions."""
        asked: list[tuple[Breakpoint | str, Body]] = []
        for one in args.breakpoints:
            program, pc = self._code.place(one.instruction_reference, one.offset)
            found = Breakpoint(
                "insn",
                program=program.name,
                pc=pc,
                condition=one.condition or "",
                hit_condition=one.hit_condition or "",
            )
            asked.append((found, self._code.reference(program, pc)))
        return self._set("instructions", asked)

    def data_info(self, data: tuple[int, int] | None, name: str, why: str) -> Body:
        """Whether what lies in `data` (address, bytes) can be watched; `why` it lies nowhere."""
        if data is None:
            return {"dataId": None, "description": f"{name}: {why}"}
        addr, size = data
        return {
            "dataId": f"{addr:#x}:{size}",
            "description": f"{name}, {size} bytes at {addr:#x}",
            "accessTypes": ["write"],
            "canPersist": False,
        }

    def set_data(self, args: wanted.SetDataBreakpoints) -> Body:
        """Those of data."""
        asked: list[tuple[Breakpoint | str, Body]] = []
        for one in args.breakpoints:
            found = _DATA.match(one.data_id)
            if found is None:
                asked.append((f"{one.data_id!r} is no data of this recording", {}))
            elif one.access_type not in (None, "write"):
                asked.append((f"a stop at each {one.access_type}: only writes are noticed", {}))
            else:
                addr, size = int(found[1], 16), int(found[2])
                condition, hits = one.condition or "", one.hit_condition or ""
                watch = Breakpoint(
                    "data", addr=addr, size=size, condition=condition, hit_condition=hits
                )
                asked.append((watch, {}))
        return self._set("data", asked)

    def set_exceptions(self, args: wanted.SetExceptionBreakpoints) -> Body:
        """The exception filters that are on."""
        options = [wanted.FilterOption(name) for name in args.filters] + [*args.filter_options]
        self.filters = {}
        asked: list[tuple[Breakpoint | str, Body]] = []
        for one in options:
            self.filters[one.filter_id] = True
            condition = (one.condition or "").strip()
            match one.filter_id:
                case name if name == _TRAP:
                    asked.append((Breakpoint("trap"), {}))
                case name if name == _CQE:
                    both = f"({condition}) && cqe.res < 0" if condition else "cqe.res < 0"
                    asked.append((Breakpoint("cqe", condition=both), {}))
                case name if name == _HELPER and condition:
                    helper, _, more = condition.partition(" if ")
                    asked.append((Breakpoint("helper", helper=helper, condition=more), {}))
                case name if name == _HELPER:
                    asked.append(("say which helper: its name is the condition", {}))
                case name if name in _AT_THE_END:
                    asked.append(("", {}))
                case name:
                    asked.append((f"there is no exception filter {name!r}", {}))
        return self._set("exceptions", asked)

    def locations(self, args: wanted.BreakpointLocations) -> Body:
        """The lines of a range that code is of."""
        file = self._sources.meant(args.source)
        shift = 1 - self._first_line
        first = args.line + shift
        last = first if args.end_line is None else args.end_line + shift
        lines = [] if file is None else [line for line in file.lines if first <= line <= last]
        return {"breakpoints": [{"line": line - shift} for line in lines]}

    # --- all of a group -----------------------------------------------------------------------

    def _set(self, group: str, asked: Sequence[tuple[Breakpoint | str, Body]]) -> Body:
        """Let there be these and no others in a group; the answer. One that was there before stays,
        with its hits. A text instead of a breakpoint says why there is none, "" that none is
        needed."""
        before = self._groups.pop(group, {})
        now: dict[tuple[Any, ...], Breakpoint] = {}
        answers: list[Body] = []
        for one, more in asked:
            if isinstance(one, str):
                answers.append({"verified": not one, **({"message": one} if one else {}), **more})
                continue
            key = _identity(one)
            known = before.pop(key, None) or now.get(key)
            found: Breakpoint | str = known or self._made(one)
            if isinstance(found, str):
                answers.append({"verified": False, "message": found, **more})
                continue
            now[key] = found
            answers.append(self._message(found) | more)
        for gone in before.values():
            self.told.discard(gone.id)
            self._target.debugger.clear(gone.id)
        self._groups[group] = now
        self.told |= {one.id for one in now.values()}
        return {"breakpoints": answers}

    def _made(self, one: Breakpoint) -> Breakpoint | str:
        """Set; why it can not be."""
        try:
            return self._target.debugger.set_breakpoint(one)
        except InputError as error:
            return str(error)

    def _message(self, one: Breakpoint) -> Body:
        found: Body = {"id": one.id, "verified": one.verified}
        text = one.message or one.where
        if text:
            found["message"] = text
        if one.kind == "line":
            found["line"] = one.line - 1 + self._first_line
        return found


def _identity(one: Breakpoint) -> tuple[Any, ...]:
    return (
        one.kind, one.file, one.line, one.function, one.program, one.pc, one.helper, one.cq,
        one.ring, one.addr, one.size, one.condition, one.hit_condition, one.log_message,
    )  # fmt: skip

"""Where breakpoints lie: the code that they name, or what there is instead, and what their
expressions mean there."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cached_property

from pybpfvm.debugger.breakpoints import Breakpoint, parse_hits
from pybpfvm.debugger.entering import entries
from pybpfvm.debugger.history import History
from pybpfvm.debugger.lines import Lines, Spot
from pybpfvm.debugger.scope import RecordedScope
from pybpfvm.errors import InputError
from pybpfvm.expr.compiled import Compiled, compile_expression
from pybpfvm.expr.mistake import ExpressionError
from pybpfvm.isa.codec import pcs
from pybpfvm.isa.opcodes import Kind
from pybpfvm.listing import Names
from pybpfvm.program import Program

BRACES = re.compile(r"\{([^{}]*)\}")  # an expression in the text of a logpoint
_CALLS = frozenset({Kind.CALL, Kind.CALL_KFUNC})
_MOST_TRIED = 64  # places that an expression is tried at
_MOST_NAMED = 12
# What only an event has, and of which breakpoints it is.
_OF_EVENTS = {
    "cqe": ("cqe", "break cqe if ..."),
    "ret": ("helper", "break helper NAME if ..."),
    "helper": ("helper", "break helper NAME if ..."),
    "sqe": ("", "break helper NAME, where the request is submitted"),
}


class Placing:
    """Of one recording. `scope_of` gives the scope of a run, to be placed by whoever asks."""

    def __init__(
        self,
        history: History,
        lines_of: Callable[[int], Lines],
        scope_of: Callable[[int], RecordedScope],
    ) -> None:
        self._history = history
        self._lines_of = lines_of
        self._scope_of = scope_of
        # By identity of programs.
        self._called: dict[int, Mapping[int, str]] = {}
        self._owners = {
            id(program): loaded
            for loaded in history.replay.objects
            for program in loaded.image.programs.values()
        }

    @cached_property
    def programs(self) -> Sequence[tuple[int, Program]]:
        """(a run of its object, or 0; the program) of all."""
        return tuple(self._programs())

    def _programs(self) -> Iterator[tuple[int, Program]]:
        replay = self._history.replay
        first: dict[int, int] = {}
        for entry in replay.runs:
            first.setdefault(replay.index.engines[entry.engine].obj, entry.number)
            if len(first) == len(replay.objects):
                break
        for number, loaded in enumerate(replay.objects):
            for program in loaded.image.programs.values():
                yield first.get(number, 0), program

    # --- places ---------------------------------------------------------------------------------

    def place(self, one: Breakpoint) -> None:
        """Say where it is: `places`, `where`, whether there is any, and if not what there is."""
        found: dict[str, frozenset[int]] = {}
        one.message, one.where, one.behind = "", "", False
        for run, program in self.programs:
            at = self._pcs(one, run, program)
            if at:
                found[program.name] = frozenset(at)
                spot = self._lines_of(run).spot(program, min(at))
                line = f" ({spot.line})" if spot.line else ""
                one.where = one.where or f"{program.name}+{min(at)}{line}"
        one.places = found
        more = sum(map(len, found.values())) - 1
        if more > 0:
            one.where += f" and {more} more"
        match one.kind:
            case "cqe":
                cq = "any CQ" if one.cq is None else f"CQ {one.cq}"
                one.where = f"CQEs of {cq}" + ("" if one.ring is None else f" of ring {one.ring}")
                one.verified = True
            case "start":
                one.where = f"runs of {one.program}" if one.program else "runs"
                one.verified = not one.program or one.program in self._program_names()
            case "trap":
                one.where, one.verified = "traps", True
            case "data":
                one.verified = True
            case _:
                one.verified = bool(found)
        one.message = "" if one.verified else self._why_none(one)

    def _pcs(self, one: Breakpoint, run: int, program: Program) -> Iterable[int]:
        lines = self._lines_of(run)
        match one.kind:
            case "line":
                return _line_entries(lines, program, one.file, one.line)
            case "function":
                return lines.function_pcs(program, one.function)
            case "insn":
                starts = set(pcs(program.insns))
                return {one.pc} & starts if program.name == one.program else ()
            case "helper":
                wanted = self._meant(one.helper)
                called = self.called(program)
                return [pc for pc, name in called.items() if _plain(name) == wanted]
            case _:
                return ()

    # --- calls of helpers -----------------------------------------------------------------------

    def called(self, program: Program) -> Mapping[int, str]:
        """The calls of helpers and of the kernel's functions: pc -> name, or number where it has
        none."""
        found = self._called.get(id(program))
        if found is None:
            obj = self._owners[id(program)]
            names = Names(obj.object, program, obj.profile if obj.known_profile else None)
            functions = obj.object.kernel_functions
            found = self._called[id(program)] = {
                pc: (functions.get(-insn.imm) if insn.imm < 0 else names(insn, pc)) or str(insn.imm)
                for pc, insn in zip(pcs(program.insns), program.insns, strict=True)
                if insn.spec.kind in _CALLS
            }
        return found

    def helpers(self) -> list[str]:
        """The names of all that programs call."""
        return sorted({name for _, one in self.programs for name in self.called(one).values()})

    # --- what there is instead ------------------------------------------------------------------

    def _program_names(self) -> list[str]:
        return [program.name for _, program in self.programs]

    def functions(self) -> list[str]:
        """The names of functions, inlined ones too, in order."""
        found: dict[str, None] = {}
        for run, program in self.programs:
            found.update((sub.name, None) for sub in program.subprogs)
            lines = self._lines_of(run)
            for pc in lines.debug.lines(program):
                found.update((name, None) for name, _ in lines.spot(program, pc).functions)
        return list(found)

    def _meant(self, helper: str) -> str:
        """The plain name of a helper; of one that its first words tell, that one's."""
        known = set(map(_plain, self.helpers()))
        wanted = _plain(helper)
        begin = [name for name in known if name.startswith(f"{wanted}_")]
        return begin[0] if wanted not in known and len(begin) == 1 else wanted

    def _why_none(self, one: Breakpoint) -> str:
        match one.kind:
            case "line":
                return self._no_line(one.file, one.line)
            case "function":
                return _no_name("function", one.function, self.functions())
            case "start":
                return _no_name("program", one.program, self._program_names())
            case "helper":
                known = self.helpers()
                wanted = _plain(one.helper)
                close = get_close_matches(wanted, map(_plain, known), 1)
                meant = [name for name in known if _plain(name).startswith(f"{wanted}_")]
                meant = meant or [name for name in known if _plain(name) in close] or known
                called = ", ".join(meant) or "none"
                return f"no program calls a helper {one.helper}; what they call: {called}"
            case _:
                program = {one.name: one for _, one in self.programs}.get(one.program)
                if program is None:
                    return _no_name("program", one.program, self._program_names())
                starts = pcs(program.insns)
                near = [pc for pc in starts if abs(pc - one.pc) <= 1] or [starts[-1]]
                near_text = " and ".join(map(str, near))
                return (
                    f"no instruction of {program.name} begins at {one.pc}; one does at {near_text}"
                )

    def _no_line(self, file: str, line: int) -> str:
        names: dict[str, None] = {}
        known: set[int] = set()
        for run, program in self.programs:
            debug = self._lines_of(run).debug
            for found in debug.lines(program).values():
                names[found.file] = None
                if debug.pcs_of(program, file, found.line):
                    known.add(found.line)
        if not names:
            return "the object was compiled without -g: it has no lines"
        if not known:
            return _no_name("file with code", file, list(names))
        below = max((one for one in known if one < line), default=None)
        above = min((one for one in known if one > line), default=None)
        near = " and ".join(str(one) for one in (below, above) if one is not None)
        return f"line {line} of {file} has no code; the nearest that have some: {near}"

    # --- expressions ----------------------------------------------------------------------------

    def compile(self, one: Breakpoint, here: RecordedScope) -> None:
        """Have its number of hits, condition, watched value and log message checked and compiled:
        where it is, or `here` for one that is in no code. Raises InputError, ExpressionError."""
        if one.hit_condition:
            parse_hits(one.hit_condition)
        if one.kind == "data":
            self._watched(one, here)
        one.compiled = None
        needs: set[str] = set()
        for text in BRACES.findall(one.log_message or ""):
            needs |= self._compiled(one, text, here, condition=False).needs
        if one.condition:
            one.compiled = self._compiled(one, one.condition, here, condition=True)
            needs |= one.compiled.needs
        for name, (kind, remedy) in _OF_EVENTS.items():
            if name in needs and one.kind != kind:
                raise InputError(f"no {name} is at hand there", where="breakpoint", remedy=remedy)
        one.behind = one.kind == "helper" and not needs.isdisjoint(("ret", "helper"))
        if one.behind:
            one.where = f"behind {one.where}"

    def _watched(self, one: Breakpoint, here: RecordedScope) -> None:
        if one.expression and not one.id:  # what it means elsewhere is something else
            value = compile_expression(one.expression, here).evaluate(here)
            if value.addr is None or not value.type.size:
                raise InputError(
                    f"{one.expression} lies nowhere in memory",
                    where="breakpoint",
                    remedy="watch a variable in memory, an element of a map, *(u64 *)ADDRESS",
                )
            one.addr, one.size, one.value = value.addr, value.type.size, value
        if one.size < 1:
            raise InputError("a data breakpoint of no bytes", where="breakpoint")
        name = f"{one.expression}, " if one.expression else ""
        one.where = f"{name}{one.size} bytes at {one.addr:#x}"

    def _compiled(
        self, one: Breakpoint, text: str, here: RecordedScope, *, condition: bool
    ) -> Compiled:
        """It need not mean something everywhere: variables come and go."""
        failed: ExpressionError | None = None
        for scope in self._scopes(one, here):
            try:
                found = compile_expression(text, scope)
                if condition:
                    found.check_condition()
                return found
            except ExpressionError as error:
                failed = failed or error
        assert failed is not None
        raise failed

    def _scopes(self, one: Breakpoint, here: RecordedScope) -> Iterator[RecordedScope]:
        places = one.places
        if one.kind == "start":
            wanted = (one.program,) if one.program else self._program_names()
            places = {name: frozenset({0}) for name in wanted}
        tried = 0
        for run, program in self.programs:
            for pc in sorted(places.get(program.name, ())):
                tried += 1
                if tried > _MOST_TRIED:
                    return
                scope = self._scope_of(run)
                scope.program, scope.pc, scope.regs, scope.moment = program, pc, (0,) * 11, None
                yield scope
        if not tried:
            yield here


def _line_entries(lines: Lines, program: Program, file: str, line: int) -> list[int]:
    """Where code of a line is entered, in each function that it was inlined into: see `entries`."""
    found: dict[object, list[int]] = {}
    before = None
    wanted = frozenset(lines.debug.pcs_of(program, file, line))
    if not wanted:
        return []
    for pc in sorted(lines.debug.lines(program)):
        spot: Spot = lines.spot(program, pc)
        now = (spot.functions, None if spot.line is None else (spot.line.file, spot.line.line))
        if pc in wanted and now != before:
            found.setdefault(spot.functions, []).append(pc)
        before = now
    return [pc for pieces in found.values() for pc in entries(program, pieces)]


def _plain(name: str) -> str:
    """A helper's name without what many of them begin with."""
    return name.removeprefix("bpf_").removeprefix("io_uring_")


def _no_name(what: str, name: str, known: Sequence[str]) -> str:
    """That nothing is called so, and what is."""
    close = get_close_matches(name, known, 1)
    if close:
        return f"no {what} is called {name}; did you mean {close[0]}?"
    if not known:
        return f"no {what} is called {name}; there is none"
    more = ", ..." if len(known) > _MOST_NAMED else ""
    return f"no {what} is called {name}; there are {', '.join(known[:_MOST_NAMED])}{more}"


__all__ = ["BRACES", "Placing"]

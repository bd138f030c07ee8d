"""The one object that every surface drives: where one is, what is there, and how to move."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Self, get_args

from pybpfvm.debugger.breakpoints import Breakpoint, parse_hits
from pybpfvm.debugger.history import History, Interrupted, Progress, Stopped, Told, Unreachable
from pybpfvm.debugger.lines import Lines, Spot
from pybpfvm.debugger.position import Position
from pybpfvm.debugger.ringstate import RingState
from pybpfvm.debugger.scope import RecordedScope
from pybpfvm.engine import Paused, RunResult
from pybpfvm.errors import InputError, SourceLine, Trap
from pybpfvm.events import CqePosted
from pybpfvm.expr.compiled import Compiled, compile_expression
from pybpfvm.expr.mistake import ExpressionError, Mistake
from pybpfvm.expr.scope import moment_of
from pybpfvm.expr.value import Value
from pybpfvm.expr.variables import variable
from pybpfvm.isa.codec import pcs
from pybpfvm.isa.disasm import format_insn
from pybpfvm.isa.opcodes import Kind
from pybpfvm.listing import Names
from pybpfvm.maps.base import BpfMap
from pybpfvm.memory import Region, RegionKind
from pybpfvm.program import Program
from pybpfvm.session.objects import LoadedObject
from pybpfvm.source.info import DebugInfo
from pybpfvm.trace.index import RunEntry

How = Literal["step", "next", "finish", "continue", "stepi", "nexti", "run", "cqe", "helper"]
Reason = Literal[
    "step", "breakpoint", "end", "start", "trap", "pause", "goto", "diverged", "not found"
]

_WINDOW = 20_000  # instructions that are shown one by one, where breakpoints may be met
_WIDEST = 1_000_000
_MOST_LOG = 10_000
_BRACES = re.compile(r"\{([^{}]*)\}")
_STORES = frozenset({Kind.ST, Kind.STX, Kind.ATOMIC, Kind.STORE_REL})
_CALLS = frozenset({Kind.CALL, Kind.CALL_KFUNC})

_Check = Callable[["_Here"], bool]


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


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a disassembly; `source` where a C line begins."""

    pc: int
    text: str
    source: SourceLine | None


@dataclass(frozen=True, slots=True)
class Stop:
    """Why a move ended and where; `text` says it in words. `log` is what logpoints told."""

    reason: Reason
    position: Position
    breakpoints: tuple[Breakpoint, ...] = ()
    text: str = ""
    log: tuple[str, ...] = ()


@dataclass(slots=True)
class _Here:
    """What a check looks at: the instruction that comes next, and the one before it."""

    run: int = 0
    insns: int = 0
    program: Program | None = None
    pc: int = 0
    regs: tuple[int, ...] = ()
    depth: int = 0
    answered: int = 0
    events: Sequence[Told] = ()


class Debugger:
    """A recording that is looked at; a context manager. It opens at the fault that ended the
    recording if one did, else at its start.

    Nothing here prints. `on_log` gets what logpoints tell (else it is in Stop.log), `progress`
    (done, all) of what takes long. Raises InputError as Replay does.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        engine: str = "auto",
        progress: Progress | None = None,
        on_log: Callable[[str], None] | None = None,
    ) -> None:
        self.history = History(path, engine=engine, progress=progress)
        self.on_log = on_log
        self.breakpoints: dict[int, Breakpoint] = {}
        self._next_id = 1
        self._log: list[str] = []
        self._unlogged = 0
        self._lines: dict[int, Lines] = {}
        self._scopes: dict[int, RecordedScope] = {}
        try:
            fault = self.history.fault()
            self._stopped: Stopped = self.history.at(fault or self.history.start)
        except Unreachable:
            self._stopped = self.history.at(self.history.end)
        except BaseException:
            self.history.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give everything back; twice is fine."""
        self.history.close()

    # --- where one is ---------------------------------------------------------------------------

    @property
    def position(self) -> Position:
        """Where one is."""
        return self._stopped.position

    @property
    def state(self) -> Stopped:
        """What is there."""
        return self._stopped

    @property
    def entry(self) -> RunEntry | None:
        """The run that one is in; None at the very end."""
        run = self.position.run
        return self.history.runs[run] if run < len(self.history.runs) else None

    @property
    def object(self) -> LoadedObject | None:
        """The object whose program it is of, or was."""
        return self.history.object_of(self.position.run)

    @property
    def program(self) -> Program | None:
        """The program that is executing."""
        paused = self._stopped.paused
        return None if paused is None else paused.frames[-1].program

    @property
    def pc(self) -> int | None:
        """The slot of its next instruction."""
        paused = self._stopped.paused
        return None if paused is None else paused.frames[-1].pc

    def _number(self, run: int) -> int:
        runs, index = self.history.replay.runs, self.history.replay.index
        return index.engines[runs[min(run, len(runs) - 1)].engine].obj if runs else 0

    def lines_of(self, run: int) -> Lines:
        """The source of the object that a run is of."""
        number = self._number(run)
        if number not in self._lines:
            record = self.history.replay.index.objects[number]
            loaded = self.history.replay.objects[number]
            self._lines[number] = Lines(DebugInfo(loaded.object, lambda: record["file"]))
        return self._lines[number]

    def scope(self, frame: int = 0) -> RecordedScope:
        """What expressions see in a frame. InputError where there is no object at all."""
        run = self.position.run
        scope = self._scope(run)
        scope.program, scope.regs, scope.pc, scope.moment = None, None, 0, None
        frames = self.frames()
        if frames:
            if not 0 <= frame < len(frames):
                raise InputError(f"there is no frame {frame}", remedy=f"0 to {len(frames) - 1}")
            one = frames[frame]
            scope.program, scope.regs, scope.pc = one.program, one.regs, one.shown_pc
        return scope

    def _scope(self, run: int) -> RecordedScope:
        obj = self.history.object_of(run)
        if obj is None:
            raise InputError("the recording has no object", where=self.history.replay.file.path)
        number = self._number(run)
        if number not in self._scopes:
            self._scopes[number] = RecordedScope(self.history, obj, self.lines_of(run).debug)
        return self._scopes[number]

    def frames(self) -> list[Frame]:
        """The functions that are being executed, innermost first; none where no program is."""
        paused = self._stopped.paused
        if paused is None:
            return []
        lines = self.lines_of(self.position.run)
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

    def variables(self, frame: int = 0) -> list[Variable]:
        """The local variables and parameters of a frame, innermost blocks first."""
        frames = self.frames()
        if not 0 <= frame < len(frames):
            return []
        one, scope = frames[frame], self.scope(frame)
        debug = self.lines_of(self.position.run).debug
        found: dict[str, Variable] = {}
        for local in debug.variables(one.program, one.shown_pc):
            if local.function != one.function or local.name in found:
                continue
            try:
                node = variable(local, debug, one.program, one.shown_pc, (0, 0))
                value = node.value(scope)
                found[local.name] = Variable(local.name, local.parameter, value)
            except Mistake as mistake:
                found[local.name] = Variable(local.name, local.parameter, None, mistake.reason)
        return list(found.values())

    def rings(self) -> list[RingState]:
        """The rings, as far as they have told of themselves by now."""
        return list(self.history.rings().values())

    def maps(self) -> Mapping[str, BpfMap]:
        """The maps of the object, to be looked at only."""
        return {} if self.object is None else self.object.image.maps

    def blocks(self) -> list[Region]:
        """The regions that hosts made: user memory, contexts, packets, memory of rings."""
        kinds = (
            RegionKind.USER, RegionKind.SHARED, RegionKind.CTX, RegionKind.PACKET, RegionKind.RING,
        )  # fmt: skip
        return [one for one in self.history.memory.regions() if one.kind in kinds]

    def read_memory(self, addr: int, size: int) -> bytes | None:
        """Bytes of memory of programs or the user; None where there is none."""
        return self.history.memory.look(addr, size)

    def disassemble(self, program: Program, start: int = 0, count: int = 1 << 20) -> list[Line]:
        """So many instructions from the one at, or the next one behind, `start`."""
        obj = next(
            one
            for one in self.history.replay.objects
            if any(known is program for known in one.image.programs.values())
        )
        names = Names(obj.object, program, obj.profile if obj.known_profile else None)
        lines = self.lines_of(self.position.run).debug.lines(program)
        found: list[Line] = []
        for pc, insn in zip(pcs(program.insns), program.insns, strict=True):
            if pc >= start and len(found) < count:
                found.append(Line(pc, format_insn(insn, pc=pc, resolve=names), lines.get(pc)))
        return found

    def run_info(self) -> str:
        """The run that one is in, in a line."""
        entry = self.entry
        if entry is None:
            return "the end of the recording"
        length = self.history.length(entry.number)
        text = f"run {entry.number} of {entry.program}, {self.position.insns} of {length} instructions"
        return f"{text}, request {entry.request} of ring {entry.ring}" if entry.ring else text

    def describe(self) -> str:
        """Where one is, in a line."""
        frames = self.frames()
        if frames:
            one = frames[0]
            place = f"{one.file}:{one.line}" if one.line else "no source line"
            return f"{one.function} at {place}, {one.program.name}+{one.pc}"
        match self._stopped.moment:
            case RunResult() as result:
                return f"the end of {self.run_info()}: r0 = {result.r0:#x}"
            case Trap() as trap:
                return f"the end of {self.run_info()}: {trap.summary}"
            case _:
                return self.run_info()

    # --- expressions ----------------------------------------------------------------------------

    def evaluate(self, text: str, frame: int = 0) -> Value:
        """The value of an expression in a frame. Raises ExpressionError."""
        scope = self.scope(frame)
        return compile_expression(text, scope).evaluate(scope)

    def text_of(self, text: str, frame: int = 0) -> str:
        """The value as its format letter says, or its type. Raises ExpressionError."""
        scope = self.scope(frame)
        return compile_expression(text, scope).text_of(scope)

    # --- breakpoints ----------------------------------------------------------------------------

    def set_breakpoint(self, wanted: Breakpoint) -> Breakpoint:
        """Have moves stop there: the same object, with id, places and whether there are any.
        InputError, ExpressionError for a condition that can be none."""
        if wanted.hit_condition:
            parse_hits(wanted.hit_condition)
        self._resolve(wanted)
        if wanted.condition or wanted.kind == "data":
            self._compile(wanted)
        wanted.id = wanted.id or self._next_id
        self._next_id = max(self._next_id, wanted.id + 1)
        self.breakpoints[wanted.id] = wanted
        return wanted

    def clear(self, number: int) -> None:
        """Take a breakpoint back. InputError for none."""
        if self.breakpoints.pop(number, None) is None:
            raise InputError(f"there is no breakpoint {number}")

    def _programs(self) -> Iterator[tuple[int, Program]]:
        """(a run of its object, or 0; the program) of all."""
        runs, engines = self.history.replay.runs, self.history.replay.index.engines
        first: dict[int, int] = {}
        for entry in runs:
            first.setdefault(engines[entry.engine].obj, entry.number)
            if len(first) == len(self.history.replay.objects):
                break
        for number, loaded in enumerate(self.history.replay.objects):
            for program in loaded.image.programs.values():
                yield first.get(number, 0), program

    def _resolve(self, one: Breakpoint) -> None:
        found: dict[str, frozenset[int]] = {}
        one.message, one.where = "", ""
        for run, program in self._programs():
            at = self._pcs(one, run, program)
            if at:
                found[program.name] = frozenset(at)
                spot = self.lines_of(run).spot(program, min(at))
                line = f" ({spot.line})" if spot.line else ""
                one.where = one.where or f"{program.name}+{min(at)}{line}"
        one.places = found
        match one.kind:
            case "cqe":
                cq = "any CQ" if one.cq is None else f"CQ {one.cq}"
                one.where = f"CQEs of {cq}" + ("" if one.ring is None else f" of ring {one.ring}")
                one.verified = True
            case "start":
                one.where = f"runs of {one.program}" if one.program else "runs"
                names = {program.name for _, program in self._programs()}
                one.verified = not one.program or one.program in names
                one.message = "" if one.verified else f"no program is called {one.program}"
            case "trap":
                one.where, one.verified = "traps", True
            case "data":
                one.verified = True
            case _:
                one.verified = bool(found)
                one.message = "" if found else "no code is there"

    def _pcs(self, one: Breakpoint, run: int, program: Program) -> Iterable[int]:
        lines = self.lines_of(run)
        match one.kind:
            case "line":
                return _line_starts(lines, program, one.file, one.line)
            case "function":
                return lines.function_pcs(program, one.function)
            case "insn":
                starts = set(pcs(program.insns))
                return {one.pc} & starts if program.name == one.program else ()
            case "helper":
                return _calls(program, self._helper_numbers(run, one.helper))
            case _:
                return ()

    def _helper_numbers(self, run: int, name: str) -> frozenset[int]:
        obj = self.history.object_of(run)
        if obj is None:
            return frozenset()
        numbers = {-number for number, one in obj.object.kernel_functions.items() if one == name}
        helpers = obj.profile.helpers if obj.known_profile else {}
        return frozenset(numbers | {number for number, one in helpers.items() if one == name})

    def _compile(self, one: Breakpoint) -> None:
        if one.kind == "data":
            if one.expression:
                value = self.evaluate(one.expression)
                if value.addr is None or not value.type.size:
                    raise InputError(
                        f"{one.expression} lies nowhere in memory",
                        where="breakpoint",
                        remedy="watch a variable in memory, an element of a map, *(u64 *)ADDRESS",
                    )
                one.addr, one.size = value.addr, value.type.size
            if one.size < 1:
                raise InputError("a data breakpoint of no bytes", where="breakpoint")
            name = f"{one.expression}, " if one.expression else ""
            one.where = f"{name}{one.size} bytes at {one.addr:#x}"
        if one.condition and one.kind != "data" and one.places:
            name, at = next(iter(one.places.items()))
            run, program = next(pair for pair in self._programs() if pair[1].name == name)
            scope = self._scope(run)
            scope.program, scope.pc, scope.moment = program, min(at), None
            scope.regs = (0,) * 11
            one.compiled = compile_expression(one.condition, scope)
            one.compiled.check_condition()
        elif one.condition:
            scope = self.scope()
            one.compiled = compile_expression(one.condition, scope)
            one.compiled.check_condition()

    # --- moving ---------------------------------------------------------------------------------

    def goto(self, position: Position) -> Stop:
        """Go to a position. InputError for one that there is not."""
        self.history.interrupted = False
        self._stopped = self.history.at(position)
        return Stop("goto", position, text=self.describe())

    def interrupt(self) -> None:
        """From another thread, or a signal: the move that is going on ends, with "pause"."""
        self.history.interrupted = True

    def move(self, how: How, *, backward: bool = False) -> Stop:
        """Move, and say why the move ended. Where it is broken off ("pause") one is where one was."""
        if how not in get_args(How):
            raise InputError(f"there is no move {how!r}", remedy=", ".join(get_args(How)))
        if how == "stepi":
            return self._one(backward)
        raise InputError(f"{how} is not there yet")

    def _one(self, backward: bool) -> Stop:
        history, here = self.history, self.position
        history.interrupted = False
        there = history.before(here) if backward else history.after(here)
        if there is None:
            return Stop("start" if backward else "end", here, text=self.describe())
        self._stopped = history.at(there)
        return Stop("step", there, text=self.describe())


def _line_starts(lines: Lines, program: Program, file: str, line: int) -> list[int]:
    """Where code of a line begins: of rows that follow one another the first."""
    found, before = [], None
    for pc in sorted(lines.debug.lines(program)):
        spot: Spot = lines.spot(program, pc)
        now = (spot.functions, None if spot.line is None else (spot.line.file, spot.line.line))
        if pc in lines.debug.pcs_of(program, file, line) and now != before:
            found.append(pc)
        before = now
    return found


def _calls(program: Program, numbers: frozenset[int]) -> list[int]:
    return [
        pc
        for pc, insn in zip(pcs(program.insns), program.insns, strict=True)
        if insn.spec.kind in _CALLS and insn.imm in numbers
    ]


__all__ = ["Debugger", "Frame", "How", "Line", "Reason", "Stop", "Variable"]

"""The one object that every surface drives: where one is, what is there, and how to move."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, Self, get_args

from pybpfvm.debugger.breakpoints import Breakpoint, shown_bytes, written_as
from pybpfvm.debugger.codeplaces import CodePlaces
from pybpfvm.debugger.condition import Condition
from pybpfvm.debugger.frames import Frame, Variable, frames_of, register_of, variables_of
from pybpfvm.debugger.history import History, Interrupted, Progress, Stopped, Unreachable
from pybpfvm.debugger.lines import Lines
from pybpfvm.debugger.met import Breakpoints, Match, Returns
from pybpfvm.debugger.placing import Placing
from pybpfvm.debugger.position import Position
from pybpfvm.debugger.scope import RecordedScope
from pybpfvm.debugger.search import Here, Search, Sought
from pybpfvm.debugger.sought import (
    CqeSteps,
    Either,
    HelperCalls,
    LineSteps,
    NoDeeper,
    Shallower,
)
from pybpfvm.debugger.telling import Telling
from pybpfvm.debugger.writes import Write, Writers
from pybpfvm.engine import RunResult
from pybpfvm.errors import InputError, SourceLine, Trap
from pybpfvm.events import Noted
from pybpfvm.expr.compiled import compile_expression
from pybpfvm.expr.ctype import Shape
from pybpfvm.expr.scope import Moment
from pybpfvm.expr.value import Value
from pybpfvm.isa.codec import pcs
from pybpfvm.isa.disasm import format_insn
from pybpfvm.listing import Names
from pybpfvm.maps.base import BpfMap
from pybpfvm.memory import Region, RegionKind
from pybpfvm.program import Program
from pybpfvm.session.objects import LoadedObject
from pybpfvm.source.info import DebugInfo
from pybpfvm.trace.index import RunEntry
from pybpfvm.trace.ringstate import RingState
from pybpfvm.uring_backend.abi import Op

How = Literal["step", "next", "finish", "continue", "stepi", "nexti", "run", "cqe", "helper"]
Reason = Literal[
    "step", "breakpoint", "end", "start", "trap", "pause", "goto", "diverged", "not found"
]


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a disassembly; `source` where a C line begins."""

    pc: int
    text: str
    source: SourceLine | None


@dataclass(frozen=True, slots=True)
class Change:
    """Data that a breakpoint watches was changed just before: from and to, in words."""

    breakpoint: Breakpoint
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Why a move ended and where; `text` says it in words. `log` is what logpoints told, and what
    programs printed on the way forward, `changes` what became of watched data, `moment` the event
    that a condition was found to hold of."""

    reason: Reason
    position: Position
    breakpoints: tuple[Breakpoint, ...] = ()
    text: str = ""
    log: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()
    moment: Moment | None = None


class Debugger:
    """A recording that is looked at; a context manager. It opens at the fault that ended the
    recording if one did, at its end if something else went wrong there, else at its start.

    Nothing here prints. `on_log` gets what logpoints tell, and what programs print on the way
    forward (else that is in Stop.log), `progress`
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
        self.breakpoints: dict[int, Breakpoint] = {}
        self._next_id = 1
        self.telling = Telling(self.history, self._scope)
        self.telling.sink = on_log
        self._lines: dict[int, Lines] = {}
        self._scopes: dict[int, RecordedScope] = {}
        self.placing = Placing(self.history, self.lines_of, self._scope)
        try:
            self._code = CodePlaces([program for _, program in self.placing.programs])
            fault, history = self.history.fault(), self.history
            begin = history.end if self.ended() else history.start
            self._stopped: Stopped = history.at(fault or begin)
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

    def ended(self) -> str:
        """What went wrong where the recording ends: an unexpected stop, or else an expectation
        that was not met; "" for nothing that it knows of."""
        noted: dict[str, str] = {}
        for told in self.history.told_before(self.history.end.run):
            if isinstance(told.event, Noted) and told.event.kind in ("stopped", "failed"):
                noted.setdefault(told.event.kind, told.event.text)
        return noted.get("stopped") or noted.get("failed", "")

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
        return frames_of(paused, self.lines_of(self.position.run))

    def variables(self, frame: int = 0) -> Sequence[Variable]:
        """The local variables and parameters of a frame, innermost blocks first."""
        frames = self.frames()
        if not 0 <= frame < len(frames):
            return []
        debug = self.lines_of(self.position.run).debug
        return variables_of(frames[frame], debug, self.scope(frame))

    def rings(self) -> list[RingState]:
        """The rings, as far as they have told of themselves by now."""
        return list(self.history.rings().values())

    def opcode_name(self, opcode: int) -> str:
        """What the requests of the recording's ABI with this opcode are called."""
        obj = self.object
        rules = None if obj is None or obj.known_profile is None else obj.known_profile.ring
        if rules is not None and opcode == rules.bpf_opcode:
            return "BPF"
        try:
            return Op(opcode).name
        except ValueError:
            return f"opcode {opcode}"

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
        text = (
            f"run {entry.number} of {entry.program}, {self.position.insns} of {length} instructions"
        )
        if not entry.ring:
            return text
        return f"{text}, request {entry.request} of {self.history.ring_title(entry.ring)}"

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

    def set_breakpoint(self, wanted: Breakpoint, frame: int = 0) -> Breakpoint:
        """Have moves stop there: the same object, with id, places and whether there are any. What
        is watched is what its expression means in a frame. InputError, ExpressionError for
        expressions that can not be what they are to be there."""
        self.placing.place(wanted)
        if wanted.condition or wanted.log_message or wanted.hit_condition or wanted.kind == "data":
            self.placing.compile(wanted, self.scope(frame))
        wanted.id = wanted.id or self._next_id
        self._next_id = max(self._next_id, wanted.id + 1)
        self.breakpoints[wanted.id] = wanted
        return wanted

    def resolve(self, wanted: Breakpoint) -> Breakpoint:
        """Only say where that would be: the same object, with places and whether there are any."""
        self.placing.place(wanted)
        return wanted

    def clear(self, number: int) -> None:
        """Take a breakpoint back. InputError for none."""
        if self.breakpoints.pop(number, None) is None:
            raise InputError(f"there is no breakpoint {number}")

    # --- moving ---------------------------------------------------------------------------------

    def goto(self, position: Position) -> Stop:
        """Go to a position. InputError for one that there is not. Broken off as a move is."""
        here = self._stopped
        self.history.interrupted = False
        try:
            self._stopped = self.history.at(position)
        except (Interrupted, KeyboardInterrupt):
            return self._back(here, "pause", "interrupted")
        return Stop("goto", position, text=self.describe())

    def interrupt(self) -> None:
        """From another thread, or a signal: the move that is going on ends, with "pause"."""
        self.history.interrupt()

    def move(self, how: How, *, backward: bool = False) -> Stop:
        """Move, and say why the move ended. One that is broken off ("pause") leaves one where one
        was. Backward, logpoints are nobody's, and hits are counted but not waited for: a move stops
        where a breakpoint's condition holds."""
        if how not in get_args(How):
            raise InputError(f"there is no move {how!r}", remedy=", ".join(get_args(How)))
        here = self._stopped
        history = self.history
        history.interrupted = False
        self.telling.begin(here.position.run)
        try:
            stop = self._one(backward) if how == "stepi" else self._moved(how, backward)
        except (Interrupted, KeyboardInterrupt):
            stop = self._back(here, "pause", "interrupted")
        except Unreachable as error:
            self._stopped = history.back_at(min(here.position, history.end))
            stop = Stop("diverged", self.position, text=str(error))
        forward = not backward and stop.reason not in ("pause", "diverged")
        return replace(stop, log=self.telling.end(self.position.run if forward else None))

    def _back(self, here: Stopped, reason: Reason, text: str) -> Stop:
        self._stopped = self.history.back_at(here.position)
        return Stop(reason, here.position, text=text)

    def _moved(self, how: How, backward: bool) -> Stop:
        history, here = self.history, self.position
        if here == (history.start if backward else history.end):
            return self._at_edge(backward)
        if how == "run":
            run = here.run if backward and here.insns else here.run + (-1 if backward else 1)
            self._stopped = history.at(min(Position(max(run, 0), 0), history.end))
            return self._at_edge(False) if self.position == history.end else self._stop("step")
        met = Breakpoints(
            history,
            self._code,
            [
                one
                for one in self.breakpoints.values()
                if one.enabled and not (backward and one.log_message is not None)
            ],
            self._scope,
            Returns(self.placing.called),
            None if backward else self._fire,
        )
        met.start()
        step = self._step_sought(how, backward)
        alone = step is not None and not met.any
        sought: Sought = met if step is None else step if alone else Either(step, met)
        in_run = how in ("step", "next", "finish", "nexti")
        if backward and in_run and not here.insns:
            here = Position(here.run - 1, history.length(here.run - 1) + 1)
        search = Search(history)
        if backward:
            found = search.backward(here, sought, whole_run=in_run)
        else:
            found = search.forward(here, sought, whole_run=in_run)
        if found is None:
            return self._not_found(how, backward, here, in_run)
        self._stopped = history.at(found.position)
        by_breakpoint = sought is met or (isinstance(sought, Either) and sought.by_other)
        if not by_breakpoint:
            return self._stop("step")
        matched = tuple(one.breakpoint for one in met.matched)
        for one in matched:
            one.hits += backward
            if one.temporary:
                self.breakpoints.pop(one.id, None)
        changes = tuple(
            Change(one.breakpoint, *map(one.breakpoint.text_of, one.change))
            for one in met.matched
            if one.change is not None
        )
        return replace(self._stop("breakpoint"), breakpoints=matched, changes=changes)

    def _stop(self, reason: Reason) -> Stop:
        return Stop(reason, self.position, text=self.describe())

    def _at_edge(self, backward: bool) -> Stop:
        return self._stop("start" if backward else "end")

    def _step_sought(self, how: How, backward: bool) -> Sought | None:
        """What the move itself looks for, breakpoints aside."""
        frames = self.frames()
        paused = self._stopped.paused
        depth = 0 if paused is None else len(paused.frames) - 1
        logical = max(len(frames) - 1, 0)
        if backward and not self.position.insns:  # in the run before, no frame is this one
            depth = logical = 0
        match how:
            case "step" | "next":
                steps = LineSteps(self.lines_of, None if how == "step" else logical)
                if paused is not None and not backward:
                    one = paused.frames[-1]
                    steps.start(Here(*self.position, one.program, one.pc, one.regs, depth))
                return steps
            case "finish":
                return Shallower(self.lines_of, logical)
            case "nexti":
                return NoDeeper(depth)
            case "helper":
                return HelperCalls(self._code)
            case "cqe":
                return CqeSteps(self.history, self._code)
            case _:
                return None

    def _not_found(self, how: How, backward: bool, here: Position, in_run: bool) -> Stop:
        """The move came to the end of where it looks."""
        history = self.history
        if in_run and here.run < len(history.runs):
            length = history.length(here.run)
            if backward:
                self._stopped = history.at(Position(here.run, 0))
                return self._stop("step")
            if here.insns < length and how == "finish":
                self._stopped = history.at(Position(here.run, length))
                return self._stop("step")
            self._stopped = history.at(Position(here.run + 1, 0))
            return self._stop("step")
        fault = history.fault()
        if not backward and fault is not None and here < fault:
            self._stopped = history.at(fault)
            return self._trap()
        self._stopped = history.at(history.start if backward else history.end)
        return self._at_edge(backward)

    def _trap(self) -> Stop:
        """The stop at the fault that ended the recording."""
        how = self.history.runs[-1].how
        assert how is not None
        return Stop("trap", self.position, text=f"{how[4]}, {self.describe()}")

    def _fire(self, met: Match, here: Here) -> bool:
        """A breakpoint is met: whether the move ends."""
        one = met.breakpoint
        one.hits += 1
        if not one.counts():
            return False
        if one.log_message is not None:
            self.telling.logpoint(met, here)
        return one.log_message is None

    def seek(self, expression: str, *, last: bool = True) -> Stop:
        """Go where a condition held: the last position of the whole recording, or the first.
        Reason "not found" where it never did. Raises ExpressionError for what is none, or has no
        value anywhere."""
        here, history = self._stopped, self.history
        history.interrupted = False
        returns = Returns(self.placing.called)
        condition = Condition(history, self._code, expression, self._scope, returns)
        condition.compile_at(self.scope())
        search = Search(history)
        try:
            if last:
                end = Here(history.end.run, events=list(history.told_before(history.end.run)))
                history.at(history.end)
                found = end if condition.holds(end) else search.backward(history.end, condition)
            else:
                found = search.forward(Position(0, -1), condition)
        except (Interrupted, KeyboardInterrupt):
            return self._back(here, "pause", "interrupted")
        except BaseException:
            self._stopped = history.back_at(here.position)
            raise
        if found is None:
            if condition.failed is not None and not condition.had_value:
                self._stopped = history.back_at(here.position)
                raise condition.failed
            return self._back(here, "not found", f"{expression} never held")
        self._stopped = history.at(found.position)
        return replace(self._stop("goto"), moment=condition.moment_at(found.position))

    def who_wrote(self, target: str | tuple[int, int], frame: int = 0) -> Write:
        """Who gave a register, a variable, an element of a map, a word of a ring, or (address,
        size) the value that it has: the last that changed it. One stays where one is.

        Raises ExpressionError for what is none of these. Interrupted: InputError.
        """
        here, history = self._stopped, self.history
        history.interrupted = False
        try:
            return self._writer_of(target, frame)
        except (Interrupted, KeyboardInterrupt):
            raise InputError("the search was interrupted") from None
        finally:
            self._stopped = history.back_at(here.position)

    def _writer_of(self, target: str | tuple[int, int], frame: int) -> Write:
        called = self.placing.called
        writers = Writers(self.history, self._code, self._scope, self._line_at, called)
        here = self.position
        if isinstance(target, tuple):
            return writers.memory(here, *target, f"{target[1]} bytes at {target[0]:#x}")
        frames, paused = self.frames(), self._stopped.paused
        debug = self.lines_of(here.run).debug
        register = None
        if 0 <= frame < len(frames):
            register = register_of(target.strip(), frames[frame], debug)
        if register is not None and paused is not None:
            outside = sum(not one.inlined for one in frames[:frame])
            return writers.register(here, register, len(paused.frames) - 1 - outside)
        scope = self.scope(frame)
        compiled = compile_expression(target, scope)
        value = compiled.evaluate(scope)
        if value.addr is not None and value.type.size:
            struct = value.type.shape is Shape.RECORD
            shown = partial(written_as, value) if struct else shown_bytes
            return writers.memory(here, value.addr, value.type.size, target, shown)
        return writers.expression(here, compiled)

    def _line_at(self, run: int, program: Program, pc: int) -> SourceLine | None:
        return self.lines_of(run).spot(program, pc).line

    def _one(self, backward: bool) -> Stop:
        history, here = self.history, self.position
        there = history.before(here) if backward else history.after(here)
        if there is None:
            return Stop("start" if backward else "end", here, text=self.describe())
        self._stopped = history.at(there)
        return Stop("step", there, text=self.describe())


__all__ = ["Change", "Debugger", "Frame", "How", "Line", "Reason", "Stop", "Variable", "Write"]

"""Who wrote this: from a value back to what gave it."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pybpfvm.debugger.breakpoints import shown_bytes
from pybpfvm.debugger.codeplaces import CodePlaces
from pybpfvm.debugger.history import History, Told
from pybpfvm.debugger.met import placed
from pybpfvm.debugger.position import Position
from pybpfvm.debugger.scope import RecordedScope
from pybpfvm.debugger.search import Here, Places, Search, Sought
from pybpfvm.errors import InputError, SourceLine
from pybpfvm.events import (
    CqePosted,
    CqeReaped,
    Event,
    Parked,
    RequestEnded,
    RunStarted,
    SqeIssued,
    Woken,
)
from pybpfvm.expr.compiled import Compiled
from pybpfvm.expr.mistake import ExpressionError
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import FRAME_POINTER, Kind
from pybpfvm.memory import RegionKind
from pybpfvm.outline import changed, outline_of, written
from pybpfvm.program import Program
from pybpfvm.uring_backend.abi import Op

_CLOBBERED = range(6)
_CALLS = (Kind.CALL, Kind.CALL_KFUNC)
_ADDR = struct.Struct("<QI")  # of an SQE, at 16: address, length
_FILLS = frozenset({"READ", "READ_FIXED", "READV", "RECV", "RECVMSG", "READ_MULTISHOT", "STATX"})
_WIDEST = 200_000
_FIRST_WIDTH = 256
_MOST_TOLD = 4


@dataclass(frozen=True, slots=True)
class Write:
    """Where a value came from. `position` is before the instruction that wrote it, or, where none
    did (`by` "host" or "ring", between runs), behind the write. `by` is "program", "helper NAME",
    "ring", "host", or "start" for what a run, a function or a block begins with. `old` and `new`
    are in words."""

    position: Position
    by: str
    text: str
    old: str = ""
    new: str = ""
    program: Program | None = None
    pc: int | None = None
    line: SourceLine | None = None


class Changes(Sought):
    """Where bytes, or the value of an expression, are others than before the last instruction."""

    def __init__(self, look: Callable[[Here], object], places: Callable[[int], Places | None]):
        self._look = look
        self._places = places
        self._before: object = None
        self.found: tuple[object, object] | None = None

    def places(self, run: int) -> Places | None:
        """Where it can change."""
        return self._places(run)

    def at_start(self, run: int) -> bool:
        """Between runs is asked elsewhere."""
        return False

    def prime(self, here: Here) -> None:
        """Remember it."""
        self._before = self._look(here)

    def holds(self, here: Here) -> bool:
        """Whether it is another."""
        before, self._before = self._before, self._look(here)
        if not here.follows or not here.insns or before == self._before:
            return False
        self.found = before, self._before
        return True


class Writers:
    """Searches for writes in one history. `called` gives the calls of a program, by pc."""

    def __init__(
        self,
        history: History,
        code: CodePlaces,
        scope: Callable[[int], RecordedScope],
        line_at: Callable[[int, Program, int], SourceLine | None],
        called: Callable[[Program], Mapping[int, str]],
    ) -> None:
        self._history = history
        self._code = code
        self._scope = scope
        self._line_at = line_at
        self._called = called

    # --- registers ----------------------------------------------------------------------------

    def register(self, here: Position, register: int, depth: int) -> Write:
        """Who wrote a register of the frame so deep, as it is at `here`."""
        run, end, width = here.run, here.insns, _FIRST_WIDTH
        behind: Program | None = None
        while end > 0:
            first = max(end - width, 0)
            shown = self._shown(run, first, end)
            for n, program, pc, regs, at_depth in reversed(shown):
                if at_depth > depth:
                    continue
                insn = _insn(program, pc)
                if at_depth < depth:  # the function of the register begins behind this
                    depth = at_depth
                    if register == FRAME_POINTER or insn.spec.kind in _CALLS:
                        return self._by(run, n, program, pc, insn, register, regs)
                    continue
                if insn.spec.kind is Kind.CALL_LOCAL and register in _CLOBBERED:
                    if register == 0:
                        left = self._last_of_callee(run, n, here)
                        return self.register(Position(run, left), 0, depth + 1)
                    return self._by(run, n, program, pc, insn, register, regs)
                if _writes(insn, register):
                    return self._by(run, n, program, pc, insn, register, regs)
                behind = program
            end, width = first, min(2 * width, _WIDEST)
        what = "the context" if register == 1 else "its frame" if register == 10 else "0"
        at = Position(run, 0)
        text = f"r{register} is {what} since the run began"
        return Write(at, "start", text, program=behind)

    def _last_of_callee(self, run: int, call: int, here: Position) -> int:
        """How many instructions had been executed when the function returned that the instruction
        `call` called, and the caller went on."""
        depth: list[int] = []
        found = here.insns

        def watch(n: int, _: Program, pc: int, regs: tuple[int, ...], at_depth: int) -> bool:
            nonlocal found
            if not depth:
                depth.append(at_depth)
                return False
            if at_depth <= depth[0]:
                found = n
                return True
            return False

        self._history.walk(run, call, here.insns, watch)
        return found

    def _shown(
        self, run: int, first: int, last: int
    ) -> list[tuple[int, Program, int, tuple[int, ...], int]]:
        shown: list[tuple[int, Program, int, tuple[int, ...], int]] = []

        def watch(n: int, program: Program, pc: int, regs: tuple[int, ...], depth: int) -> bool:
            shown.append((n, program, pc, regs, depth))
            return False

        self._history.stop_if_interrupted()
        self._history.walk(run, first, last, watch)
        return shown

    def _by(
        self,
        run: int,
        n: int,
        program: Program,
        pc: int,
        insn: Insn,
        register: int,
        regs: tuple[int, ...],
    ) -> Write:
        at = Position(run, n)
        new = ""
        behind = self._history.at(Position(run, n + 1)).paused
        if behind is not None:
            new = f"{behind.frames[-1].regs[register]:#x}"
        by = self._author(program, pc, insn)
        old = f"{regs[register]:#x}"
        return self._write(at, by, f"r{register}", old, new, program, pc)

    def _author(self, program: Program, pc: int, insn: Insn) -> str:
        if insn.spec.kind in _CALLS:
            return f"helper {self._called(program)[pc]}"
        return "program"

    def _write(
        self, at: Position, by: str, what: str, old: str, new: str, program: Program, pc: int
    ) -> Write:
        line = self._line_at(at.run, program, pc)
        place = f"{program.name}+{pc}" + (f", {line}" if line is not None else "")
        return Write(
            at, by, f"{what}: {old} -> {new} by {by} at {place}", old, new, program, pc, line
        )

    # --- memory and other values ----------------------------------------------------------------

    def memory(
        self,
        here: Position,
        addr: int,
        size: int,
        what: str,
        shown: Callable[[bytes], str] = shown_bytes,
    ) -> Write:
        """Who changed these bytes last before `here`; `shown` writes them."""
        memory = self._history.memory

        def look(_: Here) -> object:
            return memory.look(addr, size)

        region = memory.region_at(addr)
        of_run = region is not None and region.kind is RegionKind.STACK
        found = self._changed(here, look, lambda _: None, within_run=of_run)
        if found is None and of_run:
            text = f"{what}: nobody has written it since run {here.run} began"
            return Write(Position(here.run, 0), "start", text)
        if found is None:
            return self._always(what)
        at, old, new, told = found
        old_text, new_text = (
            shown(one) if isinstance(one, bytes) else "(no memory)" for one in (old, new)
        )
        if at.insns:
            return self._in_run(at, what, old_text, new_text)
        by, who = self._between(at.run, addr, size, told)
        text = f"{what}: {old_text} -> {new_text} by {who}, before run {at.run}"
        return Write(at, by, text, old_text, new_text)

    def expression(self, here: Position, compiled: Compiled) -> Write:
        """What changed the value of an expression last that lies nowhere in memory."""

        if not compiled.needs and not compiled.looks:
            raise InputError(f"nobody wrote {compiled.text}: it is the same always")
        local = "regs" in compiled.needs

        def look(one: Here) -> object:
            # Names of rings and maps may be those of variables elsewhere.
            there = one if local else Here(one.run, one.insns)
            try:
                return compiled.text_of(placed(self._scope(one.run), there, None))
            except ExpressionError as error:
                return f"({error.reason})"

        # What is of rings only changes where they are asked something, or between runs.
        places = None if local or "memory" in compiled.looks else self._code.around_calls()
        found = self._changed(here, look, lambda _: places)
        if found is None:
            return self._always(compiled.text)
        at, old, new, told = found
        if at.insns:
            return self._in_run(at, compiled.text, str(old), str(new))
        who = _who(told)
        by = "ring" if told else "host"
        text = f"{compiled.text}: {old} -> {new} by {who}, before run {at.run}"
        return Write(at, by, text, str(old), str(new))

    def _always(self, what: str) -> Write:
        text = f"{what}: as it was when the first run began"
        return Write(self._history.start, "start", text)

    def _in_run(self, at: Position, what: str, old: str, new: str) -> Write:
        before = Position(at.run, at.insns - 1)
        paused = self._history.at(before).paused
        assert paused is not None
        frame = paused.frames[-1]
        insn = _insn(frame.program, frame.pc)
        by = self._author(frame.program, frame.pc, insn)
        return self._write(before, by, what, old, new, frame.program, frame.pc)

    def _changed(
        self,
        here: Position,
        look: Callable[[Here], object],
        places: Callable[[int], Places | None],
        *,
        within_run: bool = False,
    ) -> tuple[Position, object, object, list[Told]] | None:
        """(where it has just changed, before, after, what rings told between runs), None if it
        never did, or not `within_run`, the one that one is in."""
        history, search = self._history, Search(self._history)
        end = here
        while True:
            history.stop_if_interrupted()
            if end.run < len(history.runs) and end.insns:
                sought = Changes(look, places)
                last = history.at(end)
                now = look(_here(end, last.paused and last.paused.frames[-1]))
                before = Position(end.run, end.insns - 1)
                if places(end.run) is None or not before.insns:
                    one = history.at(before)
                    then = look(_here(before, one.paused and one.paused.frames[-1]))
                    if then != now:
                        return end, then, now, []
                    end = before
                found = search.backward(end, sought, whole_run=True) if end.insns else None
                if found is not None and sought.found is not None:
                    return found.position, *sought.found, []
                end = Position(end.run, 0)
            if not end.run or within_run:
                return None
            at = history.at(end)
            now = look(_here(end, at.paused and at.paused.frames[-1]))
            before = Position(end.run - 1, history.length(end.run - 1))
            history.at(before)
            then = look(_here(before, None))
            if then != now:
                return end, then, now, list(history.told_before(end.run))
            end = before

    def _between(self, run: int, addr: int, size: int, told: list[Told]) -> tuple[str, str]:
        """(by, in words) who changed user memory between two runs."""
        ended = {
            one.event.request
            for one in told
            if isinstance(one.event, RequestEnded | CqePosted) and one.event.request is not None
        }
        for number in reversed(range(run + 1)):
            if not ended:
                break
            for one in (*self._history.told_before(number), *self._told_in(number)):
                event = one.event
                if not isinstance(event, SqeIssued) or event.request not in ended:
                    continue
                ended.discard(event.request)
                if len(event.sqe) >= 28 and _name(event.opcode) in _FILLS:
                    start, length = _ADDR.unpack_from(event.sqe, 16)
                    if start < addr + size and addr < start + length:
                        name = f"request {event.request}, IORING_OP_{_name(event.opcode)}"
                        return "ring", f"the ring ({name} of {event.origin})"
        return "host", "the host"

    def _told_in(self, run: int) -> list[Told]:
        return list(self._history.told_in(run)) if run < len(self._history.runs) else []


def _here(at: Position, frame: object) -> Here:
    from pybpfvm.engine import PausedFrame

    if isinstance(frame, PausedFrame):
        return Here(at.run, at.insns, frame.program, frame.pc, frame.regs)
    return Here(at.run, at.insns)


def _insn(program: Program, pc: int) -> Insn:
    return program.insns[outline_of(program).starts.index(pc)]


def _writes(insn: Insn, register: int) -> bool:
    """Whether the instruction gives the register a value."""
    if insn.spec.kind in _CALLS:
        return register in _CLOBBERED
    return register in (changed(insn), written(insn))


def _name(opcode: int) -> str:
    try:
        return Op(opcode).name
    except ValueError:
        return str(opcode)


def _who(told: Sequence[Told]) -> str:
    """What happened between two runs: to CQEs, or else to requests."""
    for say in (_of_cqe, _of_request):
        found = list(dict.fromkeys(filter(None, (say(one.event) for one in told))))
        if found:
            more = f"; and {len(found) - _MOST_TOLD} more" if len(found) > _MOST_TOLD else ""
            return "; ".join(found[:_MOST_TOLD]) + more
    return "the host"


def _of_cqe(event: Event) -> str:
    match event:
        case CqePosted():
            return f"CQE {event.user_data:#x}, res {event.res} to CQ {event.cq} from {event.origin}"
        case CqeReaped():
            return (
                f"CQE {event.user_data:#x}, res {event.res} reaped from CQ {event.cq} by {event.by}"
            )
        case _:
            return ""


def _of_request(event: Event) -> str:
    match event:
        case SqeIssued():
            return f"{event.origin}, submitting request {event.request}"
        case RequestEnded():
            return f"request {event.request}, which ended with {event.res}"
        case Parked():
            return f"request {event.request}, which waits until CQ {event.cq} holds {event.wanted}"
        case Woken():
            return f"request {event.request}, which goes on"
        case RunStarted():
            return f"run {event.run} of request {event.request}"
        case _:
            return ""


__all__ = ["Write", "Writers"]

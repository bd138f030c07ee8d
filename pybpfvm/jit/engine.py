"""The engine over compiled code: what others see of it, and what lives as long as it."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from pybpfvm.bits import U64, sign_extend
from pybpfvm.engine import (
    DEFAULT_BUDGET_INSNS,
    Paused,
    PausedFrame,
    RunEnvironment,
    RunResult,
    trust_nobody,
)
from pybpfvm.errors import InputError, InternalError, Trap, TrapKind
from pybpfvm.helpers.proto import Helper
from pybpfvm.image import Image
from pybpfvm.isa.opcodes import (
    FRAME_POINTER,
    MAX_FRAMES,
    MAX_TAIL_CALLS,
    MAY_GOTO_ITERATIONS,
    REGISTERS,
    STACK_BYTES,
    Kind,
)
from pybpfvm.jit.answers import SLICE_INSNS, Answers
from pybpfvm.jit.compiling import Enter
from pybpfvm.jit.emitted import Build, Callee
from pybpfvm.jit.faults import fault_handler
from pybpfvm.jit.frames import PauseReached
from pybpfvm.jit.options import Checks
from pybpfvm.jit.pages import code_area
from pybpfvm.jit.recorder import Recorder
from pybpfvm.jit.state import Slot, State
from pybpfvm.jit.thunks import Thunks, c_function
from pybpfvm.jit.unit import Unit
from pybpfvm.memory import FRAME_STRIDE, Region
from pybpfvm.program import Program
from pybpfvm.recording import NOTHING, Recorded, Recording
from pybpfvm.runcontext import Stop

if TYPE_CHECKING:
    from pybpfvm.uring_backend.kernel.loop import KernelLoop
    from pybpfvm.uring_backend.kernel.steps import KernelSteps


class JitEngine(Answers):
    """Runs the programs of `image` as machine code; an Engine, and its own helpers' context.

    Programs that `trusted` names are compiled without checks, the others with `checks`.
    `counted`: budgets hold and instructions are counted; without, RunResult.insns is 0.
    `record` is what runs leave in `recorded`; `stack` the frames, of AddressSpace.alloc_frames, if
    it is to share another's.
    Raises InputError where executable memory is refused.
    """

    def __init__(
        self,
        image: Image,
        helpers: Mapping[int, Helper],
        environment: RunEnvironment,
        *,
        checks: Checks = Checks.EXACT,
        trusted: Callable[[Program], bool] = trust_nobody,
        counted: bool = True,
        record: Recording = NOTHING,
        stack: Sequence[Region] | None = None,
    ) -> None:
        if image.object.big_endian:
            raise InputError("the object is big-endian", where="jit", remedy="use --engine interp")
        super().__init__(image, environment, 0, None)
        self.hook = None
        self._helpers = helpers
        self._checks = checks
        self._trusted = trusted
        # Only programs of this image run here, so only they can be left by tail calls.
        tail_calls = {number for number, row in helpers.items() if row.name == "tail_call"}
        self._uniform = any(
            insn.spec.kind is Kind.CALL and insn.imm in tail_calls
            for program in image.programs.values()
            for insn in program.insns
        )
        self._build = Build(fuel=counted, uniform=self._uniform, record=record)
        self._units = {}
        self._pieces = []
        self._loops = None
        self._natives = None
        self._copies = None
        self._lasting_sites = 0
        self._last = None
        self._callees = {}
        self._called_at = {}
        self._running = self._looping = self._pausing = False
        self._one_run = threading.Lock()
        self._closed = False
        self._beyond = 0
        self._budget = 0
        self._back = -1, 0  # executed when a callback ended last; the same before that call
        self._tail_calls_left = 0
        self._current = None
        self._faults = fault_handler()
        with ExitStack() as made:  # what was made before something is refused is given back
            self._state = state = State(self.memory)
            made.callback(state.close)
            self._recorder = Recorder(record, self.memory, state) if record != NOTHING else None
            if self._recorder is not None:
                made.callback(self._recorder.close)
            self._own_stack: list[Region] = []
            if stack is None:
                self._own_stack = self.memory.alloc_frames(MAX_FRAMES, STACK_BYTES)
            self._stack = stack or self._own_stack
            for frame in self._own_stack:
                made.callback(self.memory.free, frame)
            self._thunks = Thunks(state, self.memory.base, self._faults)
            made.pop_all()
        self._asked = self._answer
        self._zero = 0
        state.hold(Slot.CONTEXT, self)
        state.hold(Slot.ASK, self._asked)
        state.hold(Slot.ZERO, self._zero)
        state.words[Slot.FIRST_FRAME] = self._stack[0].end
        state.words[Slot.LAST_FRAME] = self._stack[-1].end
        self.memory.before_close(self.close)

    def run(
        self,
        program: Program,
        ctx_addr: int,
        *,
        budget_insns: int = DEFAULT_BUDGET_INSNS,
        packet: Region | None = None,
    ) -> RunResult:
        """Run `program` with r1 = `ctx_addr` until it exits: see Engine.run."""
        self._begin(program)
        try:
            return self._run(program, ctx_addr, budget_insns, packet)
        finally:
            self._end()

    def run_to(
        self, program: Program, ctx_addr: int, insns: int, *, packet: Region | None = None
    ) -> Paused | RunResult:
        """Pause when `insns` have been executed: see PausingEngine. The program is compiled for
        that, with all checks."""
        if not self._build.fuel:
            raise InternalError("an engine that does not count is to pause")
        return self._paused(program, insns, lambda: self._run(program, ctx_addr, insns, packet))

    def resume_to(self, paused: Paused, insns: int) -> Paused | RunResult:
        """Go on where a run paused, at the start of a block: see PausingEngine."""
        program = paused.frames[0].program
        return self._paused(program, insns, lambda: self._resumed(paused, insns))

    def _paused(
        self, program: Program, insns: int, run: Callable[[], RunResult]
    ) -> Paused | RunResult:
        """What a run gives, or where it paused after `insns` instructions."""
        self._begin(program)
        self._pausing, self._last = True, None
        try:
            return run()
        except PauseReached as reached:
            return Paused(
                tuple(reversed(reached.frames)),
                insns,
                self._state.words[Slot.MAY_GOTO],
                self._tail_calls_left,
                self.ctx_addr,
                self.packet,
                reached.called_back,
            )
        finally:
            self._pausing, self._last = False, None
            self._end()

    def _begin(self, program: Program | None) -> None:
        """This thread runs; raises unless nothing does."""
        if not self._one_run.acquire(blocking=False):
            raise InternalError("an engine runs one program at a time")
        if self._closed:
            self._one_run.release()
            raise InputError("the engine is closed", where=program.name if program else "jit")
        self._running = True

    def _end(self) -> None:
        self._running = self._looping = False
        if self._pieces:
            self._drop_pieces()
        self._one_run.release()

    def _run(
        self, program: Program, ctx_addr: int, budget_insns: int, packet: Region | None
    ) -> RunResult:
        unit, start = self._prepared(program)
        self._set_up(ctx_addr, packet, budget_insns, 0)
        return self._entered(unit, start, ctx_addr)

    def _resumed(self, paused: Paused, budget_insns: int) -> RunResult:
        """The rest of a run, whose counts go on."""
        *callers, last = paused.frames
        unit = self.unit(last.program)
        if not paused.resumable or last.astray or last.pc not in unit.code.blocks:
            raise InternalError("compiled code is to go on elsewhere than at the start of a block")
        self._set_up(paused.ctx_addr, paused.packet, budget_insns, paused.insns)
        words = self._state.words
        words[Slot.MAY_GOTO] = paused.may_goto_left
        self._tail_calls_left = paused.tail_calls_left
        for number, value in enumerate(last.regs):
            words[Slot.REGS + number] = value
        waiting = [(self._return_of(frame), frame.regs[6:10]) for frame in callers]
        code = self._thunks.taking_up(waiting, unit.base + unit.code.blocks[last.pc])
        pages = code_area().place(code)
        try:
            return self._entered(unit, c_function(pages.start), 0)
        finally:
            code_area().release(pages)

    def _return_of(self, frame: PausedFrame) -> int:
        """Where the function that waits goes on, in its code."""
        unit = self.unit(frame.program)
        behind = bisect_left(unit.code.starts, frame.pc)
        return unit.base + unit.code.returns[behind if frame.astray else behind - 1]

    def _set_up(
        self, ctx_addr: int, packet: Region | None, budget_insns: int, executed: int
    ) -> None:
        """What a run begins with that has executed so many instructions already."""
        if ctx_addr != self.ctx_addr:
            self._state.forget_sites()  # the same bytes may be other fields now, or no context's
        self.ctx_addr = ctx_addr
        self.packet = packet
        words = self._state.words
        left = max(budget_insns - executed, 0)
        first = min(left, SLICE_INSNS)
        self._budget = budget_insns
        self._beyond = left - first
        self._tail_calls_left = MAX_TAIL_CALLS
        self._back = -1, 0
        turns = self.environment.may_goto_turns
        words[Slot.FUEL] = first
        words[Slot.CTX] = ctx_addr
        words[Slot.MAY_GOTO] = MAY_GOTO_ITERATIONS if turns is None else turns
        words[Slot.EXIT_PC] = 0

    def _entered(self, unit: Unit, start: Enter, argument: int) -> RunResult:
        """Run code that begins in `unit`."""
        words = self._state.words
        if unit.build.checks is not Checks.EXACT:
            self._faults.ensure()
        if self._recorder is not None:
            self._recorder.run_begins()
        self._current = unit
        r0 = self._guarded(start, argument)
        if words[Slot.EXIT_PC]:
            self._check_exit(r0)
        return RunResult(r0, self.executed if self._build.fuel else 0)

    @property
    def executed(self) -> int:
        """Instructions of the current or last run, a started block's included."""
        return self._budget - self._beyond - sign_extend(self._state.words[Slot.FUEL], 64)

    @property
    def recorded(self) -> Recorded | None:
        """What runs left: see Engine.recorded."""
        return self._recorder

    def kept_registers(self) -> bytes | None:
        """r6 to r9: see Engine. Thunks of helpers put all registers into the state."""
        return self._state.words[Slot.REGS + 6 : Slot.REGS + 10].tobytes()

    def close(self) -> None:
        """Give everything back; twice is fine."""
        if self._closed:
            return
        if self._running:
            raise InternalError("an engine is closed while it runs")
        self._closed = self._running = True  # it never runs again
        self.memory.forget_before_close(self.close)
        for unit, _ in self._units.values():
            unit.close()
        if self._loops is not None:
            self._loops.close()
        if self._natives is not None:
            self._natives.close()
        if self._copies is not None:
            self._copies.close()
        self._units.clear()
        self._loops = None
        self._last = None
        self._thunks.close()
        if self._recorder is not None:
            self._recorder.close()
        self._state.close()
        for region in self._own_stack:
            self.memory.free(region)

    def __enter__(self) -> JitEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def make_loop(
        self,
        loop: KernelLoop | KernelSteps,
        program_of: Callable[[int], Program | None],
        budget_insns: int,
    ) -> None:
        """Let `loop` run programs of this engine: those, by number, that `program_of` gives.

        They must be verified, and `budget_insns` at most SLICE_INSNS.
        """
        from pybpfvm.jit.looping import Looping

        def enter(entry: int) -> None:
            self._budget, self._beyond = budget_insns, 0
            self._faults.ensure()
            self._begin(None)
            self._looping = True
            try:
                self._guarded(self._thunks.enter, entry)
            finally:
                self._end()

        def allowed(number: int) -> Program | None:
            watched = self.hook is not None or self._recorder is not None
            if watched or self._uniform or self.environment.may_goto_turns is not None:
                return None
            return program_of(number)

        def compiled(program: Program, callee: Callee) -> Unit:
            return self._made(program, Build(Checks.NONE, shares=self._shares()), callee)

        def context(addr: int) -> None:
            self.ctx_addr = self._state.words[Slot.CTX] = addr

        self._loops = Looping(
            self._state,
            self._thunks,
            loop,
            allowed,
            self._callee(Build(Checks.NONE)),
            compiled,
            enter,
            context,
        )

    def call(self, function: int, args: Sequence[int]) -> int:
        """Call back the subprogram with handle `function`; its r0. Raises BadArgument, Trap."""
        target = self.function_at(function)
        words = self._state.words
        if self._looping and self._loops is not None:
            unit = self._loops.unit(target.program)  # the ring is lent to its code
        else:
            unit = self.unit(target.program)
        saved = memoryview(words[: Slot.FAULT].tobytes()).cast("Q")
        if words[FRAME_POINTER] == words[Slot.LAST_FRAME]:
            raise Stop(TrapKind.STACK_DEPTH)
        for number, value in enumerate(args, 1):
            words[number] = value & U64
        words[FRAME_POINTER] += FRAME_STRIDE
        before = self._before_call() if self._pausing else 0
        try:
            r0 = self._guarded(self._thunks.enter, unit.base + unit.code.entries[target.pc])
        except Trap:
            if self._recorder is not None:
                caller = self._unit_at(saved[Slot.PC])
                pc = caller.pc_of(caller.index_at(saved[Slot.PC]))
                self._recorder.ended(self._recorder.place(caller.program, pc))
            raise
        except PauseReached as reached:
            caller = self._unit_at(saved[Slot.PC])
            pc = caller.pc_of(caller.index_at(saved[Slot.PC]))
            regs = (0, 0, 0, 0, 0, 0, *saved[Slot.REGS + 6 : Slot.REGS + REGISTERS])
            reached.frames += PausedFrame(caller.program, pc, regs), *self._callers(saved)
            reached.called_back = before
            raise
        fuel = words[Slot.FUEL]
        words[: Slot.FAULT] = saved
        words[Slot.FUEL] = fuel
        if self._pausing:
            self._back = self.executed, before
        return r0

    def _before_call(self) -> int:
        """Instructions executed before the call of the helper that calls back now."""
        ended, before = self._back
        executed = self.executed  # the call is counted, and the last of its block
        return before if executed == ended else executed - 1


__all__ = ["SLICE_INSNS", "JitEngine"]

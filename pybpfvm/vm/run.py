"""A running program: its registers, frames and counters, and what helpers may touch of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from operator import length_hint

from pybpfvm.bits import U64
from pybpfvm.engine import Hook, Paused, PausedFrame, RunEnvironment
from pybpfvm.errors import TrapKind
from pybpfvm.events import HelperCalled
from pybpfvm.helpers.proto import Helper
from pybpfvm.image import Image
from pybpfvm.interrupts import breathe
from pybpfvm.isa.opcodes import (
    FRAME_POINTER,
    MAX_FRAMES,
    MAX_TAIL_CALLS,
    MAY_GOTO_ITERATIONS,
    REGISTERS,
)
from pybpfvm.memory import Region
from pybpfvm.program import Program
from pybpfvm.runcontext import STOPS, RunContext, Stop, trap_of
from pybpfvm.vm.recorder import Recorder
from pybpfvm.vm.step import LEAVE, Step

_ARGUMENTS = range(1, 6)
_FIRST_SAVED = 6
_NO_ARGUMENTS = (0, 0, 0, 0, 0)
_BLANK = bytes(512)
_SLICE_INSNS = 1 << 18  # after so many, signals get their turn


class Frame:
    """What a caller gets back: where it goes on, in which steps, and its r6 to r10."""

    __slots__ = ("program", "return_to", "saved", "steps")

    def __init__(
        self, return_to: int, saved: list[int], program: Program, steps: list[Step]
    ) -> None:
        self.return_to = return_to
        self.saved = saved
        self.program = program
        self.steps = steps


class PauseReached(Exception):
    """The run has executed what it should."""

    def __init__(self, paused: Paused) -> None:
        super().__init__()
        self.paused = paused


class Run(RunContext):
    """One run of a program, which begins with `begin` or `take_up`.

    `stack` are the regions of the eight frames; `steps_of` prepares programs for tail calls and
    callbacks. `pauses`: PauseReached, not a trap, where the budget ends. The handlers of
    `pybpfvm.vm.operations` read and change it.
    """

    program: Program
    steps: list[Step]

    def __init__(
        self,
        steps_of: Callable[[Program], list[Step]],
        image: Image,
        stack: Sequence[Region],
        environment: RunEnvironment,
        ctx_addr: int,
        budget_insns: int,
        packet: Region | None,
        hook: Hook | None,
        recorder: Recorder | None,
        *,
        pauses: bool,
    ) -> None:
        super().__init__(image, environment, ctx_addr, packet)
        self.hook = hook
        self.recorder = recorder
        self.regs = [0] * REGISTERS
        self.frames: list[Frame] = []
        # One for each instruction that may still be executed; callbacks draw from the same.
        self._budget_insns = self._beyond = max(min(budget_insns, sys.maxsize), 0)
        self._slice = iter(range(0))
        self._tickets = chain.from_iterable(self._slices())
        turns = environment.may_goto_turns
        self.may_goto_left = MAY_GOTO_ITERATIONS if turns is None else turns
        self._tail_calls_left = MAX_TAIL_CALLS
        self._steps_of = steps_of
        self._stack = stack
        self._pauses = pauses
        self._call_pc = 0  # of the helper that was called last
        # For each helper that is calling back: its pc, and what was executed before its call.
        self._calling_back: list[tuple[int, int]] = []
        self._back = -1, 0  # executed when a callback ended last; the same before that call

    def begin(self, program: Program) -> int:
        """Begin with `program`; the index to execute from."""
        self.program, self.steps = program, self._steps_of(program)
        self._begin_frame(self.steps[0])
        self.regs[1] = self.ctx_addr
        return 0

    def take_up(self, paused: Paused) -> int:
        """Begin where another run paused; the index to execute from."""
        *callers, last = paused.frames
        for caller in callers:
            steps = self._steps_of(caller.program)
            saved = list(caller.regs[_FIRST_SAVED:])
            self.frames.append(Frame(_index_of(caller, steps), saved, caller.program, steps))
        self.program, self.steps = last.program, self._steps_of(last.program)
        self.regs[:] = last.regs
        self.may_goto_left = paused.may_goto_left
        self._tail_calls_left = paused.tail_calls_left
        self._beyond = max(self._budget_insns - paused.insns, 0)
        return _index_of(last, self.steps)

    def _paused(self, index: int) -> Paused:
        """The state before the step at `index`."""
        frames = []
        calls = iter(self._calling_back)
        for frame in self.frames:
            regs = (0,) * _FIRST_SAVED + tuple(frame.saved)
            if frame.return_to == LEAVE:
                frames.append(PausedFrame(frame.program, next(calls)[0], regs))
            else:
                frames.append(_frame_at(frame.program, frame.steps[frame.return_to], regs))
        frames.append(_frame_at(self.program, self.steps[index], tuple(self.regs)))
        return Paused(
            tuple(frames),
            self.executed,
            self.may_goto_left,
            self._tail_calls_left,
            self.ctx_addr,
            self.packet,
            self._calling_back[0][1] if self._calling_back else None,
        )

    @property
    def executed(self) -> int:
        """Instructions executed so far."""
        return self._budget_insns - self._beyond - length_hint(self._slice)

    def _slices(self) -> Iterator[Iterator[int]]:
        while self._beyond:
            breathe()
            count = min(self._beyond, _SLICE_INSNS)
            self._beyond -= count
            self._slice = iter(range(count))
            yield self._slice

    def execute(self, index: int) -> None:
        """Execute steps from `index` on until one leaves. Raises Trap."""
        step = self.steps[index]
        try:
            if self.recorder is not None:
                for _ in self._tickets:
                    step = self.steps[index]
                    index = self._recorded(self.recorder, step)
                    if index < 0:
                        return
            elif self.hook is None:
                for _ in self._tickets:
                    step = self.steps[index]
                    index = step.handler(self, step)
                    if index < 0:
                        return
            else:
                for _ in self._tickets:
                    step = self.steps[index]
                    self.hook(self.program, step.pc, tuple(self.regs), len(self.frames))
                    index = step.handler(self, step)
                    if index < 0:
                        return
            if self._pauses:
                raise PauseReached(self._paused(index))
            step = self.steps[index]
            raise Stop(TrapKind.BUDGET, f"{self.executed} instructions")
        except STOPS as stop:
            regs, profile = tuple(self.regs), self.environment.profile
            raise trap_of(
                stop, self.program, step.pc, step.insn, regs, self.executed, profile
            ) from stop

    def _recorded(self, recorder: Recorder, step: Step) -> int:
        """Execute a step, seen by the recorder; where to go on."""
        if self.hook is not None:
            self.hook(self.program, step.pc, tuple(self.regs), len(self.frames))
        recorder.begins(step)
        try:
            index = step.handler(self, step)
        except Exception:
            recorder.ended(step, None)
            raise
        recorder.ended(step, self.regs)
        return index

    # Calls.

    def call_helper(self, helper: Helper, args: tuple[int, ...], pc: int) -> int:
        """Call an implemented helper and tell the observer; r0, unsigned 64-bit."""
        assert helper.impl is not None
        self._call_pc = pc
        result = helper.impl(self, *args) & U64
        environment = self.environment
        if environment.observer is not None and environment.tells(helper.name):
            shown = args[: len(helper.args)]
            event = HelperCalled(self.event_ns(), helper.name, pc, shown, result)
            environment.observer(event)
        return result

    def enter(self, return_to: int, steps: list[Step], target: int) -> None:
        """Push a frame for the function that starts at `steps[target]`. Raises Stop above 8."""
        if len(self.frames) + 1 >= MAX_FRAMES:
            raise Stop(TrapKind.STACK_DEPTH)
        self.frames.append(Frame(return_to, self.regs[_FIRST_SAVED:], self.program, self.steps))
        self._begin_frame(steps[target])

    def leave(self) -> int:
        """End of a function: pop its frame. The index to go on at, LEAVE from the outermost."""
        if not self.frames:
            self.check_return(self.regs[0])
            return LEAVE
        frame = self.frames.pop()
        self.regs[_FIRST_SAVED:] = frame.saved
        self.regs[1:_FIRST_SAVED] = _NO_ARGUMENTS
        self.program, self.steps = frame.program, frame.steps
        return frame.return_to

    def tail_call(self, target: object) -> int | None:
        """Replace the current frame by the program that `target` stands for.

        The index to go on at, or None when 33 tail calls have been made.
        """
        program = self.tail_target(target)
        if self._tail_calls_left == 0:
            return None
        self._tail_calls_left -= 1
        self.program = program
        self.steps = self._steps_of(program)
        self.regs[:] = [0] * REGISTERS
        self._begin_frame(self.steps[0])
        self.regs[1] = self.ctx_addr
        return 0

    def _begin_frame(self, first: Step) -> None:
        region = self._stack[len(self.frames)]
        if first.framed:
            self.memory.write(region.start, _BLANK)
        self.regs[FRAME_POINTER] = region.end

    def call(self, function: int, args: Sequence[int]) -> int:
        """Call back the subprogram with handle `function`; its r0. Raises BadArgument, Trap."""
        target = self.function_at(function)
        program, steps, regs = self.program, self.steps, self.regs.copy()
        callee = self._steps_of(target.program)
        pc = self._call_pc
        ended, before = self._back
        if self.executed != ended:  # the helper's first call back: nothing else ran since
            before = self.executed - 1
        self._calling_back.append((pc, before))
        self.enter(LEAVE, callee, target.pc)
        self.program, self.steps = target.program, callee
        for register, value in zip(_ARGUMENTS, args, strict=False):
            self.regs[register] = value & U64
        self.execute(target.pc)
        result = self.regs[0]
        self.program, self.steps = program, steps
        self.regs[:] = regs
        self._calling_back.pop()
        self._back = self.executed, before
        self._call_pc = pc
        return result


def _frame_at(program: Program, step: Step, regs: tuple[int, ...]) -> PausedFrame:
    """The frame that goes on with `step`, which may be a way out of the program."""
    if _leads_out(step):
        return PausedFrame(program, step.pc, regs, step.meaning[1])
    return PausedFrame(program, step.pc, regs)


def _index_of(frame: PausedFrame, steps: list[Step]) -> int:
    """Where the frame goes on."""
    if frame.astray is None:
        return frame.pc
    return next(
        index
        for index, step in enumerate(steps)
        if step.pc == frame.pc and _leads_out(step) and step.meaning[1] == frame.astray
    )


def _leads_out(step: Step) -> bool:
    """Whether control leaves the program there: a step behind its instructions."""
    return isinstance(step.meaning, tuple) and step.meaning[0] is TrapKind.BAD_PC

"""A running program: its registers, frames and counters, and what helpers may touch of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from operator import length_hint
from typing import cast

from pybpfvm.bits import U64
from pybpfvm.engine import Hook, RunEnvironment, ctx_violation
from pybpfvm.errors import Trap, TrapKind
from pybpfvm.events import HelperCalled
from pybpfvm.helpers.context import BadArgument, RingPort
from pybpfvm.helpers.proto import Helper
from pybpfvm.image import FunctionRef, ProgramRef
from pybpfvm.isa.disasm import format_insn
from pybpfvm.isa.opcodes import (
    FRAME_POINTER,
    MAX_FRAMES,
    MAX_TAIL_CALLS,
    MAY_GOTO_ITERATIONS,
    REGISTERS,
)
from pybpfvm.maps.base import BpfMap
from pybpfvm.memory import AddressSpace, MemoryFault, Region, RegionKind
from pybpfvm.profiles.base import CtxHolds
from pybpfvm.program import Program
from pybpfvm.vm.step import LEAVE, Step

_POINTERS = (CtxHolds.DATA, CtxHolds.DATA_END, CtxHolds.DATA_META)
_ARGUMENTS = range(1, 6)
_FIRST_SAVED = 6
_NO_ARGUMENTS = (0, 0, 0, 0, 0)
_BLANK = bytes(512)


class Stop(Exception):
    """The instruction being executed can not be: becomes a Trap with its place."""

    def __init__(self, kind: TrapKind, detail: str = "", addr: int | None = None) -> None:
        super().__init__(kind, detail)
        self.kind = kind
        self.detail = detail
        self.addr = addr


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


class Run:
    """One run of a program; implements HelperContext.

    `stack` are the regions of the eight frames; `steps_of` prepares programs for tail calls and
    callbacks. The handlers of `pybpfvm.vm.operations` read and change it.
    """

    def __init__(
        self,
        program: Program,
        steps_of: Callable[[Program], list[Step]],
        memory: AddressSpace,
        stack: Sequence[Region],
        environment: RunEnvironment,
        ctx_addr: int,
        budget_insns: int,
        packet: Region | None,
        hook: Hook | None,
    ) -> None:
        self.program = program
        self.steps = steps_of(program)
        self.memory = memory
        self.environment = environment
        self.ctx_addr = ctx_addr
        self.packet = packet
        self.hook = hook
        self.regs = [0] * REGISTERS
        self.frames: list[Frame] = []
        # One for each instruction that may still be executed; callbacks draw from the same.
        self._tickets = iter(range(min(budget_insns, sys.maxsize)))
        self._budget_insns = length_hint(self._tickets)
        turns = environment.may_goto_turns
        self.may_goto_left = MAY_GOTO_ITERATIONS if turns is None else turns
        self._tail_calls_left = MAX_TAIL_CALLS
        self._steps_of = steps_of
        self._stack = stack
        self._begin_frame()
        self.regs[1] = ctx_addr

    @property
    def executed(self) -> int:
        """Instructions executed so far."""
        return self._budget_insns - length_hint(self._tickets)

    def execute(self, index: int) -> None:
        """Execute steps from `index` on until one leaves. Raises Trap."""
        step = self.steps[index]
        try:
            if self.hook is None:
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
            step = self.steps[index]
            raise Stop(TrapKind.BUDGET, f"{self.executed} instructions")
        except MemoryFault as fault:
            raise self._trap(step, fault.kind, "", fault.addr, fault.size, fault.region) from fault
        except BadArgument as bad:
            raise self._trap(step, TrapKind.BAD_HELPER_ARG, str(bad)) from bad
        except Stop as stop:
            raise self._trap(step, stop.kind, stop.detail, stop.addr) from None

    def _trap(
        self,
        step: Step,
        kind: TrapKind,
        detail: str,
        addr: int | None = None,
        size: int = 0,
        region: str = "",
    ) -> Trap:
        return Trap(
            kind,
            detail,
            pc=step.pc,
            program=self.program.name,
            insn=format_insn(step.insn, step.pc, style="kernel"),
            addr=addr,
            size=size,
            region=region,
            source=self.program.line_at(step.pc),
            regs=tuple(self.regs),
            insns=self.executed,
        )

    # Memory, as the program's own instructions reach it.

    def load(self, addr: int, size: int) -> int:
        """Zero-extended value at `addr`. Raises MemoryFault, Stop(CTX_ACCESS)."""
        region, view, offset = self.memory.check(addr, size, write=False)
        if region.kind is RegionKind.CTX:
            self._check_ctx(addr, size, store=False, plain=True)
            pointer = self._packet_pointer(addr - self.ctx_addr, size)
            if pointer is not None:
                return pointer
        return int.from_bytes(view[offset : offset + size], self.memory.byteorder)

    def store(self, addr: int, size: int, value: int, *, plain: bool) -> None:
        """Store the low bytes of `value`; `plain`: by BPF_STX. Raises as `load`."""
        region, view, offset = self.memory.check(addr, size, write=True)
        if region.kind is RegionKind.CTX:
            self._check_ctx(addr, size, store=True, plain=plain)
        low = value & ((1 << 8 * size) - 1)
        view[offset : offset + size] = low.to_bytes(size, self.memory.byteorder)

    def _check_ctx(self, addr: int, size: int, *, store: bool, plain: bool) -> None:
        environment = self.environment
        if environment.profile is None:
            return
        reason = ctx_violation(
            environment.profile,
            addr - self.ctx_addr,
            size,
            store=store,
            plain=plain,
            strict=environment.strict_ctx,
        )
        if reason is not None:
            raise Stop(TrapKind.CTX_ACCESS, reason, addr)

    def _packet_pointer(self, offset: int, size: int) -> int | None:
        """What a load from a context field that stands for a pointer gives; None for others.

        Such fields are 32 bits wide and give 64, as when a kernel rewrites the load.
        """
        profile, packet = self.environment.profile, self.packet
        if profile is None or profile.packet is None:
            return None
        named = profile.ctx_field_named(offset, size, store=False)
        if named is None:
            return None
        if named.holds is CtxHolds.KERNEL_OBJECT:
            raise Stop(TrapKind.UNSUPPORTED, f"{profile.ctx_name}.{named.name}")
        if packet is None or named.holds not in _POINTERS:
            return None
        return packet.end if named.holds is CtxHolds.DATA_END else packet.start

    # Calls.

    def call_helper(self, helper: Helper, args: tuple[int, ...], pc: int) -> int:
        """Call an implemented helper and tell the observer; r0, unsigned 64-bit."""
        assert helper.impl is not None
        result = helper.impl(self, *args) & U64
        observer = self.environment.observer
        if observer is not None:
            shown = args[: len(helper.args)]
            observer(HelperCalled(self.now_ns(), helper.name, pc, shown, result))
        return result

    def enter(self, return_to: int) -> None:
        """Push a frame: what follows is the callee. Raises Stop above 8 frames."""
        if len(self.frames) + 1 >= MAX_FRAMES:
            raise Stop(TrapKind.STACK_DEPTH)
        self.frames.append(Frame(return_to, self.regs[_FIRST_SAVED:], self.program, self.steps))
        self._begin_frame()

    def leave(self) -> int:
        """End of a function: pop its frame. The index to go on at, LEAVE from the outermost."""
        if not self.frames:
            self._check_return()
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
        if isinstance(target, int):
            target = self.memory.resolve(target)
        if not isinstance(target, ProgramRef):
            raise Stop(TrapKind.BAD_HELPER_ARG, "tail call to something that is not a program")
        if self._tail_calls_left == 0:
            return None
        self._tail_calls_left -= 1
        self.program = target.program
        self.steps = self._steps_of(target.program)
        self.regs[:] = [0] * REGISTERS
        self._begin_frame()
        self.regs[1] = self.ctx_addr
        return 0

    def _begin_frame(self) -> None:
        region = self._stack[len(self.frames)]
        self.memory.write(region.start, _BLANK)
        self.regs[FRAME_POINTER] = region.end

    def _check_return(self) -> None:
        profile = self.environment.profile
        # Ordinary programs that return something else are not loaded; here all may be tried.
        if profile is None or profile.ring is None or profile.returns is None:
            return
        low, high = profile.returns
        if not low <= self.regs[0] <= high:
            raise Stop(TrapKind.BAD_RETURN, f"{self.regs[0]} is not between {low} and {high}")

    # HelperContext.

    @property
    def ring(self) -> RingPort | None:
        """The ring of BPF requests."""
        return self.environment.ring

    @property
    def helper_length_checked(self) -> bool:
        """Whether the ABI's ring helpers check their length argument at run time."""
        profile = self.environment.profile
        return profile is not None and profile.ring is not None and profile.ring.length_checked

    @property
    def cpu(self) -> int:
        """The CPU the program runs on."""
        return self.environment.cpu

    def map_at(self, addr: int, index: int) -> BpfMap:
        """The map with handle `addr`, argument number `index`. Raises BadArgument."""
        target = self.memory.resolve(addr)
        if target is None or isinstance(target, FunctionRef | ProgramRef):
            raise BadArgument(index, f"{addr:#x} is not a map")
        return cast(BpfMap, target)

    def now_ns(self) -> int:
        """The environment's clock."""
        return self.environment.now_ns()

    def random_u32(self) -> int:
        """The environment's random source."""
        return self.environment.random_u32()

    def log(self, text: str) -> None:
        """One line of trace output."""
        self.environment.log(text)

    def call(self, function: int, args: Sequence[int]) -> int:
        """Call back the subprogram with handle `function`; its r0. Raises BadArgument, Trap."""
        target = self.memory.resolve(function)
        if not isinstance(target, FunctionRef):
            raise BadArgument(2, f"{function:#x} is not a function")
        program, steps, regs = self.program, self.steps, self.regs.copy()
        self.enter(LEAVE)
        self.program, self.steps = target.program, self._steps_of(target.program)
        for register, value in zip(_ARGUMENTS, args, strict=False):
            self.regs[register] = value & U64
        self.execute(target.pc)
        result = self.regs[0]
        self.program, self.steps = program, steps
        self.regs[:] = regs
        return result

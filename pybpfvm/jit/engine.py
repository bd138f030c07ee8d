"""The engine over compiled code: compiles programs at first use, runs them, answers what they
ask."""

from __future__ import annotations

import errno
import gc
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from pybpfvm.bits import U64, s32, sign_extend
from pybpfvm.engine import DEFAULT_BUDGET_INSNS, Hook, RunEnvironment, RunResult, trust_nobody
from pybpfvm.errors import InputError, InternalError, Trap, TrapKind
from pybpfvm.events import HelperCalled
from pybpfvm.helpers.context import TailCall
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
from pybpfvm.jit.accesses import Accesses
from pybpfvm.jit.emit import Emitter
from pybpfvm.jit.emitted import Ask, Build, Callee, Known, Site
from pybpfvm.jit.faults import fault_handler
from pybpfvm.jit.natives import Natives
from pybpfvm.jit.options import Checks
from pybpfvm.jit.recorder import Recorder
from pybpfvm.jit.state import Slot, State
from pybpfvm.jit.thunks import Thunks, c_function
from pybpfvm.jit.unit import Unit
from pybpfvm.memory import FRAME_STRIDE, MemoryFault, Region
from pybpfvm.outline import context_arguments
from pybpfvm.program import Program
from pybpfvm.recording import NOTHING, Recorded, Recording
from pybpfvm.runcontext import STOPS, Stop, trap_of

if TYPE_CHECKING:
    from pybpfvm.jit.looping import Looping
    from pybpfvm.uring_backend.kernel.loop import KernelLoop

# Python is entered at least this often, so that signals and other threads get their turn.
SLICE_INSNS = 1 << 24

_LD_CONTEXT = 6


Enter = Callable[[int], int | None]


def _judges_alike(one: RunEnvironment, other: RunEnvironment) -> bool:
    """Whether what may be done to the context is the same in both."""
    return one.profile is other.profile and one.strict_ctx == other.strict_ctx


class JitEngine(Accesses):
    """Runs the programs of `image` as machine code; an Engine, and its own helpers' context.

    Programs that `trusted` names are compiled without checks, the others with `checks`.
    `counted`: budgets hold and instructions are counted; without, RunResult.insns is 0.
    `record` is what runs leave in `recorded`.
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
    ) -> None:
        if image.object.big_endian:
            raise InputError("the object is big-endian", where="jit", remedy="use --engine interp")
        super().__init__(image, environment, 0, None)
        self.hook: Hook | None = None
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
        self._units: dict[tuple[int, Build, bool, int], tuple[Unit, Enter]] = {}
        self._pieces: list[Unit] = []  # compiled for this run only
        self._loops: Looping | None = None
        self._natives: Natives | None = None
        self._lasting_sites = 0  # those that are not of pieces
        self._last: tuple[Program, RunEnvironment, bool, Unit, Enter] | None = None
        self._callees: dict[tuple[str, bool, bool], object] = {}
        self._running = self._looping = False
        self._one_run = threading.Lock()
        self._closed = False
        self._beyond = 0  # instructions of the budget that are not in the slice
        self._budget = 0
        self._tail_calls_left = 0
        self._current: Unit | None = None
        self._faults = fault_handler()
        with ExitStack() as made:  # what was made before something is refused is given back
            self._state = state = State(self.memory)
            made.callback(state.close)
            self._recorder = Recorder(record, self.memory, state) if record != NOTHING else None
            if self._recorder is not None:
                made.callback(self._recorder.close)
            self._stack = self.memory.alloc_frames(MAX_FRAMES, STACK_BYTES)
            for frame in self._stack:
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

    # --- the engine's contract --------------------------------------------------------------

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
        if ctx_addr != self.ctx_addr:
            self._state.forget_sites()  # the same bytes may be other fields now, or no context's
        self.ctx_addr = ctx_addr
        self.packet = packet
        words = self._state.words
        first = min(budget_insns, SLICE_INSNS)
        self._budget = budget_insns
        self._beyond = budget_insns - first
        self._tail_calls_left = MAX_TAIL_CALLS
        turns = self.environment.may_goto_turns
        words[Slot.FUEL] = first
        words[Slot.CTX] = ctx_addr
        words[Slot.MAY_GOTO] = MAY_GOTO_ITERATIONS if turns is None else turns
        words[Slot.EXIT_PC] = 0
        if unit.build.checks is not Checks.EXACT:
            self._faults.ensure()
        if self._recorder is not None:
            self._recorder.run_begins()
        self._current = unit
        r0 = self._guarded(start, ctx_addr)
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
        self._units.clear()
        self._loops = None
        self._last = None
        self._thunks.close()
        if self._recorder is not None:
            self._recorder.close()
        self._state.close()
        for region in self._stack:
            self.memory.free(region)

    def __enter__(self) -> JitEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- compiling --------------------------------------------------------------------------

    def unit(self, program: Program) -> Unit:
        """The compiled program. Raises InputError as Image.constant does."""
        return self._prepared(program)[0]

    def names(self) -> Mapping[int, str]:
        """What lies where compiled code reaches it, by displacement from the window's base."""
        found = {self._state.disp(slot): slot.name.lower() for slot in Slot}
        for number in range(6):
            found[self._state.disp(Slot.HELPER + number)] = f"helper_of_{number}"
        return found

    def _prepared(self, program: Program) -> tuple[Unit, Enter]:
        """The compiled program and its way in."""
        last, hooked = self._last, self.hook is not None
        if (
            last is not None
            and last[0] is program
            and last[1] is self.environment
            and last[2] is hooked
        ):
            return last[3], last[4]
        if last is not None and not _judges_alike(last[1], self.environment):
            self._state.forget_sites()
        build = self._build_for(program)
        key = (id(program), build, self.environment.observer is not None, self.environment.cpu)
        found = self._units.get(key)
        if found is None:
            unit = self._compiled(program, build)
            found = self._units[key] = unit, c_function(unit.base + unit.code.start)
        self._last = program, self.environment, hooked, *found
        return found

    def _compiled(self, program: Program, build: Build) -> Unit:
        # Thousands of small objects, none of them garbage: a collection would only cost.
        collecting = gc.isenabled()
        gc.disable()
        try:
            return self._made(program, build)
        finally:
            if collecting:
                gc.enable()

    def _made(self, program: Program, build: Build) -> Unit:
        return Unit(program, build, self._emitter(program, build).emit())

    def _emitter(self, program: Program, build: Build, callee: Callee | None = None) -> Emitter:
        natives = self._natives_for(build)
        return Emitter(
            program,
            self.image,
            self._helpers,
            self._state,
            self._thunks,
            build,
            callee or self._callee(build),
            natives.lookup if natives is not None else None,
            self._recorder,
        )

    def _natives_for(self, build: Build) -> Natives | None:
        """The helpers that code may call as machine code: what it does by itself nobody sees, so
        with an observer Python does it."""
        if build.checks is Checks.PAGES or self.environment.observer is not None:
            return None
        if self._natives is None:
            self._natives = Natives(self.memory, self._state, self._thunks)
        return self._natives

    def _drop_pieces(self) -> None:
        for unit in self._pieces:
            unit.close()
        self._pieces.clear()
        self._state.drop_sites(self._lasting_sites)
        self._current = None

    def _build_for(self, program: Program) -> Build:
        profile = self.environment.profile
        checks = Checks.NONE if self._trusted(program) else self._checks
        # Context fields that stand for packet pointers are not what lies in memory: only the
        # exact checks see such loads.
        if profile is not None and profile.packet is not None:
            checks = Checks.EXACT
        return replace(
            self._build,
            checks=checks,
            hooked=self.hook is not None,
            check_return=profile is not None and profile.ring is not None,
        )

    def _callee(self, build: Build) -> Callee:
        """What code calls for a helper: its implementation, or that with what the build adds."""
        checked = build.checks is not Checks.NONE
        observed = self.environment.observer is not None

        def callee(helper: Helper) -> object:
            key = (helper.name, checked, observed)
            if helper.steady and not observed:
                assert helper.impl is not None
                return Known(helper.impl(self, 0, 0, 0, 0, 0) & U64)
            if key not in self._callees:
                self._callees[key] = self._wrapped(helper, checked=checked, observed=observed)
            return self._callees[key]

        return callee

    def _wrapped(self, helper: Helper, *, checked: bool, observed: bool) -> object:
        impl = helper.impl
        assert impl is not None
        numbers = context_arguments(helper) if checked else ()
        shown = len(helper.args)
        if not observed and not numbers:
            return impl

        def call(context: JitEngine, *args: int) -> int:
            context.check_context_arguments(numbers, args)
            result = impl(context, *args) & U64
            observer = context.environment.observer
            if observer is not None:
                event = HelperCalled(
                    context.now_ns(), helper.name, context.pc, args[:shown], result
                )
                observer(event)
            return result

        return call

    # --- loops of BPF requests ---------------------------------------------------------------

    def make_loop(
        self, loop: KernelLoop, program_of: Callable[[int], Program | None], budget_insns: int
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
            build = Build(Checks.NONE)
            return Unit(program, build, self._emitter(program, build, callee).emit())

        def context(addr: int) -> None:
            self.ctx_addr = addr

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

    # --- where code is ----------------------------------------------------------------------

    def _unit_at(self, address: int) -> Unit:
        current = self._current
        if current is not None and current.holds(address):
            return current
        for unit in self._all_units():
            if unit.holds(address):
                self._current = unit
                return unit
        raise InternalError(f"compiled code asks from {address:#x}, where there is none")

    def _all_units(self) -> Iterator[Unit]:
        for unit, _ in self._units.values():
            yield unit
        yield from self._pieces
        if self._loops is not None:
            yield from self._loops.all_units()
        if self._natives is not None:
            yield self._natives.unit

    @property
    def pc(self) -> int:
        """The pc of the call that compiled code makes."""
        address = self._state.words[Slot.PC]
        unit = self._unit_at(address)
        return unit.pc_of(unit.index_at(address))

    def _registers(self) -> tuple[int, ...]:
        return tuple(self._state.words[Slot.REGS : Slot.REGS + REGISTERS])

    def _guarded(self, enter: Callable[[int], int | None], argument: int) -> int:
        """Enter code; what stops it becomes a Trap."""
        try:
            r0 = enter(argument)
            if r0 is not None:
                return r0
            self._explain_fault()
        except STOPS as stop:
            raise self._trap(stop) from stop
        raise InternalError("a fault of compiled code has no explanation")

    def _trap(self, stop: MemoryFault | Stop | Exception) -> Trap:
        """The trap at the place where code left."""
        address = self._state.words[Slot.PC]
        unit = self._unit_at(address)
        site = unit.code.sites.get(address - unit.base)
        if site is not None:
            index, after = site.index, site.after
        else:
            index = unit.index_at(address)
            after = unit.after(index)
        if self._recorder is not None and (site is None or site.ask is not Ask.FUEL):
            leaves = site is not None and site.why is not None and site.why[0] is TrapKind.BAD_PC
            self._note_stop(unit, index, after, 0 if leaves else unit.room(index))
        return self._trap_at(stop, unit, index, after)

    def _trap_at(
        self, stop: MemoryFault | Stop | Exception, unit: Unit, index: int, after: int
    ) -> Trap:
        executed = self.executed - after
        if isinstance(stop, Stop) and stop.kind is TrapKind.BUDGET:
            executed = self._budget
        return trap_of(
            stop,  # type: ignore[arg-type]
            unit.program,
            unit.pc_of(index),
            unit.program.insns[index],
            self._registers(),
            executed,
        )

    def _note_stop(self, unit: Unit, index: int, after: int, room: int) -> None:
        """Tell the recorder of a trap at `index`: the `after` instructions behind it in its block
        were counted and not executed, room in the trace was taken for `room` from it on."""
        if self._recorder is not None:
            places = [
                self._recorder.place(unit.program, pc)
                for pc in unit.code.starts[index : index + after + 1]
            ]
            self._recorder.stopped(places[0], places[1:], room)

    def _explain_fault(self) -> None:
        """Raise for a fault of the processor's: what the interpreter would say of the access."""
        words = self._state.words
        address = words[Slot.PC]
        unit = self._unit_at(address)
        index = unit.index_of(address)
        insn = unit.program.insns[index]
        try:
            self._do_access(insn)
        except STOPS as stop:
            after = unit.after(index)
            self._note_stop(unit, index, after, unit.room(index))
            raise self._trap_at(stop, unit, index, after) from stop
        raise InternalError(
            f"{unit.program.name}+{unit.pc_of(index)} faulted at {words[Slot.FAULT]:#x}, "
            "which it may access"
        )

    def _check_exit(self, r0: int) -> None:
        """The outermost program returned `r0`: its ABI may not allow that."""
        try:
            self.check_return(r0)
        except Stop as stop:
            address = self._state.words[Slot.EXIT_PC]
            unit = self._unit_at(address)
            self._state.words[Slot.REGS] = r0
            raise self._trap_at(stop, unit, unit.index_of(address), 0) from None

    # --- what code asks ---------------------------------------------------------------------

    def _answer(self) -> int:
        """Answer the callout: 0 to go on behind it, or the address to go on at. May raise."""
        address = self._state.words[Slot.PC]
        unit = self._unit_at(address)
        site = unit.code.sites[address - unit.base]
        return _ANSWERS[site.ask](self, unit, site)

    def _on_fuel(self, unit: Unit, site: Site) -> int:
        words = self._state.words
        fuel = sign_extend(words[Slot.FUEL], 64) + site.count
        more = min(self._beyond, SLICE_INSNS)
        self._beyond -= more
        fuel += more
        words[Slot.FUEL] = fuel
        if fuel >= max(site.count, 1):
            return 0
        if fuel == 0:
            raise Stop(TrapKind.BUDGET, f"{self._budget} instructions")
        return self._rest(unit, site, fuel)

    def _rest(self, unit: Unit, site: Site, count: int) -> int:
        """Compile the first `count` instructions of the site's block, with a stop behind them;
        where that begins."""
        if not self._pieces:  # nothing is compiled behind a piece but pieces
            self._lasting_sites = self._state.sites()
        emitter = self._emitter(unit.program, unit.build)
        piece = Unit(unit.program, unit.build, emitter.emit_rest(site.index, count, site.edge))
        self._pieces.append(piece)
        return piece.base

    def _on_access(self, unit: Unit, site: Site) -> int:
        insn = unit.program.insns[site.index]
        region = self._accessed(insn)
        if region is not None and site.words and self._lets_in(region, insn, site):
            return 0
        self._do_access(insn)
        return unit.base + site.skip

    def _on_key(self, _: Unit, site: Site) -> int:
        addr = self._state.words[2]
        region = self.memory.check(addr, site.count, write=False)[0]
        self._state.set_site(site.words, region.start, region.size - site.count + 1)
        return 0

    def _on_refuse(self, _: Unit, site: Site) -> int:
        assert site.why is not None
        raise Stop(*site.why)

    def _on_hook(self, unit: Unit, site: Site) -> int:
        if self.hook is not None:
            self.hook(unit.program, site.pc, self._registers(), self._depth())
        return 0

    def _depth(self) -> int:
        """Frames above the outermost."""
        return (self._state.words[FRAME_POINTER] - self._stack[0].end) // FRAME_STRIDE

    def _on_packet(self, unit: Unit, site: Site) -> int:
        words = self._state.words
        insn = unit.program.insns[site.index]
        offset = insn.imm
        if insn.spec.kind is Kind.LD_IND:
            offset = s32(words[insn.src] + insn.imm)
        size = insn.spec.size
        assert size is not None
        value = self.load_packet(offset, size, words[_LD_CONTEXT])
        for number in range(1, 6):
            words[number] = 0
        words[0] = value or 0
        if value is not None:
            return 0
        words[Slot.EXIT_PC] = self._exit_pc_of(unit, site)
        return unit.base + site.skip

    def _exit_pc_of(self, unit: Unit, site: Site) -> int:
        """Where the exit counts as being, if the packet load that ends a function is the main's."""
        if not unit.build.check_return or self._depth():
            return self._state.words[Slot.EXIT_PC]
        return unit.base + unit.code.offsets[site.index]

    def _on_tail_call(self, unit: Unit, site: Site) -> int:
        words = self._state.words
        helper = self._helpers[unit.program.insns[site.index].imm]
        call = self._callees.setdefault(
            ("tail_call", True, True), self._wrapped(helper, checked=True, observed=True)
        )
        try:
            result: int = call(self, *words[1:6])  # type: ignore[operator]
        except TailCall as leaving:
            program = self.tail_target(leaving.program)
            if self._tail_calls_left:
                self._tail_calls_left -= 1
                target = self.unit(program)
                if self._recorder is not None:
                    self._recorder.ended(self._recorder.place(unit.program, site.pc))
                frame = words[FRAME_POINTER]
                for number in range(REGISTERS):
                    words[number] = 0
                words[FRAME_POINTER] = frame
                words[1] = self.ctx_addr
                return target.base + target.code.tail
            result = -errno.ELOOP & U64
        words[0] = result & U64
        for number in range(1, 6):
            words[number] = 0
        return 0

    # --- HelperContext ----------------------------------------------------------------------

    def call(self, function: int, args: Sequence[int]) -> int:
        """Call back the subprogram with handle `function`; its r0. Raises BadArgument, Trap."""
        target = self.function_at(function)
        words = self._state.words
        if self._looping and self._loops is not None:
            unit = self._loops.unit(target.program)  # the ring is lent to its code
        else:
            unit = self.unit(target.program)
        saved = tuple(words[: Slot.FAULT])
        if words[FRAME_POINTER] == words[Slot.LAST_FRAME]:
            raise Stop(TrapKind.STACK_DEPTH)
        for number, value in enumerate(args, 1):
            words[number] = value & U64
        words[FRAME_POINTER] += FRAME_STRIDE
        try:
            r0 = self._guarded(self._thunks.enter, unit.base + unit.code.entries[target.pc])
        except Trap:
            if self._recorder is not None:
                caller = self._unit_at(saved[Slot.PC])
                pc = caller.pc_of(caller.index_at(saved[Slot.PC]))
                self._recorder.ended(self._recorder.place(caller.program, pc))
            raise
        fuel = words[Slot.FUEL]
        for number, value in enumerate(saved):
            words[number] = value
        words[Slot.FUEL] = fuel
        return r0


_ANSWERS: Mapping[Ask, Callable[[JitEngine, Unit, Site], int]] = {
    Ask.FUEL: JitEngine._on_fuel,
    Ask.ACCESS: JitEngine._on_access,
    Ask.REFUSE: JitEngine._on_refuse,
    Ask.TAIL_CALL: JitEngine._on_tail_call,
    Ask.PACKET: JitEngine._on_packet,
    Ask.HOOK: JitEngine._on_hook,
    Ask.KEY: JitEngine._on_key,
}

__all__ = ["SLICE_INSNS", "JitEngine"]

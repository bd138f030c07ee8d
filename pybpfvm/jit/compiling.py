"""The programs of an engine as compiled code: how each is compiled, and where it lies."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from pybpfvm.bits import U64
from pybpfvm.engine import Hook, RunEnvironment
from pybpfvm.errors import InternalError
from pybpfvm.events import HelperCalled
from pybpfvm.helpers.proto import Helper
from pybpfvm.isa.opcodes import REGISTERS, Kind
from pybpfvm.jit.accesses import Accesses
from pybpfvm.jit.emit import Emitter
from pybpfvm.jit.emitted import Build, Callee, Known
from pybpfvm.jit.options import Checks
from pybpfvm.jit.recorder import Recorder
from pybpfvm.jit.state import Slot
from pybpfvm.jit.thunks import Thunks, c_function
from pybpfvm.jit.unit import Unit
from pybpfvm.outline import context_arguments
from pybpfvm.program import Program

if TYPE_CHECKING:
    from pybpfvm.jit.looping import Looping
    from pybpfvm.jit.natives import Natives
    from pybpfvm.jit.usercopies import UserCopies

# Copies of user memory, and which function of `usercopies` makes them.
_COPIES = {
    "copy_from_user": "from_user",
    "probe_read_user": "from_user",
    "bpf_copy_to_user": "to_user",
}
Enter = Callable[[int], int | None]


def _judges_alike(one: RunEnvironment, other: RunEnvironment) -> bool:
    """Whether what may be done to the context is the same in both."""
    return one.profile is other.profile and one.strict_ctx == other.strict_ctx


class Compiling(Accesses):
    """Compiles programs at first use, and finds the unit that an address is in.

    `_units` are kept by program and by what their code depends on, `_pieces` were compiled for this
    run only. `_called_at`: pcs of calls, by where they return to. `_lasting_sites`: so many access
    sites are not of pieces. `_pausing`: the run is to
    stop between two instructions.
    """

    hook: Hook | None
    _helpers: Mapping[int, Helper]
    _checks: Checks
    _trusted: Callable[[Program], bool]
    _build: Build
    _thunks: Thunks
    _recorder: Recorder | None
    _loops: Looping | None
    _natives: Natives | None
    _copies: UserCopies | None
    _units: dict[tuple[int, Build, frozenset[str] | None, bool, int], tuple[Unit, Enter]]
    _pieces: list[Unit]
    _lasting_sites: int
    _pausing: bool
    _last: tuple[Program, RunEnvironment, bool, Unit, Enter] | None
    _callees: dict[tuple[str, bool, bool], object]
    _current: Unit | None
    _called_at: dict[int, int]

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
        environment = self.environment
        heard = environment.heard if environment.observer is not None else frozenset[str]()
        key = (id(program), build, heard, environment.user is not None, environment.cpu)
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

    def _made(self, program: Program, build: Build, callee: Callee | None = None) -> Unit:
        """The program, compiled; `callee`: what it calls for helpers, if not what others call."""
        return Unit(program, build, self._emitter(program, build, callee).emit())

    def _emitter(self, program: Program, build: Build, callee: Callee | None = None) -> Emitter:
        natives = self._natives_for(program, build)
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

    def _natives_for(self, program: Program, build: Build) -> Natives | None:
        """The helpers that code may call as machine code, if it calls some: what it does by itself
        nobody sees, so what an observer hears Python does."""
        if build.checks is Checks.PAGES or self.environment.tells("map_lookup_elem"):
            return None
        if not self._looks_up(program):
            return None
        if self._natives is None:
            from pybpfvm.jit.natives import Natives

            self._natives = Natives(self.memory, self._state, self._thunks)
        return self._natives

    def _looks_up(self, program: Program) -> bool:
        """Whether the program calls map_lookup_elem."""
        for insn in program.insns:
            if insn.spec.kind is Kind.CALL:
                helper = self._helpers.get(insn.imm)
                if helper is not None and helper.name == "map_lookup_elem":
                    return True
        return False

    def _drop_pieces(self) -> None:
        for unit in self._pieces:
            unit.close()
        self._pieces.clear()
        self._called_at.clear()  # others may come to lie there
        self._state.drop_sites(self._lasting_sites)
        self._current = None

    def _build_for(self, program: Program) -> Build:
        profile = self.environment.profile
        checks = Checks.NONE if self._trusted(program) else self._checks
        # Context fields that stand for packet pointers are not what lies in memory: only the
        # exact checks see such loads.
        if self._pausing or (profile is not None and profile.packet is not None):
            checks = Checks.EXACT
        return replace(
            self._build,
            checks=checks,
            uniform=self._build.uniform or self._pausing,
            walked=self._pausing,
            hooked=self.hook is not None,
            check_return=profile is not None and profile.ring is not None,
            shares=self._shares(),
        )

    def _shares(self) -> bool:
        """Whether others may write to memory that programs load from, while they run."""
        profile = self.environment.profile
        if profile is None:
            return False
        return profile.loop is not None or (profile.ring is not None and profile.ring.contexts)

    def _callee(self, build: Build) -> Callee:
        """What code calls for a helper: its implementation, or that with what the build adds."""
        checked = build.checks is not Checks.NONE
        environment = self.environment
        user = environment.user is not None

        def callee(helper: Helper) -> object:
            observed = environment.tells(helper.name)
            key = (helper.name, checked, observed)
            if helper.steady and not observed:
                assert helper.impl is not None
                return Known(helper.impl(self, 0, 0, 0, 0, 0) & U64)
            if helper.name in _COPIES and not checked and not observed and not user:
                return self._copying().entries[_COPIES[helper.name]]
            if key not in self._callees:
                self._callees[key] = self._wrapped(helper, checked=checked, observed=observed)
            return self._callees[key]

        return callee

    def _copying(self) -> UserCopies:
        if self._copies is None:
            from pybpfvm.jit.usercopies import UserCopies

            self._copies = UserCopies(self.memory, self._state, self._thunks)
        return self._copies

    def _wrapped(self, helper: Helper, *, checked: bool, observed: bool) -> object:
        impl = helper.impl
        assert impl is not None
        numbers = context_arguments(helper) if checked else ()
        shown = len(helper.args)
        if not observed and not numbers:
            return impl

        def call(context: Compiling, *args: int) -> int:
            if numbers:
                context.check_context_arguments(numbers, args)
            result = impl(context, *args) & U64
            observer = context.environment.observer
            if observed and observer is not None:
                event = HelperCalled(
                    context.event_ns(), helper.name, context.pc, args[:shown], result
                )
                observer(event)
            return result

        return call

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
        if self._copies is not None:
            yield self._copies.unit

    @property
    def pc(self) -> int:
        """The pc of the call that compiled code makes."""
        address = self._state.words[Slot.PC]
        pc = self._called_at.get(address)
        if pc is None:
            unit = self._unit_at(address)
            pc = self._called_at[address] = unit.pc_of(unit.index_at(address))
        return pc

    def _registers(self) -> tuple[int, ...]:
        return tuple(self._state.words[Slot.REGS : Slot.REGS + REGISTERS])

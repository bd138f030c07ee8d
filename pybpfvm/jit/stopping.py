"""How runs of compiled code end other than by an exit: traps, and where they were."""

from __future__ import annotations

from collections.abc import Callable

from pybpfvm.errors import InternalError, Trap, TrapKind
from pybpfvm.jit.compiling import Compiling
from pybpfvm.jit.emitted import Ask
from pybpfvm.jit.state import Slot
from pybpfvm.jit.unit import Unit
from pybpfvm.memory import MemoryFault
from pybpfvm.runcontext import STOPS, Stop, trap_of


class Stopping(Compiling):
    """Makes traps of what stops compiled code. `_budget` are the instructions of the run."""

    _budget: int

    @property
    def executed(self) -> int:
        """Instructions of the current or last run, a started block's included."""
        raise NotImplementedError

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
            self.environment.profile,
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

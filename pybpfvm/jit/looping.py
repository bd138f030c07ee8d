"""Loops of programs on a ring in compiled code: which programs, compiled how, entered where.

A program that loops is compiled with the functions of `ringcode` in place of its ring helpers and
user copies. Everything else it calls is the ordinary helper in Python.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pybpfvm.helpers.context import HelperContext
from pybpfvm.helpers.proto import Helper, HelperImpl
from pybpfvm.helpers.table import HELPERS
from pybpfvm.jit.emitted import Callee
from pybpfvm.jit.ringcode import LOOP_SOURCES, RingCode
from pybpfvm.jit.state import State
from pybpfvm.jit.thunks import Thunks
from pybpfvm.jit.unit import Unit
from pybpfvm.program import Program
from pybpfvm.uring_backend.kernel.direct import Word
from pybpfvm.uring_backend.kernel.loop import KernelLoop
from pybpfvm.uring_backend.kernel.steps import KernelSteps

# Helpers in Python that read user memory: pending requests may be about to write there.
_READ_USER = frozenset({"probe_read_user_str", "trace_printk", "snprintf"})


class Looping:
    """What one engine gives to one KernelLoop or KernelSteps.

    `program_of` says which programs, by number, may loop now; `ordinary` is what code calls for
    helpers that are not native; `compiled` compiles a program that calls so; `enter` enters code
    at an address; `context` is told the context pointer.
    """

    def __init__(
        self,
        state: State,
        thunks: Thunks,
        loop: KernelLoop | KernelSteps,
        program_of: Callable[[int], Program | None],
        ordinary: Callee,
        compiled: Callable[[Program, Callee], Unit],
        enter: Callable[[int], None],
        context: Callable[[int], None],
    ) -> None:
        self._loop = loop
        self._program_of = program_of
        self._ordinary = ordinary
        self._compiled = compiled
        self._context = context
        self._units: dict[int, Unit] = {}
        self._issuing: dict[str, HelperImpl] = {}  # by name: an engine holds few callees
        source = LOOP_SOURCES[loop.code]
        self._native = source.native
        slow = {native: _implementation(name) for name, native in source.native.items()}
        self._code = RingCode(
            source, state, thunks, loop.direct.addr, slow, loop.interrupted, loop.sync
        )
        loop.address = self._address
        loop.enter = lambda: enter(self._code.entries["loop"])

    def unit(self, program: Program) -> Unit:
        """The program as it was compiled for loops."""
        return self._units[id(program)]

    def has(self, unit: Unit) -> bool:
        """Whether the unit was compiled for loops."""
        return any(unit is mine for mine in self._units.values())

    def all_units(self) -> Iterator[Unit]:
        """Everything compiled here."""
        yield from self._units.values()
        yield self._code.code.unit

    def close(self) -> None:
        """Give the pages back."""
        for unit in self._units.values():
            unit.close()
        self._units.clear()
        self._code.close()

    def _address(self, number: int) -> int | None:
        """Where the code of the program with that number begins; None if it can not loop."""
        program = self._program_of(number)
        if program is None:
            return None
        unit = self._units.get(id(program))
        if unit is None:
            unit = self._units[id(program)] = self._compiled(program, self.callee)
        self._context(self._loop.direct.words[Word.CTX])
        return unit.base + unit.code.entries[0]

    def callee(self, helper: Helper) -> object:
        """What programs that loop call for a helper."""
        native = self._native.get(helper.name)
        if native is not None:
            return self._code.entries[native]
        if helper.name in _READ_USER:
            if helper.name not in self._issuing:
                self._issuing[helper.name] = self._issued(_implementation(helper.name))
            return self._issuing[helper.name]
        return self._ordinary(helper)

    def _issued(self, helper: HelperImpl) -> HelperImpl:
        def call(context: HelperContext, *args: int) -> int:
            self._loop.direct.issue()
            return helper(context, *args)

        return call


def _implementation(name: str) -> HelperImpl:
    impl = HELPERS[name].impl
    assert impl is not None
    return impl

"""Quick tests before two states are compared in full: most pairs differ in what one test sees.

A test that fails proves that `prune.Comparison` would say no; passing proves nothing. For each
stored state, the test that failed last is tried first, because it tends to fail again.
"""

from __future__ import annotations

from collections.abc import Callable

from pybpfvm.verifier.domains.scalar import is_subsumed_by
from pybpfvm.verifier.domains.word import U64
from pybpfvm.verifier.pruning.liveness import Liveness
from pybpfvm.verifier.pruning.prune import Matters
from pybpfvm.verifier.states.regstate import PACKET_TYPES, Reg, RegType, is_null
from pybpfvm.verifier.states.stack import EMPTY, SLOT_BYTES, SPILL, ZERO, Slot
from pybpfvm.verifier.states.state import Frame, State

Test = Callable[[list[Frame]], bool]

_SCALAR = RegType.SCALAR_VALUE


class Screen:
    """The tests that an explored state puts to the frames of states which it may cover: all must
    pass, `first` too, and there must be `depth` frames. Registers tell most states apart, so that
    slots are tested once a full comparison said no."""

    __slots__ = ("_of_slots", "_tests", "depth", "first", "matters")

    def __init__(self, live: Liveness, pc: int, state: State) -> None:
        self.matters = Matters(live, pc, state, explored=True)
        self.depth = len(state.frames)
        self._tests = [
            *(_callsite_test(at, state.frames[at].callsite) for at in range(1, self.depth)),
            *(_register_test(*one) for one in self.matters.registers),
        ]
        self._of_slots = False
        self.first: Test = self._tests[0] if self._tests else _agreed

    def passes(self, frames: list[Frame]) -> bool:
        """Whether no test fails; one that does is `first` from now on."""
        for test in self._tests:
            if not test(frames):
                self.first = test
                return False
        return True

    def misled(self) -> None:
        """The tests passed, and the full comparison said no."""
        if not self._of_slots:
            self._of_slots = True
            self._tests += [_slot_test(*one) for one in self.matters.slots]


def _agreed(_: list[Frame]) -> bool:
    """The test where there is none."""
    return True


def _callsite_test(index: int, callsite: int) -> Test:
    return lambda frames: frames[index].callsite == callsite


def _register_test(index: int, number: int, old: Reg) -> Test:
    kind, var = old.type, old.var
    if kind is not _SCALAR:
        off, spec, reach = old.off, old.map, old.range if old.type in PACKET_TYPES else 0

        def same_place(frames: list[Frame]) -> bool:
            reg = frames[index].regs[number]
            return reg.type is kind and reg.off == off and reg.map is spec and reg.range >= reach

        return same_place
    if not old.precise:
        return lambda frames: frames[index].regs[number].type is _SCALAR

    if not var.mask:
        value = var.value

        def same(frames: list[Frame]) -> bool:
            found = frames[index].regs[number].var
            return not found.mask and found.value == value

        return same
    low, high = var.umin, var.umax

    def within(frames: list[Frame]) -> bool:
        reg = frames[index].regs[number]
        found = reg.var
        return (
            low <= found.umin
            and found.umax <= high
            and reg.type is _SCALAR
            and is_subsumed_by(found, var)
        )

    return within


def _slot_test(index: int, base: int, slot: Slot) -> Test:
    kinds, spilled = slot.kinds, slot.spilled
    zeroes = [at for at in range(spilled, SLOT_BYTES) if kinds[at] == ZERO]

    def zero(frames: list[Frame]) -> bool:
        other = frames[index].stack.get(base, EMPTY)
        if other.kinds == kinds or not zeroes:
            return True
        null = other.reg is not None and is_null(other.reg)
        return all(other.kinds[at] == ZERO or (null and other.kinds[at] == SPILL) for at in zeroes)

    if slot.reg is None:
        return zero
    kind, off, spec, var = slot.reg.type, slot.reg.off, slot.reg.map, slot.reg.var
    precise = slot.reg.precise

    def may_hold(frames: list[Frame]) -> bool:
        other = frames[index].stack.get(base, EMPTY)
        reg = other.reg
        if reg is None:
            if kind is not _SCALAR:
                return False
            known = precise and var.mask != U64
            return (not known or other.kinds.count(ZERO, 0, spilled) == spilled) and zero(frames)
        if reg.type is not kind or reg.off != off or reg.map is not spec:
            return False
        if precise and other.spilled == spilled and not is_subsumed_by(reg.var, var):
            return False
        return zero(frames)

    return may_hold


def differ(old: Reg, new: Reg) -> bool:
    """Whether two registers surely do not hold the same."""
    if old.type is not new.type or old.off != new.off:
        return True
    a, b = old.var, new.var
    return a is not b and (
        a.value != b.value or a.mask != b.mask or a.umin != b.umin or a.umax != b.umax
    )

"""Backwards along a failing path: which instructions made a register, or a stack slot, what it is.

From the refused instruction to the first cause: each `Link` is the last change of a place before
the next one, found by what instructions write and by comparing the states before and after them.
Moves, arithmetic, spills and fills, calls and returns are followed; where two values met in an
operation, the one that the question is about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import FRAME_POINTER, AluOp, AtomicOp, Kind, Operand
from pybpfvm.isa.semantics import FETCHES
from pybpfvm.verifier.explaining.failing_path import Step
from pybpfvm.verifier.states.regstate import Reg, RegType
from pybpfvm.verifier.states.stack import SLOT_BYTES, Slot
from pybpfvm.verifier.states.state import State

MAX_LINKS = 400


class Aspect(Enum):
    """What about a value is asked for."""

    VALUE = "which numbers it may be"
    TYPE = "what it is: a number, a pointer, perhaps NULL, nothing"


class How(Enum):
    """How an instruction made a place what it is."""

    ENTRY = "the program began with it"
    NEVER = "nothing wrote it"
    CONSTANT = "a constant"
    COPIED = "a copy of another register"
    COMPUTED = "arithmetic"
    LOADED = "read from memory that is not followed"
    FILLED = "read from the stack"
    STORED = "written to the stack"
    HELPER_WROTE = "written to the stack by a helper"
    RESULT = "what a helper returned"
    CLOBBERED = "lost in a call"
    PARAMETER = "passed to a function"
    RETURNED = "returned by a function"
    GIVEN = "given to a callback"
    NARROWED = "a branch taught something about it"
    CHANGED = "a call or a callback changed it"


@dataclass(frozen=True, slots=True)
class Register:
    """Register `number` of the frame at depth `frame`."""

    frame: int
    number: int


@dataclass(frozen=True, slots=True)
class StackSlot:
    """The 8 bytes at r10 + `base` of the frame at depth `frame`."""

    frame: int
    base: int


Place = Register | StackSlot


@dataclass(frozen=True, slots=True)
class Link:
    """The instruction at step `index` (`pc`) made `place` what it was afterwards.

    `before` is what the place held, or the value that was copied into it; `after` what it held
    then; `other` the second operand of arithmetic, or what a store overwrote. -1 as index: before
    the path began.
    """

    index: int
    pc: int
    how: How
    place: Place
    before: Reg | None = None
    after: Reg | None = None
    other: Reg | None = None
    source: Place | None = None


def history(
    steps: Sequence[Step], code: Mapping[int, Insn], place: Place, aspect: Aspect
) -> tuple[Link, ...]:
    """The links that made `place` what it is before the last of `steps`, the first cause first."""
    links: list[Link] = []
    index = len(steps) - 1
    while len(links) < MAX_LINKS:
        link = _last_change(steps, code, index, place, aspect)
        links.append(link)
        if link.source is None:
            break
        index, place = link.index, link.source
    links.reverse()
    return tuple(links)


def held(state: State, place: Place) -> Reg | None:
    """The register, or what was spilled to the slot; None if nothing is known to be there."""
    if place.frame >= len(state.frames):
        return None
    frame = state.frames[place.frame]
    if isinstance(place, Register):
        return frame.regs[place.number]
    slot = frame.stack.get(place.base)
    return None if slot is None else slot.reg


def same(one: Reg | None, other: Reg | None) -> bool:
    """Whether the two say the same: pruning builds new Regs that do."""
    if one is other:
        return True
    if one is None or other is None or one.type is not other.type:
        return False
    return one.var == other.var and (one.off, one.range) == (other.off, other.range)


def written_registers(insn: Insn) -> frozenset[int]:
    """The registers of its own frame that an instruction writes; local calls, which also end
    the life of r1 to r5, included."""
    kind = insn.spec.kind
    if kind in _WRITES_DST:
        return frozenset({insn.dst})
    if kind in CALLS:
        return _CALLER_SAVED
    if kind is Kind.ATOMIC:
        if insn.spec.op is AtomicOp.CMPXCHG:
            return frozenset({0})
        return frozenset({insn.src}) if insn.spec.op in FETCHES else frozenset()
    return frozenset()


_WRITES_DST = frozenset(
    {Kind.ALU, Kind.ADDR_SPACE_CAST, Kind.LDX, Kind.LDSX, Kind.LOAD_ACQ, Kind.LDDW}
)
CALLS = frozenset({Kind.CALL, Kind.CALL_KFUNC, Kind.CALL_LOCAL, Kind.LD_ABS, Kind.LD_IND})
_CALLER_SAVED = frozenset(range(6))
_STORES = frozenset({Kind.ST, Kind.STX, Kind.STORE_REL, Kind.ATOMIC})
_LOADS = frozenset({Kind.LDX, Kind.LDSX, Kind.LOAD_ACQ})
_MOVES = frozenset({AluOp.MOV, AluOp.MOVSX8, AluOp.MOVSX16, AluOp.MOVSX32})


def _last_change(
    steps: Sequence[Step], code: Mapping[int, Insn], index: int, place: Place, aspect: Aspect
) -> Link:
    """The last change of `place` before step `index`."""
    for at in range(index - 1, -1, -1):
        found = _change(steps[at], steps[at + 1], at, code[steps[at].pc], place, aspect)
        if found is not None:
            return found
    first = steps[0]
    value = held(first.state, place)
    known = value is not None and value.type is not RegType.NOT_INIT
    return Link(-1, first.pc, How.ENTRY if known else How.NEVER, place, after=value)


def _change(
    step: Step, following: Step, at: int, insn: Insn, place: Place, aspect: Aspect
) -> Link | None:
    """What the instruction did to the place; None if it left it as it was."""
    before, after = step.state, following.state
    depth, later = len(before.frames) - 1, len(after.frames) - 1
    if place.frame > depth:
        return _entered(step, at, insn, place, after)
    if later < depth and place.frame == later and isinstance(place, Register):
        return _returned(step, at, place, after)
    if later == depth + 1 and place.frame == depth and insn.spec.kind is Kind.CALL:
        return None  # the round of a callback: the call itself is not over
    if isinstance(place, StackSlot):
        return _slot_change(step, at, insn, place, before, after)
    if place.frame == depth and place.number in written_registers(insn):
        return _register_written(step, at, insn, place, before, after, aspect)
    old, new = held(before, place), held(after, place)
    if same(old, new):
        return None
    how = How.NARROWED if insn.spec.kind is Kind.JUMP else How.CHANGED
    return Link(at, step.pc, how, place, old, new, source=place)


def _entered(step: Step, at: int, insn: Insn, place: Place, after: State) -> Link:
    """The place is of a frame that this call made."""
    value = held(after, place)
    if isinstance(place, StackSlot) or value is None or value.type is RegType.NOT_INIT:
        return Link(at, step.pc, How.NEVER, place, after=value)
    if place.number == FRAME_POINTER:
        return Link(at, step.pc, How.ENTRY, place, after=value)
    if insn.spec.kind is not Kind.CALL_LOCAL:
        return Link(at, step.pc, How.GIVEN, place, after=value)
    source = Register(place.frame - 1, place.number)
    return Link(at, step.pc, How.PARAMETER, place, value, value, source=source)


def _returned(step: Step, at: int, place: Register, after: State) -> Link | None:
    """The instruction left a function, and the place is its caller's."""
    before, left = step.state, step.state.frame
    if place.number == 0:
        value = held(after, place)
        if left.callback is not None:
            return Link(at, left.callsite, How.RESULT, place, after=value)
        source = Register(left.number, 0)
        return Link(at, step.pc, How.RETURNED, place, value, value, source=source)
    if place.number <= 5 and left.callback is not None:
        return Link(at, left.callsite, How.CLOBBERED, place, after=held(after, place))
    old, new = held(before, place), held(after, place)
    return None if same(old, new) else Link(at, step.pc, How.CHANGED, place, old, new, source=place)


def _register_written(
    step: Step, at: int, insn: Insn, place: Register, before: State, after: State, aspect: Aspect
) -> Link:
    kind = insn.spec.kind
    value = held(after, place)
    pc = step.pc
    if kind in CALLS:
        how = How.RESULT if place.number == 0 else How.CLOBBERED
        if kind is Kind.CALL_LOCAL and len(after.frames) > len(before.frames):
            how = How.CLOBBERED
        return Link(at, pc, how, place, held(before, place), value)
    if kind is Kind.LDDW:
        return Link(at, pc, How.CONSTANT, place, after=value)
    if kind in _LOADS:
        return _load(step, at, insn, place, before, value)
    if kind is not Kind.ALU:
        return Link(at, pc, How.LOADED, place, after=value)
    register = insn.spec.operand is Operand.X
    if insn.spec.op in _MOVES:
        if not register:
            return Link(at, pc, How.CONSTANT, place, after=value)
        origin = Register(place.frame, insn.src)
        return Link(at, pc, How.COPIED, place, held(before, origin), value, source=origin)
    old = held(before, place)
    if not register:
        return Link(at, pc, How.COMPUTED, place, old, value, source=place)
    other = Register(place.frame, insn.src)
    second = held(before, other)
    follow: Place = other if _second_matters(old, second, aspect) else place
    return Link(at, pc, How.COMPUTED, place, old, value, second, follow)


def _second_matters(first: Reg | None, second: Reg | None, aspect: Aspect) -> bool:
    """Whether the question is about the second operand rather than the first."""
    if first is None or second is None:
        return False
    one = first.type is RegType.SCALAR_VALUE
    other = second.type is RegType.SCALAR_VALUE
    if one != other:
        # Numbers are asked for: the one that was added, or, if that is 0, the pointer's own.
        number = first if one else second
        about_number = aspect is Aspect.VALUE and bool(number.var.mask or number.var.value)
        return about_number is not one
    return aspect is Aspect.VALUE and _spread(second) > _spread(first)


def _spread(reg: Reg) -> int:
    return min(reg.var.umax - reg.var.umin, reg.var.smax - reg.var.smin)


def _load(
    step: Step, at: int, insn: Insn, place: Register, before: State, value: Reg | None
) -> Link:
    pointer = before.frame.regs[insn.src]
    if pointer.type is not RegType.PTR_TO_STACK or pointer.var.mask:
        return Link(at, step.pc, How.LOADED, place, pointer, value)
    low = pointer.off + insn.off + pointer.var.smin
    slot = StackSlot(pointer.frame, low & -SLOT_BYTES)
    return Link(at, step.pc, How.FILLED, place, held(before, slot), value, source=slot)


def _slot_change(
    step: Step, at: int, insn: Insn, place: StackSlot, before: State, after: State
) -> Link | None:
    old = before.frames[place.frame].stack.get(place.base)
    new = (
        after.frames[place.frame].stack.get(place.base) if place.frame < len(after.frames) else old
    )
    kind = insn.spec.kind
    value = None if new is None else new.reg
    was = None if old is None else old.reg
    if kind in _STORES and _stores_to(insn, before, place):
        if kind is Kind.ST:
            return Link(at, step.pc, How.STORED, place, after=value, other=was)
        source = Register(len(before.frames) - 1, insn.src)
        stored = held(before, source)
        return Link(at, step.pc, How.STORED, place, stored, value, was, source)
    if _same_slot(old, new):
        return None
    if kind is Kind.JUMP:
        return Link(at, step.pc, How.NARROWED, place, was, value, source=place)
    if kind in CALLS and (was is None or value is None or value.type is was.type):
        return Link(at, step.pc, How.HELPER_WROTE, place, was, value)
    return Link(at, step.pc, How.CHANGED, place, was, value, source=place)


def _stores_to(insn: Insn, before: State, place: StackSlot) -> bool:
    pointer = before.frame.regs[insn.dst]
    if pointer.type is not RegType.PTR_TO_STACK or pointer.frame != place.frame:
        return False
    low = pointer.off + insn.off + pointer.var.smin
    high = pointer.off + insn.off + pointer.var.smax + int(insn.spec.size or SLOT_BYTES)
    return low < place.base + SLOT_BYTES and high > place.base


def _same_slot(old: Slot | None, new: Slot | None) -> bool:
    if old is new:
        return True
    if old is None or new is None:
        return False
    return old.kinds == new.kinds and same(old.reg, new.reg)

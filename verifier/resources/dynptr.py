"""Dynptrs: handles to memory whose size is known at run time only, in two stack slots each.

A dynptr to a ring buffer record holds a reference, that submitting or discarding it gives back,
or doing so to a clone of it; one to a map value or to the packet holds nothing. What
`bpf_dynptr_data` gave points into the dynptr's memory, and is of no use once the dynptr is gone:
given back, or overwritten. Bytes of a dynptr can not be read, and be overwritten only if it holds
no reference. What kfuncs do with them: `kernelobjects/kfuncdynptrs.py`.
Kernel Documentation/bpf/kfuncs.rst and the running kernel's answers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pybpfvm.verifier.checks import check_stack_bounds
from pybpfvm.verifier.environment import Environment
from pybpfvm.verifier.jumps import places
from pybpfvm.verifier.refusal import Refused, forbidden
from pybpfvm.verifier.states.regstate import Pointer, Reg, RegType, Trust, unknown
from pybpfvm.verifier.states.stack import SLOT_BYTES, ObjectSlot, Slot, StackObject
from pybpfvm.verifier.states.state import Frame, State
from pybpfvm.verifier.verdict import Rule

DYNPTR_BYTES = 2 * SLOT_BYTES

_NEW = {"dynptr_from_mem": "local", "ringbuf_reserve_dynptr": "ringbuf"}
_RELEASE = frozenset({"ringbuf_submit_dynptr", "ringbuf_discard_dynptr"})
# `dynptr_any`: one that a caller gave, of whatever kind.
_SKB = frozenset({"dynptr_skb", "dynptr_skb_meta", "dynptr_any"})
_PACKET = frozenset({*_SKB, "dynptr_xdp"})


@dataclass(frozen=True, slots=True)
class Dynptr(StackObject):
    """A half of a dynptr: the `first` is at the lower address."""

    first: bool = True

    @property
    def packet(self) -> bool:
        """Whether its memory is the packet's."""
        return self.name in _PACKET

    @property
    def moves(self) -> bool:
        """Whether writing through it may move the packet."""
        return self.name in _SKB

    def text(self) -> str:
        """As the kernel log has it: at the lower half."""
        held = f",ref_id={self.ref_id}" if self.ref_id else ""
        return f"{self.name}(id={self.id}{held},dynptr_id={self.id})" if self.first else ""


def dynptr_argument(
    env: Environment, state: State, reg: Reg, number: int, helper: str, pc: int
) -> Callable[[], None] | None:
    """A helper's dynptr argument is as it must be; what the call does to the dynptr, to be done
    once all arguments are checked."""
    if helper in _NEW:
        return place_for(env, state, reg, number, _NEW[helper], pc)
    if helper in _RELEASE:
        found = at(state, reg)
        if reg.type is RegType.CONST_PTR_TO_DYNPTR:
            raise forbidden(
                Rule.DYNPTR,
                "CONST_PTR_TO_DYNPTR cannot be released",
                reason="this dynptr is the caller's",
                culprit=reg,
            )
        if found is None or not found.ref_id:
            raise Refused(
                Rule.DYNPTR if found is not None else Rule.RELEASE_UNOWNED,
                f"arg {number} is an unacquired reference",
                reason="no record of a ring buffer is behind this dynptr, or not any more",
                culprit=reg,
            )
        ref_id = found.ref_id
        return lambda: _give_back(state, ref_id, pc)
    check_made(state, reg, number)
    return None


def check_lent(state: State, reg: Reg, number: int) -> Dynptr:
    """A dynptr is given to a function; that dynptr."""
    if reg.type not in (RegType.PTR_TO_STACK, RegType.CONST_PTR_TO_DYNPTR):
        raise forbidden(
            Rule.DYNPTR,
            f"arg#{number - 1} expected pointer to stack or const struct bpf_dynptr",
            reason="the function takes a dynptr, which lives on the stack",
            culprit=reg,
        )
    return check_made(state, reg, number)


def check_made(state: State, reg: Reg, number: int) -> Dynptr:
    """A dynptr begins where the register points; that dynptr."""
    found = at(state, reg)
    if found is None:
        raise Refused(
            Rule.DYNPTR,
            f"Expected an initialized dynptr as arg #{number - 1}",
            reason="no dynptr begins here, or it was overwritten",
            suggestion="make the dynptr first, on every path",
            culprit=reg,
        )
    return found


def place_for(
    env: Environment, state: State, reg: Reg, number: int, kind: str, pc: int, ref_id: int = 0
) -> Callable[[], None]:
    """There is place for a dynptr where the register points, and what was there is gone; what
    makes it. `ref_id`: of the record that it is to, if that is held already."""
    place = _place(reg)
    if place is None:
        raise forbidden(
            Rule.DYNPTR,
            "Dynptr has to be an uninitialized dynptr",
            reason=f"a dynptr takes {DYNPTR_BYTES} bytes of the stack, at a constant multiple "
            f"of {SLOT_BYTES}",
            culprit=reg,
        )
    check_stack_bounds(env, state, reg, number, 0, DYNPTR_BYTES, " write")
    frame = state.frames[reg.frame]
    overwrite(state, frame, place, place + DYNPTR_BYTES, pc)
    return lambda: _make(env, state, frame, place, kind, pc, ref_id)


def at(state: State, reg: Reg) -> Dynptr | None:
    """The dynptr that `reg` is to, if a whole one begins there."""
    if reg.type is RegType.CONST_PTR_TO_DYNPTR:
        moved = reg.off or reg.var.mask or reg.var.value
        name = "dynptr_any" if reg.trust & Trust.PACKET else "dynptr_local"
        return None if moved else Dynptr(name, 0, reg.id)
    place = _place(reg)
    if reg.type is not RegType.PTR_TO_STACK or place is None:
        return None
    slots = state.frames[reg.frame].stack
    low, high = slots.get(place), slots.get(place + SLOT_BYTES)
    first = low.object if low is not None else None
    second = high.object if high is not None else None
    if not isinstance(first, Dynptr) or not isinstance(second, Dynptr):
        return None
    return first if first.first and not second.first and first.id == second.id else None


def slice_of(env: Environment, dynptr: Dynptr, size_bytes: int, pc: int) -> Pointer:
    """What bpf_dynptr_data gives: a pointer to a part of a dynptr's memory, which may not be
    there."""
    return Pointer(
        RegType.PTR_TO_MEM_OR_NULL,
        pc,
        id=env.new_id(),
        ref_id=dynptr.ref_id,
        owner=dynptr.id,
        mem_size=size_bytes,
    )


def overwrite(state: State, frame: Frame, low: int, high: int, pc: int) -> None:
    """Bytes from `low` to `high` (exclusive) of a frame's stack are about to be written: dynptrs
    there are gone, and what points into their memory is a number."""
    for base in range(low & -SLOT_BYTES, high, SLOT_BYTES):
        slot = frame.stack.get(base)
        found = slot.object if slot is not None else None
        if not isinstance(found, Dynptr):
            continue
        if found.ref_id:
            raise forbidden(
                Rule.DYNPTR,
                "cannot overwrite referenced dynptr",
                reason="its record could never be given back",
                suggestion="submit or discard it first",
            )
        first = base if found.first else base - SLOT_BYTES
        for half in (first, first + SLOT_BYTES):
            frame.put(half, Slot(bytes(SLOT_BYTES)), whole=True)
        forget_slices(state, found.id, pc)


def check_helper_writes(frame: Frame, low: int, high: int, number: int) -> None:
    """A helper writes the bytes from `low` to `high` of a frame's stack: no dynptr is there."""
    for base in range(low & -SLOT_BYTES, high, SLOT_BYTES):
        slot = frame.stack.get(base)
        if slot is not None and isinstance(slot.object, Dynptr):
            raise forbidden(
                Rule.DYNPTR,
                f"potential write to dynptr at off={max(base, low)} disallowed",
                reason=f"what r{number} points to is not free: a dynptr is in it",
            )


def _place(reg: Reg) -> int | None:
    """Where on the stack a dynptr would begin; None if none can."""
    place = reg.off + reg.var.smin
    if reg.var.mask or place % SLOT_BYTES or place > -DYNPTR_BYTES:
        return None
    return place


def _make(
    env: Environment, state: State, frame: Frame, place: int, kind: str, pc: int, ref_id: int
) -> None:
    new = env.new_id()
    if kind == "ringbuf" and not ref_id:
        ref_id = new
        state.refs = (*state.refs, (new, pc))
    for base, first in ((place, True), (place + SLOT_BYTES, False)):
        frame.put(base, ObjectSlot(Dynptr(f"dynptr_{kind}", ref_id, new, first)), whole=True)


def _give_back(state: State, ref_id: int, pc: int) -> None:
    """The record is gone, with its dynptr, the clones of that and all slices."""
    state.refs = tuple(ref for ref in state.refs if ref[0] != ref_id)
    for frame in state.frames:
        for base, slot in list(frame.stack.items()):
            if slot.object is not None and slot.object.ref_id == ref_id:
                frame.put(base, Slot(bytes(SLOT_BYTES)), whole=True)
        for put, reg in places(frame):
            if reg.ref_id == ref_id:
                put(unknown(pc))


def forget_slices(state: State, id: int, pc: int) -> None:
    """What points into the memory of the dynptr `id` is a number now."""
    for frame in state.frames:
        for put, reg in places(frame):
            if reg.owner == id:
                put(unknown(pc))

"""Open-coded iterators: bpf_iter_num_new, _next and _destroy on an object in stack slots.

A new iterator is active and must be destroyed, whatever else happens. A call of next forks: the
iterator is drained and gives NULL, or stays active and gives an element; once drained it gives
NULL for ever. As it drains some time, no loop through next runs forever: a path that comes back
to it ends if an older state there covers it, and what a turn changes is forgotten as in
`maygoto`. Kernel Documentation/bpf/kfuncs.rst; order and messages as the running kernel answers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from pybpfvm.btf.types import Func
from pybpfvm.isa.insn import Insn
from pybpfvm.verifier.calls import release
from pybpfvm.verifier.checks import check_readable, check_stack_bounds
from pybpfvm.verifier.environment import Environment
from pybpfvm.verifier.pruning.backedges import widen
from pybpfvm.verifier.pruning.maygoto import LastTurn
from pybpfvm.verifier.refusal import Refused, forbidden
from pybpfvm.verifier.resources.dynptr import overwrite
from pybpfvm.verifier.states.regstate import (
    ZERO,
    Pointer,
    Reg,
    RegType,
    Trust,
    clobbered,
    scalar,
    unknown,
)
from pybpfvm.verifier.states.stack import SLOT_BYTES, ObjectSlot, Slot, StackObject
from pybpfvm.verifier.states.state import Frame, State
from pybpfvm.verifier.verdict import Rule

_ELEMENT_BYTES = 4  # next gives an int *


@dataclass(frozen=True, slots=True)
class Iterator(StackObject):
    """An iterator. `turns`: how often next gave an element on this path."""

    drained: bool = False
    turns: int = 0

    def text(self) -> str:
        """As the kernel log has it."""
        status = "drained" if self.drained else "active"
        return f"{self.name}(ref_id={self.ref_id},state={status},depth={self.turns})"

    def alike(self, new: StackObject, *, exact: bool) -> bool:
        """Turns are counted to tell loops that end from those that do not; they do not matter."""
        return (
            isinstance(new, Iterator)
            and self.name == new.name
            and self.drained == new.drained
            and (not exact or self.turns == new.turns)
        )


def is_next(env: Environment, insn: Insn) -> bool:
    """Whether the kfunc call asks an iterator for its next element."""
    return _called(env, insn) == "bpf_iter_num_next"


def _called(env: Environment, insn: Insn) -> str:
    if env.profile.ring is not None or env.target is None or insn.off:
        return ""
    found = env.target.type(insn.imm) if 0 < insn.imm < len(env.target) else None
    return found.name if isinstance(found, Func) else ""


def active(state: State) -> Iterator | None:
    """The iterator that r1 is to, if it is to one that is not drained."""
    found = _iterator(state, state.frame.regs[1])
    return None if found is None or found.drained else found


def num_new(env: Environment, state: State, insn: Insn, pc: int) -> None:
    """bpf_iter_num_new(it, start, end)."""
    regs = state.frame.regs
    frame, base = _place(env, state, regs[1])
    slot = frame.stack.get(base)
    if slot is not None and isinstance(slot.object, Iterator):
        raise forbidden(
            Rule.ITERATOR,
            "expected uninitialized iter_num as arg #0",
            reason="an iterator is in these bytes already; destroy it first",
            culprit=regs[1],
        )
    for number in (2, 3):
        check_readable(regs[number], number)
        if regs[number].type is not RegType.SCALAR_VALUE:
            raise forbidden(
                Rule.KFUNC_ARG,
                f"R{number} is not a scalar",
                reason="the first and the last number are numbers",
                culprit=regs[number],
            )
    overwrite(state, frame, base, base + SLOT_BYTES, pc)
    ref_id = env.new_id()
    state.refs = (*state.refs, (ref_id, pc))
    frame.put(base, ObjectSlot(Iterator("iter_num", ref_id)), whole=True)
    regs[0:6] = [unknown(pc), *[clobbered(pc)] * 5]


def num_destroy(env: Environment, state: State, insn: Insn, pc: int) -> None:
    """bpf_iter_num_destroy(it)."""
    regs = state.frame.regs
    frame, base, found = _valid(env, state, regs[1])
    frame.put(base, Slot(bytes(SLOT_BYTES)), whole=True)
    release(state, found.ref_id, pc)
    regs[0:6] = [clobbered(pc)] * 6


def num_next(env: Environment, state: State, insn: Insn, pc: int) -> None:
    """bpf_iter_num_next(it), as if it gave an element; the caller knows that it may not."""
    regs = state.frame.regs
    _, _, found = _valid(env, state, regs[1])
    element = Pointer(
        RegType.PTR_TO_MEM,
        pc,
        mem_size=_ELEMENT_BYTES,
        ref_id=found.ref_id,
        trust=Trust.RDONLY,
    )
    regs[0:6] = [element, *[clobbered(pc)] * 5]


def prepare_next(
    call: Callable[[State], None],
    pc: int,
    forks: list[tuple[int, State]],
    last_turn: LastTurn,
) -> Callable[[State], int]:
    """The step of a call of next: goes on drained, and forks the next turn."""

    def step(state: State) -> int:
        place = state.frame.regs[1]
        before = last_turn(pc, state)
        call(state)
        found = _iterator(state, place)
        assert found is not None, "the call checked it"
        if not found.drained:
            state.certain = False
            turn = state.copy()
            _put(turn, place, replace(found, turns=found.turns + 1))
            if before is not None:
                widen(turn, before)
            forks.append((pc + 1, turn))
            _put(state, place, replace(found, drained=True))
        state.frame.regs[0] = scalar(ZERO, pc)
        return pc + 1

    return step


def _iterator(state: State, reg: Reg) -> Iterator | None:
    """The iterator that `reg` is to, if it is to one."""
    if reg.type is not RegType.PTR_TO_STACK or reg.var.mask:
        return None
    slot = state.frames[reg.frame].stack.get(reg.off + reg.var.smin)
    found = slot.object if slot is not None else None
    return found if isinstance(found, Iterator) else None


def _put(state: State, reg: Reg, iterator: Iterator) -> None:
    frame = state.frames[reg.frame]
    frame.put(reg.off + reg.var.smin, ObjectSlot(iterator), whole=True)


def _valid(env: Environment, state: State, reg: Reg) -> tuple[Frame, int, Iterator]:
    frame, base = _place(env, state, reg)
    found = _iterator(state, reg)
    if found is None:
        raise Refused(
            Rule.ITERATOR,
            "expected an initialized iter_num as arg #0",
            reason="no iterator is in these bytes, or what is left of one that was overwritten",
            suggestion="call bpf_iter_num_new first, on every path, and destroy once",
            culprit=reg,
        )
    return frame, base, found


def _place(env: Environment, state: State, reg: Reg) -> tuple[Frame, int]:
    """The frame and offset that r1 is to: a place for an iterator."""
    check_readable(reg, 1)
    if reg.type is not RegType.PTR_TO_STACK:
        raise forbidden(
            Rule.ITERATOR,
            "arg#0 expected pointer to an iterator on stack",
            reason="iterators live on the stack of the program",
            culprit=reg,
        )
    if reg.var.mask:
        raise forbidden(
            Rule.ITERATOR,
            "iter has to be at a constant offset",
            reason="which bytes are the iterator must be known",
            culprit=reg,
        )
    base = reg.off + reg.var.smin
    if base % SLOT_BYTES:
        raise forbidden(
            Rule.ITERATOR,
            f"cannot pass in iter at an offset={base}",
            reason="iterators take whole stack slots of 8 bytes",
            culprit=reg,
        )
    check_stack_bounds(env, state, reg, 1, 0, SLOT_BYTES, " write")
    return state.frames[reg.frame], base

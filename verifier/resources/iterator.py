"""Open-coded iterators: bpf_iter_KIND_new, _next and _destroy on an object in stack slots.

A new iterator is active and must be destroyed, whatever else happens. A call of next forks: the
iterator is drained and gives NULL, or stays active and gives an element; once drained it gives
NULL for ever. As it drains some time, no loop through next runs forever: a path that comes back
to it ends if an older state there covers it, and what a turn changes is forgotten as in
`maygoto`. Some iterators walk what RCU protects: such live in one read section.
Kernel Documentation/bpf/kfuncs.rst; order and messages as the running kernel answers.

Elements that are kernel objects are gone when the iterator lets go of them, with the next call of
next or with destroy. Kernels do not notice that they are used later.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from pybpfvm.btf.types import Btf, Func, Ptr, Struct
from pybpfvm.isa.insn import Insn
from pybpfvm.verifier.calls import release
from pybpfvm.verifier.checks import check_readable, check_stack_bounds
from pybpfvm.verifier.environment import Environment
from pybpfvm.verifier.jumps import places
from pybpfvm.verifier.kernelobjects.btfptr import BTF_ID, in_rcu_section
from pybpfvm.verifier.kernelobjects.kfunc_flags import KFUNCS, Kf
from pybpfvm.verifier.pruning.backedges import widen
from pybpfvm.verifier.pruning.maygoto import LastTurn
from pybpfvm.verifier.refusal import Refused, forbidden, unsupported
from pybpfvm.verifier.resources.dynptr import overwrite
from pybpfvm.verifier.states.regstate import ZERO, Pointer, Reg, RegType, Trust, scalar, unknown
from pybpfvm.verifier.states.stack import SLOT_BYTES, ObjectSlot, Slot, StackObject
from pybpfvm.verifier.states.state import Frame, State
from pybpfvm.verifier.verdict import Rule

_NAME = re.compile(r"bpf_(iter_\w+)_(new|next|destroy)")
# Iterators that keep all their elements until they are destroyed: they hold a lock.
_KEEPS_ELEMENTS = frozenset({"iter_task_vma"})
_CSS_TASK = "iter_css_task"


@dataclass(frozen=True, slots=True)
class Iterator(StackObject):
    """Eight bytes of an iterator: the `part`s in order from the lowest address. In the first,
    `turns`: how often next gave an element on this path. `trust` is that of its elements."""

    drained: bool = False
    turns: int = 0
    part: int = 0
    trust: Trust = Trust.TRUSTED

    def text(self) -> str:
        """As the kernel log has it: at the first part."""
        if self.part:
            return ""
        status = "drained" if self.drained else "active"
        return f"{self.name}(ref_id={self.ref_id},state={status},depth={self.turns})"

    def outside_rcu(self) -> StackObject:
        """What is walked is not protected any more."""
        return replace(self, trust=Trust.UNTRUSTED) if self.trust is Trust.RCU else self

    def alike(self, new: StackObject, *, exact: bool) -> bool:
        """Turns are counted to tell loops that end from those that do not; they do not matter."""
        return (
            isinstance(new, Iterator)
            and (self.name, self.part, self.trust) == (new.name, new.part, new.trust)
            and self.drained == new.drained
            and (not exact or self.turns == new.turns)
        )


def is_next(env: Environment, insn: Insn) -> bool:
    """Whether the kfunc call asks an iterator for its next element."""
    function = _function_of(_called(env, insn))
    return function is not None and function[1] == "next"


def _called(env: Environment, insn: Insn) -> str:
    if env.profile.ring is not None or env.target is None or insn.off:
        return ""
    found = env.target.type(insn.imm) if 0 < insn.imm < len(env.target) else None
    return found.name if isinstance(found, Func) else ""


def _function_of(kfunc: str) -> tuple[str, str] | None:
    """("iter_num", "next") of a kfunc that is an iterator's; None for others."""
    found = _NAME.fullmatch(kfunc)
    return (found[1], found[2]) if found is not None and kfunc in KFUNCS else None


def takes_iterator(kfunc: str) -> bool:
    """Whether the first argument of the kfunc is an iterator."""
    return _function_of(kfunc) is not None


def active(state: State) -> Iterator | None:
    """The iterator that r1 is to, if it is to one that is not drained."""
    found = _iterator(state, state.frame.regs[1])
    return None if found is None or found.drained else found


def check_argument(
    env: Environment, state: State, kfunc: str, btf: Btf, type_id: int, pc: int
) -> None:
    """The iterator in r1, of struct `type_id`, is as the kfunc needs it; a new one is made, one
    to destroy destroyed."""
    function = _function_of(kfunc)
    assert function is not None
    name, verb = function
    struct = btf.type(type_id)
    if not isinstance(struct, Struct) or not struct.size or struct.size % SLOT_BYTES:
        raise unsupported(f"the iterator that {kfunc} takes in this BTF")
    if verb == "new":
        _make(env, state, kfunc, name, struct.size, pc)
        return
    frame, base, found = _valid(env, state, name, kfunc, struct.size)
    if verb == "next":
        if name not in _KEEPS_ELEMENTS:
            _forget_elements(state, found, pc)
        return
    for part in range(0, struct.size, SLOT_BYTES):
        frame.put(base + part, Slot(bytes(SLOT_BYTES)), whole=True)
    release(state, found.ref_id, pc)
    _forget_elements(state, found, pc)


def _make(env: Environment, state: State, kfunc: str, name: str, size: int, pc: int) -> None:
    if name == _CSS_TASK and not (
        env.sleepable or env.profile.name == "lsm" or env.program.section.startswith("iter")
    ):
        raise forbidden(
            Rule.KFUNC_NOT_ALLOWED,
            "css_task_iter is only allowed in bpf_lsm, bpf_iter and sleepable progs",
            reason="it takes a lock that other programs may be called under",
        )
    reg = state.frame.regs[1]
    frame, base = _place(env, state, reg, size)
    parts = range(base, base + size, SLOT_BYTES)
    if any(
        (slot := frame.stack.get(at)) is not None and isinstance(slot.object, Iterator)
        for at in parts
    ):
        raise forbidden(
            Rule.ITERATOR,
            f"expected uninitialized {name} as arg #0",
            reason="an iterator is in these bytes already; destroy it first",
            culprit=reg,
        )
    overwrite(state, frame, base, base + size, pc)
    trust = Trust.TRUSTED
    if KFUNCS[kfunc].flags & Kf.RCU_PROTECTED:
        trust = Trust.RCU if in_rcu_section(env, state) else Trust.UNTRUSTED
    ref_id = env.new_id()
    state.refs = (*state.refs, (ref_id, pc))
    for part, at in enumerate(parts):
        frame.put(at, ObjectSlot(Iterator(name, ref_id, part=part, trust=trust)), whole=True)


def element(env: Environment, state: State, btf: Btf, pointer: Ptr, pc: int) -> Reg:
    """What next gives, as if it gave an element; the caller knows that it may not."""
    found = _iterator(state, state.frame.regs[1])
    if found is None:
        raise unsupported(f"elements of {btf.name(pointer.type_id)} without an iterator")
    type_id = btf.resolve(pointer.type_id)
    if not isinstance(btf.type(type_id), Struct):
        return Pointer(
            RegType.PTR_TO_MEM,
            pc,
            mem_size=btf.size(type_id),
            ref_id=found.ref_id,
            trust=Trust.RDONLY,
        )
    owner = found.ref_id if found.trust is Trust.TRUSTED else 0
    return Pointer(BTF_ID, pc, btf_id=type_id, trust=found.trust, owner=owner)


def _forget_elements(state: State, iterator: Iterator, pc: int) -> None:
    for frame in state.frames:
        for put, reg in places(frame):
            if reg.owner == iterator.ref_id:
                put(unknown(pc))


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
        if found is None:
            raise unsupported("iterators of a target BTF in which next takes none")
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
    """The iterator that begins where `reg` is to."""
    if reg.type is not RegType.PTR_TO_STACK or reg.var.mask:
        return None
    slot = state.frames[reg.frame].stack.get(reg.off + reg.var.smin)
    found = slot.object if slot is not None else None
    return found if isinstance(found, Iterator) and not found.part else None


def _put(state: State, reg: Reg, iterator: Iterator) -> None:
    frame = state.frames[reg.frame]
    frame.put(reg.off + reg.var.smin, ObjectSlot(iterator), whole=True)


def _valid(
    env: Environment, state: State, name: str, kfunc: str, size: int
) -> tuple[Frame, int, Iterator]:
    reg = state.frame.regs[1]
    frame, base = _place(env, state, reg, size)
    found = _iterator(state, reg)
    if found is None or found.name != name or not _whole(frame, base, found, size):
        raise Refused(
            Rule.ITERATOR,
            f"expected an initialized {name} as arg #0",
            reason="no such iterator is in these bytes, or what is left of one that was "
            "overwritten",
            suggestion=f"call bpf_{name}_new first, on every path, and destroy once",
            culprit=reg,
        )
    if found.trust is Trust.UNTRUSTED:
        raise forbidden(
            Rule.ITERATOR,
            f"expected an RCU CS when using {kfunc}",
            reason="the read section in which the iterator was made has ended",
            suggestion="destroy the iterator before bpf_rcu_read_unlock()",
            culprit=reg,
        )
    return frame, base, found


def _whole(frame: Frame, base: int, first: Iterator, size: int) -> bool:
    """Whether all parts of the iterator are there."""
    for part in range(1, size // SLOT_BYTES):
        slot = frame.stack.get(base + part * SLOT_BYTES)
        found = slot.object if slot is not None else None
        if not isinstance(found, Iterator) or found.part != part or found.ref_id != first.ref_id:
            return False
    return True


def _place(env: Environment, state: State, reg: Reg, size: int) -> tuple[Frame, int]:
    """The frame and offset that r1 is to: a place for an iterator of `size` bytes."""
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
    if base % SLOT_BYTES or -size < base < 0:
        raise forbidden(
            Rule.ITERATOR,
            f"cannot pass in iter at an offset={base}",
            reason=f"iterators take whole stack slots of {SLOT_BYTES} bytes, this one {size} bytes",
            culprit=reg,
        )
    check_stack_bounds(env, state, reg, 1, 0, size, " write")
    return state.frames[reg.frame], base

"""Conditional jumps: which arms are possible, and what each teaches about registers.

A step gives (state where it jumps, state where it goes on); None for an arm that can not be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import AluOp, JmpOp, Operand
from pybpfvm.isa.semantics import CONCRETE_JMP
from pybpfvm.verifier.checks import MAX_PACKET_OFF, check_readable
from pybpfvm.verifier.domains.alu import transfer_of
from pybpfvm.verifier.domains.branch import arms_of
from pybpfvm.verifier.domains.scalar import Scalar, remembering
from pybpfvm.verifier.environment import Environment
from pybpfvm.verifier.privileges.leaks import check_compared
from pybpfvm.verifier.states.regstate import (
    NON_NULL,
    ZERO,
    Pointer,
    Reg,
    RegType,
    Trust,
    is_null,
    is_trusted,
    mark_precise,
    scalar,
)
from pybpfvm.verifier.states.stack import Slot
from pybpfvm.verifier.states.state import Frame, State
from pybpfvm.verifier.usermemory.origin import learned

_EQUALITY = frozenset({JmpOp.JEQ, JmpOp.JNE})
_ADD = {width: transfer_of(AluOp.ADD, width, as_kernel=True) for width in (32, 64)}

Arms = tuple[State | None, State | None]
JumpStep = Callable[[State], Arms]

_SCALAR = RegType.SCALAR_VALUE
_PACKET, _PACKET_META, _PACKET_END = (
    RegType.PTR_TO_PACKET,
    RegType.PTR_TO_PACKET_META,
    RegType.PTR_TO_PACKET_END,
)
# Pointers that are never NULL, so that a comparison with 0 has one outcome.
_NEVER_NULL = frozenset(
    {
        RegType.PTR_TO_MAP_VALUE,
        RegType.PTR_TO_MAP_KEY,
        RegType.PTR_TO_RINGBUF_MEM,
        RegType.CONST_PTR_TO_MAP,
        RegType.PTR_TO_SOCKET,
        RegType.PTR_TO_SOCK_COMMON,
        RegType.PTR_TO_TCP_SOCK,
    }
)


def prepare_jump(env: Environment, insn: Insn, pc: int) -> JumpStep:
    """The step of a conditional jump."""
    op, width = insn.spec.op, insn.spec.width
    assert isinstance(op, JmpOp)
    dst, src = insn.dst, insn.src
    register = insn.spec.operand is Operand.X
    constant = scalar(Scalar.const(insn.imm), pc)
    as_kernel = not env.rules.tracks_all
    forgets = env.rules.forgets_ranges and as_kernel
    arms = arms_of(op, width, as_kernel=as_kernel, forgets=forgets)
    jumps, goes_on = map(remembering, arms)
    holds = CONCRETE_JMP[op]

    def step(state: State) -> Arms:
        regs = state.frame.regs
        a = regs[dst]
        b = regs[src] if register else constant
        if a.type is not _SCALAR or b.type is not _SCALAR:
            check_readable(b, src)
            check_readable(a, dst)
            return _pointer_jump(env, insn, state, a, b)
        x, y = a.var, b.var
        if not x.mask and not y.mask:
            mark_precise(a)
            mark_precise(b)
            return (state, None) if holds(x.value, y.value, width) else (None, state)
        taken, fallen = jumps(x, y), goes_on(x, y)
        if taken is None or fallen is None:
            mark_precise(a)
            mark_precise(b)
            return (None if taken is None else state, None if fallen is None else state)
        state.certain = False
        other = state.copy()
        _learn(other, dst, a, taken[0], b if register else None)
        _learn(state, dst, a, fallen[0], b if register else None)
        if register:
            _learn(other, src, b, taken[1], a)
            _learn(state, src, b, fallen[1], a)
        return other, state

    return step


def _learn(state: State, number: int, old: Reg, var: Scalar, other: Reg | None) -> None:
    """Register `number`, which was `old`, is known to be in `var` since it was compared with
    `other`; so is every other copy of it."""
    if var is old.var:
        return
    deps = (old,) if other is None else (old, other)
    new = old.like(var, deps, old.id, old.shift)
    if old.origin is not None:
        learned(state, new)
    state.frame.regs[number] = new
    if not old.id:
        return
    for frame in state.frames:
        regs = frame.regs
        for index in range(10):
            reg = regs[index]
            if reg.id == old.id and reg is not new and reg.type is _SCALAR:
                regs[index] = _linked(reg, old, new)
        for base, slot in list(frame.stack.items()):
            held = slot.reg
            if held is not None and held.id == old.id and held.type is _SCALAR:
                frame.put(base, Slot(slot.kinds, _linked(held, old, new), slot.spilled))


def _linked(reg: Reg, old: Reg, new: Reg) -> Reg:
    """`reg`, a copy of `old` up to a constant, now that `old` is `new`."""
    if reg is old:
        return new
    mine, known = reg.shift, old.shift
    width = mine.width if mine is not None else known.width if known is not None else 64
    if mine is not None and known is not None and known.width != width:
        return reg
    difference = (mine.delta if mine is not None else 0) - (known.delta if known is not None else 0)
    if not difference:
        return reg.like(new.var, (reg, new), reg.id, known)
    var = _ADD[width](new.var, Scalar.const(difference))
    return reg.like(var, (reg, new), reg.id, mine)


def _pointer_jump(env: Environment, insn: Insn, state: State, a: Reg, b: Reg) -> Arms:
    op, width, register = insn.spec.op, insn.spec.width, insn.spec.operand is Operand.X
    assert isinstance(op, JmpOp)
    if width == 64 and op in _EQUALITY and is_null(b):
        if a.type in NON_NULL and not register:
            return _null_check(env, op, state, a)
        if a.type in _NEVER_NULL or _is_valid(a):
            mark_precise(b)
            return (None, state) if op is JmpOp.JEQ else (state, None)
    packet = width == 64 and register and op in _MIRRORED and (_bounds(a, b) or _bounds(b, a))
    if not packet:
        check_compared(env, insn, a, b)
    state.certain = False
    other = state.copy()
    if packet:
        _packet_compare(op, other, state, a, b)
    return other, state


def _is_valid(pointer: Reg) -> bool:
    """Whether a pointer to a kernel object, or to memory, can not be NULL: what is untrusted, or
    only protected by RCU, may be."""
    if pointer.type is RegType.PTR_TO_BTF_ID:
        return is_trusted(pointer)
    return pointer.type is RegType.PTR_TO_MEM and not pointer.trust & Trust.UNTRUSTED


def _null_check(env: Environment, op: JmpOp, state: State, pointer: Reg) -> Arms:
    state.certain = False
    other = state.copy()
    null, real = (other, state) if op is JmpOp.JEQ else (state, other)
    # A value that may hold a lock is told from others by its id.
    kept = pointer.id if env.fields_behind(pointer) else 0
    _resolve(null, pointer, None)
    _resolve(real, pointer, kept)
    return other, state


def _resolve(state: State, pointer: Reg, id: int | None) -> None:
    """All copies of a pointer that may be NULL become a pointer with this `id`; 0 if None."""
    for frame in state.frames:
        for put, reg in places(frame):
            if reg.id == pointer.id and reg.type in NON_NULL:
                assert isinstance(reg, Pointer)
                if id is None:
                    put(scalar(ZERO, reg.at))
                else:
                    put(reg.of_type(NON_NULL[reg.type], id))
    # The NULL of a cast says nothing of the socket that was cast.
    if id is None and pointer.ref_id and pointer.ref_id == pointer.id:
        state.refs = tuple(ref for ref in state.refs if ref[0] != pointer.ref_id)


def places(frame: Frame) -> Iterator[tuple[Callable[[Reg], None], Reg]]:
    """Every register and spilled register of a frame, each with a way to replace it."""

    def put_register(index: int) -> Callable[[Reg], None]:
        def put(new: Reg) -> None:
            frame.regs[index] = new

        return put

    def put_slot(base: int, slot: Slot) -> Callable[[Reg], None]:
        return lambda new: frame.put(base, Slot(slot.kinds, new, slot.spilled))

    for index in range(10):
        yield put_register(index), frame.regs[index]
    for base, slot in list(frame.stack.items()):
        if slot.reg is not None:
            yield put_slot(base, slot), slot.reg


def _packet_compare(op: JmpOp, taken: State, fallen: State, a: Reg, b: Reg) -> None:
    """What comparing a packet pointer with the packet's end tells of the bytes before it.

    With the pointer on the left: p <= end gives `off` bytes, p < end one more.
    """
    if _bounds(a, b):
        pointer, op_seen = a, op
    elif _bounds(b, a) and op in _MIRRORED:
        pointer, op_seen = b, _MIRRORED[op]
    else:
        return
    if op_seen is JmpOp.JGT:
        _reaches(fallen, pointer, 0)
    elif op_seen is JmpOp.JGE:
        _reaches(fallen, pointer, 1)
    elif op_seen is JmpOp.JLT:
        _reaches(taken, pointer, 1)
    elif op_seen is JmpOp.JLE:
        _reaches(taken, pointer, 0)


_MIRRORED = {
    JmpOp.JGT: JmpOp.JLT,
    JmpOp.JLT: JmpOp.JGT,
    JmpOp.JGE: JmpOp.JLE,
    JmpOp.JLE: JmpOp.JGE,
}


def _bounds(pointer: Reg, end: Reg) -> bool:
    """Whether `end` is the end of what `pointer` points into."""
    if pointer.type is _PACKET:
        return end.type is _PACKET_END
    # Metadata end where the packet begins: at a packet pointer that nothing was added to.
    return (
        pointer.type is _PACKET_META
        and end.type is _PACKET
        and end.off == 0
        and end.id == 0
        and not end.var.mask
        and not end.var.value
    )


def _reaches(state: State, pointer: Reg, more: int) -> None:
    off = pointer.off
    if off < 0 or (off == 0 and more):
        return
    if pointer.var.umax > MAX_PACKET_OFF or pointer.var.umax + off > MAX_PACKET_OFF:
        return
    kind, id, least = pointer.type, pointer.id, off + more
    for frame in state.frames:
        regs = frame.regs
        for index in range(10):
            reg = regs[index]
            if reg.type is kind and reg.id == id and reg.range < least:
                assert isinstance(reg, Pointer)
                regs[index] = reg.moved(reg.at, reg.off, reg.var, range=least)
        for base, slot in list(frame.stack.items()):
            held = slot.reg
            if held is not None and held.type is kind and held.id == id and held.range < least:
                assert isinstance(held, Pointer)
                moved = held.moved(held.at, held.off, held.var, range=least)
                frame.put(base, Slot(slot.kinds, moved, slot.spilled))

"""Pointer arithmetic that stays in bounds even where a CPU guesses wrongly (Spectre v1).

For loaders without CAP_PERFMON the kernel masks what is added to a pointer, so that it can not
leave its object while a mispredicted branch is not yet undone. One instruction has one mask:
every path must add in the same direction, by at most as much, to the same operand. And a pointer
stays inside its object after every addition, not only where it is used.

The kernel follows the paths that only speculation takes too (`followed`): the arm of a branch
that can not be, and what comes after an addition that was masked to nothing. Since 6.17 it cuts
them off by a barrier where they break a rule, but a loop that never ends there, or the work they
cost, makes it refuse the program.
"""

from __future__ import annotations

from collections.abc import Callable

from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import STACK_BYTES, AluOp, Kind, Operand
from pybpfvm.verifier.checks import check_region
from pybpfvm.verifier.environment import Environment
from pybpfvm.verifier.privileges.privilege import NUMBERS_ONLY, Mask
from pybpfvm.verifier.refusal import Refused, forbidden
from pybpfvm.verifier.resources.fields import check_field_access
from pybpfvm.verifier.states.regstate import Pointer, Reg, RegType, unknown
from pybpfvm.verifier.states.stack import MISC, SLOT_BYTES, ZERO
from pybpfvm.verifier.states.state import State
from pybpfvm.verifier.verdict import Kind as Why
from pybpfvm.verifier.verdict import Rule

Step = Callable[[State], int]
Forks = list[tuple[int, State]]

_SCALAR = RegType.SCALAR_VALUE
_STORES = frozenset({Kind.ST, Kind.STX, Kind.STORE_REL, Kind.ATOMIC})
_STACK, _VALUE = RegType.PTR_TO_STACK, RegType.PTR_TO_MAP_VALUE
_NOT_ROOT = "prohibited for !root"


def is_masked(env: Environment, insn: Insn) -> bool:
    """Whether the kernel may mask what the instruction adds."""
    return (
        not env.options.caps.perfmon
        and insn.spec.operand is Operand.X
        and insn.spec.op in (AluOp.ADD, AluOp.SUB)
    )


def note_numbers(env: Environment, insn: Insn, pc: int) -> None:
    """The instruction adds or subtracts numbers on this path."""
    _take(env, insn, pc, NUMBERS_ONLY)


def check_moved(
    env: Environment,
    insn: Insn,
    pc: int,
    pointer: Pointer,
    number: Reg,
    moved: Pointer,
    *,
    in_dst: bool,
) -> None:
    """`number` may be added to, or subtracted from, `pointer`, which gives `moved`. `in_dst`:
    the pointer is the first operand."""
    if env.options.caps.perfmon:
        return
    var = number.var
    masked = is_masked(env, insn)
    adds = insn.spec.op is AluOp.ADD
    form = (var.smin < 0, not var.mask, in_dst)
    left = adds == form[0]
    before = 0
    if masked and not env.speculating:
        if var.mask and (var.smin < 0) != (var.smax < 0):
            culprit = insn.src if in_dst else insn.dst
            text = f"R{culprit} has unknown scalar with mixed signed bounds, pointer arithmetic"
            raise _refused(f"{text} with it {_NOT_ROOT}", _MIXED, number)
        before = _limit(insn, pointer, left, in_dst)
    _check_inside(env, insn, moved)
    if masked and not env.speculating:
        if var.mask:
            env.exact_offsets = True
        _take(env, insn, pc, Mask(form, abs(before - _limit(insn, moved, left, in_dst))))


_MIXED = "it may be negative or not: no mask does for both"


def _check_inside(env: Environment, insn: Insn, moved: Pointer) -> None:
    """The pointer is to a byte of its object, wherever in its range it is."""
    if moved.type is _STACK:
        var = moved.var
        at = moved.off + var.value
        if var.mask:
            raise _refused(
                f"R{insn.dst} variable stack access {_NOT_ROOT}, "
                f"var_off=(0x{var.value:x}; 0x{var.mask:x}) off={at}",
                "where on the stack it points to must be a constant",
                moved,
            )
        at = moved.off + var.smin
        if not -STACK_BYTES <= at < 0:
            raise _refused(
                f"R{insn.dst} stack pointer arithmetic goes out of range, {_NOT_ROOT}; off={at}",
                f"it must stay between r10-{STACK_BYTES} and r10-1 after every addition",
                moved,
            )
    elif moved.type is _VALUE:
        spec = moved.map
        assert spec is not None
        try:
            check_region(moved, insn.dst, 0, 1, spec.value_size, Rule.SPECULATION, "")
            fields = env.fields(spec)
            if fields:
                low, high = moved.off + moved.var.smin, moved.off + moved.var.umax
                check_field_access(fields, moved, low, high, 1)
        except Refused as outside:
            raise _refused(
                f"R{insn.dst} pointer arithmetic of map value goes out of range, {_NOT_ROOT}",
                f"it must stay inside the value after every addition: {outside.reason}",
                moved,
            ) from None


def _limit(insn: Insn, pointer: Pointer, left: bool, in_dst: bool) -> int:
    """How far the pointer may move to the left, or right as the kernel counts it."""
    if pointer.type is _STACK:
        most = STACK_BYTES + left
        limit = -(pointer.var.value + pointer.off)
    elif pointer.type is _VALUE:
        assert pointer.map is not None
        most = pointer.map.value_size
        limit = (pointer.var.smin if left else pointer.var.umax) + pointer.off
    else:
        number = insn.dst if in_dst else insn.src
        raise _refused(
            f"R{number} has pointer with unsupported alu operation, pointer arithmetic with it "
            f"{_NOT_ROOT}",
            f"a register is added to a {pointer.type.value}, whose size no mask can have",
            pointer,
        )
    if limit >= most:
        raise _refused(
            f"R{insn.dst} tried to {_verb(insn)} beyond pointer bounds, pointer arithmetic with "
            f"it {_NOT_ROOT}",
            "the pointer is at an end of its object already",
            pointer,
        )
    return limit


def _take(env: Environment, insn: Insn, pc: int, mask: Mask) -> None:
    """The instruction has this mask, on every path."""
    if env.masks.setdefault(pc, mask) != mask:
        raise _refused(
            f"R{insn.dst} tried to {_verb(insn)} from different maps, paths or scalars, pointer "
            f"arithmetic with it {_NOT_ROOT}",
            "on another path it adds something else, and it can have one mask only",
            None,
        )


def followed(env: Environment, insn: Insn, pc: int, step: Step, forks: Forks) -> Step:
    """The step, with the speculative paths that begin at the instruction, and their end there."""
    jump = insn.spec.kind is Kind.JUMP
    masked = insn.spec.kind is Kind.ALU and is_masked(env, insn)
    stores = insn.spec.kind in _STORES

    def guarded(state: State) -> int:
        env.speculating = state.speculative
        before = _zero_moved(insn, state) if masked else None
        stored = _stored_where(env, insn, state) if stores else None
        if state.speculative:
            if pc in env.barriers:
                return -1
            held = len(forks)
            try:
                after = step(state)
            except Refused as refused:
                if refused.kind not in (Why.UNPROVEN, Why.POLICY, Why.UNSAFE):
                    raise
                env.barriers.add(pc)
                env.masks.pop(pc, None)
                del forks[held:]
                after = -1
        else:
            after = step(state)
        if before is not None:
            forks.append((pc + 1, before))
        if stored:
            env.store_barriers.add(pc)
        if after == -1 or (state.speculative and pc in env.store_barriers):
            return -1
        if jump and not forks:
            forks.append(_other_arm(insn, pc, after, state))
        return after

    return guarded


def _other_arm(insn: Insn, pc: int, after: int, state: State) -> tuple[int, State]:
    """The arm that can not be, where nothing is known any more of what was compared."""
    other = state.copy()
    other.speculative, other.certain = True, False
    other.frame.regs[insn.dst] = unknown(pc)
    if insn.spec.operand is Operand.X:
        other.frame.regs[insn.src] = unknown(pc)
    return (pc + 1 if after != pc + 1 else pc + 1 + insn.off), other


def _zero_moved(insn: Insn, state: State) -> State | None:
    """The state behind an addition to a pointer that was masked to 0; None if it is none."""
    regs = state.frame.regs
    a, b = regs[insn.dst], regs[insn.src]
    pointer, number = (b, a) if a.type is _SCALAR else (a, b)
    if not isinstance(pointer, Pointer) or number.type is not _SCALAR or not number.var.mask:
        return None
    other = state.copy()
    other.speculative, other.certain = True, False
    other.frame.regs[insn.dst] = pointer
    return other


def _stored_where(env: Environment, insn: Insn, state: State) -> bool:
    """Whether the store is to stack whose old content must not be seen instead (Spectre v4)."""
    regs = state.frame.regs
    pointer = regs[insn.dst]
    if pointer.type is not _STACK or pointer.var.mask:
        return False
    size = int(insn.spec.size or 8)
    value = regs[insn.src]
    if insn.spec.kind is not Kind.ST and value.type is not _SCALAR:
        return True
    slots = state.frames[pointer.frame].stack
    slot = slots.get((pointer.off + pointer.var.smin + insn.off) & -SLOT_BYTES)
    # The kernel looks at the last bytes of the slot, wherever the store is to.
    return slot is None or any(kind not in (MISC, ZERO) for kind in slot.kinds[-size:])


def _verb(insn: Insn) -> str:
    return "add" if insn.spec.op is AluOp.ADD else "sub"


def _refused(message: str, reason: str, culprit: Reg | None) -> Refused:
    return forbidden(
        Rule.SPECULATION,
        message,
        reason=f"for a loader without CAP_PERFMON: {reason}",
        suggestion="add constants only, or bound the index by unsigned comparisons first",
        culprit=culprit,
    )

"""Interrupts that a program switches off: bpf_local_irq_save and _restore, and with a lock.

What was on before is kept in a flag, eight bytes of the stack that are the kernel's until it is
restored; what was saved last is restored first. Kernel Documentation/bpf/kfuncs.rst; order and
messages as the running kernel answers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pybpfvm.isa.insn import Insn
from pybpfvm.verifier.checks import check_readable, check_stack_bounds
from pybpfvm.verifier.environment import Environment
from pybpfvm.verifier.refusal import Refused, forbidden
from pybpfvm.verifier.resources.dynptr import overwrite
from pybpfvm.verifier.states.regstate import Reg, RegType, clobbered
from pybpfvm.verifier.states.stack import SLOT_BYTES, ObjectSlot, Slot, StackObject
from pybpfvm.verifier.states.state import Frame, State
from pybpfvm.verifier.verdict import Rule


@dataclass(frozen=True, slots=True)
class IrqFlag(StackObject):
    """What interrupts were before. `of_lock`: a lock's functions saved it, and restore it."""

    of_lock: bool = False

    def text(self) -> str:
        """As the kernel log has it."""
        return f"irq_flag(ref_id={self.ref_id})"


def local_irq_save(env: Environment, state: State, insn: Insn, pc: int) -> None:
    """bpf_local_irq_save(flag)."""
    save(env, state, 1, pc, of_lock=False)
    state.frame.regs[0:6] = [clobbered(pc)] * 6


def local_irq_restore(env: Environment, state: State, insn: Insn, pc: int) -> None:
    """bpf_local_irq_restore(flag)."""
    restore(env, state, 1, of_lock=False)
    state.frame.regs[0:6] = [clobbered(pc)] * 6


def save(env: Environment, state: State, number: int, pc: int, *, of_lock: bool) -> None:
    """Interrupts are off from here on; register `number` is to where the flag is to be."""
    reg = _on_stack(state, number)
    place = _place(reg)
    frame = state.frames[reg.frame]
    if place is None or _flag_at(frame, place) is not None:
        raise forbidden(
            Rule.REGION,
            f"expected uninitialized irq flag as arg#{number - 1}",
            reason="a flag takes 8 aligned bytes at a constant offset, which hold no other flag",
            culprit=reg,
        )
    check_stack_bounds(env, state, reg, number, 0, SLOT_BYTES, " write to")
    overwrite(state, frame, place, place + SLOT_BYTES, pc)
    new = env.new_id()
    frame.put(place, ObjectSlot(IrqFlag("irq_flag", new, of_lock=of_lock)), whole=True)
    state.regions = replace(state.regions, irqs=(*state.regions.irqs, new))


def restore(env: Environment, state: State, number: int, *, of_lock: bool) -> None:
    """Interrupts are as they were before the flag was saved."""
    reg = _on_stack(state, number)
    place = _place(reg)
    frame = state.frames[reg.frame]
    flag = _flag_at(frame, place) if place is not None else None
    if place is None or flag is None:
        raise Refused(
            Rule.REGION,
            f"expected an initialized irq flag as arg#{number - 1}",
            reason="nothing was saved there, or it was overwritten or restored",
            culprit=reg,
        )
    if flag.of_lock is not of_lock:
        kinds = ("lock", "native") if flag.of_lock else ("native", "lock")
        raise forbidden(
            Rule.REGION,
            f"irq flag acquired by {kinds[0]} kfuncs cannot be restored with {kinds[1]} kfuncs",
            reason="a lock's functions save a flag for themselves",
            culprit=reg,
        )
    if state.regions.irqs[-1:] != (flag.ref_id,):
        raise forbidden(
            Rule.REGION,
            "cannot restore irq state out of order",
            reason="another flag was saved after this one",
            suggestion="restore first what was saved last",
            culprit=reg,
        )
    state.regions = replace(state.regions, irqs=state.regions.irqs[:-1])
    frame.put(place, Slot(bytes(SLOT_BYTES)), whole=True)


def _on_stack(state: State, number: int) -> Reg:
    reg = state.frame.regs[number]
    check_readable(reg, number)
    if reg.type is not RegType.PTR_TO_STACK:
        raise forbidden(
            Rule.REGION,
            f"arg#{number - 1} doesn't point to an irq flag on stack",
            reason="flags are on the stack of the program",
            culprit=reg,
        )
    return reg


def _place(reg: Reg) -> int | None:
    place = reg.off + reg.var.smin
    if reg.var.mask or place % SLOT_BYTES or place > -SLOT_BYTES:
        return None
    return place


def _flag_at(frame: Frame, place: int) -> IrqFlag | None:
    slot = frame.stack.get(place)
    found = slot.object if slot is not None else None
    return found if isinstance(found, IrqFlag) else None

"""What each kind of instruction does to a Run: one handler per kind.

A handler executes its step and returns the index of the step to go on at. It changes registers
only after everything that can fail, so a Trap shows them as they were before.
"""

from __future__ import annotations

import errno

from pybpfvm.bits import U64, s32, sign_extend
from pybpfvm.helpers.context import TailCall
from pybpfvm.isa.opcodes import AtomicOp
from pybpfvm.isa.semantics import FETCHES
from pybpfvm.runcontext import Stop
from pybpfvm.vm.run import Run
from pybpfvm.vm.step import Step

_LD_CONTEXT = 6  # LD_ABS and LD_IND expect the context in r6


def alu_k(run: Run, step: Step) -> int:
    """dst = op(dst, imm); also the operations with one operand."""
    regs = run.regs
    regs[step.dst] = step.meaning(regs[step.dst], step.imm, step.width)
    return step.next


def alu_x(run: Run, step: Step) -> int:
    """dst = op(dst, src)."""
    regs = run.regs
    regs[step.dst] = step.meaning(regs[step.dst], regs[step.src], step.width)
    return step.next


def jump_k(run: Run, step: Step) -> int:
    """Go to the target if op(dst, imm)."""
    taken = step.meaning(run.regs[step.dst], step.imm, step.width)
    return step.target if taken else step.next


def jump_x(run: Run, step: Step) -> int:
    """Go to the target if op(dst, src)."""
    taken = step.meaning(run.regs[step.dst], run.regs[step.src], step.width)
    return step.target if taken else step.next


def goto(_: Run, step: Step) -> int:
    """Go to the target."""
    return step.target


def may_goto(run: Run, step: Step) -> int:
    """Go on until the iterations of the run are used up, then go to the target."""
    if run.may_goto_left == 0:
        return step.target
    run.may_goto_left -= 1
    return step.next


def call(run: Run, step: Step) -> int:
    """Call the helper; `meaning` is it and the numbers of its context arguments."""
    helper, ctx_args = step.meaning
    regs = run.regs
    args = tuple(regs[1:6])
    run.check_context_arguments(ctx_args, args)
    try:
        result = run.call_helper(helper, args, step.pc)
    except TailCall as leaving:
        index = run.tail_call(leaving.program)
        if index is not None:
            return index
        result = -errno.ELOOP & U64
    regs[0] = result
    regs[1:6] = (0, 0, 0, 0, 0)
    return step.next


def call_local(run: Run, step: Step) -> int:
    """Call a subprogram: r1 to r5 go to it, a new frame, r6 to r9 kept for the caller."""
    run.enter(step.next, run.steps, step.target)
    return step.target


def leave(run: Run, _: Step) -> int:
    """Return to the caller, or end the run."""
    return run.leave()


def ldx(run: Run, step: Step) -> int:
    """dst = zero-extended memory."""
    regs = run.regs
    regs[step.dst] = run.load((regs[step.src] + step.off) & U64, step.width)
    return step.next


def ldsx(run: Run, step: Step) -> int:
    """dst = sign-extended memory."""
    regs = run.regs
    value = run.load((regs[step.src] + step.off) & U64, step.width)
    regs[step.dst] = sign_extend(value, 8 * step.width) & U64
    return step.next


def st(run: Run, step: Step) -> int:
    """memory = imm."""
    run.store((run.regs[step.dst] + step.off) & U64, step.width, step.imm, plain=False)
    return step.next


def stx(run: Run, step: Step) -> int:
    """memory = src."""
    regs = run.regs
    run.store((regs[step.dst] + step.off) & U64, step.width, regs[step.src], plain=True)
    return step.next


def load_acquire(run: Run, step: Step) -> int:
    """dst = memory, at an aligned address."""
    regs = run.regs
    addr = run.aligned((regs[step.src] + step.off) & U64, step.width)
    regs[step.dst] = run.load(addr, step.width)
    return step.next


def store_release(run: Run, step: Step) -> int:
    """memory = src, at an aligned address."""
    regs = run.regs
    addr = run.aligned((regs[step.dst] + step.off) & U64, step.width)
    run.store(addr, step.width, regs[step.src], plain=False)
    return step.next


def atomic(run: Run, step: Step) -> int:
    """memory = op(memory, src), old value to src or r0 for those that fetch."""
    regs = run.regs
    addr = (regs[step.dst] + step.off) & U64
    old = run.atomic(step.insn, addr, regs[step.src], regs[0])
    operation = step.insn.spec.op
    if operation in FETCHES:
        regs[step.src] = old
    elif operation is AtomicOp.CMPXCHG:
        regs[0] = old
    return step.next


def lddw(run: Run, step: Step) -> int:
    """dst = 64-bit constant."""
    run.regs[step.dst] = step.imm
    return step.next


def ld_abs(run: Run, step: Step) -> int:
    """r0 = packet[imm], in network order. RFC 9669, section 5.5."""
    return _load_packet(run, step, s32(step.imm))


def ld_ind(run: Run, step: Step) -> int:
    """r0 = packet[src + imm], in network order."""
    return _load_packet(run, step, s32(run.regs[step.src] + step.imm))


def _load_packet(run: Run, step: Step, offset: int) -> int:
    """A load outside the packet ends the function with r0 = 0."""
    value = run.load_packet(offset, step.width, run.regs[_LD_CONTEXT])
    run.regs[1:6] = (0, 0, 0, 0, 0)
    run.regs[0] = value or 0
    return step.next if value is not None else run.leave()


def refuse(_: Run, step: Step) -> int:
    """Not executable; `meaning` is why: (TrapKind, detail)."""
    kind, detail = step.meaning
    raise Stop(kind, detail)

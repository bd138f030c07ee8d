"""Calls that take and give back locks: helpers for plain ones, kfuncs for resilient ones.

Taking a resilient lock may fail, with a negative number in r0: then it is not held, and interrupts
are as before. Kernel Documentation/bpf/kfuncs.rst; order and messages as the running kernel
answers.
"""

from __future__ import annotations

from pybpfvm.isa.insn import Insn
from pybpfvm.verifier.calls import helper_of
from pybpfvm.verifier.checks import check_readable
from pybpfvm.verifier.domains.scalar import Scalar, sync
from pybpfvm.verifier.domains.word import U32, U64
from pybpfvm.verifier.environment import Environment
from pybpfvm.verifier.resources import irq
from pybpfvm.verifier.resources.lock import give_back, lock_of, take
from pybpfvm.verifier.states.regstate import ZERO, clobbered, scalar, unknown
from pybpfvm.verifier.states.state import LockKind, State

_MAX_ERRNO = 4095
# Kfuncs that may fail: the caller explores that, too.
MAY_FAIL = frozenset({"bpf_res_spin_lock", "bpf_res_spin_lock_irqsave"})
NAMES = MAY_FAIL | {"bpf_res_spin_unlock", "bpf_res_spin_unlock_irqrestore"}


def spin_lock(env: Environment, state: State, insn: Insn, pc: int) -> None:
    """bpf_spin_lock(lock)."""
    _plain(env, state, insn, pc, takes=True)


def spin_unlock(env: Environment, state: State, insn: Insn, pc: int) -> None:
    """bpf_spin_unlock(lock)."""
    _plain(env, state, insn, pc, takes=False)


def _plain(env: Environment, state: State, insn: Insn, pc: int, *, takes: bool) -> None:
    helper_of(env, insn)
    reg = state.frame.regs[1]
    check_readable(reg, 1)
    text = f"R1 type={reg.type.value} expected=map_value, ptr_"
    lock = lock_of(env, reg, LockKind.SPIN, text)
    if takes:
        take(state, lock, reg)
    else:
        give_back(env, state, lock, reg, pc)
    state.frame.regs[0:6] = [clobbered(pc)] * 6


def res_lock(env: Environment, state: State, insn: Insn, pc: int) -> None:
    """bpf_res_spin_lock(lock), as if it succeeded."""
    _resilient(env, state, pc, LockKind.RES, takes=True)


def res_unlock(env: Environment, state: State, insn: Insn, pc: int) -> None:
    """bpf_res_spin_unlock(lock)."""
    _resilient(env, state, pc, LockKind.RES, takes=False)


def res_lock_irqsave(env: Environment, state: State, insn: Insn, pc: int) -> None:
    """bpf_res_spin_lock_irqsave(lock, flag), as if it succeeded."""
    _resilient(env, state, pc, LockKind.RES_IRQ, takes=True)


def res_unlock_irqrestore(env: Environment, state: State, insn: Insn, pc: int) -> None:
    """bpf_res_spin_unlock_irqrestore(lock, flag)."""
    _resilient(env, state, pc, LockKind.RES_IRQ, takes=False)


def _resilient(env: Environment, state: State, pc: int, kind: LockKind, *, takes: bool) -> None:
    reg = state.frame.regs[1]
    check_readable(reg, 1)
    lock = lock_of(env, reg, kind, "arg#0 doesn't point to map value or allocated object")
    saves = kind is LockKind.RES_IRQ
    if takes:
        take(state, lock, reg)
        if saves:
            irq.save(env, state, 2, pc, of_lock=True)
    else:
        give_back(env, state, lock, reg, pc)
        if saves:
            irq.restore(env, state, 2, of_lock=True)
    result = scalar(ZERO, pc) if takes else clobbered(pc)
    state.frame.regs[0:6] = [result, *[clobbered(pc)] * 5]


def failed(state: State, pc: int) -> State:
    """The state in which taking the lock failed; before the call is applied to `state`."""
    state.certain = False
    other = state.copy()
    low = -_MAX_ERRNO
    found: Scalar | None = sync(0, U64, low, -1, 0, U64, low, -1, 0, U32)
    result = scalar(found, pc) if found is not None else unknown(pc)
    other.frame.regs[0:6] = [result, *[clobbered(pc)] * 5]
    return other

"""bpf_kptr_xchg(): the program and a kernel pointer (`kptr`) swap what they own."""

from __future__ import annotations

from pybpfvm.isa.insn import Insn
from pybpfvm.verifier.calls import helper_of, release
from pybpfvm.verifier.checks import check_readable
from pybpfvm.verifier.environment import Environment
from pybpfvm.verifier.jumps import places
from pybpfvm.verifier.kernelobjects.btfptr import in_rcu_section
from pybpfvm.verifier.resources import kptr
from pybpfvm.verifier.states.regstate import Pointer, Trust, clobbered
from pybpfvm.verifier.states.state import State

_PERCPU = Trust.ALLOC | Trust.PERCPU


def kptr_xchg(env: Environment, state: State, insn: Insn, pc: int) -> None:
    """Check the call at `pc` and apply it to `state`."""
    helper_of(env, insn)
    regs = state.frame.regs
    check_readable(regs[1], 1)
    field = kptr.destination(env, regs[1])
    check_readable(regs[2], 2)
    given = kptr.replacement(env, field, regs[2])
    if given:
        if in_rcu_section(env, state):
            _keep_alive(state, given)
        release(state, given, pc)
    result = kptr.taken(env, field, pc)
    state.refs = (*state.refs, (result.ref_id, pc))
    regs[0:6] = [result, *[clobbered(pc)] * 5]


def _keep_alive(state: State, ref_id: int) -> None:
    """Per-CPU objects that were given up can still be read: RCU keeps them alive."""
    for frame in state.frames:
        for put, reg in places(frame):
            if reg.ref_id == ref_id and reg.trust & _PERCPU == _PERCPU:
                assert isinstance(reg, Pointer)
                trust = Trust.RCU | Trust.PERCPU | Trust.LOCAL
                kept = reg.trusted_as(trust)
                kept.ref_id = 0
                put(kept)

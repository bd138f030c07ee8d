"""LD_ABS and LD_IND: the old packet loads, which end their function where they leave the packet."""

from __future__ import annotations

from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import Kind
from pybpfvm.verifier.calls import reference_leak
from pybpfvm.verifier.checks import check_ctx_pointer, check_readable
from pybpfvm.verifier.domains.scalar import Scalar
from pybpfvm.verifier.environment import Environment
from pybpfvm.verifier.kernelobjects import rcu
from pybpfvm.verifier.refusal import Refused, forbidden
from pybpfvm.verifier.resources.lock import check_unlocked
from pybpfvm.verifier.states.regstate import NOT_INIT, RegType, scalar
from pybpfvm.verifier.states.state import State
from pybpfvm.verifier.verdict import Rule


def packet_load(env: Environment, state: State, insn: Insn, pc: int) -> None:
    """r0 = packet[imm (+ src)]; outside the packet the function ends with 0,
    the main one or another: callers must be ready for that (`Explorer._leave_early`)."""
    if not env.profile.packet_loads:
        raise forbidden(
            Rule.ILLEGAL_INSN,
            "BPF_LD_[ABS|IND] instructions not allowed for this program type",
            reason="they are for programs on socket buffers",
        )
    if state.refs and len(state.frames) == 1:
        raise reference_leak(state, "BPF_LD_[ABS|IND] would lead to reference leak")
    check_unlocked(state, "BPF_LD_[ABS|IND]")
    rcu.check_closed(state, "BPF_LD_[ABS|IND]")
    regs = state.frame.regs
    check_readable(regs[6], 6)
    if insn.spec.kind is Kind.LD_IND:
        check_readable(regs[insn.src], insn.src)
    if regs[6].type is not RegType.PTR_TO_CTX:
        raise Refused(
            Rule.CTX_ACCESS,
            "at the time of BPF_LD_ABS|IND R6 != pointer to skb",
            reason="these instructions take the context from r6",
            culprit=regs[6],
            certain=True,
        )
    check_ctx_pointer(regs[6], 6)
    regs[0:6] = [scalar(Scalar.UNKNOWN, pc), *[NOT_INIT] * 5]

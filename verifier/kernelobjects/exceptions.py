"""bpf_throw: the program ends where it is called, whatever functions are active.

Nothing is released on the way out, so nothing may be held. What is thrown is what the program
returns. Kernels look at the frames of static functions only: that a global function may throw
while its caller holds something, they do not notice.
"""

from __future__ import annotations

from pybpfvm.btf.types import Func
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import Kind
from pybpfvm.verifier.calls import reference_leak
from pybpfvm.verifier.environment import Environment
from pybpfvm.verifier.kernelobjects import rcu
from pybpfvm.verifier.refusal import Refused, forbidden
from pybpfvm.verifier.states.state import State
from pybpfvm.verifier.structure import reaching
from pybpfvm.verifier.verdict import Rule

_THROW = "bpf_throw"


def is_throw(env: Environment, insn: Insn) -> bool:
    """Whether the instruction calls bpf_throw."""
    if insn.spec.kind is not Kind.CALL_KFUNC or env.target is None or insn.off:
        return False
    found = env.target.type(insn.imm) if 0 < insn.imm < len(env.target) else None
    return isinstance(found, Func) and found.name == _THROW


def throwers(env: Environment) -> frozenset[int]:
    """The functions that may throw, or call one that may."""
    return reaching(env, (pc for pc in env.pcs(Kind.CALL_KFUNC) if is_throw(env, env.code[pc])))


def check_thrown(state: State, pc: int) -> None:
    """The program may end here: nothing is held, and no helper waits for a callback."""
    if state.refs:
        raise reference_leak(state, f"{_THROW} would lead to reference leak")
    rcu.check_closed(state, _THROW)
    if any(frame.callback is not None for frame in state.frames):
        raise in_callback(f"{_THROW} kfunc (insn {pc})")


def check_may_throw(state: State, function: str) -> None:
    """A global function that may throw is called: as if it did."""
    what = f"{function}() may throw, which"
    if state.refs:
        raise reference_leak(state, f"{what} would lead to reference leak")
    rcu.check_closed(state, what)
    if any(frame.callback is not None for frame in state.frames):
        raise in_callback(f"{function}(), which may throw,")


def in_callback(what: str) -> Refused:
    """The refusal of throwing where something waits for the function to return."""
    return forbidden(
        Rule.KFUNC_NOT_ALLOWED,
        f"{what} cannot be called from callback subprog",
        reason="what called the function would never be returned to",
        suggestion="return from the callback with a value that says what happened",
    )


def called_directly(pc: int) -> Refused:
    """The refusal of a call of the exception callback."""
    return forbidden(
        Rule.KFUNC_NOT_ALLOWED,
        f"insn {pc} cannot call exception cb directly",
        reason="it ends the program, and never returns",
    )

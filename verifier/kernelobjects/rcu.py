"""Regions that a program opens and must close: RCU read sections, no preemption, no interrupts.

Kernel Documentation/bpf/kfuncs.rst; nesting and order of checks as the running kernel answers.
"""

from __future__ import annotations

from dataclasses import replace

from pybpfvm.verifier.jumps import places
from pybpfvm.verifier.refusal import Refused, forbidden
from pybpfvm.verifier.states.regstate import NON_NULL, Pointer, Trust
from pybpfvm.verifier.states.stack import ObjectSlot
from pybpfvm.verifier.states.state import NO_REGIONS, State
from pybpfvm.verifier.verdict import Rule


def read_lock(state: State) -> None:
    """Begin a read section. They do not nest."""
    if state.regions.rcu:
        raise _unbalanced("nested rcu read lock (kernel function bpf_rcu_read_lock)")
    state.regions = replace(state.regions, rcu=1)


def read_unlock(state: State) -> None:
    """End the section: what it kept alive may be gone."""
    if not state.regions.rcu:
        raise _unbalanced("unmatched rcu read unlock (kernel function bpf_rcu_read_unlock)")
    state.regions = replace(state.regions, rcu=0)
    for frame in state.frames:
        for put, reg in places(frame):
            if reg.trust & Trust.RCU:
                assert isinstance(reg, Pointer)
                kind = NON_NULL.get(reg.type, reg.type)
                stale = reg.of_type(kind, 0 if reg.type in NON_NULL else reg.id)
                stale.trust = (reg.trust & ~Trust.RCU) | Trust.UNTRUSTED
                put(stale)
        for base, slot in list(frame.stack.items()):
            if slot.object is not None:
                left = slot.object.outside_rcu()
                if left is not slot.object:
                    frame.put(base, ObjectSlot(left), whole=True)


def preempt_disable(state: State) -> None:
    """Begin a region without preemption. They nest."""
    state.regions = replace(state.regions, preempt=state.regions.preempt + 1)


def preempt_enable(state: State) -> None:
    """End the innermost one."""
    if not state.regions.preempt:
        raise _unbalanced(
            "unmatched attempt to enable preemption (kernel function bpf_preempt_enable)"
        )
    state.regions = replace(state.regions, preempt=state.regions.preempt - 1)


def check_may_sleep(state: State, what: str) -> None:
    """Nothing that may sleep is called inside a region. `what`: as the message begins."""
    if state.regions.rcu:
        where = "rcu_read_lock region"
    elif state.regions.preempt:
        where = "non-preemptible region"
    elif state.regions.irqs:
        where = "IRQ-disabled region"
    else:
        return
    raise forbidden(
        Rule.HELPER_NOT_ALLOWED,
        f"{what} {where}",
        reason="it may sleep, which this region forbids",
        suggestion="close the region before the call",
    )


def check_closed(state: State, what: str) -> None:
    """All regions are closed. `what` leaves the program: "BPF_EXIT instruction in main prog"."""
    if state.regions is NO_REGIONS or state.regions == NO_REGIONS:
        return
    name = "bpf_rcu_read_lock" if state.regions.rcu else "bpf_preempt_disable"
    if state.regions.irqs:
        name = "bpf_local_irq_save"
    raise Refused(
        Rule.REGION,
        f"{what} cannot be used inside {name}-ed region",
        reason=f"{name} was called on this path and its counterpart was not",
        suggestion="close the region on every path, early returns included",
    )


def _unbalanced(message: str) -> Refused:
    return forbidden(
        Rule.REGION,
        message,
        reason="on this path the region was not opened, or is open already",
        suggestion="pair the calls on every path",
    )

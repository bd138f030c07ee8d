"""Spin locks in map values: one at a time, and little may be done while it is held.

The lock is a field of the value's type (`fields`). A value keeps the id of the lookup that gave
it, so that the lock that is given back is the one that was taken: two lookups may give the same
value, but nobody knows.
"""

from __future__ import annotations

from pybpfvm.verifier.environment import Environment
from pybpfvm.verifier.refusal import Refused, forbidden, unsupported
from pybpfvm.verifier.resources.fields import FieldKind
from pybpfvm.verifier.states.regstate import Reg
from pybpfvm.verifier.states.state import Lock, State
from pybpfvm.verifier.verdict import Rule

_UNLOCK = "spin_unlock"
# What may be called while a lock is held.
_ALLOWED = frozenset({_UNLOCK, "kptr_xchg"})


def check_lock_argument(env: Environment, state: State, reg: Reg, helper: str) -> None:
    """`reg`, a map value, is where its lock is; take it or give it back."""
    spec = reg.map
    assert spec is not None
    name = f"bpf_{helper}"
    if reg.var.mask:
        raise forbidden(
            Rule.LOCK,
            f"R1 doesn't have constant offset. {name} has to be at the constant offset",
            reason="which lock is taken must be known",
            culprit=reg,
        )
    if not spec.btf_value_type_id:
        raise forbidden(
            Rule.LOCK,
            f"map '{spec.name}' has to have BTF in order to use bpf_spin_lock",
            reason="only the type of the value says where its lock is",
            culprit=reg,
        )
    locks = [one for one in env.fields(spec) if one.kind is FieldKind.SPIN_LOCK]
    if len(locks) > 1:
        raise unsupported("values with several locks")
    field = locks[0] if locks else None
    if field is None:
        raise forbidden(
            Rule.LOCK,
            f"map '{spec.name}' has no valid bpf_spin_lock",
            reason=f"no field of the values of {spec.name} is a struct bpf_spin_lock",
            culprit=reg,
        )
    at = reg.off + reg.var.value
    if at != field.offset:
        raise forbidden(
            Rule.LOCK,
            f"off {at} doesn't point to 'struct bpf_spin_lock' that is at {field.offset}",
            reason="the lock is taken by its own address",
            culprit=reg,
        )
    if helper == _UNLOCK:
        _give_back(state, Lock(spec, reg.map_index, reg.id), reg)
        return
    assert not state.locks, "check_call_unlocked lets no second lock be taken"
    state.locks = (*state.locks, Lock(spec, reg.map_index, reg.id))


def _give_back(state: State, lock: Lock, reg: Reg) -> None:
    if not state.locks:
        raise forbidden(
            Rule.LOCK,
            "bpf_spin_unlock without taking a lock",
            reason="no lock is held on this path",
            culprit=reg,
        )
    held = state.locks[-1]
    if held.map is not lock.map or held.map_index != lock.map_index or held.id != lock.id:
        raise forbidden(
            Rule.LOCK,
            "bpf_spin_unlock of different lock",
            reason="this value is not known to be the one whose lock is held",
            suggestion="keep the pointer that the lock was taken by",
            culprit=reg,
        )
    state.locks = state.locks[:-1]


def check_call_unlocked(state: State, helper: str | None) -> None:
    """No function but those that end it is called while a lock is held."""
    if state.locks and helper not in _ALLOWED:
        raise forbidden(
            Rule.LOCK,
            "function calls are not allowed while holding a lock",
            reason="others wait for the lock: what it guards is changed, and nothing else is done",
            suggestion="call before the lock is taken, or after it was given back",
        )


def check_unlocked(state: State, what: str) -> None:
    """No lock is held where `what`, an end of the program, is done."""
    if state.locks:
        raise Refused(
            Rule.LOCK,
            f"{what} cannot be used inside bpf_spin_lock-ed region",
            reason="the lock would be held for ever",
            suggestion="give the lock back on every path, early returns included",
            certain=True,
        )

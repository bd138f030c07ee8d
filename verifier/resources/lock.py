"""Spin locks in map values and in programs' own objects: what is held, and what may be done then.

The lock is a field of the value's or object's type (`fields`). A value keeps the id of the lookup
that gave it, so that the lock that is given back is the one that was taken: two lookups may give
the same value, but nobody knows. Of plain locks one may be held, of resilient ones, whose taking
may fail, several; what was taken last is given back first.
"""

from __future__ import annotations

from pybpfvm.btf.kernelfields import FieldKind
from pybpfvm.verifier.environment import Environment
from pybpfvm.verifier.jumps import places
from pybpfvm.verifier.refusal import Refused, forbidden, possibly_null
from pybpfvm.verifier.states.regstate import NON_NULL, Pointer, Reg, RegType, Trust, unknown
from pybpfvm.verifier.states.state import Lock, LockKind, State
from pybpfvm.verifier.verdict import Rule

# The one helper that may be called while a lock is held.
_UNLOCK = "spin_unlock"
# How the callback of bpf_rbtree_add_impl is called by `Callback.helper`.
LESS = "rbtree_add"


def lock_of(env: Environment, reg: Reg, kind: LockKind, mismatch: str) -> Lock:
    """The lock that r1 is to. `mismatch`: the kernel's text where it can be to none."""
    name = "bpf_res_spin" if kind is not LockKind.SPIN else "bpf_spin"
    field_kind = FieldKind.SPIN_LOCK if kind is LockKind.SPIN else FieldKind.RES_SPIN_LOCK
    if reg.type in NON_NULL:
        raise possibly_null(mismatch, 1, reg)
    in_object = reg.type is RegType.PTR_TO_BTF_ID and reg.trust == Trust.ALLOC
    if reg.type is not RegType.PTR_TO_MAP_VALUE and not in_object:
        rule = Rule.HELPER_ARG if kind is LockKind.SPIN else Rule.KFUNC_ARG
        raise forbidden(
            rule, mismatch, reason="locks are in map values and own objects", culprit=reg
        )
    if reg.var.mask:
        raise forbidden(
            Rule.LOCK,
            f"R1 doesn't have constant offset. {name}_lock has to be at the constant offset",
            reason="which lock is taken must be known",
            culprit=reg,
        )
    spec = reg.map
    if spec is not None and not spec.btf_value_type_id:
        raise forbidden(
            Rule.LOCK,
            f"map '{spec.name}' has to have BTF in order to use {name}_lock",
            reason="only the type of the value says where its lock is",
            culprit=reg,
        )
    field = next((one for one in env.fields_behind(reg) if one.kind is field_kind), None)
    if field is None:
        holder = f"map '{spec.name}'" if spec is not None else "local 'kptr'"
        raise forbidden(
            Rule.LOCK,
            f"{holder} has no valid {name}_lock",
            reason=f"no field of it is a struct {field_kind.value}",
            culprit=reg,
        )
    at = reg.off + reg.var.value
    if at != field.offset:
        raise forbidden(
            Rule.LOCK,
            f"off {at} doesn't point to 'struct {name}_lock' that is at {field.offset}",
            reason="the lock is taken by its own address",
            culprit=reg,
        )
    return Lock(spec, reg.map_index, reg.id, kind)


def take(state: State, lock: Lock, reg: Reg) -> None:
    """The lock is held from here on."""
    _check_not_comparing(state)
    for held in state.locks:
        if lock.kind is not LockKind.SPIN and held.kind is not LockKind.SPIN and _same(held, lock):
            raise forbidden(
                Rule.LOCK,
                "Acquiring the same lock again, AA deadlock detected",
                reason="this path holds the lock already",
                culprit=reg,
            )
    state.locks = (*state.locks, lock)


def give_back(env: Environment, state: State, lock: Lock, reg: Reg, pc: int) -> None:
    """The lock is held no longer, and with it what it guarded."""
    _check_not_comparing(state)
    name = "bpf_spin" if lock.kind is LockKind.SPIN else "bpf_res_spin"
    if not state.locks:
        raise forbidden(
            Rule.LOCK,
            f"{name}_unlock without taking a lock",
            reason="no lock is held on this path",
            culprit=reg,
        )
    if not any(_same(held, lock) and held.kind is lock.kind for held in state.locks):
        raise forbidden(
            Rule.LOCK,
            f"{name}_unlock of different lock",
            reason="this is not known to be the one whose lock is held",
            suggestion="keep the pointer that the lock was taken by",
            culprit=reg,
        )
    if not _same(state.locks[-1], lock):
        raise forbidden(
            Rule.LOCK,
            f"{name}_unlock cannot be out of order",
            reason="another lock was taken after it",
            suggestion="give back first what was taken last",
            culprit=reg,
        )
    state.locks = state.locks[:-1]
    _forget_guarded(env, state, pc)


def _same(one: Lock, other: Lock) -> bool:
    return one.map is other.map and one.map_index == other.map_index and one.id == other.id


def in_less(state: State) -> bool:
    """Whether a tree compares two objects here: it is half changed."""
    return any(
        frame.callback is not None and frame.callback.helper == LESS for frame in state.frames
    )


def _check_not_comparing(state: State) -> None:
    if in_less(state):
        raise forbidden(
            Rule.LOCK,
            "can't spin_{lock,unlock} in rbtree cb",
            reason="the tree is being changed while it compares two objects",
        )


def _forget_guarded(env: Environment, state: State, pc: int) -> None:
    """Others may remove what is in a collection. What RCU kept alive while the lock was held, and
    nothing else does, may be stale."""
    stale = env.sleepable and not state.regions.rcu and not state.locks
    for frame in state.frames:
        for put, reg in places(frame):
            if reg.trust & Trust.NON_OWNING:
                put(unknown(pc))
            elif stale and reg.trust & Trust.RCU and not reg.ref_id:
                assert isinstance(reg, Pointer)
                put(reg.trusted_as((reg.trust & ~Trust.RCU) | Trust.UNTRUSTED))


def check_call_unlocked(state: State, helper: str | None) -> None:
    """No function but those that end it is called while a lock is held."""
    if state.locks and helper != _UNLOCK:
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

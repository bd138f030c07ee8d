"""Kernel pointers in map values and in programs' own objects: `__kptr`, `__percpu_kptr`.

The type tag of the field's pointer says of which kind it is. A field holds NULL or a pointer, so
each load is of one that may be NULL. What a `__kptr` owns lives until it is exchanged: RCU keeps it
alive for those who load it, if objects of its type are freed by RCU; else what is loaded may be
stale. Only bpf_kptr_xchg changes such a field: it gives the program what was there, to be released
or put elsewhere, and takes what the program gives up. Kernel Documentation/bpf/kfuncs.rst and
bpf_devel's; order and messages as the running kernel answers.
"""

from __future__ import annotations

from dataclasses import dataclass

from pybpfvm.btf.kernelfields import POINTERS, Field, FieldKind
from pybpfvm.btf.types import BtfKind, Struct, TypeTag
from pybpfvm.verifier.environment import Environment
from pybpfvm.verifier.kernelobjects.btfptr import (
    BTF_ID,
    BTF_ID_OR_NULL,
    in_rcu_section,
    type_text,
)
from pybpfvm.verifier.kernelobjects.btfwalk import begins_at
from pybpfvm.verifier.refusal import Refused, forbidden, possibly_null, unsupported
from pybpfvm.verifier.states.regstate import (
    NON_NULL,
    Pointer,
    Reg,
    RegType,
    Trust,
    is_null,
    mark_precise,
)
from pybpfvm.verifier.states.state import State
from pybpfvm.verifier.verdict import Rule

# Kernel structs that a field may own: the kernel knows how to release them, and frees them by RCU.
_OWNABLE = frozenset({"task_struct", "cgroup", "bpf_cpumask", "bpf_crypto_ctx"})
_VALUE = RegType.PTR_TO_MAP_VALUE
OWNED = frozenset({FieldKind.KPTR_REF, FieldKind.KPTR_PERCPU})
_NODES = frozenset({FieldKind.LIST_NODE, FieldKind.RB_NODE})


@dataclass(frozen=True, slots=True)
class Target:
    """What a field points to: a struct of the kernel's BTF, or if `local` of the object's."""

    btf_id: int
    local: bool
    name: str


def target_of(env: Environment, field: Field) -> Target:
    """What a kernel pointer is to. Structs that the kernel has not are the program's own."""
    btf = env.obj.btf
    assert btf is not None, "fields come from it"
    tagged = btf.type(field.btf_id)
    resolved = btf.resolve(field.btf_id)
    struct = btf.type(resolved)
    if isinstance(tagged, TypeTag) or not isinstance(struct, Struct):
        raise unsupported("kernel pointers to anything but one struct")
    kernel = env.target
    if kernel is None:
        raise unsupported("kernel pointers without the target's BTF")
    found = kernel.find(struct.name, BtfKind.STRUCT)
    if found is None:
        return Target(resolved, True, struct.name)
    if field.kind is FieldKind.KPTR_REF and struct.name not in _OWNABLE:
        raise unsupported(f"__kptr to struct {struct.name}")
    return Target(found, False, struct.name)


def field_at(env: Environment, reg: Reg, off: int) -> Field | None:
    """The kernel pointer of a map value that an access at the register + `off` is of."""
    if reg.type is not _VALUE or reg.var.mask:
        return None
    assert reg.map is not None
    at = off + reg.off + reg.var.value
    for one in env.fields(reg.map):
        if one.offset == at and one.kind in POINTERS:
            return one
    return None


def not_plain(culprit: Reg) -> Refused:
    """The refusal of atomic operations, and of loads that are more than loads."""
    return forbidden(
        Rule.KPTR,
        "kptr in map can only be accessed using BPF_MEM instruction mode",
        reason="kernel pointers are loaded, and stored, by plain instructions only",
        suggestion="bpf_kptr_xchg() exchanges one atomically",
        culprit=culprit,
    )


def load(env: Environment, state: State, field: Field, *, plain: bool, pc: int) -> Pointer:
    """What loading the field gives."""
    if not plain:
        raise not_plain(state.frame.regs[0])
    if field.kind is FieldKind.UPTR:
        raise unsupported("user pointers (uptr) in map values")
    target = target_of(env, field)
    trust = _loaded_trust(env, state, field, target)
    return Pointer(BTF_ID_OR_NULL, pc, id=env.new_id(), btf_id=target.btf_id, trust=trust)


def _loaded_trust(env: Environment, state: State, field: Field, target: Target) -> Trust:
    # Whatever a program, or the kernel, lets a __kptr own is freed by RCU.
    local = Trust.LOCAL if target.local else Trust.NONE
    if field.kind not in OWNED or not in_rcu_section(env, state):
        return Trust.UNTRUSTED | local
    if field.kind is FieldKind.KPTR_PERCPU:
        return Trust.RCU | Trust.PERCPU | local
    if not target.local:
        return Trust.RCU
    nodes = any(one.kind in _NODES for one in env.object_fields(target.btf_id))
    return Trust.RCU | Trust.ALLOC | (Trust.NON_OWNING if nodes else Trust.NONE)


def check_store(
    env: Environment, field: Field, value: Reg, number: int | None, *, plain: bool
) -> None:
    """`value`, of register `number` (None: a constant), may be stored to the field."""
    if not plain:
        raise not_plain(value)
    if field.kind in OWNED:
        raise forbidden(
            Rule.KPTR,
            "store to referenced kptr disallowed",
            reason="what the field owns would never be released",
            suggestion="bpf_kptr_xchg(&v->field, new), and release what it returns",
            culprit=value,
        )
    if field.kind is FieldKind.UPTR:
        raise unsupported("user pointers (uptr) in map values")
    if is_null(value):
        mark_precise(value)
        return
    if number is None:
        raise forbidden(
            Rule.KPTR,
            f"BPF_ST imm must be 0 when storing to kptr at off={field.offset}",
            reason="the only constant that is a kernel pointer is NULL",
        )
    check_fits(env, field, value, number)


_KERNELS = Trust.TRUSTED | Trust.RCU


def check_fits(env: Environment, field: Field, reg: Reg, number: int) -> None:
    """The pointer is one that the field may hold."""
    target = target_of(env, field)
    own = bool(reg.trust & (Trust.ALLOC | Trust.LOCAL))
    percpu = field.kind is FieldKind.KPTR_PERCPU
    if percpu is not bool(reg.trust & Trust.PERCPU):
        # Kernels let a __percpu_kptr own any object, and then take it for one of each CPU.
        raise _misfit(env, field, target, reg, number)
    if own:
        allowed = Trust.ALLOC | (Trust.PERCPU if percpu else 0)
    else:
        unowned = field.kind is FieldKind.KPTR_UNREF
        allowed = _KERNELS | (Trust.UNTRUSTED if unowned else 0)
    if reg.type not in (BTF_ID, BTF_ID_OR_NULL) or reg.trust & ~allowed:
        raise _misfit(env, field, target, reg, number)
    if reg.var.mask or reg.var.value or reg.off < 0:
        raise forbidden(
            Rule.KPTR,
            f"variable ptr_ access var_off=(0x{reg.var.value:x}; 0x{reg.var.mask:x}) disallowed"
            if reg.var.mask or reg.var.value
            else f"negative offset ptr_ ptr R{number} off={reg.off} disallowed",
            reason="the field holds pointers to the beginning of objects",
            culprit=reg,
        )
    if own is not target.local:
        raise _misfit(env, field, target, reg, number)
    if field.kind is FieldKind.KPTR_UNREF:
        fits = begins_at(env.btf_of(reg), reg.btf_id, reg.off, target.btf_id)
    else:
        fits = reg.btf_id == target.btf_id and not reg.off
    if not fits:
        raise _misfit(env, field, target, reg, number)


def _misfit(env: Environment, field: Field, target: Target, reg: Reg, number: int) -> Refused:
    either = f" or untrusted_ptr_{target.name}" if field.kind is FieldKind.KPTR_UNREF else ""
    return forbidden(
        Rule.KPTR,
        f"invalid kptr access, R{number} type={type_text(env, reg)} "
        f"expected=ptr_{target.name}{either}",
        reason=f"the field is a pointer to a struct {target.name}",
        culprit=reg,
    )


def destination(env: Environment, reg: Reg) -> Field:
    """The field that r1 of bpf_kptr_xchg is to."""
    in_object = reg.type is BTF_ID and reg.trust in _DESTINATIONS
    if reg.type is not RegType.PTR_TO_MAP_VALUE and not in_object:
        text = f"R1 type={type_text(env, reg)} expected=map_value, ptr_"
        if reg.type in NON_NULL:
            raise possibly_null(text, 1, reg)
        raise forbidden(
            Rule.KPTR, text, reason="kernel pointers are in map values and objects", culprit=reg
        )
    if reg.map is not None and not reg.map.btf_value_type_id:
        raise forbidden(
            Rule.KPTR,
            f"map '{reg.map.name}' has to have BTF in order to use bpf_kptr_xchg",
            reason="only the type of the value says where its pointers are",
            culprit=reg,
        )
    if reg.var.mask:
        raise forbidden(
            Rule.KPTR,
            "R1 doesn't have constant offset. kptr has to be at the constant offset",
            reason="which pointer it is must be known",
            culprit=reg,
        )
    at = reg.off + reg.var.value
    pointers = [one for one in env.fields_behind(reg) if one.kind in POINTERS]
    if any(one.kind is FieldKind.UPTR for one in pointers):
        raise unsupported("user pointers (uptr) in map values")
    found = next((one for one in pointers if one.offset == at), None)
    if found is None or found.kind not in OWNED:
        if not pointers:
            text = "R1 has no valid kptr"
        elif found is None:
            text = f"off={at} doesn't point to kptr"
        else:
            text = f"off={at} kptr isn't referenced kptr"
        raise forbidden(
            Rule.KPTR,
            text,
            reason="no field that owns an object (__kptr, __percpu_kptr) is there",
            culprit=reg,
        )
    return found


_DESTINATIONS = frozenset({Trust.ALLOC})


def replacement(env: Environment, field: Field, reg: Reg) -> int:
    """The reference that r2 of bpf_kptr_xchg gives up: 0 if it is NULL."""
    if is_null(reg):
        mark_precise(reg)
        return 0
    if reg.type is BTF_ID_OR_NULL:
        raise possibly_null(
            "Possibly NULL pointer passed to helper arg2", 2, reg, ": NULL itself may be given"
        )
    if reg.type is not BTF_ID or reg.trust & ~_GIVEN:
        raise forbidden(
            Rule.KPTR,
            f"R2 type={type_text(env, reg)} expected=ptr_, trusted_ptr_, rcu_ptr_",
            reason="what the field is to own must be an object",
            culprit=reg,
        )
    check_fits(env, field, reg, 2)
    if not reg.ref_id:
        raise Refused(
            Rule.RELEASE_UNOWNED,
            "R2 must be referenced when passed to release function",
            reason="the program does not own what it gives to the field",
            suggestion="acquire it first",
            culprit=reg,
        )
    return reg.ref_id


_GIVEN = Trust.TRUSTED | Trust.RCU | Trust.ALLOC | Trust.PERCPU


def taken(env: Environment, field: Field, pc: int) -> Pointer:
    """What bpf_kptr_xchg gives: what the field owned, or NULL. The caller notes the reference."""
    target = target_of(env, field)
    trust = Trust.NONE
    if target.local:
        percpu = field.kind is FieldKind.KPTR_PERCPU
        trust = Trust.ALLOC | (Trust.PERCPU if percpu else Trust.NONE)
    new = env.new_id()
    return Pointer(BTF_ID_OR_NULL, pc, id=new, ref_id=new, btf_id=target.btf_id, trust=trust)

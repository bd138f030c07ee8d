"""The program's own objects: bpf_obj_new, bpf_percpu_obj_new, their _drop, bpf_refcount_acquire.

An object is of a struct of the program's BTF. What makes one gives a reference, which dropping it,
putting it into a collection (`graph`) or into a map value (`kptr`) gives back. An object with a
bpf_refcount may be held several times. Kernel Documentation/bpf/graph_ds_impl.rst; order and
messages as the running kernel answers.
"""

from __future__ import annotations

from pybpfvm.btf.kernelfields import FieldKind
from pybpfvm.btf.types import Array, Btf, Enum, Enum64, Int, Struct, Union
from pybpfvm.isa.insn import Insn
from pybpfvm.verifier.calls import release
from pybpfvm.verifier.checks import check_readable
from pybpfvm.verifier.environment import Environment
from pybpfvm.verifier.kernelobjects.btfptr import BTF_ID, BTF_ID_OR_NULL
from pybpfvm.verifier.refusal import forbidden, possibly_null, unsupported
from pybpfvm.verifier.states.regstate import (
    NON_NULL,
    Pointer,
    Reg,
    RegType,
    Trust,
    clobbered,
    is_null,
    mark_precise,
)
from pybpfvm.verifier.states.state import State
from pybpfvm.verifier.verdict import Rule

# The largest per-CPU object, and how deep structs may be nested in one.
_MAX_PERCPU_BYTES = 512
_MAX_DEPTH = 4
_PERCPU = Trust.ALLOC | Trust.PERCPU


def obj_new(env: Environment, state: State, insn: Insn, pc: int) -> None:
    """bpf_obj_new_impl(type id, ...)."""
    type_id, _ = _struct(env, state)
    env.object_fields(type_id)  # or it is not known which bytes are the kernel's
    _give(env, state, type_id, Trust.ALLOC, pc, nullable=True)


def percpu_obj_new(env: Environment, state: State, insn: Insn, pc: int) -> None:
    """bpf_percpu_obj_new_impl(type id, ...)."""
    type_id, struct = _struct(env, state)
    btf = env.obj.btf
    assert btf is not None
    text = ""
    if struct.size > _MAX_PERCPU_BYTES:
        text = f"type size ({struct.size}) is greater than {_MAX_PERCPU_BYTES}"
    elif not _is_scalar_struct(btf, type_id):
        text = "type ID argument must be of a struct of scalars"
    elif env.object_fields(type_id):
        text = "type ID argument must not contain special fields"
    if text:
        raise forbidden(
            Rule.OBJECT,
            f"bpf_percpu_obj_new {text}",
            reason=f"each CPU has its own struct {struct.name}, of at most {_MAX_PERCPU_BYTES} "
            "bytes of numbers",
        )
    _give(env, state, type_id, _PERCPU, pc, nullable=True)


def obj_drop(env: Environment, state: State, insn: Insn, pc: int) -> None:
    """bpf_obj_drop_impl(object, ...)."""
    _drop(state, Trust.ALLOC, pc)


def percpu_obj_drop(env: Environment, state: State, insn: Insn, pc: int) -> None:
    """bpf_percpu_obj_drop_impl(object, ...)."""
    _drop(state, _PERCPU, pc)


def refcount_acquire(env: Environment, state: State, insn: Insn, pc: int) -> None:
    """bpf_refcount_acquire_impl(object, ...). A reference that the program owns gives another; one
    that it does not may be the last of an object that is about to go."""
    reg = state.frame.regs[1]
    check_readable(reg, 1)
    check_not_null(reg, 1)
    if reg.type is not BTF_ID or not reg.trust & Trust.ALLOC or reg.trust & Trust.UNTRUSTED:
        raise forbidden(
            Rule.OBJECT,
            "arg#0 is neither owning or non-owning ref",
            reason="r1 is no object of the program's, or not any more",
            culprit=reg,
        )
    fields = () if reg.trust & Trust.PERCPU else env.object_fields(reg.btf_id)
    if all(one.kind is not FieldKind.REFCOUNT for one in fields):
        raise forbidden(
            Rule.OBJECT,
            "arg#0 doesn't point to a type with bpf_refcount field",
            reason="objects without one have one owner",
            suggestion="add a struct bpf_refcount to the type",
            culprit=reg,
        )
    check_constant_offset(reg, 1, "bpf_refcount")
    if reg.off or reg.var.value:
        # Kernels let this pass, and count up what lies as far behind the counter.
        raise forbidden(
            Rule.OBJECT,
            f"R1 must have zero offset, not {reg.off + reg.var.value}",
            reason="the counter is found by the object's beginning",
            culprit=reg,
        )
    _give(env, state, reg.btf_id, Trust.ALLOC, pc, nullable=not reg.ref_id)


def check_not_null(reg: Reg, number: int) -> None:
    """An argument that must be trusted is not NULL."""
    if is_null(reg) or reg.type in NON_NULL:
        raise possibly_null(f"Possibly NULL pointer passed to trusted arg{number - 1}", number, reg)


def check_constant_offset(reg: Reg, number: int, what: str) -> None:
    """What is added to the pointer is known."""
    if reg.var.mask:
        raise forbidden(
            Rule.OBJECT,
            f"R{number} doesn't have constant offset. {what} has to be at the constant offset",
            reason="which field it is must be known",
            culprit=reg,
        )


def is_scalar(reg: Reg, number: int) -> None:
    """The argument is a number."""
    check_readable(reg, number)
    if reg.type is not RegType.SCALAR_VALUE:
        raise forbidden(
            Rule.KFUNC_ARG, f"R{number} is not a scalar", reason="it is a number", culprit=reg
        )


def _struct(env: Environment, state: State) -> tuple[int, Struct]:
    """The struct that r1 names, by its id in the program's BTF."""
    reg = state.frame.regs[1]
    is_scalar(reg, 1)
    if reg.var.mask:
        raise forbidden(
            Rule.KFUNC_ARG,
            "R1 must be a known constant",
            reason="which type the object is of must be known",
            culprit=reg,
        )
    mark_precise(reg)
    btf = env.obj.btf
    if btf is None:
        raise unsupported("own objects without the object's BTF")
    type_id = reg.var.value
    struct = btf.type(type_id) if 0 < type_id < len(btf) else None
    if not isinstance(struct, Struct):
        raise forbidden(
            Rule.OBJECT,
            "bpf_obj_new/bpf_percpu_obj_new type ID argument must be of a struct",
            reason=f"type {type_id} of the object's BTF is none",
            suggestion="bpf_obj_new(typeof(struct name)), compiled with -g",
            culprit=reg,
        )
    return type_id, struct


def _give(
    env: Environment, state: State, type_id: int, trust: Trust, pc: int, *, nullable: bool
) -> None:
    new = env.new_id()
    state.refs = (*state.refs, (new, pc))
    kind = BTF_ID_OR_NULL if nullable else BTF_ID
    result = Pointer(kind, pc, id=new, ref_id=new, btf_id=type_id, trust=trust)
    state.frame.regs[0:6] = [result, *[clobbered(pc)] * 5]
    state.certain = False


def _drop(state: State, trust: Trust, pc: int) -> None:
    reg = state.frame.regs[1]
    check_readable(reg, 1)
    check_not_null(reg, 1)
    name = "bpf_percpu_obj_drop_impl" if trust & Trust.PERCPU else "bpf_obj_drop_impl"
    if reg.type is not BTF_ID or not reg.trust & Trust.ALLOC or not reg.ref_id:
        own = reg.type is BTF_ID and reg.trust & Trust.ALLOC
        raise forbidden(
            Rule.OBJECT,
            "R1 must be referenced or trusted"
            if own
            else "arg#0 expected pointer to allocated object",
            reason=f"{name} takes what the program made and still owns",
            suggestion="take it out of its collection or map value first" if own else "",
            culprit=reg,
        )
    if reg.off or reg.var.mask or reg.var.value:
        raise forbidden(
            Rule.OBJECT,
            "R1 must have zero offset when passed to release func or trusted arg to kfunc",
            reason="an object is dropped by its beginning",
            suggestion="container_of() the node",
            culprit=reg,
        )
    if reg.trust != trust:
        other = "bpf_obj_drop_impl" if trust & Trust.PERCPU else "bpf_percpu_obj_drop_impl"
        raise forbidden(
            Rule.OBJECT,
            f"arg#0 expected for {other}()",
            reason="per-CPU objects and others are dropped by functions of their own",
            culprit=reg,
        )
    release(state, reg.ref_id, pc)
    state.frame.regs[0:6] = [clobbered(pc)] * 6
    state.certain = False


def _is_scalar_struct(btf: Btf, type_id: int, depth: int = 0) -> bool:
    """Whether a struct holds nothing but numbers, arrays of numbers, and structs of such."""
    struct = btf.type(type_id)
    if not isinstance(struct, Struct | Union):
        return False
    for member in struct.members:
        inner_id = btf.resolve(member.type_id)
        inner = btf.type(inner_id)
        if isinstance(inner, Struct | Union):
            if depth >= _MAX_DEPTH or not _is_scalar_struct(btf, inner_id, depth + 1):
                return False
            continue
        if isinstance(inner, Array):
            inner = btf.type(btf.resolve(inner.element_id))
        if not isinstance(inner, Int | Enum | Enum64):
            return False
    return True

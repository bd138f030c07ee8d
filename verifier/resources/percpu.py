"""One CPU's copy of a per-CPU object that a map value holds, or of a per-CPU variable of the
kernel: bpf_this_cpu_ptr, bpf_per_cpu_ptr.

The object of a map must be known to live: RCU protects what was loaded from a `__percpu_kptr`. For
that, kernels take the result of bpf_per_cpu_ptr for a pointer that is never NULL; it is NULL for a
CPU that is not there, so here it may be.
"""

from __future__ import annotations

from pybpfvm.btf.types import Struct, Union
from pybpfvm.isa.insn import Insn
from pybpfvm.verifier.calls import helper_of
from pybpfvm.verifier.checks import check_readable
from pybpfvm.verifier.environment import Environment
from pybpfvm.verifier.kernelobjects.btfptr import (
    BTF_ID,
    BTF_ID_OR_NULL,
    MEM,
    MEM_OR_NULL,
    type_text,
)
from pybpfvm.verifier.privileges.leaks import check_conceals
from pybpfvm.verifier.refusal import forbidden, possibly_null, unsupported
from pybpfvm.verifier.states.regstate import (
    NON_NULL,
    Pointer,
    Reg,
    Trust,
    clobbered,
    is_null,
    mark_precise,
)
from pybpfvm.verifier.states.state import State
from pybpfvm.verifier.verdict import Rule

_OF_MAPS = Trust.RCU | Trust.PERCPU | Trust.LOCAL
_ONE_CPUS = Trust.ALLOC | Trust.RCU


def this_cpu_ptr(env: Environment, state: State, insn: Insn, pc: int) -> None:
    """bpf_this_cpu_ptr(object)."""
    object_ = _object(env, state, insn)
    _give(state, _copy(env, object_, pc, nullable=False), pc)


def per_cpu_ptr(env: Environment, state: State, insn: Insn, pc: int) -> None:
    """bpf_per_cpu_ptr(object, cpu). The first CPU is always there."""
    object_ = _object(env, state, insn)
    cpu = state.frame.regs[2]
    check_readable(cpu, 2)
    check_conceals(env, cpu, "R2 leaks addr into helper function")
    nullable = True
    if is_null(cpu) and object_.trust == _OF_MAPS:
        mark_precise(cpu)
        nullable = False
    _give(state, _copy(env, object_, pc, nullable=nullable), pc)


def _copy(env: Environment, object_: Reg, pc: int, *, nullable: bool) -> Pointer:
    """A pointer to the copy: of a variable that is no struct, to memory that can be read."""
    id_ = env.new_id() if nullable else 0
    btf = env.btf_of(object_)
    of_maps = object_.trust == _OF_MAPS
    if not of_maps and not isinstance(btf.type(object_.btf_id), Struct | Union):
        size = btf.size(object_.btf_id)
        kind = MEM_OR_NULL if nullable else MEM
        return Pointer(kind, pc, id=id_, mem_size=size, trust=Trust.RDONLY)
    kind = BTF_ID_OR_NULL if nullable else BTF_ID
    trust = _ONE_CPUS if of_maps else Trust.NONE
    return Pointer(kind, pc, id=id_, btf_id=object_.btf_id, trust=trust)


def _give(state: State, result: Pointer, pc: int) -> None:
    state.frame.regs[0:6] = [result, *[clobbered(pc)] * 5]


def _object(env: Environment, state: State, insn: Insn) -> Reg:
    helper = helper_of(env, insn)
    reg = state.frame.regs[1]
    check_readable(reg, 1)
    if reg.type is not BTF_ID or not reg.trust & Trust.PERCPU or reg.ref_id:
        text = (
            f"R1 type={type_text(env, reg)} expected=percpu_ptr_, percpu_rcu_ptr_, "
            "percpu_trusted_ptr_"
        )
        if reg.type in NON_NULL:
            raise possibly_null(text, 1, reg)
        raise forbidden(
            Rule.HELPER_ARG, text, reason=f"{helper.name} takes a per-CPU object", culprit=reg
        )
    if reg.trust not in (_OF_MAPS, Trust.PERCPU):
        raise unsupported(f"per-CPU members of the kernel's structs ({helper.name})")
    if reg.off or reg.var.mask or reg.var.value:
        raise forbidden(
            Rule.HELPER_ARG,
            f"dereference of modified percpu_rcu_ptr_ ptr R1 off={reg.off} disallowed",
            reason="an object's copies are found by its beginning",
            culprit=reg,
        )
    return reg

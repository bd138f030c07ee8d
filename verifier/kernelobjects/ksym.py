"""Addresses of the kernel's variables and functions (`extern ... __ksym`), which an lddw loads.

A per-CPU variable gives something for bpf_per_cpu_ptr and bpf_this_cpu_ptr, a struct a pointer to a
kernel object, any other variable memory that can be read. Of a function nothing can be read: its
address is there to be compared with NULL.
"""

from __future__ import annotations

from pybpfvm.bits import U32
from pybpfvm.btf.types import Btf, BtfKind, Datasec, Func, Struct, Union, Var
from pybpfvm.isa.insn import Insn
from pybpfvm.verifier.environment import Environment
from pybpfvm.verifier.kernelobjects.btfptr import BTF_ID, MEM
from pybpfvm.verifier.refusal import Refused, unsupported
from pybpfvm.verifier.states.regstate import Pointer, Trust
from pybpfvm.verifier.verdict import Rule

_PERCPU = ".data..percpu"


def address(env: Environment, insn: Insn, pc: int) -> Pointer:
    """What an lddw with the id of a function or variable loads. Raises Refused."""
    btf = env.target
    id_, module = insn.imm & U32, insn.imm >> 32
    if module:
        raise unsupported("variables and functions of modules")
    if btf is None:
        raise unsupported("variables of the kernel without its BTF")
    found = btf.type(id_) if id_ in btf else None
    if isinstance(found, Func):
        return Pointer(MEM, pc, mem_size=0, trust=Trust.RDONLY)
    if not isinstance(found, Var):
        raise Refused(
            Rule.ILLEGAL_INSN,
            f"pseudo btf_id {id_} in ldimm64 isn't KIND_VAR or KIND_FUNC",
            reason="the kernel's BTF has neither a variable nor a function of this number",
            certain=True,
        )
    type_id = btf.resolve(found.type_id)
    if _is_percpu(btf, id_):
        return Pointer(BTF_ID, pc, btf_id=type_id, trust=Trust.PERCPU)
    if isinstance(btf.type(type_id), Struct | Union):
        return Pointer(BTF_ID, pc, btf_id=type_id)
    return Pointer(MEM, pc, mem_size=btf.size(type_id), trust=Trust.RDONLY)


def _is_percpu(btf: Btf, id_: int) -> bool:
    listed = btf.find(_PERCPU, BtfKind.DATASEC)
    section = btf.type(listed) if listed is not None else None
    return isinstance(section, Datasec) and any(id_ == one.type_id for one in section.variables)

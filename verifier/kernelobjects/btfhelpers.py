"""Helpers that take or give pointers to kernel objects, and memory arguments that are such.

Rows of the helper table say PTR_TO_BTF_ID; which struct that is stands here, by name.
"""

from __future__ import annotations

from collections.abc import Mapping

from pybpfvm.btf.types import BtfKind
from pybpfvm.verifier.environment import Environment
from pybpfvm.verifier.kernelobjects import btfptr
from pybpfvm.verifier.kernelobjects.btfptr import BTF_ID, BTF_ID_OR_NULL, MEM, type_text
from pybpfvm.verifier.kernelobjects.btfwalk import begins_at, struct_name
from pybpfvm.verifier.refusal import forbidden, possibly_null, unsupported
from pybpfvm.verifier.states.regstate import NON_NULL, Pointer, Reg, Trust
from pybpfvm.verifier.verdict import Rule

# Structs of PTR_TO_BTF_ID arguments, by helper and number.
_ARGUMENTS: Mapping[tuple[str, int], str] = {
    ("task_pt_regs", 1): "task_struct",
    ("get_task_stack", 1): "task_struct",
    ("copy_from_user_task", 4): "task_struct",
    ("find_vma", 1): "task_struct",
    ("sock_from_file", 1): "file",
    ("d_path", 1): "path",
    ("seq_printf", 1): "seq_file",
    ("seq_write", 1): "seq_file",
    ("seq_printf_btf", 1): "seq_file",
    ("skb_output", 1): "sk_buff",
    ("xdp_output", 1): "xdp_buff",
    ("xdp_get_buff_len", 1): "xdp_buff",
    ("tcp_send_ack", 1): "tcp_sock",
    ("bprm_opts_set", 1): "linux_binprm",
    ("ima_inode_hash", 1): "inode",
    ("ima_file_hash", 1): "file",
}
# Struct and trust of PTR_TO_BTF_ID results, and of those that may be NULL.
_RESULTS: Mapping[str, tuple[str, Trust]] = {
    "get_current_task_btf": ("task_struct", Trust.TRUSTED),
    "task_pt_regs": ("pt_regs", Trust.NONE),
    "sock_from_file": ("socket", Trust.NONE),
    "skc_to_tcp6_sock": ("tcp6_sock", Trust.NONE),
    "skc_to_tcp_sock": ("tcp_sock", Trust.NONE),
    "skc_to_tcp_timewait_sock": ("tcp_timewait_sock", Trust.NONE),
    "skc_to_tcp_request_sock": ("tcp_request_sock", Trust.NONE),
    "skc_to_udp6_sock": ("udp6_sock", Trust.NONE),
    "skc_to_unix_sock": ("unix_sock", Trust.NONE),
    "skc_to_mptcp_sock": ("mptcp_sock", Trust.NONE),
}
_ACCEPTED = frozenset({Trust.NONE, Trust.TRUSTED, Trust.RCU})


def struct_id(env: Environment, name: str) -> int:
    """The struct's id in the target's BTF. Refused as unsupported if it is not there."""
    btf = env.target
    found = btf.find(name, BtfKind.STRUCT) if btf is not None else None
    if found is None:
        raise unsupported(f"struct {name} without a target BTF that has it")
    return found


def check_argument(env: Environment, helper: str, reg: Reg, number: int) -> None:
    """The register points to a struct of the type that the helper takes, and may be trusted."""
    check_object(env, helper, reg, number, struct_id(env, _ARGUMENTS[helper, number]))


def check_object(env: Environment, taker: str, reg: Reg, number: int, wanted: int) -> None:
    """The register points to a struct of type `wanted`, which `taker` takes, and may be trusted."""
    if reg.type is not BTF_ID or reg.trust not in _ACCEPTED:
        text = f"R{number} type={reg.type.value} expected=ptr_, trusted_ptr_, rcu_ptr_"
        if reg.type in NON_NULL:
            raise possibly_null(text, number, reg)
        raise forbidden(Rule.HELPER_ARG, text, reason=f"{taker} takes a kernel object", culprit=reg)
    if not is_struct_at(env, reg, wanted):
        btf = env.btf_of(reg)
        raise forbidden(
            Rule.HELPER_ARG,
            f"R{number} is of type {struct_name(btf, reg.btf_id)} but "
            f"{struct_name(btf, wanted)} is expected",
            reason=f"{taker} takes a pointer to the beginning of that struct",
            culprit=reg,
        )


def is_struct_at(env: Environment, reg: Reg, wanted: int) -> bool:
    """Whether a struct of the wanted type begins where the register points."""
    if reg.var.mask or reg.trust & (Trust.ALLOC | Trust.LOCAL):
        return False
    return begins_at(env.btf_of(reg), reg.btf_id, reg.off + reg.var.smin, wanted)


def gives_object(helper: str) -> bool:
    """Whether it is known which struct the helper's result points to."""
    return helper in _RESULTS


def result(env: Environment, helper: str, pc: int, *, nullable: bool, ref_id: int) -> Pointer:
    """What a helper that returns a kernel object leaves in r0: one that may be NULL if it is
    `nullable`, and is gone with what `ref_id` refers to."""
    name, trust = _RESULTS[helper]
    found = struct_id(env, name)
    if not nullable:
        return btfptr.pointer_to(env, pc, found, trust, nullable=False)
    new = env.new_id()
    return Pointer(BTF_ID_OR_NULL, pc, id=new, ref_id=ref_id, btf_id=found, trust=trust)


def is_memory(reg: Reg, *, element: bool = False, writes: bool = False) -> bool:
    """Whether a memory argument may be this kernel object or memory of known size. `element`: it
    is a key or value of a map; `writes`: the function writes to it."""
    if reg.type is BTF_ID:
        return reg.trust == Trust.TRUSTED and not element
    passed = Trust.NONE if element else Trust.SLICE | Trust.PACKET
    if not (element or writes):
        passed |= Trust.RDONLY
    return reg.type is MEM and not reg.trust & ~passed


def check_memory(
    env: Environment, helper: str, reg: Reg, number: int, size: int, *, writes: bool
) -> None:
    """A helper reads (or `writes`) `size` bytes of a kernel object, or of memory."""
    if reg.type is MEM:
        btfptr.check_memory(env, reg, number, 0, size, store=writes)
        return
    if writes:
        raise forbidden(
            Rule.READ_ONLY,
            f"{helper}() may write into memory pointed by R{number} type={type_text(env, reg)}",
            reason="programs can not change kernel objects",
            culprit=reg,
        )
    btfptr.check_access(env, reg, number, 0, size)

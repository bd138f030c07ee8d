"""What a program with BTF arguments is attached to, as the running kernel's loader wants it."""

from __future__ import annotations

from pybpfvm import bpfsys
from pybpfvm.btf.types import BtfKind, Struct
from pybpfvm.loader.target import kernel_btf

# kind of section -> attach type, prefix of the target's name in the kernel's BTF, its kind there
_ATTACH = {
    "fentry": (bpfsys.TRACE_FENTRY, "", BtfKind.FUNC),
    "fexit": (bpfsys.TRACE_FEXIT, "", BtfKind.FUNC),
    "fmod_ret": (bpfsys.MODIFY_RETURN, "", BtfKind.FUNC),
    "tp_btf": (bpfsys.TRACE_RAW_TP, "btf_trace_", BtfKind.TYPEDEF),
    "iter": (bpfsys.TRACE_ITER, "bpf_iter_", BtfKind.FUNC),
    "lsm": (bpfsys.LSM_MAC, "bpf_lsm_", BtfKind.FUNC),
}


def attach_target(section: str) -> tuple[int, int]:
    """(attach type, id in the running kernel's BTF) of what a section names; id 0 if there is
    nothing of that name."""
    btf = kernel_btf()
    if btf is None:
        return 0, 0
    kind, _, target = section.partition("/")
    kind = kind.removesuffix(".s")
    if kind == "struct_ops":
        struct, _, member = target.partition("/")
        found = btf.find(struct, BtfKind.STRUCT)
        declared = btf.type(found) if found is not None else None
        if found is None or not isinstance(declared, Struct):
            return 0, 0
        names = [one.name for one in declared.members]
        return (names.index(member), found) if member in names else (0, 0)
    if kind not in _ATTACH:
        return 0, 0
    attach_type, prefix, wanted = _ATTACH[kind]
    return attach_type, btf.find(prefix + target, wanted) or 0

"""The kernel's own structs behind the contexts of programs, for bpf_cast_to_kern_ctx.

The struct bpf_ctx_convert in the target's BTF has two members for each type of program: what
programs see of their context, and what the kernel has.
"""

from __future__ import annotations

from pybpfvm.btf.types import BtfKind, Enum, Struct
from pybpfvm.verifier.environment import Environment
from pybpfvm.verifier.kernelobjects.btfwalk import kind_text
from pybpfvm.verifier.refusal import forbidden, unsupported
from pybpfvm.verifier.verdict import Rule


def kernel_context(env: Environment) -> int:
    """The id of the struct that the context of a program like this is to the kernel."""
    btf = env.target
    assert btf is not None
    types, table = btf.find("bpf_prog_type", BtfKind.ENUM), btf.find("bpf_ctx_convert")
    enum = btf.type(types) if types is not None else None
    struct = btf.type(table) if table is not None else None
    if not isinstance(enum, Enum) or not isinstance(struct, Struct):
        raise unsupported("kernel contexts without a target BTF that has bpf_ctx_convert")
    names = {value.value: f"{value.name}_kern" for value in enum.values}
    wanted = names.get(env.profile.prog_type, "")
    found = next((one.type_id for one in struct.members if one.name == wanted), None)
    if found is None:
        raise unsupported(f"the kernel's context of {env.profile.name} programs")
    found = btf.resolve(found)
    if not isinstance(btf.type(found), Struct):
        raise forbidden(
            Rule.KFUNC_ARG,
            f"kern ctx type id {found} is not a struct",
            reason=f"the kernel's context of {env.profile.name} programs is a "
            f"{kind_text(btf, found)}",
        )
    return found

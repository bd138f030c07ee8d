"""Which BTF a type is looked up in, when CO-RE asks for its layout on the target.

Without a choice of the user's: the types of ring programs are those of the ABI, whatever kernel
runs; all others are the running kernel's, which are read only if a relocation needs them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

from pybpfvm.btf.parse import MAX_BYTES, parse_btf
from pybpfvm.btf.types import Btf
from pybpfvm.errors import InputError
from pybpfvm.inputfile import read_input_file
from pybpfvm.profiles import PROFILES, builtin_btf
from pybpfvm.profiles.loop_upstream import kernel_btf_of, loop_profiles
from pybpfvm.program import StructOps

KERNEL_BTF = "/sys/kernel/btf/vmlinux"
DEFAULT_PROFILE = "iouring-v3"

# Takes the name of a type (without flavour), returns the BTF to search, None if there is none.
TargetBtf = Callable[[str], Btf | None]


def default_target(name: str) -> Btf | None:
    """The ABI's own type of this name, else the running kernel's BTF, None where it has none."""
    return _choose(name, (_ring_types(),)) or kernel_btf()


def chosen_target(btf: Btf) -> TargetBtf:
    """`btf` for everything it knows; the ABI's types for those of ring programs otherwise."""

    def target(name: str) -> Btf | None:
        return _choose(name, (btf, _ring_types())) or btf

    return target


def kernel_of(struct_ops: Sequence[StructOps], target: TargetBtf) -> TargetBtf:
    """Where an object with these callbacks looks: the kernel that the ABI of its ring needs, unless
    the user chose one. All dialects of one struct give functions the same ids."""
    if target is not default_target:
        return target
    for variable in struct_ops:
        for profile in loop_profiles(variable.struct):
            btf = kernel_btf_of(profile)
            return lambda name: btf
    return target


def _choose(name: str, tables: Sequence[Btf | None]) -> Btf | None:
    return next((btf for btf in tables if btf is not None and btf.find_flavours(name)), None)


def _ring_types() -> Btf | None:
    return builtin_btf(PROFILES[DEFAULT_PROFILE])


@lru_cache(maxsize=1)
def kernel_btf() -> Btf | None:
    """The running kernel's BTF, None where it does not show one or shows an unreadable one."""
    try:
        return read_btf_file(KERNEL_BTF)
    except InputError:
        return None


def read_btf_file(path: str) -> Btf:
    """Raw BTF from a file. InputError if it can not be read or is malformed."""
    return parse_btf(read_input_file(path, MAX_BYTES), where=path)

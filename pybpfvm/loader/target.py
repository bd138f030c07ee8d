"""Which BTF a type is looked up in, when CO-RE asks for its layout on the target.

Without a choice of the user's: the types of ring programs are those of the ABI, whatever kernel
runs; all others are the running kernel's, which are read only if a relocation needs them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import lru_cache

from pybpfvm.btf.parse import MAX_BYTES, parse_btf
from pybpfvm.btf.types import Btf, BtfKind, Struct
from pybpfvm.errors import InputError
from pybpfvm.inputfile import read_input_file
from pybpfvm.profiles import PROFILES, builtin_btf
from pybpfvm.profiles.base import Profile
from pybpfvm.profiles.detect import Detection
from pybpfvm.profiles.detect_loop import Callbacks, LoopFacts
from pybpfvm.profiles.loop_upstream import kernel_btf_of
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


def loop_facts(
    struct_ops: Iterable[StructOps],
    sections: Iterable[str],
    functions: Iterable[str],
    btf: Btf | None,
) -> LoopFacts:
    """What tells the dialect of an object that drives a ring."""

    def fields(struct: str) -> Collection[str] | None:
        found = btf.find(struct, BtfKind.STRUCT) if btf is not None else None
        type_ = btf.type(found) if btf is not None and found is not None else None
        return {one.name for one in type_.members} if isinstance(type_, Struct) else None

    return LoopFacts(
        tuple(Callbacks(one.struct, frozenset(one.programs)) for one in struct_ops),
        frozenset(sections),
        frozenset(functions),
        fields,
    )


def kernel_of(dialect: Detection | None, target: TargetBtf, profile: Profile | None) -> TargetBtf:
    """Where an object that drives a ring looks: the kernel that its ABI (`profile`, if that is
    given) needs, unless the user chose one. All dialects that may be its own give functions the
    same ids."""
    if target is not default_target or dialect is None:
        return target
    if profile is None or profile.loop is None:
        profile = next(iter(dialect.candidates), None)
    if profile is None:
        return target
    btf = kernel_btf_of(profile)
    return lambda name: btf


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

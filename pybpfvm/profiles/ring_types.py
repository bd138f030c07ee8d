"""A profile's C types as BTF: what CO-RE relocations of ring programs are resolved against."""

from __future__ import annotations

from functools import lru_cache

from pybpfvm.btf.types import Btf, BtfType, Int, Member, Struct
from pybpfvm.profiles.base import Profile

_INT_NAMES = {
    1: "unsigned char",
    2: "unsigned short",
    4: "unsigned int",
    8: "unsigned long long",
    -4: "int",
}


def builtin_btf(profile: Profile) -> Btf | None:
    """BTF of the types that `profile` describes; None when it describes none.

    Members that share an offset stand side by side in their struct: CO-RE finds fields by name,
    so the anonymous unions of the C header make no difference.
    """
    return _btf(profile.name, profile.types) if profile.types else None


@lru_cache(maxsize=32)
def _btf(name: str, structs: tuple[tuple[str, int, tuple[tuple[str, int, int], ...]], ...]) -> Btf:
    types: list[BtfType] = []
    ints: dict[int, int] = {}
    for size, int_name in _INT_NAMES.items():
        types.append(Int(int_name, abs(size), abs(size) * 8, signed=size < 0))
        ints[size] = len(types)
    for struct_name, struct_bytes, fields in structs:
        members = tuple(Member(field, ints[size], offset * 8) for field, offset, size in fields)
        types.append(Struct(struct_name, struct_bytes, members))
    return Btf.of(types, where=f"built-in types of {name}")

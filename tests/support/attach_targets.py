"""Names of kernel functions and members in test programs, as the running kernel's ids.

`call kfunc NAME`, `[struct.member]` and `[struct NAME]` in a program's text become what the running
kernel's BTF says: the function's id, the member's offset, the struct's id.
"""

from __future__ import annotations

import re

from pybpfvm.btf.types import Btf, BtfKind, Struct, Union
from pybpfvm.loader.target import kernel_btf

_KFUNC = re.compile(r"\bcall kfunc (\w+)(?!#)\b")
_MEMBER = re.compile(r"\[(\w+)\.(\w+)\]")
_STRUCT = re.compile(r"\[struct (\w+)\]")


def with_kernel_ids(text: str) -> str:
    """The text with names replaced; as it is where it has none. Unknown names become id 0."""
    if "kfunc" not in text and "." not in text:
        return text

    def function(match: re.Match[str]) -> str:
        btf = kernel_btf()
        found = btf.find(match[1], BtfKind.FUNC) if btf is not None else None
        return f"call kfunc {match[1]}#{found or 0}"

    def offset(match: re.Match[str]) -> str:
        btf = kernel_btf()
        return str(member_offset(btf, match[1], match[2]) if btf is not None else 0)

    def struct(match: re.Match[str]) -> str:
        btf = kernel_btf()
        return str(btf.find(match[1], BtfKind.STRUCT) or 0 if btf is not None else 0)

    return _STRUCT.sub(struct, _MEMBER.sub(offset, _KFUNC.sub(function, text)))


def member_offset(btf: Btf, struct: str, member: str) -> int:
    """Offset in bytes of a member, also of one in an unnamed struct or union; KeyError."""
    found = btf.find(struct, BtfKind.STRUCT, BtfKind.UNION)
    if found is None:
        raise KeyError(struct)
    offset = _offset(btf, found, member)
    if offset is None:
        raise KeyError(f"{struct}.{member}")
    return offset


def _offset(btf: Btf, type_id: int, name: str) -> int | None:
    found = btf.type(btf.resolve(type_id))
    if not isinstance(found, Struct | Union):
        return None
    for member in found.members:
        if member.name == name:
            return member.bit_offset // 8
        if not member.name:
            inner = _offset(btf, member.type_id, name)
            if inner is not None:
                return member.bit_offset // 8 + inner
    return None

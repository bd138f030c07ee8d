""".BTF.ext sections from values, and one BTF type of each kind."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from pybpfvm.btf.types import (
    Array,
    BtfType,
    Const,
    Datasec,
    DeclTag,
    Enum,
    Enum64,
    EnumValue,
    Float,
    Func,
    FuncLinkage,
    FuncProto,
    Fwd,
    Int,
    Member,
    Param,
    Ptr,
    Restrict,
    SectionVar,
    Struct,
    Typedef,
    TypeTag,
    Union,
    Var,
    VarLinkage,
    Volatile,
)
from pybpfvm.btf.write import StringPool

# Ids 1 to 22: every kind at least once, every flag set somewhere. A kernel takes it as it is.
EVERY_KIND: tuple[BtfType, ...] = (
    Int("int", 4, 32, signed=True),
    Int("char", 1, 8, char=True),
    Int("_Bool", 1, 8, boolean=True),
    Ptr(9),
    Array(1, 1, 5),
    Struct("plain", 16, (Member("a", 1, 0), Member("p", 4, 64))),
    Struct("fields", 4, (Member("x", 1, 0, 3), Member("y", 1, 3, 20))),
    Union("either", 4, (Member("i", 1, 0), Member("c", 2, 0))),
    Const(10),
    Volatile(6),
    Enum("small", 4, (EnumValue("MINUS", -3), EnumValue("PLUS", 3)), signed=True),
    Enum64("large", 8, (EnumValue("FAR", 1 << 63), EnumValue("NEAR", 1))),
    Fwd("declared"),
    Fwd("declared_union", is_union=True),
    Typedef("name", 6),
    Restrict(4),
    FuncProto(1, (Param("a", 1), Param("b", 16))),
    Func("function", 17, FuncLinkage.GLOBAL),
    Var("variable", 1, VarLinkage.GLOBAL),
    Datasec(".data", 4, (SectionVar(19, 0, 4),)),
    Float("double", 8),
    DeclTag("note", 6, 1),
    TypeTag("user", 6),
)


def write_btf_ext(
    strings: StringPool,
    *,
    funcs: Mapping[str, Sequence[tuple[int, int]]] | None = None,
    lines: Mapping[str, Sequence[tuple[int, str, str, int, int]]] | None = None,
    relocations: Mapping[str, Sequence[tuple[int, int, str, int]]] | None = None,
    big_endian: bool = False,
) -> bytes:
    """A section with (offset, type id), (offset, file, text, line, column) and (offset, type id,
    access, kind) records per ELF section. Their strings are added to `strings`."""
    order = ">" if big_endian else "<"

    def part(by_section: Mapping[str, Sequence[tuple[int, ...]]], width: int) -> bytes:
        if not by_section:
            return b""
        data = struct.pack(order + "I", 4 * width)
        for section, records in by_section.items():
            data += struct.pack(order + "2I", strings.add(section), len(records))
            for record in records:
                data += struct.pack(f"{order}{width}I", *record)
        return data

    line_words = {
        section: [
            (offset, strings.add(file), strings.add(text), line << 10 | column)
            for offset, file, text, line, column in records
        ]
        for section, records in (lines or {}).items()
    }
    core_words = {
        section: [
            (offset, type_id, strings.add(access), kind)
            for offset, type_id, access, kind in records
        ]
        for section, records in (relocations or {}).items()
    }
    parts = [part(funcs or {}, 2), part(line_words, 4), part(core_words, 4)]
    header = struct.pack(order + "HBBI", 0xEB9F, 1, 0, 32)
    at = 0
    for data in parts:
        header += struct.pack(order + "2I", at, len(data))
        at += len(data)
    return header + b"".join(parts)

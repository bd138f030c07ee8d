"""Records of .BTF.ext, and types as C text."""

from __future__ import annotations

import struct

import pytest

from pybpfvm.btf.ext import CoreKind, CoreRelocation, FuncInfo, LineInfo, parse_btf_ext
from pybpfvm.btf.format import declare, define, type_name
from pybpfvm.btf.types import (
    Array,
    Btf,
    BtfType,
    Const,
    Enum,
    EnumValue,
    Func,
    FuncProto,
    Int,
    Member,
    Param,
    Ptr,
    Struct,
    Typedef,
    Union,
    Volatile,
)
from pybpfvm.btf.write import StringPool
from pybpfvm.errors import InputError, SourceLine
from tests.support.btf_writer import EVERY_KIND, write_btf_ext


def _ext(big_endian: bool = False) -> tuple[bytes, bytes]:
    pool = StringPool()
    data = write_btf_ext(
        pool,
        funcs={"a": [(0, 3), (16, 4)], "b": [(0, 5)]},
        lines={"a": [(0, "x.c", "int f(void)", 10, 5), (8, "x.c", "return 1;", 0x3FFFFF, 1023)]},
        relocations={"b": [(8, 7, "0:1:2", 12)]},
        big_endian=big_endian,
    )
    return data, bytes(pool)


@pytest.mark.parametrize("big_endian", [False, True])
def test_records_come_back(big_endian: bool) -> None:
    data, strings = _ext(big_endian)
    ext = parse_btf_ext(data, strings, big_endian=big_endian)
    assert ext.funcs == {"a": (FuncInfo(0, 3), FuncInfo(16, 4)), "b": (FuncInfo(0, 5),)}
    assert ext.lines == {
        "a": (
            LineInfo(0, SourceLine("x.c", 10, 5, "int f(void)")),
            LineInfo(8, SourceLine("x.c", 0x3FFFFF, 1023, "return 1;")),
        )
    }
    assert ext.relocations == {"b": (CoreRelocation(8, 7, "0:1:2", CoreKind.TYPE_MATCHES),)}


def test_longer_records_of_newer_compilers_are_read() -> None:
    strings = b"\0a\0"
    part = struct.pack("<I", 12) + struct.pack("<2I", 1, 2) + struct.pack("<6I", 0, 1, 9, 8, 2, 9)
    data = struct.pack("<HBBI4I", 0xEB9F, 1, 0, 24, 0, len(part), 0, 0) + part
    ext = parse_btf_ext(data, strings, big_endian=False)
    assert ext.funcs == {"a": (FuncInfo(0, 1), FuncInfo(8, 2))}


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (0, 0, "magic"),
        (4, 4000, "header of 4000 bytes"),
        (8, 2, "not aligned"),
        (12, 1 << 30, "does not fit"),
        (32, 4, "records of 4 bytes"),
        (36, 1 << 20, "string offset 0x100000"),
        (40, 0xFFFFFFFF, "more than 262144 records"),
        (40, 100, "100 records of 8 bytes do not fit"),
    ],
)
def test_malformed_records_are_named(offset: int, value: int, message: str) -> None:
    data, strings = _ext()
    damaged = bytearray(data)
    struct.pack_into("<I", damaged, offset, value)
    with pytest.raises(InputError) as caught:
        parse_btf_ext(bytes(damaged), strings, big_endian=False, where="x.o: section .BTF.ext")
    assert message in str(caught.value)
    assert caught.value.where.startswith("x.o: section .BTF.ext")


def test_an_unknown_relocation_kind_is_refused() -> None:
    pool = StringPool()
    data = write_btf_ext(pool, relocations={"b": [(8, 7, "0", 13)]})
    with pytest.raises(InputError, match="unknown CO-RE relocation kind 13"):
        parse_btf_ext(data, bytes(pool), big_endian=False)


C_TYPES: list[BtfType] = [
    Int("int", 4, 32, signed=True),  # 1
    Ptr(1),
    Const(2),
    FuncProto(1, (Param("a", 3), Param("", 0))),
    Ptr(4),
    Array(5, 1, 3),
    Ptr(6),
    Const(1),
    Ptr(8),  # 9
    FuncProto(0),
    Func("f", 10),
    Volatile(9),
]


@pytest.mark.parametrize(
    ("type_id", "text"),
    [
        (0, "void x"),
        (2, "int *x"),
        (3, "int *const x"),
        (6, "int (*x[3])(int *const a, ...)"),
        (7, "int (*(*x)[3])(int *const a, ...)"),
        (9, "const int *x"),
        (12, "const int *volatile x"),
    ],
)
def test_declarations_read_as_c_does(type_id: int, text: str) -> None:
    assert declare(Btf.of(C_TYPES), type_id, "x") == text


def test_definitions_show_offsets_and_write_anonymous_members_out() -> None:
    btf = Btf.of(
        [
            Int("int", 4, 32, signed=True),
            Union("", 4, (Member("i", 1, 0), Member("e", 4, 0))),
            Struct("s", 8, (Member("", 2, 0), Member("bits", 1, 33, 3))),
            Enum("", 4, (EnumValue("A", 1),)),
        ]
    )
    assert define(btf, 3) == (
        "struct s { /* 8 bytes */\n"
        "\tunion { /* 4 bytes */\n"
        "\t\tint i; /* +0 */\n"
        "\t\tenum {\n\t\t\tA = 1,\n\t\t} e; /* +0 */\n"
        "\t}; /* +0 */\n"
        "\tint bits : 3; /* +4.1 */\n"
        "};"
    )
    assert type_name(btf, 1) == "int"


def test_every_kind_can_be_shown() -> None:
    btf = Btf.of(EVERY_KIND)
    assert all(define(btf, type_id) for type_id in range(len(btf)))


@pytest.mark.parametrize(
    "types",
    [
        [Ptr(1)],
        [Array(1, 1, 2)],
        [FuncProto(1, (Param("a", 1),) * 50)],
        [Typedef("t", 1)],
        [Struct("", 4, (Member("m", 1, 0),) * 50)],
    ],
)
def test_endless_types_are_cut_off(types: list[BtfType]) -> None:
    assert len(define(Btf.of(types), 1)) < 300_000

"""Objects that no compiler makes: RELA, odd symbols, and what is malformed, with its message."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest

from pybpfvm.btf.types import (
    Array,
    Btf,
    BtfType,
    Datasec,
    Func,
    FuncProto,
    Int,
    Member,
    Ptr,
    SectionVar,
    Struct,
    Var,
)
from pybpfvm.btf.write import StringPool, write_btf
from pybpfvm.errors import InputError
from pybpfvm.isa.codec import encode
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import Pseudo
from pybpfvm.isa.table import SPECS
from pybpfvm.loader import load
from pybpfvm.program import BpfObject, MapType
from tests.support.btf_writer import write_btf_ext
from tests.support.elf_writer import (
    ALLOC,
    EXEC,
    FUNC,
    LOCAL,
    NOTYPE,
    OBJECT,
    R_BPF_64_32,
    R_BPF_64_64,
    R_BPF_64_ABS64,
    SECTION,
    SHT_NOBITS,
    WEAK,
    WRITE,
    Rel,
    Sec,
    Sym,
    write_elf,
)

CODE = ALLOC | EXEC
EXIT = Insn(SPECS["exit"])
CALL = Insn(SPECS["call_local"], imm=-1)
LDDW = Insn(SPECS["lddw"], dst=1)


def _code(*insns: Insn, big_endian: bool = False) -> bytes:
    return encode(insns, big_endian=big_endian)


def _load(
    sections: Sequence[Sec], symbols: Sequence[Sym], *, big_endian: bool = False
) -> BpfObject:
    return load(write_elf(sections, symbols, big_endian=big_endian), name="x.o")


def _fails(sections: Sequence[Sec], symbols: Sequence[Sym], message: str) -> None:
    with pytest.raises(InputError) as caught:
        _load(sections, symbols)
    assert message in str(caught.value)
    assert caught.value.where.startswith("x.o")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize("by_section", [False, True])
def test_addends_lie_in_the_instruction_or_beside(
    big_endian: bool, explicit: bool, by_section: bool
) -> None:
    """`main` calls the second function of .text, takes its address, and that of a variable."""
    there = not explicit
    call = Insn(SPECS["call_local"], imm=(0 if by_section else -1) if there else 0)
    address = Insn(SPECS["lddw"], 1, imm=8 if there and by_section else 0)
    variable = Insn(SPECS["lddw"], 2, imm=(24 if by_section else 8) if there else 0)

    def addend(value: int) -> int | None:
        return value if explicit else None

    relocations = [
        Rel(0, R_BPF_64_32, ".text" if by_section else "target", addend(8 if by_section else 0)),
        Rel(8, R_BPF_64_64, ".text" if by_section else "target", addend(8 if by_section else 0)),
        Rel(24, R_BPF_64_64, ".data" if by_section else "pair", addend(24 if by_section else 8)),
    ]
    code = _code(call, address, variable, EXIT, big_endian=big_endian)
    obj = _load(
        [
            Sec(".text", _code(EXIT, EXIT, big_endian=big_endian), CODE),
            Sec("prog", code, CODE, relocations=relocations),
            Sec(".data", bytes(32), ALLOC | WRITE),
        ],
        [
            Sym("other", ".text", 0, 8, FUNC, LOCAL),
            Sym("target", ".text", 8, 8, FUNC, LOCAL),
            Sym(".text", ".text", 0, 0, SECTION, LOCAL),
            Sym(".data", ".data", 0, 0, SECTION, LOCAL),
            Sym("pair", ".data", 16, 16, OBJECT),
            Sym("main", "prog", 0, len(code)),
        ],
        big_endian=big_endian,
    )
    (program,) = obj.programs
    assert [sub.name for sub in program.subprogs] == ["main", "target"]
    assert program.insns == (
        Insn(SPECS["call_local"], imm=5),
        Insn(SPECS["lddw"], 1, Pseudo.FUNC, 0, 4),
        Insn(SPECS["lddw"], 2, Pseudo.MAP_IDX_VALUE, 0, 24 << 32 | 0),
        EXIT,
        EXIT,
    )
    assert program.big_endian == big_endian


def test_functions_are_told_apart_by_place_not_by_name() -> None:
    obj = _load(
        [
            Sec("a", _code(CALL, EXIT, EXIT), CODE, relocations=[Rel(0, R_BPF_64_32, "one")]),
            Sec("b", _code(Insn(SPECS["call_local"], imm=1), EXIT, EXIT), CODE),
        ],
        [
            Sym("one", "a", 16, 8, FUNC, LOCAL),
            Sym("main_a", "a", 0, 16),
            Sym("main_b", "b", 0, 16),
            Sym("one", "b", 16, 8, FUNC, LOCAL),
        ],
    )
    # The relocation of the writer names the last `one`; the direct call goes to b's own.
    assert [[s.name for s in p.subprogs] for p in obj.programs] == [
        ["main_a", "one"],
        ["main_b", "one"],
    ]


def test_symbols_without_size_reach_to_the_next_one_and_aliases_share_code() -> None:
    obj = _load(
        [Sec("p", _code(EXIT, EXIT, EXIT), CODE)],
        [
            Sym("first", "p", 0, 0),
            Sym("alias", "p", 0, 0, binding=WEAK),
            Sym("second", "p", 16, 0),
        ],
    )
    assert [(p.name, p.slots) for p in obj.programs] == [("first", 2), ("second", 1)]


def test_text_alone_holds_the_programs() -> None:
    obj = _load(
        [Sec(".text", _code(CALL, EXIT, EXIT), CODE, relocations=[Rel(0, R_BPF_64_32, "sub")])],
        [Sym("main", ".text", 0, 16), Sym("sub", ".text", 16, 8)],
    )
    assert [program.name for program in obj.programs] == ["main"]


def test_code_without_symbols_is_named() -> None:
    obj = _load([Sec("p", _code(EXIT), CODE)], [])
    assert obj.programs == ()
    assert obj.unsupported == ("code without a function symbol: section p is left out",)


def test_other_sections_are_named_as_unsupported() -> None:
    obj = _load(
        [
            Sec("p", _code(EXIT), CODE),
            Sec(".struct_ops", bytes(16), ALLOC | WRITE),
            Sec(".data", bytes(8), ALLOC | WRITE, relocations=[Rel(0, R_BPF_64_ABS64, "main")]),
        ],
        [Sym("main", "p", 0, 8)],
    )
    left_out = "struct_ops without BTF: section .struct_ops is left out (compile with -g)"
    assert left_out in obj.unsupported
    assert any(line.startswith("addresses in data") for line in obj.unsupported)


def test_a_section_of_an_own_name_counts_if_code_refers_to_it() -> None:
    code = _code(LDDW, EXIT)
    obj = _load(
        [
            Sec("p", code, CODE, relocations=[Rel(0, R_BPF_64_64, "v")]),
            Sec("mine", bytes(8), ALLOC | WRITE),
            Sec("unused", bytes(8), ALLOC | WRITE),
            Sec("constants", b"abcd", ALLOC),
        ],
        [Sym("main", "p", 0, len(code)), Sym("v", "mine", 0, 8, OBJECT)],
    )
    assert [spec.name for spec in obj.maps] == ["mine"]


def _with_arenas(*pages: int, variables: int = 8) -> tuple[list[Sec], list[Sym]]:
    """An object with arenas of so many pages, and bytes of variables in one of them."""
    code = _code(LDDW, EXIT)
    records = b"".join(struct.pack("<5I", MapType.ARENA, 0, 0, count, 0x400) for count in pages)
    sections = [
        Sec("p", code, CODE, relocations=[Rel(0, R_BPF_64_64, "v")]),
        Sec("maps", records or bytes(20), ALLOC | WRITE),
        Sec(".addr_space.1", bytes(variables), ALLOC | WRITE),
    ]
    symbols = [Sym("main", "p", 0, len(code)), Sym("v", ".addr_space.1", 4, 4, OBJECT)]
    names = [f"m{number}" for number in range(max(len(pages), 1))]
    return sections, symbols + [
        Sym(name, "maps", 20 * number, 20, OBJECT) for number, name in enumerate(names)
    ]


def test_variables_in_an_arena_are_places_in_it() -> None:
    obj = _load(*_with_arenas(1, variables=4096))
    assert [(spec.name, spec.type) for spec in obj.maps] == [("m0", MapType.ARENA)]
    first = obj.programs[0].insns[0]
    assert (first.src, first.imm) == (Pseudo.MAP_IDX_VALUE, 4 << 32)


@pytest.mark.parametrize(
    ("pages", "variables", "message"),
    [
        ((), 8, "variables in an arena, and 0 arenas are declared"),
        ((1, 1), 8, "variables in an arena, and 2 arenas are declared"),
        ((1,), 4097, "4097 bytes of variables in arena m0, which has 1 page"),
    ],
)
def test_variables_need_one_arena_with_room(
    pages: tuple[int, ...], variables: int, message: str
) -> None:
    _fails(*_with_arenas(*pages, variables=variables), message)


def test_line_records_move_with_their_function() -> None:
    pool = StringPool()
    ext = write_btf_ext(
        pool,
        funcs={"p": [(0, 2)], ".text": [(8, 3)]},
        lines={
            "p": [(0, "m.c", "main", 1, 2)],
            ".text": [(0, "t.c", "x", 3, 4), (8, "t.c", "y", 5, 6)],
        },
    )
    btf = Btf.of([FuncProto(0), Func("main", 1, 1), Func("sub", 1, 0)])
    sections = [
        Sec(".text", _code(EXIT, EXIT), CODE),
        Sec("p", _code(CALL, EXIT), CODE, relocations=[Rel(0, R_BPF_64_32, "sub")]),
        Sec(".BTF", write_btf(btf, strings=pool), 0),
        Sec(".BTF.ext", ext, 0),
    ]
    symbols = [
        Sym("other", ".text", 0, 8, FUNC, LOCAL),
        Sym("sub", ".text", 8, 8, FUNC, LOCAL),
        Sym("main", "p", 0, 16),
    ]
    (program,) = _load(sections, symbols).programs
    assert {pc: (line.text, line.line) for pc, line in program.lines.items()} == {
        0: ("main", 1),
        2: ("y", 5),
    }
    assert [(s.name, s.btf_type_id) for s in program.subprogs] == [("main", 2), ("sub", 3)]


# -- what is malformed ---------------------------------------------------------------------------

MAIN = [Sym("main", "p", 0, 16)]


@pytest.mark.parametrize(
    ("sections", "symbols", "message"),
    [
        ([Sec("p", bytes(12), CODE)], [Sym("main", "p", 0, 8)], "no whole number of instructions"),
        ([Sec("p", b"\xff" * 16, CODE)], MAIN, "section p, offset 0x0 (main)"),
        ([Sec("p", _code(EXIT), CODE)], MAIN, "goes past the section's end"),
        (
            [Sec("p", _code(EXIT, EXIT), CODE)],
            [*MAIN, Sym("inside", "p", 8, 8)],
            "function inside overlaps main",
        ),
        ([Sec("p", _code(EXIT, EXIT), CODE)], [Sym("main", "p", 4, 8)], "not whole instructions"),
        (
            [Sec("p", _code(LDDW), CODE)],
            [Sym("main", "p", 0, 8), Sym("b", "p", 8, 8)],
            "section p, offset 0x0",
        ),
        (
            [Sec("p", _code(Insn(SPECS["call_local"], imm=5), EXIT), CODE)],
            MAIN,
            "offset 0x30 of section p, where no function begins",
        ),
        (
            [Sec("p", _code(CALL, EXIT), CODE, relocations=[Rel(0, R_BPF_64_64, "main")])],
            MAIN,
            "relocation of type 1 on call_local",
        ),
        (
            [Sec("p", _code(CALL, EXIT), CODE, relocations=[Rel(4, R_BPF_64_32, "main")])],
            MAIN,
            "a relocation inside an instruction",
        ),
        (
            [Sec("p", _code(CALL, EXIT), CODE, relocations=[Rel(0, R_BPF_64_32, "v")]),
             Sec(".data", bytes(8), ALLOC | WRITE)],
            [*MAIN, Sym("v", ".data", 0, 8, OBJECT)],
            "which is no code",
        ),
        (
            [Sec("p", _code(LDDW, EXIT), CODE, relocations=[Rel(0, R_BPF_64_64, "v")]),
             Sec("license", bytes(8), ALLOC | WRITE)],
            [Sym("main", "p", 0, 24), Sym("v", "license", 0, 8, OBJECT)],
            "'v' + 0x0 is no map, variable or function",
        ),
        (
            [Sec("p", _code(LDDW, EXIT), CODE, relocations=[Rel(0, R_BPF_64_64, "v", 99)]),
             Sec(".data", bytes(8), ALLOC | WRITE)],
            [Sym("main", "p", 0, 24), Sym("v", ".data", 0, 8, OBJECT)],
            "offset 0x63 lies outside section .data",
        ),
        ([Sec("p", _code(EXIT, EXIT), CODE)], [Sym("main", "p", 99, 8)], "past the end of section"),
        (
            [Sec("p", _code(EXIT, EXIT), CODE), Sec("q", _code(EXIT, EXIT), CODE)],
            [*MAIN, Sym("main", "q", 0, 16)],
            "a second program main",
        ),
        ([Sec("d", bytes(16), ALLOC)], [Sym("f", "d", 0, 8)], "function f outside the code"),
        ([Sec(".bss", b"", ALLOC | WRITE, SHT_NOBITS, size=1 << 40)], [], "data sections of more"),
        ([Sec("license", b"x" * 200, ALLOC)], [], "licence of more than 128 bytes"),
        ([Sec("maps", bytes(20), ALLOC)], [], "for 0 map symbols"),
        ([Sec("maps", bytes(16), ALLOC)], [Sym("m", "maps", 0, 16, OBJECT)], "records of 16 bytes"),
        (
            [Sec("maps", bytes(20) + b"\1" + bytes(3), ALLOC)],
            [Sym("m", "maps", 0, 24, OBJECT)],
            "section maps, offset 0x14: map m sets fields beyond the known ones",
        ),
        (
            [Sec("maps", bytes(40), ALLOC)],
            [Sym("m", "maps", 0, 20, OBJECT), Sym("n", "maps", 4, 20, OBJECT)],
            "section maps, offset 0x14: no symbol names this map record",
        ),
        ([Sec(".maps", bytes(8), ALLOC | WRITE)], [], "there is no BTF"),
        ([Sec(".BTF", bytes(40), 0)], [], "section .BTF, offset 0x0: no BTF"),
        ([Sec("p", _code(EXIT), CODE | 0x800)], [], "a compressed section"),
        (
            [Sec("p", _code(Insn(SPECS["goto"], off=5), EXIT), CODE)],
            MAIN,
            "goto leads to slot 6 of function main, where no instruction begins",
        ),
    ],
)  # fmt: skip
def test_malformed_objects(sections: list[Sec], symbols: list[Sym], message: str) -> None:
    _fails(sections, symbols, message)


def _maps_btf(definition: Sequence[Member], extra: Sequence[BtfType] = ()) -> bytes:
    """BTF of one map variable `m`; ids: 1 int, 2 int *, 3 int[2], 4 int (*)[2], 5 the struct."""
    types: list[BtfType] = [
        Int("int", 4, 32, signed=True),
        Ptr(1),
        Array(1, 1, 2),
        Ptr(3),
        Struct("", 8 * len(definition), tuple(definition)),
        Var("m", 5, 1),
        Datasec(".maps", 32, (SectionVar(6, 0, 32),)),
        *extra,
    ]
    return write_btf(Btf.of(types))


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        ([Member("type", 1, 0)], "type is not declared as int (*type)[N]"),
        ([Member("type", 2, 0)], "type is not declared as int (*type)[N]"),
        ([Member("key", 1, 0)], "key is not declared as a pointer"),
        ([Member("surprise", 4, 0)], "unknown member 'surprise'"),
        ([Member("key", 2, 0), Member("key_size", 4, 64)], "key_size is 2, but its type has 4"),
        ([Member("values", 4, 0)], "values is not declared as an array"),
        ([Member("values", 8, 0)], "a map of type 0 can not declare values"),
    ],
)
def test_malformed_map_definitions(definition: list[Member], message: str) -> None:
    btf = _maps_btf(definition, [Array(9, 1, 1), Ptr(10), Struct("i", 0)])
    _fails(
        [Sec(".maps", bytes(32), ALLOC | WRITE), Sec(".BTF", btf, 0)],
        [Sym("m", ".maps", 0, 32, OBJECT)],
        message,
    )


def test_maps_within_maps_within_maps_are_refused() -> None:
    inner = Struct("i", 8, (Member("values", 8, 0),))
    btf = _maps_btf(
        [Member("type", 12, 0), Member("values", 8, 64)],
        [Array(9, 1, 1), Ptr(10), inner, Array(1, 1, MapType.ARRAY_OF_MAPS), Ptr(11)],
    )
    _fails(
        [Sec(".maps", bytes(32), ALLOC | WRITE), Sec(".BTF", btf, 0)],
        [Sym("m", ".maps", 0, 32, OBJECT)],
        "map m.inner: unknown member 'values'",
    )


GOOD = write_elf([Sec("p", _code(EXIT, EXIT), CODE)], MAIN)


def _edit(offset: int, form: str, *values: int) -> bytes:
    edited = bytearray(GOOD)
    struct.pack_into(form, edited, offset, *values)
    return bytes(edited)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not an ELF object"),
        (b"#!/bin/sh\n", "not an ELF object"),
        (GOOD[:40], "inside its ELF header"),
        (_edit(4, "B", 1), "ELF class 1"),
        (_edit(5, "B", 3), "byte order 3"),
        (_edit(18, "<H", 62), "for machine 62"),
        (_edit(16, "<H", 3), "ELF type 3"),
        (_edit(40, "<Q", 1 << 60), "section headers at 0x1000000000000000"),
        (_edit(58, "<H", 40), "section headers of 40 bytes"),
        (_edit(60, "<H", 0), "0 section headers"),
        (_edit(60, "<H", 0xFFFF), "65535 section headers"),
        (_edit(62, "<H", 77), "section names in section 77"),
        (GOOD[:-8], "lie beyond the end of the file"),
    ],
)
def test_malformed_headers(data: bytes, message: str) -> None:
    with pytest.raises(InputError, match=r"^x\.o") as caught:
        load(data, name="x.o")
    assert message in str(caught.value)


def test_files_that_can_not_be_read() -> None:
    for path in ("/nonexistent/x.o", "/", "nul\0.o"):
        with pytest.raises(InputError, match="can not be read"):
            load(path)


def test_externs_without_btf_are_found_by_their_symbols() -> None:
    obj = _load(
        [Sec("p", _code(LDDW, EXIT), CODE, relocations=[Rel(0, R_BPF_64_64, "jiffies")])],
        [Sym("main", "p", 0, 24), Sym("jiffies", "", 0, 0, NOTYPE)],
    )
    assert obj.programs == ()
    assert obj.unsupported == (
        "program main is left out: it uses extern variable jiffies; without BTF nothing says what "
        "that is (compile with -g)",
        "extern jiffies: a variable or function of the kernel",
    )


def test_long_functions_are_decoded_piece_by_piece() -> None:
    # One slot before 9000 lddw: a piece of an even number of slots would end inside one.
    insns = [EXIT, *[Insn(SPECS["lddw"], 1, imm=i << 30) for i in range(9000)], EXIT]
    code = _code(*insns)
    (program,) = _load([Sec("p", code, CODE)], [Sym("main", "p", 0, len(code))]).programs
    assert program.insns == tuple(insns)

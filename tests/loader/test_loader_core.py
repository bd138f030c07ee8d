"""CO-RE: each kind against another version of the types (data/core_target.c), and what fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from pybpfvm.btf.ext import BtfExt, CoreKind, CoreRelocation
from pybpfvm.btf.types import (
    Array,
    Btf,
    BtfType,
    Const,
    Enum,
    EnumValue,
    FuncProto,
    Fwd,
    Int,
    Member,
    Param,
    Ptr,
    Struct,
    Typedef,
    Union,
)
from pybpfvm.errors import InputError
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import Kind, MemSize
from pybpfvm.isa.table import SPECS
from pybpfvm.loader import load
from pybpfvm.loader.core import CoreResolver
from pybpfvm.loader.core_match import TypeMatcher
from pybpfvm.loader.elf import read_elf
from pybpfvm.program import POISON_CORE, BpfObject, Program
from tests.support.elf_writer import ALLOC, EXEC, Sec, write_elf

DATA = Path(__file__).parent / "data"


def _answers(obj: BpfObject) -> dict[str, str]:
    """What was asked -> what came out."""
    lines = [line.split(": ", 2)[2] for line in obj.relocations if "section socket/" in line]
    answers: dict[str, str] = {}
    for line in lines:
        asked, answer = line.split(" = " if " = " in line else ": ", 1)
        answers[asked] = answer
    return answers


# Worked out by hand from core_target.c: offsets of a C compiler for a 64-bit machine.
EXPECTED = {
    "FIELD_BYTE_OFFSET thing.wide": 40,
    "FIELD_BYTE_OFFSET thing.inners[2].b": 64 + 2 * 16 + 12,
    "FIELD_BYTE_OFFSET thing.array[5]": 48 + 5,
    "FIELD_BYTE_OFFSET thing.inside": 144 + 8,
    "FIELD_BYTE_OFFSET thing[2].narrow": 2 * 176 + 12,
    "FIELD_BYTE_OFFSET thing.small": 160,
    "FIELD_BYTE_SIZE thing.narrow": 4,
    "FIELD_BYTE_SIZE thing.array": 16,
    "FIELD_BYTE_SIZE thing.pointer": 8,
    "FIELD_BYTE_SIZE thing.small": 4,
    "FIELD_EXISTS thing.gone": 0,
    "FIELD_EXISTS thing.narrow": 1,
    "FIELD_EXISTS thing___other.renamed": 0,
    "FIELD_SIGNED thing.wide": 1,
    "FIELD_SIGNED thing.narrow": 0,
    "FIELD_SIGNED thing.small": 1,
    "FIELD_RSHIFT_U64 thing.small": 64 - 13,
    "FIELD_RSHIFT_U64 thing.flag": 64 - 3,
    "TYPE_EXISTS thing": 1,
    "TYPE_EXISTS missing": 0,
    "TYPE_EXISTS number": 1,
    "TYPE_EXISTS callback": 1,
    "TYPE_SIZE thing": 176,
    "TYPE_SIZE missing": 0,
    "TYPE_MATCHES inner": 1,
    "TYPE_MATCHES thing": 0,  # `gone` is gone
    "TYPE_MATCHES forms": 1,
    "TYPE_MATCHES colour": 0,  # no PINK
    "TYPE_MATCHES callback": 1,
    "TYPE_ID_TARGET missing": 0,
    "ENUMVAL_EXISTS colour::RED": 1,
    "ENUMVAL_EXISTS colour::PINK": 0,
    "ENUMVAL_VALUE colour::GREEN": 50,
    "ENUMVAL_VALUE colour::BLUE": -70,
    "ENUMVAL_VALUE big::HUGE_ONE": 0x9876543210,
    "ENUMVAL_EXISTS big::OTHER": 1,
}
# A bitfield is shifted left by what lies above it in its unit of 4 bytes, plus the upper half.
LSHIFT = {False: {"flag": 64 - 3, "small": 64 - 13 - 12}, True: {"flag": 32, "small": 32 + 12}}


@pytest.mark.parametrize("big", [False, True])
def test_every_kind_is_answered(big: bool) -> None:
    suffix = ".be.o" if big else ".o"
    target = load(DATA / f"core_target{suffix}").btf
    assert target is not None
    answers = _answers(load(DATA / f"core{suffix}", target_btf=target))
    assert {asked: int(answers[asked]) for asked in EXPECTED} == EXPECTED
    for field, shift in LSHIFT[big].items():
        assert int(answers[f"FIELD_LSHIFT_U64 thing.{field}"]) == shift
    assert int(answers["TYPE_ID_TARGET thing"]) == target.find("thing")
    assert "TYPE_ID_LOCAL thing" in answers
    assert {CoreKind[asked.split()[0]] for asked in answers} == set(CoreKind)


def _accesses(program: Program) -> list[tuple[Kind, MemSize | None, int]]:
    return [
        (insn.spec.kind, insn.spec.size, insn.off)
        for insn in program.insns
        if insn.spec.kind in (Kind.LDX, Kind.STX, Kind.ST)
    ]


def test_loads_and_stores_follow_the_field_and_its_width() -> None:
    target = load(DATA / "core_target.o").btf
    program = load(DATA / "core.o", target_btf=target).program("accesses")
    # narrow grew from 2 to 4 bytes, first from 4 to 8.
    assert sorted(_accesses(program), key=str) == sorted(
        [
            (Kind.LDX, MemSize.DW, 0),
            (Kind.LDX, MemSize.W, 12),
            (Kind.LDX, MemSize.W, 64 + 16 + 4),
            (Kind.LDX, MemSize.W, 152),
            (Kind.STX, MemSize.DW, 0),
            (Kind.STX, MemSize.W, 12),
        ],
        key=str,
    )


def test_what_has_no_answer_becomes_a_call_of_nothing() -> None:
    target = load(DATA / "core_target.o").btf
    obj = load(DATA / "core.o", target_btf=target)
    calls = [i.imm for i in obj.program("poison").insns if i.spec.kind is Kind.CALL]
    assert calls == [POISON_CORE] == [195896080]
    assert any("thing.gone: unresolved" in line for line in obj.relocations)


def test_without_any_target_only_existence_is_answered_by_no() -> None:
    obj = load(DATA / "core.o", target_btf=lambda name: None)
    assert all(
        "unresolved, there is no target BTF" in line or "TYPE_ID_LOCAL" in line
        for line in obj.relocations
        if "section socket/" in line
    )


def test_types_of_ring_programs_are_the_abis_whatever_kernel_runs() -> None:
    asked: list[str] = []

    def target(name: str) -> Btf | None:
        asked.append(name)
        return None

    load(DATA / "core_kernel.o", target_btf=target)
    assert set(asked) == {"task_struct", "bpf_prog_type", "list_head"}


# -- small worlds: one relocation of one instruction -----------------------------------------------

INT = Int("int", 4, 32, signed=True)
U32 = Int("u32", 4, 32)
U64 = Int("u64", 8, 64)
LOCAL = Btf.of([INT, Struct("s", 8, (Member("a", 1, 0), Member("b", 1, 32))), U32, U64])


def _resolve(
    insn: Insn,
    target: list[BtfType],
    *,
    access: str = "0:1",
    kind: CoreKind = CoreKind.FIELD_BYTE_OFFSET,
    type_id: int = 2,
    local: Btf = LOCAL,
) -> tuple[tuple[Insn, ...], str]:
    """(instructions, note) for one relocation at the only instruction."""
    elf = read_elf(write_elf([Sec("p", bytes(16), ALLOC | EXEC)], []), "x.o")
    ext = BtfExt(relocations={"p": (CoreRelocation(0, type_id, access, kind),)})
    resolver = CoreResolver(elf, local, ext, lambda name: Btf.of(target, where="target"))
    patched = resolver.patch(1, 0, insn)
    return patched, resolver.notes[0] if resolver.notes else ""


LOAD = Insn(SPECS["ldxw"], 1, 2, 4)


def _struct(*members: Member, name: str = "s", size: int = 16) -> Struct:
    return Struct(name, size, members)


def test_a_field_is_found_inside_anonymous_members() -> None:
    target: list[BtfType] = [
        INT,
        Union("", 8, (Member("z", 1, 0), Member("", 3, 0))),
        Struct("", 8, (Member("q", 1, 0), Member("b", 1, 32))),
        _struct(Member("a", 1, 0), Member("", 2, 64)),
    ]
    patched, note = _resolve(LOAD, target)
    assert patched == (Insn(SPECS["ldxw"], 1, 2, 12),)
    assert note.endswith("s.b = 12")


def test_candidates_must_agree() -> None:
    same = _struct(Member("b", 1, 64))
    patched, _ = _resolve(LOAD, [INT, same, same])
    assert patched[0].off == 8
    patched, note = _resolve(LOAD, [INT, same, _struct(Member("b", 1, 96))])
    assert patched[0].imm == POISON_CORE
    assert "2 types called s in target disagree" in note


def test_a_flavour_of_the_target_is_a_candidate_too() -> None:
    patched, _ = _resolve(LOAD, [INT, _struct(Member("b", 1, 64), name="s___new")])
    assert patched[0].off == 8


def test_a_field_of_another_sort_does_not_count() -> None:
    patched, note = _resolve(LOAD, [INT, Ptr(1), _struct(Member("b", 2, 64))])
    assert patched[0].imm == POISON_CORE
    assert "target has no such field" in note


@pytest.mark.parametrize(
    ("ours", "theirs", "mnemonic"),
    [
        (U32, U64, "ldxdw"),
        (U32, Int("u8", 1, 8), "ldxb"),
        (U32, U32, "ldxw"),
        (INT, Int("long", 8, 64, signed=True), None),
        (U32, Int("u128", 16, 128), None),
    ],
)
def test_the_width_of_a_load_follows_unsigned_integers_only(
    ours: Int, theirs: Int, mnemonic: str | None
) -> None:
    local = Btf.of([ours, _struct(Member("a", 1, 0), Member("b", 1, 32))])
    patched, _ = _resolve(LOAD, [theirs, _struct(Member("b", 1, 64))], local=local)
    if mnemonic is None:
        assert patched[0].imm == POISON_CORE
    else:
        assert patched == (Insn(SPECS[mnemonic], 1, 2, 8),)


def test_an_offset_beyond_16_bits_is_poisoned() -> None:
    patched, note = _resolve(LOAD, [INT, _struct(Member("b", 1, 8 * 40000), size=1 << 20)])
    assert patched[0].imm == POISON_CORE
    assert "40000 does not fit 16 bits" in note


def test_a_poisoned_lddw_stays_two_slots_long() -> None:
    lddw = Insn(SPECS["lddw"], 1, 0, 0, 0)
    enum = Btf.of([Enum("e", 4, (EnumValue("A", 0),))])
    patched, _ = _resolve(
        lddw, [INT], local=enum, type_id=1, access="0", kind=CoreKind.ENUMVAL_VALUE
    )
    assert [insn.imm for insn in patched] == [POISON_CORE] * 2


def test_flexible_arrays_reach_past_their_end() -> None:
    def world(count: int) -> list[BtfType]:
        return [INT, Array(1, 1, count), _struct(Member("n", 1, 0), Member("v", 2, 32), size=4)]

    load9 = Insn(SPECS["ldxw"], 1, 2, 4 + 36)
    patched, _ = _resolve(load9, world(0), local=Btf.of(world(0)), type_id=3, access="0:1:9")
    assert patched == (load9,)
    patched, _ = _resolve(load9, world(5), local=Btf.of(world(0)), type_id=3, access="0:1:9")
    assert patched[0].imm == POISON_CORE


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"access": ""}, "access string"),
        ({"access": "0:-1"}, "access string"),
        ({"access": "0:" + "1:" * 70 + "1"}, "access string"),
        ({"access": "0:2"}, "does not fit type s"),
        ({"access": "0:1:0"}, "does not fit type s"),
        ({"access": "1", "kind": CoreKind.TYPE_SIZE}, "does not fit type s"),
        ({"access": "0", "kind": CoreKind.ENUMVAL_VALUE}, "does not fit type s"),
        ({"type_id": 99}, "type id 99"),
        ({"kind": CoreKind.FIELD_BYTE_SIZE}, "FIELD_BYTE_SIZE on ldxw"),
        ({"access": "0:0"}, "the instruction has 4, the type says 0"),
    ],
)
def test_a_malformed_relocation_is_an_input_error(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        _resolve(LOAD, [INT, _struct(Member("b", 1, 64))], **changes)  # type: ignore[arg-type]
    assert message in str(caught.value)
    assert "x.o: section p, offset 0x0" in caught.value.where


def test_comparing_hostile_types_ends() -> None:
    # A signature whose every parameter is a pointer to the next signature, 60 deep.
    types: list[BtfType] = []
    for depth in range(60):
        types.append(FuncProto(0, tuple(Param("", 2 * depth + 2) for _ in range(50))))
        types.append(Ptr(2 * depth + 3 if depth < 59 else 1))
    btf = Btf.of(types)
    matcher = TypeMatcher(btf, Btf.of(types))
    with pytest.raises(InputError, match="too deeply"):
        matcher.types_compatible(1, 1)
    with pytest.raises(InputError, match="too deeply"):
        matcher.types_match(1, 1)
    # Anonymous structs inside each other, twice each: 2**40 paths to a field that is not there.
    nested: list[BtfType] = [INT]
    for depth in range(40):
        inner = depth + 3 if depth < 39 else 1
        nested.append(_struct(Member("", inner, 0), Member("", inner, 64), name=""))
    nested.append(_struct(Member("", 2, 0)))
    patched, note = _resolve(LOAD, nested)
    assert patched[0].imm == POISON_CORE, note


@pytest.mark.parametrize(
    ("ours", "theirs", "compatible", "matching"),
    [
        ([Ptr(2), Struct("a", 4)], [Ptr(2), Struct("a", 8)], True, True),
        ([Ptr(2), Struct("a", 4)], [Ptr(2), Fwd("a")], False, True),
        ([Ptr(2), Fwd("a")], [Ptr(2), Union("a", 8)], False, False),
        ([Ptr(2), Struct("a", 4)], [Ptr(2), Struct("b", 4)], True, False),
        ([Int("i", 4, 32)], [Int("i", 8, 64)], True, False),
        ([Int("i", 4, 32)], [Int("i", 4, 32, signed=True)], True, False),
        ([Typedef("t", 2), INT], [Const(2), INT], True, True),
        ([FuncProto(0)], [FuncProto(0, (Param("", 0),))], False, False),
        ([Array(2, 2, 3), INT], [Array(2, 2, 4), INT], True, False),
        ([Enum("e", 4, (EnumValue("A", 1),))], [Enum("e", 4)], True, False),
        ([Enum("e", 4)], [Enum("e___2", 4, (EnumValue("A", 1),))], True, True),
        ([INT], [Ptr(0)], False, False),
    ],
)
def test_agreement_of_types(
    ours: list[BtfType], theirs: list[BtfType], compatible: bool, matching: bool
) -> None:
    matcher = TypeMatcher(Btf.of(ours), Btf.of(theirs))
    assert matcher.types_compatible(1, 1) == compatible
    assert TypeMatcher(Btf.of(ours), Btf.of(theirs)).types_match(1, 1) == matching

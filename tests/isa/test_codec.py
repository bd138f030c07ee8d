"""Bytes to instructions and back: identity both ways, reserved fields, targets."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pybpfvm.errors import InputError
from pybpfvm.isa.codec import (
    check_fields,
    check_targets,
    decode,
    encode,
    index_of_pc,
    pcs,
    target_pc,
)
from pybpfvm.isa.insn import Insn, InsnSpec
from pybpfvm.isa.opcodes import Kind, Pseudo
from pybpfvm.isa.table import BY_OPCODE, SPECS, TABLE
from tests.support.insns import insns, programs, samples

EXIT = Insn(SPECS["exit"])
LDDW = Insn(SPECS["lddw"], dst=1, imm=1)


def raw(
    opcode: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0, *, big: int = 0
) -> bytes:
    """One slot, packed by the figure of RFC 9669 section 3.1 and not by the codec."""
    regs = dst << 4 | src if big else src << 4 | dst
    return struct.pack(">BBhi" if big else "<BBhi", opcode, regs, off, imm)


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("spec", TABLE, ids=repr)
def test_each_row_survives_both_byte_orders(spec: InsnSpec, big_endian: bool) -> None:
    for insn in samples(spec):
        data = encode([insn], big_endian=big_endian)
        assert len(data) == 8 * insn.slots
        assert decode(data, big_endian=big_endian) == (insn,)


@settings(deadline=None)
@given(programs(), st.booleans())
def test_decode_of_encode_is_identity(program: list[Insn], big_endian: bool) -> None:
    data = encode(program, big_endian=big_endian)
    assert decode(data, big_endian=big_endian) == tuple(program)


# Fields that are often 0 or a discriminator, so that many of the bytes are legal.
_RAW_SLOT = st.tuples(
    st.integers(0, 255),
    st.one_of(st.just(0), st.integers(0, 15)),
    st.one_of(st.sampled_from((0, 1, 2)), st.integers(0, 15)),
    st.one_of(st.sampled_from((0, 1, 8, 16, 32)), st.integers(-(1 << 15), (1 << 15) - 1)),
    st.one_of(
        st.sampled_from((0, 1, 16, 32, 64, 0x41, 0xE1, 0xF1, 0x100, 0x110)),
        st.integers(-(1 << 31), (1 << 31) - 1),
    ),
)


@settings(max_examples=1500, deadline=None)
@given(st.lists(_RAW_SLOT, min_size=1, max_size=3), st.booleans())
def test_bytes_are_refused_or_come_back_the_same(
    slots: list[tuple[int, int, int, int, int]], big: bool
) -> None:
    data = b"".join(raw(op, dst, src, off, imm, big=big) for op, dst, src, off, imm in slots)
    try:
        decoded = decode(data, big_endian=big)
    except InputError:
        return
    assert encode(decoded, big_endian=big) == data


@pytest.mark.parametrize("opcode", range(256))
def test_every_opcode_alone(opcode: int) -> None:
    """All fields 0 is legal exactly for the opcodes of the table that need no discriminator."""
    data = raw(opcode) * 2  # the second slot serves lddw
    if opcode == SPECS["lddw"].opcode:
        data = raw(opcode) + bytes(8)
    needs_one = not any(
        (row.off_is or 0, row.src_is or 0, row.imm_is or 0) == (0, 0, 0)
        for row in BY_OPCODE.get(opcode, ())
    )
    if needs_one:
        with pytest.raises(InputError):
            decode(data)
    else:
        assert encode(decode(data)) == data


def test_examples_of_the_document() -> None:
    """RFC 9669, section 3.1, shows one instruction in both byte orders."""
    insn = Insn(SPECS["add64_k"], dst=1, imm=0x11223344)
    assert encode([insn]) == bytes.fromhex("0701000044332211")
    assert encode([insn], big_endian=True) == bytes.fromhex("0710000011223344")


@pytest.mark.parametrize("spec", TABLE, ids=repr)
def test_reserved_fields_must_be_zero(spec: InsnSpec) -> None:
    """Each field that the row neither frees nor tells itself apart by is refused when set."""
    values = {
        "dst": 0,
        "src": spec.src_is or 0,
        "off": spec.off_is or 0,
        "imm": spec.imm_is or 0,
    }
    tail = bytes(8) if spec.kind is Kind.LDDW else b""
    assert decode(raw(spec.opcode, **values) + tail)[0].spec is spec
    free = set(spec.fields)
    if spec.mnemonic == "gotol":
        free = {"imm"}  # where its offset lives
    for name in set(values) - free:
        # 0x7000 and 7 are no discriminator of any row.
        wrong = 7 if name in ("dst", "src") else 0x7000
        with pytest.raises(InputError) as caught:
            decode(raw(spec.opcode, **{**values, name: wrong}) + tail, where="x.o: .text")
        assert caught.value.where == "x.o: .text, pc 0"
        assert f"{name} is {wrong}" in caught.value.reason
        assert caught.value.remedy


@pytest.mark.parametrize("spec", TABLE, ids=repr)
def test_registers_above_r10_are_refused(spec: InsnSpec) -> None:
    values = {"src": spec.src_is or 0, "off": spec.off_is or 0, "imm": spec.imm_is or 0}
    tail = bytes(8) if spec.kind is Kind.LDDW else b""
    for name in {"dst", "src"} & spec.fields:
        for number in range(11, 16):
            with pytest.raises(InputError) as caught:
                decode(raw(spec.opcode, **{**values, name: number}) + tail)
            assert str(number) in caught.value.reason


@pytest.mark.parametrize(
    ("data", "where", "reason"),
    [
        (b"\x95", "", "1 bytes"),
        (raw(0x95) + b"\0" * 7, "", "15 bytes"),
        (raw(0x95) + raw(0x18, 1), "pc 1", "without its second slot"),
        (raw(0x18, 1) + raw(0x95), "pc 1", "second slot"),
        (raw(0x18, 1) + raw(0, 1), "pc 1", "second slot"),
        (raw(0x18, 1) + raw(0, 0, 1), "pc 1", "second slot"),
        (raw(0x18, 1) + raw(0, 0, 0, 1), "pc 1", "second slot"),
        (raw(0x18, 1, 7) + raw(0), "pc 0", "src is 7"),
        (raw(0x18, 1, Pseudo.MAP_FD) + raw(0, imm=1), "pc 0", "second slot"),
        (raw(0x18, 1, Pseudo.FUNC) + raw(0, imm=1), "pc 0", "second slot"),
        (raw(0x18, 1, Pseudo.MAP_IDX) + raw(0, imm=-1), "pc 0", "second slot"),
        (raw(0x18, 1) + raw(0) + raw(0x8D), "pc 2", "unknown opcode 0x8d"),
        (raw(0x85, 0, 3), "pc 0", "src is 3"),
        (raw(0xBF, 1, 2, 9), "pc 0", "off is 9"),
        (raw(0xBF, 1, 2, 8, 5), "pc 0", "imm is 5"),
        (raw(0xD4, 1, imm=8), "pc 0", "imm is 8"),
        (raw(0xDB, 1, 2, 0, 0xE0), "pc 0", "imm is 224"),
        (raw(0xD3, 1, 2, 0, 0), "pc 0", "imm is 0"),
    ],
)
def test_what_is_wrong_is_named(data: bytes, where: str, reason: str) -> None:
    with pytest.raises(InputError) as caught:
        decode(data)
    assert caught.value.where == where
    assert reason in caught.value.reason
    assert caught.value.remedy


@pytest.mark.parametrize(
    "insn",
    [
        Insn(SPECS["mov64_k"], dst=11),
        Insn(SPECS["mov64_k"], dst=-1),
        Insn(SPECS["mov64_k"], imm=1 << 31),
        Insn(SPECS["mov64_k"], off=1),
        Insn(SPECS["mov64_k"], src=1),
        Insn(SPECS["goto"], off=1 << 15),
        Insn(SPECS["gotol"], off=1 << 31),
        Insn(SPECS["gotol"], imm=1),
        Insn(SPECS["call"], src=1),
        Insn(SPECS["exit"], imm=1),
        Insn(SPECS["lddw"], imm=-1),
        Insn(SPECS["lddw"], imm=1 << 64),
        Insn(SPECS["lddw"], src=7),
        Insn(SPECS["lddw"], src=Pseudo.MAP_IDX, imm=1 << 32),
        Insn(SPECS["sdiv64_k"], off=1),
    ],
)
def test_encode_refuses_what_does_not_fit(insn: Insn) -> None:
    with pytest.raises(InputError) as caught:
        encode([LDDW, insn])
    assert caught.value.where == "pc 2"
    with pytest.raises(InputError):
        check_fields(insn)


def test_slots() -> None:
    program = (LDDW, EXIT, LDDW, EXIT)
    assert pcs(program) == [0, 2, 3, 5]
    assert index_of_pc(program) == {0: 0, 2: 1, 3: 2, 5: 3}
    assert pcs(()) == []


@pytest.mark.parametrize(
    ("insn", "target"),
    [
        (Insn(SPECS["goto"], off=3), 14),
        (Insn(SPECS["goto"], off=-11), 0),
        (Insn(SPECS["gotol"], off=70_000), 70_011),
        (Insn(SPECS["may_goto"], off=-1), 10),
        (Insn(SPECS["jeq64_k"], off=1, imm=9), 12),
        (Insn(SPECS["jeq32_x"], off=1), 12),
        (Insn(SPECS["call_local"], imm=-2), 9),
        (Insn(SPECS["lddw"], src=Pseudo.FUNC, imm=0xFFFF_FFFF), 10),
        (Insn(SPECS["lddw"], imm=4), None),
        (Insn(SPECS["call"], imm=4), None),
        (Insn(SPECS["call_kfunc"], imm=4, off=2), None),
        (EXIT, None),
    ],
)
def test_target_pc(insn: Insn, target: int | None) -> None:
    assert target_pc(insn, 10) == target


@pytest.mark.parametrize(
    ("insn", "reason"),
    [
        (Insn(SPECS["goto"], off=-2), "leads to pc -1, outside"),
        (Insn(SPECS["goto"], off=4), "leads to pc 5, outside"),
        (Insn(SPECS["goto"], off=2), "leads to pc 3, the middle of an lddw"),
        (Insn(SPECS["jeq64_k"], off=2), "the middle of an lddw"),
        (Insn(SPECS["may_goto"], off=100), "outside"),
        (Insn(SPECS["gotol"], off=1 << 20), "outside"),
        (Insn(SPECS["call_local"], imm=2), "the middle of an lddw"),
        (Insn(SPECS["call_local"], imm=4), "outside"),
    ],
)
def test_targets_must_be_instructions(insn: Insn, reason: str) -> None:
    program = [insn, EXIT, LDDW, EXIT]  # pcs 0, 1, 2, 4
    with pytest.raises(InputError) as caught:
        check_targets(program, where="prog")
    assert reason in caught.value.reason
    assert caught.value.where == "prog, pc 0"


def test_good_targets_pass() -> None:
    func = Insn(SPECS["lddw"], dst=1, src=Pseudo.FUNC, imm=3)  # pc 2 + 1 + 3 = 6
    goto = Insn(SPECS["goto"], off=-1)
    local = Insn(SPECS["call_local"], imm=2)  # pc 1 + 1 + 2 = 4
    check_targets([goto, local, func, EXIT, EXIT, EXIT])
    check_targets([])


@settings(deadline=None)
@given(insns())
def test_instructions_are_values(insn: Insn) -> None:
    (copy,) = decode(encode([insn]))
    assert copy == insn
    assert hash(copy) == hash(insn)

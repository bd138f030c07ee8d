"""The instruction table: complete, unambiguous, and cheap to import."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest

from pybpfvm.isa.insn import InsnSpec
from pybpfvm.isa.opcodes import AluOp, AtomicOp, JmpOp, Kind
from pybpfvm.isa.table import BY_OPCODE, SPECS, TABLE, lookup
from tests.support.insns import samples


def test_mnemonics_are_unique() -> None:
    assert len(SPECS) == len(TABLE)


def test_every_operation_and_kind_has_a_row() -> None:
    ops = {spec.op for spec in TABLE}
    assert ops >= {*AluOp, *JmpOp, *AtomicOp}
    assert {spec.kind for spec in TABLE} == set(Kind)


def test_rows_are_told_apart_by_their_meaning() -> None:
    """The assembler finds rows by these five; two rows alike would shadow each other."""
    meanings = Counter((s.kind, s.op, s.width, s.operand, s.size) for s in TABLE)
    assert [key for key, count in meanings.items() if count > 1] == []


def test_number_of_rows_per_group() -> None:
    """Counted by hand from the sections of RFC 9669 that name the groups.

    base64: 9 binary operations and MOV in two forms, NEG, three MOVSX, three 64-bit swaps;
    22 jumps; LDX, ST, STX of 8 bytes, three MEMSX, LDDW. base32: 20 + NEG + two MOVSX, six
    swaps; 22 jumps; goto, gotol, three calls, exit; nine loads and stores. The division and
    multiplication groups: five operations in two forms.
    """
    assert Counter(spec.group for spec in TABLE) == {
        "base64": 18 + 1 + 3 + 3 + 22 + 3 + 3 + 1,
        "base32": 18 + 1 + 2 + 6 + 22 + 6 + 9,
        "divmul32": 10,
        "divmul64": 10,
        "atomic32": 10,
        "atomic64": 10,
        "packet": 6,
        "linux": 2 + 8,
    }


# Opcode bytes written down from the figures of RFC 9669, independently of the products.
@pytest.mark.parametrize(
    ("mnemonic", "opcode", "off_is", "src_is", "imm_is"),
    [
        ("add32_k", 0x04, None, None, None),
        ("add64_x", 0x0F, None, None, None),
        ("sub64_k", 0x17, None, None, None),
        ("mul32_x", 0x2C, None, None, None),
        ("div64_k", 0x37, None, None, None),
        ("sdiv64_k", 0x37, 1, None, None),
        ("or32_k", 0x44, None, None, None),
        ("and64_x", 0x5F, None, None, None),
        ("lsh64_k", 0x67, None, None, None),
        ("rsh32_x", 0x7C, None, None, None),
        ("neg32", 0x84, None, None, None),
        ("neg64", 0x87, None, None, None),
        ("smod32_x", 0x9C, 1, None, None),
        ("xor64_k", 0xA7, None, None, None),
        ("mov64_k", 0xB7, None, None, None),
        ("movsx8_32", 0xBC, 8, None, None),
        ("movsx32_64", 0xBF, 32, None, None),
        ("addr_space_cast", 0xBF, 1, None, None),
        ("arsh64_x", 0xCF, None, None, None),
        ("le16", 0xD4, None, None, 16),
        ("be64", 0xDC, None, None, 64),
        ("bswap32", 0xD7, None, None, 32),
        ("goto", 0x05, None, None, None),
        ("gotol", 0x06, None, None, None),
        ("jeq64_k", 0x15, None, None, None),
        ("jgt32_x", 0x2E, None, None, None),
        ("jge64_x", 0x3D, None, None, None),
        ("jset64_k", 0x45, None, None, None),
        ("jne32_k", 0x56, None, None, None),
        ("jsgt64_x", 0x6D, None, None, None),
        ("jsge32_k", 0x76, None, None, None),
        ("jlt64_k", 0xA5, None, None, None),
        ("jle32_x", 0xBE, None, None, None),
        ("jslt64_k", 0xC5, None, None, None),
        ("jsle64_x", 0xDD, None, None, None),
        ("may_goto", 0xE5, None, None, None),
        ("call", 0x85, None, 0, None),
        ("call_local", 0x85, None, 1, None),
        ("call_kfunc", 0x85, None, 2, None),
        ("exit", 0x95, None, None, None),
        ("ldxw", 0x61, None, None, None),
        ("ldxh", 0x69, None, None, None),
        ("ldxb", 0x71, None, None, None),
        ("ldxdw", 0x79, None, None, None),
        ("ldsxw", 0x81, None, None, None),
        ("ldsxb", 0x91, None, None, None),
        ("stdw", 0x7A, None, None, None),
        ("stxb", 0x73, None, None, None),
        ("atomic_add32", 0xC3, None, None, 0x00),
        ("atomic_fetch_xor64", 0xDB, None, None, 0xA1),
        ("atomic_xchg64", 0xDB, None, None, 0xE1),
        ("atomic_cmpxchg32", 0xC3, None, None, 0xF1),
        ("load_acquire_b", 0xD3, None, None, 0x100),
        ("store_release_dw", 0xDB, None, None, 0x110),
        ("lddw", 0x18, None, None, None),
        ("ld_abs_w", 0x20, None, None, None),
        ("ld_abs_b", 0x30, None, None, None),
        ("ld_ind_h", 0x48, None, None, None),
    ],
)
def test_encodings_from_the_document(
    mnemonic: str, opcode: int, off_is: int | None, src_is: int | None, imm_is: int | None
) -> None:
    spec = SPECS[mnemonic]
    assert (spec.opcode, spec.off_is, spec.src_is, spec.imm_is) == (opcode, off_is, src_is, imm_is)


@pytest.mark.parametrize("spec", TABLE, ids=repr)
def test_lookup_finds_each_row(spec: InsnSpec) -> None:
    """No row shadows another, whatever the free fields hold."""
    for insn in samples(spec):
        src = insn.src if spec.src_is is None else spec.src_is
        off = insn.off if spec.off_is is None else spec.off_is
        imm = insn.imm if spec.imm_is is None else spec.imm_is
        assert lookup(spec.opcode, src, off, imm) is spec


def test_unknown_opcodes_have_no_row() -> None:
    """0x8d (call through a register) and 0x99 (sign-extending 64-bit load) are not BPF."""
    for opcode in (0x00, 0x01, 0x8D, 0x86, 0x96, 0x99, 0x8F, 0x8C, 0xDF, 0xE6, 0xED, 0xF7, 0xFF):
        assert opcode not in BY_OPCODE
        assert lookup(opcode, 0, 0, 0) is None


def test_importing_the_table_is_light() -> None:
    """It pulls in no parser, no ctypes, nothing of pybpfvm outside `isa`."""
    code = (
        "import sys; old = {*sys.modules}; import pybpfvm.isa.table; print(*{*sys.modules} - old)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(out.stdout.split())
    assert not {"lark", "ctypes", "pathlib", "elftools"} & modules
    assert {name for name in modules if name.startswith("pybpfvm")} == {
        "pybpfvm",
        "pybpfvm.isa",
        *(f"pybpfvm.isa.{name}" for name in ("insn", "opcodes", "table")),
    }

"""Agreement with Capstone 5 on the rows that it decodes rightly.

Capstone 5 takes rows for others, or knows them not at all: those are in WRONG, and a test keeps
that list honest, so that the day Capstone mends one it can be compared. Big-endian code is left
out altogether: Capstone reads the registers from the wrong halves of their byte there.
"""

from __future__ import annotations

import re

import pytest

from pybpfvm.isa.codec import encode
from pybpfvm.isa.disasm import format_insn
from pybpfvm.isa.insn import Insn, InsnSpec
from pybpfvm.isa.notation import written_mnemonic
from pybpfvm.isa.opcodes import AluOp, AtomicOp, Kind
from pybpfvm.isa.table import TABLE
from tests.support.insns import samples

capstone = pytest.importorskip("capstone", reason="capstone is not installed")


def is_wrong(spec: InsnSpec) -> bool:
    """Rows where Capstone 5 is silently wrong or decodes nothing."""
    return (
        # Printed as the unsigned, the plain or the 64-bit operation that shares the opcode.
        spec.op in (AluOp.SDIV, AluOp.SMOD, AluOp.MOVSX8, AluOp.MOVSX16, AluOp.MOVSX32)
        or spec.kind in (Kind.ADDR_SPACE_CAST, Kind.CALL_LOCAL, Kind.CALL_KFUNC)
        # Every atomic is an exclusive add.
        or (spec.kind is Kind.ATOMIC and spec.op is not AtomicOp.ADD)
        or spec.kind in (Kind.LOAD_ACQ, Kind.STORE_REL)
        # Unknown opcodes.
        or spec.op in (AluOp.BSWAP16, AluOp.BSWAP32, AluOp.BSWAP64)
        or spec.kind in (Kind.LDSX, Kind.MAY_GOTO)
        or (spec.kind in (Kind.JUMP, Kind.GOTO) and spec.width == 32)
    )


WRONG = [spec for spec in TABLE if is_wrong(spec)]
COMPARED = [spec for spec in TABLE if not is_wrong(spec)]


def their_name(spec: InsnSpec) -> str:
    """Capstone's mnemonic for the row."""
    name = written_mnemonic(spec)
    match spec.kind:
        case Kind.ALU if spec.width == 32:
            return name.removesuffix("32")
        case Kind.JUMP:
            return name.removesuffix("64")
        case Kind.GOTO:
            return "jmp"
        case Kind.ATOMIC:
            return "xadddw" if spec.size == 8 else "xaddw"
        case Kind.LD_ABS | Kind.LD_IND:
            return f"ld{name[-1]}"
    return name


def numbers_unsigned(text: str, bits: int) -> str:
    """`text` without spaces, numbers decimal and reduced to `bits` bits, offsets of 0 left out."""

    def reduced(match: re.Match[str]) -> str:
        return f"+{int(match[0].replace(' ', ''), 0) & ((1 << bits) - 1)}"

    number = r"(?:[+-] ?|(?<!\w))(?:0x[0-9a-f]+|\d+)\b"
    return re.sub(number, reduced, text).replace(" ", "").replace("+0]", "]")


def said(insn: Insn) -> str:
    """Capstone's text, "" where it decodes nothing."""
    decoder = capstone.Cs(capstone.CS_ARCH_BPF, capstone.CS_MODE_BPF_EXTENDED)
    return "".join(f"{one.mnemonic} {one.op_str}" for one in decoder.disasm(encode([insn]), 0))


def writes_r10(insn: Insn) -> bool:
    """Capstone decodes none of these; for us that is the verifier's business."""
    return insn.dst == 10 and insn.spec.kind in (Kind.ALU, Kind.LDX, Kind.LDDW)


@pytest.mark.parametrize("spec", COMPARED, ids=repr)
def test_capstone_reads_the_same(spec: InsnSpec) -> None:
    for insn in samples(spec):
        if writes_r10(insn):
            continue
        ours = format_insn(insn, style="mnemonic").replace(
            written_mnemonic(spec), their_name(spec), 1
        )
        # Their offsets are unsigned, and immediates 32 or 64 bits wide as they please.
        bits = 64 if spec.kind is Kind.LDDW else 16 if "off" in spec.fields else 32
        assert numbers_unsigned(ours, bits) == numbers_unsigned(said(insn).rstrip(), bits)


@pytest.mark.parametrize("spec", WRONG, ids=repr)
def test_the_rows_left_out_are_still_wrong(spec: InsnSpec) -> None:
    theirs = said(samples(spec)[0])
    assert theirs.partition(" ")[0] != written_mnemonic(spec)

"""The kernel style of the disassembler against the verifier's own log, row by row."""

from __future__ import annotations

import re

import pytest

from pybpfvm import bpfsys
from pybpfvm.isa.asm import assemble
from pybpfvm.isa.codec import encode
from pybpfvm.isa.disasm import format_program
from pybpfvm.isa.insn import Insn, InsnSpec
from pybpfvm.isa.opcodes import AluOp, Kind
from pybpfvm.isa.table import SPECS, TABLE

REASON = bpfsys.available()
pytestmark = [
    pytest.mark.kernel_bpf,
    pytest.mark.skipif(REASON is not None, reason=f"no bpf(2): {REASON}"),
]

# Needs an arena or the BTF id of a function; their text is fixed by other tests.
LEFT_OUT = {"call_kfunc"}

# Registers and stack that every row can be tried on: r6 = ctx, r1, r2 numbers, fp-8 written.
PROLOGUE = assemble("""
    r6 = r1
    r1 = 3
    r2 = 2
    r0 = 0
    *(u64 *)(r10 - 8) = 0
""")
EPILOGUE = assemble("r0 = 0\nexit\nr0 = 0\nexit")


def trial(spec: InsnSpec) -> list[Insn]:
    """Instructions of this row that the verifier reaches and can go on from."""
    match spec.kind:
        case Kind.ALU:
            imms = (7, -7, 300) if "imm" in spec.fields and spec.op not in _SHIFTS else (3,)
            return [_insn(spec, dst=1, src=2, imm=imm) for imm in imms]
        case Kind.JUMP:
            return [_insn(spec, dst=1, src=2, off=off, imm=imm) for off, imm in ((0, 7), (1, -7))]
        case Kind.GOTO | Kind.MAY_GOTO:
            return [_insn(spec, off=0)]
        case Kind.CALL:
            return [_insn(spec, imm=99_999)]
        case Kind.CALL_LOCAL:
            return [_insn(spec, imm=2)]
        case Kind.LDX | Kind.LDSX | Kind.LOAD_ACQ:
            return [_insn(spec, dst=1, src=10, off=-8)]
        case Kind.ST | Kind.STX | Kind.STORE_REL | Kind.ATOMIC:
            return [_insn(spec, dst=10, src=2, off=-8, imm=imm) for imm in (5, -5)]
        case Kind.LDDW:
            words = (0, 5, 0x1_0000_0000, (1 << 64) - 1)
            return [_insn(spec, dst=1, imm=imm) for imm in words]
        case Kind.ADDR_SPACE_CAST:
            return [_insn(spec, dst=1, src=2, imm=imm) for imm in (1, 1 << 16)]
        case Kind.LD_ABS | Kind.LD_IND:
            return [_insn(spec, src=2, imm=imm) for imm in (0, 7, -7)]
    return [_insn(spec)]


_SHIFTS = (AluOp.LSH, AluOp.RSH, AluOp.ARSH)


def _insn(spec: InsnSpec, **fields: int) -> Insn:
    return Insn(spec, **{name: value for name, value in fields.items() if name in spec.fields})


@pytest.mark.parametrize("spec", [s for s in TABLE if s.mnemonic not in LEFT_OUT], ids=repr)
def test_the_log_says_what_we_say(spec: InsnSpec) -> None:
    pc = sum(insn.slots for insn in PROLOGUE)
    for insn in trial(spec):
        # Local functions need a caller; what follows one must stay reachable.
        tail = EPILOGUE if spec.kind is Kind.CALL_LOCAL else EPILOGUE[:2]
        if spec.kind is Kind.EXIT:
            tail = ()
        program = (*PROLOGUE, insn, *tail)
        with bpfsys.prog_load(
            encode(program), prog_type=bpfsys.PROG_TYPE_SOCKET_FILTER, log_level=2
        ) as result:
            found = re.search(rf"^{pc}: \(.*$", result.log, re.MULTILINE)
        assert found is not None, result.log
        theirs = re.sub(r"\s*;.*$", "", found[0])
        (ours,) = (
            line for line in format_program(program, style="kernel") if line.startswith(f"{pc}:")
        )
        assert ours == theirs


def test_a_whole_log_assembles_to_its_program() -> None:
    """A straight-line program's log, comments and all, is assembly text."""
    program = assemble("""
        r6 = r1
        r1 = 0x123456789 ll
        r2 = 5 ll
        *(u64 *)(r10 - 8) = 7
        lock *(u64 *)(r10 - 8) += r2
        r2 = atomic_fetch_or((u64 *)(r10 - 8), r2)
        r0 = *(u16 *)skb[12]
        call 7
        r0 &= 1
        exit
    """)
    with bpfsys.prog_load(
        encode(program), prog_type=bpfsys.PROG_TYPE_SOCKET_FILTER, log_level=2
    ) as result:
        assert result.accepted, result.log
    lines = [line for line in result.log.splitlines() if re.match(r"\d+: \(", line)]
    assert len(lines) == len(program)
    assert assemble("\n".join(lines)) == program


def test_helper_names_come_from_the_caller() -> None:
    program = (Insn(SPECS["call"], imm=7), *EPILOGUE[:2])
    with bpfsys.prog_load(
        encode(program), prog_type=bpfsys.PROG_TYPE_SOCKET_FILTER, log_level=2
    ) as result:
        theirs = re.search(r"^0: \([^;]*\S(?=\s*;)", result.log, re.MULTILINE)
    assert theirs is not None
    ours = format_program(
        program,
        style="kernel",
        resolve=lambda insn, pc: "bpf_get_prandom_u32" if insn.spec.kind is Kind.CALL else None,
    )
    assert ours[0] == theirs[0]

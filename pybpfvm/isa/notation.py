"""The signs of the pseudo-C form, shared by disassembler and assembler."""

from __future__ import annotations

from pybpfvm.isa.insn import InsnSpec
from pybpfvm.isa.opcodes import AluOp, AtomicOp, JmpOp, MemSize

ALU_SIGN = {
    AluOp.ADD: "+=",
    AluOp.SUB: "-=",
    AluOp.MUL: "*=",
    AluOp.DIV: "/=",
    AluOp.SDIV: "s/=",
    AluOp.OR: "|=",
    AluOp.AND: "&=",
    AluOp.LSH: "<<=",
    AluOp.RSH: ">>=",
    AluOp.MOD: "%=",
    AluOp.SMOD: "s%=",
    AluOp.XOR: "^=",
    AluOp.MOV: "=",
    AluOp.ARSH: "s>>=",
}

CAST = {AluOp.MOVSX8: "s8", AluOp.MOVSX16: "s16", AluOp.MOVSX32: "s32"}

JUMP_SIGN = {
    JmpOp.JEQ: "==",
    JmpOp.JGT: ">",
    JmpOp.JGE: ">=",
    JmpOp.JSET: "&",
    JmpOp.JNE: "!=",
    JmpOp.JSGT: "s>",
    JmpOp.JSGE: "s>=",
    JmpOp.JLT: "<",
    JmpOp.JLE: "<=",
    JmpOp.JSLT: "s<",
    JmpOp.JSLE: "s<=",
}

# The four that are written as statements; the others are written as function calls.
LOCK_SIGN = {AtomicOp.ADD: "+=", AtomicOp.OR: "|=", AtomicOp.AND: "&=", AtomicOp.XOR: "^="}

UNSIGNED_TYPE = {MemSize.B: "u8", MemSize.H: "u16", MemSize.W: "u32", MemSize.DW: "u64"}
SIGNED_TYPE = {MemSize.B: "s8", MemSize.H: "s16", MemSize.W: "s32"}


def written_mnemonic(spec: InsnSpec) -> str:
    """The mnemonic as it stands in text: the operand tells `_k` from `_x` there."""
    return spec.mnemonic.removesuffix("_k").removesuffix("_x")

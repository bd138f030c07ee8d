"""What x86-64 code an instruction becomes, for those that need nothing but registers.

One table for arithmetic, one for conditions, keyed by operation; and the forms of loads, stores
and atomics, which `emit` puts behind the check of their address.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pybpfvm.bits import U32, U64
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import AluOp, AtomicOp, JmpOp, Operand
from pybpfvm.jit import x86
from pybpfvm.jit.cpu import HAS_BMI2
from pybpfvm.jit.thunks import BPF
from pybpfvm.jit.x86 import (
    ADD,
    AND,
    CDQ,
    CMP,
    CQO,
    LEA,
    LOCK,
    MOV,
    OR,
    R10,
    R11,
    RAX,
    RCX,
    RDX,
    RSP,
    SUB,
    TEST,
    XCHG,
    XOR,
    digit,
    group,
    imm32,
    mov_imm,
    pop,
    push,
    rm,
    rr,
    shift_by,
    shift_cl,
    shift_imm,
)

Template = Callable[[Insn, int, bool], bytes]

_GROUP = {AluOp.ADD: ADD, AluOp.SUB: SUB, AluOp.OR: OR, AluOp.AND: AND, AluOp.XOR: XOR}
_SHIFTS = {AluOp.LSH: x86.SHL, AluOp.RSH: x86.SHR, AluOp.ARSH: x86.SAR}
_SIGN_EXTEND = {AluOp.MOVSX8: 0x0FBE, AluOp.MOVSX16: 0x0FBF, AluOp.MOVSX32: 0x63}


def _two_operands(insn: Insn, dst: int, wide: bool) -> bytes:
    op = _GROUP[insn.spec.op]  # type: ignore[index]
    if insn.spec.operand is Operand.X:
        return rr(op, dst, BPF[insn.src], wide)
    return group(op, dst, insn.imm, wide)


def _mov(insn: Insn, dst: int, wide: bool) -> bytes:
    if insn.spec.operand is Operand.X:
        return rr(MOV, dst, BPF[insn.src], wide)
    return mov_imm(dst, insn.imm & (U64 if wide else U32))


def _movsx(insn: Insn, dst: int, wide: bool) -> bytes:
    op = insn.spec.op
    byte = op is AluOp.MOVSX8
    return rr(_SIGN_EXTEND[op], dst, BPF[insn.src], wide, byte=byte)  # type: ignore[index]


def _mul(insn: Insn, dst: int, wide: bool) -> bytes:
    if insn.spec.operand is Operand.X:
        return rr(0x0FAF, dst, BPF[insn.src], wide)
    return rr(0x69, dst, dst, wide) + imm32(insn.imm)


def _neg(_: Insn, dst: int, wide: bool) -> bytes:
    return digit(0xF7, x86.NEG, dst, wide)


def _shift(insn: Insn, dst: int, wide: bool) -> bytes:
    kind = _SHIFTS[insn.spec.op]  # type: ignore[index]
    if insn.spec.operand is Operand.K:
        count = insn.imm & (63 if wide else 31)
        # By 0 the manual leaves open whether the upper half becomes 0.
        return shift_imm(kind, dst, count, wide) if count or wide else rr(MOV, dst, dst, False)
    src = BPF[insn.src]
    if HAS_BMI2:
        return shift_by(kind, dst, src, wide)
    # The count must be in CL. r11 holds what is shifted, r10 keeps rcx.
    shifted = rr(MOV, R11, dst, wide) + rr(MOV, R10, RCX) + rr(MOV, RCX, src, False)
    shifted += shift_cl(kind, R11, wide) + (b"" if wide else rr(MOV, R11, R11, False))
    return shifted + rr(MOV, RCX, R10) + rr(MOV, dst, R11)


def _swap(insn: Insn, dst: int, _: bool) -> bytes:
    op = insn.spec.op
    if op in (AluOp.LE16, AluOp.LE32, AluOp.LE64):
        return {
            AluOp.LE16: rr(0x0FB7, dst, dst, False),
            AluOp.LE32: rr(MOV, dst, dst, False),
            AluOp.LE64: b"",
        }[op]
    if op in (AluOp.BE16, AluOp.BSWAP16):
        rotated = b"\x66" + shift_imm(x86.ROR, dst, 8, False)
        return rotated + rr(0x0FB7, dst, dst, False)
    return x86.bswap(dst, op in (AluOp.BE64, AluOp.BSWAP64))


def _skip(condition: int, code: bytes) -> bytes:
    """Jump over `code` on the condition."""
    return bytes((0x70 | condition, len(code))) + code


def _divide(insn: Insn, dst: int, wide: bool) -> bytes:
    """Divisions and remainders: the divisor in r11, rax and rdx kept.

    By zero a division gives 0, a remainder leaves the dividend. By -1 the processor would trap on
    the smallest number, so that is a negation, its remainder 0. RFC 9669, section 4.1.
    """
    op = insn.spec.op
    signed = op in (AluOp.SDIV, AluOp.SMOD)
    remainder = op in (AluOp.MOD, AluOp.SMOD)
    by_zero = (b"" if wide else rr(MOV, dst, dst, False)) if remainder else mov_imm(dst, 0)
    by_minus_1 = mov_imm(dst, 0) if remainder else digit(0xF7, x86.NEG, dst, wide)
    if insn.spec.operand is Operand.K:
        mask = U64 if wide else U32
        if insn.imm & mask == 0:
            return by_zero
        if signed and insn.imm == -1:
            return by_minus_1
        return mov_imm(R11, insn.imm & mask) + _division(dst, wide, signed, remainder)
    out = _division(dst, wide, signed, remainder)
    code = rr(MOV, R11, BPF[insn.src], wide)
    # Built from the end: the division, before it the two cases that must not reach it.
    if signed:
        out = group(CMP, R11, -1, wide) + _branch(x86.NE, by_minus_1, out)
    return code + rr(TEST, R11, R11, wide) + _branch(x86.NE, by_zero, out)


def _branch(condition: int, otherwise: bytes, code: bytes) -> bytes:
    """`code` on the condition, else `otherwise`."""
    over = b"\xeb" + bytes((len(code),)) if len(code) < 128 else b"\xe9" + imm32(len(code))
    return _skip(condition, otherwise + over) + code


def _division(dst: int, wide: bool, signed: bool, remainder: bool) -> bytes:
    code = b""
    if dst != RDX:
        code += rr(MOV, R10, RDX)
    if dst != RAX:
        code += push(RAX) + rr(MOV, RAX, dst, wide)
    if signed:
        code += (CQO if wide else CDQ) + digit(0xF7, x86.IDIV, R11, wide)
    else:
        code += mov_imm(RDX, 0) + digit(0xF7, x86.DIV, R11, wide)
    code += rr(MOV, R11, RDX if remainder else RAX, wide)
    if dst != RAX:
        code += pop(RAX)
    if dst != RDX:
        code += rr(MOV, RDX, R10)
    return code + rr(MOV, dst, R11)


ALU: Mapping[AluOp, Template] = {
    **dict.fromkeys(_GROUP, _two_operands),
    **dict.fromkeys(_SHIFTS, _shift),
    **dict.fromkeys(_SIGN_EXTEND, _movsx),
    **dict.fromkeys((AluOp.DIV, AluOp.SDIV, AluOp.MOD, AluOp.SMOD), _divide),
    **{op: _swap for op in AluOp if op.value.startswith(("le", "be", "bswap"))},
    AluOp.MOV: _mov,
    AluOp.MUL: _mul,
    AluOp.NEG: _neg,
}

CONDITION: Mapping[JmpOp, int] = {
    JmpOp.JEQ: x86.E,
    JmpOp.JNE: x86.NE,
    JmpOp.JSET: x86.NE,
    JmpOp.JGT: x86.A,
    JmpOp.JGE: x86.AE,
    JmpOp.JLT: x86.B,
    JmpOp.JLE: x86.BE,
    JmpOp.JSGT: x86.G,
    JmpOp.JSGE: x86.GE,
    JmpOp.JSLT: x86.L,
    JmpOp.JSLE: x86.LE,
}


def compare(insn: Insn) -> bytes:
    """Set the flags that the jump's condition looks at."""
    wide = insn.spec.width == 64
    dst = BPF[insn.dst]
    if insn.spec.op is JmpOp.JSET:
        if insn.spec.operand is Operand.X:
            return rr(TEST, BPF[insn.src], dst, wide)
        return digit(0xF7, 0, dst, wide) + imm32(insn.imm)
    if insn.spec.operand is Operand.X:
        return rr(CMP, dst, BPF[insn.src], wide)
    if insn.imm == 0:
        return rr(TEST, dst, dst, wide)
    return group(CMP, dst, insn.imm, wide)


# (prefix, opcode, wide, byte register) by size and, for loads, sign.
Form = tuple[bytes, int, bool, bool]
LOADS: Mapping[tuple[int, bool], Form] = {
    (1, False): (b"", 0x0FB6, False, False),
    (2, False): (b"", 0x0FB7, False, False),
    (4, False): (b"", MOV, False, False),
    (8, False): (b"", MOV, True, False),
    (1, True): (b"", 0x0FBE, True, False),
    (2, True): (b"", 0x0FBF, True, False),
    (4, True): (b"", 0x63, True, False),
}
STORES: Mapping[int, Form] = {
    1: (b"", 0x88, False, True),
    2: (b"\x66", 0x89, False, False),
    4: (b"", 0x89, False, False),
    8: (b"", 0x89, True, False),
}
STORES_IMM: Mapping[int, tuple[Form, int]] = {
    1: ((b"", 0xC6, False, False), 1),
    2: ((b"\x66", 0xC7, False, False), 2),
    4: ((b"", 0xC7, False, False), 4),
    8: ((b"", 0xC7, True, False), 4),
}

_LOCKED = {AtomicOp.ADD: 0x01, AtomicOp.OR: 0x09, AtomicOp.AND: 0x21, AtomicOp.XOR: 0x31}
_LOOPED = {AtomicOp.FETCH_OR: OR, AtomicOp.FETCH_AND: AND, AtomicOp.FETCH_XOR: XOR}


def atomic(insn: Insn) -> bytes:
    """The operation on the memory at r10."""
    op = insn.spec.op
    wide = insn.spec.size == 8
    src = BPF[insn.src]
    if op in _LOCKED:
        return LOCK + rm(_LOCKED[op], src, R10, 0, wide)
    if op is AtomicOp.FETCH_ADD:
        return LOCK + rm(0x0FC1, src, R10, 0, wide)
    if op is AtomicOp.XCHG:
        return rm(XCHG, src, R10, 0, wide)
    if op is AtomicOp.CMPXCHG:
        # When they are equal a narrow exchange leaves the upper half of rax.
        return LOCK + rm(0x0FB1, src, R10, 0, wide) + (b"" if wide else rr(MOV, RAX, RAX, False))
    operation = _LOOPED[op]  # type: ignore[index]
    # The comparand must be in rax, which is kept on the native stack.
    change = rm(operation, R11, RSP, 0, wide) if src == RAX else rr(operation, R11, src, wide)
    loop = rr(MOV, R11, RAX, wide) + change + LOCK + rm(0x0FB1, R11, R10, 0, wide)
    loop += bytes((0x75, (-len(loop) - 2) & 0xFF))
    code = push(RAX) + rm(MOV, RAX, R10, 0, wide) + loop
    if src == RAX:
        return code + rm(LEA, RSP, RSP, 8)
    return code + rr(MOV, src, RAX, wide) + pop(RAX)

"""Bytes to instructions and back, driven by the table. RFC 9669, section 3.

    little-endian   opcode | src:4 dst:4 | off:16 | imm:32      (the high nibble first)
    big-endian      opcode | dst:4 src:4 | off:16 | imm:32

Decoding checks what one instruction can show: a legal encoding, registers r0 to r10, reserved
fields 0. `check_targets` checks where jumps and calls lead. The rest is for verification: writes
to r10, division by a constant 0, shifts by more than the width, running past the end.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from pybpfvm.bits import s32, u32
from pybpfvm.errors import InputError
from pybpfvm.isa.insn import Insn, InsnSpec
from pybpfvm.isa.opcodes import REGISTERS, Kind, Pseudo
from pybpfvm.isa.table import BY_OPCODE, lookup

SLOT_BYTES = 8

# What is named by the low imm alone; the second slot's imm is then reserved.
_LOW_IMM_ONLY = frozenset({Pseudo.MAP_FD, Pseudo.FUNC, Pseudo.MAP_IDX})

_LIMITS = {
    "dst": (0, REGISTERS - 1),
    "src": (0, REGISTERS - 1),
    "off": (-(1 << 15), (1 << 15) - 1),
    "imm": (-(1 << 31), (1 << 31) - 1),
}
_WIDE_OFF = (-(1 << 31), (1 << 31) - 1)
_WIDE_IMM = (0, (1 << 64) - 1)


def decode(data: bytes, *, big_endian: bool = False, where: str = "") -> tuple[Insn, ...]:
    """The instructions in `data`.

    Raises InputError naming `where`, the pc and the field for anything that is not a legal
    encoding. `encode` of the result gives `data` again.
    """
    if len(data) % SLOT_BYTES:
        raise InputError(
            f"{len(data)} bytes of instructions, not a multiple of {SLOT_BYTES}",
            where=where,
            remedy="the code is truncated or is not BPF",
        )
    slots = list(struct.iter_unpack(">BBhi" if big_endian else "<BBhi", data))
    insns: list[Insn] = []
    pc = 0
    while pc < len(slots):
        insn = _decode_one(slots, pc, big_endian, where)
        insns.append(insn)
        pc += insn.slots
    return tuple(insns)


def encode(insns: Sequence[Insn], *, big_endian: bool = False) -> bytes:
    """The bytes of `insns`.

    Raises InputError naming the pc and the field if a field does not fit its encoding or is
    not 0 although the row does not use it. `decode` of the result gives `insns` again.
    """
    layout = struct.Struct(">BBhi" if big_endian else "<BBhi")
    out = bytearray()
    for insn in insns:
        spec = insn.spec
        check_fields(insn, where=f"pc {len(out) // SLOT_BYTES}")
        src = insn.src if spec.src_is is None else spec.src_is
        regs = insn.dst << 4 | src if big_endian else src << 4 | insn.dst
        off = insn.off if spec.off_is is None else spec.off_is
        imm = insn.imm if spec.imm_is is None else spec.imm_is
        if spec.kind is Kind.GOTO and spec.width == 32:
            off, imm = 0, insn.off
        out += layout.pack(spec.opcode, regs, off, s32(imm))
        if spec.kind is Kind.LDDW:
            out += layout.pack(0, 0, 0, s32(insn.imm >> 32))
    return bytes(out)


def check_fields(insn: Insn, *, where: str = "") -> None:
    """Raises InputError unless each field of `insn` is in range for its row."""
    spec = insn.spec
    for name, (low, high) in _LIMITS.items():
        value = getattr(insn, name)
        if name not in spec.fields:
            if value != 0:
                raise InputError(
                    f"{spec.mnemonic} does not use {name}, but it is {value}",
                    where=where,
                    remedy=f"set {name} to 0",
                )
            continue
        if name == "off" and spec.kind is Kind.GOTO and spec.width == 32:
            low, high = _WIDE_OFF
        elif name == "imm" and spec.kind is Kind.LDDW:
            low, high = _WIDE_IMM
        if not low <= value <= high:
            raise InputError(
                f"{spec.mnemonic}: {name} is {value}",
                where=where,
                remedy=f"{name} must lie between {low} and {high}",
            )
    if spec.kind is Kind.LDDW:
        _check_pseudo(insn.src, insn.imm >> 32, where)


def pcs(insns: Sequence[Insn]) -> list[int]:
    """The pc (in 8-byte slots) of each instruction, in order."""
    result = []
    pc = 0
    for insn in insns:
        result.append(pc)
        pc += insn.slots
    return result


def index_of_pc(insns: Sequence[Insn]) -> dict[int, int]:
    """The list index of the instruction that starts at each pc; second slots have no entry."""
    return {pc: index for index, pc in enumerate(pcs(insns))}


def target_pc(insn: Insn, pc: int) -> int | None:
    """The pc that `insn` at `pc` names: of a jump, a local call, or `lddw` of a function.

    None for every other instruction. The result may lie outside the program.
    """
    match insn.spec.kind:
        case Kind.JUMP | Kind.GOTO | Kind.MAY_GOTO:
            return pc + 1 + insn.off
        case Kind.CALL_LOCAL:
            return pc + 1 + insn.imm
        case Kind.LDDW if insn.src == Pseudo.FUNC:
            # Relative to the first slot, as a call's imm would be. RFC 9669, section 5.4.
            return pc + 1 + s32(insn.imm)
    return None


def check_targets(insns: Sequence[Insn], *, where: str = "") -> None:
    """Raises InputError if a jump, call or function address leads anywhere but to an instruction.

    That is outside the program, or into the second slot of an `lddw`.
    """
    starts = pcs(insns)
    valid = set(starts)
    end = starts[-1] + insns[-1].slots if insns else 0
    for pc, insn in zip(starts, insns, strict=True):
        target = target_pc(insn, pc)
        if target is None or target in valid:
            continue
        inside = 0 <= target < end
        raise InputError(
            f"{insn.spec.mnemonic} leads to pc {target}, "
            + ("the middle of an lddw" if inside else f"outside the program (0 to {end - 1})"),
            where=_at(where, pc),
            remedy="offsets count 8-byte slots from the next instruction, and an lddw has two",
        )


def _decode_one(
    slots: list[tuple[int, int, int, int]], pc: int, big_endian: bool, where: str
) -> Insn:
    opcode, regs, off, imm = slots[pc]
    dst, src = (regs >> 4, regs & 0xF) if big_endian else (regs & 0xF, regs >> 4)
    spec = lookup(opcode, src, off, imm)
    if spec is None:
        raise _no_such_row(opcode, src, off, imm, _at(where, pc))
    fields = spec.fields
    if spec.kind is Kind.LDDW:
        if off != 0:
            raise _reserved(spec, "off", off, 0, _at(where, pc))
        if dst >= REGISTERS:
            raise _bad_register("dst", dst, _at(where, pc))
        high = _second_slot(slots, pc, where)
        _check_pseudo(src, high, _at(where, pc))
        return Insn(spec, dst, src, 0, high << 32 | u32(imm))
    if "dst" in fields:
        if dst >= REGISTERS:
            raise _bad_register("dst", dst, _at(where, pc))
    elif dst != 0:
        raise _reserved(spec, "dst", dst, 0, _at(where, pc))
    if "src" in fields:
        if src >= REGISTERS:
            raise _bad_register("src", src, _at(where, pc))
    elif src != (spec.src_is or 0):
        raise _reserved(spec, "src", src, spec.src_is or 0, _at(where, pc))
    else:
        src = 0
    if spec.kind is Kind.GOTO and spec.width == 32:
        if off != 0:
            raise _reserved(spec, "off", off, 0, _at(where, pc))
        return Insn(spec, 0, 0, imm, 0)
    if "off" not in fields:
        if off != (spec.off_is or 0):
            raise _reserved(spec, "off", off, spec.off_is or 0, _at(where, pc))
        off = 0
    if "imm" not in fields:
        if imm != (spec.imm_is or 0):
            raise _reserved(spec, "imm", imm, spec.imm_is or 0, _at(where, pc))
        imm = 0
    return Insn(spec, dst, src, off, imm)


def _second_slot(slots: list[tuple[int, int, int, int]], pc: int, where: str) -> int:
    """The unsigned imm of an lddw's second slot."""
    if pc + 1 == len(slots):
        raise InputError(
            "lddw without its second slot",
            where=_at(where, pc),
            remedy="an lddw takes 16 bytes: the code is truncated",
        )
    opcode, regs, off, imm = slots[pc + 1]
    if opcode or regs or off:
        raise InputError(
            f"second slot of an lddw has opcode {opcode:#04x}, registers {regs:#04x}, off {off}",
            where=_at(where, pc + 1),
            remedy="all but its imm must be 0",
        )
    return u32(imm)


def _check_pseudo(src: int, high: int, where: str) -> None:
    if src > max(Pseudo):
        raise InputError(
            f"lddw: src is {src}", where=where, remedy=f"src must be 0 to {max(Pseudo):d}"
        )
    if src in _LOW_IMM_ONLY and high:
        raise InputError(
            f"lddw with src {src}: imm of the second slot is {high:#x}",
            where=where,
            remedy="it must be 0 for this kind of source",
        )


def _no_such_row(opcode: int, src: int, off: int, imm: int, where: str) -> InputError:
    """The error for fields that select no row: the opcode, or else a discriminator, is wrong."""
    rows = BY_OPCODE.get(opcode, ())
    if not rows:
        return InputError(
            f"unknown opcode {opcode:#04x}", where=where, remedy="no instruction of BPF has it"
        )
    for name, value, allowed in (
        ("src", src, sorted({row.src_is for row in rows if row.src_is is not None})),
        ("off", off, sorted({row.off_is for row in rows if row.off_is is not None})),
        ("imm", imm, sorted({row.imm_is for row in rows if row.imm_is is not None})),
    ):
        if allowed and value not in allowed:
            return InputError(
                f"opcode {opcode:#04x}: {name} is {value}",
                where=where,
                remedy=f"{name} must be one of {', '.join(map(hex, allowed))}",
            )
    return InputError(f"opcode {opcode:#04x}: no such instruction", where=where)


def _reserved(spec: InsnSpec, field: str, value: int, want: int, where: str) -> InputError:
    return InputError(
        f"{spec.mnemonic} (opcode {spec.opcode:#04x}): reserved field {field} is {value}",
        where=where,
        remedy=f"it must be {want}",
    )


def _bad_register(field: str, number: int, where: str) -> InputError:
    return InputError(
        f"{field} register r{number} does not exist", where=where, remedy="registers are r0 to r10"
    )


def _at(where: str, pc: int) -> str:
    return f"{where}, pc {pc}" if where else f"pc {pc}"

"""The instruction set: one row per legal encoding, built from short products.

RFC 9669, sections 4 and 5 and its appendix, with every conformance group, plus what only Linux
documents (group "linux"): load-acquire, store-release, may_goto and addr_space_cast.
Decoder, encoder, disassembler, assembler and the reference page all read these rows; no other
module writes an opcode number.

    opcode   7 6 5 4 | 3 | 2 1 0        ALU, ALU64, JMP, JMP32: operation, source, class
             7 6 5 | 4 3 | 2 1 0        LD, LDX, ST, STX: mode, size, class

The mnemonic of a row ends in `_k` or `_x` where an immediate and a register form exist.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from pybpfvm.isa.insn import InsnSpec
from pybpfvm.isa.opcodes import AluOp, AtomicOp, JmpOp, Kind, MemSize, Operand

_LD, _LDX, _ST, _STX, _ALU, _JMP, _JMP32, _ALU64 = range(8)

_SOURCE = {Operand.K: 0x00, Operand.X: 0x08}
_SIZE = {MemSize.W: 0x00, MemSize.H: 0x08, MemSize.B: 0x10, MemSize.DW: 0x18}
_IMM, _ABS, _IND, _MEM, _MEMSX, _ATOMIC = (mode << 5 for mode in (0, 1, 2, 3, 4, 6))

_ALU_CODE = {
    AluOp.ADD: 0x00,
    AluOp.SUB: 0x10,
    AluOp.MUL: 0x20,
    AluOp.DIV: 0x30,
    AluOp.OR: 0x40,
    AluOp.AND: 0x50,
    AluOp.LSH: 0x60,
    AluOp.RSH: 0x70,
    AluOp.MOD: 0x90,
    AluOp.XOR: 0xA0,
    AluOp.MOV: 0xB0,
    AluOp.ARSH: 0xC0,
}
_NEG, _END = 0x80, 0xD0
_SIGNED = {AluOp.SDIV: AluOp.DIV, AluOp.SMOD: AluOp.MOD}
_DIVMUL = frozenset({AluOp.MUL, AluOp.DIV, AluOp.SDIV, AluOp.MOD, AluOp.SMOD})
_MOVSX = {AluOp.MOVSX8: 8, AluOp.MOVSX16: 16, AluOp.MOVSX32: 32}
_SWAPS = (
    (_ALU, Operand.K, (AluOp.LE16, AluOp.LE32, AluOp.LE64)),
    (_ALU, Operand.X, (AluOp.BE16, AluOp.BE32, AluOp.BE64)),
    (_ALU64, Operand.K, (AluOp.BSWAP16, AluOp.BSWAP32, AluOp.BSWAP64)),
)

_JMP_CODE = {
    JmpOp.JEQ: 0x10,
    JmpOp.JGT: 0x20,
    JmpOp.JGE: 0x30,
    JmpOp.JSET: 0x40,
    JmpOp.JNE: 0x50,
    JmpOp.JSGT: 0x60,
    JmpOp.JSGE: 0x70,
    JmpOp.JLT: 0xA0,
    JmpOp.JLE: 0xB0,
    JmpOp.JSLT: 0xC0,
    JmpOp.JSLE: 0xD0,
}
_JA, _CALL, _EXIT, _JCOND = 0x00, 0x80, 0x90, 0xE0

_FETCH = 0x01
_ATOMIC_CODE = {
    AtomicOp.ADD: 0x00,
    AtomicOp.OR: 0x40,
    AtomicOp.AND: 0x50,
    AtomicOp.XOR: 0xA0,
    AtomicOp.FETCH_ADD: 0x00 | _FETCH,
    AtomicOp.FETCH_OR: 0x40 | _FETCH,
    AtomicOp.FETCH_AND: 0x50 | _FETCH,
    AtomicOp.FETCH_XOR: 0xA0 | _FETCH,
    AtomicOp.XCHG: 0xE0 | _FETCH,
    AtomicOp.CMPXCHG: 0xF0 | _FETCH,
}
_LOAD_ACQ, _STORE_REL = 0x100, 0x110

_DST = frozenset({"dst"})
_OFF = frozenset({"off"})
_IMMEDIATE = frozenset({"imm"})
_OPERAND_FIELDS = {Operand.K: frozenset({"dst", "imm"}), Operand.X: frozenset({"dst", "src"})}
_REG_MEM = frozenset({"dst", "src", "off"})
_IMM_MEM = frozenset({"dst", "off", "imm"})


def _alu_rows() -> Iterator[InsnSpec]:
    """Two-operand arithmetic and moves. RFC 9669, section 4.1."""
    ops = [op for op in AluOp if op in _ALU_CODE or op in _SIGNED]
    for op, (cls, width), operand in product(ops, ((_ALU64, 64), (_ALU, 32)), Operand):
        yield InsnSpec(
            opcode=_ALU_CODE[_SIGNED.get(op, op)] | _SOURCE[operand] | cls,
            kind=Kind.ALU,
            mnemonic=f"{op.value}{width}_{operand.name.lower()}",
            op=op,
            width=width,
            operand=operand,
            group=f"divmul{width}" if op in _DIVMUL else f"base{width}",
            off_is=1 if op in _SIGNED else None,
            fields=_OPERAND_FIELDS[operand],
        )


def _unary_rows() -> Iterator[InsnSpec]:
    """Negation, sign-extending moves, byte swaps. RFC 9669, sections 4.1 and 4.2.

    A byte swap is 64 bits wide whatever class encodes it: it always writes the whole register.
    """
    for cls, width in ((_ALU64, 64), (_ALU, 32)):
        yield InsnSpec(
            _NEG | cls,
            Kind.ALU,
            f"neg{width}",
            op=AluOp.NEG,
            width=width,
            group=f"base{width}",
            fields=_DST,
        )
        for op, bits in _MOVSX.items():
            if bits < width:
                yield InsnSpec(
                    _ALU_CODE[AluOp.MOV] | _SOURCE[Operand.X] | cls,
                    Kind.ALU,
                    f"{op.value}_{width}",
                    op=op,
                    width=width,
                    operand=Operand.X,
                    group=f"base{width}",
                    off_is=bits,
                    fields=_OPERAND_FIELDS[Operand.X],
                )
    for cls, order, swaps in _SWAPS:
        for op, bits in zip(swaps, (16, 32, 64), strict=True):
            yield InsnSpec(
                _END | _SOURCE[order] | cls,
                Kind.ALU,
                op.value,
                op=op,
                width=64,
                group="base64" if bits == 64 else "base32",
                imm_is=bits,
                fields=_DST,
            )
    yield InsnSpec(
        _ALU_CODE[AluOp.MOV] | _SOURCE[Operand.X] | _ALU64,
        Kind.ADDR_SPACE_CAST,
        "addr_space_cast",
        group="linux",
        off_is=1,
        fields=_OPERAND_FIELDS[Operand.X] | _IMMEDIATE,
    )


def _jump_rows() -> Iterator[InsnSpec]:
    """Jumps, calls and exit. RFC 9669, section 4.3."""
    for op, (cls, width), operand in product(JmpOp, ((_JMP, 64), (_JMP32, 32)), Operand):
        yield InsnSpec(
            opcode=_JMP_CODE[op] | _SOURCE[operand] | cls,
            kind=Kind.JUMP,
            mnemonic=f"{op.value}{width}_{operand.name.lower()}",
            op=op,
            width=width,
            operand=operand,
            group=f"base{width}",
            fields=_OPERAND_FIELDS[operand] | _OFF,
        )
    # The width of a goto is that of its class: 32 marks gotol, whose offset is the imm field.
    yield InsnSpec(_JA | _JMP, Kind.GOTO, "goto", width=64, group="base32", fields=_OFF)
    yield InsnSpec(_JA | _JMP32, Kind.GOTO, "gotol", width=32, group="base32", fields=_OFF)
    yield InsnSpec(_JCOND | _JMP, Kind.MAY_GOTO, "may_goto", group="linux", fields=_OFF)
    for src, kind in enumerate((Kind.CALL, Kind.CALL_LOCAL, Kind.CALL_KFUNC)):
        yield InsnSpec(
            _CALL | _JMP,
            kind,
            kind.value,
            group="base32",
            src_is=src,
            fields=_IMMEDIATE | _OFF if kind is Kind.CALL_KFUNC else _IMMEDIATE,
        )
    yield InsnSpec(_EXIT | _JMP, Kind.EXIT, "exit", group="base32")


def _memory_rows() -> Iterator[InsnSpec]:
    """Loads, stores and atomic operations. RFC 9669, sections 5.1 to 5.3."""
    for size in MemSize:
        group = "base64" if size is MemSize.DW else "base32"
        suffix = size.name.lower()
        for cls, kind, fields in (
            (_LDX, Kind.LDX, _REG_MEM),
            (_ST, Kind.ST, _IMM_MEM),
            (_STX, Kind.STX, _REG_MEM),
        ):
            yield InsnSpec(
                _MEM | _SIZE[size] | cls,
                kind,
                f"{kind.value}{suffix}",
                size=size,
                group=group,
                fields=fields,
            )
        if size is not MemSize.DW:
            yield InsnSpec(
                _MEMSX | _SIZE[size] | _LDX,
                Kind.LDSX,
                f"ldsx{suffix}",
                size=size,
                group="base64",
                fields=_REG_MEM,
            )
        for code, kind in ((_LOAD_ACQ, Kind.LOAD_ACQ), (_STORE_REL, Kind.STORE_REL)):
            yield InsnSpec(
                _ATOMIC | _SIZE[size] | _STX,
                kind,
                f"{kind.value}_{suffix}",
                size=size,
                group="linux",
                imm_is=code,
                fields=_REG_MEM,
            )
    for op, size in product(AtomicOp, (MemSize.DW, MemSize.W)):
        yield InsnSpec(
            _ATOMIC | _SIZE[size] | _STX,
            Kind.ATOMIC,
            f"atomic_{op.value}{size * 8}",
            op=op,
            size=size,
            group=f"atomic{size * 8}",
            imm_is=_ATOMIC_CODE[op],
            fields=_REG_MEM,
        )


def _load_rows() -> Iterator[InsnSpec]:
    """The class LD: the 64-bit immediate and packet access. RFC 9669, sections 5.4 and 5.5."""
    yield InsnSpec(
        _IMM | _SIZE[MemSize.DW] | _LD,
        Kind.LDDW,
        "lddw",
        size=MemSize.DW,
        group="base64",
        fields=frozenset({"dst", "src", "imm"}),
    )
    for size in (MemSize.B, MemSize.H, MemSize.W):
        for mode, kind, fields in (
            (_ABS, Kind.LD_ABS, _IMMEDIATE),
            (_IND, Kind.LD_IND, _IMMEDIATE | {"src"}),
        ):
            yield InsnSpec(
                mode | _SIZE[size] | _LD,
                kind,
                f"{kind.value}_{size.name.lower()}",
                size=size,
                group="packet",
                fields=fields,
            )


TABLE: tuple[InsnSpec, ...] = (
    *_alu_rows(),
    *_unary_rows(),
    *_jump_rows(),
    *_memory_rows(),
    *_load_rows(),
)

SPECS: dict[str, InsnSpec] = {spec.mnemonic: spec for spec in TABLE}


def _by_opcode() -> dict[int, tuple[InsnSpec, ...]]:
    rows: dict[int, list[InsnSpec]] = {}
    for spec in TABLE:
        rows.setdefault(spec.opcode, []).append(spec)
    return {opcode: tuple(specs) for opcode, specs in rows.items()}


BY_OPCODE: dict[int, tuple[InsnSpec, ...]] = _by_opcode()


def lookup(opcode: int, src: int, off: int, imm: int) -> InsnSpec | None:
    """The row that these fields of an instruction's bytes select, None if there is none.

    `off` and `imm` are signed. Only discriminators are looked at: fields that the row
    reserves may still be wrong, and `codec.decode` checks them.
    """
    fallback = None
    for spec in BY_OPCODE.get(opcode, ()):
        if spec.off_is is None and spec.src_is is None and spec.imm_is is None:
            fallback = spec
        elif (
            (spec.off_is is None or spec.off_is == off)
            and (spec.src_is is None or spec.src_is == src)
            and (spec.imm_is is None or spec.imm_is == imm)
        ):
            return spec
    return fallback

"""One instruction as a value, and the row of the table that gives it meaning."""

from __future__ import annotations

from dataclasses import dataclass

from pybpfvm.isa.opcodes import AluOp, AtomicOp, JmpOp, Kind, MemSize, Operand


@dataclass(frozen=True, slots=True)
class InsnSpec:
    """One legal encoding: a row of `pybpfvm.isa.table`.

    `mnemonic` is unique over all rows. `width` is 32 or 64 for ALU and jumps, 0 elsewhere.
    `group` is the conformance group of RFC 9669 section 2.4 ("base32", "base64", "divmul32",
    "divmul64", "atomic32", "atomic64", "packet"), or "linux" for what only Linux documents.
    """

    opcode: int
    kind: Kind
    mnemonic: str
    op: AluOp | JmpOp | AtomicOp | None = None
    width: int = 0
    operand: Operand | None = None
    size: MemSize | None = None
    group: str = "base64"
    # Discriminators: the value a field must have in the bytes, None where the field is free
    # or reserved (then `codec` requires 0).
    off_is: int | None = None
    src_is: int | None = None
    imm_is: int | None = None
    # The fields of `Insn` that this row leaves free; every other field of an `Insn` is 0.
    fields: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        return f"<{self.mnemonic}>"


@dataclass(frozen=True, slots=True)
class Insn:
    """A decoded instruction.

    Fields that only tell rows apart are folded into `spec` and read 0 here: `off` of SDIV and
    MOVSX, `imm` of byte swaps and atomics, `src` of the three kinds of call.
    `off` is a signed slot count for jumps (for gotol too, where it comes from the imm field),
    a signed byte offset for memory. `imm` is signed 32-bit, except for LDDW where it is the
    unsigned 64-bit constant, low word first (see `Pseudo` for what its src field makes of it).
    """

    spec: InsnSpec
    dst: int = 0
    src: int = 0
    off: int = 0
    imm: int = 0

    @property
    def slots(self) -> int:
        """Size in 8-byte slots: 2 for LDDW, else 1."""
        return 2 if self.spec.kind is Kind.LDDW else 1

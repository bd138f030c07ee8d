"""Hypothesis strategies over the instruction table, for whoever tests what reads instructions.

`insns()` is any encodable instruction, `insns(spec)` one of a given row; `programs()` lists of
them, with no regard to where their jumps lead.
"""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from pybpfvm.isa.insn import Insn, InsnSpec
from pybpfvm.isa.opcodes import REGISTERS, Kind, Pseudo
from pybpfvm.isa.table import TABLE

S16 = (-(1 << 15), (1 << 15) - 1)
S32 = (-(1 << 31), (1 << 31) - 1)

# Pseudo sources of lddw that leave the second slot's imm free.
_WIDE_PSEUDO = (Pseudo.NONE, Pseudo.MAP_VALUE, Pseudo.BTF_ID, Pseudo.MAP_IDX_VALUE)


def signed(bits: int) -> st.SearchStrategy[int]:
    """Signed numbers of `bits` bits, with the edges and small ones often among them."""
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    return st.one_of(st.integers(-9, 9), st.sampled_from((low, high)), st.integers(low, high))


def registers() -> st.SearchStrategy[int]:
    """Register numbers."""
    return st.integers(0, REGISTERS - 1)


@st.composite
def insns(draw: st.DrawFn, spec: InsnSpec | None = None) -> Insn:
    """A legal instruction of the row `spec`, of any row if None."""
    row = draw(st.sampled_from(TABLE)) if spec is None else spec
    if row.kind is Kind.LDDW:
        src = draw(st.sampled_from(Pseudo))
        bits = 64 if src in _WIDE_PSEUDO else 32
        return Insn(row, draw(registers()), src, imm=draw(st.integers(0, (1 << bits) - 1)))
    wide_off = row.kind is Kind.GOTO and row.width == 32
    return Insn(
        row,
        dst=draw(registers()) if "dst" in row.fields else 0,
        src=draw(registers()) if "src" in row.fields else 0,
        off=draw(signed(32 if wide_off else 16)) if "off" in row.fields else 0,
        imm=draw(signed(32)) if "imm" in row.fields else 0,
    )


def programs(max_size: int = 12) -> st.SearchStrategy[Sequence[Insn]]:
    """Lists of legal instructions."""
    return st.lists(insns(), max_size=max_size)


def samples(spec: InsnSpec) -> list[Insn]:
    """A few instructions of the row `spec`, always the same ones: each field at its edges.

    For tests that ask an outside tool and should ask about every row.
    """
    low_off, high_off = S32 if spec.kind is Kind.GOTO and spec.width == 32 else S16
    result = []
    for dst, src, off, imm in (
        (1, 2, 8, 5),
        (9, 0, -8, -5),
        (0, 9, low_off, S32[0]),
        (5, 5, high_off, S32[1]),
        (10, 3, 0, 0),
        (2, 10, 1, -1),
        (3, 4, -1, 300),
    ):
        values = {"dst": dst, "src": src, "off": off, "imm": imm}
        if spec.kind is Kind.LDDW:
            values |= {"src": Pseudo.NONE, "imm": imm & 0xFFFF_FFFF_FFFF_FFFF}
        result.append(Insn(spec, **{name: values[name] for name in spec.fields}))
    return result

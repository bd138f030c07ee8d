"""The tables of concrete meanings: complete, and right at the corners of RFC 9669."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybpfvm.bits import U64, bswap, sign_extend
from pybpfvm.isa.opcodes import AluOp, AtomicOp, JmpOp
from pybpfvm.isa.semantics import (
    CONCRETE_ALU,
    CONCRETE_ALU_BIG_ENDIAN,
    CONCRETE_ATOMIC,
    CONCRETE_JMP,
    FETCHES,
)

WORDS = st.one_of(
    st.integers(0, U64),
    st.sampled_from((0, 1, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 1 << 63, U64, U64 >> 1)),
)
WIDTHS = st.sampled_from((32, 64))
MIN64, MIN32 = 1 << 63, 1 << 31
M1 = U64


@pytest.mark.parametrize(
    ("table", "operations"),
    [
        (CONCRETE_ALU, AluOp),
        (CONCRETE_ALU_BIG_ENDIAN, AluOp),
        (CONCRETE_JMP, JmpOp),
        (CONCRETE_ATOMIC, AtomicOp),
    ],
)
def test_every_operation_has_a_meaning(table: dict[object, object], operations: object) -> None:
    assert set(table) == set(operations)  # type: ignore[call-overload]


ALU_CASES = [
    # op, a, b, width, result
    (AluOp.ADD, U64, 1, 64, 0),
    (AluOp.ADD, 0xFFFF_FFFF, 1, 32, 0),
    (AluOp.ADD, 0xFFFF_FFFF_0000_0001, 1, 32, 2),
    (AluOp.SUB, 0, 1, 64, U64),
    (AluOp.SUB, 0, 1, 32, 0xFFFF_FFFF),
    (AluOp.MUL, MIN64, 2, 64, 0),
    (AluOp.DIV, 7, 0, 64, 0),
    (AluOp.DIV, 7, 1 << 32, 32, 0),  # the divisor's low half is 0
    (AluOp.DIV, U64, 2, 64, U64 >> 1),
    (AluOp.MOD, 7, 0, 64, 7),
    (AluOp.MOD, 0x1_0000_0007, 0, 32, 7),
    (AluOp.SDIV, MIN64, M1, 64, MIN64),
    (AluOp.SDIV, MIN32, 0xFFFF_FFFF, 32, MIN32),
    (AluOp.SDIV, -13 & U64, 3, 64, -4 & U64),
    (AluOp.SDIV, 5, 0, 64, 0),
    (AluOp.SMOD, MIN64, M1, 64, 0),
    (AluOp.SMOD, -13 & U64, 3, 64, -1 & U64),
    (AluOp.SMOD, 13, -3 & U64, 64, 1),
    (AluOp.SMOD, -13 & U64, 0, 64, -13 & U64),
    (AluOp.SMOD, -13 & U64, 0, 32, -13 & 0xFFFF_FFFF),
    (AluOp.LSH, 1, 64, 64, 1),
    (AluOp.LSH, 1, 33, 32, 2),
    (AluOp.RSH, MIN64, 127, 64, 1),
    (AluOp.RSH, U64, 0, 32, 0xFFFF_FFFF),
    (AluOp.ARSH, MIN64, 63, 64, U64),
    (AluOp.ARSH, MIN32, 31, 32, 0xFFFF_FFFF),
    (AluOp.NEG, MIN64, 0, 64, MIN64),
    (AluOp.NEG, 1, 0, 32, 0xFFFF_FFFF),
    (AluOp.MOV, 0, U64, 32, 0xFFFF_FFFF),
    (AluOp.MOVSX8, 0, 0x80, 64, -128 & U64),
    (AluOp.MOVSX16, 0, 0x8000, 32, 0xFFFF_8000),
    (AluOp.MOVSX32, 0, 0x8000_0000, 64, 0xFFFF_FFFF_8000_0000),
    (AluOp.LE16, 0x1234_5678, 0, 64, 0x5678),
    (AluOp.BE16, 0x1234_5678, 0, 64, 0x7856),
    (AluOp.BE64, 1, 0, 64, 1 << 56),
    (AluOp.BSWAP32, 0xAABB_CCDD_1122_3344, 0, 64, 0x4433_2211),
]


@pytest.mark.parametrize(("op", "a", "b", "width", "result"), ALU_CASES)
def test_alu_corner(op: AluOp, a: int, b: int, width: int, result: int) -> None:
    assert CONCRETE_ALU[op](a, b, width) == result


@given(op=st.sampled_from(AluOp), a=WORDS, b=WORDS)
def test_a_32_bit_operation_sees_and_leaves_low_halves(op: AluOp, a: int, b: int) -> None:
    if op.value.startswith(("le", "be", "bswap", "movsx32")):
        return  # always 64 bits wide
    meaning = CONCRETE_ALU[op]
    low = 0xFFFF_FFFF
    assert meaning(a, b, 32) == meaning(a & low, b & low, 32) <= low


@given(op=st.sampled_from(AluOp), a=WORDS, b=WORDS)
def test_results_are_words(op: AluOp, a: int, b: int) -> None:
    assert 0 <= CONCRETE_ALU[op](a, b, 64) <= U64


@given(a=WORDS, b=WORDS, width=WIDTHS)
def test_division_and_remainder_belong_together(a: int, b: int, width: int) -> None:
    mask = (1 << width) - 1
    for div, mod in ((AluOp.DIV, AluOp.MOD), (AluOp.SDIV, AluOp.SMOD)):
        quotient = CONCRETE_ALU[div](a, b, width)
        remainder = CONCRETE_ALU[mod](a, b, width)
        assert (quotient * b + remainder) & mask == a & mask


@given(a=WORDS, b=WORDS, width=WIDTHS)
def test_conditions_are_orders(a: int, b: int, width: int) -> None:
    holds = {op: CONCRETE_JMP[op](a, b, width) for op in JmpOp}
    assert holds[JmpOp.JEQ] != holds[JmpOp.JNE]
    assert holds[JmpOp.JGT] != holds[JmpOp.JLE]
    assert holds[JmpOp.JGE] != holds[JmpOp.JLT]
    assert holds[JmpOp.JSGT] != holds[JmpOp.JSLE]
    assert holds[JmpOp.JSGE] != holds[JmpOp.JSLT]
    assert holds[JmpOp.JSGT] == (sign_extend(a, width) > sign_extend(b, width))
    assert holds[JmpOp.JGT] == (a & (1 << width) - 1 > b & (1 << width) - 1)
    assert holds[JmpOp.JSET] == (a & b & (1 << width) - 1 != 0)


@given(a=WORDS, bits=st.sampled_from((16, 32, 64)))
def test_one_conversion_of_each_pair_swaps(a: int, bits: int) -> None:
    little, big = AluOp(f"le{bits}"), AluOp(f"be{bits}")
    low = a & (1 << bits) - 1
    assert CONCRETE_ALU[little](a, 0, 64) == CONCRETE_ALU_BIG_ENDIAN[big](a, 0, 64) == low
    swapped = bswap(a, bits)
    assert CONCRETE_ALU[big](a, 0, 64) == CONCRETE_ALU_BIG_ENDIAN[little](a, 0, 64) == swapped


@given(old=WORDS, src=WORDS, r0=WORDS, width=WIDTHS)
def test_fetching_changes_nothing_about_the_operation(
    old: int, src: int, r0: int, width: int
) -> None:
    for plain in (AtomicOp.ADD, AtomicOp.OR, AtomicOp.AND, AtomicOp.XOR):
        fetch = AtomicOp(f"fetch_{plain.value}")
        assert fetch in FETCHES
        assert CONCRETE_ATOMIC[plain](old, src, r0, width) == CONCRETE_ATOMIC[fetch](
            old, src, r0, width
        )
    mask = (1 << width) - 1
    exchanged = CONCRETE_ATOMIC[AtomicOp.CMPXCHG](old, src, r0, width)
    assert exchanged == (src if old & mask == r0 & mask else old) & mask

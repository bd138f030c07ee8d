"""Python values and their bytes, by BTF type."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybpfvm.btf.types import Array, Btf, BtfType, Enum, Int, Member, Ptr, Struct
from pybpfvm.errors import InputError
from pybpfvm.session.values import ByteOrder, Value, decode, encode

TYPES: tuple[BtfType, ...] = (
    Int("unsigned int", 4, 32),  # 1
    Int("int", 4, 32, signed=True),  # 2
    Int("char", 1, 8, signed=True, char=True),  # 3
    Array(3, 1, 8),  # 4: char[8]
    Array(1, 1, 3),  # 5: u32[3]
    Ptr(0),  # 6
    Struct("inner", 8, (Member("a", 1, 0), Member("b", 2, 32))),  # 7
    Struct(
        "outer",
        40,
        (Member("in", 7, 0), Member("name", 4, 64), Member("list", 5, 128), Member("p", 6, 256)),
    ),  # 8
    Int("_Bool", 1, 8, boolean=True),  # 9
    Enum("colour", 4),  # 10
    Struct("bits", 4, (Member("low", 1, 0, 3), Member("high", 1, 3, 29))),  # 11
)
BTF = Btf.of(TYPES)

u32s = st.integers(0, 2**32 - 1)
outers = st.fixed_dictionaries(
    {
        "in": st.fixed_dictionaries({"a": u32s, "b": st.integers(-(2**31), 2**31 - 1)}),
        "name": st.binary(min_size=8, max_size=8),
        "list": st.lists(u32s, min_size=3, max_size=3),
        "p": st.integers(0, 2**64 - 1),
    }
)


@given(outers, st.booleans())
def test_a_struct_survives_the_round_trip(value: dict[str, Value], big_endian: bool) -> None:
    byteorder: ByteOrder = "big" if big_endian else "little"
    data = encode(value, 40, BTF, 8, byteorder)
    assert len(data) == 40
    assert decode(data, BTF, 8, byteorder) == value


def test_fields_left_out_are_zero() -> None:
    assert encode({"p": 1}, 40, BTF, 8) == bytes(32) + (1).to_bytes(8, "little")


@pytest.mark.parametrize(
    ("data", "type_id", "value"),
    [
        (b"\xff\xff\xff\xff", 1, 2**32 - 1),
        (b"\xff\xff\xff\xff", 2, -1),
        (b"\x01", 9, True),
        (b"\x02\x00\x00\x00", 10, 2),
        (b"\x0d\x00\x00\x00", 11, {"low": 5, "high": 1}),
        (b"\x01\x02", 0, 0x201),
        (b"\x01\x02\x03", 0, b"\x01\x02\x03"),
    ],
)
def test_decode(data: bytes, type_id: int, value: Value) -> None:
    assert decode(data, BTF, type_id) == value


@pytest.mark.parametrize(
    ("value", "size", "type_id", "reason"),
    [
        (2**32, 4, 1, "does not fit"),
        (-(2**31) - 1, 4, 2, "does not fit"),
        (b"12345", 4, 1, "5 bytes for a value of 4"),
        ({"nobody": 1}, 40, 8, "no plain field 'nobody'"),
        ({"low": 1}, 4, 11, "no plain field 'low'"),
        ({"a": 1}, 4, 1, "no struct"),
        ([1, 2, 3, 4], 12, 5, "4 elements"),
        ([1], 4, 1, "no array"),
        ([1], 4, 0, "without BTF"),
    ],
)
def test_what_does_not_fit_is_refused(value: Value, size: int, type_id: int, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        encode(value, size, BTF, type_id)

"""Bytes to types and back; what is malformed names its offset."""

from __future__ import annotations

import random
import struct
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pybpfvm import bpfsys
from pybpfvm.btf.parse import MAX_BYTES, parse_btf
from pybpfvm.btf.types import (
    Array,
    Btf,
    BtfKind,
    BtfType,
    Const,
    Enum,
    Enum64,
    EnumValue,
    FuncProto,
    Int,
    Member,
    Param,
    Ptr,
    Struct,
    Typedef,
    Union,
)
from pybpfvm.btf.write import write_btf
from pybpfvm.errors import InputError
from tests.support.btf_writer import EVERY_KIND

VMLINUX = Path("/sys/kernel/btf/vmlinux")


@pytest.mark.parametrize("big_endian", [False, True])
def test_every_kind_survives_the_round_trip(big_endian: bool) -> None:
    data = write_btf(Btf.of(EVERY_KIND), big_endian=big_endian)
    btf = parse_btf(data)
    assert btf.big_endian == big_endian
    assert tuple(type_ for _, type_ in btf) == EVERY_KIND
    assert {type_.kind for type_ in EVERY_KIND} == set(BtfKind) - {BtfKind.VOID}
    assert write_btf(btf) == data


@pytest.mark.kernel_bpf
def test_the_kernel_takes_every_kind() -> None:
    if reason := bpfsys.available():
        pytest.skip(reason)
    with bpfsys.btf_load(write_btf(Btf.of(EVERY_KIND)), log_level=1) as result:
        assert result.accepted, result.log


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
IDS = st.integers(0, 8)
TYPES: st.SearchStrategy[BtfType] = st.one_of(
    st.builds(Int, NAMES, st.just(8), st.integers(1, 64), signed=st.booleans()),
    st.builds(Ptr, IDS),
    st.builds(Const, IDS),
    st.builds(Typedef, NAMES, IDS),
    st.builds(Array, IDS, IDS, st.integers(0, 0xFFFFFFFF)),
    st.builds(
        Struct,
        NAMES,
        st.integers(0, 0xFFFFFFFF),
        st.lists(
            st.builds(Member, NAMES, IDS, st.integers(0, 0xFFFFFF), st.integers(0, 255)),
            max_size=4,
        ).map(tuple),
    ),
    st.builds(
        Union,
        NAMES,
        st.integers(0, 0xFFFFFFFF),
        st.lists(st.builds(Member, NAMES, IDS, st.integers(0, 0xFFFFFFFF)), max_size=4).map(tuple),
    ),
    st.builds(
        Enum,
        NAMES,
        st.just(4),
        st.lists(st.builds(EnumValue, NAMES, st.integers(0, 0xFFFFFFFF)), max_size=4).map(tuple),
    ),
    st.builds(
        Enum64,
        NAMES,
        st.just(8),
        st.lists(
            st.builds(EnumValue, NAMES, st.integers(-(1 << 63), (1 << 63) - 1)), max_size=4
        ).map(tuple),
        signed=st.just(True),
    ),
    st.builds(FuncProto, IDS, st.lists(st.builds(Param, NAMES, IDS), max_size=4).map(tuple)),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(TYPES, min_size=8, max_size=12), st.booleans())
def test_parse_inverts_write(types: list[BtfType], big_endian: bool) -> None:
    btf = parse_btf(write_btf(Btf.of(types), big_endian=big_endian))
    assert [type_ for _, type_ in btf] == types


def _edit(data: bytes, offset: int, form: str, *values: int) -> bytes:
    edited = bytearray(data)
    struct.pack_into(form, edited, offset, *values)
    return bytes(edited)


GOOD = write_btf(Btf.of([Int("int", 4, 32), Ptr(1), Struct("s", 4, (Member("m", 1, 0),))]))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "too few"),
        (GOOD[:20], "too few"),
        (b"\x00\x00" + GOOD[2:], "no BTF"),
        (_edit(GOOD, 2, "<B", 2), "version 2"),
        (_edit(GOOD, 4, "<I", 23), "offset 0x4: header of 23 bytes"),
        (_edit(GOOD, 8, "<I", 1 << 31), "offset 0x8: types"),
        (_edit(GOOD, 12, "<I", 5), "offset 0x8: types"),
        (_edit(GOOD, 16, "<I", 1 << 31), "offset 0x10: strings"),
        (_edit(GOOD, 16, "<I", 0), "overlap"),
        (GOOD[:-1] + b"x", "end with a zero byte"),
        (_edit(GOOD, 24, "<I", 0xFFFF), "offset 0x18: type id 1: name at 0xffff"),
        (_edit(GOOD, 28, "<I", 31 << 24), "offset 0x1c: type id 1: unknown kind 31"),
        (_edit(GOOD, 28, "<I", 0), "unknown kind 0"),
        (_edit(GOOD, 28, "<I", 1 << 24 | 1 << 20), "reserved bits"),
        (_edit(GOOD, 32, "<I", 3), "an integer of 3 bytes"),
        (_edit(GOOD, 36, "<I", 33), "33 bits at 0 in an integer of 4 bytes"),
        (_edit(GOOD, 48, "<I", 4), "type id 2 refers to type id 4: ids end at 3"),
        (_edit(GOOD, 56, "<I", 4 << 24 | 9), "its 9 items go past the end"),
        (_edit(GOOD, 64, "<I", 0xFFFF), "items lies outside the strings"),
        (_edit(GOOD, 68, "<I", 7), "type id 3 refers to type id 7"),
        (bytes(MAX_BYTES + 1), "the limit is"),
    ],
)
def test_what_is_malformed_is_named_with_its_offset(data: bytes, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_btf(data, where="x.o: section .BTF")
    assert message in str(caught.value)
    assert caught.value.where.startswith("x.o: section .BTF")


@pytest.mark.parametrize(
    "type_",
    [
        Struct("s" * 5000, 4),
        Struct("nul\0", 4),
        Struct("s", 1 << 32),
        Struct("s", 4, (Member("m", 1, 1 << 25, 3),)),
        Enum("e", 4, (EnumValue("v", 1 << 32),)),
        Enum64("e", 8, (EnumValue("v", 1 << 64),)),
        Struct("s", 4, (Member("", 0, 0),) * 0x10000),
    ],
)
def test_what_the_format_can_not_hold_is_not_written(type_: BtfType) -> None:
    with pytest.raises(InputError):
        write_btf(Btf.of([type_]))


def test_damaged_bytes_raise_nothing_but_input_errors() -> None:
    seed = 2026
    good = write_btf(Btf.of(EVERY_KIND))
    rng = random.Random(seed)
    refused = 0
    for case in range(2000):
        data = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.choice((0, 1, 0x7F, 0xFF, rng.randrange(256)))
        if rng.random() < 0.2:
            del data[rng.randrange(len(data)) :]
        try:
            btf = parse_btf(bytes(data))
            for type_id, _ in btf:
                btf.find_flavours(btf.name(type_id))
                with suppress(InputError):
                    btf.size(type_id)
        except InputError:
            refused += 1
        except Exception as error:  # pragma: no cover
            raise AssertionError(f"seed {seed}, case {case}: {error!r}") from error
    assert 200 < refused < 2000


def test_the_running_kernels_types() -> None:
    if not VMLINUX.exists():
        pytest.skip(f"{VMLINUX} does not exist")
    data = VMLINUX.read_bytes()
    start = time.process_time()
    btf = parse_btf(data, where=str(VMLINUX))
    task = btf.find("task_struct", BtfKind.STRUCT)
    seconds = time.process_time() - start
    assert task is not None
    names = {member.name for member in btf.type(task).members}  # type: ignore[union-attr]
    assert {"pid", "tgid", "comm"} <= names
    # Measured: 0.6 s for 126,521 types. The bound leaves room for a busy machine.
    assert seconds < 1.5 * 3


def test_names_that_are_too_long_are_refused_in_linear_time() -> None:
    def btf(name_bytes: int, count: int) -> bytes:
        strings = b"\0" + (b"x" * name_bytes + b"\0") * count
        return struct.pack("<HBBI4I", 0xEB9F, 1, 0, 24, 0, 0, 0, len(strings)) + strings

    start = time.process_time()
    parse_btf(btf(4096, 2000))
    assert time.process_time() - start < 2.0
    with pytest.raises(InputError, match="a name of more than 4096 bytes"):
        parse_btf(btf(4097, 1))

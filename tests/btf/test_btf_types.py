"""The table of types: lookup, sizes, chains without end."""

from __future__ import annotations

import pytest

from pybpfvm.btf.types import (
    Array,
    Btf,
    BtfKind,
    Const,
    Func,
    Int,
    Ptr,
    Struct,
    Typedef,
    essential_name,
)
from pybpfvm.errors import InputError

INT = Int("int", 4, 32, signed=True)


@pytest.mark.parametrize(
    ("name", "essential"),
    [
        ("task_struct", "task_struct"),
        ("task_struct___old", "task_struct"),
        ("a___b___c", "a___b"),
        ("___x", "___x"),
        ("x___", "x___"),
        ("a____b", "a____b"),
        ("a_____b___c", "a_____b"),
        ("", ""),
    ],
)
def test_the_flavour_is_what_follows_three_underscores(name: str, essential: str) -> None:
    assert essential_name(name) == essential


def test_names_are_found_by_kind_in_order_of_ids() -> None:
    btf = Btf.of([Struct("a", 1), INT, Typedef("a", 1), Struct("a", 2), Struct("a___new", 3)])
    assert btf.find_all("a") == (1, 3, 4)
    assert btf.find_all("a", BtfKind.STRUCT) == (1, 4)
    assert btf.find("a", BtfKind.TYPEDEF) == 3
    assert btf.find("b") is None
    assert btf.find("") is None
    assert btf.find_flavours("a", BtfKind.STRUCT) == (1, 4, 5)
    assert list(btf.ids_of(BtfKind.STRUCT)) == [1, 4, 5]


def test_sizes_see_through_names_qualifiers_and_dimensions() -> None:
    btf = Btf.of([INT, Const(1), Typedef("t", 2), Array(3, 1, 6), Array(4, 1, 2), Ptr(0)])
    assert [btf.size(i) for i in range(1, 7)] == [4, 4, 4, 24, 48, 8]
    assert btf.resolve(3) == 1
    assert btf.skip_modifiers(3) == 3
    for without_size in (0,):
        with pytest.raises(InputError, match="VOID has no size"):
            btf.size(without_size)


@pytest.mark.parametrize(
    "types",
    [
        [Typedef("a", 2), Typedef("b", 1)],
        [Const(1)],
        [Array(1, 1, 2)],
        [Array(2, 1, 2), Typedef("a", 1)],
    ],
)
def test_a_type_that_leads_to_itself_is_an_error(types: list[object]) -> None:
    with pytest.raises(InputError, match="chain of more than 32"):
        Btf.of(types).size(1)  # type: ignore[arg-type]


def test_ids_that_are_not_there_are_errors() -> None:
    btf = Btf.of([INT, Func("f", 9)])
    for bad in (3, 1 << 40, -1):
        with pytest.raises(InputError, match=f"no type id {bad}"):
            btf.type(bad)
    assert 2 in btf
    assert 3 not in btf


def test_replaced_types_show_in_lookup_and_iteration() -> None:
    btf = Btf.of([INT, Struct("s", 4)]).replaced({2: Struct("s", 8)})
    assert btf.size(2) == 8
    assert dict(btf)[2] == Struct("s", 8)

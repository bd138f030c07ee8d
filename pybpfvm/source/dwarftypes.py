"""DWARF types as BTF types, so that whoever asks for a layout has one kind of type to know.

DWARF 5, chapter 5. What BTF can not say (classes, floating point of odd sizes) becomes `void`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from pybpfvm.btf.types import (
    Array,
    Btf,
    BtfType,
    Const,
    Enum,
    Enum64,
    EnumValue,
    Float,
    FuncProto,
    Fwd,
    Int,
    Member,
    Param,
    Ptr,
    Restrict,
    Struct,
    Typedef,
    Union,
    Void,
    Volatile,
)
from pybpfvm.errors import InputError

MAX_TYPES = 100_000
_SIGNED = {0x05, 0x0D, 0x06}  # DW_ATE_signed, signed_fixed, signed_char
_CHARS = {0x06, 0x08, 0x10}  # DW_ATE_signed_char, unsigned_char, UTF
_BOOLEAN, _FLOAT = 0x02, 0x04
_WRAPPERS: dict[str, Callable[[int], BtfType]] = {
    "DW_TAG_pointer_type": Ptr,
    "DW_TAG_const_type": Const,
    "DW_TAG_volatile_type": Volatile,
    "DW_TAG_restrict_type": Restrict,
}

# An entry of pyelftools: it has `tag`, `offset`, `attributes` and `iter_children()`.
Die = Any


class TypeTable:
    """Types by their entry. `id_of` numbers an entry at once, `btf` decodes all that were asked for
    and what they lead to."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._ids: dict[int, int] = {}
        self._types: list[BtfType] = []
        self._left: deque[tuple[int, Die]] = deque()
        self._index = 0

    def id_of(self, die: Die | None) -> int:
        """The id of the type that `die` describes; 0 for none."""
        if die is None:
            return 0
        known = self._ids.get(die.offset)
        if known is None:
            known = self._add(Void())
            self._ids[die.offset] = known
            self._left.append((known, die))
        return known

    def type_of(self, die: Die) -> int:
        """The id of the type that `die`, a variable say, is of; 0 for void."""
        return self.id_of(referred(die, "DW_AT_type"))

    def btf(self) -> Btf:
        """All types, none of which may be asked for later."""
        while self._left:
            type_id, die = self._left.popleft()
            self._types[type_id - 1] = self._decoded(die)
        return Btf.of(self._types, where=f"{self._where}: DWARF")

    def _add(self, type_: BtfType) -> int:
        if len(self._types) >= MAX_TYPES:
            raise InputError(f"more than {MAX_TYPES} types", where=f"{self._where}: DWARF")
        self._types.append(type_)
        return len(self._types)

    def _decoded(self, die: Die) -> BtfType:
        name, size = name_of(die), number(die, "DW_AT_byte_size")
        wrapper = _WRAPPERS.get(die.tag)
        if wrapper is not None:
            return wrapper(self.type_of(die))
        match die.tag:
            case "DW_TAG_base_type":
                return _base(name, size, number(die, "DW_AT_encoding"))
            case "DW_TAG_typedef":
                return Typedef(name, self.type_of(die))
            case "DW_TAG_array_type":
                return self._array(die)
            case "DW_TAG_structure_type" | "DW_TAG_union_type":
                of_union = die.tag == "DW_TAG_union_type"
                if "DW_AT_declaration" in die.attributes:
                    return Fwd(name, of_union)
                members = tuple(self._member(one) for one in die.iter_children() if _is_member(one))
                return Union(name, size, members) if of_union else Struct(name, size, members)
            case "DW_TAG_enumeration_type":
                values = tuple(
                    EnumValue(name_of(one), number(one, "DW_AT_const_value"))
                    for one in die.iter_children()
                    if one.tag == "DW_TAG_enumerator"
                )
                signed = any(one.value < 0 for one in values)
                return (Enum64 if size > 4 else Enum)(name, size, values, signed)
            case "DW_TAG_subroutine_type":
                params = tuple(
                    Param(name_of(one), self.type_of(one))
                    for one in die.iter_children()
                    if one.tag == "DW_TAG_formal_parameter"
                )
                return FuncProto(self.type_of(die), params)
            case _:  # an attribute of a type (DW_TAG_LLVM_annotation, ...), or what C has not
                return (
                    Typedef(name, self.type_of(die)) if "DW_AT_type" in die.attributes else Void()
                )

    def _array(self, die: Die) -> BtfType:
        """Dimensions become arrays of arrays, the first one outside."""
        counts = [
            _count(one) for one in die.iter_children() if one.tag == "DW_TAG_subrange_type"
        ] or [0]
        element = self.type_of(die)
        for count in reversed(counts[1:]):
            element = self._add(Array(element, 0, count))
        return Array(element, 0, counts[0])

    def _member(self, die: Die) -> Member:
        bits = number(die, "DW_AT_bit_size")
        if "DW_AT_data_bit_offset" in die.attributes:
            offset = number(die, "DW_AT_data_bit_offset")
        else:
            offset = 8 * number(die, "DW_AT_data_member_location")
        return Member(name_of(die), self.type_of(die), offset, bits)


def _is_member(die: Die) -> bool:
    return bool(die.tag == "DW_TAG_member")


def _base(name: str, size: int, encoding: int) -> BtfType:
    if encoding == _FLOAT:
        return Float(name, size)
    return Int(
        name,
        size,
        8 * size,
        signed=encoding in _SIGNED,
        char=encoding in _CHARS,
        boolean=encoding == _BOOLEAN,
    )


def _count(die: Die) -> int:
    if "DW_AT_count" in die.attributes:
        return number(die, "DW_AT_count")
    if "DW_AT_upper_bound" in die.attributes:
        return number(die, "DW_AT_upper_bound") + 1
    return 0


def name_of(die: Die) -> str:
    """DW_AT_name, "" without."""
    return text_of(die, "DW_AT_name")


def text_of(die: Die, attribute: str) -> str:
    """An attribute that is a text, "" without."""
    found = die.attributes.get(attribute)
    return "" if found is None else found.value.decode("utf-8", "replace")


def number(die: Die, attribute: str) -> int:
    """An attribute that is a plain number, 0 for any other and for none."""
    found = die.attributes.get(attribute)
    return found.value if found is not None and isinstance(found.value, int) else 0


def referred(die: Die, attribute: str) -> Die | None:
    """The entry that an attribute leads to, None without it."""
    return die.get_DIE_from_attribute(attribute) if attribute in die.attributes else None

"""Map keys, map values and globals as Python values, by their BTF types.

Integers, enums and pointers are ints; `bool` is bool; `char[N]` and everything without a type is
bytes; structs are dicts by field name, arrays lists. Without BTF, 1, 2, 4 and 8 bytes are an
unsigned int.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pybpfvm.btf.types import Array, Btf, Enum, Enum64, Int, Member, Ptr, Struct, Union
from pybpfvm.errors import InputError

Value = int | bool | bytes | Mapping[str, "Value"] | Sequence["Value"]
ByteOrder = Literal["little", "big"]
_MAX_DEPTH = 32


def decode(data: bytes, btf: Btf | None, type_id: int, order: ByteOrder = "little") -> Value:
    """The value that `data` holds."""
    return _decode(data, btf, type_id, order, 0)


def _decode(data: bytes, btf: Btf | None, type_id: int, order: ByteOrder, depth: int) -> Value:
    if btf is None or not type_id or depth > _MAX_DEPTH:
        return int.from_bytes(data, order) if len(data) in (1, 2, 4, 8) else data
    found = btf.type(btf.resolve(type_id))
    match found:
        case Int():
            number = int.from_bytes(data[: found.size], order, signed=found.signed)
            return bool(number) if found.boolean else number
        case Enum() | Enum64():
            return int.from_bytes(data[: found.size], order, signed=found.signed)
        case Ptr():
            return int.from_bytes(data[:8], order)
        case Array():
            element = btf.type(btf.resolve(found.element_id))
            size = btf.size(found.element_id)
            if isinstance(element, Int) and element.size == 1 and _is_char(btf, found.element_id):
                return data[: found.count]
            return [
                _decode(data[i * size : (i + 1) * size], btf, found.element_id, order, depth + 1)
                for i in range(found.count)
            ]
        case Struct() | Union():
            return {
                member.name or f"anonymous_{index}": _member(data, btf, member, order, depth)
                for index, member in enumerate(found.members)
            }
        case _:
            return data


def _is_char(btf: Btf, type_id: int) -> bool:
    found = btf.type(btf.resolve(type_id))
    return isinstance(found, Int) and (found.char or found.name in ("char", "unsigned char"))


def _member(data: bytes, btf: Btf, member: Member, order: ByteOrder, depth: int) -> Value:
    if member.bitfield_bits:
        whole = int.from_bytes(data, order)
        shift = member.bit_offset
        if order == "big":
            shift = len(data) * 8 - member.bit_offset - member.bitfield_bits
        return (whole >> shift) & ((1 << member.bitfield_bits) - 1)
    offset = member.bit_offset // 8
    size = btf.size(member.type_id)
    return _decode(data[offset : offset + size], btf, member.type_id, order, depth + 1)


def encode(
    value: Value, size: int, btf: Btf | None, type_id: int, order: ByteOrder = "little"
) -> bytes:
    """`value` as exactly `size` bytes; InputError when it does not fit the type.

    bytes are taken as they are (shorter ones are padded with zeros); fields that a mapping
    leaves out are zero.
    """
    if isinstance(value, bytes | bytearray):
        if len(value) > size:
            raise InputError(f"{len(value)} bytes for a value of {size}")
        return bytes(value).ljust(size, b"\0")
    if isinstance(value, int):
        low, high = -(1 << (8 * size - 1)), 1 << (8 * size)
        if not low <= value < high:
            raise InputError(f"{value} does not fit {size} bytes")
        return (value % high).to_bytes(size, order)
    if btf is None or not type_id:
        raise InputError(
            f"a {type(value).__name__} for a value without BTF type", remedy="give an int or bytes"
        )
    found = btf.type(btf.resolve(type_id))
    if isinstance(value, Mapping):
        if not isinstance(found, Struct | Union):
            raise InputError("a mapping for a value that is no struct")
        return _encode_struct(value, found, size, btf, order)
    if not isinstance(found, Array):
        raise InputError("a list for a value that is no array")
    if len(value) > found.count:
        raise InputError(f"{len(value)} elements for an array of {found.count}")
    width = btf.size(found.element_id)
    parts = (encode(item, width, btf, found.element_id, order) for item in value)
    return b"".join(parts).ljust(size, b"\0")


def _encode_struct(
    value: Mapping[str, Value], found: Struct | Union, size: int, btf: Btf, order: ByteOrder
) -> bytes:
    members = {member.name: member for member in found.members}
    out = bytearray(size)
    for name, item in value.items():
        member = members.get(name)
        if member is None or member.bitfield_bits:
            raise InputError(
                f"struct {found.name} has no plain field {name!r}",
                remedy=f"fields: {', '.join(members)}",
            )
        offset, width = member.bit_offset // 8, btf.size(member.type_id)
        out[offset : offset + width] = encode(item, width, btf, member.type_id, order)
    return bytes(out)

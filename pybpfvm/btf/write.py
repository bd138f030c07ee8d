"""`Btf` -> bytes of a .BTF section, in either byte order. The inverse of `parse`.

parse(write(btf)) holds equal types under equal ids; strings are pooled, so the bytes may differ
from those the types came from.
"""

from __future__ import annotations

import struct

from pybpfvm.bits import u32
from pybpfvm.btf.parse import (
    HEADER_BYTES,
    INT_BOOL,
    INT_CHAR,
    INT_SIGNED,
    MAGIC,
    MAX_BYTES,
    MAX_NAME_BYTES,
)
from pybpfvm.btf.types import (
    Array,
    Btf,
    BtfType,
    Datasec,
    DeclTag,
    Enum,
    Enum64,
    Float,
    Func,
    FuncProto,
    Fwd,
    Int,
    Struct,
    TypeTag,
    Union,
    Var,
    Void,
)
from pybpfvm.errors import InputError


class StringPool:
    """A string table that grows; equal strings share an offset and "" is at 0."""

    def __init__(self) -> None:
        self._bytes = bytearray(1)
        self._offset_of = {"": 0}

    def add(self, text: str) -> int:
        """Offset of `text` in the table. InputError for a name that BTF can not hold."""
        offset = self._offset_of.get(text)
        if offset is None:
            raw = text.encode()
            if b"\0" in raw or len(raw) > MAX_NAME_BYTES:
                raise InputError(
                    f"the name {text[:40]!r} has a zero byte or more than {MAX_NAME_BYTES} bytes"
                )
            offset = self._offset_of[text] = len(self._bytes)
            self._bytes += raw + b"\0"
        return offset

    def __bytes__(self) -> bytes:
        return bytes(self._bytes)


def write_btf(
    btf: Btf, *, big_endian: bool | None = None, strings: StringPool | None = None
) -> bytes:
    """The section for all types of `btf`, in its own byte order unless `big_endian` says.

    `strings` may hold strings already, such as those of a .BTF.ext section. Raises InputError
    for values that no BTF can hold.
    """
    order = ">" if (btf.big_endian if big_endian is None else big_endian) else "<"
    pool = StringPool() if strings is None else strings
    types = bytearray()
    for type_id, type_ in btf:
        try:
            name_off = pool.add(getattr(type_, "name", ""))
            flag, vlen, third, words = _encode(type_, pool)
            if vlen > 0xFFFF:
                raise struct.error(f"{vlen} items")
            info = flag << 31 | type_.kind << 24 | vlen
            types += struct.pack(f"{order}{3 + len(words)}I", name_off, info, third, *words)
        except struct.error as error:
            name = getattr(type_, "name", "")
            raise InputError(
                f"{type_.kind.name} {name!r} does not fit the format: {error}",
                where=f"{btf.where}, type id {type_id}",
            ) from error
    table = bytes(pool)
    header = struct.pack(
        order + "HBBI4I", MAGIC, 1, 0, HEADER_BYTES, 0, len(types), len(types), len(table)
    )
    if len(header) + len(types) + len(table) > MAX_BYTES:
        raise InputError(f"more than {MAX_BYTES} bytes of BTF", where=btf.where)
    return header + bytes(types) + table


def _encode(type_: BtfType, pool: StringPool) -> tuple[bool, int, int, list[int]]:
    """(kind_flag, vlen, size or type id, words that follow)."""
    words: list[int] = []
    match type_:
        case Int():
            encoding = INT_SIGNED * type_.signed | INT_CHAR * type_.char | INT_BOOL * type_.boolean
            word = encoding << 24 | type_.bit_offset << 16 | type_.bits
            return False, 0, type_.size, [word]
        case Array():
            return False, 0, 0, [type_.element_id, type_.index_id, type_.count]
        case Struct() | Union():
            flag = any(member.bitfield_bits for member in type_.members)
            for member in type_.members:
                if flag and member.bit_offset > 0xFFFFFF:
                    raise struct.error(f"bitfield struct with a member at bit {member.bit_offset}")
                offset = member.bitfield_bits << 24 | member.bit_offset
                words += (pool.add(member.name), member.type_id, offset)
            return flag, len(type_.members), type_.size, words
        case Enum():
            for value in type_.values:
                words += (pool.add(value.name), _enum32(value.value, type_.signed))
            return type_.signed, len(type_.values), type_.size, words
        case Enum64():
            for value in type_.values:
                if not -(1 << 63) <= value.value < 1 << 64:
                    raise struct.error(f"enum value {value.value}")
                words += (pool.add(value.name), u32(value.value), u32(value.value >> 32))
            return type_.signed, len(type_.values), type_.size, words
        case Fwd():
            return type_.is_union, 0, 0, words
        case Func():
            return False, int(type_.linkage), type_.type_id, words
        case FuncProto():
            for param in type_.params:
                words += (pool.add(param.name), param.type_id)
            return False, len(type_.params), type_.return_id, words
        case Var():
            return False, 0, type_.type_id, [int(type_.linkage)]
        case Datasec():
            for variable in type_.variables:
                words += (variable.type_id, variable.offset, variable.size)
            return False, len(type_.variables), type_.size, words
        case Float():
            return False, 0, type_.size, words
        case DeclTag():
            return type_.attribute, 0, type_.type_id, [u32(type_.component)]
        case TypeTag():
            return type_.attribute, 0, type_.type_id, words
        case Void():
            raise struct.error("void is id 0 and has no bytes")
        case _:  # Ptr, Typedef and the qualifiers hold one id and nothing else
            return False, 0, type_.type_id, words


def _enum32(value: int, signed: bool) -> int:
    """The word of a 32-bit enumerator; struct.error if it does not fit."""
    low, high = (-(1 << 31), 1 << 31) if signed else (0, 1 << 32)
    if not low <= value < high:
        raise struct.error(f"enum value {value}")
    return u32(value)

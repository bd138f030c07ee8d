"""Bytes of a .BTF section -> `Btf`. Kernel Documentation/bpf/btf.rst, section 2.

    u16 magic 0xeb9f | u8 version | u8 flags | u32 hdr_len
    u32 type_off | u32 type_len | u32 str_off | u32 str_len      (offsets from the header's end)
    type: u32 name_off | u32 info | u32 size or type id | data of the kind
    info: kind_flag << 31 | kind << 24 | vlen

Parsing walks the headers only and checks every id, offset and length on the way (slices of one
array of words, so that a kernel's 150,000 types take well under a second); a type becomes a
value when it is asked for, and then nothing can be wrong with it any more.
"""

from __future__ import annotations

import re
import struct
import sys
from array import array

from pybpfvm.bits import s32, s64
from pybpfvm.btf.types import (
    Array,
    Btf,
    BtfKind,
    BtfType,
    Const,
    Datasec,
    DeclTag,
    Enum,
    Enum64,
    EnumValue,
    Float,
    Func,
    FuncLinkage,
    FuncProto,
    Fwd,
    Int,
    Member,
    Param,
    Ptr,
    Restrict,
    SectionVar,
    Struct,
    Typedef,
    TypeTag,
    Union,
    Var,
    VarLinkage,
    Void,
    Volatile,
)
from pybpfvm.errors import InputError

MAGIC = 0xEB9F
HEADER_BYTES = 24
MAX_BYTES = 16 << 20  # as the kernel's BTF_LOAD
MAX_TYPES = 1 << 19
MAX_NAME_BYTES = 4096
# Tried at zero bytes only, of which the table begins with one: linear in its size.
_TOO_LONG = re.compile(rb"\0[^\0]{%d}" % (MAX_NAME_BYTES + 1))

INT_SIGNED, INT_CHAR, INT_BOOL = 1, 2, 4

# Words after the three common ones: for each kind a constant part and a part per vlen.
FIXED_WORDS = {BtfKind.INT: 1, BtfKind.ARRAY: 3, BtfKind.VAR: 1, BtfKind.DECL_TAG: 1}
WORDS_PER_ITEM = {
    BtfKind.STRUCT: 3,
    BtfKind.UNION: 3,
    BtfKind.ENUM: 2,
    BtfKind.FUNC_PROTO: 2,
    BtfKind.DATASEC: 3,
    BtfKind.ENUM64: 3,
}
# Kinds whose third common word is a type id rather than a size.
REFERRING = frozenset(
    {
        BtfKind.PTR,
        BtfKind.TYPEDEF,
        BtfKind.VOLATILE,
        BtfKind.CONST,
        BtfKind.RESTRICT,
        BtfKind.FUNC,
        BtfKind.FUNC_PROTO,
        BtfKind.VAR,
        BtfKind.DECL_TAG,
        BtfKind.TYPE_TAG,
    }
)
# Where items hold a name and a type id, as positions inside the item.
ITEM_NAME = {BtfKind.STRUCT: 0, BtfKind.UNION: 0, BtfKind.ENUM: 0, BtfKind.ENUM64: 0}
ITEM_NAME[BtfKind.FUNC_PROTO] = 0
ITEM_TYPE = {BtfKind.STRUCT: 1, BtfKind.UNION: 1, BtfKind.FUNC_PROTO: 1, BtfKind.DATASEC: 0}


def parse_btf(data: bytes | memoryview, *, where: str = "BTF") -> Btf:
    """Read raw BTF (a .BTF section, /sys/kernel/btf/vmlinux) of either byte order.

    `where` begins the place in messages. Raises InputError for anything malformed, for more
    than 16 MiB and for more than 524,288 types.
    """
    view = memoryview(data)
    big_endian, types_at, types_end, strings = _read_header(view, where)
    words = array("I")
    assert words.itemsize == 4
    words.frombytes(view[types_at:types_end])
    if big_endian != (sys.byteorder == "big"):
        words.byteswap()
    starts = _scan(words, len(strings), types_at, where)
    source = _RawTypes(words, starts, strings, where)
    return Btf(source, big_endian=big_endian, where=where)


def btf_strings(data: bytes | memoryview, *, where: str = "BTF") -> bytes:
    """The string table of raw BTF, which the records of .BTF.ext refer to."""
    return _read_header(memoryview(data), where)[3]


def _read_header(view: memoryview, where: str) -> tuple[bool, int, int, bytes]:
    """(big_endian, start and end of the types, strings)."""
    if len(view) < HEADER_BYTES:
        raise InputError(
            f"{len(view)} bytes are too few for a BTF header of {HEADER_BYTES}", where=where
        )
    if len(view) > MAX_BYTES:
        raise InputError(f"BTF of {len(view)} bytes: the limit is {MAX_BYTES}", where=where)
    magic = bytes(view[:2])
    if magic not in (b"\x9f\xeb", b"\xeb\x9f"):
        raise InputError(f"no BTF: it begins with {magic.hex()}", where=f"{where}, offset 0x0")
    big_endian = magic == b"\xeb\x9f"
    order = ">" if big_endian else "<"
    version, flags, header_bytes = struct.unpack_from(order + "BBI", view, 2)
    type_off, type_len, str_off, str_len = struct.unpack_from(order + "4I", view, 8)
    if version != 1 or flags != 0:
        raise InputError(
            f"BTF version {version} with flags {flags:#x}: only version 1, flags 0 are known",
            where=f"{where}, offset 0x2",
        )
    if not HEADER_BYTES <= header_bytes <= len(view):
        raise InputError(f"header of {header_bytes} bytes", where=f"{where}, offset 0x4")
    types_at, strings_at = header_bytes + type_off, header_bytes + str_off
    if types_at + type_len > len(view) or type_len % 4 or types_at % 4:
        raise InputError(
            f"types at {type_off:#x}, length {type_len:#x}, do not fit or are not aligned to 4",
            where=f"{where}, offset 0x8",
        )
    if strings_at + str_len > len(view):
        raise InputError(
            f"strings at {str_off:#x}, length {str_len:#x}, do not fit {len(view):#x} bytes",
            where=f"{where}, offset 0x10",
        )
    if types_at < strings_at + str_len and strings_at < types_at + type_len:
        raise InputError("types and strings overlap", where=f"{where}, offset 0x8")
    strings = bytes(view[strings_at : strings_at + str_len])
    if not strings or strings[0] or strings[-1]:
        raise InputError(
            "the string table does not begin and end with a zero byte",
            where=f"{where}, offset {strings_at:#x}",
        )
    long_name = _TOO_LONG.search(strings)
    if long_name:
        raise InputError(
            f"a name of more than {MAX_NAME_BYTES} bytes",
            where=f"{where}, offset {strings_at + long_name.start():#x}",
        )
    return big_endian, types_at, types_at + type_len, strings


def _scan(words: array[int], strings_len: int, types_at: int, where: str) -> array[int]:
    """First word of each type (entry 0 is unused: id 0 has no bytes), everything checked."""

    def bad(at: int, reason: str) -> InputError:
        place = f"{where}, offset {types_at + 4 * at:#x}"
        return InputError(f"type id {len(starts)}: {reason}", where=place)

    kinds = list(BtfKind)
    fixed_words = [FIXED_WORDS.get(kind, 0) for kind in kinds]
    per_item = [WORDS_PER_ITEM.get(kind, 0) for kind in kinds]
    item_name = [ITEM_NAME.get(kind) for kind in kinds]
    item_type = [ITEM_TYPE.get(kind) for kind in kinds]
    referring = [kind in REFERRING for kind in kinds]
    total = len(words)
    starts = array("I", [0])
    # The largest type id seen and where: it can be judged only at the end.
    largest, largest_at, largest_in = 0, 0, 0
    at = 0
    while at < total:
        if at + 3 > total:
            raise bad(at, "the type section ends inside its header")
        name_off, info, third = words[at], words[at + 1], words[at + 2]
        kind, vlen = info >> 24 & 0x1F, info & 0xFFFF
        if not 1 <= kind < len(kinds):
            raise bad(at + 1, f"unknown kind {kind}")
        if info & 0x60FF0000:
            raise bad(at + 1, f"reserved bits set in info {info:#x}")
        if name_off >= strings_len:
            raise bad(at, f"name at {name_off:#x} lies outside the strings")
        item = per_item[kind]
        body = at + 3 + fixed_words[kind]
        end = body + item * vlen
        if end > total:
            raise bad(at + 1, f"its {vlen} items go past the end of the type section")
        if referring[kind] and third > largest:
            largest, largest_at, largest_in = third, at + 2, len(starts)
        if item and vlen:
            position = item_name[kind]
            if position is not None and max(words[body:end:item]) >= strings_len:
                raise bad(body, "the name of one of its items lies outside the strings")
            position = item_type[kind]
            if position is not None:
                highest = max(words[body + position : end : item])
                if highest > largest:
                    largest, largest_at, largest_in = highest, body, len(starts)
        elif fixed_words[kind]:
            problem, reference = _check_fixed(kind, words, at)
            if problem:
                raise bad(at + 3, problem)
            if reference > largest:
                largest, largest_at, largest_in = reference, at + 3, len(starts)
        elif kind == BtfKind.FLOAT and third not in (2, 4, 8, 12, 16):
            raise bad(at + 2, f"a float of {third} bytes")
        if kind in (BtfKind.ENUM, BtfKind.ENUM64) and third not in (1, 2, 4, 8):
            raise bad(at + 2, f"an enum of {third} bytes")
        starts.append(at)
        if len(starts) > MAX_TYPES:
            raise bad(at, f"more than {MAX_TYPES} types")
        at = end
    if largest >= len(starts):
        raise InputError(
            f"type id {largest_in} refers to type id {largest}: ids end at {len(starts) - 1}",
            where=f"{where}, offset {types_at + 4 * largest_at:#x}",
        )
    return starts


def _check_fixed(kind: int, words: array[int], at: int) -> tuple[str, int]:
    """(what is wrong, largest type id) of the fixed words of INT, ARRAY, VAR and DECL_TAG."""
    size, word = words[at + 2], words[at + 3]
    if kind == BtfKind.INT:
        bits, bit_offset, encoding = word & 0xFF, word >> 16 & 0xFF, word >> 24 & 0xF
        if size not in (1, 2, 4, 8, 16):
            return f"an integer of {size} bytes", 0
        if not bits or bits + bit_offset > size * 8:
            return f"{bits} bits at {bit_offset} in an integer of {size} bytes", 0
        if encoding not in (0, INT_SIGNED, INT_CHAR, INT_BOOL, INT_SIGNED | INT_CHAR):
            return f"integer encoding {encoding:#x}", 0
        return "", 0
    if kind == BtfKind.ARRAY:
        return "", max(word, words[at + 4])
    if kind == BtfKind.VAR and word > VarLinkage.EXTERN:
        return f"variable linkage {word}", 0
    return "", 0


class _RawTypes:
    """A TypeSource over checked words (native order) and strings."""

    def __init__(self, words: array[int], starts: array[int], strings: bytes, where: str) -> None:
        self._words = words
        self._starts = starts
        self._strings = strings
        self._where = where

    def count(self) -> int:
        return len(self._starts)

    def kind(self, type_id: int) -> BtfKind:
        if type_id == 0:
            return BtfKind.VOID
        return _KINDS[self._words[self._starts[type_id] + 1] >> 24 & 0x1F]

    def name(self, type_id: int) -> str:
        return self._string(self._words[self._starts[type_id]]) if type_id else ""

    def _string(self, offset: int) -> str:
        return read_string(self._strings, offset, self._where)

    def decode(self, type_id: int) -> BtfType:
        if type_id == 0:
            return Void()
        words, string = self._words, self._string
        at = self._starts[type_id]
        info, third = words[at + 1], words[at + 2]
        kind, vlen, flag = _KINDS[info >> 24 & 0x1F], info & 0xFFFF, bool(info >> 31)
        name = string(words[at])
        body = at + 3
        match kind:
            case BtfKind.INT:
                word = words[body]
                encoding = word >> 24 & 0xF
                return Int(
                    name,
                    third,
                    word & 0xFF,
                    word >> 16 & 0xFF,
                    signed=bool(encoding & INT_SIGNED),
                    char=bool(encoding & INT_CHAR),
                    boolean=bool(encoding & INT_BOOL),
                )
            case BtfKind.PTR:
                return Ptr(third)
            case BtfKind.ARRAY:
                return Array(words[body], words[body + 1], words[body + 2])
            case BtfKind.STRUCT | BtfKind.UNION:
                make = Struct if kind is BtfKind.STRUCT else Union
                return make(name, third, self._members(body, vlen, flag))
            case BtfKind.ENUM:
                items = words[body : body + 2 * vlen]
                return Enum(
                    name,
                    third,
                    tuple(
                        EnumValue(string(n), s32(v) if flag else v)
                        for n, v in zip(items[0::2], items[1::2], strict=True)
                    ),
                    signed=flag,
                )
            case BtfKind.ENUM64:
                items = words[body : body + 3 * vlen]
                return Enum64(
                    name,
                    third,
                    tuple(
                        EnumValue(string(n), s64(low | high << 32) if flag else low | high << 32)
                        for n, low, high in zip(items[0::3], items[1::3], items[2::3], strict=True)
                    ),
                    signed=flag,
                )
            case BtfKind.FWD:
                return Fwd(name, is_union=flag)
            case BtfKind.TYPEDEF:
                return Typedef(name, third)
            case BtfKind.VOLATILE:
                return Volatile(third)
            case BtfKind.CONST:
                return Const(third)
            case BtfKind.RESTRICT:
                return Restrict(third)
            case BtfKind.FUNC:
                linkage = FuncLinkage(vlen) if vlen <= FuncLinkage.EXTERN else vlen
                return Func(name, third, linkage)
            case BtfKind.FUNC_PROTO:
                items = words[body : body + 2 * vlen]
                params = zip(items[0::2], items[1::2], strict=True)
                return FuncProto(third, tuple(Param(string(n), t) for n, t in params))
            case BtfKind.VAR:
                return Var(name, third, VarLinkage(words[body]))
            case BtfKind.DATASEC:
                items = words[body : body + 3 * vlen]
                variables = zip(items[0::3], items[1::3], items[2::3], strict=True)
                return Datasec(name, third, tuple(SectionVar(*v) for v in variables))
            case BtfKind.FLOAT:
                return Float(name, third)
            case BtfKind.DECL_TAG:
                return DeclTag(name, third, s32(words[body]), attribute=flag)
            case BtfKind.TYPE_TAG:
                return TypeTag(name, third, attribute=flag)
            case BtfKind.VOID:
                raise AssertionError("the scan lets no kind 0 through")

    def _members(self, body: int, vlen: int, flag: bool) -> tuple[Member, ...]:
        items = self._words[body : body + 3 * vlen]
        string = self._string
        triples = zip(items[0::3], items[1::3], items[2::3], strict=True)
        if flag:
            return tuple(Member(string(n), t, o & 0xFFFFFF, o >> 24) for n, t, o in triples)
        return tuple(Member(string(n), t, o) for n, t, o in triples)


_KINDS = list(BtfKind)


def read_string(strings: bytes, offset: int, where: str) -> str:
    """The string at `offset`; InputError outside the table and beyond 4096 bytes.

    Bytes that are not UTF-8 become replacement characters: names are only shown and compared.
    """
    if not 0 <= offset < len(strings):
        raise InputError(
            f"string offset {offset:#x} lies outside the {len(strings):#x} bytes of strings",
            where=where,
        )
    end = strings.find(b"\0", offset, offset + MAX_NAME_BYTES + 1)
    if end < 0:
        raise InputError(
            f"the string at {offset:#x} is longer than {MAX_NAME_BYTES} bytes", where=where
        )
    return strings[offset:end].decode("utf-8", "replace")

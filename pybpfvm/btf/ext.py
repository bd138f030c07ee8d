""".BTF.ext: what BTF says of instructions. Kernel Documentation/bpf/btf.rst, section 4.

    u16 magic | u8 version | u8 flags | u32 hdr_len
    func_info off, len | line_info off, len | core_relo off, len   (from the header's end)
    each part: u32 record size, then per ELF section: u32 name, u32 count, records

Strings are those of .BTF. Records of newer compilers may be longer; the rest is skipped.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from pybpfvm.btf.parse import MAX_BYTES, read_string
from pybpfvm.errors import InputError, SourceLine

MAX_RECORDS = 1 << 18
MAX_TEXT_BYTES = 16 << 20  # all distinct strings that the records name
HEADER_BYTES = 24
HEADER_BYTES_CORE = 32


class CoreKind(IntEnum):
    """What a CO-RE relocation asks; the value patched into the instruction answers it."""

    FIELD_BYTE_OFFSET = 0
    FIELD_BYTE_SIZE = 1
    FIELD_EXISTS = 2
    FIELD_SIGNED = 3
    FIELD_LSHIFT_U64 = 4
    FIELD_RSHIFT_U64 = 5
    TYPE_ID_LOCAL = 6
    TYPE_ID_TARGET = 7
    TYPE_EXISTS = 8
    TYPE_SIZE = 9
    ENUMVAL_EXISTS = 10
    ENUMVAL_VALUE = 11
    TYPE_MATCHES = 12


@dataclass(frozen=True, slots=True)
class FuncInfo:
    """A function starts at byte `offset` of its section; `type_id` is its FUNC."""

    offset: int
    type_id: int


@dataclass(frozen=True, slots=True)
class LineInfo:
    """From byte `offset` of the section on, instructions belong to `line`."""

    offset: int
    line: SourceLine


@dataclass(frozen=True, slots=True)
class CoreRelocation:
    """The instruction at byte `offset` depends on `access` into the local type `type_id`."""

    offset: int
    type_id: int
    access: str
    kind: CoreKind


@dataclass(frozen=True, slots=True)
class BtfExt:
    """Records by ELF section name, in file order."""

    funcs: Mapping[str, tuple[FuncInfo, ...]] = field(default_factory=dict)
    lines: Mapping[str, tuple[LineInfo, ...]] = field(default_factory=dict)
    relocations: Mapping[str, tuple[CoreRelocation, ...]] = field(default_factory=dict)


def parse_btf_ext(
    data: bytes | memoryview, strings: bytes, *, big_endian: bool, where: str = ".BTF.ext"
) -> BtfExt:
    """Read a .BTF.ext section; `strings` is the string table of the .BTF beside it.

    Type ids are not looked up here. Raises InputError for anything malformed, for more than
    16 MiB, 262,144 records in a part or 16 MiB of text.
    """
    view = memoryview(data)
    order = ">" if big_endian else "<"
    parts = _read_header(view, order, where)
    texts = _Texts(strings, where)
    funcs: dict[str, list[FuncInfo]] = {}
    lines: dict[str, list[LineInfo]] = {}
    relocations: dict[str, list[CoreRelocation]] = {}
    for section, _, values in _records(view, parts[0], order + "2I", texts, f"{where} func_info"):
        funcs.setdefault(section, []).append(FuncInfo(*values))
    for section, _, values in _records(view, parts[1], order + "4I", texts, f"{where} line_info"):
        offset, file_off, text_off, place = values
        line = SourceLine(texts.get(file_off), place >> 10, place & 0x3FF, texts.get(text_off))
        lines.setdefault(section, []).append(LineInfo(offset, line))
    for section, at, values in _records(view, parts[2], order + "4I", texts, f"{where} core_relo"):
        offset, type_id, access_off, kind = values
        if kind > max(CoreKind):
            raise InputError(
                f"unknown CO-RE relocation kind {kind}", where=f"{where}, offset {at:#x}"
            )
        relocation = CoreRelocation(offset, type_id, texts.get(access_off), CoreKind(kind))
        relocations.setdefault(section, []).append(relocation)
    return BtfExt(
        {name: tuple(found) for name, found in funcs.items()},
        {name: tuple(found) for name, found in lines.items()},
        {name: tuple(found) for name, found in relocations.items()},
    )


class _Texts:
    """Strings by offset, each decoded once, all together within MAX_TEXT_BYTES."""

    def __init__(self, strings: bytes, where: str) -> None:
        self._strings = strings
        self._where = where
        self._known: dict[int, str] = {}
        self._left = MAX_TEXT_BYTES

    def get(self, offset: int) -> str:
        text = self._known.get(offset)
        if text is None:
            text = read_string(self._strings, offset, self._where)
            self._left -= len(text)
            if self._left < 0:
                raise InputError(f"text of more than {MAX_TEXT_BYTES} bytes", where=self._where)
            self._known[offset] = text
        return text


def _read_header(
    view: memoryview, order: str, where: str
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """(start, end) of func_info, line_info and core_relo; (0, 0) for one that is not there."""
    if len(view) < HEADER_BYTES:
        raise InputError(f"{len(view)} bytes are too few for a .BTF.ext header", where=where)
    if len(view) > MAX_BYTES:
        raise InputError(f".BTF.ext of {len(view)} bytes: the limit is {MAX_BYTES}", where=where)
    magic, version, _, header_bytes = struct.unpack_from(order + "HBBI", view)
    if magic != 0xEB9F or version != 1:
        raise InputError(
            f"magic {magic:#06x}, version {version}: expected 0xeb9f, 1 in the object's byte order",
            where=f"{where}, offset 0x0",
        )
    if not HEADER_BYTES <= header_bytes <= len(view):
        raise InputError(f"header of {header_bytes} bytes", where=f"{where}, offset 0x4")
    pairs = [(0, 0), (0, 0), (0, 0)]
    for index in range(3 if header_bytes >= HEADER_BYTES_CORE else 2):
        offset, length = struct.unpack_from(order + "2I", view, 8 + 8 * index)
        start = header_bytes + offset
        if length and (start % 4 or length < 4 or start + length > len(view)):
            raise InputError(
                f"part at {offset:#x}, length {length:#x}, does not fit or is not aligned to 4",
                where=f"{where}, offset {8 + 8 * index:#x}",
            )
        pairs[index] = (start, start + length) if length else (0, 0)
    return pairs[0], pairs[1], pairs[2]


def _records(
    view: memoryview, part: tuple[int, int], form: str, texts: _Texts, where: str
) -> Iterator[tuple[str, int, tuple[int, ...]]]:
    """(section name, offset of the record, its values) for each record of a part."""
    at, end = part
    if at == end:
        return
    order = form[0]
    smallest = struct.calcsize(form)
    (record_bytes,) = struct.unpack_from(order + "I", view, at)
    if record_bytes < smallest or record_bytes % 4:
        raise InputError(
            f"records of {record_bytes} bytes: at least {smallest}, a multiple of 4",
            where=f"{where}, offset {at:#x}",
        )
    at += 4
    total = 0
    while at < end:
        if at + 8 > end:
            raise InputError("a section header is cut short", where=f"{where}, offset {at:#x}")
        name_off, count = struct.unpack_from(order + "2I", view, at)
        section = texts.get(name_off)
        first = at + 8
        total += count
        if total > MAX_RECORDS:
            raise InputError(f"more than {MAX_RECORDS} records", where=f"{where}, offset {at:#x}")
        after = first + count * record_bytes
        if after > end:
            raise InputError(
                f"{count} records of {record_bytes} bytes do not fit",
                where=f"{where}, offset {at:#x}",
            )
        for record_at in range(first, after, record_bytes):
            yield section, record_at, struct.unpack_from(form, view, record_at)
        at = after

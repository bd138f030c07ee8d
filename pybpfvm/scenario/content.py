"""Reading content (bytes of blocks, files, messages) and numbers out of a scenario's tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pybpfvm.errors import InputError
from pybpfvm.inputfile import read_input_file
from pybpfvm.scenario.model import (
    AddressOf,
    Content,
    Field,
    Fill,
    Joined,
    Number,
    PathOf,
    Raw,
    Ref,
    RefKind,
    Typed,
    Words,
)
from pybpfvm.scenario.table import Table, TomlValue, array, integer

MAX_CONTENT_BYTES = 256 << 20
MAX_HOST_FILE_BYTES = 64 << 20
_MAX_DEPTH = 16
_WORDS = {"u8": (1, 0), "u16": (2, 0), "u32": (4, 0), "u64": (8, 0)} | {
    "s8": (1, 1),
    "s16": (2, 1),
    "s32": (4, 1),
    "s64": (8, 1),
}
KEYS = ("zero", "fill", "bytes", "text", "file", "timespec_ns", "path_of", "address_of", "struct")
CONTENT_KEYS = (*KEYS, *_WORDS, "parts")
_REF_KEYS = {kind.value: kind for kind in RefKind}


def number(
    value: TomlValue, where: str, low: int = -(1 << 63), high: int = (1 << 64) - 1
) -> Number:
    """An integer, or a table like { block = "name", offset = 8 }, { fd = "name" }."""
    if isinstance(value, dict):
        return _reference(value, where)
    return integer(value, where, low, high)


def is_reference(value: TomlValue) -> bool:
    """Whether a table names a block, descriptor, program or number of the ring, nothing else."""
    return isinstance(value, dict) and any(
        set(value) in ({key}, {key, "offset"}) and isinstance(value[key], str) for key in _REF_KEYS
    )


def _reference(value: TomlValue, where: str) -> Ref:
    table = Table(value, where)
    kinds = [key for key in _REF_KEYS if key in table]
    if len(kinds) != 1:
        table.finish(also=_REF_KEYS)
        raise InputError('one of "block", "fd", "prog" and "ring" is needed', where=where)
    name = table.name(kinds[0])
    offset = table.integer("offset", -(1 << 31), (1 << 31) - 1) or 0
    table.finish()
    return Ref(_REF_KEYS[kinds[0]], name, offset)


def field(value: TomlValue, where: str, depth: int = 0) -> Field:
    """A value of a struct field or map element: number, text, array or table of such."""
    if depth > _MAX_DEPTH:
        raise InputError(f"nested more than {_MAX_DEPTH} deep", where=where)
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bool):
        return int(value)
    if is_reference(value):
        return _reference(value, where)
    if isinstance(value, dict):
        return {name: field(item, f"{where}.{name}", depth + 1) for name, item in value.items()}
    if isinstance(value, list):
        return tuple(
            field(item, f"{where}[{index}]", depth + 1)
            for index, item in enumerate(array(value, where))
        )
    return integer(value, where, -(1 << 63), (1 << 64) - 1)


def content(table: Table, base: Path, depth: int = 0) -> Content:
    """The content that the table's keys describe; exactly one kind. Takes its keys only."""
    if depth > _MAX_DEPTH:
        raise InputError(f"nested more than {_MAX_DEPTH} deep", where=table.where)
    kinds = [key for key in CONTENT_KEYS if key in table]
    if len(kinds) != 1:
        if not kinds:
            table.finish(also=CONTENT_KEYS)
        raise InputError(
            f"says {' and '.join(kinds) or 'nothing'} of what it holds",
            where=table.where,
            remedy=f"give exactly one of {', '.join(CONTENT_KEYS)}",
        )
    kind = kinds[0]
    if kind in _WORDS:
        return _words(table, kind)
    match kind:
        case "zero":
            return Fill(0, _size(table, "zero"))
        case "fill":
            byte = table.integer("fill", 0, 255) or 0
            return Fill(byte, _size(table, "size"))
        case "bytes":
            return Raw(_hex(table.text("bytes"), table.at("bytes")))
        case "text":
            return Raw(table.text("text").encode())
        case "file":
            path = base / table.text("file")
            return Raw(read_input_file(path, MAX_HOST_FILE_BYTES, where=table.at("file")))
        case "timespec_ns":
            duration = table.integer("timespec_ns", -(1 << 62), 1 << 62) or 0
            return Words(8, divmod(duration, 1_000_000_000))
        case "path_of":
            return PathOf(table.text("path_of"))
        case "address_of":
            return AddressOf(table.text("address_of"))
        case "struct":
            fields = table.tables("fields")
            return Typed(
                table.text("struct"),
                {
                    name: field(item, f"{table.at('fields')}.{name}")
                    for name, item in fields.items()
                },
            )
        case _:
            parts = []
            for index, item in enumerate(table.items("parts")):
                part = Table(item, f"{table.at('parts')}[{index}]")
                parts.append(content(part, base, depth + 1))
                part.finish(also=CONTENT_KEYS)
            return Joined(tuple(parts))


def _size(table: Table, key: str) -> int:
    size = table.integer(key, 1, MAX_CONTENT_BYTES)
    if size is None:
        raise InputError(f"{key!r} is missing: a number of bytes", where=table.where)
    return size


def _words(table: Table, kind: str) -> Words:
    width, signed = _WORDS[kind]
    bits = 8 * width
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    raw = table.take(kind)
    where = table.at(kind)
    items = raw if isinstance(raw, list) else [raw]
    values = (
        number(item, f"{where}[{index}]", low, high)
        for index, item in enumerate(array(items, where))
    )
    return Words(width, tuple(values))


def _hex(text: str, where: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise InputError(f"not hexadecimal: {error}", where=where) from None


def fixed_size(found: Content) -> int:
    """Bytes of content as far as they are known without an object and a ring."""
    match found:
        case Raw():
            return len(found.data)
        case Fill():
            return found.size
        case Words():
            return found.width * len(found.values)
        case Joined():
            return sum(fixed_size(part) for part in found.parts)
        case _:
            return 0


def check_total(contents: Mapping[str, Content], where: str) -> None:
    """Refuse contents that are too much together."""
    total = sum(fixed_size(found) for found in contents.values())
    if total > MAX_CONTENT_BYTES:
        raise InputError(f"{total} bytes in all, {MAX_CONTENT_BYTES} at most", where=where)

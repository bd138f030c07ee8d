"""Relocatable ELF objects for BPF from values: what a test needs that no compiler makes."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

SHT_PROGBITS, SHT_SYMTAB, SHT_STRTAB, SHT_RELA, SHT_NOBITS, SHT_REL = 1, 2, 3, 4, 8, 9
WRITE, ALLOC, EXEC = 1, 2, 4
LOCAL, GLOBAL, WEAK = 0, 1, 2
NOTYPE, OBJECT, FUNC, SECTION = 0, 1, 2, 3
R_BPF_64_64, R_BPF_64_ABS64, R_BPF_64_ABS32, R_BPF_64_NODYLD32, R_BPF_64_32 = 1, 2, 3, 4, 10


@dataclass(frozen=True, slots=True)
class Sym:
    """A symbol in the section of this name ("" for an undefined one)."""

    name: str
    section: str = ""
    value: int = 0
    size: int = 0
    type: int = FUNC
    binding: int = GLOBAL


@dataclass(frozen=True, slots=True)
class Rel:
    """A relocation; with an `addend` it makes the section a RELA one."""

    offset: int
    type: int
    symbol: str
    addend: int | None = None


@dataclass(frozen=True, slots=True)
class Sec:
    """A section; `size` is for SHT_NOBITS only."""

    name: str
    data: bytes = b""
    flags: int = ALLOC
    type: int = SHT_PROGBITS
    relocations: Sequence[Rel] = field(default=())
    size: int = 0


def write_elf(
    sections: Sequence[Sec],
    symbols: Sequence[Sym],
    *,
    big_endian: bool = False,
    machine: int = 247,
) -> bytes:
    """The object. Symbols are put in the order ELF wants, local ones first."""
    order = ">" if big_endian else "<"
    ordered = sorted(symbols, key=lambda symbol: symbol.binding != LOCAL)
    number = {symbol.name: index + 1 for index, symbol in enumerate(ordered)}
    section_number = {section.name: index + 1 for index, section in enumerate(sections)}
    strings = _Strings()
    symbol_bytes = bytes(24)
    for symbol in ordered:
        symbol_bytes += struct.pack(
            order + "IBBHQQ",
            strings.add(symbol.name),
            symbol.binding << 4 | symbol.type,
            0,
            section_number[symbol.section] if symbol.section else 0,
            symbol.value,
            symbol.size,
        )
    # (name, type, flags, data, size, link, info, entry size)
    table: list[tuple[str, int, int, bytes, int, int, int, int]] = []
    for section in sections:
        size = section.size or len(section.data)
        table.append((section.name, section.type, section.flags, section.data, size, 0, 0, 0))
    symtab = len(sections) + 1
    local = sum(symbol.binding == LOCAL for symbol in ordered) + 1
    table.append((".symtab", SHT_SYMTAB, 0, symbol_bytes, len(symbol_bytes), symtab + 1, local, 24))
    table.append((".strtab", SHT_STRTAB, 0, bytes(strings), len(bytes(strings)), 0, 0, 0))
    for section in sections:
        if not section.relocations:
            continue
        explicit = section.relocations[0].addend is not None
        data = b""
        for relocation in section.relocations:
            info = number[relocation.symbol] << 32 | relocation.type
            data += struct.pack(order + "QQ", relocation.offset, info)
            if explicit:
                assert relocation.addend is not None
                data += struct.pack(order + "q", relocation.addend)
        name = (".rela" if explicit else ".rel") + section.name
        kind, entry = (SHT_RELA, 24) if explicit else (SHT_REL, 16)
        info_section = section_number[section.name]
        table.append((name, kind, 0, data, len(data), symtab, info_section, entry))
    names = _Strings()
    name_offsets = [names.add(row[0]) for row in table] + [names.add(".shstrtab")]
    table.append((".shstrtab", SHT_STRTAB, 0, bytes(names), len(bytes(names)), 0, 0, 0))
    body = b""
    headers = bytes(64)
    for name_offset, row in zip(name_offsets, table, strict=True):
        _, kind, flags, data, size, link, info, entry = row
        body += bytes(-len(body) % 8)
        headers += struct.pack(
            order + "IIQQQQIIQQ",
            name_offset,
            kind,
            flags,
            0,
            64 + len(body),
            size,
            link,
            info,
            8,
            entry,
        )
        body += data
    body += bytes(-len(body) % 8)
    identity = b"\x7fELF" + bytes([2, 2 if big_endian else 1, 1]) + bytes(9)
    header = identity + struct.pack(
        order + "HHIQQQIHHHHHH",
        1,
        machine,
        1,
        0,
        0,
        64 + len(body),
        0,
        64,
        0,
        0,
        64,
        len(table) + 1,
        len(table),
    )
    return header + body + headers


class _Strings:
    def __init__(self) -> None:
        self._data = bytearray(1)

    def add(self, text: str) -> int:
        offset = len(self._data)
        self._data += text.encode() + b"\0"
        return offset

    def __bytes__(self) -> bytes:
        return bytes(self._data)

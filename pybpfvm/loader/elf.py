"""An ELF object as sections, symbols and relocations, every size checked before it is used.

A reader for hostile files: sizes are not trusted, strings have a longest length, and records are
bounded in number. (A library's would have to be imported, which takes longer than judging a small
program; tests compare this reader with pyelftools.) ELF-64, System V gABI chapters 4 and 5;
machine EM_BPF (247).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from pybpfvm.errors import InputError

ELF_MAGIC = b"\x7fELF"
NOT_ELF = "not an ELF object"  # the reason of the InputError for any other file

MAX_FILE_BYTES = 32 << 20
MAX_SECTIONS = 4096
MAX_SYMBOLS = 1 << 17
MAX_RELOCATIONS = 1 << 18
MAX_NAME_BYTES = 4096

ET_REL = 1
EM_NONE, EM_BPF = 0, 247
SHT_PROGBITS, SHT_SYMTAB, SHT_RELA, SHT_NOBITS, SHT_REL = 1, 2, 4, 8, 9
SHF_WRITE, SHF_ALLOC, SHF_EXECINSTR, SHF_COMPRESSED = 1, 2, 4, 0x800
SHN_UNDEF, SHN_LORESERVE = 0, 0xFF00
STB_LOCAL, STB_GLOBAL, STB_WEAK = 0, 1, 2
STT_NOTYPE, STT_OBJECT, STT_FUNC, STT_SECTION = 0, 1, 2, 3
STV_INTERNAL, STV_HIDDEN = 1, 2

# Elf64_Shdr: name, type, flags, addr, offset, size, link, info, addralign, entsize.
_HEADER = "IIQQQQIIQQ"
_NAME, _TYPE, _FLAGS, _OFFSET, _SIZE, _LINK, _INFO = 0, 1, 2, 4, 5, 6, 7
_Header = tuple[int, ...]

# Sections whose relocations matter: code, maps, data and BTF, but not DWARF.
_DEBUG_PREFIXES = (".debug_", ".eh_frame")


@dataclass(frozen=True, slots=True)
class Section:
    """A section; `data` is empty for SHT_NOBITS, whose `size` still counts."""

    index: int
    name: str
    type: int
    flags: int
    size: int
    offset: int
    data: memoryview

    @property
    def is_code(self) -> bool:
        """Holds instructions."""
        return bool(self.type == SHT_PROGBITS and self.flags & SHF_EXECINSTR)


@dataclass(frozen=True, slots=True)
class Symbol:
    """A symbol; `value` is a byte offset inside section `section` (0: undefined)."""

    index: int
    name: str
    value: int
    size: int
    type: int
    binding: int
    visibility: int
    section: int

    @property
    def is_global(self) -> bool:
        """Visible outside its file: global or weak, and not hidden."""
        return self.binding != STB_LOCAL and self.visibility not in (STV_INTERNAL, STV_HIDDEN)


@dataclass(frozen=True, slots=True)
class Relocation:
    """At byte `offset` of a section goes the address of `symbol`; `addend` None: it lies there."""

    offset: int
    type: int
    symbol: int
    addend: int | None


@dataclass(frozen=True, slots=True)
class ElfObject:
    """A checked ELF object. `relocations` are by index of the section they change."""

    path: str
    big_endian: bool
    sections: tuple[Section, ...]
    symbols: tuple[Symbol, ...]
    relocations: Mapping[int, tuple[Relocation, ...]]

    def section(self, name: str) -> Section | None:
        """The first section with this name, None if there is none."""
        return next((found for found in self.sections if found.name == name), None)

    def where(self, section: Section | int, offset: int | None = None) -> str:
        """A place for messages: "a.o: section .maps, offset 0x20"."""
        found = self.sections[section] if isinstance(section, int) else section
        place = f"{self.path}: section {found.name}" if found.name else self.path
        return place if offset is None else f"{place}, offset {offset:#x}"

    def symbol_of(self, relocation: Relocation) -> Symbol:
        """The symbol a relocation names (its index was checked)."""
        return self.symbols[relocation.symbol]


def read_elf(data: bytes, path: str) -> ElfObject:
    """Read a BPF object file; `path` is for messages. Raises InputError for anything malformed.

    Limits: 32 MiB, 4096 sections, 131,072 symbols, 262,144 relocations.
    """
    if len(data) > MAX_FILE_BYTES:
        raise InputError(f"object of {len(data)} bytes: the limit is {MAX_FILE_BYTES}", where=path)
    order = _check_identity(data, path)
    headers, names_index = _read_headers(data, order)
    view = memoryview(data)
    sections = _sections(view, headers, names_index, path)
    symbols = _symbols(sections, headers, order, path)
    relocations = _relocations(sections, headers, symbols, order, path)
    return ElfObject(path, order == ">", sections, symbols, relocations)


def _check_identity(data: bytes, path: str) -> str:
    """The struct byte order; InputError unless this is a 64-bit BPF object."""
    if not data.startswith(ELF_MAGIC):
        raise InputError(NOT_ELF, where=f"{path}: offset 0x0", remedy="give what clang -c made")
    if len(data) < 64:
        raise InputError(
            f"the file ends after {len(data)} bytes, inside its ELF header", where=path
        )
    if data[4] != 2 or data[5] not in (1, 2):
        raise InputError(
            f"ELF class {data[4]}, byte order {data[5]}: BPF objects are 64-bit, 1 or 2",
            where=f"{path}: offset 0x4",
        )
    order = "<" if data[5] == 1 else ">"
    kind, machine = struct.unpack_from(order + "HH", data, 16)
    if machine not in (EM_NONE, EM_BPF) or kind != ET_REL:
        raise InputError(
            f"ELF type {kind} for machine {machine}: expected a relocatable object (1) for "
            f"BPF ({EM_BPF})",
            where=f"{path}: offset 0x10",
            remedy="compile with clang -target bpf -c",
        )
    header_bytes, count = struct.unpack_from(order + "HH", data, 58)
    (table_at,) = struct.unpack_from(order + "Q", data, 40)
    if header_bytes != 64 or not 0 < count <= MAX_SECTIONS:
        raise InputError(
            f"{count} section headers of {header_bytes} bytes: expected 1 to {MAX_SECTIONS} of 64",
            where=f"{path}: offset 0x3a",
        )
    if table_at + 64 * count > len(data):
        raise InputError(
            f"section headers at {table_at:#x} lie beyond the end of the file",
            where=f"{path}: offset 0x28",
        )
    return order


def _read_headers(data: bytes, order: str) -> tuple[list[_Header], int]:
    """(section headers, index of the section that holds their names); that the table lies in the
    file was checked."""
    (table_at,) = struct.unpack_from(order + "Q", data, 40)
    count, names_index = struct.unpack_from(order + "HH", data, 60)
    layout = struct.Struct(order + _HEADER)
    table = memoryview(data)[table_at : table_at + layout.size * count]
    return list(layout.iter_unpack(table)), names_index


def _sections(
    view: memoryview, headers: list[_Header], names_index: int, path: str
) -> tuple[Section, ...]:
    if not 0 < names_index < len(headers):
        raise InputError(
            f"section names in section {names_index}: there are {len(headers)}",
            where=f"{path}: offset 0x3e",
        )
    names = _contents(view, headers[names_index], names_index, "", path)
    sections = []
    for index, header in enumerate(headers):
        if index == 0:
            sections.append(Section(0, "", 0, 0, 0, 0, memoryview(b"")))
            continue
        name = _string(names, header[_NAME], f"{path}: section header {index}")
        kind, flags = header[_TYPE], header[_FLAGS]
        if flags & SHF_COMPRESSED and not name.startswith(_DEBUG_PREFIXES):
            raise InputError("a compressed section", where=f"{path}: section {name}")
        contents = _contents(view, header, index, name, path)
        sections.append(Section(index, name, kind, flags, header[_SIZE], header[_OFFSET], contents))
    return tuple(sections)


def _contents(view: memoryview, header: _Header, index: int, name: str, path: str) -> memoryview:
    if header[_TYPE] == SHT_NOBITS:
        return memoryview(b"")
    start, size = header[_OFFSET], header[_SIZE]
    if start + size > len(view):
        raise InputError(
            f"{size:#x} bytes at {start:#x} lie beyond the end of the file ({len(view):#x})",
            where=f"{path}: section {name or index}",
            remedy="the file is truncated or damaged",
        )
    return view[start : start + size]


def _string(table: memoryview, offset: int, where: str) -> str:
    if offset >= len(table):
        raise InputError(f"name at {offset:#x} lies outside the string table", where=where)
    piece = bytes(table[offset : offset + MAX_NAME_BYTES + 1])
    end = piece.find(b"\0")
    if end < 0:
        raise InputError(f"the name at {offset:#x} has no end", where=where)
    return piece[:end].decode("utf-8", "replace")


def _records(section: Section, form: str, order: str, limit: int, path: str) -> struct.Struct:
    """The layout of a section's records, once their number was found to be in order."""
    layout = struct.Struct(order + form)
    if section.size % layout.size:
        raise InputError(
            f"{section.size:#x} bytes are no whole number of records of {layout.size}",
            where=f"{path}: section {section.name}",
        )
    if section.size // layout.size > limit:
        raise InputError(
            f"{section.size // layout.size} records: the limit is {limit}",
            where=f"{path}: section {section.name}",
        )
    return layout


def _symbols(
    sections: tuple[Section, ...], headers: list[_Header], order: str, path: str
) -> tuple[Symbol, ...]:
    tables = [section for section in sections if section.type == SHT_SYMTAB]
    if len(tables) > 1:
        raise InputError("a second symbol table", where=f"{path}: section {tables[1].name}")
    if not tables:
        return ()
    table = tables[0]
    link = headers[table.index][_LINK]
    if not 0 < link < len(sections):
        raise InputError(
            f"symbol names in section {link}: there are {len(sections)}",
            where=f"{path}: section {table.name}",
        )
    names = sections[link].data
    layout = _records(table, "IBBHQQ", order, MAX_SYMBOLS, path)
    # Names may share the bytes of one long string: what is kept is bounded by the file's size.
    budget = MAX_FILE_BYTES
    symbols = []
    for index, record in enumerate(layout.iter_unpack(table.data)):
        name_off, info, other, section, value, size = record
        where = f"{path}: section {table.name}, offset {index * layout.size:#x}"
        name = _string(names, name_off, where) if name_off else ""
        budget -= len(name)
        if budget < 0:
            raise InputError("symbol names exceed the size of the largest object", where=where)
        kind = info & 0xF
        if section < SHN_LORESERVE:
            if section >= len(sections):
                raise InputError(
                    f"symbol {name!r} lies in section {section}: there are {len(sections)}",
                    where=where,
                )
            if section and value > sections[section].size and kind <= STT_SECTION:
                raise InputError(
                    f"symbol {name!r} lies at {value:#x}, past the end of section "
                    f"{sections[section].name}",
                    where=where,
                )
        if kind == STT_SECTION and not name and section < len(sections):
            name = sections[section].name
        symbols.append(Symbol(index, name, value, size, kind, info >> 4, other & 3, section))
    return tuple(symbols)


def _relocations(
    sections: tuple[Section, ...],
    headers: list[_Header],
    symbols: tuple[Symbol, ...],
    order: str,
    path: str,
) -> dict[int, tuple[Relocation, ...]]:
    found: dict[int, list[Relocation]] = {}
    left = MAX_RELOCATIONS
    for section in sections:
        if section.type not in (SHT_REL, SHT_RELA):
            continue
        where = f"{path}: section {section.name}"
        target = headers[section.index][_INFO]
        if not 0 < target < len(sections):
            raise InputError(f"it relocates section {target}, which there is not", where=where)
        if sections[target].name.startswith(_DEBUG_PREFIXES):
            continue
        with_addend = section.type == SHT_RELA
        layout = _records(section, "QQq" if with_addend else "QQ", order, left, path)
        records = found.setdefault(target, [])
        left -= section.size // layout.size
        limit = sections[target].size
        for position, record in enumerate(layout.iter_unpack(section.data)):
            offset, info = record[0], record[1]
            symbol = info >> 32
            if symbol >= len(symbols) or offset + 4 > limit:
                raise InputError(
                    f"relocation at {offset:#x} of section {sections[target].name} "
                    f"({limit:#x} bytes) with symbol {symbol} (of {len(symbols)})",
                    where=f"{where}, offset {position * layout.size:#x}",
                )
            addend = record[2] if with_addend else None
            records.append(Relocation(offset, info & 0xFFFFFFFF, symbol, addend))
    return {index: tuple(records) for index, records in found.items()}

"""What LLVM writes: a relocatable ELF object with code, constants and a stack map.

Nothing is resolved here but what needs no address: sections are laid out one behind another
(`Image.data`), references between them are relative. LLVM's stack map says for each patchpoint
where it is and where its live values are. System V ABI, AMD64 supplement; "Stack maps and patch
points in LLVM", version 3 of the format.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from pybpfvm.bits import align_up
from pybpfvm.errors import InternalError

_HEADER = struct.Struct("<40xQ10xHHH")  # e_shoff, e_shentsize, e_shnum, e_shstrndx
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELA = struct.Struct("<QQq")
_SHT_SYMTAB, _SHT_RELA, _SHT_NOBITS = 2, 4, 8
_SHF_ALLOC = 2
_R_64, _R_PC32, _R_PLT32, _R_PC64 = 1, 2, 4, 24
_RELATIVE = frozenset({_R_PC32, _R_PLT32})
_STACKMAPS = ".llvm_stackmaps"
_LEFT_OUT = frozenset({_STACKMAPS, ".eh_frame"})

_MAP_HEADER = struct.Struct("<BxxxIII")  # version, functions, constants, records
_MAP_FUNCTION = struct.Struct("<QQQ")  # address, frame size, records
_MAP_RECORD = struct.Struct("<QIHH")  # patchpoint id, offset in the function, -, locations
_LOCATION = struct.Struct("<BxHHxxi")  # kind, bytes, DWARF register, offset or constant

# Kinds of locations.
REGISTER, DIRECT, INDIRECT, CONSTANT, CONSTANT_INDEX = range(1, 6)

# (kind, DWARF number of a register, offset or constant)
Location = tuple[int, int, int]


@dataclass(slots=True)
class Object:
    """An object file, laid out. `data`: code first, then constants, `symbols` are offsets in it,
    `places` by offset of a patchpoint its id and where its locations are, `wants` the places (a
    rel32, its addend) that refer to symbols that are not in the object."""

    data: bytearray = field(default_factory=bytearray)
    code_bytes: int = 0
    symbols: dict[str, int] = field(default_factory=dict)
    wants: list[tuple[int, str, int]] = field(default_factory=list)
    places: list[tuple[int, int, int]] = field(default_factory=list)
    _map: bytes = b""
    _constants: int = 0

    def locations(self, at: int) -> list[Location]:
        """The locations of a record whose place in the map is `at`, constants looked up."""
        (count,) = struct.unpack_from("<H", self._map, at + 14)
        found: list[Location] = []
        for number in range(count):
            kind, _, register, offset = _LOCATION.unpack_from(self._map, at + 16 + 12 * number)
            if kind == CONSTANT_INDEX:
                (offset,) = struct.unpack_from("<Q", self._map, self._constants + 8 * offset)
                kind = CONSTANT
            found.append((kind, register, offset))
        return found


def read_object(raw: bytes) -> Object:
    """Lay out the object file. InternalError for what we did not expect of LLVM."""
    sections = _sections(raw)
    made = Object()
    at = _lay_out(raw, sections, made)
    symbols = _symbols(raw, sections, at)
    for name, _, place, value in symbols:
        if name and place is not None:
            made.symbols[name] = value
    for section in sections:
        if section.kind != _SHT_RELA or section.info not in at:
            continue
        for offset, info, addend in _RELA.iter_unpack(section.bytes(raw)):
            name, _, place, value = symbols[info >> 32]
            if info & 0xFFFF_FFFF not in _RELATIVE:
                raise InternalError(f"LLVM made a relocation of type {info & 0xFFFFFFFF}")
            where = at[section.info] + offset
            if place is None:
                made.wants.append((where, name, addend))
            else:
                delta = value + addend - where
                made.data[where : where + 4] = delta.to_bytes(4, "little", signed=True)
    _read_map(raw, sections, symbols, made)
    return made


@dataclass(slots=True)
class _Section:
    name: str
    kind: int
    flags: int
    offset: int
    size: int
    link: int
    info: int
    align: int

    def bytes(self, raw: bytes) -> memoryview:
        return memoryview(raw)[self.offset : self.offset + self.size]


# (name, -, section or None, offset in the data)
_Symbol = tuple[str, int, int | None, int]


def _sections(raw: bytes) -> list[_Section]:
    try:
        offset, size, count, names_at = _HEADER.unpack_from(raw)
        rows = [_SECTION.unpack_from(raw, offset + size * number) for number in range(count)]
        names = rows[names_at]
        return [
            _Section(
                _string(raw, names[4] + row[0]),
                row[1],
                row[2],
                row[4],
                row[5],
                row[6],
                row[7],
                row[8],
            )
            for row in rows
        ]
    except (struct.error, IndexError, ValueError) as error:
        raise InternalError(f"LLVM made an object that can not be read: {error}") from error


def _string(raw: bytes, at: int) -> str:
    return raw[at : raw.index(b"\0", at)].decode("utf-8", "replace")


def _lay_out(raw: bytes, sections: list[_Section], made: Object) -> dict[int, int]:
    """Put the sections that are loaded behind one another, code first; where they are."""
    loaded = [
        number
        for number, section in enumerate(sections)
        if section.flags & _SHF_ALLOC and section.name not in _LEFT_OUT and section.size
    ]
    loaded.sort(key=lambda number: sections[number].name != ".text")
    at: dict[int, int] = {}
    for number in loaded:
        section = sections[number]
        if section.kind == _SHT_NOBITS:
            raise InternalError(f"LLVM made a section {section.name} without content")
        made.data += bytes(-len(made.data) % max(section.align, 1))
        at[number] = len(made.data)
        made.data += section.bytes(raw)
        if section.name == ".text":
            made.code_bytes = len(made.data)
    return at


def _symbols(raw: bytes, sections: list[_Section], at: dict[int, int]) -> list[_Symbol]:
    table = next(section for section in sections if section.kind == _SHT_SYMTAB)
    names = sections[table.link].offset
    found: list[_Symbol] = []
    for name, _, _, section, value, _ in _SYMBOL.iter_unpack(table.bytes(raw)):
        place = section if section in at else None
        found.append((_string(raw, names + name), 0, place, at.get(section, 0) + value))
    return found


def _read_map(raw: bytes, sections: list[_Section], symbols: list[_Symbol], made: Object) -> None:
    numbers = [n for n, section in enumerate(sections) if section.name == _STACKMAPS]
    if not numbers:
        return
    made._map = data = bytes(sections[numbers[0]].bytes(raw))
    addresses: dict[int, int] = {}
    for section in sections:
        if section.kind == _SHT_RELA and section.info == numbers[0]:
            for offset, info, addend in _RELA.iter_unpack(section.bytes(raw)):
                addresses[offset] = symbols[info >> 32][3] + addend
    version, functions, constants, _ = _MAP_HEADER.unpack_from(data)
    if version != 3:
        raise InternalError(f"LLVM made a stack map of version {version}")
    made._constants = _MAP_HEADER.size + _MAP_FUNCTION.size * functions
    at = made._constants + 8 * constants
    for number in range(functions):
        row = _MAP_HEADER.size + _MAP_FUNCTION.size * number
        _, _, records = _MAP_FUNCTION.unpack_from(data, row)
        start = addresses[row]
        for _ in range(records):
            point, offset, _, locations = _MAP_RECORD.unpack_from(data, at)
            made.places.append((start + offset, point, at))
            behind = align_up(at + _MAP_RECORD.size + _LOCATION.size * locations, 8)
            (registers,) = struct.unpack_from("<2xH", data, behind)
            at = align_up(behind + 4 + 4 * registers, 8)

"""Maps that an object declares: section `.maps` by BTF types, section `maps` by records.

`.maps` (libbpf): each variable is a struct whose members say it all by their types:
`int (*max_entries)[64]` is the number 64, `u32 *key` the type u32, `struct m *values[]` what the
map holds. `maps` (older): 20 bytes type, key_size, value_size, max_entries, map_flags; the
28 bytes of kernel samples and the 36 of iproute2 begin with the same five words:

    28   ... inner_map_idx, numa_node   for a map-in-map, else id, pinning
    36   ... id, pinning, inner_id, inner_idx
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pybpfvm.btf.types import (
    Array,
    Btf,
    BtfKind,
    BtfType,
    Datasec,
    Enum,
    Enum64,
    Ptr,
    SectionVar,
    Struct,
    Var,
    VarLinkage,
)
from pybpfvm.errors import InputError
from pybpfvm.loader.elf import STT_FUNC, STT_SECTION, ElfObject, Section, Symbol
from pybpfvm.program import MapSpec, MapType, told_apart

MAX_MAPS = 4096
MAX_SLOTS = 1 << 16
_WORDS = ("type", "max_entries", "map_flags", "key_size", "value_size", "pinning", "numa_node")
_OUTER = (MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS)
_R_BPF_64_64, _R_BPF_64_ABS64 = 1, 2


@dataclass(frozen=True, slots=True)
class PlacedMap:
    """A map and the bytes [offset, offset + size) of the section that stand for it."""

    spec: MapSpec
    section: int
    offset: int
    size: int


def declared_maps(elf: ElfObject, btf: Btf | None) -> list[PlacedMap]:
    """The maps of all `maps` and `.maps` sections, in order of their place.

    Raises InputError with section and offset for anything malformed and for more than 4096 maps.
    """
    found: list[PlacedMap] = []
    for section in elf.sections:
        if section.name == "maps":
            found += _legacy_maps(elf, section)
        elif section.name == ".maps":
            found += _typed_maps(elf, section, btf)
    if len(found) > MAX_MAPS:
        raise InputError(f"{len(found)} maps: the limit is {MAX_MAPS}", where=elf.path)
    return found


def map_type(number: int) -> MapType | int:
    """The MapType of this number, the number itself where it has no name."""
    return MapType(number) if number in _KNOWN_TYPES else number


_KNOWN_TYPES = frozenset(MapType)


# -- section maps -------------------------------------------------------------------------------


def _legacy_maps(elf: ElfObject, section: Section) -> list[PlacedMap]:
    symbols: dict[int, Symbol] = {}
    for symbol in elf.symbols:
        if symbol.section == section.index and symbol.type != STT_SECTION and symbol.name:
            symbols.setdefault(symbol.value, symbol)
    if not section.size:
        return []
    if not symbols or section.size % len(symbols):
        raise InputError(
            f"{section.size} bytes for {len(symbols)} map symbols: records of equal size expected",
            where=elf.where(section, 0),
            remedy="each map needs a named, non-inlined definition",
        )
    record_bytes = section.size // len(symbols)
    if record_bytes < 20 or record_bytes % 4 or section.type == 8:
        raise InputError(
            f"map records of {record_bytes} bytes: known are 20, 28 and 36",
            where=elf.where(section, 0),
        )
    order = ">" if elf.big_endian else "<"
    records: list[tuple[str, int, tuple[int, ...]]] = []
    for offset in range(0, section.size, record_bytes):
        named = symbols.get(offset)
        if named is None:
            raise InputError("no symbol names this map record", where=elf.where(section, offset))
        words = struct.unpack_from(f"{order}{record_bytes // 4}I", section.data, offset)
        known = {28: 7, 36: 9}.get(record_bytes, 5)
        if any(words[known:]):
            raise InputError(
                f"map {named.name} sets fields beyond the known ones of its "
                f"{record_bytes}-byte record",
                where=elf.where(section, offset + 4 * known),
            )
        records.append((named.name, offset, words))
    return [
        PlacedMap(_legacy_spec(elf, section, records, at), section.index, offset, record_bytes)
        for at, (_, offset, _) in enumerate(records)
    ]


def _legacy_spec(
    elf: ElfObject, section: Section, records: list[tuple[str, int, tuple[int, ...]]], at: int
) -> MapSpec:
    name, offset, words = records[at]
    spec = _plain(name, words, section.name)
    where = elf.where(section, offset)
    if len(words) == 7:
        if spec.type not in _OUTER:
            return replace(spec, pinning=words[6])
        if words[5] >= len(records) or words[5] == at:
            raise InputError(f"map {name}: inner map number {words[5]}", where=where)
        inner_name, _, inner_words = records[words[5]]
        return replace(spec, inner=_plain(inner_name, inner_words, section.name))
    if len(words) != 9:
        return spec
    spec = replace(spec, pinning=words[6])
    if spec.type not in _OUTER:
        return spec
    # iproute2: maps whose id is the outer map's inner_id; inner_idx is their place in it,
    # -1 for one that is only the pattern.
    members = [r for r in records if words[7] and r[2][5] == words[7] and r[0] != name]
    if not members:
        raise InputError(f"map {name}: no inner map has id {words[7]}", where=where)
    slots = {r[2][8]: r[0] for r in members if r[2][8] < 1 << 31}
    inner_name, _, inner_words = members[0]
    return replace(spec, inner=_plain(inner_name, inner_words, section.name), slots=slots)


def _plain(name: str, words: tuple[int, ...], section: str) -> MapSpec:
    kind, key_size, value_size, max_entries, flags = words[:5]
    return MapSpec(
        name, map_type(kind), key_size, value_size, max_entries, flags=flags, section=section
    )


# -- section .maps ------------------------------------------------------------------------------


def _typed_maps(elf: ElfObject, section: Section, btf: Btf | None) -> list[PlacedMap]:
    if not section.size:
        return []
    datasec_id = btf.find(".maps", BtfKind.DATASEC) if btf is not None else None
    if btf is None or datasec_id is None:
        raise InputError(
            "maps declared by BTF, but there is no BTF for them",
            where=elf.where(section),
            remedy="compile with clang -g",
        )
    datasec = btf.type(datasec_id)
    assert isinstance(datasec, Datasec)
    found = []
    # What another object has is named here, too, without a place.
    here = [one for one in datasec.variables if not _is_extern(btf.type(one.type_id))]
    names = _names(btf, here)
    for variable in here:
        where = elf.where(section, variable.offset)
        var = btf.type(variable.type_id)
        if not isinstance(var, Var):
            raise InputError(f"type id {variable.type_id} is no variable", where=where)
        if variable.offset + variable.size > section.size:
            raise InputError(f"map {var.name} lies past the section's end", where=where)
        spec, values_at = _TypedMap(btf, names[variable.offset], where).read(var.type_id)
        slots = _initial_slots(elf, section, variable, names, values_at, spec)
        if slots:
            spec = replace(spec, slots=slots)
        found.append(PlacedMap(spec, section.index, variable.offset, variable.size))
    _check_apart(elf, section, found)
    return found


def _is_extern(type_: BtfType) -> bool:
    return isinstance(type_, Var) and type_.linkage == VarLinkage.EXTERN


def _names(btf: Btf, variables: Sequence[SectionVar]) -> Mapping[int, str]:
    """Names of variables by their place."""
    types = [btf.type(variable.type_id) for variable in variables]
    names = told_apart(one.name if isinstance(one, Var) else "" for one in types)
    return dict(zip((variable.offset for variable in variables), names, strict=True))


def _check_apart(elf: ElfObject, section: Section, found: list[PlacedMap]) -> None:
    end = 0
    for placed in found:
        if placed.offset < end:
            raise InputError(
                f"map {placed.spec.name} overlaps the one before it",
                where=elf.where(section, placed.offset),
            )
        end = placed.offset + placed.size


@dataclass(frozen=True, slots=True)
class _TypedMap:
    """Reads one map definition; `where` is the place of its variable."""

    btf: Btf
    name: str
    where: str

    def read(self, type_id: int, inner: bool = False) -> tuple[MapSpec, int | None]:
        """(the map, byte offset of its `values` member or None)."""
        btf = self.btf
        definition = btf.type(btf.resolve(type_id))
        if not isinstance(definition, Struct):
            raise self._bad(f"its type is no struct but {definition.kind.name}")
        numbers = dict.fromkeys(_WORDS, 0)
        types = {"key": 0, "value": 0}
        extra = 0
        inner_map: MapSpec | None = None
        values_at = None
        for member in definition.members:
            if member.name in numbers:
                numbers[member.name] = self._number(member.name, member.type_id) & 0xFFFFFFFF
            elif member.name == "map_extra":
                extra = self._number(member.name, member.type_id)
            elif member.name in types:
                types[member.name] = self._pointed(member.name, member.type_id)
            elif member.name == "values" and not inner:
                inner_map = self._values(member.type_id)
                values_at = member.bit_offset // 8
            else:
                raise self._bad(f"unknown member {member.name!r}")
        key_size = self._agreed("key", numbers["key_size"], types["key"])
        value_size = self._agreed("value", numbers["value_size"], types["value"])
        kind = map_type(numbers["type"])
        if values_at is not None and kind in (*_OUTER, MapType.PROG_ARRAY):
            # What such maps hold is a 32-bit id, and keys are 32-bit unless the map says.
            value_size = value_size or 4
            key_size = key_size or 4
        elif values_at is not None:
            raise self._bad(f"a map of type {int(kind)} can not declare values")
        spec = MapSpec(
            self.name,
            kind,
            key_size,
            value_size,
            numbers["max_entries"],
            flags=numbers["map_flags"],
            section=".maps",
            inner=inner_map,
            btf_key_type_id=types["key"],
            btf_value_type_id=types["value"],
            pinning=numbers["pinning"],
            map_extra=extra,
        )
        return spec, values_at

    def _bad(self, reason: str) -> InputError:
        return InputError(f"map {self.name}: {reason}", where=self.where)

    def _number(self, member: str, type_id: int) -> int:
        """`int (*member)[N]`, or the one enumerator of an enum (for more than 32 bits)."""
        btf = self.btf
        found = btf.type(btf.resolve(type_id))
        if isinstance(found, Enum | Enum64) and len(found.values) == 1:
            return found.values[0].value & 0xFFFFFFFFFFFFFFFF
        if isinstance(found, Ptr):
            pointed = btf.type(btf.resolve(found.type_id))
            if isinstance(pointed, Array):
                return pointed.count
        raise self._bad(f"{member} is not declared as int (*{member})[N]")

    def _pointed(self, member: str, type_id: int) -> int:
        found = self.btf.type(self.btf.resolve(type_id))
        if not isinstance(found, Ptr):
            raise self._bad(f"{member} is not declared as a pointer to its type")
        return found.type_id

    def _agreed(self, what: str, given: int, type_id: int) -> int:
        size = self.btf.size(type_id) if type_id else given
        if (given and given != size) or size > 0xFFFFFFFF:
            raise self._bad(f"{what}_size is {given}, but its type has {size} bytes")
        return size

    def _values(self, type_id: int) -> MapSpec | None:
        """The pattern of inner maps from `struct m *values[]`, None for programs."""
        btf = self.btf
        array = btf.type(btf.resolve(type_id))
        pointer = btf.type(btf.resolve(array.element_id)) if isinstance(array, Array) else None
        if not isinstance(pointer, Ptr):
            raise self._bad("values is not declared as an array of pointers")
        if btf.kind(btf.resolve(pointer.type_id)) is BtfKind.FUNC_PROTO:
            return None
        inner = _TypedMap(btf, f"{self.name}.inner", self.where)
        return inner.read(pointer.type_id, inner=True)[0]


def _initial_slots(
    elf: ElfObject,
    section: Section,
    variable: SectionVar,
    names: Mapping[int, str],
    values_at: int | None,
    spec: MapSpec,
) -> Mapping[int, str]:
    """What the initialiser of `values` puts where: relocations of 8-byte places in the map."""
    slots: dict[int, str] = {}
    for relocation in elf.relocations.get(section.index, ()):
        inside = relocation.offset - variable.offset
        if not 0 <= inside < variable.size:
            continue
        symbol = elf.symbol_of(relocation)
        where = elf.where(section, relocation.offset)
        if relocation.type not in (_R_BPF_64_64, _R_BPF_64_ABS64):
            raise InputError(f"relocation of type {relocation.type} in a map", where=where)
        if values_at is None or inside < values_at or (inside - values_at) % 8:
            raise InputError(f"map {spec.name} holds an address outside its values", where=where)
        addend = relocation.addend
        if addend is None:
            raw = bytes(section.data[relocation.offset : relocation.offset + 8])
            addend = int.from_bytes(raw, "big" if elf.big_endian else "little")
        at = symbol.value + addend
        name = _slot_name(elf, symbol, at, spec, where)
        slots[(inside - values_at) // 8] = (
            names.get(at, name) if symbol.section == section.index else name
        )
        if len(slots) > MAX_SLOTS:
            raise InputError(f"more than {MAX_SLOTS} initial values", where=where)
    return dict(sorted(slots.items()))


def _slot_name(elf: ElfObject, symbol: Symbol, value: int, spec: MapSpec, where: str) -> str:
    """Name of the program or map that an initial value points to."""
    wanted = "program" if spec.type == MapType.PROG_ARRAY else "map"
    name = symbol.name
    if symbol.type == STT_SECTION:
        name = next(
            (
                other.name
                for other in elf.symbols
                if other.section == symbol.section
                and other.type != STT_SECTION
                and other.value == value
                and other.name
            ),
            "",
        )
    ok = symbol.section and elf.sections[symbol.section].is_code == (wanted == "program")
    if not name or not ok or (symbol.type == STT_FUNC) != (wanted == "program"):
        raise InputError(
            f"map {spec.name}: {symbol.name or 'a symbol'!r} is no {wanted} of this object",
            where=where,
        )
    return name

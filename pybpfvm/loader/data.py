"""Global variables: each data section becomes an array map with one element.

`.rodata*` is frozen and read-only for programs; all can be mapped by the host, as libbpf makes
them. The map is called as its section. Sections of any other name count if a program refers to
them. Variables in `.addr_space.1` have no map of their own: they are in the object's arena.
"""

from __future__ import annotations

from collections.abc import Sequence

from pybpfvm.btf.types import Btf, BtfKind, Datasec, Var, VarLinkage
from pybpfvm.errors import InputError
from pybpfvm.loader.elf import (
    SHF_ALLOC,
    SHF_WRITE,
    SHT_NOBITS,
    SHT_PROGBITS,
    ElfObject,
    Section,
)
from pybpfvm.loader.maps import PlacedMap
from pybpfvm.loader.structops import is_struct_ops
from pybpfvm.program import (
    ARENA_PAGE_BYTES,
    BPF_F_MMAPABLE,
    BPF_F_RDONLY_PROG,
    MapSpec,
    MapType,
)

MAX_DATA_BYTES = 16 << 20  # all data sections of an object together

# Sections with a meaning of their own; none of them becomes a map.
_RESERVED = frozenset(
    {"license", "version", "maps", ".maps", ".kconfig", ".ksyms", ".BTF", ".BTF.ext"}
)


def is_data(section: Section) -> bool:
    """Whether the section holds variables of the program."""
    if section.type not in (SHT_PROGBITS, SHT_NOBITS) or section.is_code or not section.size:
        return False
    if section.name in _RESERVED or section.name.startswith(".addr_space"):
        return False
    if is_struct_ops(section.name):
        return False
    return bool(section.flags & SHF_ALLOC)


def data_maps(elf: ElfObject, btf: Btf | None) -> list[PlacedMap]:
    """A map for each data section, in file order; InputError beyond 16 MiB altogether.

    Sections that libbpf would not know (not .data*, .rodata*, .bss*) are included only if code
    refers to them.
    """
    referred = {
        elf.symbol_of(relocation).section
        for index, relocations in elf.relocations.items()
        if elf.sections[index].is_code
        for relocation in relocations
    }
    found: list[PlacedMap] = []
    names: set[str] = set()
    total = 0
    for section in elf.sections:
        if not is_data(section):
            continue
        if not _has_known_name(section.name) and section.index not in referred:
            continue
        total += section.size
        if total > MAX_DATA_BYTES:
            raise InputError(
                f"data sections of more than {MAX_DATA_BYTES} bytes", where=elf.where(section)
            )
        read_only = section.name.startswith(".rodata") or not section.flags & SHF_WRITE
        name = section.name
        if name in names:
            name = f"{name}.{section.index}"
        names.add(name)
        value_id = btf.find(section.name, BtfKind.DATASEC) if btf is not None else None
        if btf is not None and value_id is not None and name == section.name:
            _check_variables(elf, section, btf, value_id)
        spec = MapSpec(
            name,
            MapType.ARRAY,
            4,
            section.size,
            1,
            flags=BPF_F_MMAPABLE | (BPF_F_RDONLY_PROG if read_only else 0),
            section=section.name,
            data=bytes(section.size) if section.type == SHT_NOBITS else bytes(section.data),
            frozen=read_only,
            btf_value_type_id=value_id or 0,
        )
        found.append(PlacedMap(spec, section.index, 0, section.size))
    return found


def arena_of_variables(elf: ElfObject, maps: Sequence[PlacedMap]) -> tuple[int, int] | None:
    """The section of variables in an arena, and the index of their arena in `maps`; None if there
    are none. InputError unless one arena is declared, and has room for them."""
    section = elf.section(_IN_ARENA)
    if section is None or not section.size:
        return None
    arenas = [index for index, placed in enumerate(maps) if placed.spec.type == MapType.ARENA]
    if len(arenas) != 1:
        raise InputError(
            f"variables in an arena, and {len(arenas)} arenas are declared",
            where=elf.where(section),
            remedy="declare one map of type BPF_MAP_TYPE_ARENA in section .maps",
        )
    arena = maps[arenas[0]].spec
    if section.size > arena.max_entries * ARENA_PAGE_BYTES:
        raise InputError(
            f"{section.size} bytes of variables in arena {arena.name}, which has "
            f"{arena.max_entries} page(s) of {ARENA_PAGE_BYTES} bytes",
            where=elf.where(section),
            remedy="raise its max_entries",
        )
    return section.index, arenas[0]


_IN_ARENA = ".addr_space.1"


def _check_variables(elf: ElfObject, section: Section, btf: Btf, type_id: int) -> None:
    """Raise InputError unless all variables lie in their section, as kernels want it."""
    datasec = btf.type(type_id)
    assert isinstance(datasec, Datasec)
    for variable in datasec.variables:
        named = btf.type(variable.type_id)
        if not isinstance(named, Var) or named.linkage == VarLinkage.EXTERN:
            continue
        if variable.offset + variable.size > section.size:
            raise InputError(
                f"variable {named.name} lies past the section's end",
                where=elf.where(section, variable.offset),
            )


def unsupported_data(elf: ElfObject) -> list[str]:
    """One line for each thing in data sections that has no meaning here yet."""
    lines = []
    for section in elf.sections:
        if is_struct_ops(section.name) and elf.section(".BTF") is None:
            lines.append(
                f"struct_ops without BTF: section {section.name} is left out (compile with -g)"
            )
        elif is_data(section) and elf.relocations.get(section.index):
            count = len(elf.relocations[section.index])
            lines.append(
                f"addresses in data: {count} initial value(s) of section {section.name} are not set"
            )
    return lines


def _has_known_name(name: str) -> bool:
    return any(
        name == known or name.startswith(known + ".") for known in (".data", ".rodata", ".bss")
    )

"""The .BTF and .BTF.ext of an object, with the addresses filled in that the compiler left open.

Clang writes 0 for the place of each variable in its section, and for the size of the section,
and leaves relocations (R_BPF_64_NODYLD32 or ABS32) to be applied. Before LLVM 13 they were called
R_BPF_64_32 in .BTF and R_BPF_NONE in .BTF.ext, whose instruction offsets were already in place.
"""

from __future__ import annotations

import struct
from dataclasses import replace

from pybpfvm.btf.ext import BtfExt, parse_btf_ext
from pybpfvm.btf.parse import MAX_BYTES, btf_strings, parse_btf
from pybpfvm.btf.types import Btf, BtfKind, BtfType, Datasec, SectionVar, Var, VarLinkage
from pybpfvm.errors import InputError
from pybpfvm.loader.elf import SHN_UNDEF, STB_LOCAL, STT_NOTYPE, ElfObject, Section

R_BPF_NONE = 0
R_BPF_64_ABS32 = 3
R_BPF_64_NODYLD32 = 4
R_BPF_64_32 = 10
_WORD_RELOCATIONS = (R_BPF_64_ABS32, R_BPF_64_NODYLD32, R_BPF_64_32)


def read_btf_sections(elf: ElfObject) -> tuple[Btf | None, BtfExt]:
    """(types, instruction records) of an object; (None, nothing) without a .BTF section."""
    section = elf.section(".BTF")
    if section is None:
        return None, BtfExt()
    data = _relocated(elf, section)
    btf = parse_btf(data, where=elf.where(section))
    if btf.big_endian != elf.big_endian:
        raise InputError("BTF of the other byte order", where=elf.where(section, 0))
    btf = _with_section_sizes(elf, btf)
    ext_section = elf.section(".BTF.ext")
    if ext_section is None:
        return btf, BtfExt()
    ext = parse_btf_ext(
        _relocated(elf, ext_section),
        btf_strings(data),
        big_endian=elf.big_endian,
        where=elf.where(ext_section),
    )
    return btf, ext


def _relocated(elf: ElfObject, section: Section) -> bytes:
    """The section's bytes with value of symbol + addend in each relocated word."""
    if section.size > MAX_BYTES:
        raise InputError(
            f"{section.size} bytes: the limit is {MAX_BYTES}", where=elf.where(section)
        )
    data = bytearray(section.data)
    word = struct.Struct(">I" if elf.big_endian else "<I")
    for relocation in elf.relocations.get(section.index, ()):
        if relocation.type == R_BPF_NONE:
            continue
        if relocation.type not in _WORD_RELOCATIONS or relocation.offset + 4 > len(data):
            raise InputError(
                f"relocation of type {relocation.type} in BTF",
                where=elf.where(section, relocation.offset),
            )
        addend = relocation.addend
        if addend is None:
            (addend,) = word.unpack_from(data, relocation.offset)
        value = elf.symbol_of(relocation).value + addend
        word.pack_into(data, relocation.offset, value & 0xFFFFFFFF)
    return bytes(data)


def externs_undefined(elf: ElfObject, btf: Btf | None) -> ElfObject:
    """The object with its symbols for what another object has undefined: libbpf's linker puts those
    of maps that it does not find at the begin of `.maps`, where another one is."""
    if btf is None:
        return elf
    externs = {
        named.name
        for type_id in btf.ids_of(BtfKind.VAR)
        if isinstance(named := btf.type(type_id), Var) and named.linkage == VarLinkage.EXTERN
    }
    symbols = tuple(
        replace(symbol, section=SHN_UNDEF)
        if symbol.type == STT_NOTYPE and symbol.name in externs
        else symbol
        for symbol in elf.symbols
    )
    return replace(elf, symbols=symbols)


def _with_section_sizes(elf: ElfObject, btf: Btf) -> Btf:
    """Each DATASEC with the size of its ELF section, its variables in order of their place.

    Symbols say where a variable is that other objects see. libbpf's linker leaves it at the place
    of a weak one where the strong one of another object takes over.
    """
    sizes = {section.name: section.size for section in elf.sections if section.name}
    places = {
        (elf.sections[symbol.section].name, symbol.name): symbol.value
        for symbol in elf.symbols
        if 0 < symbol.section < len(elf.sections) and symbol.binding != STB_LOCAL
    }

    def placed(section: str, variable: SectionVar) -> SectionVar:
        named = btf.type(variable.type_id)
        if not isinstance(named, Var):
            return variable
        return replace(variable, offset=places.get((section, named.name), variable.offset))

    changes: dict[int, BtfType] = {}
    for type_id in btf.ids_of(BtfKind.DATASEC):
        found = btf.type(type_id)
        assert isinstance(found, Datasec)
        variables = tuple(
            sorted((placed(found.name, one) for one in found.variables), key=lambda one: one.offset)
        )
        size = found.size or sizes.get(found.name, 0)
        changes[type_id] = replace(found, size=size, variables=variables)
    return btf.replaced(changes) if changes else btf

"""Variables of `.struct_ops` and `.struct_ops.link`: structs of callbacks for the kernel.

Each variable is a struct; where a member is a pointer to a function, a relocation names the
program that stands there. What the kernel makes of it depends on the struct's name. A `?` before
the section's name only keeps loaders from making its maps unasked.
Kernel Documentation/bpf/libbpf/program_types.rst; abi/iouring-bpf-upstream, sections 4.1 to 4.3.
"""

from __future__ import annotations

from pybpfvm.btf.types import Btf, BtfKind, Datasec, Member, Ptr, Struct, Var
from pybpfvm.errors import InputError
from pybpfvm.loader.elf import STT_FUNC, STT_SECTION, ElfObject, Relocation, Section
from pybpfvm.program import StructOps

_PREFIXES = (".struct_ops", "?.struct_ops")
_LINK_SUFFIX = ".link"
_POINTER_BYTES = 8
_R_BPF_64_64, _R_BPF_64_ABS64 = 1, 2
MAX_STRUCT_OPS = 256
MAX_STRUCT_BYTES = 1 << 16


def is_struct_ops(section: str) -> bool:
    """Whether the section is of such variables."""
    return section.startswith(_PREFIXES)


def struct_ops_of(elf: ElfObject, btf: Btf | None) -> tuple[StructOps, ...]:
    """Every such variable, in order of its place; none without BTF, which says what they are.
    InputError for what is malformed."""
    found: list[StructOps] = []
    for section in elf.sections:
        if is_struct_ops(section.name) and btf is not None:
            found += _variables(elf, section, btf)
    if len(found) > MAX_STRUCT_OPS:
        raise InputError(f"{len(found)} struct_ops: the limit is {MAX_STRUCT_OPS}", where=elf.path)
    return tuple(found)


def _variables(elf: ElfObject, section: Section, btf: Btf) -> list[StructOps]:
    listed = btf.find(section.name, BtfKind.DATASEC)
    datasec = btf.type(listed) if listed is not None else None
    if not isinstance(datasec, Datasec):
        raise InputError(f"BTF does not list section {section.name}", where=elf.where(section))
    places = {
        symbol.name: symbol.value
        for symbol in elf.symbols
        if symbol.section == section.index and symbol.name and symbol.type != STT_SECTION
    }
    link = section.name.endswith(_LINK_SUFFIX)
    found = []
    for entry in datasec.variables:
        variable = btf.type(entry.type_id)
        if not isinstance(variable, Var):
            continue
        offset = places.get(variable.name, entry.offset)
        found.append((offset, _variable(elf, section, btf, variable, offset, link=link)))
    return [one for _, one in sorted(found, key=lambda pair: pair[0])]


def _variable(
    elf: ElfObject, section: Section, btf: Btf, variable: Var, offset: int, *, link: bool
) -> StructOps:
    where = elf.where(section, offset)
    type_id = btf.resolve(variable.type_id)
    struct = btf.type(type_id)
    if not isinstance(struct, Struct):
        raise InputError(f"{variable.name} is no struct", where=where)
    if struct.size > MAX_STRUCT_BYTES or offset + struct.size > section.size:
        raise InputError(f"{variable.name} goes past the section's end", where=where)
    empty = not len(section.data)  # a variable of zeros only
    data = bytes(struct.size) if empty else bytes(section.data[offset : offset + struct.size])
    callbacks = {
        member.bit_offset // 8: member for member in struct.members if _is_callback(btf, member)
    }
    programs: dict[str, str] = {}
    for relocation in elf.relocations.get(section.index, ()):
        at = relocation.offset - offset
        if not 0 <= at < struct.size:
            continue
        member = callbacks.get(at)
        if member is None or relocation.type not in (_R_BPF_64_64, _R_BPF_64_ABS64):
            raise InputError(
                f"{variable.name} holds an address where struct {struct.name} has no callback",
                where=elf.where(section, relocation.offset),
            )
        programs[member.name] = _program(elf, section, relocation)
        data = data[:at] + bytes(_POINTER_BYTES) + data[at + _POINTER_BYTES :]
    kernels = struct.name.partition("___")[0]  # what follows tells several forms of it apart
    return StructOps(variable.name, kernels, type_id, data, programs, link)


def _is_callback(btf: Btf, member: Member) -> bool:
    pointer = btf.type(btf.resolve(member.type_id))
    if not isinstance(pointer, Ptr):
        return False
    return btf.kind(btf.resolve(pointer.type_id)) is BtfKind.FUNC_PROTO


def _program(elf: ElfObject, section: Section, relocation: Relocation) -> str:
    symbol = elf.symbol_of(relocation)
    where = elf.where(section, relocation.offset)
    addend = relocation.addend
    if addend is None:
        raw = bytes(section.data[relocation.offset : relocation.offset + _POINTER_BYTES])
        addend = int.from_bytes(raw, "big" if elf.big_endian else "little")
    name = symbol.name
    value = symbol.value + addend
    if symbol.type == STT_SECTION:
        name = next(
            (
                other.name
                for other in elf.symbols
                if other.section == symbol.section
                and other.type == STT_FUNC
                and other.value == value
            ),
            "",
        )
    elif addend:
        name = ""
    known = 0 < symbol.section < len(elf.sections) and elf.sections[symbol.section].is_code
    if not name or not known:
        raise InputError(f"{symbol.name or 'a symbol'!r} is no program of this object", where=where)
    return name

"""DWARF of a BPF object as values, read through pyelftools (the extra `debug`).

All code sections of an object begin at address 0, and DWARF names addresses. So each section that
takes memory is given one of its own before relocation, as a linker would: `section_of` tells them
apart again. DWARF 5, chapters 2, 3 and 6.
"""

from __future__ import annotations

import io
import struct
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pybpfvm.btf.types import Btf
from pybpfvm.errors import InputError
from pybpfvm.loader.elf import SHF_ALLOC, SHT_REL, ElfObject, read_elf
from pybpfvm.source.dwarftypes import Die, TypeTable, name_of, number, referred, text_of
from pybpfvm.source.location import Op, Ops

_SECTION_SHIFT = 32
MAX_ENTRIES = 500_000
MAX_LINES = 1 << 20
_REL_BYTES = 16
_WORDS = {2: "Q", 3: "I"}  # R_BPF_64_ABS64 and R_BPF_64_ABS32, which DWARF has
_IN_FRAME = frozenset({"DW_OP_fbreg", "DW_OP_breg10"})
_EXTRA = "pip install 'pybpfvm[debug]'"


@dataclass(frozen=True, slots=True)
class Span:
    """Addresses [start, end)."""

    start: int
    end: int

    def __contains__(self, addr: int) -> bool:
        return self.start <= addr < self.end


@dataclass(frozen=True, slots=True)
class Place:
    """Where a variable is while the pc is in `span` (None: always)."""

    span: Span | None
    ops: Ops


@dataclass(frozen=True, slots=True)
class Variable:
    """A local variable or parameter. `places` empty: it is nowhere; `line` is where it is
    declared, 0 if that is not known."""

    name: str
    type_id: int
    parameter: bool
    places: tuple[Place, ...]
    line: int = 0

    def ops_at(self, addr: int) -> Ops:
        """Where it is, `()` if it is nowhere."""
        for place in self.places:
            if place.span is None or addr in place.span:
                return place.ops
        return ()


@dataclass(slots=True)
class Block:
    """A function, a block in one, or the body of one that was inlined, which has its `name`."""

    spans: tuple[Span, ...]
    name: str = ""
    call_line: int = 0
    variables: list[Variable] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)

    def holds(self, addr: int) -> bool:
        """Whether the code at this address is part of it."""
        return any(addr in span for span in self.spans)


@dataclass(frozen=True, slots=True)
class Line:
    """From `addr` on the code is of this line."""

    addr: int
    file: str
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Dwarf:
    """What was read: functions by address, lines by address, and types."""

    elf: ElfObject
    functions: tuple[Block, ...]
    lines: tuple[Line, ...]
    btf: Btf

    def function_at(self, addr: int) -> Block | None:
        """The function that the code at this address is of."""
        starts = [one.spans[0].start for one in self.functions]
        index = bisect_right(starts, addr) - 1
        found = self.functions[index] if index >= 0 else None
        return found if found is not None and found.holds(addr) else None

    def address(self, section: str, offset: int) -> int | None:
        """The address that stands for a byte of a section."""
        found = self.elf.section(section)
        return None if found is None else (found.index + 1 << _SECTION_SHIFT) + offset

    def section_of(self, addr: int) -> tuple[str, int] | None:
        """(section, offset in it) that an address stands for."""
        index = (addr >> _SECTION_SHIFT) - 1
        if not 0 <= index < len(self.elf.sections):
            return None
        return self.elf.sections[index].name, addr & ((1 << _SECTION_SHIFT) - 1)


def has_dwarf(elf: ElfObject) -> bool:
    """Whether the object has any."""
    return elf.section(".debug_info") is not None


def read_dwarf(data: bytes, path: str) -> Dwarf | None:
    """The DWARF of the object in `data`, None if it has none. `path` is for messages.

    Raises InputError where it can not be read, or pyelftools is not installed.
    """
    elf = read_elf(data, path)
    if not has_dwarf(elf):
        return None
    try:
        from elftools.elf.elffile import ELFFile
    except ImportError:
        raise InputError(
            "to read DWARF takes pyelftools, which is not installed", where=path, remedy=_EXTRA
        ) from None
    try:
        info = ELFFile(io.BytesIO(_laid_out(elf, data))).get_dwarf_info(
            relocate_dwarf_sections=False
        )
        return _Reader(info, elf).read()
    except InputError:
        raise
    except Exception as error:  # whatever pyelftools stumbles over in a broken file
        reason = f"DWARF that can not be read: {type(error).__name__} {error}".rstrip()
        raise InputError(" ".join(reason.split()), where=path) from None


def _laid_out(elf: ElfObject, data: bytes) -> bytes:
    """The object with the addresses in its DWARF as if its sections lay behind one another.

    Sections and symbols were checked by `read_elf`, relocations of DWARF were not.
    """
    out = bytearray(data)
    order = ">" if elf.big_endian else "<"
    taking = {one.index for one in elf.sections if one.flags & SHF_ALLOC}
    by_name = {f".rel{one.name}": one for one in elf.sections if one.name.startswith(".debug_")}
    for table in elf.sections:
        target = by_name.get(table.name)
        if target is None or table.type != SHT_REL:
            continue
        whole = table.size - table.size % _REL_BYTES
        for offset, info in struct.iter_unpack(order + "QQ", table.data[:whole]):
            form = _WORDS.get(info & 0xFFFF_FFFF)
            index = info >> 32
            if form is None or index >= len(elf.symbols):
                continue
            symbol = elf.symbols[index]
            if offset + struct.calcsize(form) > target.size:
                raise InputError(
                    f"a relocation at {offset:#x}, past the end", where=elf.where(target)
                )
            (word,) = struct.unpack_from(order + form, out, target.offset + offset)
            word += symbol.value
            if symbol.section in taking:
                word += symbol.section + 1 << _SECTION_SHIFT
            mask = (1 << 8 * struct.calcsize(form)) - 1
            struct.pack_into(order + form, out, target.offset + offset, word & mask)
    return bytes(out)


class _Reader:
    def __init__(self, info: Any, elf: ElfObject) -> None:
        self._info = info
        self._elf = elf
        self._types = TypeTable(elf.path)
        self._left = MAX_ENTRIES

    def read(self) -> Dwarf:
        functions: list[Block] = []
        lines: list[Line] = []
        for unit in self._info.iter_CUs():
            top = unit.get_top_DIE()
            base = number(top, "DW_AT_low_pc")
            reader = _Unit(self, self._info, unit, base)
            functions += reader.functions(top)
            lines += reader.lines()
        functions.sort(key=lambda one: one.spans[0].start)
        lines.sort(key=lambda one: one.addr)
        return Dwarf(self._elf, tuple(functions), tuple(lines), self._types.btf())

    def take(self) -> None:
        """One entry more; InputError when there are too many."""
        self._left -= 1
        if self._left < 0:
            raise InputError(
                f"more than {MAX_ENTRIES} entries of variables", where=f"{self._elf.path}: DWARF"
            )

    def type_of(self, die: Die) -> int:
        return self._types.type_of(die)


class _Unit:
    """One compilation unit."""

    def __init__(self, reader: _Reader, info: Any, unit: Any, base: int) -> None:
        from elftools.dwarf.dwarf_expr import DWARFExprParser
        from elftools.dwarf.locationlists import LocationParser

        self._reader, self._info, self._unit, self._base = reader, info, unit, base
        self._expressions = DWARFExprParser(unit.structs)
        self._locations = LocationParser(info.location_lists())
        self._known_ops: dict[bytes, Ops] = {}
        # Other compilers than those of LLVM count what lies in frames otherwise.
        self._frames_known = "clang" in text_of(unit.get_top_DIE(), "DW_AT_producer")

    def functions(self, top: Die) -> Iterator[Block]:
        for die in top.iter_children():
            if die.tag == "DW_TAG_subprogram" and "DW_AT_low_pc" in die.attributes:
                block = Block(self._spans(die), name_of(_origin(die)))
                self._fill(die, block)
                yield block

    def _fill(self, die: Die, block: Block) -> None:
        pending = [(die, block)]
        while pending:
            die, block = pending.pop()
            for child in die.iter_children():
                self._reader.take()
                match child.tag:
                    case "DW_TAG_formal_parameter" | "DW_TAG_variable":
                        variable = self._variable(child)
                        if variable.name:
                            block.variables.append(variable)
                    case "DW_TAG_lexical_block" | "DW_TAG_inlined_subroutine":
                        inlined = child.tag == "DW_TAG_inlined_subroutine"
                        inner = Block(
                            self._spans(child),
                            name_of(_origin(child)) if inlined else "",
                            number(child, "DW_AT_call_line"),
                        )
                        block.blocks.append(inner)
                        pending.append((child, inner))

    def _variable(self, die: Die) -> Variable:
        origin = _origin(die)
        return Variable(
            name_of(origin),
            self._reader.type_of(origin),
            die.tag == "DW_TAG_formal_parameter",
            self._places(die),
            number(origin, "DW_AT_decl_line"),
        )

    def _places(self, die: Die) -> tuple[Place, ...]:
        constant = die.attributes.get("DW_AT_const_value")
        if constant is not None and isinstance(constant.value, int):
            return (Place(None, (("DW_OP_consts", (constant.value,)), ("DW_OP_stack_value", ()))),)
        attribute = die.attributes.get("DW_AT_location")
        if attribute is None:
            return ()
        found: Any = self._locations.parse_from_attribute(attribute, self._unit["version"], die)
        if hasattr(found, "loc_expr"):
            return (Place(None, self._ops(found.loc_expr)),)
        places, base = [], self._base
        for entry in found:
            if hasattr(entry, "base_address"):
                base = entry.base_address
            elif hasattr(entry, "loc_expr"):
                shift = 0 if entry.is_absolute else base
                span = Span(entry.begin_offset + shift, entry.end_offset + shift)
                places.append(Place(span, self._ops(entry.loc_expr)))
        return tuple(places)

    def _ops(self, raw: list[int]) -> Ops:
        key = bytes(raw)
        known = self._known_ops.get(key)
        if known is None:
            parsed = self._expressions.parse_expr(raw)
            known = self._known_ops[key] = tuple(self._op(one.op_name, one.args) for one in parsed)
        return known

    def _op(self, name: str, args: list[Any]) -> Op:
        """The operation with what it refers to in its place: addresses, and types as (bits,
        signed)."""
        if name == "DW_OP_addrx":
            return "DW_OP_addr", (self._info.get_addr(self._unit, args[0]),)
        if name in _IN_FRAME and not self._frames_known:
            return "the frame of another compiler than clang", ()
        if name == "DW_OP_convert":
            if not args[0]:
                return name, (0, 0)
            base = self._unit.get_DIE_from_refaddr(args[0] + self._unit.cu_offset)
            signed = number(base, "DW_AT_encoding") in (0x05, 0x06)
            return name, (8 * number(base, "DW_AT_byte_size"), int(signed))
        return name, tuple(one for one in args if isinstance(one, int))

    def _spans(self, die: Die) -> tuple[Span, ...]:
        if "DW_AT_low_pc" in die.attributes:
            start, high = number(die, "DW_AT_low_pc"), die.attributes.get("DW_AT_high_pc")
            end = number(die, "DW_AT_high_pc")
            if high is not None and high.form != "DW_FORM_addr":
                end += start
            return (Span(start, end),)
        if "DW_AT_ranges" not in die.attributes:
            return ()
        found, base = [], self._base
        ranges = self._info.range_lists()
        for entry in ranges.get_range_list_at_offset(number(die, "DW_AT_ranges"), self._unit):
            if hasattr(entry, "base_address"):
                base = entry.base_address
            else:
                shift = 0 if entry.is_absolute else base
                found.append(Span(entry.begin_offset + shift, entry.end_offset + shift))
        return tuple(found)

    def lines(self) -> Iterator[Line]:
        program = self._info.line_program_for_CU(self._unit)
        if program is None:
            return
        files = [one.name.decode("utf-8", "replace") for one in program["file_entry"]]
        first = 0 if program["version"] >= 5 else 1
        left = MAX_LINES
        for entry in program.get_entries():
            state = entry.state
            if state is None or state.end_sequence:
                continue
            left -= 1
            if left < 0:
                return
            index = state.file - first
            name = files[index] if 0 <= index < len(files) else ""
            yield Line(state.address, name, state.line, state.column)


def _origin(die: Die) -> Die:
    """The entry that says what an inlined or concrete one is."""
    for _ in range(4):
        other = referred(die, "DW_AT_abstract_origin") or referred(die, "DW_AT_specification")
        if other is None:
            break
        die = other
    return die

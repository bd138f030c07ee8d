"""Functions of the code sections: where they begin and end, and which of them are programs.

Functions are what STT_FUNC symbols say. A program is a global one outside `.text`; static
functions, and those in `.text`, are there to be called. When all code lies in `.text`, its global
functions are programs, unless another function calls them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from pybpfvm.errors import InputError
from pybpfvm.isa.codec import SLOT_BYTES, decode
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.table import SPECS
from pybpfvm.loader.elf import STT_FUNC, ElfObject, Section, Symbol

MAX_SLOTS = 1 << 19  # instructions of an object, and of all its linked programs together
_CHUNK_SLOTS = 8192


@dataclass(frozen=True, slots=True)
class Function:
    """The code at slots [start, end) of a section. Two functions are the same only if they are
    at the same place: names may repeat among static ones."""

    name: str
    section: int
    start: int
    end: int
    is_global: bool
    aliases: tuple[str, ...] = ()

    @property
    def slots(self) -> int:
        """Its length in slots of 8 bytes."""
        return self.end - self.start


class FunctionTable:
    """All functions of an object, by place."""

    def __init__(self, elf: ElfObject) -> None:
        self._elf = elf
        self._at: dict[tuple[int, int], Function] = {}
        self.unsupported: list[str] = []
        by_section: dict[int, list[Symbol]] = {}
        for symbol in elf.symbols:
            if symbol.type == STT_FUNC and 0 < symbol.section < len(elf.sections):
                by_section.setdefault(symbol.section, []).append(symbol)
        total = 0
        for section in elf.sections:
            symbols = by_section.get(section.index, [])
            if not section.is_code:
                if symbols:
                    raise InputError(
                        f"function {symbols[0].name} outside the code",
                        where=elf.where(section, symbols[0].value),
                    )
                continue
            if not section.size:
                continue
            if section.size % SLOT_BYTES:
                raise InputError(
                    f"{section.size:#x} bytes of code are no whole number of instructions",
                    where=elf.where(section),
                )
            total += section.size // SLOT_BYTES
            if total > MAX_SLOTS:
                raise InputError(
                    f"more than {MAX_SLOTS} instructions in the object", where=elf.where(section)
                )
            if not symbols:
                self.unsupported.append(
                    f"code without a function symbol: section {section.name} is left out"
                )
            for function in _split(elf, section, symbols):
                self._at[section.index, function.start] = function

    def at(self, section: int, slot: int) -> Function | None:
        """The function that begins at this slot of a section, None if none does."""
        return self._at.get((section, slot))

    def all(self) -> tuple[Function, ...]:
        """Every function, by section and place."""
        return tuple(self._at.values())

    def programs(self, called: frozenset[Function]) -> tuple[Function, ...]:
        """The functions to load as programs; `called` are those that others call."""
        text = self._elf.section(".text")
        outside = [f for f in self._at.values() if text is None or f.section != text.index]
        if outside:
            return tuple(function for function in outside if function.is_global)
        return tuple(f for f in self._at.values() if f.is_global and f not in called)

    def decode(self, function: Function) -> tuple[Insn, ...]:
        """Its instructions as they are in the section, not relocated."""
        section = self._elf.sections[function.section]
        data = section.data[function.start * SLOT_BYTES : function.end * SLOT_BYTES]
        where = f"{self._elf.where(section, function.start * SLOT_BYTES)} ({function.name})"
        if function.slots <= _CHUNK_SLOTS:
            return decode(bytes(data), big_endian=self._elf.big_endian, where=where)
        # Piecewise: the decoder holds several times the size of what it is given.
        insns: list[Insn] = []
        at = 0
        while at < function.slots:
            end = min(at + _CHUNK_SLOTS, function.slots)
            if _ends_inside_lddw(data, at, end):
                end += 1
            piece = bytes(data[at * SLOT_BYTES : end * SLOT_BYTES])
            insns += decode(piece, big_endian=self._elf.big_endian, where=f"{where}, pc {at} +")
            at = end
        return tuple(insns)


def _ends_inside_lddw(data: memoryview, start: int, end: int) -> bool:
    """Whether slot `end - 1` is the first half of an lddw, counted from instruction `start`."""
    lddw = SPECS["lddw"].opcode
    at = start
    while at < end:
        at += 2 if data[at * SLOT_BYTES] == lddw else 1
    return at > end


def _split(elf: ElfObject, section: Section, symbols: list[Symbol]) -> list[Function]:
    """The functions of a section in order of their place; symbols at one place are aliases."""
    ordered = sorted(symbols, key=lambda s: (s.value, not s.is_global, s.index))
    starts = [*sorted({symbol.value for symbol in ordered}), section.size]
    following = dict(pairwise(starts))
    functions: list[Function] = []
    at = 0
    while at < len(ordered):
        symbol = ordered[at]
        group = [symbol]
        while at + len(group) < len(ordered) and ordered[at + len(group)].value == symbol.value:
            group.append(ordered[at + len(group)])
        at += len(group)
        size = max(other.size for other in group) or following.get(symbol.value, section.size) - (
            symbol.value
        )
        end = symbol.value + size
        where = elf.where(section, symbol.value)
        if symbol.value % SLOT_BYTES or size % SLOT_BYTES or not size:
            raise InputError(
                f"function {symbol.name} of {size} bytes: not whole instructions", where=where
            )
        if end > section.size:
            raise InputError(f"function {symbol.name} goes past the section's end", where=where)
        if functions and functions[-1].end * SLOT_BYTES > symbol.value:
            raise InputError(f"function {symbol.name} overlaps {functions[-1].name}", where=where)
        functions.append(
            Function(
                symbol.name,
                section.index,
                symbol.value // SLOT_BYTES,
                end // SLOT_BYTES,
                symbol.is_global,
                tuple(other.name for other in group[1:]),
            )
        )
    return functions

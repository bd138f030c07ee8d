"""Line and function records of .BTF.ext, by function, in slots from its beginning."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

from pybpfvm.btf.ext import BtfExt
from pybpfvm.btf.types import Btf, BtfKind
from pybpfvm.errors import InputError, SourceLine
from pybpfvm.isa.codec import SLOT_BYTES
from pybpfvm.loader.elf import ElfObject
from pybpfvm.loader.functions import Function


class LineTable:
    """Source lines and BTF functions of an object's code. InputError if a record is off."""

    def __init__(self, elf: ElfObject, btf: Btf | None, ext: BtfExt) -> None:
        self._slots: dict[int, list[int]] = {}
        self._lines: dict[int, list[SourceLine]] = {}
        self._funcs: dict[tuple[int, int], int] = {}
        for section in elf.sections:
            if not section.is_code:
                continue
            by_slot: dict[int, SourceLine] = {}
            for info in ext.lines.get(section.name, ()):
                slot = _slot(elf, section.index, info.offset, "line")
                by_slot.setdefault(slot, info.line)
            self._slots[section.index] = sorted(by_slot)
            self._lines[section.index] = [by_slot[slot] for slot in sorted(by_slot)]
            for func in ext.funcs.get(section.name, ()):
                slot = _slot(elf, section.index, func.offset, "function")
                if btf is None or btf.kind(func.type_id) is not BtfKind.FUNC:
                    raise InputError(
                        f"type id {func.type_id} of a function record is no function",
                        where=elf.where(section, func.offset),
                    )
                self._funcs[section.index, slot] = func.type_id

    def of(self, function: Function) -> Iterator[tuple[int, SourceLine]]:
        """(slot from the function's start, line) pairs, ascending."""
        slots = self._slots.get(function.section, [])
        lines = self._lines.get(function.section, [])
        first = bisect_left(slots, function.start)
        last = bisect_left(slots, function.end)
        for at in range(first, last):
            yield slots[at] - function.start, lines[at]

    def func_type(self, function: Function) -> int:
        """BTF id of the function, 0 if no record says."""
        return self._funcs.get((function.section, function.start), 0)


def _slot(elf: ElfObject, section: int, offset: int, what: str) -> int:
    slot, rest = divmod(offset, SLOT_BYTES)
    if rest or offset >= elf.sections[section].size:
        raise InputError(
            f"a {what} record for offset {offset:#x}, where no instruction is",
            where=elf.where(section, offset),
        )
    return slot

"""Which instruction a fault of LLVM's code belongs to.

A fault is rare, so the table that says it is made when one comes: the same IR once more, with line
numbers, which do not change the code that LLVM makes. DWARF 4, section 6.2.
"""

from __future__ import annotations

import io
from bisect import bisect_right

from elftools.elf.elffile import ELFFile

from pybpfvm.jit.llvm.objectfile import read_object


class FaultTable:
    """The instructions of the accesses in an object that was made with lines."""

    def __init__(self, raw: bytes) -> None:
        self.code = bytes(read_object(raw).data)
        dwarf = ELFFile(io.BytesIO(raw)).get_dwarf_info()
        rows: dict[int, int] = {}
        for unit in dwarf.iter_CUs():
            program = dwarf.line_program_for_CU(unit)
            for entry in program.get_entries() if program is not None else ():
                state = entry.state
                if state is not None:
                    rows[state.address] = 0 if state.end_sequence else state.line
        self._starts = sorted(rows)
        self._lines = [rows[start] for start in self._starts]

    def index_at(self, offset: int) -> int | None:
        """The index of the instruction whose access is at `offset` of the code, None if LLVM made
        one access of several."""
        row = bisect_right(self._starts, offset) - 1
        line = self._lines[row] if row >= 0 else 0
        return line - 1 if line else None

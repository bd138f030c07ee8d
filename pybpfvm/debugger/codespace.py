"""Addresses for instructions: protocols that editors and GDB speak know code by address only.

Code has none here: pcs count slots of a program. Program number n gets 4 GiB of its own where no
memory of a recording can lie, in the upper half of 64 bits.
"""

from __future__ import annotations

from collections.abc import Sequence

from pybpfvm.isa.codec import SLOT_BYTES
from pybpfvm.program import Program

_BASE = 0xFFFF_B000_0000_0000
_EACH = 1 << 32


class CodeSpace:
    """The addresses of `programs`, which are told apart by identity."""

    def __init__(self, programs: Sequence[Program]) -> None:
        self.programs = tuple(programs)
        self._numbers = {id(program): number for number, program in enumerate(self.programs)}

    def address(self, program: Program, pc: int) -> int:
        """Of the slot `pc`. Raises KeyError for a program that is none of these."""
        return _BASE + self._numbers[id(program)] * _EACH + pc * SLOT_BYTES

    def place(self, addr: int) -> tuple[Program, int] | None:
        """The program and the slot that an address lies in, which may be behind the program's end;
        None for an address that is not of code."""
        number, offset = divmod(addr - _BASE, _EACH)
        if not 0 <= number < len(self.programs):
            return None
        return self.programs[number], offset // SLOT_BYTES

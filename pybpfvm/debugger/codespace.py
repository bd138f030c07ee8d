"""Addresses for instructions: protocols that editors and GDB speak know code by address only.

Code has none here: pcs count slots of a program. Program number n gets 16 MiB of its own from
(n + 1) << 24 on, where no memory of a recording lies: GDB's bpf architecture has pointers of 32
bits, and the address space that programs see lies above all of those.
"""

from __future__ import annotations

from collections.abc import Sequence

from pybpfvm.isa.codec import SLOT_BYTES
from pybpfvm.program import Program

_EACH = 1 << 24  # a program has at most a million instructions


class CodeSpace:
    """The addresses of `programs`, which are told apart by identity."""

    def __init__(self, programs: Sequence[Program]) -> None:
        self.programs = tuple(programs)
        self._numbers = {id(program): number for number, program in enumerate(self.programs, 1)}

    def address(self, program: Program, pc: int) -> int:
        """Of the slot `pc`. Raises KeyError for a program that is none of these."""
        return self._numbers[id(program)] * _EACH + pc * SLOT_BYTES

    def place(self, addr: int) -> tuple[Program, int] | None:
        """The program and the slot that an address lies in, which may be behind the program's end;
        None for an address that is not of code."""
        number, offset = divmod(addr, _EACH)
        if not 1 <= number <= len(self.programs):
            return None
        return self.programs[number - 1], offset // SLOT_BYTES

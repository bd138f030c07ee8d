"""The block of words that an engine's compiled code and its Python side share.

It lies in the address space's private range, below the window of the program, so code reaches it
by a displacement from the window's base, which it keeps in a register, and no program does.
Beside it lie the access sites: pairs of words that say where a checked access may pass unasked.
"""

from __future__ import annotations

from enum import IntEnum
from itertools import count

from pybpfvm.errors import InternalError
from pybpfvm.isa.opcodes import REGISTERS
from pybpfvm.memory import AddressSpace, RegionKind

_numbers = count()


def _next(slots: int = 1) -> int:
    first = next(_numbers)
    for _ in range(slots - 1):
        next(_numbers)
    return first


class Slot(IntEnum):
    """Index of a word. Words that hold Python objects hold a reference each."""

    REGS = _next(REGISTERS)  # r0 to r10, whenever Python is asked or told
    FUEL = _next()  # instructions that may still be executed in this slice, signed
    PC = _next()  # native address that Python was asked from, or faulted
    NATIVE = _next()  # where code of LLVM's has its registers while it asks
    STACK = _next()  # the native stack when Python is asked or told: where the return address is
    FAULT = _next()  # address of a fault
    SAVED_RSP = _next()  # where the entry that runs left the native stack
    FIRST_FRAME = _next()  # r10 of the outermost function
    LAST_FRAME = _next()  # r10 of the eighth frame
    CTX = _next()  # the context pointer of the run
    MAY_GOTO = _next()  # turns that the run has left at may_goto
    EXIT_PC = _next()  # native address of the exit that ended the program
    CALLOUT = _next()  # addresses of thunks
    LEAVE_ERROR = _next()
    LEAVE_FAULT = _next()
    HELPER = _next(6)  # thunks for helpers of 0 to 5 arguments
    CONTEXT = _next()  # object: what helpers get as their context
    ASK = _next()  # object: what a callout calls
    ZERO = _next()  # object: 0
    BASE = _next()  # the window's base
    NOTED_FUEL = _next()  # FUEL of code that keeps it elsewhere, for faults
    TARGET = _next()  # of what LLVM's code had done: where a tail call leads in the JIT's, or r0
    PREVIOUS_EDGE = _next()  # number of the block that counted last, shifted right by 1
    TRACE_AT = _next()  # offset in the trace ring behind the newest run
    TRACE_END = _next()  # and behind the last one of the time round before


SLOTS = next(_numbers)
_CALLEES = 256  # Python objects that code calls
_SITES = 4096  # of a chunk
SITE_BYTES = 16


class _Sites:
    """A chunk of access sites: pairs of words (start, length)."""

    def __init__(self, memory: AddressSpace, count: int = _SITES) -> None:
        self.region = memory.alloc(count * SITE_BYTES, RegionKind.HOST, "access sites")
        self.disp = self.region.start - memory.base
        self.words = memory.view(self.region).cast("Q")
        self.count = count
        self.used = 0


class State:
    """The block of one engine: `words[slot]`, and displacements from the window's base."""

    def __init__(self, memory: AddressSpace) -> None:
        self._memory = memory
        self._region = memory.alloc((SLOTS + _CALLEES) * 8, RegionKind.HOST, "engine state")
        self.words = memory.view(self._region).cast("Q")
        self.base = memory.base
        self.start = self._region.start
        self._at = self.start - memory.base
        self.words[Slot.BASE] = memory.base
        self._chunks: list[_Sites] = []
        self._callees: dict[int, tuple[object, int]] = {}
        memory.on_free(self._freed)

    def disp(self, slot: int) -> int:
        """Displacement of a slot from the window's base: negative."""
        return self._at + 8 * slot

    def hold(self, slot: Slot, target: object) -> None:
        """Put a reference into a slot; the caller keeps the object alive."""
        self.words[slot] = id(target)

    def callee(self, target: object) -> int:
        """Displacement of a word that holds `target`, which lives as long as this."""
        found = self._callees.get(id(target))
        if found is None:
            slot = SLOTS + len(self._callees)
            if slot == SLOTS + _CALLEES:
                raise InternalError(f"more than {_CALLEES} helpers")
            self.words[slot] = id(target)
            found = self._callees[id(target)] = (target, self.disp(slot))
        return found[1]

    def site(self) -> int:
        """Displacement of the two words (start, length) of a new access: none passes yet."""
        if not self._chunks or self._chunks[-1].used == self._chunks[-1].count:
            self._chunks.append(_Sites(self._memory))
        chunk = self._chunks[-1]
        used = chunk.used
        chunk.used = used + 1
        return chunk.disp + used * SITE_BYTES

    def sites(self) -> int:
        """How many sites there are."""
        return sum(chunk.used for chunk in self._chunks)

    def drop_sites(self, left: int) -> None:
        """Take the sites above the first `left` back: nothing that uses them runs again."""
        while self.sites() > left:
            chunk = self._chunks[-1]
            more = self.sites() - left
            if more >= chunk.used:
                self._chunks.pop()
                chunk.words.release()
                self._memory.free(chunk.region)
            else:
                words = slice(2 * (chunk.used - more), 2 * chunk.used)
                chunk.words[words] = memoryview(bytes(SITE_BYTES * more)).cast("Q")
                chunk.used -= more

    def row_of_sites(self, count: int) -> int:
        """Displacement of the words of so many new accesses, one behind another."""
        chunk = _Sites(self._memory, count)
        chunk.used = count
        self._chunks.append(chunk)
        return chunk.region.start - self.base

    def set_site(self, disp: int, start: int, length: int) -> None:
        """Let the access pass where start <= address < start + length."""
        addr = self._memory.base + disp
        for chunk in self._chunks:
            if chunk.region.start <= addr < chunk.region.end:
                index = (addr - chunk.region.start) >> 3
                chunk.words[index] = start
                chunk.words[index + 1] = length

    def _freed(self, kind: RegionKind) -> None:
        self.forget_sites()

    def forget_sites(self) -> None:
        """A region was freed: no access passes unasked."""
        for chunk in self._chunks:
            used = 2 * chunk.used
            chunk.words[:used] = memoryview(bytes(8 * used)).cast("Q")

    def close(self) -> None:
        """Give the memory back."""
        self._memory.forget_on_free(self._freed)
        chunks, self._chunks = self._chunks, []
        for chunk in chunks:
            chunk.words.release()
            self._memory.free(chunk.region)
        self.words.release()
        self._memory.free(self._region)

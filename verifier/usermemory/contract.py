"""Contracts: what a host promises of the user memory and the ring that its programs are given.

A program sees user memory as numbers, so what an address points to is nobody's knowledge but the
host's. A contract says it: the block that a program's `user_data` points to, by BTF type of the
object or by size, which way bytes may flow, and which of a block's fields point to other blocks.
With it every user copy whose address comes from `user_data` has bounds, see `usermem`. The format
is docs/contracts.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pybpfvm.verifier.verdict import Rule

MAX_BLOCK_BYTES = 1 << 31
_POINTER_BYTES = 8
# User space has no more CQs than this, nor larger ones (iouring-bpf-2021, section 1.3).
MAX_CQS, MAX_CQ_ENTRIES = 1025, 65536


@dataclass(frozen=True, slots=True)
class PointerField:
    """A field of a block that holds the address of another one: its name, the `offset` in an
    element, the `target` block's name."""

    name: str
    offset: int
    target: str


@dataclass(frozen=True, slots=True)
class Block:
    """A block of user memory: `size` bytes in all, elements of `element_bytes` each.

    `readable` and `writable` are for programs and their requests; programs may access `pinned` ones
    by plain loads and stores.
    """

    name: str
    size: int
    element_bytes: int
    readable: bool
    writable: bool
    pointers: tuple[PointerField, ...] = ()
    type: str = ""
    pinned: bool = False

    def pointer_at(self, offset: int) -> PointerField | None:
        """The pointer field whose 8 bytes are at `offset` of the block."""
        if not 0 <= offset < self.size:
            return None
        inside = offset % self.element_bytes
        return next((one for one in self.pointers if one.offset == inside), None)

    def pointer_in(self, low: int, high: int) -> PointerField | None:
        """A pointer field of which bytes lie in [low, high), in any element."""
        for one in self.pointers:
            element = max(0, (low - one.offset - _POINTER_BYTES) // self.element_bytes + 1)
            start = element * self.element_bytes + one.offset
            if start < min(high, self.size):
                return one
        return None


@dataclass(frozen=True, slots=True)
class ProgramPromise:
    """What is promised of one program: the block its `user_data` points to (None: it is no
    address, or nobody says), CQs that only its requests reap, lints that are known and why."""

    user_data: str | None = None
    owns_cqs: frozenset[int] = frozenset()
    allow: Mapping[Rule, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Contract:
    """All promises. `cq_entries`: capacity of each CQ, empty if nothing is said; `user_writes`:
    maps that user space writes while programs run."""

    blocks: Mapping[str, Block]
    programs: Mapping[str, ProgramPromise]
    cq_entries: tuple[int, ...] = ()
    user_writes: frozenset[str] = frozenset()

    def of(self, program: str) -> ProgramPromise:
        """What is promised of `program`."""
        return self.programs.get(program, _NOTHING)

    def user_data_block(self, program: str) -> Block | None:
        """The block that the program's `user_data` points to."""
        name = self.of(program).user_data
        return None if name is None else self.blocks[name]

    def pinned_block(self, program: str) -> Block | None:
        """The block that the program's `user_data` points to, if the program may access it."""
        block = self.user_data_block(program)
        return block if block is not None and block.pinned else None

    def pointed_by(self, block: Block, offset: int) -> tuple[PointerField, Block] | None:
        """The field at `offset` of `block` and the block that it points to."""
        found = block.pointer_at(offset)
        return None if found is None else (found, self.blocks[found.target])


_NOTHING = ProgramPromise()

"""What code is compiled to: how it checks memory, and what it records while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Checks(Enum):
    """How compiled code checks the memory accesses of a program.

    NONE is for programs that the verifier accepted. EXACT stops what the interpreter stops, at
    the same instruction; the default for everything else. PAGES confines: an access goes to the
    program's window whatever the pointer, and only what no page there allows is stopped, so
    pointers beside a region on its page, or wrong in the high half, go unnoticed.
    """

    NONE = "verified"
    EXACT = "sandboxed"
    PAGES = "paged"


@dataclass(frozen=True, slots=True)
class Recording:
    """What runs leave behind, for either engine; nothing costs nothing.

    `edges`: an edge-coverage map of EDGE_MAP_BYTES 8-bit counters. `counts`: how often each
    instruction was executed. `trace`: the last so many instructions, with the value each left in
    its destination register.
    """

    edges: bool = False
    counts: bool = False
    trace: int = 0


NOTHING = Recording()

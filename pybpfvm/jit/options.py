"""What code is compiled to: how it checks memory."""

from __future__ import annotations

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

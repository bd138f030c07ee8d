"""Where one is in a recording."""

from __future__ import annotations

from typing import NamedTuple


class Position(NamedTuple):
    """Before the instruction that is executed when run `run` (from 0) has executed `insns`; where
    that is how many it executes, behind its last one. (number of runs, 0) is the very end, when
    the host has done what it did after the last run too. Ordered as time is."""

    run: int
    insns: int

    def __str__(self) -> str:
        return f"{self.run}:{self.insns}"

"""Where control enters a C line. The code of a line may lie in several pieces; to go from one to
another is not to enter the line again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pybpfvm.cfg.graph import Cfg, EdgeKind
from pybpfvm.errors import InputError
from pybpfvm.program import Program

_INSIDE = frozenset({EdgeKind.FALLTHROUGH, EdgeKind.TAKEN})
_MOST_PIECES = 64  # the work is of their number squared


def entries(program: Program, pieces: Sequence[int]) -> list[int]:
    """Of the pcs where pieces of one line begin, those that it takes to stop once each time that
    the line is executed: a piece is left out if one of the others is executed between any two
    times that this one is, and before the first."""
    kept = sorted(pieces)
    if not 1 < len(kept) <= _MOST_PIECES:
        return kept
    try:
        cfg = Cfg(program)
    except InputError:  # a recording may come from anywhere
        return kept
    paths = _Paths(cfg)
    for pc in sorted(pieces, reverse=True):
        if not paths.leads_to(pc, set(kept) - {pc}):
            kept.remove(pc)
    return kept


class _Paths:
    """Paths within functions of one program."""

    def __init__(self, cfg: Cfg) -> None:
        self._cfg = cfg
        self._block_of = {pc: block.index for block in cfg.blocks for pc, _ in cfg.insns(block)}

    def leads_to(self, pc: int, walls: set[int]) -> bool:
        """Whether control gets to `pc` from where its function begins, or from `pc` itself, by no
        instruction at `walls`."""
        home = self._block_of.get(pc)
        if home is None:
            return True
        entry = next(one.first for one in self._cfg.functions if one.first <= home < one.last)
        seen: set[int] = set()
        waiting = [entry]
        if walls.isdisjoint(self._pcs(home, pc + 1)):
            waiting += self._next(home)
        while waiting:
            index = waiting.pop()
            if index in seen:
                continue
            seen.add(index)
            if index == home:
                if walls.isdisjoint(self._pcs(home, 0, pc)):
                    return True
            elif walls.isdisjoint(self._pcs(index)):
                waiting += self._next(index)
        return False

    def _pcs(self, index: int, start: int = 0, end: int = 1 << 30) -> Iterator[int]:
        return (at for at, _ in self._cfg.insns(self._cfg.blocks[index]) if start <= at < end)

    def _next(self, index: int) -> list[int]:
        return [edge.target for edge in self._cfg.successors[index] if edge.kind in _INSIDE]


__all__ = ["entries"]

"""A table of the blocks of user memory, for compiled code that copies from and to them."""

from __future__ import annotations

import threading

from pybpfvm.memory import USER_KINDS, AddressSpace, RegionKind

BLOCKS = 16
TABLE_BYTES = 16 * (BLOCKS + 1)


class UserBlocks:
    """Pairs of 64-bit words (start, end) in `table`, TABLE_BYTES long; a zero pair ends them.

    It has those at the highest addresses: of others compiled code asks Python. Each thread may free
    blocks; from then on they are not in the table, as long as `follow` is on.
    """

    def __init__(self, memory: AddressSpace, table: memoryview) -> None:
        self._memory = memory
        self._table = table.cast("Q")
        self._lock = threading.RLock()
        self.follow = False
        self._changes = -1
        memory.on_free(self._freed)

    @property
    def current(self) -> bool:
        """Whether no region has come or gone since they were written down."""
        return self._changes == self._memory.changes

    def refresh(self) -> None:
        """Write down which blocks there are."""
        if self._memory.closed:
            return
        with self._lock:
            self._changes = self._memory.changes
            blocks = [r for r in self._memory.regions() if r.kind in USER_KINDS][-BLOCKS:]
            for index, region in enumerate(blocks):
                self._table[2 * index] = region.start
                self._table[2 * index + 1] = region.end
            self._table[2 * len(blocks)] = self._table[2 * len(blocks) + 1] = 0

    def starts(self) -> list[int]:
        """Where the blocks that the table has begin."""
        starts = self._table[: 2 * BLOCKS : 2].tolist()
        return starts[: starts.index(0)] if 0 in starts else starts

    def _freed(self, kind: RegionKind) -> None:
        if self.follow and kind in USER_KINDS:
            self.refresh()

    def close(self) -> None:
        """Let go of the table, which is about to be freed."""
        self._memory.forget_on_free(self._freed)
        self._table.release()

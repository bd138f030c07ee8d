"""Rings of provided buffers (IORING_REGISTER_PBUF_RING), in user memory.

    entry   0         8      12    14
            u64 addr  u32 len u16 bid u16 (of entry 0: the tail)

User space adds buffers at the tail; the head is the kernel's. With IOU_PBUF_RING_INC a buffer is
used up piece by piece: address and length in the ring move, and the head when nothing is left.
"""

from __future__ import annotations

import errno

from pybpfvm.bits import U16
from pybpfvm.memory import AddressSpace, UserFault
from pybpfvm.uring_backend.abi import (
    BUFFER_RING_ENTRY,
    BUFFER_RING_TAIL_AT,
    CQE_F_BUF_MORE,
    PBUF_RING_INC,
)
from pybpfvm.uring_backend.sim.request import Refused
from pybpfvm.uring_backend.sim.selection import Chosen


class BufferRing:
    """A registered ring; `head` counts the buffers that are used up, modulo 2**16."""

    def __init__(self, memory: AddressSpace, addr: int, entries: int, flags: int) -> None:
        self._memory = memory
        self._addr = addr
        self._mask = entries - 1
        self.incremental = bool(flags & PBUF_RING_INC)
        self.head = 0

    def _at(self, index: int) -> int:
        return self._addr + (index & self._mask) * BUFFER_RING_ENTRY.size

    def _available(self) -> int:
        try:
            raw = self._memory.user_read(self._addr + BUFFER_RING_TAIL_AT, 2)
        except UserFault:  # the block is gone
            return 0
        return int.from_bytes(raw, "little") - self.head & U16

    def _entry(self, index: int) -> tuple[int, int, int]:
        """(id, address, length)"""
        raw = self._memory.user_read(self._at(index), BUFFER_RING_ENTRY.size)
        addr, length, buffer_id = BUFFER_RING_ENTRY.unpack(raw)
        return buffer_id, addr, length

    def _rewrite(self, index: int, addr: int, length: int) -> None:
        where = self._at(index)
        raw = self._memory.user_read(where, BUFFER_RING_ENTRY.size)
        new = addr.to_bytes(8, "little") + length.to_bytes(4, "little")
        self._memory.user_write(where, new + raw[12:])

    @property
    def empty(self) -> bool:
        """Whether no buffer is left."""
        return not self._available()

    def choose_one(self, size: int) -> Chosen:
        """The next buffer, `size` bytes of it at most (0: all). The head stays until it is used."""
        if self.empty:
            raise Refused(errno.ENOBUFS)
        buffer_id, addr, length = self._entry(self.head)
        return Chosen(self, [(buffer_id, addr, length if size == 0 else min(size, length))])

    def choose(self, size: int, most: int) -> Chosen:
        """Up to `most` buffers for `size` bytes (0: as many as there are).

        The last one is not split, unless it is the first or buffers are used up piece by piece.
        """
        available = self._available()
        if not available:
            raise Refused(errno.ENOBUFS)
        left = size or (1 << 31) - 1
        first_length = self._entry(self.head)[2]
        if size:
            if not first_length:
                raise Refused(errno.ENOBUFS)
            available_for_it = min(available, -(-size // first_length))
        else:
            available_for_it = available
        found: list[tuple[int, int, int]] = []
        partial = False
        index = 0
        for _ in range(min(most, available_for_it)):
            buffer_id, addr, length = self._entry(self.head + index)
            if length > left:
                length = left
                if not self.incremental:
                    partial = True
                    if found:
                        break
            found.append((buffer_id, addr, length))
            left -= length
            if not left:
                break
            index += 1
        return Chosen(self, found, emptied=index == available, partial=partial)

    def put_back(self, chosen: Chosen) -> None:
        """The head was not moved."""

    def use(self, chosen: Chosen, size: int) -> int:
        """Move the head: over the buffers that hold `size` bytes, one at least; or over what is
        used up, F_BUF_MORE when the last of them is not."""
        if self.incremental:
            return self._use_pieces(size)
        self.head = self.head + _count(chosen.buffers, size) & U16
        return 0

    def _use_pieces(self, size: int) -> int:
        if not size:
            return CQE_F_BUF_MORE
        while size:
            _, addr, length = self._entry(self.head)
            taken = min(size, length)
            if length - taken or not taken:
                self._rewrite(self.head, addr + taken, length - taken)
                return CQE_F_BUF_MORE
            self._rewrite(self.head, addr, 0)
            self.head = self.head + 1 & U16
            size -= taken
        return 0


def _count(buffers: list[tuple[int, int, int]], size: int) -> int:
    """How many buffers `size` bytes fill or begin; one at least."""
    count = 0
    for _, _, length in buffers:
        count += 1
        size -= min(size, length)
        if not size:
            break
    return count

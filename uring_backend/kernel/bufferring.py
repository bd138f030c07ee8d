"""Rings of provided buffers for the real ring: private copies of those in user memory.

The kernel writes wherever an entry says, so it is given a ring that programs can not reach. What
they add to theirs is checked and copied when the backend is called (`publish`); what the kernel
changes in its own, where buffers are used up piece by piece, is written back (`reflect`).
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap

from pybpfvm.bits import U16
from pybpfvm.memory import AddressSpace, UserFault
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.bufferrings import check_ring
from pybpfvm.uring_backend.kernel.transport import Transport

_ENTRY = abi.BUFFER_RING_ENTRY.size
_FIELDS = 14  # of an entry, before what is the tail in entry 0


class BufferRings:
    """The registered rings of one backend, by group."""

    def __init__(self, memory: AddressSpace, ring: Transport, fault_addr: int) -> None:
        self._memory = memory
        self._ring = ring
        self._fault_addr = fault_addr
        self._copies: dict[int, _Copy] = {}

    def register(self, addr: int, entries: int, group: int, flags: int) -> int:
        """IORING_REGISTER_PBUF_RING: 0 or -errno."""
        refused = check_ring(self._memory, addr, entries, flags)
        if refused:
            return -refused
        copy = _Copy(self._memory, addr, entries, self._fault_addr)
        copy.changes = bool(flags & abi.PBUF_RING_INC)
        argument = abi.BUFFER_RING.pack(copy.addr, entries, group, flags)
        result = self._call(abi.REGISTER_PBUF_RING, argument)
        if result < 0:
            copy.close()
            return result
        self._copies[group] = copy
        copy.publish()
        return result

    def unregister(self, group: int) -> int:
        """IORING_UNREGISTER_PBUF_RING: 0 or -errno."""
        result = self._call(abi.UNREGISTER_PBUF_RING, abi.BUFFER_RING.pack(0, 0, group, 0))
        copy = self._copies.pop(group, None) if result >= 0 else None
        if copy is not None:
            copy.close()
        return result

    def head(self, group: int) -> int:
        """IORING_REGISTER_PBUF_STATUS: the head, or -errno."""
        status = ctypes.create_string_buffer(abi.BUFFER_RING_STATUS.pack(group, 0))
        result = self._ring.register(abi.REGISTER_PBUF_STATUS, ctypes.addressof(status), 1)
        if result < 0:
            return result
        head: int = abi.BUFFER_RING_STATUS.unpack_from(status.raw)[1]
        return head

    def _call(self, opcode: int, argument: bytes) -> int:
        buffer = ctypes.create_string_buffer(argument, len(argument))
        return self._ring.register(opcode, ctypes.addressof(buffer), 1)

    def publish(self) -> None:
        """Let the kernel have the buffers that were added."""
        for copy in self._copies.values():
            copy.publish()

    def reflect(self) -> None:
        """Let programs see how far the kernel used buffers up."""
        for copy in self._copies.values():
            if copy.changes:
                copy.reflect()

    def __bool__(self) -> bool:
        return bool(self._copies)

    def close(self) -> None:
        """Give the copies back; the real ring is closed."""
        for copy in self._copies.values():
            copy.close()
        self._copies.clear()


class _Copy:
    """One ring: the program's at `user`, ours at `addr`."""

    def __init__(self, memory: AddressSpace, user: int, entries: int, fault_addr: int) -> None:
        self._memory = memory
        self._user = user
        self._entries = entries
        self._fault_addr = fault_addr
        self._map = mmap.mmap(-1, entries * _ENTRY)
        self._anchor = ctypes.c_char.from_buffer(self._map)
        self.addr = ctypes.addressof(self._anchor)
        self.changes = False  # by the kernel
        self._tail = 0
        self._known = bytearray(entries * _ENTRY)

    def publish(self) -> None:
        try:
            at = self._user + abi.BUFFER_RING_TAIL_AT
            tail = int.from_bytes(self._memory.user_read(at, 2), "little")
            added = tail - self._tail & U16
            if not added:
                return
            for index in range(
                max(self._tail, self._tail + added - self._entries), self._tail + added
            ):
                self._copy(index & (self._entries - 1))
        except UserFault:
            return  # the block is gone
        self._tail = tail
        self._map[abi.BUFFER_RING_TAIL_AT : abi.BUFFER_RING_TAIL_AT + 2] = tail.to_bytes(
            2, "little"
        )
        if self.changes:
            self.reflect()

    def _copy(self, index: int) -> None:
        at = index * _ENTRY
        raw = self._memory.user_read(self._user + at, _FIELDS)
        addr, length, buffer_id = abi.BUFFER_RING_ENTRY.unpack(raw + bytes(2))
        if not self._memory.is_user(addr, length):
            addr = self._fault_addr
        if self.changes:
            self._known[at : at + _FIELDS] = abi.BUFFER_RING_ENTRY.pack(addr, length, buffer_id)[
                :_FIELDS
            ]
        self._map[at : at + _FIELDS] = abi.BUFFER_RING_ENTRY.pack(addr, length, buffer_id)[:_FIELDS]

    def reflect(self) -> None:
        now = self._map[:]
        if now == self._known:
            return
        with contextlib.suppress(UserFault):
            for at in range(0, len(now), _ENTRY):
                if now[at : at + 12] != self._known[at : at + 12]:
                    self._memory.user_write(self._user + at, now[at : at + 12])
        self._known = bytearray(now)

    def close(self) -> None:
        del self._anchor
        self._map.close()

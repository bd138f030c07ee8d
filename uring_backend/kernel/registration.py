"""io_uring_register(2) for files, buffers and cancellation: guarded arguments, packed.

Tags travel as messages do: under tokens of their own.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence

from pybpfvm.memory import AddressSpace
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.kernel import messages
from pybpfvm.uring_backend.kernel.guard import Guard
from pybpfvm.uring_backend.kernel.transport import Transport

_NS_PER_S = 1_000_000_000
_FOREVER = (-1, -1)


class Registration:
    """The register commands of one real ring."""

    def __init__(self, memory: AddressSpace, ring: Transport, guard: Guard) -> None:
        self._memory = memory
        self._ring = ring
        self._guard = guard
        self._buffers: list[tuple[int, int] | None] = []  # as the kernel has them

    def files(self, fds: Sequence[int], tags: Sequence[int]) -> int:
        """FILES, or FILES2 with tags; foreign descriptors are -EBADF."""
        array = struct.pack(f"<{len(fds)}i", *self._guard.copy_fds(fds))
        return self._table(abi.REGISTER_FILES, abi.REGISTER_FILES2, array, len(fds), tags)

    def update_files(self, offset: int, fds: Sequence[int], tags: Sequence[int]) -> int:
        """FILES_UPDATE, or FILES_UPDATE2 with tags."""
        array = struct.pack(f"<{len(fds)}i", *self._guard.copy_fds(fds))
        if not any(tags):
            data = ctypes.create_string_buffer(array, max(len(array), 1))
            update = struct.pack("<IIQ", offset & 0xFFFFFFFF, 0, ctypes.addressof(data))
            return self._call(abi.REGISTER_FILES_UPDATE, update, len(fds))
        return self._update(abi.REGISTER_FILES_UPDATE2, offset, array, len(fds), tags)

    def buffers(self, buffers: Sequence[tuple[int, int]], tags: Sequence[int]) -> int:
        """BUFFERS, or BUFFERS2 with tags; what is not user memory is -EFAULT."""
        array = self._iovecs(buffers)
        plain, tagged = abi.REGISTER_BUFFERS, abi.REGISTER_BUFFERS2
        result = self._table(plain, tagged, array, len(buffers), tags)
        if result >= 0:
            self._buffers = [_kept_buffer(*buffer) for buffer in buffers]
        return result

    def update_buffers(
        self, offset: int, buffers: Sequence[tuple[int, int]], tags: Sequence[int]
    ) -> int:
        """BUFFERS_UPDATE."""
        array = self._iovecs(buffers)
        done = self._update(abi.REGISTER_BUFFERS_UPDATE, offset, array, len(buffers), tags)
        for at, buffer in enumerate(buffers[: max(done, 0)], offset):
            self._buffers[at] = _kept_buffer(*buffer)
        return done

    def unregister_buffers(self) -> int:
        """UNREGISTER_BUFFERS."""
        result = self._ring.register(abi.UNREGISTER_BUFFERS, 0, 0)
        if result >= 0:
            self._buffers = []
        return result

    def clone_buffers(
        self,
        source_fd: int,
        source: Registration,
        offset: int,
        target: int,
        count: int,
        *,
        replace: bool,
    ) -> int:
        """CLONE_BUFFERS of the ring behind `source_fd`, whose registration is `source`."""
        flags = abi.CLONE_DST_REPLACE if replace else 0
        arg = struct.pack("<iIIII12x", source_fd, flags, offset, target, count)
        result = self._call(abi.REGISTER_CLONE_BUFFERS, arg, 1)
        if result >= 0:
            taken = source._buffers[offset : offset + (count or len(source._buffers))]
            missing = target + len(taken) - len(self._buffers)
            self._buffers += [None] * max(missing, 0)
            self._buffers[target : target + len(taken)] = taken
        return result

    def buffer_at(self, index: int) -> tuple[int, int] | None:
        """(address, bytes) of a registered buffer, None if there is none."""
        return self._buffers[index] if index < len(self._buffers) else None

    def file_alloc_range(self, offset: int, count: int) -> int:
        """FILE_ALLOC_RANGE."""
        return self._call(abi.REGISTER_FILE_ALLOC_RANGE, struct.pack("<IIQ", offset, count, 0), 0)

    def sync_cancel(
        self, token: int, fd: int, flags: int, opcode: int, timeout_ns: int | None
    ) -> int:
        """SYNC_CANCEL; foreign descriptors are -EBADF."""
        if not flags & abi.ASYNC_CANCEL_FD_FIXED and fd not in self._guard.owned:
            fd = -1
        seconds, nanoseconds = _FOREVER if timeout_ns is None else divmod(timeout_ns, _NS_PER_S)
        arg = struct.pack("<QiIqqB7x24x", token, fd, flags, seconds, nanoseconds, opcode)
        return self._call(abi.REGISTER_SYNC_CANCEL, arg, 1)

    def _iovecs(self, buffers: Sequence[tuple[int, int]]) -> bytes:
        packed = bytearray()
        for addr, size in buffers:
            inside = not addr or self._memory.is_user(addr, size)
            packed += abi.IOVEC.pack(addr if inside else self._guard.fault_addr, size)
        return bytes(packed)

    def _table(self, plain: int, tagged: int, array: bytes, count: int, tags: Sequence[int]) -> int:
        if not any(tags):
            return self._call(plain, array, count)
        data = ctypes.create_string_buffer(array, max(len(array), 1))
        tokens, tags_at = _tokens(tags, count)
        arg = struct.pack("<IIQQQ", count, 0, 0, ctypes.addressof(data), tags_at)
        return self._kept(tokens, 0, self._call(tagged, arg, len(arg)))

    def _update(
        self, opcode: int, offset: int, array: bytes, count: int, tags: Sequence[int]
    ) -> int:
        data = ctypes.create_string_buffer(array, max(len(array), 1))
        tokens, tags_at = _tokens(tags, count)
        arg = struct.pack("<IIQQII", offset, 0, ctypes.addressof(data), tags_at, count, 0)
        result = self._call(opcode, arg, len(arg))
        return self._kept(tokens, max(result, 0), result)

    @staticmethod
    def _kept(tokens: ctypes.Array[ctypes.c_uint64], done: int, result: int) -> int:
        """Forget the tags of what was not registered."""
        if result < 0 or done:
            for token in tokens[done:]:
                messages.take(token)
        return result

    def _call(self, opcode: int, arg: bytes, count: int) -> int:
        buffer = ctypes.create_string_buffer(arg, max(len(arg), 1))
        return self._ring.register(opcode, ctypes.addressof(buffer), count)


def _kept_buffer(addr: int, size: int) -> tuple[int, int] | None:
    return (addr, size) if addr else None


def _tokens(tags: Sequence[int], count: int) -> tuple[ctypes.Array[ctypes.c_uint64], int]:
    """The tags' tokens as an array, and its address."""
    padded = [*tags[:count], *[0] * (count - len(tags))]
    array = (ctypes.c_uint64 * max(count, 1))(*(tag and messages.post(tag) for tag in padded))
    return array, ctypes.addressof(array)

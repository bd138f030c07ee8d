"""The settings of a real ring: io_uring_register(2) for all but files, buffers and cancellation.

What concerns the thread (workers, the numbers of rings) concerns all its rings, and the numbers of
workers stay when this ring is closed.
"""

from __future__ import annotations

import ctypes
import struct
import threading
from collections.abc import Collection, Iterable
from typing import Final

from pybpfvm.errors import InputError
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.abi import Op, Register
from pybpfvm.uring_backend.kernel.guard import SUPPORTED, Guard
from pybpfvm.uring_backend.kernel.sysring import register
from pybpfvm.uring_backend.kernel.transport import Transport
from pybpfvm.uring_backend.settings import Capabilities

_NO_RING: Final = -1  # of commands that need none
_ANY_NUMBER: Final = 0xFFFF_FFFF
_PROBE_OPS: Final = 256
_PROBE_HEAD: Final = 16
_PROBE_OP: Final = struct.Struct("<BBHI")
_OP_SUPPORTED: Final = 1
_NUMBER: Final = struct.Struct("<IIQ")  # struct io_uring_rsrc_update
_QUERY: Final = struct.Struct("<QQIIi3I")  # struct io_uring_query_hdr
_ANSWER: Final = struct.Struct("<IIQQQQ")  # struct io_uring_query_opcode, as far as it is used
_WORKERS: Final = struct.Struct("<II")
_CLOCK: Final = struct.Struct("<I12x")
_MOST_CPUS: Final = 1 << 16


class KernelSettings:
    """See Settings."""

    def __init__(self, ring: Transport, guard: Guard) -> None:
        self._ring = ring
        self._guard = guard
        self._numbers: dict[int, int] = {}  # number of the ring -> of whose thread

    @property
    def personalities(self) -> Collection[int]:
        """Numbers of credentials of this process."""
        return self._guard.personalities

    def probe(self) -> frozenset[int]:
        """What the kernel performs, of what the guard lets pass."""
        return probed(self._ring) & SUPPORTED

    def query(self) -> Capabilities | int:
        """What the kernel says."""
        answer = ctypes.create_string_buffer(_ANSWER.size)
        head = _buffer(_QUERY.pack(0, ctypes.addressof(answer), 0, _ANSWER.size, 0, 0, 0, 0))
        result = register(_NO_RING, Register.QUERY, ctypes.addressof(head), 0)
        result = result or _QUERY.unpack(head.raw[: _QUERY.size])[4]
        return Capabilities(*_ANSWER.unpack(answer.raw)) if result >= 0 else result

    def register_personality(self) -> int:
        """A number, or -errno."""
        number = self._ring.register(Register.PERSONALITY, 0, 0)
        if number > 0:
            self._guard.personalities.add(number)
        return number

    def unregister_personality(self, number: int) -> int:
        """0 or -EINVAL."""
        result = self._ring.register(Register.UNREGISTER_PERSONALITY, 0, number & 0xFFFF_FFFF)
        if result >= 0:
            self._guard.personalities.discard(number)
        return result

    def register_iowq_aff(self, cpus: Iterable[int]) -> int:
        """0 or -errno."""
        mask = 0
        for cpu in cpus:
            if not 0 <= cpu < _MOST_CPUS:
                raise InputError(f"processor {cpu}", remedy=f"from 0 to {_MOST_CPUS - 1}")
            mask |= 1 << cpu
        data = mask.to_bytes(max((mask.bit_length() + 63) // 64 * 8, 8), "little")
        return self._call(Register.IOWQ_AFF, data, len(data))

    def unregister_iowq_aff(self) -> int:
        """0 or -errno."""
        return self._ring.register(Register.UNREGISTER_IOWQ_AFF, 0, 0)

    def iowq_max_workers(self, bounded: int, unbounded: int) -> tuple[int, int] | int:
        """The numbers until now, or -errno."""
        data = _buffer(_WORKERS.pack(bounded & 0xFFFF_FFFF, unbounded & 0xFFFF_FFFF))
        result = self._ring.register(Register.IOWQ_MAX_WORKERS, ctypes.addressof(data), 2)
        if result < 0:
            return result
        before: tuple[int, int] = _WORKERS.unpack_from(data.raw)
        return before

    def register_ring_fd(self, number: int = -1) -> int:
        """The number, or -errno."""
        asked = _ANY_NUMBER if number == -1 else number & 0xFFFF_FFFF
        update = _buffer(_NUMBER.pack(asked, 0, self._ring.fd))
        done = self._ring.register(Register.RING_FDS, ctypes.addressof(update), 1)
        if done < 0:
            return done
        found: int = _NUMBER.unpack_from(update.raw)[0]
        self._numbers[found] = threading.get_ident()
        return found

    def unregister_ring_fd(self, number: int) -> int:
        """0 or -errno."""
        update = _NUMBER.pack(number & 0xFFFF_FFFF, 0, 0)
        done = self._call(Register.UNREGISTER_RING_FDS, update, 1)
        self._numbers.pop(number, None)
        return min(done, 0)

    def register_clock(self, clock: int) -> int:
        """0 or -errno."""
        return self._call(Register.CLOCK, _CLOCK.pack(clock & 0xFFFF_FFFF), 0)

    def sync_message(self, sqe: bytes) -> int:
        """0 or -errno."""
        effect = None
        if sqe[0] == Op.MSG_RING:
            sqe, effect = self._guard.admit(sqe)
        data = _buffer(sqe)
        number = int(Register.SEND_MSG_RING)
        result = register(_NO_RING, number, ctypes.addressof(data), 1)
        if effect is not None and effect.on_result is not None:
            effect.on_result(result)
        return result

    def register_eventfd_async(self, fd: int) -> int:
        """0 or -errno; a foreign descriptor is -EBADF."""
        (checked,) = self._guard.copy_fds([fd])
        return self._call(Register.EVENTFD_ASYNC, abi.FD.pack(checked), 1)

    def unregister_eventfd_async(self) -> int:
        """0 or -ENXIO."""
        return self._ring.register(Register.UNREGISTER_EVENTFD, 0, 0)

    def close(self) -> None:
        """This thread's numbers for the ring, which would keep it, mean nothing any more."""
        for number, thread in list(self._numbers.items()):
            if thread == threading.get_ident():
                self.unregister_ring_fd(number)

    def _call(self, command: Register, arg: bytes, count: int) -> int:
        return self._ring.register(command, ctypes.addressof(_buffer(arg)), count)


def probed(ring: Transport) -> frozenset[int]:
    """Which opcodes the ring's kernel performs (IORING_REGISTER_PROBE); none if it can not say."""
    answer = ctypes.create_string_buffer(_PROBE_HEAD + _PROBE_OPS * _PROBE_OP.size)
    if ring.register(Register.PROBE, ctypes.addressof(answer), _PROBE_OPS) < 0:
        return frozenset()
    table = answer.raw[_PROBE_HEAD : _PROBE_HEAD + answer.raw[1] * _PROBE_OP.size]
    rows = _PROBE_OP.iter_unpack(table)
    return frozenset(op for op, _, flags, _ in rows if flags & _OP_SUPPORTED)


def _buffer(data: bytes) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(data, max(len(data), 1))

"""The settings of a simulated ring, which is asked as Linux 6.18 is (see settings.Settings)."""

from __future__ import annotations

import errno
import threading
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Final

from pybpfvm.bits import U32
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.abi import MSG_DATA, OP_LAST, Op, Register, Sqe
from pybpfvm.uring_backend.settings import (
    CLOCK_BOOTTIME,
    CLOCK_MONOTONIC,
    RING_NUMBERS,
    Capabilities,
)
from pybpfvm.uring_backend.sim.eventfds import EventFd
from pybpfvm.uring_backend.sim.messages import prepare_msg_ring
from pybpfvm.uring_backend.sim.request import Refused, Request

if TYPE_CHECKING:
    from pybpfvm.uring_backend.sim.core import Core

_MOST_PERSONALITIES: Final = 0xFFFF
_FIRST_WORKERS: Final = (8, 4096)  # of a machine with two processors, and its limit of processes
_INT_MAX: Final = (1 << 31) - 1
_CAPABILITIES: Final = Capabilities(
    request_opcodes=OP_LAST,
    register_opcodes=len(Register),
    features=(1 << 18) - 1,
    setup_flags=(abi.SETUP_CQE_MIXED << 1) - 1,
    enter_flags=abi.ENTER_ALL,
    sqe_flags=abi.SQE_VALID_FLAGS,
)


class _Thread(threading.local):
    """The numbers by which one thread names rings."""

    def __init__(self) -> None:
        self.rings: dict[int, Core] = {}


_THREAD: Final = _Thread()


class SimSettings:
    """See Settings. Which processors workers run on, how many they are and which clock times
    waits changes nothing here: time is virtual, and never stands still."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._last_personality = 0
        self._workers = _FIRST_WORKERS

    @property
    def personalities(self) -> Collection[int]:
        """Numbers of credentials, which are all those of root."""
        return self._core.personalities

    def probe(self) -> frozenset[int]:
        """What this ring performs."""
        return frozenset(self._core.opcodes)

    def query(self) -> Capabilities | int:
        """What Linux 6.18 says."""
        return _CAPABILITIES

    def register_personality(self) -> int:
        """A number that was not used for long: they go round."""
        known = self._core.personalities
        if len(known) == _MOST_PERSONALITIES:
            return -errno.EBUSY
        number = self._last_personality % _MOST_PERSONALITIES + 1
        while number in known:
            number = number % _MOST_PERSONALITIES + 1
        self._last_personality = number
        known.add(number)
        return number

    def unregister_personality(self, number: int) -> int:
        """0 or -EINVAL."""
        if number not in self._core.personalities:
            return -errno.EINVAL
        self._core.personalities.discard(number)
        return 0

    def register_iowq_aff(self, cpus: Iterable[int]) -> int:
        """Any processors will do."""
        del cpus
        return 0

    def unregister_iowq_aff(self) -> int:
        """0, whether there was any or not."""
        return 0

    def iowq_max_workers(self, bounded: int, unbounded: int) -> tuple[int, int] | int:
        """Numbers above the limit of processes are cut."""
        wanted = bounded & U32, unbounded & U32
        if max(wanted) > _INT_MAX:
            return -errno.EINVAL
        before = self._workers
        most = _FIRST_WORKERS[1]
        first, second = (min(new, most) or old for new, old in zip(wanted, before, strict=True))
        self._workers = first, second
        return before

    def register_ring_fd(self, number: int = -1) -> int:
        """A free number, or -errno."""
        rings = _THREAD.rings
        if number == -1:
            number = next((free for free in range(RING_NUMBERS) if free not in rings), -1)
            if number < 0:
                return -errno.EBUSY
        elif not 0 <= number < RING_NUMBERS:
            return -errno.EINVAL
        elif number in rings:
            return -errno.EBUSY
        rings[number] = self._core
        return number

    def unregister_ring_fd(self, number: int) -> int:
        """0 or -EINVAL."""
        if not 0 <= number < RING_NUMBERS:
            return -errno.EINVAL
        _THREAD.rings.pop(number, None)
        return 0

    def register_clock(self, clock: int) -> int:
        """0 or -EINVAL."""
        return 0 if clock in (CLOCK_MONOTONIC, CLOCK_BOOTTIME) else -errno.EINVAL

    def sync_message(self, sqe: bytes) -> int:
        """0 or -errno."""
        request = Request(asked := Sqe.unpack(sqe))
        if asked.flags or asked.opcode != Op.MSG_RING or asked.addr != MSG_DATA:
            return -errno.EINVAL
        try:
            issue = prepare_msg_ring(self._core, request)
            request.file = self._core.fds.get(asked.fd).hold()
            return issue() or 0
        except Refused as refused:
            return -refused.errno
        finally:
            request.let_go()

    def register_eventfd_async(self, fd: int) -> int:
        """0 or -errno."""
        core = self._core
        if core.worker_signal is not None:
            return -errno.EBUSY
        try:
            node = core.fds.get(fd).node
        except Refused as refused:
            return -refused.errno
        if not isinstance(node, EventFd):
            return -errno.EINVAL
        core.worker_signal = lambda: node.signal(1)
        return 0

    def unregister_eventfd_async(self) -> int:
        """0 or -ENXIO."""
        if self._core.worker_signal is None:
            return -errno.ENXIO
        self._core.worker_signal = None
        return 0

    def close(self) -> None:
        """This thread's numbers for the ring mean nothing any more."""
        for number in [at for at, core in _THREAD.rings.items() if core is self._core]:
            del _THREAD.rings[number]

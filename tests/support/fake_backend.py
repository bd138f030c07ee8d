"""The smallest backend the ring can be tested on: NOP, TIMEOUT, POLL_ADD that waits for `fire`,
their cancellation, EXTERNAL; chains, drains, virtual time. Anything else is a bad SQE (-EINVAL).
"""

from __future__ import annotations

import errno
import struct
from collections import deque
from collections.abc import Sequence
from typing import cast

from pybpfvm.errors import UnsupportedError
from pybpfvm.memory import AddressSpace, UserFault
from pybpfvm.uring_backend.abi import (
    CQE_F_MORE,
    POLL_ADD_MULTI,
    SQE_ANY_LINK,
    SQE_IO_DRAIN,
    SQE_IO_LINK,
    TIMEOUT_UPDATE,
    Op,
    Sqe,
)
from pybpfvm.uring_backend.base import (
    EXTERNAL,
    Backend,
    Completion,
    Denied,
    Event,
    PollGate,
    Started,
    World,
)
from pybpfvm.uring_backend.settings import Settings


class _NoSettings:
    """Those of a ring that knows no personality."""

    personalities = frozenset[int]()


_SUPPORTED = (
    Op.NOP,
    Op.TIMEOUT,
    Op.POLL_ADD,
    Op.TIMEOUT_REMOVE,
    Op.ASYNC_CANCEL,
    Op.POLL_REMOVE,
    EXTERNAL,
)


class FakeBackend:
    """See Backend. `submitted` keeps every SQE it was given; `closed` counts close calls."""

    name = "fake"
    world: World
    settings: Settings = cast(Settings, _NoSettings())

    def __init__(self, memory: AddressSpace) -> None:
        self.memory = memory
        self.submitted: list[Sqe] = []
        self.closed = 0
        self.files: list[int] | None = None
        self.lacks: int | None = None  # an opcode to refuse as `sim` refuses what it lacks
        self._now = 0
        self._events: list[Event] = []
        self._chains: dict[int, list[Sqe]] = {}  # running token -> rest of its chain
        self._running: dict[int, Sqe] = {}
        self._deadlines: dict[int, int] = {}
        self._held: deque[list[Sqe]] = deque()  # units behind a drain
        self._live = 0
        self._aside: set[int] = set()  # tokens of live requests that drains do not wait for

    def now_ns(self) -> int:
        return self._now

    def submit(self, sqes: Sequence[bytes]) -> int:
        if any(raw[0] == self.lacks for raw in sqes):
            raise UnsupportedError(f"opcode {self.lacks}")
        unit: list[Sqe] = []
        for count, raw in enumerate(sqes, 1):
            sqe = Sqe.unpack(raw)
            assert (sqe.addr3, sqe.pad) == (0, 0), "cq_idx reached the backend"
            self.submitted.append(sqe)
            self._live += 1
            if not unit and not sqe.flags & SQE_ANY_LINK and self._prep(sqe):
                self._report(sqe, self._prep(sqe))
                return count
            unit.append(sqe)
            if not sqe.flags & SQE_ANY_LINK:
                self._place(unit)
                unit = []
        if unit:
            self._place(unit)
        return len(sqes)

    def submit_aside(self, sqe: bytes) -> None:
        entry = Sqe.unpack(sqe)
        self.submitted.append(entry)
        self._live += 1
        self._aside.add(entry.user_data)
        if res := self._prep(entry):
            self._report(entry, res)
        else:
            self._issue([entry])

    def _prep(self, sqe: Sqe) -> int:
        return -errno.EINVAL if sqe.opcode not in _SUPPORTED or sqe.ioprio else 0

    def _place(self, unit: list[Sqe]) -> None:
        self._held.append(unit)
        self._release()

    def _release(self) -> None:
        while self._held:
            unit = self._held[0]
            waiting = sum(len(held) for held in self._held)
            others = self._live - len(self._aside)
            if unit[0].flags & SQE_IO_DRAIN and others > waiting:
                return
            self._held.popleft()
            bad = [self._prep(sqe) for sqe in unit]
            if any(bad):
                for sqe, res in zip(unit, bad, strict=True):
                    self._report(sqe, res or -errno.ECANCELED)
            else:
                self._issue(unit)

    def _issue(self, chain: list[Sqe]) -> None:
        sqe, rest = chain[0], chain[1:]
        self._running[sqe.user_data] = sqe
        self._chains[sqe.user_data] = rest
        if sqe.opcode == Op.NOP:
            self._end(sqe.user_data, 0)
        elif sqe.opcode == EXTERNAL:
            self._events.append(Started(sqe.user_data))
        elif sqe.opcode == Op.TIMEOUT:
            try:
                seconds, nanoseconds = struct.unpack("<qq", self.memory.user_read(sqe.addr, 16))
            except UserFault:
                self._end(sqe.user_data, -errno.EFAULT)
                return
            self._deadlines[sqe.user_data] = self._now + seconds * 10**9 + nanoseconds
        elif sqe.opcode != Op.POLL_ADD:
            self._end(sqe.user_data, self._remove(sqe))

    def _remove(self, sqe: Sqe) -> int:
        target = self._running.get(sqe.addr)
        opcode = {Op.TIMEOUT_REMOVE: Op.TIMEOUT, Op.POLL_REMOVE: Op.POLL_ADD}.get(Op(sqe.opcode))
        if target is None or target is sqe or (opcode is not None and target.opcode != opcode):
            return -errno.ENOENT
        if sqe.opcode == Op.TIMEOUT_REMOVE and sqe.op_flags & TIMEOUT_UPDATE:
            seconds, nanoseconds = struct.unpack("<qq", self.memory.user_read(sqe.off, 16))
            self._deadlines[sqe.addr] = self._now + seconds * 10**9 + nanoseconds
        elif not (sqe.opcode == Op.POLL_REMOVE and sqe.len):
            self._end(sqe.addr, -errno.ECANCELED)
        return 0

    def _end(self, token: int, res: int, *, quiet: bool = False, failed: bool = False) -> None:
        sqe = self._running.pop(token)
        rest = self._chains.pop(token)
        self._deadlines.pop(token, None)
        if quiet:
            self._live -= 1
        else:
            self._report(sqe, res)
        if (res < 0 or failed) and sqe.flags & SQE_IO_LINK:
            for member in rest:
                self._report(member, -errno.ECANCELED)
        elif rest:
            self._issue(rest)
        self._release()

    def _report(self, sqe: Sqe, res: int) -> None:
        self._live -= 1
        self._aside.discard(sqe.user_data)
        self._events.append(Completion(sqe.user_data, res, 0))

    def fire(self, mask: int = 1) -> None:
        """Every armed poll sees an event; one-shot ones end."""
        for token, sqe in list(self._running.items()):
            if sqe.opcode == Op.POLL_ADD and sqe.len & POLL_ADD_MULTI:
                self._events.append(Completion(token, mask, CQE_F_MORE))
            elif sqe.opcode == Op.POLL_ADD:
                self._end(token, mask)

    def ring_fd(self, other: Backend) -> int:
        raise UnsupportedError("MSG_RING", remedy="use the simulated ring")

    def poll(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def wait(self, timeout_ns: int | None) -> bool:
        if self._events:
            return True
        if not self._deadlines:
            return False
        token = min(self._deadlines, key=lambda token: (self._deadlines[token], token))
        due = self._deadlines[token]
        if timeout_ns is not None and due > self._now + timeout_ns:
            self._now += timeout_ns
            return False
        self._now = max(self._now, due)
        self._end(token, -errno.ETIME)
        return True

    def can_progress(self) -> bool:
        return bool(self._events or self._deadlines)

    def finish(self, token: int, *, failed: bool = False) -> None:
        assert self._running[token].opcode == EXTERNAL
        self._end(token, 0, quiet=True, failed=failed)

    def cancel_external(self, token: int) -> None:
        for chain in (*self._chains.values(), *self._held):
            for index, sqe in enumerate(chain):
                if sqe.user_data == token:
                    for member in chain[index:]:
                        self._report(member, -errno.ECANCELED)
                    del chain[index:]
                    self._held = deque(unit for unit in self._held if unit)
                    self._release()
                    return

    def register_files(self, fds: Sequence[int], tags: Sequence[int] = ()) -> int:
        if self.files is not None:
            return -errno.EBUSY
        self.files = list(fds)
        return 0

    def update_files(self, offset: int, fds: Sequence[int], tags: Sequence[int] = ()) -> int:
        if self.files is None:
            return -errno.ENXIO
        return len(fds)

    def unregister_files(self) -> int:
        if self.files is None:
            return -errno.ENXIO
        self.files = None
        return 0

    def file_alloc_range(self, offset: int, count: int) -> int:
        return -errno.EINVAL

    def register_buffers(self, buffers: Sequence[tuple[int, int]], tags: Sequence[int] = ()) -> int:
        return 0

    def update_buffers(
        self, offset: int, buffers: Sequence[tuple[int, int]], tags: Sequence[int] = ()
    ) -> int:
        return -errno.ENXIO

    def clone_buffers(
        self,
        source: Backend,
        offset: int = 0,
        target: int = 0,
        count: int = 0,
        *,
        replace: bool = False,
    ) -> int:
        return -errno.ENXIO

    def sync_cancel(
        self,
        token: int = 0,
        *,
        fd: int = -1,
        flags: int = 0,
        opcode: int = 0,
        timeout_ns: int | None = None,
    ) -> int:
        return -errno.ENOENT

    def unregister_buffers(self) -> int:
        return -errno.ENXIO

    def register_buffer_ring(self, addr: int, entries: int, group: int, flags: int = 0) -> int:
        return -errno.EINVAL

    def unregister_buffer_ring(self, group: int) -> int:
        return -errno.ENOENT

    def gate_polls(self, gate: PollGate | None) -> None:
        raise NotImplementedError

    def buffer_at(self, index: int) -> tuple[int, int] | None:
        raise NotImplementedError

    def filter_requests(self, denied: Denied) -> None:
        raise UnsupportedError("filters")

    def buffer_ring_head(self, group: int) -> int:
        return -errno.ENOENT

    def in_flight(self) -> int:
        return self._live

    def holds(self, token: int) -> bool:
        return token > 0 and self._live > 0

    def close(self) -> None:
        self.closed += 1

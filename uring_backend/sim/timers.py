"""Timeouts in flight: by time, by number of completions, and linked to another request."""

from __future__ import annotations

import errno
from bisect import insort
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pybpfvm.uring_backend.abi import (
    TIMEOUT_ABS,
    TIMEOUT_ETIME_SUCCESS,
    TIMEOUT_MULTISHOT,
    TIMEOUT_REALTIME,
)
from pybpfvm.uring_backend.sim.cancel import cancel_one
from pybpfvm.uring_backend.sim.clock import REALTIME_BASE_NS, Alarm
from pybpfvm.uring_backend.sim.request import Request, State

if TYPE_CHECKING:
    from pybpfvm.uring_backend.sim.core import Core


@dataclass(slots=True)
class Timer:
    """A timeout request at work. `parent` is the request a linked timeout guards."""

    request: Request
    flags: int
    duration_ns: int
    alarm: Alarm | None = None
    parent: Request | None = None
    shots_left: int = 0  # of a multishot timeout; 0: no limit
    target: int = 0  # number of completions that ends it early; 0: none does


class Timers:
    """All timeouts of a ring.

    A timeout that ended by itself does not count as a completion for the others (`_not_counted`);
    removed and linked ones do. As in mainline.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self.armed: dict[Request, Timer] = {}
        self.linked: dict[Request, Timer] = {}
        self._prepared: dict[Request, Timer] = {}
        self._counting: list[tuple[int, int, Timer]] = []  # by target, then by arrival
        self._arrivals = 0
        self._not_counted = 0

    def due_ns(self, flags: int, duration_ns: int) -> int:
        """The moment that a timeout with these flags means."""
        if not flags & TIMEOUT_ABS:
            return self._core.clock.now_ns + duration_ns
        if flags & TIMEOUT_REALTIME:
            return duration_ns - REALTIME_BASE_NS
        return duration_ns

    def start(self, request: Request, flags: int, duration_ns: int) -> None:
        """Begin a TIMEOUT; Sqe.off is its completion count, or its number of shots."""
        timer = Timer(request, flags, duration_ns)
        if flags & TIMEOUT_MULTISHOT:
            timer.shots_left = request.sqe.off & 0xFFFF_FFFF
        elif count := request.sqe.off & 0xFFFF_FFFF:
            timer.target = self._core.posted - self._not_counted + count
            self._arrivals += 1
            insort(self._counting, (timer.target, self._arrivals, timer))
        request.state = State.TIMER
        self.armed[request] = timer
        self._set(timer)

    def _set(self, timer: Timer) -> None:
        due = self.due_ns(timer.flags, timer.duration_ns)
        timer.alarm = self._core.clock.at(due, lambda: self._expired(timer))

    def _expired(self, timer: Timer) -> None:
        request = timer.request
        self._not_counted += 1
        if timer.flags & TIMEOUT_MULTISHOT and timer.shots_left != 1:
            timer.shots_left -= timer.shots_left > 0
            self._core.post(request, -errno.ETIME)
            self._set(timer)
            return
        self._forget(timer)
        success = bool(timer.flags & TIMEOUT_ETIME_SUCCESS)
        self._core.complete(request, -errno.ETIME, failed=not success)

    def _forget(self, timer: Timer) -> None:
        if timer.alarm is not None:
            self._core.clock.cancel(timer.alarm)
        self.armed.pop(timer.request, None)
        if timer.target:
            self._counting = [entry for entry in self._counting if entry[2] is not timer]

    def count(self, posted: int) -> None:
        """`posted` CQEs exist: end the timeouts that waited for so many, with result 0."""
        while self._counting and self._counting[0][0] <= posted - self._not_counted:
            timer = self._counting[0][2]
            self._not_counted += 1
            self._forget(timer)
            timer.request.state = State.QUEUED
            request = timer.request
            self._core.later(lambda request=request: self._core.complete(request, 0))  # type: ignore[misc]

    def remove(self, request: Request) -> None:
        """Cancel an armed TIMEOUT."""
        self._forget(self.armed[request])
        self._core.cancel_later(request)

    def update(self, request: Request, flags: int, duration_ns: int) -> None:
        """Start an armed TIMEOUT, or an armed linked one, anew; a completion count is dropped."""
        timer = self.armed.get(request) or self.linked[request]
        if timer.alarm is not None:
            self._core.clock.cancel(timer.alarm)
        keep = timer.flags & ~TIMEOUT_ABS
        timer.flags = keep | flags & TIMEOUT_ABS
        timer.duration_ns = duration_ns
        if timer.parent is None:
            self._forget(timer)
            timer.target = timer.shots_left = 0
            self.armed[request] = timer
            self._set(timer)
        else:
            self._set_linked(timer)

    # --- linked timeouts --------------------------------------------------------------------

    def prepare_linked(self, request: Request, flags: int, duration_ns: int) -> None:
        """Keep what a LINK_TIMEOUT asks for until the request it guards has to wait."""
        self._prepared[request] = Timer(request, flags, duration_ns)

    def start_link_timeout(self, request: Request, parent: Request) -> None:
        """The guarded request waits: time runs."""
        timer = self._prepared.pop(request)
        timer.parent = parent
        request.state = State.TIMER
        self.linked[request] = timer
        self._set_linked(timer)

    def _set_linked(self, timer: Timer) -> None:
        due = self.due_ns(timer.flags, timer.duration_ns)
        timer.alarm = self._core.clock.at(due, lambda: self._guard_expired(timer))

    def _guard_expired(self, timer: Timer) -> None:
        request, parent = timer.request, timer.parent
        assert parent is not None
        del self.linked[request]
        parent.link_timeout = None
        parent.next, request.next = request.next, None
        result = cancel_one(self._core, parent)
        self._core.complete(request, result or -errno.ETIME, failed=False)

    def stop(self, request: Request) -> None:
        """The guarded request is done: its timeout is not needed any more."""
        self._prepared.pop(request, None)
        timer = self.linked.pop(request, None)
        if timer is not None and timer.alarm is not None:
            self._core.clock.cancel(timer.alarm)

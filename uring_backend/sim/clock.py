"""The virtual clock: what will happen when, in one queue.

Time moves only in `advance`; nothing here looks at the machine's clock. Alarms of the same
moment ring in the order in which they were set.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Final

NS_PER_S: Final = 1_000_000_000
NEVER: Final = (1 << 63) - 1  # the kernel's KTIME_MAX
REALTIME_BASE_NS: Final = 1_600_000_000 * NS_PER_S  # CLOCK_REALTIME when the virtual clock shows 0


class Alarm:
    """An action due at `time_ns`. Cancelled alarms stay in the queue, without effect."""

    __slots__ = ("_order", "action", "cancelled", "time_ns")

    def __init__(self, time_ns: int, order: int, action: Callable[[], None]) -> None:
        self.time_ns = time_ns
        self._order = order
        self.action = action
        self.cancelled = False

    def __lt__(self, other: Alarm) -> bool:
        return (self.time_ns, self._order) < (other.time_ns, other._order)


class Clock:
    """Virtual nanoseconds since the backend was made, and the alarms set on them."""

    def __init__(self) -> None:
        self.now_ns = 0
        self._queue: list[Alarm] = []
        self._set = 0
        self._cancelled = 0

    def at(self, time_ns: int, action: Callable[[], None]) -> Alarm:
        """Set an alarm; a moment in the past means now, one beyond KTIME_MAX means KTIME_MAX."""
        alarm = Alarm(min(max(time_ns, self.now_ns), NEVER), self._set, action)
        self._set += 1
        heapq.heappush(self._queue, alarm)
        return alarm

    def cancel(self, alarm: Alarm) -> bool:
        """Take an alarm back; False when it rang or was cancelled before."""
        if alarm.cancelled:
            return False
        alarm.cancelled = True
        self._cancelled += 1
        if self._cancelled > 64 and self._cancelled * 2 > len(self._queue):
            self._queue = [each for each in self._queue if not each.cancelled]
            heapq.heapify(self._queue)
            self._cancelled = 0
        return True

    def clear(self) -> None:
        """Take every alarm back."""
        self._queue.clear()
        self._cancelled = 0

    def next_ns(self) -> int | None:
        """When the next alarm rings; None if none is set."""
        while self._queue and self._queue[0].cancelled:
            heapq.heappop(self._queue)
            self._cancelled -= 1
        return self._queue[0].time_ns if self._queue else None

    def advance(self, until_ns: int) -> bool:
        """Move to the next alarm and let it ring, if it is due by `until_ns`; else move there."""
        due = self.next_ns()
        if due is None or due > until_ns:
            self.now_ns = max(self.now_ns, until_ns)
            return False
        alarm = heapq.heappop(self._queue)
        alarm.cancelled = True  # it has rung: a later cancel must say so
        self.now_ns = due
        alarm.action()
        return True

"""The virtual clock: what will happen when, in one queue.

Time moves only in `advance`; nothing here looks at the machine's clock. Alarms of the same
moment ring in the order in which they were set. A loose alarm is a worker's: it may ring at any
moment up to its latest one, so a Chooser may have it ring before or after others.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Final

from pybpfvm.uring_backend.choices import CLOCK, HOST, WORKER_MOST_NS, Chooser, Point

NS_PER_S: Final = 1_000_000_000
NEVER: Final = (1 << 63) - 1  # the kernel's KTIME_MAX
REALTIME_BASE_NS: Final = 1_600_000_000 * NS_PER_S  # CLOCK_REALTIME when the virtual clock shows 0


class Alarm:
    """An action due at `time_ns`. Cancelled alarms stay in the queue, without effect.

    `latest_ns`: a loose one's last moment, -1 for others. It is about request `token`; of those
    that share a `stream` (None: none), they ring in the order in which they were set.
    """

    __slots__ = ("_order", "action", "cancelled", "latest_ns", "stream", "time_ns", "token")

    def __init__(self, time_ns: int, order: int, action: Callable[[], None]) -> None:
        self.time_ns = time_ns
        self.latest_ns = -1
        self.token = 0
        self.stream: object = None
        self._order = order
        self.action = action
        self.cancelled = False

    def __lt__(self, other: Alarm) -> bool:
        return (self.time_ns, self._order) < (other.time_ns, other._order)


class Clock:
    """Virtual nanoseconds since the backend was made, and the alarms set on them."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.chooser: Chooser | None = None
        self._queue: list[Alarm] = []
        self._set = 0
        self._cancelled = 0

    def at(self, time_ns: int, action: Callable[[], None]) -> Alarm:
        """Set an alarm; a moment in the past means now, one beyond KTIME_MAX means KTIME_MAX."""
        alarm = Alarm(min(max(time_ns, self.now_ns), NEVER), self._set, action)
        self._set += 1
        heapq.heappush(self._queue, alarm)
        return alarm

    def loosely(
        self, time_ns: int, token: int, action: Callable[[], None], stream: object = None
    ) -> None:
        """Set a loose alarm about request `token`, which rings at `time_ns` unless chosen
        otherwise."""
        alarm = self.at(time_ns, action)
        alarm.latest_ns = max(alarm.time_ns, self.now_ns + WORKER_MOST_NS)
        alarm.token, alarm.stream = token, stream

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
        if self.chooser is not None and due is not None:
            return self._advance_as_chosen(self.chooser, until_ns)
        if due is None or due > until_ns:
            self.now_ns = max(self.now_ns, until_ns)
            return False
        alarm = heapq.heappop(self._queue)
        alarm.cancelled = True  # it has rung: a later cancel must say so
        self.now_ns = due
        alarm.action()
        return True

    # --- as a chooser has it ------------------------------------------------------------------

    def _loose(self) -> list[Alarm]:
        """The loose alarms that may ring next, the earliest first."""
        found: list[Alarm] = []
        streams: set[object] = set()
        for alarm in sorted(each for each in self._queue if not each.cancelled):
            if alarm.latest_ns < 0 or alarm.stream in streams:
                continue
            if alarm.stream is not None:
                streams.add(alarm.stream)
            found.append(alarm)
        return found

    def _firm(self) -> Alarm | None:
        """The first alarm that rings at its time and at no other."""
        return min((a for a in self._queue if a.latest_ns < 0 and not a.cancelled), default=None)

    def _advance_as_chosen(self, chooser: Chooser, until_ns: int) -> bool:
        """`advance`, where a loose alarm may ring before its time, or later than others: timers
        and the end of the wait come when all that is loose has time left."""
        loose, firm = self._loose(), self._firm()
        end_ns = until_ns if firm is None else min(until_ns, firm.time_ns)
        passes = until_ns < NEVER or firm is not None
        if passes and all(end_ns <= alarm.latest_ns for alarm in loose):
            # Where it is due at the same moment, what would ring first without a chooser is first.
            at = sum(
                alarm.time_ns <= end_ns if firm is None or end_ns < firm.time_ns else alarm < firm
                for alarm in loose
            )
            who = [alarm.token for alarm in loose]
            who.insert(at, CLOCK)
            index = chooser.order(Point.NEXT, who)
            if index == at:
                if firm is not None and firm.time_ns <= until_ns:
                    self._ring(firm, firm.time_ns)
                    return True
                self.now_ns = max(self.now_ns, until_ns)
                return False
            alarm = loose[index - (index > at)]
        else:
            alarm = loose[chooser.order(Point.NEXT, [alarm.token for alarm in loose])]
        self._ring(alarm, min(max(self.now_ns, alarm.time_ns), end_ns))
        return True

    def let_happen(self) -> bool:
        """Before the host's next step: a loose alarm rings if that is chosen, True then."""
        loose = self._loose()
        if self.chooser is None or not loose:
            return False
        index = self.chooser.order(Point.NEXT, [HOST, *(alarm.token for alarm in loose)])
        if index == 0:
            return False
        alarm, firm = loose[index - 1], self._firm()
        time_ns = max(self.now_ns, alarm.time_ns)
        self._ring(alarm, time_ns if firm is None else min(time_ns, firm.time_ns))
        return True

    def _ring(self, alarm: Alarm, time_ns: int) -> None:
        self._queue.remove(alarm)
        heapq.heapify(self._queue)
        alarm.cancelled = True
        self.now_ns = max(self.now_ns, time_ns)
        alarm.action()

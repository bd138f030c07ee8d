"""The clock of a ring with a loop: the backend's, what is skipped beside it, what is due by it."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from pybpfvm.uring_backend.base import Backend


class RingTime:
    """The time of a ring over `backend`, and what the rest of the process does at times."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._due: list[tuple[int, int, Callable[[], None]]] = []
        self._planned = 0
        self._skipped_ns = 0

    def now_ns(self) -> int:
        """The backend's clock, and what was skipped because nothing but a planned action could
        happen."""
        return self._backend.now_ns() + self._skipped_ns

    def plan(self, delay_ns: int, action: Callable[[], None]) -> None:
        """Let `action` happen in the first `act` when so much has passed."""
        self._planned += 1
        heapq.heappush(self._due, (self.now_ns() + delay_ns, self._planned, action))

    @property
    def planned(self) -> bool:
        """Whether something is still to happen by itself."""
        return bool(self._due)

    def act(self) -> None:
        """Let happen what is due."""
        while self._due and self._due[0][0] <= self.now_ns():
            heapq.heappop(self._due)[2]()

    def skip_to(self, end_ns: int) -> None:
        """Nothing happens until then."""
        self._skipped_ns += max(end_ns - self.now_ns(), 0)

    def pass_by(self, deadline_ns: int | None, patience_ns: int) -> bool:
        """Until the backend has an event (True), the next action is due, the deadline comes, or,
        without any of these two, patience ends."""
        ends = [self._due[0][0]] if self._due else []
        ends += [] if deadline_ns is None else [deadline_ns]
        if not ends:
            return self._backend.wait(patience_ns)
        moved = self._backend.wait(max(min(ends) - self.now_ns(), 0))
        if not moved:
            self.skip_to(min(ends))
        return moved

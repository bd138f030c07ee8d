"""What a step says to its ring: by its answer, and by the parameters that it shares with it."""

from __future__ import annotations

import errno
from collections.abc import Callable

from pybpfvm.errors import RingError, UnsupportedError
from pybpfvm.memory import AddressSpace, RegionKind
from pybpfvm.profiles.base import LoopAnswer, LoopRules
from pybpfvm.uring_backend.loop.memory import LoopMemory

_FAR_NS = 1 << 62  # no clock gets there


class Parameters:
    """The parameters of an ABI's steps, in `region`; `queues` and the clock are the ring's."""

    def __init__(
        self,
        rules: LoopRules,
        memory: AddressSpace,
        queues: LoopMemory,
        now_ns: Callable[[], int],
    ) -> None:
        self._rules = rules
        self._memory = memory
        self._queues = queues
        self._now_ns = now_ns
        self._wait_count = 0
        # Where programs get none, it is a word that nobody can get at.
        name = rules.params or "none"
        self.region = memory.alloc(rules.params_bytes or 8, RegionKind.RING, name)

    def clear(self) -> None:
        """Zeros, and nothing to wait for: once for each enter."""
        self._memory.write(self.region.start, bytes(self.region.size))
        self._wait_count = 0

    def wait_for(self, count: int) -> None:
        """The next waits of this enter are for so many CQEs."""
        self._wait_count = count

    def ends(self, answer: int) -> bool:
        """Whether this answer ends the loop. RingError -EINVAL for one that there is not."""
        rules = self._rules
        if answer in (rules.go_on, rules.stop):
            return answer == rules.stop
        if rules.other is LoopAnswer.UNTOLD:
            raise UnsupportedError(
                f"the answer {answer}", remedy="what it means was never written down"
            )
        if rules.other is LoopAnswer.INVALID:
            raise RingError(errno.EINVAL, f"the program returned {answer}")
        return rules.other is LoopAnswer.STOPS

    def _param(self, at: int, size: int = 4) -> int:
        return int.from_bytes(self._memory.read(self.region.start + at, size), "little")

    def wanted(self) -> int:
        """How many CQEs more the program waits for."""
        if self._rules.of_structs:
            return max(self._queues.behind(self._param(self._rules.wait_index_at)), 0)
        if self._wait_count and self._queues.cq.count():
            raise UnsupportedError(
                "a wait for CQEs while there are some",
                remedy="whether these count was never written down: take them first",
            )
        return self._wait_count

    def check_untold(self) -> None:
        """UnsupportedError for a field that says something which was never written down."""
        for name, at, size in self._rules.untold:
            if self._param(at, size):
                raise UnsupportedError(
                    f"{self._rules.params}.{name} other than 0",
                    remedy="what it means was never written down: leave it alone",
                )

    def deadline(self) -> int | None:
        """When the wait that the program asks for ends, by the ring's clock; the flags that say so
        are cleared. RingError -EINVAL for unknown flags."""
        rules = self._rules.timeout
        if rules is None:
            return None
        flags = self._param(rules.flags_at)
        self._memory.write(self.region.start + rules.flags_at, bytes(4))
        if flags & ~(rules.given | rules.absolute | rules.over):
            raise RingError(errno.EINVAL, f"the program set unknown flags {flags:#x}")
        if not flags & rules.given:
            return None
        timeout_ns = min(self._param(rules.ns_at, 8), _FAR_NS)
        return timeout_ns if flags & rules.absolute else self._now_ns() + timeout_ns

    def report_timeout(self, late: bool) -> None:
        """Let the next step see that its wait ended so."""
        rules = self._rules.timeout
        if rules is not None and late:
            at = self.region.start + rules.flags_at
            self._memory.write(at, rules.over.to_bytes(4, "little"))

"""What a ring is asked and told about itself: register commands beside files and buffers.

Results are the kernel's: 0 or more, or -errno. Measured on Linux 6.18; the laws are in
`laws.settings`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Protocol

CLOCK_MONOTONIC = 1
CLOCK_BOOTTIME = 7
RING_NUMBERS = 16  # how many rings a thread can have registered


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What IORING_REGISTER_QUERY tells of a kernel: how many opcodes and register commands it has,
    and the bits of features, set-up, enter and SQE flags that it knows."""

    request_opcodes: int
    register_opcodes: int
    features: int
    setup_flags: int
    enter_flags: int
    sqe_flags: int


class Settings(Protocol):
    """The settings of one ring."""

    @property
    def personalities(self) -> Collection[int]:
        """The numbers that Sqe.personality may have, beside 0."""

    def probe(self) -> frozenset[int]:
        """IORING_REGISTER_PROBE: the opcodes that this ring performs."""

    def query(self) -> Capabilities | int:
        """IORING_REGISTER_QUERY: what the kernel has; -EINVAL before Linux 6.18."""

    def register_personality(self) -> int:
        """IORING_REGISTER_PERSONALITY: a number for the credentials that the caller has now."""

    def unregister_personality(self, number: int) -> int:
        """IORING_UNREGISTER_PERSONALITY; -EINVAL for a number that is not registered."""

    def register_iowq_aff(self, cpus: Iterable[int]) -> int:
        """IORING_REGISTER_IOWQ_AFF: where workers run."""

    def unregister_iowq_aff(self) -> int:
        """IORING_UNREGISTER_IOWQ_AFF."""

    def iowq_max_workers(self, bounded: int, unbounded: int) -> tuple[int, int] | int:
        """IORING_REGISTER_IOWQ_MAX_WORKERS (0: as before): the numbers until now, or -errno. They
        are the thread's, for all rings that it has in the kernel."""

    def register_ring_fd(self, number: int = -1) -> int:
        """IORING_REGISTER_RING_FDS: the number (-1: a free one, below RING_NUMBERS) by which this
        thread may name the ring; -EBUSY when it is taken or none is free."""

    def unregister_ring_fd(self, number: int) -> int:
        """IORING_UNREGISTER_RING_FDS; free numbers are fine."""

    def register_clock(self, clock: int) -> int:
        """IORING_REGISTER_CLOCK: by which clock (CLOCK_MONOTONIC, CLOCK_BOOTTIME) waits for CQEs
        are timed. Timeouts that are requests name their own."""

    def sync_message(self, sqe: bytes) -> int:
        """IORING_REGISTER_SEND_MSG_RING: the MSG_RING request `sqe` without a ring that performs
        it; of data only."""

    def register_eventfd_async(self, fd: int) -> int:
        """IORING_REGISTER_EVENTFD_ASYNC: an eventfd of the world counts the requests that workers
        end, successes that post no CQE included."""

    def unregister_eventfd_async(self) -> int:
        """IORING_UNREGISTER_EVENTFD of that one."""

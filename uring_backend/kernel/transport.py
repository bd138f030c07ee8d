"""What the kernel backend needs of a real ring, however its system calls are made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Transport(Protocol):
    """One real io_uring for one thread. Results of calls are the kernel's: 0 or more, or -errno."""

    fd: int
    sq_entries: int
    features: int

    def submit(self, sqes: Sequence[bytes]) -> int:
        """Put up to `sq_entries` SQEs in the SQ and enter once; consumed, or -errno. What the
        kernel did not consume is in the SQ no more."""

    def wait(self, timeout_ns: int | None) -> int:
        """Sleep until the CQ has an entry: 0, -ETIME, -EINTR, or another -errno."""

    def reap(self) -> list[tuple[int, ...]]:
        """(user_data, res, flags) of every CQE there is, an overflow backlog included; two numbers
        more, big_cqe, on a ring made with SETUP_CQE32 or SETUP_CQE_MIXED."""

    def register(self, opcode: int, arg: int, count: int) -> int:
        """io_uring_register(2) on this ring; `arg` is an address or 0."""

    def sync_cancel_all(self, timeout_ns: int) -> int:
        """Cancel whatever is running and wait until it is gone; number cancelled or -errno."""

    def close(self) -> None:
        """Give everything back; twice is fine. Does not wait for requests in flight."""

"""The submission queue as a ring in memory: header words shared with CQ 0, index array, SQEs.

    byte  0     4     16    24       32       36
          head  tail  mask  entries  dropped  flags        (u32; layout as in cq.py)

Userspace fills SQEs and publishes a tail, by `next_sqe`/`publish` here or through its own mapping;
`fetch` and `consume` are the kernel's side. An SQE has 64 bytes, with SETUP_SQE128 twice as many:
the second half is for commands of drivers, and nobody here reads it.
"""

from __future__ import annotations

from typing import Protocol

from pybpfvm.bits import U32
from pybpfvm.uring_backend.abi import SQE_BYTES

_HEAD, _TAIL, _MASK, _ENTRIES, _DROPPED, _FLAGS = 0, 1, 4, 6, 8, 9  # indices of u32 words


class SqView(Protocol):
    """An SQ that is only looked at; its numbers are modulo 2^32."""

    @property
    def head(self) -> int:
        """SQEs consumed."""

    @property
    def tail(self) -> int:
        """SQEs published."""

    @property
    def dropped(self) -> int:
        """Entries that named none."""

    def ready(self) -> int:
        """Published SQEs that were not consumed."""

    def fetch(self, ahead: int) -> bytes | None:
        """64 bytes of the SQE so many places behind the head; None when its index is no SQE's."""


class SubmissionQueue:
    """`header` is the first 64 bytes of the main ring, `array` its u32 index array, `sqes` the
    SQE array, which lies at `sqes_addr`."""

    def __init__(
        self,
        entries: int,
        header: memoryview,
        array: memoryview,
        sqes: memoryview,
        sqes_addr: int,
        sqe_bytes: int,
    ) -> None:
        self.entries = entries
        self._sqe_bytes = sqe_bytes
        self._mask = entries - 1
        self._words = header.cast("I")
        self._array = array.cast("I")
        self._sqes = sqes
        self._sqes_addr = sqes_addr
        self._words[_MASK] = self._mask
        self._words[_ENTRIES] = entries
        for index in range(entries):
            self._array[index] = index
        self._filled = 0  # userspace's private tail: SQEs handed out, perhaps not yet published
        self._head = 0  # the kernel's private copy

    @property
    def head(self) -> int:
        """How many SQEs were consumed, modulo 2^32."""
        return self._head

    @property
    def tail(self) -> int:
        """How many were published, modulo 2^32."""
        return self._words[_TAIL]

    @property
    def dropped(self) -> int:
        """Index array entries that named no SQE."""
        return self._words[_DROPPED]

    @property
    def flags(self) -> int:
        """The SQ flags word (SQ_CQ_OVERFLOW, ...)."""
        return self._words[_FLAGS]

    def next_sqe(self) -> int | None:
        """Address of a fresh zeroed SQE to fill, or None when the queue is full."""
        if (self._filled - self._words[_HEAD]) & U32 >= self.entries:
            return None
        slot = self._filled & self._mask
        self._filled = (self._filled + 1) & U32
        self._array[slot] = slot
        offset = slot * self._sqe_bytes
        self._sqes[offset : offset + self._sqe_bytes] = bytes(self._sqe_bytes)
        return self._sqes_addr + offset

    def publish(self) -> int:
        """Make every SQE handed out visible to the kernel; how many are ready for it."""
        self._words[_TAIL] = self._filled
        return self.ready()

    def ready(self) -> int:
        """Published SQEs that were not consumed, never more than the queue holds."""
        return min((self._words[_TAIL] - self._head) & U32, self.entries)

    def fetch(self, ahead: int) -> bytes | None:
        """The 64 bytes of the SQE `ahead` places behind the head; None when its index is no
        SQE's."""
        slot = self._array[(self._head + ahead) & self._mask]
        if slot >= self.entries:
            return None
        offset = slot * self._sqe_bytes
        return bytes(self._sqes[offset : offset + SQE_BYTES])

    def consume(self, count: int) -> None:
        """Give `count` slots back to userspace."""
        self._head = (self._head + count) & U32
        self._words[_HEAD] = self._head

    def drop(self) -> None:
        """Count and skip an entry whose index names no SQE."""
        self._words[_DROPPED] = (self._words[_DROPPED] + 1) & U32
        self.consume(1)

    def release(self) -> None:
        """Let go of the memory, which is about to be freed."""
        self._words.release()
        self._array.release()
        self._sqes.release()

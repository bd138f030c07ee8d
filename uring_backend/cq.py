"""Completion queues as rings in memory, and what happens to a CQE that finds its queue full.

Each queue has the kernel's layout (abi/iouring-bpf-upstream, section 3.3): u32 words, then CQEs.

    byte  8     12    20    28       36        40        44        64
          head  tail  mask  entries  SQ flags  CQ flags  overflow  CQE 0, CQE 1, ...

A CQE has 16 bytes, with SETUP_CQE32 twice as many, whose second half most requests leave zero.

CQ 0 shares its header with the SQ, extra CQs have a header of their own at the same offsets. The
head is read from memory each time, since whoever maps the ring moves it; the tail is ours.
Rules: abi/iouring-bpf-2021, sections 1.4 and 3.5.
"""

from __future__ import annotations

import ctypes
import struct
from collections import deque
from collections.abc import Callable, Sequence

from pybpfvm.bits import U32, U64, s32
from pybpfvm.events import CqePosted, CqeReaped, Observer
from pybpfvm.uring_backend.abi import BIG_CQE, CQE_BYTES, NO_EXTRA, SQ_CQ_OVERFLOW, Cqe
from pybpfvm.uring_backend.counts import Counts

CQES_OFFSET = 64
_CQE = struct.Struct("<QiI")
_HEAD, _TAIL, _MASK, _ENTRIES = 2, 3, 5, 7  # indices of u32 words
_SQ_FLAGS, _OVERFLOW = 9, 11


def cq_bytes(entries: int, cqe_bytes: int) -> int:
    """Size of a CQ ring in memory, header included, which kernels double with the CQEs."""
    return (CQES_OFFSET + entries * CQE_BYTES) * (cqe_bytes // CQE_BYTES)


class CompletionQueue:
    """The ring in `view`, which is zeroed and at least `cq_bytes(entries, cqe_bytes)` long.

    `address` is where it lies; `tail` is ours, memory only shows it. While it is `lent`, compiled
    code posts to it: memory is what tells the tail then, `reaped` how many CQEs Python took.
    """

    __slots__ = (
        "_cqes",
        "_mask",
        "_words",
        "address",
        "cqe_bytes",
        "entries",
        "epoch",
        "index",
        "least",
        "lent",
        "most",
        "reaped",
        "tail",
    )

    def __init__(self, index: int, entries: int, view: memoryview, cqe_bytes: int) -> None:
        self.index = index
        self.cqe_bytes = cqe_bytes
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(view))
        self.entries = entries
        self._mask = entries - 1
        self.tail = 0
        self._words = view[:CQES_OFFSET].cast("I")
        self._cqes = view[CQES_OFFSET:]
        self._words[_MASK] = self._mask
        self._words[_ENTRIES] = entries
        self.epoch = -1
        self.most = self.least = 0
        self.lent, self.reaped = False, 0

    def _end(self) -> int:
        return self._words[_TAIL] if self.lent else self.tail

    @property
    def head(self) -> int:
        """The head, as whoever reaps has left it."""
        return self._words[_HEAD]

    def count(self) -> int:
        """CQEs that nobody has reaped yet (more than `entries` only if a reader broke the head)."""
        words = self._words
        return ((words[_TAIL] if self.lent else self.tail) - words[_HEAD]) & U32

    def push(self, user_data: int, res: int, flags: int, extra: tuple[int, int] = NO_EXTRA) -> bool:
        """Write and publish a CQE; False when the ring is full. `extra`: its second half, if it
        has one."""
        tail = self.tail
        if (tail - self._words[_HEAD]) & U32 >= self.entries:
            return False
        at = (tail & self._mask) * self.cqe_bytes
        if self.cqe_bytes == CQE_BYTES:
            _CQE.pack_into(self._cqes, at, user_data, res, flags)
        else:
            BIG_CQE.pack_into(self._cqes, at, user_data, res, flags, *extra)
        self.tail = self._words[_TAIL] = (tail + 1) & U32
        return True

    def peek(self, index: int = 0) -> bytes | None:
        """The CQE `index` places behind the oldest one, or None; it stays where it is."""
        head = self._words[_HEAD]
        if index >= (self._end() - head) & U32:
            return None
        return self._at(head + index)

    def newest(self) -> bytes | None:
        """The CQE that was written last, reaped or not; None if there was none."""
        if self.tail == 0:
            return None
        return self._at(self.tail - 1)

    def _at(self, index: int) -> bytes:
        offset = (index & self._mask) * self.cqe_bytes
        return bytes(self._cqes[offset : offset + self.cqe_bytes])

    def pop(self) -> bytes | None:
        """The oldest CQE, removed, or None."""
        raw = self.peek()
        if raw is not None:
            self._words[_HEAD] = (self._words[_HEAD] + 1) & U32
            self.reaped += self.lent
        return raw

    def resume(self, head: int, cqes: Sequence[bytes]) -> None:
        """Go on where a queue of another size stopped: with its head, and what it held."""
        self.tail = self._words[_HEAD] = self._words[_TAIL] = head
        for raw in cqes:
            cqe = Cqe.unpack(raw)
            self.push(cqe.user_data, cqe.res, cqe.flags, cqe.extra)

    def release(self) -> None:
        """Let go of the memory, which is about to be freed."""
        self._words.release()
        self._cqes.release()


class CompletionQueues:
    """All CQs of a ring, the backlog of CQ 0, and the counters that posting keeps.

    `counts` are the ring's own. `touched` collects the indices of queues that got a CQE, for
    whoever wakes waiters.
    `countable` counts the CQEs of CQ 0 that did not come from a TIMEOUT: what a TIMEOUT with a
    completion count counts. `moved` is set whenever some queue holds more or fewer CQEs than at
    any time since `new_epoch`: what live-lock detection means by a change.
    """

    def __init__(
        self,
        queues: list[CompletionQueue],
        *,
        backlog_entries: int,
        observer: Observer | None,
        now_ns: Callable[[], int],
    ) -> None:
        self.queues = queues
        self.touched: set[int] = set()
        self.countable = 0
        self.moved = False
        self.signal: Callable[[int], None] | None = None  # told how many CQEs were posted
        self._backlog: deque[tuple[int, int, int, str, bool, int | None, tuple[int, int]]] = deque()
        self._backlog_entries = backlog_entries
        self._observer = observer
        self._now_ns = now_ns
        self._main = queues[0]._words
        self._epoch = 0
        self.counts = Counts()

    def __len__(self) -> int:
        return len(self.queues)

    @property
    def overflow(self) -> int:
        """The ring's cq_overflow counter: CQEs that were lost."""
        return self._main[_OVERFLOW]

    @property
    def backlog(self) -> int:
        """CQEs that wait for room in CQ 0."""
        return len(self._backlog)

    def post(
        self,
        cq: int,
        user_data: int,
        res: int,
        flags: int,
        origin: str,
        *,
        timer: bool = False,
        request: int | None = None,
        extra: tuple[int, int] = NO_EXTRA,
    ) -> bool:
        """Post a CQE; False when it was dropped. `timer`: it is the completion of a TIMEOUT;
        `extra`: its second half, if it has one.

        `origin` and `request` are for the event, CqePosted.
        """
        user_data &= U64
        res = s32(res)
        flags &= U32
        queue = self.queues[cq]
        if queue.push(user_data, res, flags, extra):
            fate = "posted"
            self.counts.posted[cq] += 1
            self.touched.add(cq)
            self._note(queue)
            if cq == 0 and not timer:
                self.countable += 1
            if self.signal is not None:
                self.signal(1)
        elif cq == 0 and len(self._backlog) < self._backlog_entries:
            fate = "backlog"
            self._backlog.append((user_data, res, flags, origin, timer, request, extra))
            self._main[_SQ_FLAGS] |= SQ_CQ_OVERFLOW
            self.moved = True
        else:
            fate = "dropped"
            self.counts.dropped[cq] += 1
            self._main[_OVERFLOW] = (self._main[_OVERFLOW] + 1) & U32
        if self._observer is not None:
            self._observer(
                CqePosted(self._now_ns(), cq, user_data, res, flags, fate, origin, request)
            )
        return fate != "dropped"

    def flush_backlog(self) -> None:
        """Move what fits from the backlog to CQ 0, as enter does; clear the SQ flag when done."""
        queue = self.queues[0]
        while self._backlog:
            user_data, res, flags, origin, timer, request, extra = self._backlog[0]
            if not queue.push(user_data, res, flags, extra):
                return
            self._backlog.popleft()
            self.counts.posted[0] += 1
            self.touched.add(0)
            self._note(queue)
            if not timer:
                self.countable += 1
            if self._observer is not None:
                self._observer(
                    CqePosted(self._now_ns(), 0, user_data, res, flags, "posted", origin, request)
                )
        self._main[_SQ_FLAGS] &= ~SQ_CQ_OVERFLOW & U32

    def reap(self, cq: int, by: str) -> bytes | None:
        """The oldest CQE of a queue, removed, or None. The backlog is not consulted."""
        queue = self.queues[cq]
        raw = queue.pop()
        if raw is None:
            return None
        self._note(queue)
        self.counts.reaped[cq] += 1
        if self._observer is not None:
            cqe = Cqe.unpack(raw)
            self._observer(CqeReaped(self._now_ns(), cq, cqe.user_data, cqe.res, cqe.flags, by))
        return raw

    def changed(self, queue: CompletionQueue, posted: int, reaped: int, dropped: int) -> None:
        """Compiled code posted so many CQEs to the queue, reaped so many, and dropped so many."""
        self.counts.posted[queue.index] += posted
        self.counts.reaped[queue.index] += reaped
        self.counts.dropped[queue.index] += dropped
        if posted:
            self.touched.add(queue.index)
            if self.signal is not None:
                self.signal(posted)
            if queue.index == 0:
                self.countable += posted
        if posted or reaped:
            self._note(queue)

    def new_epoch(self) -> None:
        """Something changed outside the queues: `moved` starts afresh."""
        self._epoch += 1
        self.moved = False

    def _note(self, queue: CompletionQueue) -> None:
        count = queue.count()
        if queue.epoch != self._epoch:
            queue.epoch = self._epoch
            queue.most = queue.least = count
            self.moved = True
        elif count > queue.most:
            queue.most = count
            self.moved = True
        elif count < queue.least:
            queue.least = count
            self.moved = True

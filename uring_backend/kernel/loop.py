"""The loop of one program over the kernel's ring, done by compiled code: what is Python's part.

Before: lend it ring, queues and context. After: take them back. In between, for what compiled code
does not do itself: both, around the ordinary helper. If that has left something to be seen to, the
loop ends with the run; until then completions wait for it, and submitting may be Python's.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pybpfvm.profiles.base import RingRules, WaitBy
from pybpfvm.uring_backend.abi import Sqe
from pybpfvm.uring_backend.cq import CompletionQueues
from pybpfvm.uring_backend.kernel.backend import KernelBackend
from pybpfvm.uring_backend.kernel.direct import (
    SLOTS,
    TURN_NS,
    WAIT_BY_FIELDS,
    Care,
    Claimed,
    Direct,
    Stop,
    Word,
)
from pybpfvm.uring_backend.requests import BpfRequest, Request
from pybpfvm.uring_backend.submitter import Submitter
from pybpfvm.uring_backend.turns import SLICE_NS

# (program, as the runner numbers it) -> address of its code, None where it can not be run so
Address = Callable[[int], int | None]
_SLEEP_NS = 50_000_000  # of one sleep, after which Python looks around, if nobody else lives
_MAIN = 0


class KernelLoop:
    """A ProgramLoop (see bpf) with the DirectRequests (see requests) of its programs.

    `enter` runs the loop's code, `address` finds a program's, `name` says what one is called.
    `looped` counts the runs that loops have made, `code` names the source of the loop.
    """

    code = "ring"

    def __init__(
        self,
        rules: RingRules,
        backend: KernelBackend,
        cqs: CompletionQueues,
        submitter: Submitter,
        name: Callable[[int], str],
        ctx_addr: int,
        budget_insns: int,
    ) -> None:
        self.runs = self.looped = self.all_insns = 0
        self.active = False
        self.stalled = self.stalled_insns = self.insns = 0
        self.enter: Callable[[], None]
        self.address: Address = _nowhere
        self.direct: Direct = backend.direct(len(cqs))
        self._backend = backend
        self._cqs = cqs
        self._submitter = submitter
        self._name = name
        self._awaited = _MAIN
        self._may_sleep = False
        self._deadline_ns: int | None = None  # of CLOCK_MONOTONIC
        self._at_once: int | None = None  # what was submitted from here on completes inline
        self._origin = ""
        submitter.direct = self
        backend.let(self)
        words = self.direct.words
        words[Word.CTX] = ctx_addr
        words[Word.BUDGET] = budget_insns
        words[Word.CTX_PERSISTS] = rules.ctx_persists
        words[Word.CARE] = Care.CHECKED if rules.length_checked else 0
        by_return = rules.wait_by is WaitBy.RETURN
        words[Word.WAIT_VALUE] = rules.wait_value if by_return else WAIT_BY_FIELDS

    def waits(self, cq: int, left_ns: int | None) -> None:
        """The host waits for CQEs on `cq`, so long at the most (None: for ever). The next loop may
        sleep, but that one only: after it the host looks whether it has what it waits for."""
        self._awaited = cq
        self._may_sleep = True
        self._deadline_ns = None if left_ns is None else time.monotonic_ns() + left_ns

    def waits_no_more(self) -> None:
        """The host wants control back as soon as nothing runs."""
        self._awaited, self._may_sleep, self._deadline_ns = _MAIN, False, None

    def _times(self) -> tuple[int, int]:
        """For so long a loop may sleep at a time, and go on: a sleep that begins when its turn ends
        is over at the deadline."""
        may_sleep, self._may_sleep = self._may_sleep, False
        if not may_sleep:
            return 0, TURN_NS
        sleep_ns = _SLEEP_NS if threading.active_count() == 1 else SLICE_NS
        if self._deadline_ns is None:
            return sleep_ns, TURN_NS
        left_ns = self._deadline_ns - time.monotonic_ns()
        if left_ns <= 0:
            return 0, TURN_NS
        turn_ns = min(TURN_NS, left_ns // 2)
        return min(sleep_ns, left_ns - turn_ns), turn_ns

    def run(
        self, request: BpfRequest, most: int, stalled: tuple[int, int], limits: tuple[int, int]
    ) -> int | None:
        """See ProgramLoop.run."""
        address = self.address(request.program)
        submitter = self._submitter
        if address is None or submitter.room() < SLOTS or submitter.performed.counting:
            return None
        if self._backend.holds_back:  # then Python has to remember what is submitted
            return None
        origin = self._name(request.program)
        if origin != self._origin:
            self.claim_all()
            self._origin = origin
        words = self.direct.words
        words[Word.PROGRAM] = address
        words[Word.USER_DATA] = request.user_data
        words[Word.RUNS_LEFT] = most
        words[Word.IDLE], words[Word.IDLE_INSNS] = stalled
        words[Word.MOST_IDLE], words[Word.MOST_IDLE_INSNS] = limits
        if not stalled[0]:
            words[Word.MEASURED] = 0
        self.runs = 1
        with self.direct.turn({_MAIN, self._awaited}, *self._times()):
            self.direct.lend(self._cqs.queues)
            try:
                self.enter()
            except BaseException:
                self.runs = words[Word.RUNS] + 1
                raise
            finally:
                self.looped += words[Word.RUNS]
                self.all_insns = words[Word.ALL_INSNS]
                self._take_back()
        self.runs = words[Word.RUNS]
        self._judge()
        submitter.settle()
        return words[Word.R0]

    def _judge(self) -> None:
        """What live-lock detection is told."""
        words = self.direct.words
        self.insns = words[Word.INSNS]
        self.stalled, self.stalled_insns = words[Word.IDLE], words[Word.IDLE_INSNS]
        if words[Word.STOP] in (Stop.NO_CHANGE, Stop.RUNS):
            self.active = self.stalled == 0
            if not self.active:  # the last run is among them, and will be counted once more
                self.stalled -= 1
                self.stalled_insns -= self.insns
                self._cqs.moved = False
        else:
            self.active = words[Word.CHANGES] != 0

    @contextmanager
    def interrupted(self) -> Iterator[None]:
        """Within a run: ring and queues are Python's for a while."""
        self._take_back(within_run=True)
        tails = self._watched_tails()
        try:
            yield
        finally:
            words = self.direct.words
            self.direct.lend(self._cqs.queues, self._submitter.kept)
            if care := self._care():
                words[Word.STOP] = Stop.FOREIGN
                words[Word.CARE] |= care
            elif tails != self._watched_tails():
                words[Word.STOP] = Stop.WATCHED
            words[Word.CHANGES] += 1

    def _care(self) -> int:
        """What the rest of a run has to heed after something was done in Python."""
        submitter = self._submitter
        busy = submitter.chaining or submitter.bpf.queued or submitter.performed.counting
        if busy or self._cqs.backlog or self._backend.holds_back:
            return Care.HELD | Care.PYTHONS
        return Care.HELD if submitter.kept else 0

    def _watched_tails(self) -> list[int]:
        return [self._cqs.queues[index].tail for index in sorted({_MAIN, self._awaited})]

    def sync(self) -> None:
        """Within a run, interrupted: take in what has completed."""
        self._submitter.drain()
        self._submitter.post_some()

    def _take_back(self, *, within_run: bool = False) -> None:
        self.direct.take_back(self._cqs.queues, self._cqs.changed)
        if within_run:
            self._at_once = self.direct.words[Word.ISSUED]
        try:
            if self.direct.issue():
                for request in [self._live(one) for one in self.direct.take_from_ring()]:
                    self._submitter.complete(request, -errno.EAGAIN)
            if within_run:
                self._submitter.drain()
        finally:
            self._at_once = None

    # --- DirectRequests -------------------------------------------------------------------------

    def in_flight(self) -> int:
        """See DirectRequests.in_flight."""
        return self.direct.in_flight()

    def claim(self, token: int) -> None:
        """See DirectRequests.claim."""
        self._claim(self.direct.claim(token))

    def claim_all(self) -> None:
        """See DirectRequests.claim_all."""
        for claimed in self.direct.claim_all():
            self._claim(claimed)

    def release(self, token: int) -> bool:
        """See DirectRequests.release."""
        at_once = self._at_once is not None and self.direct.since(token, self._at_once)
        self.direct.release(token)
        return at_once

    def _claim(self, claimed: Claimed) -> None:
        self._live(claimed)
        self._backend.adopt(claimed.token, claimed.opcode)

    def _live(self, claimed: Claimed) -> Request:
        raw = Sqe(claimed.opcode, user_data=claimed.user_data).pack()
        request = Request(claimed.token, raw, claimed.user_data, claimed.cq, self._origin)
        self._submitter.add_direct(request)
        return request

    def close(self) -> None:
        """Give the tables back. Nothing may be in flight."""
        self._submitter.direct = None
        self._backend.let(None)
        self.direct.close()


def _nowhere(_: int) -> int | None:
    return None

"""The loop of one program over the kernel's ring, done by compiled code: what is Python's part.

Before: lend it ring, queues and context. After: take them back, and make requests of what is in
flight. In between, for what compiled code does not do itself: both, around the ordinary helper;
from there on, to the end of the run, submitting is Python's.
"""

from __future__ import annotations

import errno
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
    Adopted,
    Care,
    Direct,
    Stop,
    Word,
)
from pybpfvm.uring_backend.requests import BpfRequest, Request
from pybpfvm.uring_backend.submitter import Submitter

# (program, as the runner numbers it) -> address of its code, None where it can not be run so
Address = Callable[[int], int | None]
_SLEEP_NS = 50_000_000  # of one sleep, after which Python looks around
_MAIN = 0


class KernelLoop:
    """A ProgramLoop (see bpf). `enter` runs the loop's code, `address` finds a program's.

    `looped` counts the runs that loops have made.
    """

    def __init__(
        self,
        rules: RingRules,
        backend: KernelBackend,
        cqs: CompletionQueues,
        submitter: Submitter,
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
        self._awaited = _MAIN
        self._may_sleep = False
        self._deadline_ns: int | None = None  # of CLOCK_MONOTONIC
        submitter.released = self.direct.release
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
        if self._deadline_ns is None:
            return _SLEEP_NS, TURN_NS
        left_ns = self._deadline_ns - time.monotonic_ns()
        if left_ns <= 0:
            return 0, TURN_NS
        turn_ns = min(TURN_NS, left_ns // 2)
        return min(_SLEEP_NS, left_ns - turn_ns), turn_ns

    def run(
        self, request: BpfRequest, most: int, stalled: tuple[int, int], limits: tuple[int, int]
    ) -> int | None:
        """See ProgramLoop.run."""
        address = self.address(request.program)
        if address is None or self._submitter.room() < SLOTS or self._submitter.performed.counting:
            return None
        if self._backend.holds_back:  # then Python has to remember what is submitted
            return None
        words = self.direct.words
        words[Word.PROGRAM] = address
        words[Word.USER_DATA] = request.user_data
        words[Word.RUNS_LEFT] = most
        words[Word.IDLE], words[Word.IDLE_INSNS] = stalled
        words[Word.MOST_IDLE], words[Word.MOST_IDLE_INSNS] = limits
        if not stalled[0]:
            words[Word.MEASURED] = 0
        self.runs = 1
        self.direct.begin({_MAIN, self._awaited}, *self._times())
        self._origin = request.origin
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
            self.direct.end()
        self.runs = words[Word.RUNS]
        self._judge()
        self._submitter.settle()
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
        try:
            yield
        finally:
            words = self.direct.words
            self.direct.lend(self._cqs.queues)
            words[Word.STOP] = Stop.FOREIGN
            words[Word.CARE] |= Care.HELD
            words[Word.CHANGES] += 1

    def sync(self) -> None:
        """Within a run, interrupted: take in what has completed."""
        self._submitter.drain()

    def _take_back(self, *, within_run: bool = False) -> None:
        self.direct.take_back(self._cqs.queues, self._cqs.changed)
        refused = [
            request
            for adopted in self.direct.adopt()
            for request in self._adopted(adopted, within_run=within_run)
        ]
        for request in refused:
            self._submitter.complete(request, -errno.EAGAIN)

    def _adopted(self, adopted: Adopted, *, within_run: bool) -> Iterator[Request]:
        """Make it a request like others; yields it if the kernel will never complete it."""
        token = adopted.token
        raw = Sqe(adopted.opcode, user_data=adopted.user_data).pack()
        request = Request(token, raw, adopted.user_data, adopted.cq, self._origin)
        self._submitter.table.add(request)
        if within_run and adopted.fresh:
            self._submitter.deferring.add(token)
        if adopted.refused:
            yield request
        else:
            self._backend.adopt(token, adopted.opcode)

    def close(self) -> None:
        """Give the tables back."""
        self.direct.close()


def _nowhere(_: int) -> int | None:
    return None

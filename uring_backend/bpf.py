"""BPF requests: queued as task work, run one at a time, parked until CQEs come, run again.

abi/iouring-bpf-2021, sections 3.1, 3.2 and 3.4.
"""

from __future__ import annotations

import errno
import struct
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from pybpfvm.bits import U32
from pybpfvm.errors import LIVELOCK, RingHang, Trap
from pybpfvm.events import Noted, Observer, Parked, RunEnded, RunFaulted, RunStarted, Woken
from pybpfvm.interrupts import breathe
from pybpfvm.memory import AddressSpace, Region
from pybpfvm.profiles.base import Profile, RingRules, WaitBy
from pybpfvm.uring_backend.abi import FUTEX2_SIZE_U32, SQE_ANY_LINK, SQE_IO_DRAIN, Op, Sqe
from pybpfvm.uring_backend.base import Backend
from pybpfvm.uring_backend.choices import Chooser, Point
from pybpfvm.uring_backend.cq import CompletionQueues
from pybpfvm.uring_backend.requests import BpfRequest
from pybpfvm.uring_backend.submitter import Submitter

_CTX = struct.Struct("<QII")  # user_data, wait_nr, wait_idx
# Who has such a flag has a place among others, which it keeps.
_PLACED = SQE_ANY_LINK | SQE_IO_DRAIN
_WAIT = struct.Struct("<8xII")
# Behind them in iouring-x: data, data_end, user; futex, futex_val, futex_res.
_MORE = struct.Struct("<QQQQIi")
_FUTEX = struct.Struct("<40xQI")


class ProgramRunner(Protocol):
    """Runs registered programs. `program` is the number the host registers it by (an fd, say)."""

    def check(self, program: int) -> int:
        """0 when it can be registered; EBADF: no such descriptor; EINVAL: not a program of the
        ring's type."""

    def name(self, program: int) -> str:
        """What messages and events call it."""

    def run(self, program: int, ctx_addr: int) -> int:
        """Run it once with r1 = ctx_addr; r0. Whatever it raises reaches the host."""

    def executed(self) -> int:
        """Instructions that the last run executed, also one that trapped."""


class ProgramLoop(Protocol):
    """Runs a request's program again and again while nobody else has to look at the ring.

    Of the last call: `runs` is how many there were, the one that raised included. `active`: a
    request was issued or completed meanwhile. Otherwise `stalled` runs in a row before the last
    one changed nothing, and executed `stalled_insns`; the last one executed `insns`, and all that
    ended `all_insns`.
    """

    runs: int
    active: bool
    stalled: int
    stalled_insns: int
    insns: int
    all_insns: int

    def run(
        self, request: BpfRequest, most: int, stalled: tuple[int, int], limits: tuple[int, int]
    ) -> int | None:
        """Run it once or more, `most` times at the most: r0 of the last run. All requests are
        issued then, the context is as the last run left it; what has completed may be there to be
        taken in. `stalled` (runs, instructions) have changed nothing before, and when it comes to
        one of `limits` the loop ends. None: it has to be run the ordinary way. Raises what a run
        raises."""


@dataclass(frozen=True, slots=True)
class Budgets:
    """What a ring may use up before it is called hung.

    `max_runs` of programs and `max_events` that waiting sees in one host call; `livelock_runs` in
    a row in which nothing changes, or `livelock_insns` executed in them; `wall_ns` of wall time in
    runs without a pause, or in a wait without a timeout of its own; `idle_timeout_ns` of it without
    any event in such a wait; `backlog_entries` CQEs beyond a full CQ 0; `live_requests` at a time
    (with less than 2048 left, requests are not issued by compiled code). `fruitless_runs` in a row
    in which no request came to anything (requests.came_to_something) and CQ 0 got no CQE of a
    program; None: that is not looked at. At `end_ns` of time.monotonic_ns everything ends.
    """

    max_runs: int = 1_000_000
    max_events: int = 500_000
    livelock_runs: int = 10_000
    livelock_insns: int = 1 << 25
    wall_ns: int = 120_000_000_000
    idle_timeout_ns: int = 10_000_000_000
    backlog_entries: int = 65_536
    live_requests: int = 262_144
    fruitless_runs: int | None = None
    end_ns: int | None = None


class BpfRequests:
    """The task work of one ring; `ctx` (16 bytes or more) is what a run gets in r1. `together` has
    that of all rings of the thread, of which a chooser takes any."""

    def __init__(
        self,
        profile: Profile,
        rules: RingRules,
        memory: AddressSpace,
        ctx: Region,
        backend: Backend,
        submitter: Submitter,
        cqs: CompletionQueues,
        runner: ProgramRunner,
        *,
        budgets: Budgets,
        observer: Observer | None,
        chooser: Chooser | None = None,
        together: list[BpfRequests],
    ) -> None:
        self.together = together
        together.append(self)
        self.current: BpfRequest | None = None
        self.loop: ProgramLoop | None = None
        self.dying = False  # quiescing or closing: nothing runs, requests end with -EAGAIN
        self._rules = rules
        self._has_ctx = bool(profile.ctx_fields)
        # Only the return-code convention was seen to look again before it parks (section 3.4).
        self._rechecks = rules.wait_by is WaitBy.RETURN
        self._backend = backend
        self._submitter = submitter
        self._cqs = cqs
        self._runner = runner
        self._budgets = budgets
        self._observer = observer
        self._queue: deque[BpfRequest] = deque()
        self._chooser = chooser
        self._batch = 0  # of the queue, those that a chooser may take before others
        self._parked: dict[int, list[BpfRequest]] = {}
        self._on_words: dict[int, BpfRequest] = {}  # who waits for a futex, by the wait's token
        self._park_count = 0
        self._runs_left = 0
        self._stalled = 0
        self._stalled_insns = 0
        self._insns = 0  # of the last run
        self._fruitless = 0  # runs in a row
        self._seen_fruits = -1
        self._fruitless_ns = 0  # since when
        self._fruitless_token = 0  # the youngest of what was in flight then
        self._seen_activity = -1
        self._ctx_addr = ctx.start
        self._ctx_view = memory.view(ctx)

    def begin_call(self) -> None:
        """A host call starts: budgets are whole again, and the host may have changed anything."""
        self._runs_left = self._budgets.max_runs
        self._seen_fruits = -1
        self._changed()

    def enqueue(self, request: BpfRequest) -> None:
        """Queue a run of the request."""
        request.started = True
        self._queue.append(request)

    @property
    def waiting(self) -> int:
        """How many requests wait, for CQEs or a futex."""
        return sum(map(len, self._parked.values())) + len(self._on_words)

    @property
    def queued(self) -> bool:
        """Whether there is task work."""
        return bool(self._queue)

    def run_all(self, deadline_ns: int | None = None) -> None:
        """Process task work until there is none, or `deadline_ns` of the backend's clock has come.

        Raises RingHang for a live-lock or when the budget is used up, and whatever a program
        raises; queued requests stay queued."""
        began_ns = time.monotonic_ns()
        while self._queue:
            breathe()
            at = self
            if self._chooser is not None and not self.dying:
                at = self._choose(self._chooser)
            request = at._process_first(began_ns)
            if request is None:
                continue
            if self._budgets.fruitless_runs is not None:
                at._watch_fruits(request, self._budgets.fruitless_runs, deadline_ns)
            if not self._queue or (deadline_ns is not None and self._left(deadline_ns) <= 0):
                return
            at._watch(request, deadline_ns)

    def _process_first(self, began_ns: int) -> BpfRequest | None:
        """Run who is first in the queue, and give it back; None if it only looked, and waits on."""
        request = self._queue[0]
        if not self.dying:
            self._check_budget(request, began_ns)
        self._queue.popleft()
        if request.recheck:
            request.recheck = False
            if not self.dying and not self._satisfied(request):
                self._park(request)
                return None
        self._runs_left -= 1
        self._run(request)
        self._submitter.drain()
        return request

    def _choose(self, chooser: Chooser) -> BpfRequests:
        """Let the chooser say who is first; on which ring that is. As the kernel takes task work:
        what is queued while a batch runs is of the next one, so that nobody runs again before
        others of its ring had their turn."""
        sides = [self, *(one for one in self.together if one is not self and not one.dying)]
        for side in sides:
            side._batch = min(side._batch, len(side._queue)) or len(side._queue)
        index = chooser.order(
            Point.RUN,
            [one.token for side in sides for one in islice(side._queue, side._batch)],
        )
        at = 0
        while index >= sides[at]._batch:
            index -= sides[at]._batch
            at += 1
        side = sides[at]
        side._batch -= 1
        if index:
            chosen = side._queue[index]
            del side._queue[index]
            side._queue.appendleft(chosen)
        return side

    def _left(self, deadline_ns: int) -> int:
        return deadline_ns - self._backend.now_ns()

    def _check_budget(self, request: BpfRequest, began_ns: int) -> None:
        """Raise RingHang instead of another run when there were too many, or for too long."""
        budgets, by_clock = self._budgets, False
        if self._runs_left <= 0:
            spent = f"{budgets.max_runs:,} program runs in one call"
        else:
            now_ns = time.monotonic_ns()
            by_clock = now_ns - began_ns > budgets.wall_ns
            spent = f"{budgets.wall_ns / 1e9:g} s of program runs without a pause"
            if budgets.end_ns is not None and now_ns >= budgets.end_ns:
                by_clock, spent = True, "time"
            if not by_clock:
                return
        name = self._runner.name(request.program)
        raise RingHang(
            f"the budget of {spent} is used up, the next would be of program {name}",
            tuple(self.waiters()),
            by_clock=by_clock,
        )

    def wake(self) -> None:
        """CQEs were posted: queue the parked requests that now have what they wait for."""
        touched = self._cqs.touched
        if not touched:
            return
        if self._parked:
            woken: list[BpfRequest] = []
            for cq in touched:
                waiting = self._parked.get(cq)
                if waiting:
                    count = self._cqs.queues[cq].count()
                    ready = [request for request in waiting if request.wait_nr <= count]
                    if ready:
                        woken += ready
                        self._keep(cq, [r for r in waiting if r.wait_nr > count])
            woken.sort(key=_parking_order)
            self._queue.extend(woken)
            if self._observer is not None:
                for request in woken:
                    self._announce_waking(request, self._observer)
        touched.clear()

    def wake_dying(self) -> None:
        """Teardown: every parked request becomes runnable, and will end with -EAGAIN."""
        for request in sorted(self._all_parked(), key=_parking_order):
            self._queue.append(request)
        self._parked.clear()
        waiting, self._on_words = self._on_words, {}
        for waited, request in waiting.items():
            self._queue.append(request)
            token = self._submitter.table.hide(_ignore)
            cancel = Sqe(Op.ASYNC_CANCEL, addr=waited, user_data=token)
            self._submitter.hidden(cancel.pack())

    def requeue(self, source: int, target: int, most: int) -> int:
        """Let requests that wait for CQEs on `source`, oldest first and `most` at the most, wait
        for as many on `target` instead; how many did."""
        moved = list(islice(self._waiting_on(source), most))
        for request in moved:
            self._take_from_wait(request)
            request.wait_idx = target
            self._note(request, f"waits on CQ {target} from now on")
            if request.recheck or self._satisfied(request):
                self._queue.append(request)
            else:
                self._park(request)
        return len(moved)

    def take_waiting(self, source: int) -> BpfRequest | None:
        """Take the oldest request that waits for CQEs on `source`, and holds no other's place: it
        waits for none any more. None: there is none."""
        for request in self._waiting_on(source):
            if not request.flags & _PLACED:
                self._take_from_wait(request)
                request.recheck = False
                self._note(request, "runs behind the chain")
                return request
        return None

    def _waiting_on(self, cq: int) -> Iterator[BpfRequest]:
        """Requests that wait for CQEs there, oldest first, those that will look again included."""
        yield from self._parked.get(cq, ())
        yield from (one for one in self._queue if one.recheck and one.wait_idx == cq)

    def _take_from_wait(self, request: BpfRequest) -> None:
        if request.recheck:
            self._batch -= self._queue.index(request) < self._batch
            self._queue.remove(request)
        else:
            waiting = self._parked[request.wait_idx]
            self._keep(request.wait_idx, [one for one in waiting if one is not request])

    def _note(self, request: BpfRequest, text: str, kind: str = "requeue") -> None:
        if self._observer is not None:
            now_ns = self._backend.now_ns()
            self._observer(Noted(now_ns, kind, text, request.token))

    def waiters(self) -> Iterator[str]:
        """One line for each request that waits for CQEs, parked ones first."""
        for request in (*sorted(self._all_parked(), key=_parking_order), *self._queue):
            if request.runs and self._waits(request):
                who = f"request {request.token} ({self._runner.name(request.program)})"
                yield wait_line(who, request.wait_nr, request.wait_idx, self._cqs)
        for request in self._on_words.values():
            who = f"request {request.token} ({self._runner.name(request.program)})"
            yield f"{who} waits for a wake-up at {request.futex[0]:#x}"

    # --- one run --------------------------------------------------------------------------

    def _run(self, request: BpfRequest) -> None:
        if self.dying:
            self._submitter.end(request, -errno.EAGAIN, failed=False)
            self._submitter.settle()
            return
        if not self._rules.ctx_persists:
            request.wait_nr = request.wait_idx = 0
        if self._has_ctx:
            _CTX.pack_into(self._ctx_view, 0, request.user_data, request.wait_nr, request.wait_idx)
        if self._rules.contexts:
            more = (*request.data, request.user, *request.futex)
            _MORE.pack_into(self._ctx_view, _CTX.size, *more)
        request.runs += 1
        name = self._runner.name(request.program)
        self._cqs.counts.runs[name] += 1
        if self._observer is not None:
            self._observer(
                RunStarted(
                    self._backend.now_ns(),
                    request.token,
                    name,
                    request.slot,
                    request.runs,
                    request.user_data,
                )
            )
        self.current = request
        try:
            result = self._run_program(request)
            self.current = None
            on_word = result & U32 == self._rules.futex_value
            asked, refused = self._decide(request, result)
            self._announce_end(request, result, asked, refused)
            self._submitter.end_run()
            if self.loop is not None:
                self._submitter.drain()  # of its requests some may have completed at once
        except BaseException as stop:
            self.current = None
            if isinstance(stop, Trap):
                self._announce_fault(request, stop)
            self._submitter.abort_run()
            self._submitter.drain()
            self._submitter.end(request, -errno.ECANCELED, failed=True)
            self._submitter.settle()
            self._submitter.drain()
            raise
        if on_word:
            self._wait_on_word(request)
        elif not asked or refused:
            self._submitter.end(request, -errno.EINVAL if refused else 0, failed=False)
            self._submitter.settle()
        elif self._satisfied(request):
            self._queue.append(request)
        elif self._rechecks:
            request.recheck = True
            self._queue.append(request)
        else:
            self._park(request)

    def _run_program(self, request: BpfRequest) -> int:
        """Run it: in a loop of its own where nobody else waits for anything."""
        if self.loop is not None and not self._queue and not self._parked:
            self._submitter.drain()
            if not self._queue:
                result = self._run_loop(self.loop, request)
                if result is not None:
                    return result
        result = self._runner.run(request.program, self._ctx_addr)
        self._insns = self._runner.executed()
        self._cqs.counts.insns += self._insns
        return result

    def _run_loop(self, loop: ProgramLoop, request: BpfRequest) -> int | None:
        budgets = self._budgets
        if self._submitter.activity != self._seen_activity:
            self._changed()
        loop.runs, loop.all_insns = 1, 0
        try:
            result = loop.run(
                request,
                self._runs_left + 1,
                (self._stalled, self._stalled_insns),
                (budgets.livelock_runs, budgets.livelock_insns),
            )
        finally:
            request.runs += loop.runs - 1
            self._runs_left -= loop.runs - 1
            counts = self._cqs.counts
            counts.runs[self._runner.name(request.program)] += loop.runs - 1
            counts.insns += loop.all_insns
        if result is not None:
            self._insns = loop.insns
            if loop.active:
                self._submitter.activity += 1
            else:
                self._stalled, self._stalled_insns = loop.stalled, loop.stalled_insns
        return result

    def _announce_end(self, request: BpfRequest, result: int, asked: bool, refused: str) -> None:
        if self._observer is not None:
            self._observer(
                RunEnded(
                    self._backend.now_ns(),
                    request.token,
                    self._runner.name(request.program),
                    request.runs,
                    result,
                    self._runner.executed(),
                    request.wait_idx if asked else None,
                    request.wait_nr if asked else 0,
                    refused,
                    result & U32 == self._rules.futex_value,
                )
            )

    def _announce_fault(self, request: BpfRequest, trap: Trap) -> None:
        self._cqs.counts.insns += trap.insns
        if self._observer is not None:
            self._observer(
                RunFaulted(
                    self._backend.now_ns(),
                    request.token,
                    trap.program or self._runner.name(request.program),
                    request.runs,
                    trap.pc,
                    trap.summary,
                    self._runner.executed(),
                )
            )

    def _decide(self, request: BpfRequest, result: int) -> tuple[bool, str]:
        """Whether the run asked to wait, and why that is refused ("": it is not)."""
        if self._has_ctx:
            request.wait_nr, request.wait_idx = _WAIT.unpack_from(self._ctx_view)
            if self._rules.contexts:
                word, value = _FUTEX.unpack_from(self._ctx_view)
                request.futex = (word, value, request.futex[2])
        if not self._waits(request, result & U32):
            return False, ""
        count = len(self._cqs.queues)
        if request.wait_idx >= count:
            return True, f"the ring has {count} CQ{'s' if count != 1 else ''}"
        return True, "" if request.wait_nr else "that is nothing to wait for"

    def _wait_on_word(self, request: BpfRequest) -> None:
        """Let the request run again when the word is woken, or does not hold the value."""
        word, value = _FUTEX.unpack_from(self._ctx_view)
        token = self._submitter.table.hide(lambda res: self._word_woken(token, res))
        self._on_words[token] = request
        request.futex = (word, value, 0)
        self._note(request, f"waits for a wake-up at {word:#x}", "futex")
        wait = Sqe(
            Op.FUTEX_WAIT, fd=FUTEX2_SIZE_U32, addr=word, off=value, addr3=U32, user_data=token
        )
        self._submitter.hidden(wait.pack())

    def _word_woken(self, token: int, res: int) -> None:
        request = self._on_words.pop(token, None)
        if request is not None:
            request.futex = (*request.futex[:2], res)
            self._queue.append(request)

    def _waits(self, request: BpfRequest, result: int | None = None) -> bool:
        """Whether the run asked to wait; without its result, by the context alone."""
        if self._rules.wait_by is WaitBy.RETURN and result is not None:
            return result == self._rules.wait_value
        return self._rules.wait_by is not WaitBy.NOTHING and request.wait_nr != 0

    def _satisfied(self, request: BpfRequest) -> bool:
        return self._cqs.queues[request.wait_idx].count() >= request.wait_nr

    def _park(self, request: BpfRequest) -> None:
        self._park_count += 1
        request.parked = self._park_count
        self._parked.setdefault(request.wait_idx, []).append(request)
        if self._observer is not None:
            self._observer(
                Parked(
                    self._backend.now_ns(),
                    request.token,
                    self._runner.name(request.program),
                    request.wait_idx,
                    request.wait_nr,
                )
            )

    def _announce_waking(self, request: BpfRequest, observer: Observer) -> None:
        name, cq = self._runner.name(request.program), request.wait_idx
        held = self._cqs.queues[cq].count()
        observer(Woken(self._backend.now_ns(), request.token, name, cq, held))

    def _keep(self, cq: int, waiting: list[BpfRequest]) -> None:
        if waiting:
            self._parked[cq] = waiting
        else:
            del self._parked[cq]

    def _all_parked(self) -> Iterator[BpfRequest]:
        for waiting in self._parked.values():
            yield from waiting

    # --- live-locks -----------------------------------------------------------------------

    def _changed(self) -> None:
        self._stalled = self._stalled_insns = 0
        self._seen_activity = self._submitter.activity
        self._cqs.new_epoch()

    def _watch(self, request: BpfRequest, deadline_ns: int | None) -> None:
        """Runs that change nothing, over and over, are a live-lock unless time can end it."""
        if self._submitter.activity != self._seen_activity:
            self._changed()
            return
        if self.dying:
            return  # nothing runs any more: every request just ends
        if self._cqs.moved:
            self._cqs.moved = False
            self._stalled = self._stalled_insns = 0
            return
        self._stalled += 1
        self._stalled_insns += self._insns
        budgets = self._budgets
        few = self._stalled < budgets.livelock_runs
        if few and self._stalled_insns < budgets.livelock_insns:
            return
        # A program may poll: let time pass for it, if anything can still happen.
        if self._backend.can_progress():
            patience_ns = self._budgets.idle_timeout_ns
            if deadline_ns is not None:
                patience_ns = max(min(patience_ns, self._left(deadline_ns)), 0)
            self._backend.wait(patience_ns)
            if self._submitter.drain():
                self._changed()
                return
            if deadline_ns is not None and self._left(deadline_ns) <= 0:
                return
        raise RingHang(
            f"{LIVELOCK}: {self._stalled:,} runs in a row, {self._last(request)}, "
            "changed nothing: no request was submitted or completed, no CQ grew or shrank",
            tuple(self.waiters()),
        )

    def _watch_fruits(self, request: BpfRequest, most: int, deadline_ns: int | None) -> None:
        """Runs whose requests all fail, over and over, are a live-lock unless time can end it: the
        wait's, or that of what has been in flight since before they began."""
        now_ns = self._backend.now_ns()
        if self._submitter.fruits != self._seen_fruits:
            self._seen_fruits = self._submitter.fruits
            self._fruitless, self._fruitless_ns = 0, now_ns
            self._fruitless_token = max(self._in_flight(), default=0)
            return
        self._fruitless += 1
        if self._fruitless < most or self.dying:
            return
        if deadline_ns is not None:
            patience_ns = deadline_ns - now_ns
        elif any(token <= self._fruitless_token for token in self._in_flight()):
            patience_ns = self._fruitless_ns + self._budgets.idle_timeout_ns - now_ns
        else:
            patience_ns = 0
        if patience_ns > 0 and self._backend.can_progress():
            self._backend.wait(patience_ns)
            self._submitter.drain()
            self._fruitless = 0
            return
        if deadline_ns is not None:
            return
        raise RingHang(
            f"{LIVELOCK}: {self._fruitless:,} runs in a row, {self._last(request)}, came to "
            "nothing: their requests failed, timed out or moved no byte, the host got no CQE",
            tuple(self.waiters()),
        )

    def _in_flight(self) -> Iterator[int]:
        """Tokens of what is in flight on all rings, but for programs."""
        for side in self.together:
            for token, request in side._submitter.table.live.items():
                if not isinstance(request, BpfRequest):
                    yield token

    def _last(self, request: BpfRequest) -> str:
        return f"the last of program {self._runner.name(request.program)}"


def wait_line(who: str, wanted: int, cq: int, cqs: CompletionQueues) -> str:
    """Who waits for how many CQEs where, and what is there."""
    queue = cqs.queues[cq]
    line = f"{who} waits for {wanted} CQE{'s' if wanted != 1 else ''} on CQ {cq}"
    line += f", which holds {queue.count()}"
    if wanted > queue.entries:
        line += f" and can never hold more than {queue.entries}"
    return line


def _ignore(_: int) -> None:
    """The result of a cancellation that nobody waits for."""


def _parking_order(request: BpfRequest) -> int:
    return request.parked

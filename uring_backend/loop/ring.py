"""A ring whose io_uring_enter runs a program again and again, over either backend.

The iteration is abi/iouring-bpf-upstream, section 2.2, step by step; waiting is 2.3. Time is the
backend's: virtual in `sim`. Whatever else happens in the process while the caller sleeps (a signal,
another thread that detaches the program) is an action set with `at`.

Over the kernel's ring this process plays the kernel's part: its memory is ours, requests go to the
real ring and their completions come back through it. So there is no ring lock, completions arrive
whenever a submission or a wait finds them, and a wait ends with the completion that it was for.

Without a program the set-up flags show: with DEFER_TASKRUN what does not complete within its
submission is task work, which an enter with GETEVENTS runs; with SQPOLL a thread of the kernel's
takes SQEs while it is awake. `rest` is time that the process spends elsewhere.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import xor
from typing import TYPE_CHECKING, Self

from pybpfvm.bits import U32, s32
from pybpfvm.errors import LIVELOCK, InputError, RingError, RingHang, UnsupportedError
from pybpfvm.events import (
    HostWaits,
    HostWoke,
    Observer,
)
from pybpfvm.interrupts import breathe, uninterrupted
from pybpfvm.memory import AddressSpace, Region, UserFault
from pybpfvm.profiles.base import LoopAnswer, LoopPlace, LoopRules
from pybpfvm.profiles.base import Region as RingRegion
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.abi import Cqe, Register
from pybpfvm.uring_backend.base import (
    Backend,
    SocketState,
    Wake,
)
from pybpfvm.uring_backend.counts import Counts
from pybpfvm.uring_backend.filtering import RequestFilter
from pybpfvm.uring_backend.loop.attach import OpsMap, OpsValue, RingTable, release
from pybpfvm.uring_backend.loop.memory import LoopMemory, Posting
from pybpfvm.uring_backend.loop.operations import Operations, Performed, copy, set_result
from pybpfvm.uring_backend.loop.parameters import Parameters
from pybpfvm.uring_backend.loop.posts import Posts
from pybpfvm.uring_backend.loop.requests import Requests
from pybpfvm.uring_backend.loop.ringtime import RingTime
from pybpfvm.uring_backend.loop.setup import LoopSetup, check_setup
from pybpfvm.uring_backend.loop.shownring import ShownRing
from pybpfvm.uring_backend.requests import Tokens
from pybpfvm.uring_backend.restrictions import Restrictions, Row
from pybpfvm.uring_backend.settings import CLOCK_MONOTONIC

if TYPE_CHECKING:
    from pybpfvm.uring_backend.kernel.steps import KernelSteps

_THREAD_IDLE_MS = 1000
_MOST_XORED = 512
_WORK_OF_PASS = 20  # task work between two steps, unless more is waited for
_ENTER_FLAGS = (
    abi.ENTER_GETEVENTS
    | abi.ENTER_SQ_WAKEUP
    | abi.ENTER_SQ_WAIT
    | abi.ENTER_EXT_ARG
    | abi.ENTER_REGISTERED_RING
    | abi.ENTER_ABS_TIMER
    | abi.ENTER_EXT_ARG_REG
    | abi.ENTER_NO_IOWAIT
)


@dataclass(frozen=True, slots=True)
class LoopBudgets:
    """What one enter may use up before it is called a hang: `max_steps` of the program,
    `livelock_steps` in a row in which nothing changes, `wall_ns` of wall time, `idle_timeout_ns` of
    real time without any event in a wait (the kernel's ring only). `backlog_entries` CQEs beyond a
    full CQ; `live_requests` at a time, beyond which the kernel has no memory for more (-EAGAIN). At
    `end_ns` of time.monotonic_ns everything ends."""

    max_steps: int = 1_000_000
    livelock_steps: int = 10_000
    wall_ns: int = 120_000_000_000
    idle_timeout_ns: int = 10_000_000_000
    backlog_entries: int = 65_536
    live_requests: int = 262_144
    end_ns: int | None = None


class LoopRing:
    """An io_uring for programs of an ABI with a loop; a context manager that owns `backend`.

    `entries`, `flags`, `cq_entries` and `sq_thread_idle_ms` (0: the kernel's second) are
    io_uring_setup's. `fd` is its descriptor in `table`,
    `handle` the address that programs know it by, `params` what they get beside it. No request has
    the token of one on a ring `beside`.
    """

    def __init__(
        self,
        rules: LoopRules,
        memory: AddressSpace,
        backend: Backend,
        entries: int,
        *,
        flags: int = 0,
        cq_entries: int = 0,
        sq_thread_idle_ms: int = 0,
        table: RingTable,
        observer: Observer | None = None,
        budgets: LoopBudgets | None = None,
        restrictions: Restrictions | None = None,
        beside: LoopRing | None = None,
    ) -> None:
        self.rules = rules
        operation = rules.operation
        own_flag = operation.setup_flag if operation is not None else 0
        self.setup: LoopSetup = check_setup(entries, flags & ~own_flag, cq_entries)
        self.backend = backend
        self.time = RingTime(backend)
        self.memory = memory
        self.attached: OpsValue | None = None
        self.steps = 0  # calls of the program, over all enters
        self.budgets: LoopBudgets = budgets or LoopBudgets()
        self.queues = LoopMemory(memory, self.setup, self.budgets.backlog_entries)
        self.posts = Posts(self.queues, self.now_ns, observer)
        self._observer = observer
        self._table = table
        self.fd = table.add(self)
        self.operations: Operations | None = None
        if operation is not None:
            self.operations = Operations(
                operation,
                memory,
                backend,
                {} if own_flag else table.operations,
                table.requests,
                allowed=not own_flag or bool(flags & own_flag),
            )
        self._event = _Event()
        self._event_handle = memory.handle(self._event) if rules.gate else 0
        self._clock = CLOCK_MONOTONIC
        self._shown: ShownRing | None = None
        if rules.ctx_bytes:
            self._shown = ShownRing(memory, rules.ctx, rules.ctx_bytes, self.queues)
            self._shown.fill(self.setup, self._clock)
        # What stands for the ring: its struct where programs can look into it.
        self.handle = memory.handle(self) if self._shown is None else self._shown.start
        self._parameters = Parameters(rules, memory, self.queues, self.now_ns)
        self.params = self._parameters.region
        disabled = bool(self.setup.flags & abi.SETUP_R_DISABLED)
        self.restrictions = restrictions or Restrictions(disabled=disabled)
        self._submitter = None if disabled else threading.get_ident()
        self.requests: Requests = Requests(
            self.setup,
            backend,
            self.queues,
            self.posts,
            self.restrictions,
            self.operations,
            tokens=Tokens() if beside is None else beside.requests.tokens,
            most=self.budgets.live_requests,
            now_ns=self.now_ns,
            observer=observer,
        )
        self._thread_idle_ns = (sq_thread_idle_ms or _THREAD_IDLE_MS) * 1_000_000
        self._thread_sleeps_ns = backend.now_ns()  # it falls asleep before there is work
        self._pending_sqes = 0
        self._signals = 0
        self._inside = False
        self._closed = False
        memory.before_close(self.close)
        self._run_thread()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __str__(self) -> str:
        return "ring"

    def shown(self, field: str) -> int:
        """The true address, where it can be written, of a field of the ring's struct that programs
        see; 0 if they see none."""
        return 0 if self._shown is None else self._shown.addr(field)

    def show_queues(self) -> None:
        """As ShownRing, where programs see something."""
        if self._shown is not None:
            self._shown.show_queues()

    # --- the rest of the process ------------------------------------------------------------

    def now_ns(self) -> int:
        """The ring's clock: see RingTime."""
        return self.time.now_ns()

    def at(self, delay_ns: int, action: Callable[[], None]) -> None:
        """Let `action` happen when the ring's clock has moved on so far, while a caller sleeps in
        `enter` or when the next one comes: a signal, a detachment, a write to shared memory."""
        self.time.plan(delay_ns, action)
        self.look_up()

    def signal(self) -> None:
        """A signal is pending for the task: its next look ends `enter` with -EINTR."""
        self._signals += 1
        self.look_up()

    def look_up(self) -> None:
        """Let compiled code that loops here, if any does, come back behind this run."""
        if self.native is not None:
            self.native.look_up()

    @uninterrupted
    def idle(self, duration_ns: int | None) -> bool:
        """Let time pass outside any enter, until nothing can happen any more (True) or so much is
        over. What completes is posted by the next enter."""
        self._check_open()
        limit = self.budgets.idle_timeout_ns if duration_ns is None else duration_ns
        deadline = self.now_ns() + limit
        while True:
            self.time.act()
            self.requests.gather()
            if self.operations is not None:
                self._settle()  # what a program performs may be what others wait for
            if not self.backend.can_progress() and not self.time.planned:
                return True
            if self.now_ns() >= deadline:
                return False
            self.time.pass_by(deadline, limit)

    # --- registration -----------------------------------------------------------------------

    def register_restrictions(self, rows: Sequence[Row]) -> None:
        """IORING_REGISTER_RESTRICTIONS (see restrictions). Raises RingError."""
        self._check_open()
        self.restrictions.command(Register.RESTRICTIONS)
        self.restrictions.register(rows)

    def enable(self) -> None:
        """IORING_REGISTER_ENABLE_RINGS: the caller becomes the submitter."""
        self._check_open()
        self.restrictions.enable()
        self._submitter = threading.get_ident()

    @uninterrupted
    def resize(self, entries: int, cq_entries: int = 0, *, clamp: bool = False) -> None:
        """IORING_REGISTER_RESIZE_RINGS: other sizes, at other addresses; `cq_entries` 0: twice as
        many. RingError EINVAL without DEFER_TASKRUN, EEXIST from another thread than the
        submitter's, EOVERFLOW for less than what is in a queue."""
        self._check_open()
        self.restrictions.command(Register.RESIZE_RINGS)
        if self._inside:
            raise InputError("the ring is inside an enter", remedy="call it afterwards")
        single = self.setup.flags & abi.SETUP_SINGLE_ISSUER and not self.restrictions.disabled
        if single and threading.get_ident() != self._submitter:
            raise RingError(errno.EEXIST, "only the thread that made the ring may resize it")
        if not self.setup.defers:
            raise RingError(errno.EINVAL, "only rings with DEFER_TASKRUN can be resized")
        size_flags = abi.SETUP_CQSIZE | abi.SETUP_CLAMP
        flags = self.setup.flags & ~size_flags
        asked = (abi.SETUP_CQSIZE if cq_entries else 0) | (abi.SETUP_CLAMP if clamp else 0)
        setup = check_setup(entries, flags | asked, cq_entries)
        setup = replace(setup, flags=self.setup.flags)
        self.queues.resize(setup)
        self.queues.show(abi.SQ_NEED_WAKEUP | abi.SQ_TASKRUN, on=True)  # "look", whatever it was
        self.setup = self.requests.setup = setup
        if self._shown is not None:
            self._shown.fill(self.setup, self._clock)

    def take_callbacks(self, value: OpsValue) -> None:
        """A map of callbacks gets onto this ring. RingError as what they are for says."""
        if self.operations is not None:
            self.operations.put(value)
            return
        if self.rules.gate in value.calls:
            self.backend.gate_polls(self._lets_through)
        self.attached = value

    def lose_callbacks(self, ops: OpsMap) -> None:
        """The callbacks leave the ring; operations when no request is performed by them."""
        if self.operations is not None:
            self._unregister(ops)
        elif self.attached is not None and self.attached.map is ops:
            if self.rules.gate in self.attached.calls:
                self.backend.gate_polls(None)
            self.attached = None
            self.look_up()

    def _unregister(self, ops: OpsMap) -> None:
        assert self.operations is not None
        value = self.operations.of_map(ops)
        if self._closed:
            value.step, value.calls = None, {}
        else:
            name = f"the program of operation {value.number} is asked to leave"
            self._wait_for(lambda: not value.in_flight, None, name)
        self.operations.remove(value)

    def _lets_through(self, wake: Wake) -> bool:
        """Whether the program of the gate lets a wake count."""
        value = self.attached
        if value is None or self.rules.gate not in value.calls:
            return True
        self._event.wake = wake
        try:
            return s32(value.calls[self.rules.gate].call(self._event_handle)) == 0
        finally:
            self._event.wake = None

    def register_clock(self, clock: int) -> None:
        """IORING_REGISTER_CLOCK, which the backend has taken: programs see it."""
        self._clock = clock
        if self._shown is not None:
            self._shown.fill(self.setup, self._clock)

    def register_eventfd(self, fd: int) -> None:
        """IORING_REGISTER_EVENTFD: an eventfd of the world counts CQEs from now on. Raises
        RingError EBUSY; InputError for another descriptor."""
        self._check_open()
        self.restrictions.command(Register.EVENTFD)
        if self.posts.signal is not None:
            raise RingError(errno.EBUSY, "an eventfd is already registered")
        world = self.backend.world
        world.signal(fd, 0)
        self.posts.signal = lambda count: world.signal(fd, count)
        self.look_up()

    def unregister_eventfd(self) -> None:
        """IORING_UNREGISTER_EVENTFD. Raises RingError ENXIO."""
        self._check_open()
        self.restrictions.command(Register.UNREGISTER_EVENTFD)
        if self.posts.signal is None:
            raise RingError(errno.ENXIO, "no eventfd is registered")
        self.posts.signal = None

    def register_mem(self, region: Region) -> None:
        """IORING_REGISTER_MEM_REGION with memory of the host's."""
        self._check_open()
        self.restrictions.command(Register.MEM_REGION)
        if self.queues.region(RingRegion.MEM) is not None:
            raise RingError(errno.EBUSY, "a memory region is registered")
        self.queues.set_mem(region)
        if self.native is not None:
            self.native.show_regions()

    def put_filter(self, filter_: RequestFilter) -> None:
        """Requests pass this filter from now on."""
        self._check_open()
        self.requests.gate.put(filter_)
        if self.native is not None:
            self.native.look_up()

    # --- for hosts --------------------------------------------------------------------------

    def queue(self, sqe: bytes) -> None:
        """Fill the next SQE and, but for SQ_REWIND, publish it; RingError EBUSY: no room."""
        self._check_open()
        addr = self.queues.next_sqe(self._pending_sqes if self.setup.rewinds else 0)
        if addr is None:
            raise RingError(errno.EBUSY, f"the SQ is full with {self.setup.sq_entries} SQEs")
        self.memory.write(addr, sqe)
        self.publish()
        self._pending_sqes += 1

    def publish(self) -> None:
        """Move the SQ's tail by one; a thread that is awake takes what is there."""
        self.queues.publish(1)
        self._run_thread()

    @uninterrupted
    def rest(self, time_ns: int) -> None:
        """The process does something else for so long: completions come as the set-up lets them."""
        self._check_open()
        end = self.now_ns() + time_ns
        while (left := end - self.now_ns()) > 0 and self.backend.wait(left):
            self._settle()
        self.time.skip_to(end)
        self._settle()

    def _settle(self) -> None:
        """What has happened meanwhile shows: task work runs by itself, or waits."""
        self._run_thread()
        if self.setup.defers:
            self.requests.take(within=())
        else:
            self.requests.take()

    def _run_thread(self) -> None:
        """The kernel's thread looks, if there is one and it is awake; then it may fall asleep."""
        if not self.setup.has_thread or self.restrictions.disabled:
            return
        if self.now_ns() >= self._thread_sleeps_ns:
            self.queues.show(abi.SQ_NEED_WAKEUP, on=True)
            return
        if self.requests.take() | (self.submit_sqes(self.queues.available()) > 0):
            self._thread_sleeps_ns = self.now_ns() + self._thread_idle_ns

    def _wake_thread(self) -> None:
        self.queues.show(abi.SQ_NEED_WAKEUP, on=False)
        self._thread_sleeps_ns = self.now_ns() + self._thread_idle_ns
        self._run_thread()

    def submit(self) -> int:
        """As libraries do: enter with what was queued, and wake the thread of a ring with SQPOLL
        if it sleeps. 0 where a program decides."""
        self.restrictions.enter()
        count, self._pending_sqes = self._pending_sqes, 0
        sleeps = self.setup.has_thread and self.queues.words["sq_flags"] & abi.SQ_NEED_WAKEUP
        return self.enter(count, flags=abi.ENTER_SQ_WAKEUP if sleeps else 0)

    def peek(self) -> Cqe | None:
        """The oldest CQE; it stays."""
        self._check_open()
        if not self._inside:
            self._settle()
        raw = self.queues.cq.peek()
        return None if raw is None else Cqe.unpack(raw)

    def reap(self) -> Cqe | None:
        """The oldest CQE, taken."""
        cqe = self.peek()
        if cqe is not None:
            self.queues.cq.pop()
            self.posts.tell_reaped()
        return cqe

    # --- io_uring_enter ---------------------------------------------------------------------

    @uninterrupted
    def enter(
        self,
        to_submit: int = 0,
        min_complete: int = 0,
        flags: int = 0,
        timeout_ns: int | None = None,
    ) -> int:
        """io_uring_enter: 0 when the program says STOP, without a program the number of SQEs that
        were consumed; `timeout_ns` is that of its extended argument, which a program's loop does
        not look at. Raises RingError with the errno of the system call, RingHang when it would
        never return, and whatever the program raises."""
        self._check_open()
        if flags & ~_ENTER_FLAGS:
            raise RingError(errno.EINVAL, f"unknown enter flags {flags & ~_ENTER_FLAGS:#x}")
        if self._inside:
            raise InputError("the ring is inside an enter", remedy="call it afterwards")
        self.restrictions.enter()
        single = self.setup.flags & abi.SETUP_SINGLE_ISSUER
        acts = to_submit or self.driven or (self.setup.defers and flags & abi.ENTER_GETEVENTS)
        if single and acts and threading.get_ident() != self._submitter:
            raise RingError(errno.EEXIST, "only the thread that made the ring may enter it")
        self._inside = True
        try:
            if self.driven and self.rules.place is LoopPlace.WAITING:
                return self._waiting_loop(to_submit, flags)
            if self.driven:
                return self._loop()
            return self._ordinary(to_submit, min_complete, flags, timeout_ns)
        finally:
            self._inside = False

    @property
    def native(self) -> KernelSteps | None:
        """What lets compiled code make the loop, if anything does."""
        return self.requests.native

    @property
    def driven(self) -> bool:
        """Whether a program is there that enters call."""
        return self.attached is not None and self.attached.step is not None

    def _waiting_loop(self, to_submit: int, flags: int) -> int:
        """The program inside the wait of an ordinary enter: abi/iouring-bpf-upstream, section 7."""
        consumed = self.submit_sqes(to_submit) if to_submit else 0
        self.requests.take()
        self.posts.flush()
        if not flags & abi.ENTER_GETEVENTS:
            return consumed
        try:
            result = self._loop()
        except RingError:
            if consumed:
                return consumed
            raise
        if consumed or self.rules.other is not LoopAnswer.STOPS or self.queues.cq.count():
            return consumed
        if result < 0:
            raise RingError(-result, f"the program returned {result}")
        return result

    def _loop(self) -> int:
        """The callback, until it says STOP or something ends it: what it answered then."""
        self._parameters.clear()
        quiet, left = 0, self.budgets.max_steps
        began = time.monotonic_ns()
        while left > 0:
            if time.monotonic_ns() - began > self.budgets.wall_ns:
                seconds = self.budgets.wall_ns / 1e9
                raise RingHang(f"the program did not stop within {seconds:g} s", by_clock=True)
            self._check_end()
            breathe()
            value = self.attached
            if value is None:
                raise RingError(errno.EFAULT, "the program was detached inside the loop")
            if not value.map.links:
                raise UnsupportedError(
                    "callbacks that were freed while they are on the ring",
                    remedy="kernels from 7.1.5 on do not let a map onto a second ring",
                )
            assert value.step is not None
            self.show_queues()
            before, made, asleep = self.state(), 1, False
            native = self.native
            if native is not None:
                native.prepare(left, quiet)
            try:
                result = s32(value.step.step())
            finally:
                if native is not None:
                    before, made, asleep = native.before, native.runs, native.asleep
                    quiet = native.quiet
                self.steps += made
                left -= made
            if self._parameters.ends(result):
                return result if self.rules.place is LoopPlace.WAITING else 0
            self._parameters.check_untold()
            wanted = self._parameters.wanted()
            deadline, late = self._parameters.deadline(), False
            last = self._last_of_pass(wanted)
            if wanted:
                self._tell_wait(wanted)
                late = self._sleep(wanted, deadline, last, asleep=asleep)
                self._tell_woken(late=late)
                self._parameters.report_timeout(late)
            self.time.act()
            if self._signals:
                self._signals -= 1
                raise RingError(errno.EINTR, "a signal is pending")
            self.requests.take(most=last - self.posts.number)
            self.posts.flush()
            quiet = quiet + 1 if self.state() == before and not late else 0
            if quiet >= self.budgets.livelock_steps and not self.time.planned:
                raise RingHang(
                    f"{LIVELOCK}: {quiet:,} steps in a row changed nothing and asked to wait for "
                    "nothing",
                    (),
                )
        raise RingHang(f"the budget of {self.budgets.max_steps:,} steps is used up", ())

    def state(self) -> tuple[int, int, int, int]:
        """What changes when a step gets anywhere: completions, requests, what is taken."""
        queues = self.queues
        return self.posts.number, self.requests.tokens.next, queues.cq.count(), queues.backlog

    def _last_of_pass(self, wanted: int) -> int:
        """How many CQEs there may have been when the next step comes: the rest is left for a later
        pass. Over the kernel's ring all that is there comes."""
        most = max(_WORK_OF_PASS, wanted) if self.backend.name == "sim" else U32
        return self.posts.number + most

    def _sleep(
        self, wanted: int, deadline_ns: int | None, last: int, *, asleep: bool = False
    ) -> bool:
        """Until so many completions more are there, or something else wakes the task; whether that
        is the deadline. `last`: when no more are posted; `asleep`: it sleeps already."""
        work = not asleep and self.requests.take(most=last - self.posts.number)
        if not asleep and (work or self.queues.backlog or self._signals):
            return False  # woken at once: there is work, or a bit set that says "look"
        goal = self.posts.number + wanted
        return not self._wait_for(
            # A signal wakes; a detached program, or other memory, does not.
            lambda: self.posts.number >= goal or bool(self._signals),
            deadline_ns,
            f"the program waits until the CQ's tail is {wanted} further than {self.queues.cq.tail}",
            last=last,
        )

    def _wait_for(
        self,
        done: Callable[[], bool],
        deadline_ns: int | None,
        waiter: str = "",
        *,
        last: int | None = None,
    ) -> bool:
        """Let time pass until `done` (True), which is asked whenever something happened, or the
        deadline (False). RingHang when neither can come; `waiter` says for what, `last` how many
        CQEs there may have been then."""
        idle_ns = patience_ns = self.budgets.idle_timeout_ns
        last_event = time.monotonic_ns()
        while True:
            breathe()
            self.time.act()
            if done():
                return True
            self._check_end()
            if deadline_ns is not None and self.now_ns() >= deadline_ns:
                return False
            if not self.time.planned and deadline_ns is None and not self.backend.can_progress():
                who = (f"{waiter}; {self.in_flight()} request(s) are in flight",) if waiter else ()
                raise RingHang("nothing in flight can complete", who)
            moved = self.time.pass_by(deadline_ns, patience_ns)
            self.requests.take(most=None if last is None else last - self.posts.number)
            if moved:
                last_event, patience_ns = time.monotonic_ns(), idle_ns
            elif not self.time.planned and deadline_ns is None:
                if time.monotonic_ns() - last_event >= idle_ns:
                    raise RingHang(f"no event for {idle_ns / 1e9:g} s", ())
                patience_ns *= 2  # the clock is virtual: let more of it pass

    def _check_end(self) -> None:
        end_ns = self.budgets.end_ns
        if end_ns is not None and time.monotonic_ns() >= end_ns:
            raise RingHang("the budget of time is used up", by_clock=True)

    def _tell_wait(self, wanted: int) -> None:
        if self._observer is not None:
            held = self.queues.cq.count()
            self._observer(HostWaits(self.now_ns(), 0, held + wanted))

    def _tell_woken(self, *, late: bool) -> None:
        if self._observer is not None:
            self._observer(HostWoke(self.now_ns(), 0, self.queues.cq.count(), late))

    def _ordinary(
        self, to_submit: int, min_complete: int, flags: int, timeout_ns: int | None
    ) -> int:
        """Without a program: submit, and wait if GETEVENTS says so."""
        deadline = None if timeout_ns is None else self.now_ns() + timeout_ns
        if self.setup.has_thread:
            self._run_thread()
            if flags & abi.ENTER_SQ_WAKEUP:
                self._wake_thread()
            consumed = to_submit
        else:
            consumed = self.submit_sqes(to_submit, whole=False) if to_submit else 0
            if consumed != to_submit:
                self._settle()
                return consumed
        self._settle()
        if flags & abi.ENTER_GETEVENTS:
            self.requests.take()
            self.posts.flush()
            wanted = min(min_complete, self.setup.cq_entries)
            self._tell_wait(wanted - self.queues.cq.count())
            polls = self.setup.flags & abi.SETUP_IOPOLL

            def done() -> bool:
                self.posts.flush()
                # A ring with IOPOLL waits for what its files are polled for, and no longer.
                over = self._signals or (polls and not self.requests.live)
                return self.queues.cq.count() >= wanted or bool(over)

            if not self._wait_for(done, deadline):
                number, reason = errno.ETIME, "the timeout is over"
            elif self.queues.cq.count() < wanted and self._signals:
                self._signals -= 1
                number, reason = errno.EINTR, "a signal is pending"
            else:
                number, reason = 0, ""
            if number and not consumed:
                raise RingError(number, reason)
            self._tell_woken(late=number == errno.ETIME)
        return consumed

    # --- what the program calls -------------------------------------------------------------

    def submit_sqes(self, count: int, *, whole: bool = True) -> int:
        """bpf_io_uring_submit_sqes: how many entries were consumed. Completions that come at
        once are in the CQ when this returns; `whole`: so is what is task work."""
        consumed = self.requests.submit(count, whole=whole)
        self.show_queues()
        return consumed

    def queue_sqe(self, sqe: bytes) -> int:
        """bpf_io_uring_queue_sqe: an entry for the SQ's tail; -EINVAL for one of another size."""
        if len(sqe) != abi.SQE_BYTES:
            return -errno.EINVAL
        self.queues.put(sqe)
        return 0

    def post_cqe(self, user_data: int, res: int, flags: int) -> int:
        """bpf_io_uring_post_cqe: a CQE of the program's own; -ENOMEM where it is lost."""
        self.posts.tell_reaped()
        posting = Posting(user_data, s32(res), flags & U32, self.posts.running, None)
        fate = self.posts.post(posting)
        self.show_queues()
        return -errno.ENOMEM if fate == "dropped" else 0

    def cqe_addr(self, index: int) -> int:
        """bpf_io_uring_get_cqe: where the CQE of this index stands."""
        return self.queues.cqe_addr(index)

    def wait_for(self, count: int) -> None:
        """bpf_io_uring_set_wait_params: the next waits of this enter are for so many CQEs."""
        self._parameters.wait_for(count)

    def next_cqe_addr(self) -> int:
        """bpf_io_uring_extract_next_cqe: where the oldest CQE stands, which is taken; 0: none."""
        cq = self.queues.cq
        if cq.peek() is None:
            return 0
        addr = self.queues.cqe_addr(cq.head)
        cq.pop()
        return addr

    def xor_buffer(self, index: int, size: int) -> int:
        """bpf_io_uring_xor_regbuf: the XOR of the first bytes of a registered buffer; 0 for one
        that is not there, or shorter, or for more than 512."""
        found = self.backend.buffer_at(index)
        if found is None or size > min(found[1], _MOST_XORED):
            return 0
        try:
            return reduce(xor, self.memory.user_read(found[0], size), 0)
        except UserFault:
            return 0  # the block was given back

    def set_result(self, data: int, res: int) -> bool:
        """uring_bpf_set_result; False when `data` is that of no request."""
        request = self._request(data)
        if request is not None:
            set_result(request, res)
        return request is not None

    def copy_buffers(self, data: int, dst: bytes, src: bytes) -> int | None:
        """uring_bpf_memcpy: how many bytes, or -errno; None when `data` is that of no request."""
        request = self._request(data)
        return None if request is None else copy(self.memory, request, dst, src)

    def _request(self, data: int) -> Performed | None:
        return self._table.requests.get(data)

    def socket_state(self, event: int) -> SocketState | int | None:
        """bpf_io_uring_sock_state: what the socket holds, or -errno; None: `event` is none."""
        wake = self._event.wake if event == self._event_handle else None
        return None if wake is None else wake.state()

    def socket_peek(self, event: int, size: int) -> bytes | int | None:
        """bpf_io_uring_sock_peek: what waits in the socket, or -errno; None: `event` is none."""
        wake = self._event.wake if event == self._event_handle else None
        return None if wake is None else wake.peek(size)

    def region_addr(self, region_id: int, size: int) -> int:
        """bpf_io_uring_get_region: its address, 0 for a wrong id, a size beyond the region, or a
        MEM that is not registered."""
        kind = self.rules.regions.get(region_id & U32)
        region = self.queues.region(kind) if kind is not None else None
        return region.start if region is not None and size <= region.size else 0

    def running(self, name: str) -> str:
        """The program of this name runs now ("": none): it is who submits and reaps. Who did
        before."""
        return self.posts.switch(name)

    # --- what was done so far ---------------------------------------------------------------

    @property
    def counts(self) -> Counts:
        """Runs, instructions and CQEs so far; what left the CQ counts as reaped, whoever moved its
        head."""
        return self.posts.counts(self.setup.cq_entries)

    @property
    def counts_told(self) -> Counts:
        """The same, as far as an observer was told: of CQEs whose leaving is still to be told, it
        says that they are there."""
        return self.posts.counts_told()

    def ran(self, name: str, insns: int, runs: int = 1) -> None:
        """Runs of the program of this name, of so many instructions."""
        self.posts.ran(name, insns, runs)

    def in_flight(self) -> int:
        """Requests submitted and not completed."""
        return self.requests.in_flight()

    def room(self) -> int:
        """How many requests more may be in flight."""
        return self.requests.room()

    # --- the loop in compiled code --------------------------------------------------------------

    def make_native(self) -> KernelSteps | None:
        """What lets compiled code make the loop by itself, `native` from now on; None where nothing
        does.

        The caller gives it the code. Only over the running kernel's ring, by the rules of the
        merged ABI, and when nobody observes: events are Python's.
        """
        if self.native is not None:
            return self.native
        rules = self.rules
        merged = rules.of_structs and rules.place is LoopPlace.INSTEAD and not rules.go_on
        if not merged or rules.timeout is not None or rules.untold or rules.gate:
            return None
        if self._observer is not None or self.restrictions.active:
            return None
        if self.setup.flags & (abi.SETUP_TASKRUN_FLAG | abi.NOTICED):
            return None
        if self.posts.signal is not None:
            return None
        if self.backend.name != "kernel":
            return None
        from pybpfvm.uring_backend.kernel import KernelBackend
        from pybpfvm.uring_backend.kernel.steps import KernelSteps

        if not isinstance(self.backend, KernelBackend):
            return None
        try:
            self.requests.native = KernelSteps(self, self.backend)
        except InputError:
            return None  # no memory for its tables, or a library's ring
        return self.native

    @property
    def needs_python(self) -> bool:
        """Whether the next turn of the loop has something that compiled code knows nothing of."""
        if self.time.planned or self._signals or self.requests.task_work or self.queues.backlog:
            return True
        if self.posts.signal is not None:
            return True
        return self.requests.gate.active or self.attached is None

    def adopt(self, token: int, user_data: int, opcode: int) -> None:
        """A request that compiled code submitted is one like others from now on."""
        self.requests.adopt(token, user_data, opcode)

    def submitted(self, count: int) -> None:
        """Compiled code submitted so many requests."""
        self.requests.tokens.next += count

    def posted(self, count: int) -> None:
        """Compiled code posted so many CQEs."""
        self.posts.posted(count)

    def take_in(self) -> None:
        """Post what has completed."""
        self.requests.take()

    # --- the end ----------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise RingError(errno.EBADF, "the ring is closed")

    @uninterrupted
    def close(self) -> None:
        """Cancel everything and free the ring; callbacks on it are forgotten. Twice is fine."""
        if self._closed:
            return
        if self._inside:
            raise InputError("the ring is inside an enter", remedy="close it afterwards")
        self._closed = True
        if self.attached is not None and self.attached.map.bound is self:
            release(self.attached.map)
        if self.operations is not None:
            self.operations.drop()
            for value in self.operations.of_ring(self):
                release(value.map)
        self._table.close(self.fd)
        self.backend.close()
        if self.native is not None:
            self.native.close()
            self.requests.native = None
        self.queues.free()
        self.memory.free(self.params)
        if self._shown is not None:
            self._shown.free()
        self.memory.forget_before_close(self.close)


class _Event:
    """What a program of a poll gate is asked about, while it is asked."""

    def __init__(self) -> None:
        self.wake: Wake | None = None

    def __str__(self) -> str:
        return "event"

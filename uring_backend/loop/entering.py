"""io_uring_enter of a ring with a loop: the loop, its waits, and the enter without a program.

The iteration is abi/iouring-bpf-upstream, section 2.2, step by step; waiting is 2.3.

Without a program the set-up flags show: with DEFER_TASKRUN what does not complete within its
submission is task work, which an enter with GETEVENTS runs; with SQPOLL a thread of the kernel's
takes SQEs while it is awake.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable

from pybpfvm.bits import U32, s32
from pybpfvm.errors import LIVELOCK, InputError, RingError, RingHang, UnsupportedError
from pybpfvm.events import HostWaits, HostWoke
from pybpfvm.interrupts import breathe, uninterrupted
from pybpfvm.profiles.base import LoopAnswer, LoopPlace
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.loop.calls import ProgramCalls

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


class Entering(ProgramCalls):
    """A ring that can be entered."""

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

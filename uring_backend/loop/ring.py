"""A ring whose io_uring_enter runs a program again and again, over either backend.

What it consists of is in `parts`, what programs call in `calls`; `entering` has the enter, with the
loop and its waits, `registering` what comes onto the ring and leaves it. Here is its host's side.

Time is the backend's: virtual in `sim`. Whatever else happens in the process while the caller
sleeps (a signal, another thread that detaches the program) is an action set with `at`.

Over the kernel's ring this process plays the kernel's part: its memory is ours, requests go to the
real ring and their completions come back through it. So there is no ring lock, completions arrive
whenever a submission or a wait finds them, and a wait ends with the completion that it was for.

`rest` is time that the process spends elsewhere.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from pybpfvm.errors import InputError, RingError
from pybpfvm.interrupts import uninterrupted
from pybpfvm.profiles.base import LoopPlace
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.abi import Cqe
from pybpfvm.uring_backend.loop.attach import release
from pybpfvm.uring_backend.loop.registering import Registering

if TYPE_CHECKING:
    from pybpfvm.uring_backend.kernel.steps import KernelSteps


class LoopRing(Registering):
    """An io_uring for programs of an ABI with a loop; a context manager that owns `backend`.

    `entries`, `flags`, `cq_entries` and `sq_thread_idle_ms` (0: the kernel's second) are
    io_uring_setup's. `fd` is its descriptor in `table`,
    `handle` the address that programs know it by, `params` what they get beside it. No request has
    the token of one on a ring `beside`.
    """

    def _begin(self) -> None:
        self.fd = self._table.add(self)
        self.memory.before_close(self.close)
        self._run_thread()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- the rest of the process -------------------------------------------------------------

    def at(self, delay_ns: int, action: Callable[[], None]) -> None:
        """Let `action` happen when the ring's clock has moved on so far, while a caller sleeps in
        `enter` or when the next one comes: a signal, a detachment, a write to shared memory."""
        self.time.plan(delay_ns, action)
        self.look_up()

    def signal(self) -> None:
        """A signal is pending for the task: its next look ends `enter` with -EINTR."""
        self._signals += 1
        self.look_up()

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

    @uninterrupted
    def rest(self, time_ns: int) -> None:
        """The process does something else for so long: completions come as the set-up lets them."""
        self._check_open()
        end = self.now_ns() + time_ns
        while (left := end - self.now_ns()) > 0 and self.backend.wait(left):
            self._settle()
        self.time.skip_to(end)
        self._settle()

    # --- for hosts ---------------------------------------------------------------------------

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

    # --- the loop in compiled code -----------------------------------------------------------

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

    # --- the end -----------------------------------------------------------------------------

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

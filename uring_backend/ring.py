"""A ring whose requests may be BPF programs, over either backend.

The rules are those of the ABI profile: abi/iouring-bpf-2021, sections 1 and 3. The ring's memory
is laid out as the kernel's, so hosts and engines can map it; methods here are the system calls.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Self

from pybpfvm.bits import U32
from pybpfvm.errors import InputError, InternalError, RingError, RingHang
from pybpfvm.events import HostWaits, HostWoke, Observer
from pybpfvm.interrupts import breathe, uninterrupted
from pybpfvm.memory import AddressSpace
from pybpfvm.profiles.base import Profile
from pybpfvm.uring_backend.abi import (
    CQE_BYTES,
    NOTICED,
    SETUP_R_DISABLED,
    SQE_BYTES,
    Cqe,
    Register,
)
from pybpfvm.uring_backend.base import Backend
from pybpfvm.uring_backend.bpf import BpfRequests, Budgets, ProgramRunner, wait_line
from pybpfvm.uring_backend.checks import SqeChecks
from pybpfvm.uring_backend.choices import Chooser
from pybpfvm.uring_backend.contexts import MAX_CONTEXTS, Context, RequestMemory
from pybpfvm.uring_backend.counts import Counts
from pybpfvm.uring_backend.cq import CompletionQueue, CompletionQueues
from pybpfvm.uring_backend.filtering import RequestFilter
from pybpfvm.uring_backend.layout import RingMemory
from pybpfvm.uring_backend.requests import LINK, Request, Tokens
from pybpfvm.uring_backend.restrictions import REGISTER_BPF, UNREGISTER_BPF, Restrictions, Row
from pybpfvm.uring_backend.setup import check_setup
from pybpfvm.uring_backend.submitter import Submitter
from pybpfvm.uring_backend.turns import SLICE_NS, Turns, in_turn

if TYPE_CHECKING:
    from pybpfvm.uring_backend.kernel.loop import KernelLoop

MAX_PROGRAMS = 100
_USER = "user"
_EMPTY_SLOT = -1


class _Stop(Enum):
    """Why waiting ended."""

    DONE = "the condition holds"
    STUCK = "nothing in flight can complete"
    LATE = "the deadline is over"
    IDLE = "nothing happened for the idle timeout"
    SPENT = "the budget of waits is used up"
    LONG = "the budget of wall time is used up"


class Ring:
    """An io_uring of the ABI `profile`. A context manager; owns `backend` once it is made.

    `entries`, `cq_entries` (extra CQs), `flags` and `cq0_entries` are io_uring_setup's, which
    decides how they are rounded and refused (RingError; -ENOMEM when `memory` is used up).
    `runner` executes registered programs; `observer` sees every event. `later_opcodes` admits
    opcodes of mainline above BPF, the last one of the ABI, which the kernels of its time refused.
    `restrictions`: the ring's, if others look at them, too.
    `chooser` says which program runs next where the order is free.
    `beside` is another ring of the same thread, with a backend beside this one's: while the thread
    waits on either, programs run on both, and no two of their requests have the same token.
    """

    def __init__(
        self,
        profile: Profile,
        memory: AddressSpace,
        backend: Backend,
        entries: int,
        cq_entries: Sequence[int] = (),
        *,
        flags: int = 0,
        cq0_entries: int | None = None,
        runner: ProgramRunner,
        observer: Observer | None = None,
        budgets: Budgets | None = None,
        later_opcodes: bool = False,
        restrictions: Restrictions | None = None,
        chooser: Chooser | None = None,
        beside: Ring | None = None,
    ) -> None:
        if profile.ring is None:
            raise InputError(
                f"profile {profile.name} has no ring", remedy="choose one of the iouring profiles"
            )
        rules = profile.ring
        setup = check_setup(rules, entries, cq_entries, flags, cq0_entries)
        self.profile = profile
        self.memory = memory
        self.backend = backend
        self.budgets = budgets = budgets or Budgets()
        self.setup = setup
        self.turns = Turns()
        self._closed = False
        self._observer = observer
        self._loop: KernelLoop | None = None
        self._filtered = False
        self._eventfd_async = False
        self._runner = runner
        self.requests_memory = RequestMemory(memory)
        self._memory = RingMemory(memory, profile, setup)
        self.sq = self._memory.submission_queue()
        queues = self._memory.completion_queues()
        self.cqs = CompletionQueues(
            queues,
            backlog_entries=budgets.backlog_entries,
            observer=observer,
            now_ns=backend.now_ns,
        )
        # All rings of the thread, oldest first: this one, and those beside it.
        self.together: list[Ring] = [] if beside is None else beside.together
        self.together.append(self)
        later = later_opcodes or rules.later_opcodes
        disabled = bool(setup.flags & SETUP_R_DISABLED)
        self.restrictions = restrictions or Restrictions(disabled=disabled)
        self._checks = SqeChecks(
            rules,
            setup.flags,
            len(queues),
            later_opcodes=later,
            settings=backend.settings,
            restrictions=self.restrictions,
        )
        self._submitter: Submitter = Submitter(
            rules,
            self._checks,
            memory,
            backend,
            self.cqs,
            self.requests_memory,
            live_requests=budgets.live_requests,
            observer=observer,
            tokens=Tokens() if beside is None else beside._submitter.tokens,
        )
        self._bpf: BpfRequests = BpfRequests(
            profile,
            rules,
            memory,
            self._memory.ctx,
            backend,
            self._submitter,
            self.cqs,
            runner,
            budgets=budgets,
            observer=observer,
            chooser=chooser,
            together=[] if beside is None else beside._bpf.together,
        )
        self._submitter.bpf = self._bpf
        if beside is not None:
            for ring in self.together:
                ring._bpf.loop = None  # compiled code would wait for its own ring only
        memory.before_close(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def mmap(self, offset: int, length: int) -> int:
        """Address of the ring memory at an mmap offset; RingError EINVAL (section 1.4)."""
        self._check_open()
        return self._memory.mmap(offset, length)

    @property
    def counts(self) -> Counts:
        """What the ring has counted so far."""
        return self.cqs.counts

    def in_flight(self) -> int:
        """Requests that live: submitted, and not at their last CQE yet."""
        return len(self._submitter.table.live)

    @property
    def parked(self) -> int:
        """BPF requests that wait, for CQEs or a futex."""
        return self._bpf.waiting

    @property
    def sq_array_offset(self) -> int:
        """sq_off.array: where the SQ's index array lies in the main ring."""
        return self._memory.array_offset

    def make_loop(self, budget_insns: int) -> KernelLoop | None:
        """What lets compiled code loop over this ring by itself; None where nothing does.

        The caller gives it the code. Only over the running kernel's ring, with extra CQs, and
        when nobody observes: events are Python's. Not over rings that requests notice, nor where
        programs store into memory of requests: what is pending would have to be issued before.
        """
        rules = self.profile.ring
        backend = self.backend
        if self.setup.flags & (NOTICED | SETUP_R_DISABLED):
            return None
        if rules is None or not rules.extra_cqs or rules.submit_returns_errno or rules.contexts:
            return None
        if self._observer is not None or self._filtered or len(self.together) > 1:
            return None
        if backend.name != "kernel":
            return None
        from pybpfvm.uring_backend.kernel import KernelBackend
        from pybpfvm.uring_backend.kernel.loop import KernelLoop

        if not isinstance(backend, KernelBackend):
            return None

        ctx_addr = self._memory.ctx.start
        try:
            loop = KernelLoop(
                rules,
                backend,
                self.cqs,
                self._submitter,
                self._runner.name,
                ctx_addr,
                budget_insns,
            )
        except InputError:
            return None  # no memory for its tables
        self._bpf.loop = self._loop = loop
        return loop

    # --- submission -------------------------------------------------------------------------

    def next_sqe(self) -> int | None:
        """Address of the next free SQE, zeroed, to be filled before `submit`; None: SQ full."""
        self._check_open()
        return self.sq.next_sqe()

    def queue(self, sqe: bytes) -> None:
        """Put a 64-byte SQE into the SQ; RingError EBUSY when there is no room."""
        if len(sqe) != SQE_BYTES:
            raise InputError(f"an SQE of {len(sqe)} bytes", remedy=f"it has {SQE_BYTES}")
        addr = self.next_sqe()
        if addr is None:
            raise RingError(
                errno.EBUSY, f"the SQ is full with {self.sq.entries} SQEs: submit first"
            )
        self.memory.write(addr, sqe)

    def submit(self, wait_nr: int = 0) -> int:
        """Submit what was queued and run task work; how many SQEs were consumed.

        With `wait_nr`, then wait as `enter` does. A program's Trap, and RingHang, arrive here;
        the ring can be used or closed afterwards.
        """
        self._check_open()
        self.restrictions.enter()
        return self.enter(self.sq.publish(), wait_nr)

    @uninterrupted
    @in_turn
    def enter(self, to_submit: int, min_complete: int = 0) -> int:
        """io_uring_enter: submit, run task work, wait for `min_complete` CQEs on CQ 0.

        `min_complete` is clamped to the size of CQ 0, and a TIMEOUT that ends anywhere ends the
        wait early. How many SQEs were consumed.
        """
        self._begin_call()
        self.restrictions.enter()
        consumed = self._submitter.take(self.sq, to_submit)
        self._work()
        if min_complete > 0 and consumed == min(to_submit, U32):
            wanted = min(min_complete, self.setup.cqs[0])
            timeouts = self._submitter.timeouts_ended
            self._wait(
                lambda: (
                    self.cqs.queues[0].count() >= wanted
                    or self._submitter.timeouts_ended != timeouts
                ),
                lambda: wait_line(_USER, wanted, 0, self.cqs),
                None,
                0,
                wanted,
            )
        return consumed

    # --- completion -------------------------------------------------------------------------

    @uninterrupted
    @in_turn
    def wait_cqes(self, wait_nr: int = 1, timeout_ns: int | None = None, cq: int = 0) -> int:
        """Wait until a CQ holds `wait_nr` CQEs, running programs; how many it holds then.

        Fewer only after `timeout_ns` of the backend's clock (None: no timeout), or on CQ 0 when
        it is smaller than `wait_nr`. Programs that want to run at once, over and over, are left
        queued at that time; with a timeout of 0 they run as in `submit`. Nothing is reaped. Like
        liburing, this waits again after a TIMEOUT's early wake-up; waiting on other CQs is a
        convenience without a kernel part.
        Raises RingHang when the CQEs can never come.
        """
        self._begin_call()
        self.restrictions.enter()
        queue = self._queue(cq)
        wanted = min(wait_nr, queue.entries) if cq == 0 else wait_nr
        deadline = None if timeout_ns is None else self.backend.now_ns() + timeout_ns
        self._wait(
            lambda: queue.count() >= wanted,
            lambda: wait_line(_USER, wanted, cq, self.cqs),
            deadline,
            cq,
            wanted,
        )
        return queue.count()

    @uninterrupted
    @in_turn
    def run_until_idle(self, timeout_ns: int | None = None) -> bool:
        """Let everything that can happen happen; parked requests may remain.

        False when `timeout_ns` of the backend's clock, or without one the idle timeout or
        another of the budgets, ended it while something was still in flight.
        """
        self._begin_call()
        deadline = None if timeout_ns is None else self.backend.now_ns() + timeout_ns
        return self._until(lambda: False, deadline, 0) is _Stop.STUCK

    def ready(self, cq: int = 0) -> int:
        """How many CQEs a CQ holds."""
        return self._queue(cq).count()

    def cq_entries(self, cq: int = 0) -> int:
        """How many CQEs a queue can hold."""
        return self._queue(cq).entries

    def peek(self, cq: int = 0, index: int = 0) -> Cqe | None:
        """The CQE `index` places behind the oldest one; it stays."""
        raw = self._queue(cq).peek(index)
        return None if raw is None else Cqe.unpack(raw)

    def reap(self, cq: int = 0) -> Cqe | None:
        """The oldest CQE of a CQ, removed; None when it is empty."""
        self._queue(cq)
        raw = self.cqs.reap(cq, _USER)
        return None if raw is None else Cqe.unpack(raw)

    @property
    def cq_overflow(self) -> int:
        """CQEs that were lost, over all CQs."""
        self._check_open()
        return self.cqs.overflow

    @property
    def sq_flags(self) -> int:
        """The SQ flags word (SQ_CQ_OVERFLOW while CQ 0 has a backlog)."""
        self._check_open()
        return self.sq.flags

    @property
    def live(self) -> Mapping[int, Request]:
        """Requests that are not over, by token."""
        return self._submitter.table.live

    def _queue(self, cq: int) -> CompletionQueue:
        self._check_open()
        if not 0 <= cq < len(self.cqs):
            raise RingError(errno.EINVAL, f"CQ {cq} of a ring with {len(self.cqs)} CQs")
        return self.cqs.queues[cq]

    # --- registration -----------------------------------------------------------------------

    @in_turn
    def register_restrictions(self, rows: Sequence[Row]) -> None:
        """IORING_REGISTER_RESTRICTIONS (see restrictions). Raises RingError."""
        self._check_open()
        self.restrictions.command(Register.RESTRICTIONS)
        self.restrictions.register(rows, self._checks.last_opcode)

    @in_turn
    def enable(self) -> None:
        """IORING_REGISTER_ENABLE_RINGS. Raises RingError EBADFD."""
        self._check_open()
        self.restrictions.enable()

    @uninterrupted
    @in_turn
    def register_bpf(self, programs: Sequence[int | None], user_bytes: Sequence[int] = ()) -> None:
        """IORING_REGISTER_BPF: numbers that `runner` knows; None or -1 leaves a slot empty.

        `user_bytes`: by slot, how many bytes of memory shared with programs the `user_data` of its
        requests must point to (iouring-x). Waits until no request is in flight. Raises RingError
        (section 1.5).
        """
        self._begin_call()
        self.restrictions.command(REGISTER_BPF)
        if not 0 < len(programs) <= MAX_PROGRAMS:
            raise RingError(errno.EINVAL, f"{len(programs)} programs, 1 to {MAX_PROGRAMS} can be")
        self._quiesce()
        if self._checks.programs is not None:
            raise RingError(errno.EBUSY, "programs are already registered")
        table: list[int | None] = []
        for slot, program in enumerate(programs):
            if program is None or program == _EMPTY_SLOT:
                table.append(None)
                continue
            refused = self._runner.check(program)
            if refused:
                raise RingError(abs(refused), f"slot {slot}: {program} is no program for this ring")
            table.append(program)
        self._checks.programs = tuple(table)
        self.requests_memory.user_bytes = tuple(user_bytes)

    @uninterrupted
    @in_turn
    def unregister_bpf(self) -> None:
        """IORING_UNREGISTER_BPF; waits like `register_bpf`.

        A parked request is not woken by this: if no CQE can come, RingHang names it.
        """
        self._begin_call()
        self.restrictions.command(UNREGISTER_BPF)
        self._quiesce()
        if self._checks.programs is None:
            raise RingError(errno.ENXIO, "no programs are registered")
        self._checks.programs = None

    @uninterrupted
    @in_turn
    def register_contexts(self, contexts: Sequence[Context]) -> None:
        """What requests may name as their context (docs/abi-x.md); waits until no request is in
        flight. Raises RingError: EINVAL, EBUSY, EFAULT for memory that programs can not write."""
        self._begin_call()
        rules = self.profile.ring
        if rules is None or not rules.contexts:
            raise RingError(errno.EINVAL, f"requests of {self.profile.name} name no memory")
        if not 0 < len(contexts) <= MAX_CONTEXTS:
            raise RingError(errno.EINVAL, f"{len(contexts)} contexts, 1 to {MAX_CONTEXTS} can be")
        self._quiesce()
        if self.requests_memory.registered:
            raise RingError(errno.EBUSY, "contexts are already registered")
        self.requests_memory.register(contexts)

    @uninterrupted
    @in_turn
    def unregister_contexts(self) -> None:
        """Take `register_contexts` back; waits like it. Raises RingError ENXIO."""
        self._begin_call()
        self._quiesce()
        if not self.requests_memory.registered:
            raise RingError(errno.ENXIO, "no contexts are registered")
        self.requests_memory.unregister()

    @in_turn
    def put_filter(self, filter_: RequestFilter) -> None:
        """Requests pass this filter from now on; compiled code loops over the ring no more."""
        self._check_open()
        self._filtered = True
        self._bpf.loop = None
        self._submitter.gate.put(filter_)

    @in_turn
    def register_files(self, fds: Sequence[int]) -> None:
        """IORING_REGISTER_FILES; -1 leaves a slot empty. Raises RingError."""
        self.restrictions.command(Register.FILES)
        self._registered("register_files", self._open_backend().register_files(fds))

    @in_turn
    def update_files(self, offset: int, fds: Sequence[int]) -> int:
        """IORING_REGISTER_FILES_UPDATE; how many were updated. Raises RingError."""
        self.restrictions.command(Register.FILES_UPDATE)
        return self._registered("update_files", self._open_backend().update_files(offset, fds))

    @in_turn
    def unregister_files(self) -> None:
        """IORING_UNREGISTER_FILES. Raises RingError."""
        self.restrictions.command(Register.UNREGISTER_FILES)
        self._registered("unregister_files", self._open_backend().unregister_files())

    @in_turn
    def register_buffers(self, buffers: Sequence[tuple[int, int]]) -> None:
        """IORING_REGISTER_BUFFERS with (user address, length) pairs. Raises RingError."""
        self.restrictions.command(Register.BUFFERS)
        self._registered("register_buffers", self._open_backend().register_buffers(buffers))

    @in_turn
    def unregister_buffers(self) -> None:
        """IORING_UNREGISTER_BUFFERS. Raises RingError."""
        self.restrictions.command(Register.UNREGISTER_BUFFERS)
        self._registered("unregister_buffers", self._open_backend().unregister_buffers())

    @in_turn
    def register_buffer_ring(self, addr: int, entries: int, group: int, flags: int = 0) -> None:
        """IORING_REGISTER_PBUF_RING of a ring in user memory. Raises RingError."""
        self.restrictions.command(Register.PBUF_RING)
        result = self._open_backend().register_buffer_ring(addr, entries, group, flags)
        self._registered("register_buffer_ring", result)

    @in_turn
    def unregister_buffer_ring(self, group: int) -> None:
        """IORING_UNREGISTER_PBUF_RING. Raises RingError."""
        self.restrictions.command(Register.UNREGISTER_PBUF_RING)
        result = self._open_backend().unregister_buffer_ring(group)
        self._registered("unregister_buffer_ring", result)

    @in_turn
    def update_buffers(self, offset: int, buffers: Sequence[tuple[int, int]]) -> int:
        """IORING_REGISTER_BUFFERS_UPDATE; how many were updated. Raises RingError."""
        self.restrictions.command(Register.BUFFERS_UPDATE)
        return self._registered(
            "update_buffers", self._open_backend().update_buffers(offset, buffers)
        )

    @in_turn
    def register_eventfd(self, fd: int) -> None:
        """IORING_REGISTER_EVENTFD: an eventfd of the world counts the CQEs of all CQs from now
        on. Raises RingError EBUSY; InputError for another descriptor."""
        self.restrictions.command(Register.EVENTFD)
        world = self._open_backend().world
        if self.cqs.signal is not None or self._eventfd_async:
            raise RingError(errno.EBUSY, "an eventfd is already registered")
        world.signal(fd, 0)
        self.cqs.signal = lambda count: world.signal(fd, count)

    @in_turn
    def register_eventfd_async(self, fd: int) -> None:
        """IORING_REGISTER_EVENTFD_ASYNC: an eventfd of the world counts what workers of the kernel
        end: never what programs post. Raises RingError."""
        self.restrictions.command(Register.EVENTFD_ASYNC)
        settings = self._open_backend().settings
        if self.cqs.signal is not None:
            raise RingError(errno.EBUSY, "an eventfd is already registered")
        self._registered("register_eventfd_async", settings.register_eventfd_async(fd))
        self._eventfd_async = True

    @in_turn
    def unregister_eventfd(self) -> None:
        """IORING_UNREGISTER_EVENTFD. Raises RingError ENXIO."""
        self.restrictions.command(Register.UNREGISTER_EVENTFD)
        self._check_open()
        if self._eventfd_async:
            self.backend.settings.unregister_eventfd_async()
            self._eventfd_async = False
            return
        if self.cqs.signal is None:
            raise RingError(errno.ENXIO, "no eventfd is registered")
        self.cqs.signal = None

    def _open_backend(self) -> Backend:
        self._check_open()
        return self.backend

    def _registered(self, what: str, result: int) -> int:
        if result < 0:
            raise RingError(-result, f"{what} was refused")
        return result

    def _quiesce(self) -> None:
        live = self._submitter.table.live
        self._bpf.dying = True
        try:
            self._wait(
                lambda: not live,
                lambda: f"registration waits until {len(live)} request(s) have completed",
                None,
                0,
                0,
            )
        finally:
            self._bpf.dying = False

    # --- the ring as a running program sees it (helpers.context.RingPort) -------------------

    def bpf_submit(self, sqe: bytes) -> int:
        """Queue the 64-byte SQE; 1 accepted, 0 bad (an error CQE tells), -errno. v1: 0, -errno."""
        return self._submitter.submit_from_program(sqe, self._program())

    def bpf_emit(self, cq_idx: int, user_data: int, res: int, flags: int) -> int:
        """Post a CQE; 0, -EINVAL (no such CQ) or -ENOMEM (it was dropped)."""
        origin = self._program()
        if not 0 <= cq_idx < len(self.cqs.queues):
            return -errno.EINVAL
        if not self.cqs.post(cq_idx, user_data, res, flags, origin):
            return -errno.ENOMEM
        self._submitter.fruits += cq_idx == 0
        self._submitter.settle()
        return 0

    def bpf_reap(self, cq_idx: int) -> bytes | int:
        """The oldest CQE of a queue (its first 16 bytes; removed), -ENOENT or -EINVAL."""
        by = self._program()
        if not 0 <= cq_idx < len(self.cqs.queues):
            return -errno.EINVAL
        raw = self.cqs.reap(cq_idx, by)
        return -errno.ENOENT if raw is None else raw[:CQE_BYTES]

    def bpf_requeue(self, source: int, target: int, most: int) -> int:
        """Let requests that wait on CQ `source` wait on CQ `target`, `most` at the most, or the
        oldest behind the open chain (LINK); how many did, or -EINVAL."""
        self._program()
        known = len(self.cqs)
        if source >= known or (target >= known and target != LINK) or source == target:
            return -errno.EINVAL
        if target == LINK:
            return self._submitter.link_waiting(source)
        return self._bpf.requeue(source, target, most)

    def _program(self) -> str:
        current = self._bpf.current
        if current is None:
            raise InternalError("a ring helper was called outside a run")
        return self._runner.name(current.program)

    # --- progress ---------------------------------------------------------------------------

    def _begin_call(self) -> None:
        self._check_open()
        if self._bpf.current is not None:
            raise InputError("the ring is running a program", remedy="call it after the run")
        if self._bpf.dying:
            raise RingError(errno.ENXIO, "another thread registers programs, or closes the ring")
        for ring in self.together:
            ring._bpf.begin_call()
        self._submitter.drain()
        self.cqs.flush_backlog()
        self._submitter.settle()

    def _work(self, deadline_ns: int | None = None) -> None:
        self._submitter.drain()
        self._bpf.run_all(deadline_ns)

    @property
    def _beside(self) -> list[Ring]:
        return [ring for ring in self.together if ring is not self]

    def _until(
        self, done: Callable[[], bool], deadline_ns: int | None, cq: int, *, hopes: bool = False
    ) -> _Stop:
        """Work until `done`, which looks at `cq`, or whatever else ends it; `deadline_ns` is of
        the backend's clock. `hopes`: where nothing in flight can go on, for other threads."""
        try:
            return self._until_done(done, deadline_ns, cq, hopes=hopes)
        finally:
            if self._loop is not None:
                self._loop.waits_no_more()

    def _until_done(
        self, done: Callable[[], bool], deadline_ns: int | None, cq: int, *, hopes: bool
    ) -> _Stop:
        beside = self._beside
        idle_ns = self.budgets.idle_timeout_ns
        patience_ns = idle_ns
        began = last_event = time.monotonic_ns()
        # Without time to wait this looks once: as at a submission, programs run as they like.
        polls = deadline_ns is not None and deadline_ns <= self.backend.now_ns()
        end_ns = self.budgets.end_ns
        for _ in range(self.budgets.max_events):
            if end_ns is not None and time.monotonic_ns() >= end_ns:
                raise RingHang("the budget of time is used up", by_clock=True)
            if self._loop is not None:
                left_ns = None if deadline_ns is None else deadline_ns - self.backend.now_ns()
                self._loop.waits(cq, left_ns)
            for ring in beside:  # what it has to run is there before anything runs
                ring._submitter.drain()
            self._work(None if polls else deadline_ns)
            for ring in beside:
                ring._work(None if polls else deadline_ns)
            if done():
                return _Stop.DONE
            breathe()
            # The deadline came while programs ran.
            if self._bpf.queued or any(ring._bpf.queued for ring in beside):
                return _Stop.LATE
            if not any(ring.backend.can_progress() for ring in self.together):
                if any(ring._submitter.drain() for ring in self.together):
                    continue
                if not (hopes and self.turns.shared):
                    return _Stop.STUCK
            if deadline_ns is not None:
                left_ns = deadline_ns - self.backend.now_ns()
                if left_ns <= 0:
                    return _Stop.LATE
                self._rest(left_ns)
            elif time.monotonic_ns() - began > self.budgets.wall_ns:
                return _Stop.LONG
            elif self._rest(patience_ns):
                last_event = time.monotonic_ns()
                patience_ns = idle_ns
            elif time.monotonic_ns() - last_event >= idle_ns:
                return _Stop.IDLE
            else:
                patience_ns *= 2  # the clock is virtual: let more of it pass
        return _Stop.SPENT

    def _rest(self, time_ns: int) -> bool:
        """Let the backend wait; True when it, or one beside it, has an event, or another thread had
        a turn."""
        beside = self._beside
        if not self._sleeps or (threading.active_count() == 1 and not beside):
            return self.backend.wait(time_ns)
        end_ns = time.monotonic_ns() + time_ns
        while time_ns > 0:
            slice_ns = min(time_ns, SLICE_NS)
            if not self.backend.can_progress():
                time.sleep(slice_ns / 1e9)
            elif self.backend.wait(slice_ns):
                return True
            if any(ring.backend.wait(0) for ring in beside):
                return True
            if self.turns.let_others():
                self._check_open()
                return True
            breathe()
            time_ns = end_ns - time.monotonic_ns()
        return False

    @property
    def _sleeps(self) -> bool:
        """Whether time passes while the backend waits, so that other threads may do something."""
        return self.backend.name == "kernel"

    def _wait(
        self,
        done: Callable[[], bool],
        waiter: Callable[[], str],
        deadline_ns: int | None,
        cq: int,
        wanted: int,
    ) -> None:
        """Work until `done` or the deadline; RingHang when neither can come. The event tells
        that so many CQEs are `wanted`."""
        told = None if done() else self._observer
        if told is not None:
            told(HostWaits(self.backend.now_ns(), cq, wanted))
        stop = self._until(done, deadline_ns, cq, hopes=self._sleeps)
        if stop is _Stop.IDLE:
            seconds = self.budgets.idle_timeout_ns / 1e9
            raise self._hang(f"no event for {seconds:g} s", waiter())
        if stop is _Stop.SPENT:
            events = self.budgets.max_events
            raise self._hang(f"the budget of {events:,} waits in one call is used up", waiter())
        if stop is _Stop.LONG:
            seconds = self.budgets.wall_ns / 1e9
            reason = f"the budget of {seconds:g} s for one call is used up"
            raise self._hang(reason, waiter(), by_clock=True)
        if stop is _Stop.STUCK and deadline_ns is None:
            raise self._hang("nothing in flight can complete", waiter())
        if told is not None:
            held = self.cqs.queues[cq].count()
            told(HostWoke(self.backend.now_ns(), cq, held, stop is not _Stop.DONE))

    def _hang(self, reason: str, waiter: str, *, by_clock: bool = False) -> RingHang:
        waiters = (line for ring in self.together for line in ring._bpf.waiters())
        return RingHang(reason, (waiter, *waiters), by_clock=by_clock)

    # --- the end ----------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise RingError(errno.ENXIO, "the ring is closed")

    @uninterrupted
    @in_turn
    def close(self) -> None:
        """End every request (parked BPF requests with -EAGAIN, section 3.6), free everything.

        Closing twice is fine.
        """
        if self._closed:
            return
        if self._bpf.current is not None:
            raise InputError("the ring is running a program", remedy="close it after the run")
        try:
            self._bpf.dying = True
            self._bpf.begin_call()
            self._bpf.wake_dying()
            self._work()
            self._submitter.cancel_external()
            self._work()
            self._submitter.end_everything()
        finally:
            self._closed = True
            self.together.remove(self)
            self._bpf.together.remove(self._bpf)
            self.backend.close()
            if self._loop is not None:
                self._loop.close()
            self.sq.release()
            for queue in self.cqs.queues:
                queue.release()
            self._memory.free()
            self.requests_memory.unregister()
            self.memory.forget_before_close(self.close)

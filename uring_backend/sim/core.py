"""The simulated ring's heart: batches, chains, drains, task work and the order of completions.

It follows mainline 6.18 step by step, because the order in which things become visible is part
of what programs see:

    submit      each SQE is prepared, then issued, or added to the open chain, or put behind a drain
    flush       what completed is posted in order; then links move on, drains are looked at
    task work   successors in chains, cancelled requests, woken requests; FIFO, after the batch

A request that can not be done without waiting goes to a worker (a random latency from the seed),
waits for its file, or for an alarm. `perform` is the one place between preparing a request and
its result, `complete` the one where an operation's result becomes the request's.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from random import Random
from typing import Final

from pybpfvm.errors import InternalError
from pybpfvm.memory import AddressSpace
from pybpfvm.uring_backend.abi import (
    CQE_F_MORE,
    CQE_F_NOTIF,
    NEVER_FAILS,
    OP_LAST,
    OPS,
    POLLED_OPS,
    POLLERR,
    POLLHUP,
    SETUP_IOPOLL,
    SQE_ASYNC,
    SQE_BUFFER_SELECT,
    SQE_CQE_SKIP_SUCCESS,
    SQE_FIXED_FILE,
    SQE_IO_DRAIN,
    SQE_VALID_FLAGS,
    FdUse,
    Op,
    OpInfo,
    Sqe,
)
from pybpfvm.uring_backend.base import (
    EXTERNAL,
    Completion,
    Denied,
    Event,
    Message,
    PollGate,
    Started,
)
from pybpfvm.uring_backend.choices import Chooser, Footprint, Race
from pybpfvm.uring_backend.faults import Fails, Harm, Late, Reset, Short
from pybpfvm.uring_backend.sim.buffers import BufferGroups
from pybpfvm.uring_backend.sim.chances import chances
from pybpfvm.uring_backend.sim.clock import Clock
from pybpfvm.uring_backend.sim.descriptors import (
    FdTable,
    Node,
    OpenFile,
    WaitQueue,
    Woken,
)
from pybpfvm.uring_backend.sim.injector import Injector
from pybpfvm.uring_backend.sim.request import Issue, Refused, Request, State
from pybpfvm.uring_backend.sim.resources import RegisteredBuffers, SlotTable
from pybpfvm.uring_backend.sim.tcp import SocketWake, TcpSocket
from pybpfvm.uring_backend.sim.timers import Timers
from pybpfvm.uring_backend.sim.vfs import RegularFile
from pybpfvm.uring_backend.sim.world import SimWorld

Prepare = Callable[["Core", Request], Issue]
"""Checks a request's fields (raising Refused) and says how to perform it."""

_WORKER_NS: Final = (2_000, 60_000)  # how long a worker takes to get to a request
_BEGUN: Final = 0.5  # of those that a cancellation finds meanwhile
_EXTERNAL_INFO: Final = OpInfo()
_BLOCK_WORKERS: Final = frozenset({Op.SPLICE, Op.TEE})  # mainline starts no LINK_TIMEOUT for them
_INTERRUPTED: Final = -512  # ERESTARTSYS, which mainline lets through from SPLICE and TEE


class Core:
    """Requests in flight. `prepare` maps each supported opcode to its checks."""

    def __init__(
        self,
        memory: AddressSpace,
        fds: FdTable,
        clock: Clock,
        world: SimWorld,
        prepare: Mapping[Op, Prepare],
        seed: int,
        injector: Injector | None = None,
        chooser: Chooser | None = None,
    ) -> None:
        self.memory = memory
        self.fds = fds
        self.clock = clock
        self.world = world
        self.slots = SlotTable(fds, self._tell_tag)
        self.buffers = RegisteredBuffers(memory, self._tell_tag)
        self.groups = BufferGroups(memory)
        self.timers = Timers(self)
        self.live: dict[int, Request] = {}
        self.notifying: dict[
            int, Request
        ] = {}  # over, but for the notification of a zero-copy send
        self.polled: dict[Request, None] = {}  # waiting for their file, oldest first
        self.outbox: deque[Event] = deque()
        self.parked: dict[Request, Callable[[], None]] = {}  # and how each gives up waiting
        self.working: Request | None = None  # what a worker performs at this moment
        self.denied: Denied | None = None  # filters of requests
        self.gate: PollGate | None = None  # whether a wake counts
        self.setup_flags = 0  # of abi.NOTICED
        self.personalities: set[int] = set()  # what Sqe.personality may be, beside 0
        self.worker_signal: Callable[[], None] | None = None  # told what workers end
        self.posted = 0  # CQEs so far, those of skipped successes not counted
        self._prepare = prepare
        self._injector = injector
        self._chooser = clock.chooser = chooser
        self._random = Random(seed)
        self._work: deque[Callable[[], None]] = deque()
        self._completed: list[Request] = []
        self._chain: list[Request] = []  # the open chain of the batch being submitted
        self._deferred: list[Request] = []  # behind a drain
        self._deferred_count = 0  # the same, with the members of their chains
        self._aside: set[Request] = set()  # those of `submit_aside` that live
        self._drain_active = False
        self._drain_next = False
        self._drain_disabled = False

    @property
    def opcodes(self) -> Collection[Op]:
        """What this ring performs."""
        return self._prepare.keys()

    @property
    def polls(self) -> bool:
        """Whether files are polled for completions (SETUP_IOPOLL)."""
        return bool(self.setup_flags & SETUP_IOPOLL)

    # --- submission -------------------------------------------------------------------------

    def submit(self, sqes: list[Sqe]) -> int:
        """One io_uring_enter: how many SQEs were consumed."""
        consumed = 0
        for sqe in sqes:
            consumed += 1
            if not self._submit_one(sqe):
                break
        if self._chain:  # a chain that the batch leaves open is closed by its end
            head = self._chain[0]
            self._chain = []
            self._start_slowly_or_not(head)
        self.flush()
        self.run()
        return consumed

    def submit_aside(self, sqe: Sqe) -> None:
        """Issue a request of which drains know nothing."""
        request = self._admit(sqe)
        self._aside.add(request)
        try:
            request.issue = self._prepare[Op(sqe.opcode)](self, request)
        except Refused as refused:
            self.complete(request, -refused.errno)
        else:
            self.issue(request)
        self.flush()
        self.run()

    def _admit(self, sqe: Sqe) -> Request:
        if sqe.user_data in self.live or sqe.user_data in self.notifying:
            raise InternalError(f"token {sqe.user_data} is already in use")
        request = Request(sqe)
        self.live[request.token] = request
        return request

    def _submit_one(self, sqe: Sqe) -> bool:
        """False: a bad SQE, not followed by others of its chain, ends the batch."""
        request = self._admit(sqe)
        chain = self._chain
        try:
            self._init(request)
        except Refused as refused:
            request.fail()
            request.res = -refused.errno
            if chain and not chain[0].failed:
                chain[0].fail()
                chain[0].res = -errno.ECANCELED
            self._append(request)
            if request.linked:
                return True
            head, self._chain = self._chain[0], []
            self._fall_back(head)
            return False
        if chain:
            self._append(request)
            if not request.linked:
                head, self._chain = chain[0], []
                self._start_slowly_or_not(head)
        elif request.linked:
            self._append(request)
        else:
            self._start_slowly_or_not(request)
        return True

    def _append(self, request: Request) -> None:
        if self._chain:
            self._chain[-1].next = request
        self._chain.append(request)

    def chain_tail(self) -> Request | None:
        """The last request of the open chain, for LINK_TIMEOUT."""
        return self._chain[-1] if self._chain else None

    def _init(self, request: Request) -> None:
        """The checks common to all opcodes, in the kernel's order, then the opcode's own."""
        sqe = request.sqe
        external = sqe.opcode == EXTERNAL
        if sqe.opcode >= OP_LAST and not external:
            raise Refused(errno.EINVAL)
        info = _EXTERNAL_INFO if external else OPS[Op(sqe.opcode)]
        if sqe.flags & ~SQE_VALID_FLAGS:
            raise Refused(errno.EINVAL)
        if sqe.flags & SQE_BUFFER_SELECT and not info.buffer_select:
            raise Refused(errno.EOPNOTSUPP)
        if self.polls and not external and sqe.opcode not in POLLED_OPS:
            raise Refused(errno.EINVAL)
        if sqe.flags & SQE_CQE_SKIP_SUCCESS:
            self._drain_disabled = True
        if sqe.flags & SQE_IO_DRAIN:
            if self._drain_disabled:
                raise Refused(errno.EOPNOTSUPP)
            self._drain_active = True
            if self._chain:  # then the whole chain drains, and what follows it
                self._chain[0].drain = self._chain[0].through_worker = True
                self._drain_next = True
        if self._drain_active:
            request.through_worker = True
        if self._drain_next and not self._chain:
            self._drain_next = False
            self._drain_active = True
            request.drain = request.through_worker = True
        if sqe.ioprio and not info.ioprio:
            raise Refused(errno.EINVAL)
        if sqe.personality and sqe.personality not in self.personalities:
            raise Refused(errno.EINVAL)
        if external:
            request.issue = lambda: self._start_external(request)
        else:
            request.issue = self._prepare[Op(sqe.opcode)](self, request)
            if self.denied is not None and self.denied(request.token):
                raise Refused(errno.EACCES)

    def _start_slowly_or_not(self, head: Request) -> None:
        """Issue now, unless the head failed, waits for a drain, or wants a worker."""
        if head.failed or head.through_worker:
            self._fall_back(head)
        else:
            self.issue(head)

    def _fall_back(self, head: Request) -> None:
        if head.failed:
            head.hardlink = False
            head.link = True
            self._record(head)
        elif self._drain_active:
            self._defer(head)
        else:
            self.to_worker(head)

    # --- drains -----------------------------------------------------------------------------

    def _defer(self, head: Request) -> None:
        """Queue behind (or as) a drain; a drain waits until nothing else is in flight."""
        self._deferred.append(head)
        self._deferred_count += _chain_length(head)
        self._look_at_drains()
        if not head.drain and not self._deferred:
            self._drain_active = False

    def _look_at_drains(self) -> None:
        drain_seen = False
        first = True
        while self._deferred:
            head = self._deferred[0]
            drain_seen |= head.drain
            counted = len(self.live) - len(self._aside)
            if (drain_seen or first) and counted != self._deferred_count:
                return
            del self._deferred[0]
            self._deferred_count -= _chain_length(head)
            self.later(lambda head=head: self._resume(head))  # type: ignore[misc]
            first = False

    def _resume(self, request: Request) -> None:
        if request.state is State.DONE:
            return
        if request.through_worker:
            self.to_worker(request)
        else:
            self.issue(request)

    # --- performing -------------------------------------------------------------------------

    def issue(self, request: Request) -> None:
        """Perform a prepared request as far as that goes without waiting."""
        request.state = State.QUEUED
        found = False
        try:
            self._find_file(request)
            found = True
            request.errors_pass = request.sqe.opcode in NEVER_FAILS
            harm = self._harm(request)
            if isinstance(harm, Late):
                self.to_worker(request, harm.delay_ns)
                return
            if isinstance(harm, Fails) and not _done_all_the_same(request):
                raise Refused(harm.errno)
            result = self.perform(request)
            if isinstance(harm, Fails):
                result = -harm.errno
        except Refused as refused:
            if refused.errno == errno.EAGAIN and self._wait_for_file(request):
                self.groups.wait(request)
                self._arm_link_timeout(request)
                return
            request.cqe_flags |= self.groups.spend(request, in_worker=request is self.working)
            result = -refused.errno
        if result is None:
            if request.state is not State.WORKER:
                self._arm_link_timeout(request)
        else:
            worker = request is self.working or request.sqe.flags & SQE_ASYNC
            request.worker_ends = found and bool(worker)
            self.complete(request, result, failed=False if request.errors_pass else None)

    def perform(self, request: Request) -> int | None:
        """Carry out a prepared request, each try of it: its result, None when that comes later.

        Refused is its failure (EAGAIN: try again when its file is ready). Every opcode passes
        here; what faults are to come to it is decided just before (`_harm`).
        """
        assert request.issue is not None
        if self._chooser is not None:
            self._chooser.performs(request.token, _touched(request))
        return request.issue()

    def _harm(self, request: Request) -> Harm | None:
        """The fault that comes to a request at its first try, if any."""
        if self._injector is None or request.tried or request.sqe.opcode == EXTERNAL:
            return None
        request.tried = True
        possible = chances(request, self.fds)
        if possible is None:
            return None
        if self._chooser is not None and request is self.working:
            possible = replace(possible, late=False)  # it is: when it came was chosen
        harm = self._injector.at(Op(request.sqe.opcode), request.token, possible)
        if isinstance(harm, Short):
            request.most_bytes = harm.most_bytes
        elif isinstance(harm, Reset):
            connection = self.file_of(request).node
            assert isinstance(connection, TcpSocket)
            connection.break_off()
        return harm

    def _find_file(self, request: Request) -> None:
        if request.file is not None or request.sqe.opcode == EXTERNAL:
            return
        if OPS[Op(request.sqe.opcode)].fd is not FdUse.FILE:
            return
        if request.sqe.flags & SQE_FIXED_FILE:
            slot = self.slots.find(request.sqe.fd)
            request.use(slot)
            request.file = slot.file.hold()
        else:
            request.file = self.fds.get(request.sqe.fd).hold()

    def file_of(self, request: Request) -> OpenFile:
        """The file of a request that needs one."""
        assert request.file is not None
        return request.file

    def to_worker(self, request: Request, delay_ns: int | None = None) -> None:
        """Hand over to a worker, which performs it a little later, or after `delay_ns`."""
        request.state = State.WORKER
        request.begun = delay_ns is not None
        if request.sqe.opcode not in _BLOCK_WORKERS:
            self._arm_link_timeout(request)
        if delay_ns is None:
            delay_ns = self._random.randint(*_WORKER_NS)
        start = self.clock.now_ns + delay_ns
        stream = None
        node = request.file.node if request.file else None
        if request.sqe.opcode in (Op.WRITE, Op.WRITEV, Op.WRITE_FIXED, Op.WRITEV_FIXED):
            node = node or self._peek_node(request)
            if isinstance(node, RegularFile):  # writes to one file keep their order
                start = max(start, node.busy_until_ns + 1)
                node.busy_until_ns = start
                stream = node
        self.clock.loosely(start, request.token, lambda: self._work_on(request), stream)

    def _peek_node(self, request: Request) -> Node | None:
        try:
            self._find_file(request)
        except Refused:
            return None  # the worker will find out and report it
        return request.file.node if request.file else None

    def _work_on(self, request: Request) -> None:
        if request.state is not State.WORKER:
            return  # forgotten in the meantime
        request.through_worker = False
        request.begun = True
        self.working = request
        self.issue(request)
        self.flush()
        self.working = None

    def block(self, request: Request, queue: WaitQueue) -> None:
        """A worker waits inside its request until `queue` is woken, and tries again."""
        request.state = State.WORKER
        request.queue = queue
        queue.add(request, lambda _: self._unblock(request))

    def _unblock(self, request: Request) -> None:
        if request.queue is not None:
            request.queue.remove(request)
            request.queue = None
            self.later(lambda: self._work_on(request))

    def takes_back(self, request: Request) -> bool:
        """Whether a cancellation comes before the worker that has the request begins: a race that
        the seed decides, or the chooser. If so the request ends as cancelled."""
        if request.begun or request is self.working:
            return False
        begun = self._random.random() < _BEGUN
        if self._chooser is not None:
            ends = Race(request.token, begun), Race(request.token, not begun)
            begun = ends[self._chooser.race(ends)].begun
        if begun:
            return False
        request.state = State.QUEUED
        self.cancel_later(request)
        return True

    def interrupt(self, request: Request) -> None:
        """A cancellation has found a request in a worker: one that blocks there gives up."""
        if request.state is State.WORKER and request.queue is not None:
            self.disarm_poll(request)
            self.later(lambda: self.complete(request, _INTERRUPTED))

    def park(self, request: Request, give_up: Callable[[], None]) -> None:
        """The request waits for something that is not a file; `give_up` forgets it there."""
        request.state = State.PARKED
        self.parked[request] = give_up

    def unpark(self, request: Request, result: int) -> None:
        """What a parked request waited for has come: it ends, from task work."""
        if self.parked.pop(request, None) is not None:
            self.later(lambda: self.complete(request, result))

    def try_parked(self, request: Request) -> None:
        """What a parked request waits for may have come."""
        if self.parked.pop(request, None) is not None:
            self.issue(request)

    def _wait_for_file(self, request: Request) -> bool:
        """Wait until the file is worth another try; False if that is no use or not wanted."""
        file = request.file
        if request.nowait or not request.wait_events or file is None or file.node.queue is None:
            return False
        self.arm_poll(request, lambda events: self._woken(request, events))
        request.was_polled = True
        if request.looks_first:
            request.looks_first = False
            self._retry(request)
        return True

    def _woken(self, request: Request, events: int) -> None:
        """A waker that names no events has mainline try again what waits for one try."""
        if events or request.multishot:
            if self._ready(request) and self._counts(request):
                self.retry_later(request)
        elif self._counts(request):
            self.retry_later(request)

    def _retry(self, request: Request) -> None:
        if self._ready(request):
            self.retry_later(request)

    def _ready(self, request: Request) -> bool:
        ready = self.file_of(request).node.poll() & (request.wait_events | POLLERR | POLLHUP)
        return bool(ready)

    def _counts(self, request: Request) -> bool:
        """Whether this wake is worth a try: where a program decides, it is asked."""
        if self.gate is None or not request.gated or request.woken:
            return True
        return self.gate(SocketWake(self.file_of(request).node))

    def _retry_now(self, request: Request) -> None:
        if request.state is State.POLLED:  # else it was cancelled in between
            self.disarm_poll(request)
            self.issue(request)

    def retry_later(self, request: Request) -> None:
        """What a polled request waits for has changed: try again, from task work."""
        if not request.woken:
            request.woken = True
            self.later(lambda: self._retry_now(request))

    def arm_poll(self, request: Request, woken: Woken) -> None:
        """Call `woken` whenever the request's file changes."""
        queue = self.file_of(request).node.queue
        assert queue is not None
        self.arm_poll_on(request, queue, woken)

    def arm_poll_on(self, request: Request, queue: WaitQueue, woken: Woken) -> None:
        """Call `woken` whenever `queue` is woken."""
        if request.sqe.opcode == Op.ACCEPT:
            queue.add_exclusive(
                request,
                woken,
                lambda: request.multishot or not request.woken,
                keeps_place=request.multishot,
            )
        else:
            queue.add(request, woken, keeps_place=request.multishot)
        request.queue = request.waited_on = queue
        request.state = State.POLLED
        request.woken = False
        self.polled[request] = None

    def disarm_poll(self, request: Request) -> None:
        """Stop waiting for the file."""
        self.polled.pop(request, None)
        if request.queue is not None:
            request.queue.remove(request)
            request.queue = None
        if request.state is State.POLLED:
            request.state = State.QUEUED

    def later(self, action: Callable[[], None]) -> None:
        """Queue task work."""
        self._work.append(action)

    def _start_external(self, request: Request) -> None:
        request.state = State.EXTERNAL
        request.starting = True
        self._completed.append(request)

    def finish_external(self, token: int, *, failed: bool) -> None:
        """The caller has performed an external request."""
        request = self.live.get(token)
        if request is None or request.state is not State.EXTERNAL or request.starting:
            raise InternalError(f"external request {token} has not started")
        if failed:
            request.fail()
        self._record(request)
        self.flush()

    def forget_external(self, token: int) -> None:
        """Cut an external request that has not started out of its chain; the rest is cancelled."""
        request = self.live.get(token)
        if request is None or request.sqe.opcode != EXTERNAL:
            raise InternalError(f"no external request {token}")
        if request.state is State.EXTERNAL or request in self._completed:
            raise InternalError(f"external request {token} has started")
        for head in self._deferred:
            if request in _members(head):
                self._deferred_count -= _chain_length(request)
        if request in self._deferred:
            self._deferred.remove(request)
        for other in self.live.values():
            if other.next is request:
                other.next = None
        self._cancel_chain(request)
        request.state = State.DONE
        del self.live[token]
        if self._drain_active:
            self._look_at_drains()

    # --- linked timeouts --------------------------------------------------------------------

    def _arm_link_timeout(self, request: Request) -> None:
        timeout = request.link_timeout
        if timeout is not None and timeout.state is State.QUEUED and request.next is timeout:
            self.timers.start_link_timeout(timeout, request)

    # --- completion -------------------------------------------------------------------------

    def complete(self, request: Request, res: int, *, failed: bool | None = None) -> None:
        """Give a request its final result. `failed`: whether a soft link breaks (res < 0)."""
        request.res = res
        if failed if failed is not None else res < 0:
            request.fail()
        self._record(request)

    def _record(self, request: Request) -> None:
        self.disarm_poll(request)
        if request.waited_on is not None:
            request.waited_on.forget_place(request)
            request.waited_on = None
        self._completed.append(request)

    def cancel_later(self, request: Request, res: int = -errno.ECANCELED) -> None:
        """End a request, from task work, as cancelled."""
        self.disarm_poll(request)
        if (give_up := self.parked.pop(request, None)) is not None:
            give_up()

        def end() -> None:
            request.cqe_flags = self.groups.consume(request, request.done_bytes)
            # What a transfer has moved before counts as its result.
            self.complete(request, request.done_bytes or res, failed=True)

        self.later(end)

    def rename(self, request: Request, token: int) -> None:
        """Give a live request another token."""
        if token in self.live and self.live[token] is not request:
            raise InternalError(f"token {token} is already in use")
        del self.live[request.token]
        request.token = token
        self.live[token] = request

    def post(self, request: Request, res: int, flags: int = 0) -> None:
        """A CQE of a multishot request that goes on."""
        self._emit(request, res, flags | CQE_F_MORE)
        self.timers.count(self.posted)

    def _tell_tag(self, tag: int) -> None:
        self.deliver(tag, 0, 0)

    def deliver(self, user_data: int, res: int, flags: int) -> None:
        """A CQE that no request of this ring posts: a MSG_RING's, or a tag's."""
        self.posted += 1
        self.outbox.append(Message(user_data, res, flags))
        self.timers.count(self.posted)

    def _emit(self, request: Request, res: int, flags: int, *, notified: bool = False) -> None:
        self.posted += 1
        self.outbox.append(Completion(request.token, res, flags, request.extra, notified))

    def flush(self) -> None:
        """Post what has completed, in order; then let links and drains move on."""
        while self._completed:
            batch, self._completed = self._completed, []
            for request in batch:
                if request.starting:
                    self.outbox.append(Started(request.token))
                elif request.sqe.opcode == EXTERNAL and request.state is State.EXTERNAL:
                    pass
                elif request.notification is not None and not request.taken_along:
                    self._emit(request, request.res, request.cqe_flags | CQE_F_MORE)
                elif not request.skip_cqe:
                    notified = request.notification is not None
                    self._emit(request, request.res, request.cqe_flags, notified=notified)
                if request.worker_ends and self.worker_signal is not None:
                    self.worker_signal()
            self.timers.count(self.posted)
            for request in batch:
                if request.starting:
                    request.starting = False
                else:
                    self._retire(request)
            if self._drain_active:
                self._look_at_drains()

    def _retire(self, request: Request) -> None:
        request.state = State.DONE
        del self.live[request.token]
        self._aside.discard(request)
        if request.notification is not None:
            self.notifying[request.token] = request
            self.later(lambda: self._notify(request))
        request.let_go()
        if request.sqe.opcode == Op.LINK_TIMEOUT:
            self.timers.stop(request)
        timeout = request.link_timeout
        if timeout is not None and request.next is timeout:
            self.timers.stop(timeout)
            request.next, timeout.next = timeout.next, None
            self.later(lambda: self._end_unneeded(timeout))
        if request.failed and not request.hardlink:
            self._cancel_chain(request)
        successor, request.next = request.next, None
        if successor is None:
            return
        if request is self.working:  # the worker goes on with the chain, before any task work
            self.working = successor
            self.issue(successor)
        else:
            self.later(lambda: self._resume(successor))

    def _notify(self, request: Request) -> None:
        """A zero-copy send's memory is free again."""
        del self.notifying[request.token]
        self._emit(request, request.notification or 0, CQE_F_NOTIF)
        self.timers.count(self.posted)

    def _end_unneeded(self, timeout: Request) -> None:
        timeout.res = -errno.ECANCELED
        self._record(timeout)

    def _cancel_chain(self, request: Request) -> None:
        member, request.next = request.next, None
        while member is not None:
            following, member.next = member.next, None
            if not member.failed:
                member.res = -errno.ECANCELED
            member.skip_cqe = request.skip_links
            member.taken_along = True
            self.later(lambda member=member: self._record(member))  # type: ignore[misc]
            member = following

    # --- time -------------------------------------------------------------------------------

    def run(self) -> None:
        """Do all task work there is."""
        self.flush()
        while self._work:
            batch, self._work = self._work, deque()
            for action in batch:
                action()
            self.flush()

    def close(self) -> None:
        """Forget every request; files are given back."""
        for request in self.live.values():
            self.disarm_poll(request)
            if (give_up := self.parked.pop(request, None)) is not None:
                give_up()
            request.let_go()
        self.live.clear()
        self._aside.clear()
        self.notifying.clear()
        self.slots.unregister()
        self.outbox.clear()
        self._work.clear()
        self._completed.clear()
        self._deferred.clear()

    def busy(self) -> bool:
        """Whether anything will still happen by itself."""
        return bool(self.outbox or self._work or self._completed) or (
            self.clock.next_ns() is not None
        )


# What these touch is their file, their memory and no more.
_ONE_FILE: Final = frozenset(
    (Op.READ, Op.READV, Op.READ_FIXED, Op.WRITE, Op.WRITEV, Op.WRITE_FIXED, Op.FSYNC)
)


def _touched(request: Request) -> object:
    """What a request reads or changes, for who asks which requests can change places."""
    alone = request.next is None and not request.linked and not request.drain
    if request.sqe.opcode == Op.NOP and alone:
        return None
    file = request.file
    if request.sqe.opcode in _ONE_FILE and file is not None and alone:
        return file.node if isinstance(file.node, RegularFile) else Footprint.ALL
    return Footprint.ALL


def _done_all_the_same(request: Request) -> bool:
    """A CLOSE that reports an error has closed."""
    return request.sqe.opcode == Op.CLOSE


def _members(head: Request) -> list[Request]:
    members = [head]
    while (following := members[-1].next) is not None:
        members.append(following)
    return members


def _chain_length(head: Request) -> int:
    return len(_members(head))

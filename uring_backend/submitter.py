"""From SQEs to the backend and back: validation, chains, steering, tokens, deferred completions.

abi/iouring-bpf-2021, sections 1.6, 3.3 and 3.5. Ordinary requests go to the backend with a token
for user_data and without cq_idx; what the ring performs itself (BPF requests, and requests that
name others by user_data, `performed.py`) is an EXTERNAL there when its place among others counts.
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING

from pybpfvm.errors import InternalError
from pybpfvm.events import Observer, RequestEnded, RequestStarted, SqeIssued
from pybpfvm.memory import AddressSpace, UserFault
from pybpfvm.profiles.base import RingRules
from pybpfvm.uring_backend.abi import (
    CQE_F_MORE,
    IOV_MAX,
    IOVEC,
    MAX_RW_COUNT,
    MSG_WAITALL,
    NO_EXTRA,
    SQE_ANY_LINK,
    SQE_BUFFER_SELECT,
    SQE_CQE_SKIP_SUCCESS,
    SQE_IO_DRAIN,
    SQE_IO_HARDLINK,
    Op,
    Sqe,
)
from pybpfvm.uring_backend.base import (
    EXTERNAL,
    OTHER_RING,
    UNKNOWN_OPCODE,
    Backend,
    Completion,
    Message,
    Started,
)
from pybpfvm.uring_backend.checks import SqeChecks
from pybpfvm.uring_backend.contexts import RequestMemory
from pybpfvm.uring_backend.cq import CompletionQueues
from pybpfvm.uring_backend.filtering import FilterGate, refusal
from pybpfvm.uring_backend.performed import Performed, is_performed
from pybpfvm.uring_backend.requests import (
    DIRECT_TOKENS,
    BpfRequest,
    DirectRequests,
    Request,
    RequestTable,
    Tokens,
    came_to_something,
)
from pybpfvm.uring_backend.sq import SubmissionQueue

if TYPE_CHECKING:
    from pybpfvm.uring_backend.bpf import BpfRequests

_HEAD = struct.Struct("<BB30xQ2xH4xH14x")  # opcode, flags, user_data, personality, cq_idx
_NO_TAIL = bytes(16)  # cq_idx and the pads, which a mainline ring would read as addr3
# For these the upper 48 bits of addr3 count, all 64 where there is no cq_idx.
_READS_ADDR3 = frozenset((Op.FUTEX_WAIT, Op.FUTEX_WAKE, Op.SETXATTR, Op.GETXATTR, Op.MSG_RING))
_DEFER_MOST = 32  # inline completions of a run are posted when so many have come together
_SHORT_IS_FAILURE = frozenset((Op.READ, Op.WRITE, Op.READ_FIXED, Op.WRITE_FIXED, Op.SPLICE, Op.TEE))
_VECTORS = frozenset((Op.READV, Op.WRITEV))
_MESSAGES = frozenset((Op.SEND, Op.RECV))
_USER = "user"


class Submitter:
    """Issues the SQEs of userspace and of programs, and posts what comes back."""

    def __init__(
        self,
        rules: RingRules,
        checks: SqeChecks,
        memory: AddressSpace,
        backend: Backend,
        cqs: CompletionQueues,
        requests_memory: RequestMemory,
        *,
        live_requests: int,
        observer: Observer | None,
        tokens: Tokens,
    ) -> None:
        self.tokens = tokens
        self._table = RequestTable()
        self.performed = Performed(self, backend, cqs)
        self.gate = FilterGate(backend, self._filtered_sqe, observer)
        self.bpf: BpfRequests  # set once by the ring: the two refer to each other
        self.direct: DirectRequests | None = None  # set by who lets compiled code issue requests
        self.activity = 0  # grows with everything the backend takes or reports
        self.fruits = 0  # grows with all that comes to something
        self.timeouts_ended = 0
        self._rules = rules
        self._checks = checks
        self._memory = memory
        self._backend = backend
        self._cqs = cqs
        self._requests_memory = requests_memory
        self._live_requests = live_requests
        self._observer = observer
        self._chain: list[Request] = []  # a program's open chain
        # Chains that a failure broke, of which members live: whether these post nothing.
        self._broken: dict[int, bool] = {}
        self._deferred: list[tuple[Request, int, int, tuple[int, int]]] = []
        self._drains = False  # whether a request ever drained: then places count
        self._inline_from: int | None = None  # requests from this token on complete inline

    @property
    def table(self) -> RequestTable:
        """All requests that live."""
        if self.direct is not None:
            self.direct.claim_all()
        return self._table

    # --- userspace ------------------------------------------------------------------------

    def take(self, sq: SubmissionQueue, limit: int) -> int:
        """Issue up to `limit` SQEs of the ring; how many were consumed.

        A bad SQE outside a chain is the last one consumed. SQEs of a chain that is still open at
        the end are a chain of their own.
        """
        batch: list[Request] = []
        first = 0  # token of the open chain's head
        limit = min(limit, sq.ready())
        for ahead in range(limit):
            if self.room() <= 0:
                break
            raw = sq.fetch(ahead)
            if raw is None:
                done = self._issue_batch(sq, batch, [])
                if done == len(batch):
                    sq.drop()
                return done
            request = self._admit(raw, _USER)
            link = request.flags & SQE_ANY_LINK
            joins = self._rules.bad_sqe_joins_chain and (first or link)
            if request.refused and not joins:
                chain = [other for other in batch if first and other.chain == first]
                del batch[len(batch) - len(chain) :]
                done = self._issue_batch(sq, batch, [*chain, request])
                if done < len(batch):
                    return done
                self._fail_chain(chain)
                sq.consume(len(chain))
                if self._checks.drains(request.opcode, request.flags):
                    return done + len(chain) + self._issue_batch(sq, [request], [])
                self._fail_chain([request])
                sq.consume(1)
                self.settle()
                return done + len(chain) + 1
            if first or link:
                first = request.chain = first or request.token
                if not link:
                    first = 0
            batch.append(request)
        return self._issue_batch(sq, batch, [])

    def _issue_batch(self, sq: SubmissionQueue, batch: list[Request], later: list[Request]) -> int:
        """Hand the batch to the backend and give its SQ slots back; how many were consumed.

        Fewer than all when the backend stopped early (a bad SQE): the rest of the batch and
        `later` were then never admitted.
        """
        done = 0
        while done < len(batch):
            part = batch[done:]
            try:
                taken = self._hand_over(part, placed=True)
            except BaseException:
                for request in later:
                    self.table.retire(request)
                raise
            done += taken
            sq.consume(taken)
            for request in part[:taken]:
                self._announce(request)
            # Today's kernels end the batch where the last one of a chain is bad, too.
            if not (taken and part[taken - 1].chain and self._rules.bad_sqe_joins_chain):
                break
        if done < len(batch):
            back = [*batch[done:], *later]
            for request in reversed(back):
                self.table.retire(request)
            self.tokens.next = back[0].token
        if batch:
            self.drain()
        return done

    # --- programs -------------------------------------------------------------------------

    def submit_from_program(self, raw: bytes, origin: str) -> int:
        """The submit helper, section 2.4 (a), after its length check."""
        if self.room() <= 0:
            return -errno.ENOMEM
        request = self._admit(raw, origin)
        error = request.refused
        link = request.flags & SQE_ANY_LINK
        if self._chain or link:
            request.chain = self._chain[0].token if self._chain else request.token
        self._announce(request)
        if error:
            if self._rules.submit_returns_errno:
                self._table.retire(request)
                self._announce_end(request, -error, 0, quiet=True)
                return -error
            if not (self._rules.bad_sqe_joins_chain and (self._chain or link)):
                self._fail_chain(self._take_chain())
                self.complete(request, -error)
                self.settle()
                return 0
        if self._chain or link:
            self._chain.append(request)
            if not link:
                self.close_chain()
            return self._accepted
        before = len(self._deferred)
        denied = self._issue_alone(request)
        # The backend does not tell a bad SQE from a request that fails at once; -EINVAL right
        # away is nearly always the former, and then the helper says so.
        bad = -errno.EACCES if denied else -errno.EINVAL
        if len(self._deferred) > before and self._deferred[-1][:2] == (request, bad):
            _, res, flags, _ = self._deferred.pop()
            refused = self._rules.submit_returns_errno
            self._announce_end(request, res, flags, quiet=refused)
            if refused:
                return res
            self._post(request, res, flags)
            self.settle()
            return 0
        self.post_some()
        return self._accepted

    def link_waiting(self, source: int) -> int:
        """Make the oldest request that waits for CQEs on `source` the last of the running program's
        open chain: 1; 0 if there is none, -EINVAL without an open chain."""
        if not self._chain:
            return -errno.EINVAL
        request = self.bpf.take_waiting(source)
        if request is None:
            return 0
        if request.external:
            # For the backend it takes its place anew, among what is submitted now.
            self._backend.finish(request.token, failed=False)
            request.external = False
        request.started = False
        request.chain = self._chain[0].token
        self._chain.append(request)
        self.close_chain()
        return 1

    @property
    def _accepted(self) -> int:
        return 0 if self._rules.submit_returns_errno else 1

    def _issue_alone(self, request: Request) -> bool:
        """Issue a request without links; whether a filter denied it."""
        if isinstance(request, BpfRequest) and not self._drains:
            self._announce_start(request)
            self.bpf.enqueue(request)
            return False
        self._inline_from = request.token
        try:
            if is_performed(request) and not self._drains:
                self._announce_start(request)
                self.performed.start(request)
            else:
                self._hand_over([request], placed=True)
            denied = self.gate.denied(request.token)
            self.drain()
        finally:
            self._inline_from = None
        return denied

    def close_chain(self) -> None:
        """Start the open chain of the running program; without one, nothing."""
        chain = self._take_chain()
        if not chain:
            return
        if len(chain) == 1 and chain[0].refused:
            self._fail_chain(chain)
            self.settle()
        elif len(chain) == 1:
            self._issue_alone(chain[0])
        else:
            self._inline_from = chain[0].token
            try:
                self._hand_over(chain, placed=True)
                self.drain()
            finally:
                self._inline_from = None
        self._flush_deferred(_DEFER_MOST)

    def end_run(self) -> None:
        """A run is over: close its chain, post its deferred completions."""
        self.close_chain()
        self._flush_deferred(1)

    def abort_run(self) -> None:
        """A run was broken off: its unstarted chain is cancelled, its completions are posted."""
        self._fail_chain(self._take_chain())
        self._flush_deferred(1)
        self.settle()

    def room(self) -> int:
        """How many requests more may be live."""
        direct = self.direct.in_flight() if self.direct is not None else 0
        return self._live_requests - len(self._table.live) - direct

    @property
    def chaining(self) -> bool:
        """Whether a chain of the running program is open."""
        return bool(self._chain)

    @property
    def kept(self) -> int:
        """How many completions are kept for the end of the run."""
        return len(self._deferred)

    def post_some(self) -> None:
        """Post what is kept for the end of the run, if it is much."""
        self._flush_deferred(_DEFER_MOST)

    def add_direct(self, request: Request) -> None:
        """A request that compiled code issued lives."""
        self._table.add(request)

    def _take_chain(self) -> list[Request]:
        chain, self._chain = self._chain, []
        return chain

    def _flush_deferred(self, least: int) -> None:
        """Post the deferred completions if there are at least `least`."""
        if len(self._deferred) < least:
            return
        deferred, self._deferred = self._deferred, []
        for request, res, flags, extra in deferred:
            self._announce_end(request, res, flags)
            self._post(request, res, flags, extra)
        self.settle()

    # --- both -----------------------------------------------------------------------------

    def _admit(self, raw: bytes, origin: str) -> Request:
        """A live request for the SQE."""
        opcode, flags, user_data, personality, cq_idx = _HEAD.unpack(raw)
        cq = self._checks.queue_of(cq_idx)
        error = errno.EINVAL
        if cq is not None:
            error = self._checks.generic(opcode, flags, personality)
        table = self._table
        tokens = self.tokens
        token = tokens.next
        tokens.next += 1
        request: Request
        if opcode == self._rules.bpf_opcode:
            request = bpf = BpfRequest(token, raw, user_data, cq or 0, origin)
            if not error:
                error, bpf.slot, bpf.program = self._checks.bpf(raw)
            if not error and self._rules.contexts:
                error = self._requests_memory.prepare(bpf)
        else:
            request = Request(token, raw, user_data, cq or 0, origin)
        table.add(request)
        if self.gate.active and not error:
            ours = isinstance(request, BpfRequest) or is_performed(request)
            if ours and self.gate.denies(token, raw):
                error = errno.EACCES
        request.refused = error
        if flags & SQE_IO_DRAIN and not self._drains:
            self._drains = self._checks.drains(opcode, flags)
        return request

    def _filtered_sqe(self, token: int) -> bytes | None:
        """The SQE that filters see for the backend's request `token`; None for what `_admit` has
        asked about, and for requests of our own."""
        request = self._table.live.get(token)
        if request is None or request.external or request.refused:
            return None
        return request.sqe

    def _announce(self, request: Request) -> None:
        if self._observer is not None:
            self._observer(
                SqeIssued(
                    self._backend.now_ns(),
                    request.token,
                    request.opcode,
                    request.user_data,
                    request.cq,
                    request.flags,
                    request.origin,
                    request.sqe,
                    request.chain,
                )
            )

    def _announce_start(self, request: Request) -> None:
        if self._observer is not None:
            self._observer(RequestStarted(self._backend.now_ns(), request.token))

    def _announce_end(self, request: Request, res: int, flags: int, *, quiet: bool = False) -> None:
        if self._observer is not None:
            now_ns = self._backend.now_ns()
            self._observer(RequestEnded(now_ns, request.token, res, flags, quiet))

    def _fail_chain(self, chain: list[Request]) -> None:
        """A chain that never starts: nobody runs, bad ones tell why."""
        for request in chain:
            if request.origin == _USER:
                self._announce(request)
            self.complete(request, -(request.refused or errno.ECANCELED))

    def _hand_over(self, requests: list[Request], *, placed: bool) -> int:
        """Give the requests to the backend; how many it consumed.

        A backend that raises (an opcode it does not have) has consumed nothing.
        """
        self.activity += 1
        encoded = [self._encode(request, placed=placed) for request in requests]
        last = encoded[-1]
        if last[1] & SQE_ANY_LINK:
            # Nothing follows. The kernels of the prototype then start the chain as any other;
            # today's hand it to a worker, and inline completions would come late.
            encoded[-1] = bytes((last[0], last[1] & ~SQE_ANY_LINK)) + last[2:]
        try:
            return self._backend.submit(encoded)
        except BaseException:
            for request in requests:
                self._table.retire(request)
            raise

    def _encode(self, request: Request, *, placed: bool) -> bytes:
        """The SQE that the backend gets; `placed`: its place among others counts."""
        raw = request.sqe
        token = request.token.to_bytes(8, "little")
        if request.refused:
            flags = request.flags & (SQE_ANY_LINK | SQE_IO_DRAIN)
            if self._checks.early(request.opcode, request.flags):
                flags &= ~SQE_IO_DRAIN
                return Sqe(UNKNOWN_OPCODE, flags, user_data=request.token).pack()
            return refusal(request.token, flags)
        named = 0
        if self._drains and placed and is_performed(request):
            named = self.performed.named_by_update(request)
        if isinstance(request, BpfRequest) or (placed and is_performed(request) and not named):
            request.external = True
            flags = request.flags & (SQE_ANY_LINK | SQE_IO_DRAIN)
            return bytes((EXTERNAL, flags)) + bytes(30) + token + bytes(24)
        head = raw[:32]
        if request.flags & SQE_CQE_SKIP_SUCCESS:
            # The backend must report it, or the token would never be free again.
            head = bytes((raw[0], raw[1] & ~SQE_CQE_SKIP_SUCCESS)) + raw[2:32]
        if self._rules.cqe_skip and (request.chain or request.flags & SQE_CQE_SKIP_SUCCESS):
            request.wanted = self._wanted(Sqe.unpack(raw))
        tail = _NO_TAIL
        if request.opcode in _READS_ADDR3:
            low = _NO_TAIL[:2] if self._rules.extra_cqs else raw[48:50]
            tail = low + raw[50:56] + _NO_TAIL[:8]
        if named:
            head = head[:16] + named.to_bytes(8, "little") + head[24:]
        return head + token + raw[40:48] + tail

    def hidden(self, raw: bytes) -> None:
        """Issue a request of our own, complete with its token: drains are of requests that there
        would be without it."""
        self._backend.submit_aside(raw)
        self.activity += 1

    def drain(self) -> bool:
        """Take in everything the backend has to report; whether there was anything."""
        any_events = False
        while events := self._backend.poll():
            any_events = True
            self.activity += 1
            for event in events:
                if isinstance(event, Started):
                    self._start(event.token)
                elif isinstance(event, Message):
                    self._cqs.post(0, event.user_data, event.res, event.flags, OTHER_RING)
                else:
                    self._ended(event)
            self.settle()
        return any_events

    def settle(self) -> None:
        """CQEs were posted: end counted timeouts that are due, wake who waits for CQEs."""
        self.performed.end_due()
        self.bpf.wake()

    def _start(self, token: int) -> None:
        request = self._table.live.get(token)
        if request is None or not request.external:
            raise InternalError(f"the backend started an unknown request {token}")
        request.started = True
        self._announce_start(request)
        if isinstance(request, BpfRequest):
            self.bpf.enqueue(request)
        else:
            self.performed.start(request)

    def _ended(self, event: Completion) -> None:
        hidden = self._table.take_hidden(event.token)
        if hidden is not None:
            hidden(event.res)
            return
        request = self._table.live.get(event.token)
        if request is None:
            raise InternalError(f"the backend completed an unknown request {event.token}")
        if event.flags & CQE_F_MORE or event.notified:
            self.fruits += came_to_something(request.opcode, event.res)
            self._post(request, event.res, event.flags, event.extra)
        else:
            self.complete(request, event.res, event.flags, event.extra)

    def complete(
        self, request: Request, res: int, flags: int = 0, extra: tuple[int, int] = NO_EXTRA
    ) -> None:
        """The request is over: its last CQE, posted at once or at the end of the run."""
        self._table.retire(request)
        res = -request.refused or res
        self.fruits += came_to_something(request.opcode, res)
        if self.gate.active:
            self.gate.ended(request.token, res)
        if request.opcode == Op.TIMEOUT:
            self.timeouts_ended += 1
        if self._is_silent(request, res):
            self._announce_end(request, res, flags, quiet=True)
            return
        if self.direct is not None and request.token >= DIRECT_TOKENS:
            inline = self.direct.release(request.token)
        else:
            inline = self._inline_from is not None and request.token >= self._inline_from
        if inline:
            self._deferred.append((request, res, flags, extra))
        else:
            self._announce_end(request, res, flags)
            self._post(request, res, flags, extra)

    def end(self, request: Request, res: int, *, failed: bool) -> None:
        """A request that the ring performed is over; `failed` breaks a chain behind it."""
        self.complete(request, res)
        if request.external:
            self._backend.finish(request.token, failed=failed)
            self.activity += 1

    def _post(
        self, request: Request, res: int, flags: int, extra: tuple[int, int] = NO_EXTRA
    ) -> None:
        self._cqs.post(
            request.cq,
            request.user_data,
            res,
            flags,
            request.origin,
            timer=request.opcode == Op.TIMEOUT,
            request=request.token,
            extra=extra,
        )

    def _is_silent(self, request: Request, res: int) -> bool:
        """Whether it posts no CQE: a success that is skipped, or cancelled with a chain that a
        request with that flag broke (not so for BPF requests, section 3.2)."""
        if not self._rules.cqe_skip:
            return False
        skips = bool(request.flags & SQE_CQE_SKIP_SUCCESS)
        failed = self._failed(request, res)
        if not request.chain:
            return skips and not failed
        silent = self._broken.get(request.chain)
        if silent is not None:
            if not self._others(request):
                del self._broken[request.chain]
            return silent and not isinstance(request, BpfRequest)
        if failed and request.opcode != Op.LINK_TIMEOUT:
            others = self._others(request)
            # Hard links, too, are no use where a member is refused.
            head = request.token == request.chain
            refused = head and any(one.refused for one in (request, *others))
            if others and (refused or not request.flags & SQE_IO_HARDLINK):
                self._broken[request.chain] = skips
        return skips and not failed

    def _others(self, request: Request) -> list[Request]:
        """What still lives of its chain."""
        return [other for other in self._table.live.values() if other.chain == request.chain]

    def _failed(self, request: Request, res: int) -> bool:
        """Whether this result is a failure, which breaks a soft link and posts a CQE."""
        if isinstance(request, BpfRequest):
            return request.runs == 0 or res == -errno.ECANCELED
        return res < request.wanted

    def _wanted(self, sqe: Sqe) -> int:
        """How many bytes a transfer has to move to be no failure; 0 for anything else."""
        if sqe.opcode in _SHORT_IS_FAILURE:
            return min(sqe.len, MAX_RW_COUNT)
        if sqe.opcode in _MESSAGES:
            return sqe.len if sqe.op_flags & MSG_WAITALL else 0
        if sqe.opcode not in _VECTORS or sqe.len > IOV_MAX:
            return 0
        if sqe.flags & SQE_BUFFER_SELECT:
            return 1  # the size of the buffer is not known here
        try:
            raw = self._memory.user_read(sqe.addr, sqe.len * IOVEC.size)
        except UserFault:
            return 0  # it fails
        wanted: int = sum(length for _, length in IOVEC.iter_unpack(raw))
        return min(wanted, MAX_RW_COUNT)

    def cancel_external(self) -> None:
        """Teardown: requests of ours whose turn has not come never get one."""
        for request in list(self.table.live.values()):
            if request.external and not request.started and request.token in self.table.live:
                self._backend.cancel_external(request.token)
                self.drain()

    def end_everything(self) -> None:
        """Teardown: whatever still lives ends with -ECANCELED. The backend must not be heard
        after this."""
        for request in list(self.table.live.values()):
            self.complete(request, -errno.ECANCELED)

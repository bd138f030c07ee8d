"""Requests of a ring with a loop: how entries of its SQ become some, and how they complete.

Without a lock of the ring's, completions are taken in where a submission or a wait finds them. What
does not complete within its submission is task work, where the set-up defers it.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pybpfvm.bits import U32
from pybpfvm.events import Observer, RequestEnded, SqeIssued
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.base import (
    EXTERNAL,
    OTHER_RING,
    UNKNOWN_OPCODE,
    Backend,
    Event,
    Message,
    Started,
)
from pybpfvm.uring_backend.filtering import FilterGate, refusal
from pybpfvm.uring_backend.loop.memory import LoopMemory, Posting
from pybpfvm.uring_backend.loop.naming import NAMES_ANOTHER, Live, Naming
from pybpfvm.uring_backend.loop.operations import Operations
from pybpfvm.uring_backend.loop.posts import Posts
from pybpfvm.uring_backend.loop.setup import LoopSetup
from pybpfvm.uring_backend.requests import DIRECT_TOKENS, Tokens
from pybpfvm.uring_backend.restrictions import Restrictions

if TYPE_CHECKING:
    from pybpfvm.uring_backend.kernel.steps import KernelSteps

_NOT_INLINE = abi.SQE_ASYNC | abi.SQE_IO_DRAIN  # SQEs that do not complete within a submission
_UNKNOWN = bytes((UNKNOWN_OPCODE,))
_PROBE_TOKEN = 0  # no request has it
_PROBE = _UNKNOWN + bytes(63)  # an entry that every ring refuses


class Requests:
    """Those of one ring, as `setup` says (it may become another one), over `backend`; `most` at a
    time. `live` has them by token, `task_work` is what waits for an enter with GETEVENTS, `gate`
    asks filters. `native` is compiled code that submits some of its own, if there is any."""

    def __init__(
        self,
        setup: LoopSetup,
        backend: Backend,
        queues: LoopMemory,
        posts: Posts,
        restrictions: Restrictions,
        operations: Operations | None,
        *,
        tokens: Tokens,
        most: int,
        now_ns: Callable[[], int],
        observer: Observer | None,
    ) -> None:
        self.setup = setup
        self.tokens = tokens
        self.live: dict[int, Live] = {}
        self.task_work: list[Event] = []
        self.native: KernelSteps | None = None
        self._backend = backend
        self._queues = queues
        self._posts = posts
        self._restrictions = restrictions
        self._operations = operations
        self._most = most
        self._now_ns = now_ns
        self._observer = observer
        self._silent: set[int] = set()  # of `live`, those that may end without a CQE
        self._naming = Naming(self.live)
        self._submitting: dict[int, bytes] = {}  # token -> SQE, while the backend takes them
        self.gate = FilterGate(backend, self._submitting.get, observer)
        self._later: set[int] = set()  # tokens of the last batch that do not complete inline
        self._cut = False  # the last of a batch's entries ended it
        # Token -> errno, negative, of what programs or restrictions refuse.
        self._refused: dict[int, int] = {}

    def submit(self, count: int, *, whole: bool = True) -> int:
        """Up to `count` entries of the SQ: how many were consumed, or -errno. Completions that come
        at once are in the CQ when this returns; `whole`: so is what is task work."""
        first = self.tokens.next
        self._later.clear()
        consumed = self._submit(count)
        if whole or not self.setup.defers:
            self.take()
        else:
            self.take(within=range(first, self.tokens.next))
        return consumed

    def _submit(self, count: int) -> int:
        queues = self._queues
        count = min(count & U32, queues.available())
        room = self.room()
        if count and room <= 0:
            return -errno.EAGAIN
        count = min(count, room)
        consumed = 0
        while consumed < count:
            batch: list[bytes] = []
            dropped = False
            for ahead in range(count - consumed):
                raw = queues.fetch(consumed + ahead if self.setup.rewinds else ahead)
                if raw is None:
                    dropped = True
                    break
                batch.append(raw)
            more = False
            if self._operations is not None:
                whole = len(batch)
                batch = self._first_chain(batch)
                more = len(batch) < whole
                dropped &= not more
            taken = self._hand_over(batch, more=more) if batch else 0
            consumed += taken
            queues.consume(taken)
            if taken == len(batch) and dropped:
                queues.drop()
                break
            if (taken < len(batch) or self._cut) and not self.setup.submits_all:
                break
            if taken == 0:
                break
        return consumed

    def _first_chain(self, batch: list[bytes]) -> list[bytes]:
        """The first chain of a batch in which programs look at SQEs: they see no entry behind one
        that ends the batch. All of any other batch."""
        assert self._operations is not None
        opcode = self._operations.rules.opcode
        if all(raw[0] != opcode for raw in batch):
            return batch
        ends = (at for at, raw in enumerate(batch, 1) if not raw[1] & abi.SQE_ANY_LINK)
        return batch[: next(ends, len(batch))]

    def _hand_over(self, batch: list[bytes], *, more: bool = False) -> int:
        """Give SQEs to the backend, with tokens for their user_data; how many it consumed. `more`
        of them follow: `_cut` says that the last one ends the batch."""
        if self.native is not None:
            self.native.claim_all()  # what was submitted before comes first in `_live`
        encoded: list[bytes] = []
        tokens: list[int] = []
        linked, chain = False, self.tokens.next
        for raw in batch:
            token = self.tokens.next
            self.tokens.next += 1
            if linked or raw[1] & _NOT_INLINE:
                self._later.add(token)
            chain = chain if linked else token
            linked = bool(raw[1] & abi.SQE_ANY_LINK)
            tokens.append(token)
            self._submitting[token] = raw
        if linked:  # a chain that the batch leaves open goes to a worker
            self._later.update(range(chain, self.tokens.next))
        taken = 0
        try:
            for token, raw in zip(tokens, batch, strict=True):
                if self._is_operation(raw):
                    encoded.append(self._prepare(token, raw))
                elif self._is_refused(raw):
                    encoded.append(refusal(token, raw[1]))
                    self._refused[token] = -errno.EACCES
                    del self._submitting[token]  # no filter is asked
                elif raw[0] in NAMES_ANOTHER:
                    encoded.append(self._naming.start(token, raw))
                else:
                    opcode = raw[:1] if raw[0] != EXTERNAL else _UNKNOWN
                    encoded.append(opcode + raw[1:32] + token.to_bytes(8, "little") + raw[40:])
                user_data = int.from_bytes(raw[32:40], "little")
                self.live[token] = Live(user_data, self._posts.running or "user", raw[0])
                performed = self._operations is not None and self._operations.performs(token)
                if raw[1] & abi.SQE_CQE_SKIP_SUCCESS or performed:
                    self._silent.add(token)
            # Whether the last one was refused shows in what becomes of an entry behind it.
            probes = more and not self.setup.submits_all and not self._is_operation(batch[-1])
            taken = self._backend.submit([*encoded, _PROBE] if probes else encoded)
            self._cut = tokens[-1] in self._refused or (probes and taken == len(batch))
            taken = min(taken, len(batch))
        finally:
            self._submitting.clear()
            for token in tokens[taken:]:
                self.live.pop(token, None)
                self._silent.discard(token)
                self._naming.forget(token)
                self._refused.pop(token, None)
                if self._operations is not None and self._operations.performs(token):
                    self._operations.end(token)
        self.tokens.next = tokens[0] + taken
        if self._observer is not None:
            now = self._now_ns()
            for token, raw in zip(tokens[:taken], batch, strict=False):
                one = self.live[token]
                issued = SqeIssued(now, token, raw[0], one.user_data, 0, raw[1], one.origin, raw)
                self._observer(issued)
        return taken

    def _is_refused(self, raw: bytes) -> bool:
        """Whether restrictions refuse the SQE, and nothing that the kernel looks at before."""
        opcode, flags = raw[0], raw[1]
        if not self._restrictions.refuses(opcode, flags) or opcode >= abi.OP_LAST:
            return False
        selects = flags & abi.SQE_BUFFER_SELECT and not abi.OPS[abi.Op(opcode)].buffer_select
        return not selects and not flags & ~abi.SQE_VALID_FLAGS

    def _is_operation(self, raw: bytes) -> bool:
        """Whether a program performs this SQE."""
        return self._operations is not None and raw[0] == self._operations.rules.opcode

    def _prepare(self, token: int, raw: bytes) -> bytes:
        """What the backend gets of a request that a program performs: its place among others, or
        an entry that it refuses."""
        operations = self._operations
        assert operations is not None
        error = _bad_operation(raw, self._backend.settings.personalities)
        if not error and self._restrictions.refuses(raw[0], raw[1]):
            error = -errno.EACCES
        error = error or operations.prepare(token, raw)
        if not error and self.gate.active and self.gate.denies(token, raw):
            operations.end(token)
            error = -errno.EACCES
        if error:
            self._refused[token] = error
            return refusal(token, raw[1])
        flags = raw[1] & (abi.SQE_ANY_LINK | _NOT_INLINE)
        return bytes((EXTERNAL, flags)) + bytes(30) + token.to_bytes(8, "little") + bytes(24)

    def take(self, within: Sequence[int] | None = None, most: int | None = None) -> bool:
        """Post what the backend has completed; whether there was anything.

        `within`: only requests that a submission has just issued, and only those that complete
        inline; the rest is task work, which waits. So is what there is beyond `most`.
        """
        self._posts.tell_reaped()
        events = self._completed(within, most)
        runs = within is None and events
        for event in events:
            if isinstance(event, Message):
                self._posts.post(Posting(event.user_data, event.res, event.flags, OTHER_RING, None))
                continue
            if isinstance(event, Started):
                self._perform(event.token)
                events += self._completed(within, None if most is None else most - len(events))
                continue
            more = event.flags & abi.CQE_F_MORE
            one = self.live[event.token]
            if event.token in self._refused:
                event = replace(event, res=self._refusal_said(event.token, event.res))
            res, again = self._naming.answered(event.token, event.res)
            self._give_up(event.token)
            if again is not None and self._backend.submit([again]):
                events += self._completed(within, None if most is None else most - len(events))
                continue
            if not more:
                self._over(event.token, res, event.flags)
            self._posts.post(
                Posting(one.user_data, res, event.flags, one.origin, event.token, event.extra)
            )
        if self._silent:
            waiting = {one.token for one in self.task_work if not isinstance(one, Message)}
            for token in sorted(self._silent - waiting):
                if not self._backend.holds(token):
                    self._give_up(token)
                    self._over(token, 0, 0, quiet=True)
        if self.setup.flags & abi.SETUP_TASKRUN_FLAG and (runs or self.task_work):
            self._queues.show(abi.SQ_TASKRUN, on=bool(self.task_work))
        return bool(events)

    def _refusal_said(self, token: int, res: int) -> int:
        error = self._refused.pop(token)
        return error if res == -errno.EINVAL else res

    def _perform(self, token: int) -> None:
        """A program performs the request, whose turn has come."""
        operations, one = self._operations, self.live[token]
        assert operations is not None
        try:
            res, failed, skips = operations.perform(token)
        except BaseException:
            operations.abandon(token)
            raise
        self._backend.finish(token, failed=failed)
        quiet = skips and not failed
        self._over(token, res, 0, quiet=quiet)
        if not quiet:
            self._posts.post(Posting(one.user_data, res, 0, one.origin, token))
        operations.end(token)

    def _give_up(self, token: int) -> None:
        """If a program was to perform the request: it has ended before."""
        operations = self._operations
        if operations is not None and operations.performs(token):
            operations.give_up(token)
            operations.end(token)

    def _over(self, token: int, res: int, flags: int, *, quiet: bool = False) -> None:
        """The request has ended; `quiet`: without a CQE."""
        del self.live[token]
        self._silent.discard(token)
        if token >= DIRECT_TOKENS and self.native is not None:
            self.native.release(token)
        if self.gate.active:
            self.gate.ended(token, res)
        if self._observer is not None:
            self._observer(RequestEnded(self._now_ns(), token, res, flags, quiet=quiet))

    def _completed(self, within: Sequence[int] | None, most: int | None) -> list[Event]:
        """What the backend has completed, but for the task work that waits, as `take` says."""
        events = self.task_work + self._backend.poll()
        self.task_work = []
        if self._operations is not None:
            events = [e for e in events if isinstance(e, Message) or e.token != _PROBE_TOKEN]
        if within is not None:
            self.task_work = [e for e in events if not self._is_inline(e, within)]
            events = [e for e in events if self._is_inline(e, within)]
        if most is not None:
            self.task_work += events[most:]
            events = events[:most]
        return events

    def _is_inline(self, event: Event, within: Sequence[int]) -> bool:
        if isinstance(event, Message):
            return False  # it comes as task work, from this ring, too
        return event.token in within and event.token not in self._later

    def in_flight(self) -> int:
        """Requests submitted and not completed."""
        direct = self.native.in_flight() if self.native is not None else 0
        return len(self.live) + direct

    def room(self) -> int:
        """How many requests more may be in flight."""
        return self._most - self.in_flight()

    def gather(self) -> None:
        """Keep what has completed for who posts it."""
        self.task_work += self._backend.poll()

    def adopt(self, token: int, user_data: int, opcode: int) -> None:
        """A request that compiled code submitted is one like others from now on."""
        self.live[token] = Live(user_data, self._posts.running or "user", opcode)


def _bad_operation(raw: bytes, personalities: Collection[int]) -> int:
    """What ends a request before its program looks at it: an errno, negative, or 0."""
    sqe = abi.Sqe.unpack(raw)
    if sqe.flags & ~abi.SQE_VALID_FLAGS or sqe.ioprio:
        return -errno.EINVAL
    if sqe.personality and sqe.personality not in personalities:
        return -errno.EINVAL
    return -errno.EOPNOTSUPP if sqe.flags & abi.SQE_BUFFER_SELECT else 0

"""Rings at any position of a recording: folded from what they told of themselves."""

from __future__ import annotations

import struct
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, field, replace
from typing import Any, get_args, get_origin, get_type_hints

from pybpfvm.bits import u32
from pybpfvm.errors import InputError
from pybpfvm.events import (
    CqePosted,
    CqeReaped,
    Event,
    HostWaits,
    HostWoke,
    Parked,
    RequestEnded,
    RequestStarted,
    RunStarted,
    SqeIssued,
    Woken,
)
from pybpfvm.expr.scope import Unreadable
from pybpfvm.uring_backend.abi import SQE_BYTES, Cqe


@dataclass(slots=True)
class QueueState:
    """A CQ: the CQEs that nobody has reaped, oldest first; `backlog` wait for room, `lost` were
    dropped. `entries` is its size, None where the recording does not say."""

    entries: int | None = None
    cqes: deque[Cqe] = field(default_factory=deque)
    backlog: deque[Cqe] = field(default_factory=deque)
    reaped: int = 0
    posted: int = 0
    lost: int = 0

    def packed(self, number: int) -> tuple[Any, ...]:
        """For `unpacked`, but for its size."""
        cqes, backlog = (b"".join(cqe.pack() for cqe in some) for some in (self.cqes, self.backlog))
        return number, cqes, backlog, self.reaped, self.posted, self.lost

    def copy(self) -> QueueState:
        """One that can be changed by itself."""
        return QueueState(
            self.entries, self.cqes.copy(), self.backlog.copy(), self.reaped, self.posted, self.lost
        )


@dataclass(slots=True)
class SqState:
    """The SQ when the run began that one is in, without what was submitted since: `sqes` of 64
    bytes, the oldest first, empty for an entry that names none."""

    head: int
    tail: int
    dropped: int
    sqes: deque[bytes]

    def copy(self) -> SqState:
        """One that can be changed by itself."""
        return SqState(self.head, self.tail, self.dropped, self.sqes.copy())

    def take(self) -> None:
        """The oldest SQE was submitted, as it was by then: programs can write to it until then."""
        while self.sqes:
            self.head = u32(self.head + 1)
            if self.sqes.popleft():
                break


@dataclass(frozen=True, slots=True)
class RequestState:
    """A request that lives: as it was submitted, by "user" or a program. `started`: its turn has
    come, as far as rings tell. `waits`: (CQ, CQEs) that it is parked for, None if it is not."""

    request: int
    opcode: int
    user_data: int
    cq: int
    flags: int
    origin: str
    sqe: bytes
    started: bool = False
    waits: tuple[int, int] | None = None


@dataclass(slots=True)
class RingState:
    """A ring: its CQs by number, the requests that live by number, how often programs ran, and
    its clock in ns. A pybpfvm.expr.RingView."""

    name: str
    sq_entries: int | None = None
    queues: dict[int, QueueState] = field(default_factory=dict)
    requests: dict[int, RequestState] = field(default_factory=dict)
    ran: Counter[str] = field(default_factory=Counter)
    time_ns: int = 0
    host_waits: tuple[int, int] | None = None  # (CQ, CQEs) that the host sleeps for
    queue: SqState | None = None  # None: the recording does not say
    loop: bool = False  # its programs submit from the SQ, too

    @classmethod
    def made(cls, name: str, options: Mapping[str, Any]) -> RingState:
        """A new ring, with the options that were recorded."""
        sizes = options.get("cq_entries")
        queues = {}
        if isinstance(sizes, tuple):
            known = (size if isinstance(size, int) else None for size in sizes)
            queues = {number: QueueState(size) for number, size in enumerate(known)}
        entries = options.get("entries")
        known_entries = entries if isinstance(entries, int) else None
        return cls(name, known_entries, queues, loop=bool(options.get("loop")))

    def copy(self) -> RingState:
        """One that can be changed by itself."""
        queues = {number: queue.copy() for number, queue in self.queues.items()}
        return RingState(
            self.name,
            self.sq_entries,
            queues,
            dict(self.requests),
            Counter(self.ran),
            self.time_ns,
            self.host_waits,
            None if self.queue is None else self.queue.copy(),
            self.loop,
        )

    def packed(self) -> tuple[Any, ...]:
        """What became of it since it was made, of plain values: for `become`."""
        queue = self.queue
        return (
            self.time_ns,
            self.host_waits,
            tuple(one.packed(number) for number, one in self.queues.items()),
            tuple(astuple(one) for one in self.requests.values()),
            tuple(self.ran.items()),
            None if queue is None else (queue.head, queue.tail, queue.dropped, tuple(queue.sqes)),
        )

    def become(self, packed: Any) -> None:
        """Be as the ring that `packed` was called of. InputError for what never was one."""
        try:
            time_ns, waits, queues, requests, ran, queue = _tuple(packed)
            (self.time_ns,) = numbers((time_ns,), 1)
            self.host_waits = None if waits is None else numbers(waits, 2)
            for number, cqes, backlog, *counts in _tuple(queues):
                one = self._queue(*numbers((number,), 1))
                one.reaped, one.posted, one.lost = numbers(tuple(counts), 3)
                one.cqes, one.backlog = _cqes(cqes), _cqes(backlog)
            for given in _tuple(requests):
                request = RequestState(*_tuple(given))
                for value, hint in zip(given, _REQUEST_TYPES, strict=True):
                    if type(value) not in hint:
                        raise InputError(f"a request with {value!r:.60}")
                if request.waits is not None:
                    numbers(request.waits, 2)
                self.requests[request.request] = request
            self.ran = Counter()
            for name, count in _tuple(ran):
                if type(name) is not str:
                    raise InputError(f"runs of {name!r:.60}")
                (self.ran[name],) = numbers((count,), 1)
            if queue is not None:
                *words, sqes = _tuple(queue)
                for sqe in _tuple(sqes):
                    if type(sqe) is not bytes or len(sqe) not in (0, SQE_BYTES):
                        raise InputError(f"an SQE {sqe!r:.60}")
                head, tail, dropped = numbers(tuple(words), 3)
                self.queue = SqState(head, tail, dropped, deque(sqes))
        except (TypeError, ValueError, struct.error) as error:
            raise InputError(f"the state of a ring: {error}") from None

    @property
    def inflight(self) -> list[RequestState]:
        """The requests that live, oldest first."""
        return list(self.requests.values())

    @property
    def parked(self) -> list[RequestState]:
        """Those that wait for CQEs."""
        return [one for one in self.requests.values() if one.waits is not None]

    @property
    def overflow(self) -> int:
        """CQEs that were lost."""
        return sum(queue.lost for queue in self.queues.values())

    def _queue(self, number: int) -> QueueState:
        found = self.queues.get(number)
        if found is None:
            found = self.queues[number] = QueueState()
        return found

    def apply(self, event: Event) -> None:
        """What the ring told happened."""
        if event.time_ns > self.time_ns:
            self.time_ns = event.time_ns
        happened = _HAPPENED.get(type(event))
        if happened is not None:
            happened(self, event)

    def _issued(self, event: SqeIssued) -> None:
        if self.queue is not None and (self.loop or event.origin == "user"):
            self.queue.take()
        self.requests[event.request] = RequestState(
            event.request,
            event.opcode,
            event.user_data,
            event.cq,
            event.flags,
            event.origin,
            event.sqe,
        )

    def _ended(self, event: RequestEnded) -> None:
        self.requests.pop(event.request, None)

    def _started(self, event: RequestStarted) -> None:
        self._change(event.request, started=True)

    def _runs(self, event: RunStarted) -> None:
        self.ran[event.program] += 1
        self._change(event.request, started=True)

    def _parked(self, event: Parked) -> None:
        self._change(event.request, waits=(event.cq, event.wanted))

    def _woken(self, event: Woken) -> None:
        self._change(event.request)

    def _reaped(self, event: CqeReaped) -> None:
        queue = self._queue(event.cq)
        while queue.cqes:  # a host that moved the head itself told nobody
            gone = queue.cqes.popleft()
            queue.reaped += 1
            if gone.user_data == event.user_data and gone.res == event.res:
                break

    def _waits(self, event: HostWaits) -> None:
        self.host_waits = event.cq, event.wanted

    def _woke(self, _: HostWoke) -> None:
        self.host_waits = None

    def _posted(self, event: CqePosted) -> None:
        queue = self._queue(event.cq)
        cqe = Cqe(event.user_data, event.res, event.flags)
        match event.fate:
            case "posted":
                if queue.backlog:  # nothing enters but the oldest of it
                    queue.backlog.popleft()
                queue.cqes.append(cqe)
                queue.posted += 1
            case "backlog":
                queue.backlog.append(cqe)
            case _:
                queue.lost += 1

    def _change(
        self, number: int, *, started: bool = False, waits: tuple[int, int] | None = None
    ) -> None:
        one = self.requests.get(number)
        if one is None or ((one.started or not started) and one.waits == waits):
            return
        self.requests[number] = replace(one, started=one.started or started, waits=waits)

    # --- a RingView -----------------------------------------------------------------------------

    def cqs(self) -> int:
        """How many CQs it has, as far as is known."""
        return max(self.queues, default=-1) + 1

    def cq(self, index: int, field: str) -> int:
        """As RingView."""
        queue = self._queue(index)
        match field:
            case "ready":
                return len(queue.cqes)
            case "head":
                return u32(queue.reaped)
            case "tail":
                return u32(queue.reaped + len(queue.cqes))
            case _:
                if queue.entries is None:
                    raise Unreadable("the recording does not say how large the CQ is")
                if field == "free":
                    return max(queue.entries - len(queue.cqes), 0)
                return queue.entries

    def cqe(self, index: int, ahead: int) -> bytes | None:
        """As RingView."""
        queue = self._queue(index)
        return queue.cqes[ahead].pack() if ahead < len(queue.cqes) else None

    def sq(self, field: str) -> int:
        """As RingView."""
        queue = self.queue
        if field == "entries":
            if self.sq_entries is None:
                raise Unreadable("the recording does not say how large the SQ is")
            return self.sq_entries
        if queue is None:
            raise Unreadable("the recording does not say what is in the SQ")
        match field:
            case "ready":
                return len(queue.sqes)
            case "head":
                return queue.head
            case "tail":
                return queue.tail
            case _:
                return queue.dropped

    def word(self, field: str) -> int:
        """As RingView."""
        match field:
            case "inflight":
                return len(self.requests)
            case "parked":
                return len(self.parked)
            case "overflow":
                return self.overflow
            case "backlog":
                return sum(len(queue.backlog) for queue in self.queues.values())
            case _:
                return self.time_ns

    def runs(self, program: str) -> int | None:
        """As RingView."""
        return self.ran[program]


# The rest changes nothing but the time.
_HAPPENED: dict[type, Callable[[RingState, Any], None]] = {
    SqeIssued: RingState._issued,
    RequestStarted: RingState._started,
    RequestEnded: RingState._ended,
    RunStarted: RingState._runs,
    Parked: RingState._parked,
    Woken: RingState._woken,
    CqePosted: RingState._posted,
    CqeReaped: RingState._reaped,
    HostWaits: RingState._waits,
    HostWoke: RingState._woke,
}
_REQUEST_TYPES = tuple(
    tuple(get_origin(one) or one for one in get_args(hint) or (hint,))
    for hint in get_type_hints(RequestState).values()
)
_CQE_BYTES = 16


def numbers(given: Any, count: int) -> Any:
    """These numbers, none below 0, if they are as many. InputError else."""
    good = type(given) is tuple and len(given) == count
    if not good or not all(type(one) is int and one >= 0 for one in given):
        raise InputError(f"{given!r:.60}, where {count} numbers stand")
    return given


def _tuple(given: Any) -> tuple[Any, ...]:
    if type(given) is not tuple:
        raise InputError(f"{given!r:.60}, where an array stands")
    return given


def _cqes(packed: Any) -> deque[Cqe]:
    if type(packed) is not bytes:
        raise InputError(f"{packed!r:.60}, where CQEs stand")
    return deque(
        Cqe.unpack(packed[at : at + _CQE_BYTES]) for at in range(0, len(packed), _CQE_BYTES)
    )

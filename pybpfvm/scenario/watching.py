"""What must hold in every run, whatever the scenario expects: findings with a stable kind.

    overflow               a CQE was lost because its queue was full
    lost-completion        a request ended and its CQE never came
    duplicate-completion   a request ended with more than one last CQE
    leak                   requests are in flight at the end that nothing will end, more than usual
    buffer-in-flight       memory that a request in flight writes is used, or one that it reads is
                           written, by another request, a program or the host
    ownership-race         host and programs use the same word, or take CQEs from the same queue,
                           and nothing orders them

Which of two accesses comes first is known where the one led to the other: by submitting, by a CQE
that was posted by one side and reaped by the other, by waking (Lamport, "Time, Clocks, and the
Ordering of Events in a Distributed System", 1978; vector clocks after Mattern, 1989).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pybpfvm.events import (
    CqePosted,
    CqeReaped,
    Event,
    HelperCalled,
    HostWoke,
    Observer,
    OfRing,
    RequestEnded,
    RunEnded,
    RunFaulted,
    RunStarted,
    SqeIssued,
    Woken,
)
from pybpfvm.memory import UserFault
from pybpfvm.scenario.compare import Finding
from pybpfvm.scenario.live import Live
from pybpfvm.scenario.model import Scenario
from pybpfvm.session import Ring
from pybpfvm.uring_backend.abi import (
    CQE_F_MORE,
    CQE_F_NOTIF,
    IOV_MAX,
    IOVEC,
    SQE_BUFFER_SELECT,
    SQE_IO_DRAIN,
    Op,
    Sqe,
)
from pybpfvm.uring_backend.base import OTHER_RING

KINDS: Final = (
    "overflow",
    "lost-completion",
    "duplicate-completion",
    "leak",
    "buffer-in-flight",
    "ownership-race",
)
_USER: Final = "user"
_HOST: Final = 0  # an actor; the others are requests
_SETTLE_NS: Final = 1_000_000_000
_FILLS: Final = frozenset((Op.READ, Op.READ_FIXED, Op.RECV))  # Sqe.addr, Sqe.len
_SENDS: Final = frozenset((Op.WRITE, Op.WRITE_FIXED, Op.SEND, Op.SEND_ZC))
_OPCODES: Final = frozenset(map(int, Op))
_STATX_BYTES: Final = 256
_MOST_ACCESSES: Final = 4096
COPIES: Final = {
    "copy_from_user": (2, 1, False),
    "probe_read_user": (2, 1, False),
    "bpf_copy_to_user": (0, 2, True),
    "probe_write_user": (0, 2, True),
}
"""Helpers that copy: which argument is the user's address, which the bytes, whether they write."""

HEARD: Final = frozenset(COPIES)
"""Helpers whose calls a Watch has to be told of."""

_Queue = tuple[str, int]  # its ring, "" if there is one only, and its number
Clocks = dict[int, int]
"""Of each actor, how many of its actions are known to have come before."""


@dataclass(frozen=True, slots=True)
class Checks:
    """What is looked at besides expectations. `events`: everything, which takes the events of the
    run; else what is known without. `left`: how many requests may be in flight at the end."""

    left: int | None = None
    events: bool = True


@dataclass(frozen=True, slots=True)
class _Transfer:
    """Memory [start, end) that a request in flight reads or `fills`."""

    token: int
    chain: int
    op: str
    start: int
    end: int
    fills: bool


@dataclass(slots=True)
class _Access:
    """The last access of this kind by an actor, and its clock then."""

    actor: int
    start: int
    end: int
    writes: bool
    clock: int
    who: str


def memory_of(raw: bytes, live: Live | None) -> list[tuple[str, int, int, bool]]:
    """What memory the request of a 64-byte SQE uses while it is in flight: its opcode, address,
    bytes, whether it fills them. Not looked into: messages' headers, and provided buffers."""
    sqe = Sqe.unpack(raw)
    if sqe.flags & SQE_BUFFER_SELECT or sqe.opcode not in _OPCODES:
        return []
    op = Op(sqe.opcode)
    if op in _FILLS or op in _SENDS:
        return [(op.name, sqe.addr, sqe.len, op in _FILLS)] if sqe.len else []
    if op == Op.STATX:
        return [(op.name, sqe.off, _STATX_BYTES, True)]
    if op not in (Op.READV, Op.WRITEV) or live is None or not 0 < sqe.len <= IOV_MAX:
        return []
    try:
        vector = live.ring.machine.memory.user_read(sqe.addr, sqe.len * IOVEC.size)
    except UserFault:
        return []
    pieces = IOVEC.iter_unpack(vector)
    return [(op.name, addr, size, op == Op.READV) for addr, size in pieces if size]


def left_in_flight(live: Live) -> tuple[str, ...]:
    """What is in flight when everything that can happen has happened, by name and in order."""
    rings = [one.ring for one in live.rings.values() if isinstance(one.ring, Ring)]
    if not rings:
        return ()
    rings[0].run_until_idle(_SETTLE_NS)  # so that those beside it are idle, too
    bpf = rings[0].core.profile.ring
    assert bpf is not None
    left = {token: one.opcode for ring in rings for token, one in ring.core.live.items()}
    return tuple(
        "BPF" if opcode == bpf.bpf_opcode else Op(opcode).name for _, opcode in sorted(left.items())
    )


def too_many_left(left: Sequence[str], checks: Checks, scenario: Scenario) -> Iterator[Finding]:
    """A leak, if more are in flight than may be."""
    if checks.left is not None and len(left) > checks.left:
        shown = ", ".join(f"{n} {name}" for name, n in sorted(Counter(left).items()))
        expected = f"{checks.left} requests in flight at the end"
        yield Finding(f"{scenario.path}: end", expected, shown, "leak")


def lost(live: Live) -> Iterator[Finding]:
    """Overflows that the scenario does not speak of."""
    expect = live.scenario.expect
    for name, one in live.rings.items():
        of_ring = expect if one is live.first else expect.rings.get(name)
        if one.ring.cq_overflow and (of_ring is None or of_ring.overflow is None):
            place = f"{live.scenario.path}: end" + ("" if one is live.first else f" of {name}")
            yield Finding(place, "no CQE lost", f"{one.ring.cq_overflow} lost", "overflow")


class Watch:
    """An observer that collects `findings`, and passes events on to `inner`."""

    def __init__(self, inner: Observer | None) -> None:
        self._inner = inner
        self._live: Live | None = None
        self._found: dict[tuple[str, str], Finding] = {}
        self._flying: dict[int, list[_Transfer]] = {}
        self._runs: tuple[int, str] | None = None  # the actor that runs, and its program
        self._clocks: dict[int, Clocks] = {_HOST: {}}  # of who may act, and requests in flight
        self._own: Clocks = {}  # of each actor its own, which nobody knows better
        self._ring = ""  # of the event that is looked at, if there are several
        self._queues: dict[_Queue, deque[Clocks]] = {}
        self._backlogs: dict[str, deque[tuple[object, Clocks]]] = {}  # by ring, of its CQ 0
        self._accesses: list[_Access] = []
        self._reapers: dict[_Queue, str] = {}
        self._ended: dict[int, bool] = {}  # by request: whether its last CQE was posted
        self._looks: Mapping[type, Callable[[Any], None]] = {
            HelperCalled: self._called,
            SqeIssued: self._issued,
            RunStarted: self._starts,
            RunEnded: self._stops,
            RunFaulted: self._stops,
            CqePosted: self._posted,
            CqeReaped: self._reaped,
            RequestEnded: self._ends,
            Woken: lambda event: self._wakes(event.cq, event.request),
            HostWoke: lambda event: self._wakes(event.cq, _HOST),
            OfRing: self._of_ring,
        }

    def begins(self, live: Live) -> None:
        """The run is about to begin."""
        self._live = live

    @property
    def findings(self) -> list[Finding]:
        """What was found, the first of each kind and place."""
        for token, posted in self._ended.items():
            if not posted:
                self._find("lost-completion", f"request {token}", "its last CQE", "none")
        return list(self._found.values())

    def __call__(self, event: Event) -> None:
        looks = self._looks.get(type(event))
        if looks is not None:
            looks(event)
        if self._inner is not None:
            self._inner(event)

    def _of_ring(self, event: OfRing) -> None:
        looks = self._looks.get(type(event.event))
        if looks is not None:
            self._ring = event.ring
            looks(event.event)

    def host_writes(self, start: int, size: int) -> None:
        """The host is about to write user memory."""
        self._tick(_HOST)
        self._uses("the host", start, size, writes=True)
        self._access(_HOST, "the host", start, size, writes=True)

    # --- who knows of what ----------------------------------------------------------------------

    def _tick(self, actor: int) -> Clocks:
        clocks = self._clocks.setdefault(actor, {})
        clocks[actor] = self._own[actor] = self._own.get(actor, 0) + 1
        return clocks

    def _learn(self, actor: int, known: Clocks) -> None:
        clocks = self._clocks.get(actor)
        if not clocks:
            self._clocks[actor] = dict(known)
            return
        for other, clock in known.items():
            if clocks.get(other, 0) < clock:
                clocks[other] = clock

    def _actor(self, origin: str) -> int:
        return _HOST if origin == _USER or self._runs is None else self._runs[0]

    def _wakes(self, cq: int, actor: int) -> None:
        for known in self._queues.get((self._ring, cq), ()):
            self._learn(actor, known)

    # --- requests -------------------------------------------------------------------------------

    def _ends(self, event: RequestEnded) -> None:
        self._flying.pop(event.request, None)
        if event.quiet:
            self._clocks.pop(event.request, None)
        else:
            self._ended.setdefault(event.request, False)

    def _issued(self, event: SqeIssued) -> None:
        self._learn(event.request, self._tick(self._actor(event.origin)))
        for op, start, size, fills in memory_of(event.sqe, self._live):
            new = _Transfer(event.request, event.chain, op, start, start + size, fills)
            if not event.flags & SQE_IO_DRAIN:
                self._meets(new)
            self._flying.setdefault(event.request, []).append(new)

    def _meets(self, new: _Transfer) -> None:
        for other in self._in_flight():
            if new.chain and new.chain == other.chain:
                continue
            if other.token != new.token and (new.fills or other.fills):
                self._clash(f"request {new.token} ({new.op})", new.start, new.end, other, new.fills)

    def _in_flight(self) -> Iterator[_Transfer]:
        for transfers in self._flying.values():
            yield from transfers

    def _uses(self, who: str, start: int, size: int, *, writes: bool) -> None:
        for other in self._in_flight():
            if writes or other.fills:
                self._clash(who, start, start + size, other, writes)

    def _clash(self, who: str, start: int, end: int, other: _Transfer, writes: bool) -> None:
        if start >= other.end or other.start >= end:
            return
        does = "writes" if writes else "reads"
        doing = "fills" if other.fills else "reads"
        place = self._name(max(start, other.start))
        found = f"{who} {does} it while request {other.token} ({other.op}) {doing} it"
        self._find("buffer-in-flight", place, "nobody else uses it", found)

    # --- programs and queues --------------------------------------------------------------------

    def _starts(self, event: RunStarted) -> None:
        self._runs = event.request, event.program
        self._tick(event.request)

    def _stops(self, event: RunEnded | RunFaulted) -> None:
        self._runs = None

    def _called(self, event: HelperCalled) -> None:
        if self._runs is None or event.helper not in COPIES:
            return
        at, length, writes = COPIES[event.helper]
        start, size = event.args[at], event.args[length]
        actor, program = self._runs
        self._uses(program, start, size, writes=writes)
        self._access(actor, program, start, size, writes=writes)

    def _posted(self, event: CqePosted) -> None:
        request = event.request
        cqe = event.user_data, event.res, event.flags, event.origin, request
        backlog = self._backlogs.get(self._ring) if event.cq == 0 else None
        if event.fate == "posted" and backlog and backlog[0][0] == cqe:  # there is room for it now
            self._queues.setdefault((self._ring, 0), deque()).append(backlog.popleft()[1])
            return
        if request is not None and not event.flags & (CQE_F_MORE | CQE_F_NOTIF):
            if self._ended.get(request):
                place = f"request {request}"
                self._find("duplicate-completion", place, "one last CQE", "another one")
            self._ended[request] = True
            known = self._clocks.pop(request, {})
        elif request is not None:
            known = dict(self._clocks.get(request, {}))
        elif event.origin == OTHER_RING:  # of whom is not told: what anybody knows
            known = dict(self._own)
        else:
            known = dict(self._clocks.get(self._actor(event.origin), {}))
        if event.fate == "backlog":
            self._backlogs.setdefault(self._ring, deque()).append((cqe, known))
        elif event.fate == "posted":
            self._queues.setdefault((self._ring, event.cq), deque()).append(known)

    def _reaped(self, event: CqeReaped) -> None:
        queue = self._ring, event.cq
        waiting = self._queues.get(queue)
        if waiting:
            self._learn(self._actor(event.by), waiting.popleft())
        other = self._reapers.setdefault(queue, event.by)
        if other != event.by and _USER in (other, event.by):
            program = event.by if other == _USER else other
            found = f"the host and {program} take CQEs from it"
            place = f"CQ {event.cq}" + (f" of {self._ring}" if self._ring else "")
            self._find("ownership-race", place, "one side reaps", found)

    def _access(self, actor: int, who: str, start: int, size: int, *, writes: bool) -> None:
        """Host and programs: programs of one ring run one after the other, whole."""
        clocks, end = self._tick(actor), start + size
        for other in self._accesses:
            if (other.actor == _HOST) == (actor == _HOST) or not (writes or other.writes):
                continue
            overlap = start < other.end and other.start < end
            if overlap and clocks.get(other.actor, 0) < other.clock:
                place = self._name(max(start, other.start))
                did = "wrote" if other.writes else "read"
                found = f"{who} {'writes' if writes else 'reads'} what {other.who} {did} before"
                self._find("ownership-race", place, "a CQE or submission orders them", found)
        for other in self._accesses:
            if (other.actor, other.start, other.end, other.writes) == (actor, start, end, writes):
                other.clock = clocks[actor]
                return
        if len(self._accesses) < _MOST_ACCESSES:
            self._accesses.append(_Access(actor, start, end, writes, clocks[actor], who))

    def _name(self, addr: int) -> str:
        name = None if self._live is None else self._live.name_of(addr)
        return f"{addr:#x}" if name is None else name

    def _find(self, kind: str, where: str, expected: str, found: str) -> None:
        self._found.setdefault((kind, where), Finding(where, expected, found, kind))

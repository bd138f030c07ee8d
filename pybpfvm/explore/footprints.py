"""What one action touches, and when two actions can change places.

An action is what happens from one question of order to the next: a program runs, a worker carries
out a request, time passes, the host takes its steps. Two actions are independent when neither
touches what the other one writes; then either order leads to the same state, and one will do
(Mazurkiewicz, "Trace Theory", 1987; Godefroid, "Partial-Order Methods for the Verification of
Concurrent Systems", 1996). What is not known to be apart is taken to be the same thing:

    a queue of a ring    whoever posts to it, reaps from it, looks at it or waits for it writes it
    submitting           all who submit write one thing: the order decides tokens and the batch
    user memory          the bytes that helpers copy, and those of a request that a worker performs
    maps and globals     a program writes all that it names, read-only data apart
    a file               requests that read or write it; anything else of the world is everything
    the host's steps     everything, as does time that passes, and a worker's completion that lets
                         a program run: programs run before anything else happens

Latencies are part of no state, but whoever reads the clock sees them: where `reads_time` is set
somewhere in an exploration, nothing is independent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from pybpfvm.bits import U32
from pybpfvm.events import (
    CqePosted,
    CqeReaped,
    Event,
    HelperCalled,
    OfRing,
    Parked,
    RunEnded,
    RunStarted,
    SqeIssued,
    Woken,
)
from pybpfvm.helpers.table import HELPERS
from pybpfvm.isa.opcodes import Kind, Pseudo
from pybpfvm.profiles.base import Profile
from pybpfvm.program import BPF_F_RDONLY_PROG, BpfObject, Program
from pybpfvm.scenario.live import Live
from pybpfvm.scenario.watching import COPIES, memory_of
from pybpfvm.uring_backend.abi import SQE_IO_DRAIN, Op
from pybpfvm.uring_backend.choices import Footprint

_OF_QUEUES: Final = {
    "iouring_emit_cqe": 1,
    "iouring_reap_cqe": 1,
    "io_uring_emit_cqe": 1,
    "io_uring_reap_cqe": 1,
}
"""Helpers, and which argument is the queue."""
_SUBMITS: Final = frozenset(("iouring_queue_sqe", "io_uring_submit"))
_APART: Final = frozenset(  # of maps that the program names, which count anyway, or of nothing
    (
        "map_lookup_elem",
        "map_update_elem",
        "map_delete_elem",
        "map_push_elem",
        "map_pop_elem",
        "map_peek_elem",
        "get_smp_processor_id",
        "trace_printk",
    )
)
_HEARD: Final = frozenset(HELPERS) - _APART
_CLOCKS: Final = frozenset(
    ("ktime_get_ns", "ktime_get_boot_ns", "ktime_get_coarse_ns", "ktime_get_tai_ns", "jiffies64")
)
_Queue = tuple[str, int]  # its ring, "" if there is one only, and its number
_TIMED: Final = frozenset((Op.TIMEOUT, Op.LINK_TIMEOUT, Op.TIMEOUT_REMOVE))


class Touched:
    """What an action has touched so far."""

    __slots__ = ("all", "memory", "writes")

    def __init__(self) -> None:
        self.all = False
        self.writes: set[object] = set()
        self.memory: list[tuple[int, int, bool]] = []  # user memory: start, end, written

    def add(self, other: Touched) -> None:
        """Touch what the other touched, too."""
        self.all |= other.all
        self.writes |= other.writes
        self.memory += other.memory

    def independent(self, other: Touched) -> bool:
        """Whether the two may change places."""
        if self.all or other.all or not self.writes.isdisjoint(other.writes):
            return False
        return not any(
            (mine[2] or theirs[2]) and mine[0] < theirs[1] and theirs[0] < mine[1]
            for mine in self.memory
            for theirs in other.memory
        )


class Footprints:
    """An observer of everything but calls of helpers that are not `heard`, and what choosers are
    told: keeps what the action of this moment touches."""

    heard: Final = _HEARD

    def __init__(self, obj: BpfObject, profile: Profile) -> None:
        rules = profile.ring
        self._plain = rules is not None and not rules.contexts  # programs store to their maps only
        self._maps = {program.name: _maps_of(obj, program) for program in obj.programs}
        self._flying: dict[int, tuple[_Queue, list[tuple[int, int, bool]]]] = {}
        self._waits: dict[int, _Queue] = {}  # by request: the queue whose CQEs it waits for
        self._live: Live | None = None
        self._ring = ""  # of the event that is looked at, if there are several
        self._looks: Mapping[type, Callable[[Any], None]] = {
            HelperCalled: self._called,
            CqePosted: self._at_queue,
            CqeReaped: self._at_queue,
            Parked: self._at_queue,
            Woken: self._at_queue,
            RunStarted: self._starts,
            RunEnded: self._stops,
            SqeIssued: self._issued,
        }
        self.reads_time = False
        self.now = Touched()

    def begins(self, live: Live) -> None:
        """A run begins."""
        self._live = live
        self._flying.clear()
        self._waits.clear()
        self.now = Touched()

    def next(self) -> Touched:
        """Another action begins; what the last one touched."""
        done, self.now = self.now, Touched()
        return done

    def performs(self, token: int, what: object) -> None:
        """What a chooser was told."""
        if what is Footprint.ALL or token not in self._flying:
            self.now.all = True
            return
        if what is not None:
            self.now.writes.add(id(what))
        cq, memory = self._flying[token]
        self.now.writes.add(cq)
        self.now.memory += memory

    def __call__(self, event: Event) -> None:
        if isinstance(event, OfRing):
            self._ring, event = event.ring, event.event
        looks = self._looks.get(type(event))
        if looks is not None:
            looks(event)

    def _at_queue(self, event: CqePosted | CqeReaped | Parked | Woken) -> None:
        self.now.writes.add((self._ring, event.cq))

    def _starts(self, event: RunStarted) -> None:
        writes = self.now.writes
        writes |= self._maps.get(event.program, frozenset())
        if event.request in self._waits:
            writes.add(self._waits[event.request])
        self.now.all |= not self._plain

    def _stops(self, event: RunEnded) -> None:
        if event.wait_cq is not None:
            queue = self._ring, event.wait_cq
            self.now.writes.add(queue)
            self._waits[event.request] = queue
        self.now.all |= event.on_word

    def _issued(self, event: SqeIssued) -> None:
        self.now.writes.add("submitting")
        self.reads_time |= event.opcode in _TIMED
        self.now.all |= bool(event.chain) or bool(event.flags & SQE_IO_DRAIN)
        memory = memory_of(event.sqe, self._live)
        ranges = [(start, start + size, fills) for _, start, size, fills in memory]
        self._flying[event.request] = (self._ring, event.cq), ranges

    def _called(self, event: HelperCalled) -> None:
        name = event.helper
        if name in _OF_QUEUES:
            self.now.writes.add((self._ring, event.args[_OF_QUEUES[name]] & U32))
        elif name in _SUBMITS:
            self.now.writes.add("submitting")
        elif name in COPIES:
            at, length, writes = COPIES[name]
            start = event.args[at]
            self.now.memory.append((start, start + event.args[length], writes))
        elif name in _CLOCKS:
            self.reads_time = True
        elif name not in _APART:
            self.now.all = True


def _maps_of(obj: BpfObject, program: Program) -> frozenset[object]:
    """The maps that a program names and could change."""
    found: set[object] = set()
    for insn in program.insns:
        if insn.src in (Pseudo.MAP_IDX, Pseudo.MAP_IDX_VALUE) and insn.spec.kind is Kind.LDDW:
            spec = obj.maps[insn.imm & 0xFFFF_FFFF]
            if not spec.flags & BPF_F_RDONLY_PROG:
                found.add(("map", spec.name))
    return frozenset(found)

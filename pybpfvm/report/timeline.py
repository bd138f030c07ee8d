"""A run as a picture, before anybody draws it: what lasted how long, in which lane, and what led
to what. One value, made from the event stream, that the page and the terminal draw alike.

Every event is a step. Much of a simulated run happens at one moment of virtual time, so places are
steps with their time: drawers can lay them out by either. A timeline is bounded: of more items
than its budget the first and the last are kept, and `left_out` counts the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

USER = "user"


class At(NamedTuple):
    """A place: the number of the event, from 0, and its time since the run began."""

    step: int
    time_ns: int


@dataclass(frozen=True, slots=True)
class Request:
    """From the SQE to the last CQE. `end` None: it was in flight when the run ended.

    `by` is the run that submitted it. `behind` is the request before it in its chain, and
    `started` when its turn came: as told, or else when the one before it ended.
    `quiet`: it ended without a CQE. `cqes` are those that it has posted. `ring` is the name of its
    ring, where there are several: their CQs are numbered one ring after the other.
    """

    id: int
    number: int
    begin: At
    opcode: int
    user_data: int
    cq: int
    flags: int
    origin: str
    sqe: bytes
    by: int | None = None
    chain: int = 0
    behind: int = 0
    started: At | None = None
    end: At | None = None
    res: int | None = None
    cqe_flags: int = 0
    quiet: bool = False
    cqes: int = 0
    ring: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """A run of a program. `wait_cq` is what it asked to wait on, `fault` why it was broken off."""

    id: int
    program: str
    begin: At
    request: int
    number: int
    slot: int
    end: At | None = None
    result: int | None = None
    insns: int = 0
    wait_cq: int | None = None
    wait_nr: int = 0
    refused: str = ""
    fault: str = ""
    fault_program: str = ""
    fault_pc: int = -1


@dataclass(frozen=True, slots=True)
class Call:
    """A helper call of run `run` (an id; None: of a run that is not on the ring)."""

    id: int
    at: At
    run: int | None
    helper: str
    pc: int
    args: tuple[int, ...]
    result: int


@dataclass(frozen=True, slots=True)
class Park:
    """A request waits until CQ `cq` holds `wanted` CQEs. `held` is what it held at the end, and
    `woken_by` the CQE that came last before that."""

    id: int
    request: int
    program: str
    begin: At
    cq: int
    wanted: int
    end: At | None = None
    held: int = 0
    woken_by: int | None = None


@dataclass(frozen=True, slots=True)
class HostWait:
    """The host waits, as events.HostWaits says. `late`: the deadline ended it."""

    id: int
    begin: At
    cq: int
    wanted: int
    end: At | None = None
    held: int = 0
    late: bool = False


@dataclass(frozen=True, slots=True)
class Cqe:
    """A CQE from `begin`, when it was posted, to `end`, when it was reaped by `reaper`.

    `fate` is that of events.CqePosted; one with a backlog has `entered` the CQ later. `held` and
    `left` are how many CQEs the CQ held when it had come and when it had gone. `source` is the
    request that it completes, or the run that emitted it, and `to` the run that reaped it (ids).
    """

    id: int
    cq: int
    begin: At
    user_data: int
    res: int
    flags: int
    fate: str
    origin: str
    request: int | None
    source: int | None
    entered: At | None = None
    held: int = 0
    end: At | None = None
    left: int = 0
    reaper: str = ""
    to: int | None = None


@dataclass(frozen=True, slots=True)
class Mark:
    """A note: a step of the scenario, an injected fault, ..."""

    id: int
    at: At
    kind: str
    text: str
    request: int | None
    cq: int | None


Item = Request | Run | Call | Park | HostWait | Cqe | Mark


@dataclass(frozen=True, slots=True)
class Lane:
    """What is drawn in one band: `kind` is "host", "program", "cq" or "requests"."""

    kind: str
    name: str
    cq: int = -1


@dataclass(frozen=True, slots=True)
class Arrow:
    """One thing led to another, at `at`: items by id. `kind` is "submits", "links", "completes",
    "emits", "wakes" or "reaps"."""

    kind: str
    at: At
    source: int
    target: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """Who waits at the end, for what: the item concerned, and what CQ `cq` holds instead."""

    id: int
    who: str
    text: str


@dataclass(frozen=True, slots=True)
class Setting:
    """What was run. `virtual`: times are a simulated clock's. `cq_entries` are the sizes of all
    CQs (of all rings), `opcodes` names, `stopped` what broke the run off ("": nothing)."""

    title: str = ""
    object: str = ""
    abi: str = ""
    backend: str = ""
    engine: str = ""
    seed: int | None = None
    virtual: bool = True
    cq_entries: tuple[int, ...] = ()
    opcodes: Mapping[int, str] = field(default_factory=dict)
    stopped: str = ""


@dataclass(frozen=True, slots=True)
class Budget:
    """How many items are kept: the first `head` and the last `tail`."""

    head: int = 60_000
    tail: int = 20_000


@dataclass(frozen=True, slots=True)
class Timeline:
    """The picture. Items of a kind are in order of their ids; `rows` gives each request (by id) a
    row in which it overlaps no other. `gap` is where items were left out."""

    setting: Setting
    steps: int
    end: At
    requests: tuple[Request, ...]
    runs: tuple[Run, ...]
    calls: tuple[Call, ...]
    parks: tuple[Park, ...]
    host_waits: tuple[HostWait, ...]
    cqes: tuple[Cqe, ...]
    marks: tuple[Mark, ...]
    lanes: tuple[Lane, ...]
    rows: Mapping[int, int]
    arrows: tuple[Arrow, ...]
    waiting: tuple[Waiting, ...]
    left_out: Mapping[str, int]
    gap: tuple[At, At] | None

    def items(self) -> Iterator[Item]:
        """Everything that is drawn, kind by kind."""
        yield from self.requests
        yield from self.runs
        yield from self.calls
        yield from self.parks
        yield from self.host_waits
        yield from self.cqes
        yield from self.marks

    def cq_name(self, cq: int) -> str:
        """What a CQ is called."""
        return next((lane.name for lane in self.lanes if lane.cq == cq), f"CQ {cq}")

    @property
    def missing(self) -> int:
        """How many items were left out."""
        return sum(self.left_out.values())


def begin_of(item: Item) -> At:
    """Where an item begins."""
    return item.at if isinstance(item, Call | Mark) else item.begin

"""A scenario as values: what to load, set up, do and expect. Immutable, independent of any ring.

Names stand for what only exists at run time: `Ref` for the address of a user block, the number of
a descriptor, the slot of a program or a number of the ring. docs/scenarios.md is the format's
description.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from pybpfvm.filters.table import Registration, Scope
from pybpfvm.uring_backend.conditions import Conditions
from pybpfvm.uring_backend.faults import Faults


class RefKind(Enum):
    """What a name stands for; the value is its key in a scenario."""

    BLOCK = "block"
    FD = "fd"
    PROG = "prog"
    RING = "ring"


@dataclass(frozen=True, slots=True)
class Ref:
    """The address of block `name` plus `offset`, the number of descriptor `name`, the slot of
    program `name`, or what io_uring_setup reports as `name` (`LoopRing.layout`)."""

    kind: RefKind
    name: str
    offset: int = 0

    def __str__(self) -> str:
        return f"{self.kind.value} {self.name}" + (f"+{self.offset}" if self.offset else "")


Number = int | Ref
Field = Number | bytes | tuple["Field", ...] | Mapping[str, "Field"]

# --- content of blocks, files and messages ------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Raw:
    """These bytes."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Fill:
    """`size` times `byte`."""

    byte: int
    size: int


@dataclass(frozen=True, slots=True)
class Words:
    """Little-endian integers of `width` bytes each."""

    width: int
    values: tuple[Number, ...]


@dataclass(frozen=True, slots=True)
class PathOf:
    """The path by which requests open the file `name`, with its NUL."""

    name: str


@dataclass(frozen=True, slots=True)
class AddressOf:
    """The sockaddr of the listening socket `fd`, 16 bytes."""

    fd: str


@dataclass(frozen=True, slots=True)
class Typed:
    """A struct of the object's BTF; fields left out are zero."""

    struct: str
    fields: Mapping[str, Field]


@dataclass(frozen=True, slots=True)
class Joined:
    """Parts, one after the other."""

    parts: tuple[Content, ...]


Content = Raw | Fill | Words | PathOf | AddressOf | Typed | Joined

# --- set-up ---------------------------------------------------------------------------------


MAIN_RING = "main"


@dataclass(frozen=True, slots=True)
class BufferRing:
    """Buffers that requests select from group `group`: `block` holds the entries, 16 bytes each,
    which name the blocks `buffers` by position; as it was filled where there are none."""

    group: int
    block: str
    buffers: tuple[str, ...] = ()
    incremental: bool = False


@dataclass(frozen=True, slots=True)
class RingSetup:
    """io_uring_setup's arguments (`flags` None: what rings of the ABI have by default), and what is
    registered before the first step; `mem` is the block that is the MEM region, `contexts` are
    names of blocks, or of maps where no block has the name."""

    entries: int = 8
    cq_entries: tuple[int, ...] = ()
    cq0_entries: int | None = None
    flags: int | None = None
    files: tuple[str | None, ...] = ()  # None: an empty slot
    buffers: tuple[str, ...] = ()
    buffer_rings: tuple[BufferRing, ...] = ()
    mem: str | None = None
    contexts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RingPlan:
    """A ring of a scenario, and what is on it before the first step: `programs` and `attach` as of
    a Scenario."""

    setup: RingSetup
    programs: tuple[str | None, ...] = ()
    attach: tuple[str, ...] | None = ()


@dataclass(frozen=True, slots=True)
class NetworkChange:
    """What the simulated network is like from now on: all of it, or the link of `peer`.

    `reset` breaks the connections there are.
    """

    conditions: Conditions
    peer: str | None = None
    reset: bool = False


class FdKind(Enum):
    """How a descriptor comes to be; the value is its key in a scenario."""

    OPEN = "open"
    LISTEN = "listen"
    SOCKET = "socket"
    SOCKETPAIR = "socketpair"
    DATAGRAMS = "datagrams"
    PIPE = "pipe"
    EVENTFD = "eventfd"
    EPOLL = "epoll"
    RING = "ring"


@dataclass(frozen=True, slots=True)
class FdSetup:
    """A descriptor. `target` is the file to open, the peer's name, the name of a pipe's write end,
    or a ring's; `flags` and `mode` are open(2)'s, `count` is an eventfd's."""

    name: str
    kind: FdKind
    target: str = ""
    flags: int = 0
    mode: int = 0o644
    count: int = 0


# --- steps ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SqeSpec:
    """An SQE by field names of `uring_backend.abi.Sqe`; `opcode` None is the ABI's BPF opcode."""

    opcode: int | None
    fields: Mapping[str, Number]
    cq_idx: int = 0


@dataclass(frozen=True, slots=True)
class Submit:
    """Submit these SQEs with one call; `consumed` is what the call should return, `errno` the
    refusal that is expected, or 0."""

    sqes: tuple[SqeSpec, ...]
    consumed: int | None = None
    errno: int = 0


@dataclass(frozen=True, slots=True)
class Wait:
    """Reap `count` CQEs from CQ `cq`, waiting at most `timeout_ns` of the ring's clock for each."""

    count: int
    cq: int = 0
    timeout_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Sleep:
    """Let `duration_ns` of the ring's clock pass; programs run meanwhile."""

    duration_ns: int


@dataclass(frozen=True, slots=True)
class Write:
    """Write to user memory."""

    block: str
    content: Content
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Connect:
    """Make `peer` a client of the listening socket `to`."""

    peer: str
    to: str


@dataclass(frozen=True, slots=True)
class PeerSend:
    """Send from `peer`, all of it."""

    peer: str
    content: Content


@dataclass(frozen=True, slots=True)
class PeerRecv:
    """`peer` receives exactly this; `end`: and then the end of the stream. `timeout_ns` is for
    each of the two, by the ring's clock; None: 5 s."""

    peer: str
    content: Content
    end: bool = False
    timeout_ns: int | None = None


@dataclass(frozen=True, slots=True)
class PeerEnd:
    """`peer` shuts down its sending side, or closes."""

    peer: str
    close: bool


@dataclass(frozen=True, slots=True)
class CloseFd:
    """Close a descriptor of the requests' side."""

    fd: str


@dataclass(frozen=True, slots=True)
class Register:
    """Register programs (None: an empty slot); `errno` is the refusal that is expected, or 0."""

    programs: tuple[str | None, ...]
    errno: int = 0


@dataclass(frozen=True, slots=True)
class Unregister:
    """Unregister the programs; `errno` is the refusal that is expected, or 0."""

    errno: int = 0


@dataclass(frozen=True, slots=True)
class FilterSpec:
    """A filter of requests to register; `errno` is the refusal that is expected, or 0."""

    wanted: Registration
    scope: Scope = Scope.RING
    errno: int = 0


@dataclass(frozen=True, slots=True)
class Attach:
    """Put callbacks onto the ring; `errno` is the refusal that is expected, or 0."""

    callbacks: str
    errno: int = 0


@dataclass(frozen=True, slots=True)
class Detach:
    """Take callbacks off the ring."""

    callbacks: str


@dataclass(frozen=True, slots=True)
class Enter:
    """io_uring_enter with these arguments; `result` is what it should return, `errno` the refusal
    that is expected, or 0."""

    to_submit: int = 0
    min_complete: int = 0
    flags: int = 0
    result: int | None = None
    errno: int = 0


@dataclass(frozen=True, slots=True)
class Enable:
    """Enable a ring that was made disabled; `errno` is the refusal that is expected, or 0."""

    errno: int = 0


@dataclass(frozen=True, slots=True)
class Signal:
    """A signal for the task: the next look for one ends an enter."""


@dataclass(frozen=True, slots=True)
class Later:
    """Do it when `delay_ns` of the ring's clock have passed, while an enter sleeps."""

    action: Action
    delay_ns: int


@dataclass(frozen=True, slots=True)
class Check:
    """Compare with expectations now."""

    expect: Expect


Action = (
    Submit
    | Wait
    | Sleep
    | Write
    | Connect
    | PeerSend
    | PeerRecv
    | PeerEnd
    | CloseFd
    | Register
    | Unregister
    | FilterSpec
    | Attach
    | Detach
    | Enter
    | Enable
    | Signal
    | Later
    | Check
    | NetworkChange
)


@dataclass(frozen=True, slots=True)
class Step:
    """An action, where the scenario says so, and the ring that it is for ("": the first)."""

    action: Action
    where: str
    ring: str = ""


# --- expectations -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CqeSpec:
    """A CQE; None is any value. `extra`: its second half, on rings with CQE32."""

    user_data: Number | None = None
    res: int | None = None
    flags: int | None = None
    extra: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class CqSpec:
    """All CQEs that CQ `cq` gave to the host or still holds, in order or as a set."""

    cq: int
    cqes: tuple[CqeSpec, ...]
    ordered: bool = True


@dataclass(frozen=True, slots=True)
class MapSpecs:
    """Elements of map `name`: (key, value) pairs; of a struct value only the fields given."""

    name: str
    elements: tuple[tuple[Field, Field], ...]


@dataclass(frozen=True, slots=True)
class BytesSpec:
    """Content of block or file `name` from `offset` on; of a file, all of it."""

    name: str
    content: Content
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Expect:
    """What must hold. None or empty: not looked at. `rings`: of rings beside the first, their
    `cqs`, `counts`, `runs` and `overflow`."""

    cqs: tuple[CqSpec, ...] = ()
    counts: Mapping[int, int] = field(default_factory=dict)  # CQ -> number of its CQEs
    maps: tuple[MapSpecs, ...] = ()
    globals: Mapping[str, Field] = field(default_factory=dict)
    memory: tuple[BytesSpec, ...] = ()
    files: tuple[BytesSpec, ...] = ()
    runs: Mapping[str, int] = field(default_factory=dict)
    overflow: int | None = None
    that: tuple[str, ...] = ()  # expressions that hold (docs/expressions.md)
    hang: bool = False
    trap: str | None = None
    load_errno: int = 0
    rings: Mapping[str, Expect] = field(default_factory=dict)

    @property
    def about_state(self) -> int:
        """How many of these are about queues, maps, memory, files and runs."""
        elements = sum(len(spec.elements) for spec in self.maps)
        parts = (self.cqs, self.counts, self.globals, self.memory, self.files, self.runs, self.that)
        beside = sum(expect.about_state for expect in self.rings.values())
        return sum(map(len, parts)) + elements + (self.overflow is not None) + beside

    @property
    def stated(self) -> int:
        """How many there are."""
        ends = (self.hang, self.trap is not None, self.load_errno != 0)
        return self.about_state + sum(ends)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One file, read. `unverified`: its programs are registered, or attached, as they are.

    `attach` are the callbacks that are on a ring of a loop from the beginning; None: the object's
    only ones, unless a step attaches some. `constants` are given when the object is loaded,
    `globals` to the variables of the object then. `replace` names, by function, the object (PATH or
    PATH:PROGRAM) whose freplace program takes its place. `contract` is the text of one, by which
    programs are verified when they are registered. `ring` is the first ring, whose name is
    `ring_name`, `rings` are those beside it.
    """

    path: str
    object: Path
    abi: str | None
    programs: tuple[str | None, ...]
    ring: RingSetup
    blocks: Mapping[str, Content]
    files: Mapping[str, Content]
    fds: tuple[FdSetup, ...]
    steps: tuple[Step, ...]
    expect: Expect
    faults: Faults | None = None
    title: str = ""
    unverified: bool = False
    contract: str | None = None
    network: NetworkChange | None = None
    filters: tuple[FilterSpec, ...] = ()  # registered before the first step
    attach: tuple[str, ...] | None = None
    constants: Mapping[str, Field] = field(default_factory=dict)
    globals: Mapping[str, Field] = field(default_factory=dict)
    replace: Mapping[str, str] = field(default_factory=dict)
    schedule: str | None = None  # in which order things happen: see `schedule`
    invariants: tuple[str, ...] = ()  # expressions that hold after each run of a program
    seed: Path | None = None  # a host directory that the files begin as
    dump: Path | None = None  # and one that gets them at the end
    ring_name: str = MAIN_RING
    rings: Mapping[str, RingPlan] = field(default_factory=dict)

    @property
    def plans(self) -> Mapping[str, RingPlan]:
        """All rings by name, the first one first."""
        first = RingPlan(self.ring, self.programs, self.attach)
        return {self.ring_name: first, **self.rings}

    @property
    def stated(self) -> int:
        """How many expectations there are: at the end, in steps, of filters at the beginning, and
        always."""
        steps = sum(_stated(step.action) for step in self.steps)
        filters = sum(map(_stated, self.filters))
        return self.expect.stated + steps + filters + len(self.invariants)

    def expressions(self) -> Iterator[tuple[str, str]]:
        """(place, text) of every expression, in the file's order."""
        for index, text in enumerate(self.invariants):
            yield f"{self.path}: invariant[{index}]", text
        for step in self.steps:
            if isinstance(step.action, Check):
                for index, text in enumerate(step.action.expect.that):
                    yield f"{step.where}.that[{index}]", text
        for index, text in enumerate(self.expect.that):
            yield f"{self.path}: expect.that[{index}]", text


def _stated(action: Action) -> int:
    """How many expectations a step has. Waits and sends that come to nothing need none."""
    match action:
        case Check():
            return action.expect.stated
        case Submit():
            return (action.consumed is not None) + (action.errno != 0)
        case Enter():
            return (action.result is not None) + (action.errno != 0)
        case PeerRecv():
            return 1 + action.end
        case Register() | Unregister() | FilterSpec() | Attach() | Enable():
            return int(action.errno != 0)
        case Later():
            return _stated(action.action)
        case _:
            return 0

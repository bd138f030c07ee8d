"""A scenario as values: what to load, set up, do and expect. Immutable, independent of any ring.

Names stand for what only exists at run time: `Ref` for the address of a user block, the number of
a descriptor or the slot of a program. docs/scenarios.md is the format's description.
"""

from __future__ import annotations

from collections.abc import Mapping
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


@dataclass(frozen=True, slots=True)
class Ref:
    """The address of block `name` plus `offset`, the number of descriptor `name`, or the slot of
    program `name`."""

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


@dataclass(frozen=True, slots=True)
class RingSetup:
    """io_uring_setup's arguments, and what is registered before the first step."""

    entries: int = 8
    cq_entries: tuple[int, ...] = ()
    cq0_entries: int | None = None
    flags: int = 0
    files: tuple[str | None, ...] = ()  # None: an empty slot
    buffers: tuple[str, ...] = ()


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


@dataclass(frozen=True, slots=True)
class FdSetup:
    """A descriptor. `target` is the file to open, the peer's name, or the name of a pipe's write
    end; `flags` and `mode` are open(2)'s."""

    name: str
    kind: FdKind
    target: str = ""
    flags: int = 0
    mode: int = 0o644


# --- steps ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SqeSpec:
    """An SQE by field names of `uring_backend.abi.Sqe`; `opcode` None is the ABI's BPF opcode."""

    opcode: int | None
    fields: Mapping[str, Number]
    cq_idx: int = 0


@dataclass(frozen=True, slots=True)
class Submit:
    """Submit these SQEs with one call; `consumed` is what the call should return."""

    sqes: tuple[SqeSpec, ...]
    consumed: int | None = None


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
    | Check
    | NetworkChange
)


@dataclass(frozen=True, slots=True)
class Step:
    """An action, and where the scenario says so."""

    action: Action
    where: str


# --- expectations -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CqeSpec:
    """A CQE; None is any value."""

    user_data: Number | None = None
    res: int | None = None
    flags: int | None = None


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
    """What must hold. None or empty: not looked at."""

    cqs: tuple[CqSpec, ...] = ()
    counts: Mapping[int, int] = field(default_factory=dict)  # CQ -> number of its CQEs
    maps: tuple[MapSpecs, ...] = ()
    globals: Mapping[str, Field] = field(default_factory=dict)
    memory: tuple[BytesSpec, ...] = ()
    files: tuple[BytesSpec, ...] = ()
    runs: Mapping[str, int] = field(default_factory=dict)
    overflow: int | None = None
    hang: bool = False
    trap: str | None = None
    load_errno: int = 0

    @property
    def about_state(self) -> int:
        """How many of these are about queues, maps, memory, files and runs."""
        elements = sum(len(spec.elements) for spec in self.maps)
        parts = (self.cqs, self.counts, self.globals, self.memory, self.files, self.runs)
        return sum(map(len, parts)) + elements + (self.overflow is not None)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One file, read. `unverified`: its programs are registered as they are."""

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
    network: NetworkChange | None = None
    filters: tuple[FilterSpec, ...] = ()  # registered before the first step
    seed: Path | None = None  # a host directory that the files begin as
    dump: Path | None = None  # and one that gets them at the end

"""What happens while programs run, as values: the account `run` prints, and later recordings,
timelines and debuggers, are all readers of this one stream.

Everything here is immutable. `time_ns` is the backend's clock: virtual in `sim`, CLOCK_MONOTONIC
since the ring was made in `kernel`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RunStarted:
    """Program `program` (slot `slot`) starts run number `run` (1-based) of request `request`."""

    time_ns: int
    request: int
    program: str
    slot: int
    run: int
    user_data: int


@dataclass(frozen=True, slots=True)
class HelperCalled:
    """The running program called `helper` at `pc` (negative: the engine does not know); `result`
    is r0 afterwards, unsigned 64-bit."""

    time_ns: int
    helper: str
    pc: int
    args: tuple[int, ...]
    result: int


@dataclass(frozen=True, slots=True)
class RunEnded:
    """The run is over: r0, and what the program asked for ("done" or "wait for N on CQ i").
    `request` 0: the program is that of a ring's loop, which r0 tells whether to go on.

    `refused` says why that can not be waited for; the request then ends with -EINVAL. `on_word`: it
    asked to wait for a futex.
    """

    time_ns: int
    request: int
    program: str
    run: int
    result: int
    insns: int
    wait_cq: int | None
    wait_nr: int
    refused: str = ""
    on_word: bool = False


@dataclass(frozen=True, slots=True)
class RunFaulted:
    """The run was broken off by a Trap at `pc` (slots) of `program`, for `reason` (one line).

    `insns` were executed, the one at `pc` included unless the budget stopped it.
    """

    time_ns: int
    request: int
    program: str
    run: int
    pc: int
    reason: str
    insns: int


@dataclass(frozen=True, slots=True)
class SqeIssued:
    """A request was handed to the backend; `origin` is "user" or the program's name.

    `sqe` is its 64 bytes as they were submitted, `chain` the first request of the chain of links
    that it is part of (0: none; a chain may turn out to have one member).
    """

    time_ns: int
    request: int
    opcode: int
    user_data: int
    cq: int
    flags: int
    origin: str
    sqe: bytes = b""
    chain: int = 0


@dataclass(frozen=True, slots=True)
class RequestStarted:
    """The turn of a request has come that the ring performs itself: BPF requests, and those that
    name others. Of the rest the backend tells only the end."""

    time_ns: int
    request: int


@dataclass(frozen=True, slots=True)
class RequestEnded:
    """Nothing more comes of a request but the CQE with this `res` and `flags`, the next event.
    `quiet`: there is not even that, because the SQE or the ABI wants it so."""

    time_ns: int
    request: int
    res: int
    flags: int
    quiet: bool


@dataclass(frozen=True, slots=True)
class CqePosted:
    """A CQE entered CQ `cq` ("posted"), its backlog ("backlog") or was lost ("dropped").

    `request` is the request it completes and `origin` who submitted that: "user" or a program's
    name; `request` None is a CQE that program `origin` emitted.
    """

    time_ns: int
    cq: int
    user_data: int
    res: int
    flags: int
    fate: str
    origin: str
    request: int | None = None


@dataclass(frozen=True, slots=True)
class CqeReaped:
    """A CQE left CQ `cq`; `by` is "user" or the program's name."""

    time_ns: int
    cq: int
    user_data: int
    res: int
    flags: int
    by: str


@dataclass(frozen=True, slots=True)
class Parked:
    """Request `request` waits until CQ `cq` holds `wanted` unreaped CQEs."""

    time_ns: int
    request: int
    program: str
    cq: int
    wanted: int


@dataclass(frozen=True, slots=True)
class Woken:
    """Request `request` was parked and will run again: CQ `cq` holds `held` unreaped CQEs."""

    time_ns: int
    request: int
    program: str
    cq: int
    held: int


@dataclass(frozen=True, slots=True)
class HostWaits:
    """The host sleeps until CQ `cq` holds `wanted` CQEs; `wanted` 0: until no request lives."""

    time_ns: int
    cq: int
    wanted: int


@dataclass(frozen=True, slots=True)
class HostWoke:
    """The host's wait is over, CQ `cq` holds `held` CQEs. `late`: its deadline ended it. A wait
    that a hang or a trap ends has no such event."""

    time_ns: int
    cq: int
    held: int
    late: bool


@dataclass(frozen=True, slots=True)
class Noted:
    """Something worth seeing that no other event tells, of `request` or `cq` if it is of one.

    `kind` is a word to group by: "step" is a step of a scenario, "fault" one that was injected.
    """

    time_ns: int
    kind: str
    text: str
    request: int | None = None
    cq: int | None = None


@dataclass(frozen=True, slots=True)
class OfRing:
    """An event of the ring called `ring`, where there are several. No two of their requests have
    the same number."""

    ring: str
    event: Event

    @property
    def time_ns(self) -> int:
        """The event's."""
        return self.event.time_ns


Event = (
    RunStarted
    | HelperCalled
    | RunEnded
    | RunFaulted
    | SqeIssued
    | RequestStarted
    | RequestEnded
    | CqePosted
    | CqeReaped
    | Parked
    | Woken
    | HostWaits
    | HostWoke
    | Noted
    | OfRing
)
Observer = Callable[[Event], None]

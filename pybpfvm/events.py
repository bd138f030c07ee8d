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
    """The running program called `helper` at `pc`; `result` is r0 afterwards, unsigned 64-bit."""

    time_ns: int
    helper: str
    pc: int
    args: tuple[int, ...]
    result: int


@dataclass(frozen=True, slots=True)
class RunEnded:
    """The run is over: r0, and what the program asked for ("done" or "wait for N on CQ i")."""

    time_ns: int
    request: int
    program: str
    run: int
    result: int
    insns: int
    wait_cq: int | None
    wait_nr: int


@dataclass(frozen=True, slots=True)
class SqeIssued:
    """A request was handed to the backend; `origin` is "user" or the program's name."""

    time_ns: int
    request: int
    opcode: int
    user_data: int
    cq: int
    flags: int
    origin: str


@dataclass(frozen=True, slots=True)
class CqePosted:
    """A CQE entered CQ `cq` ("posted"), its backlog ("backlog") or was lost ("dropped")."""

    time_ns: int
    cq: int
    user_data: int
    res: int
    flags: int
    fate: str
    origin: str


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


Event = RunStarted | HelperCalled | RunEnded | SqeIssued | CqePosted | CqeReaped | Parked
Observer = Callable[[Event], None]

"""What an expression is evaluated in: a Scope, which a live ring, a recording or a test can be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from pybpfvm.events import CqePosted, CqeReaped, Event, HelperCalled, RunEnded, SqeIssued
from pybpfvm.program import MapSpec, Program
from pybpfvm.source.info import DebugInfo
from pybpfvm.uring_backend.abi import Cqe

CQ_FIELDS = ("ready", "head", "tail", "entries", "free")
SQ_FIELDS = ("ready", "head", "tail", "entries", "dropped")
RING_FIELDS = ("inflight", "parked", "overflow", "backlog", "time")


class Unreadable(Exception):
    """There is nothing to read, for the reason given."""


@dataclass(frozen=True, slots=True)
class Moment:
    """What an event tells: a CQE (16 or 32 bytes), an SQE (64), a helper by name, what it or a run
    returned (unsigned 64-bit)."""

    cqe: bytes | None = None
    sqe: bytes | None = None
    helper: str | None = None
    ret: int | None = None


class RingView(Protocol):
    """A ring, as it is now. Counts and words are unsigned."""

    def cqs(self) -> int:
        """How many CQs it has."""

    def cq(self, index: int, field: str) -> int:
        """One of CQ_FIELDS of a CQ that there is."""

    def cqe(self, index: int, ahead: int) -> bytes | None:
        """The CQE so many places behind the oldest one that nobody reaped."""

    def sq(self, field: str) -> int:
        """One of SQ_FIELDS."""

    def word(self, field: str) -> int:
        """One of RING_FIELDS: requests in flight, requests that wait for CQEs, CQEs lost and
        waiting for room, the clock in ns. Unreadable for what this ring has not."""

    def runs(self, program: str) -> int | None:
        """How often a program ran; None for one that is none of this ring's."""


class Scope(Protocol):
    """Where names come from and values are read. None: there is no such thing now.

    What programs, types, maps, blocks and constants there are may not change in the life of an
    expression that was compiled for it; everything else may.
    """

    @property
    def debug(self) -> DebugInfo | None:
        """The object's source."""

    @property
    def byteorder(self) -> Literal["little", "big"]:
        """The object's."""

    @property
    def program(self) -> Program | None:
        """The program that runs."""

    @property
    def pc(self) -> int:
        """The slot of its next instruction."""

    @property
    def regs(self) -> Sequence[int] | None:
        """r0 to r10, unsigned 64-bit."""

    @property
    def moment(self) -> Moment | None:
        """The event that is looked at."""

    @property
    def rings(self) -> Mapping[str, RingView]:
        """Rings by name; the first one is meant where none is named."""

    @property
    def constants(self) -> Mapping[str, int]:
        """Numbers by name besides those that every expression knows."""

    def read(self, addr: int, size: int) -> bytes:
        """So many bytes of memory. Raises Unreadable."""

    def block(self, name: str) -> tuple[int, int] | None:
        """(address, bytes) of a block of user memory."""

    def block_names(self) -> Iterable[str]:
        """Their names."""

    def describe(self, addr: int) -> str:
        """What lies at an address in a word or two, "" for nothing that has a name."""

    def maps(self) -> Mapping[str, MapSpec]:
        """The object's maps."""

    def element(self, name: str, key: bytes) -> bytes | None:
        """The value of an element of a map; None if there is none with this key. Looking must not
        change the map. Raises Unreadable."""

    def element_addr(self, name: str, key: bytes) -> int | None:
        """Where it lies, None if that is nowhere or there is none."""

    def keys(self, name: str) -> Iterable[bytes]:
        """The keys of a map, in its order. Raises Unreadable."""

    def data_address(self, section: str, offset: int) -> int | None:
        """Where a byte of a data section of the object lies."""


def moment_of(event: Event) -> Moment:
    """What an event tells."""
    match event:
        case CqePosted() | CqeReaped():
            return Moment(cqe=Cqe(event.user_data, event.res, event.flags).pack())
        case SqeIssued():
            return Moment(sqe=event.sqe or None)
        case HelperCalled():
            return Moment(helper=event.helper, ret=event.result)
        case RunEnded():
            return Moment(ret=event.result)
        case _:
            return Moment()

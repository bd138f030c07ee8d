"""What stands in a recording: records, each an array whose first item says what it is.

    HEADER  version of pybpfvm, base address, memory limit, options
    LOAD    an object: see objects.py
    RING    number, its options
    ENGINE  number, object, ring, program of a run outside rings, place, cpu, strict_ctx, turns of
            may_goto, handle of the loop
    CAME    start, size, kind, name, writable, followed: whether it is kept up to date before runs
    WENT    start
    HANDLE  address, what it stands for, name, pc
    MAP     object, map, operation, key, value, flags, place
    RUN     engine, program, context, packet (start, bytes), budget, place, changes of memory
    ASKED   what a program asked for, what with, the answer (null: that raised; an array: numbers,
            or, empty, that there is none), changes of memory by it
    READ    address, bytes: what a program read of user memory, where a replay has it not
    END     r0, instructions, how else it ended, digest, checksum of what was handed over (see
            digest.py; not in version 1), and of registers (null: the engine did not tell; not
            before version 3)
    EVENT   ring, what of `pybpfvm.events`, its fields
    CLOSED  runs, instructions, ns of wall time since the beginning
    SQES    ring, head, tail, dropped, the SQEs in its SQ: where that is another than before
    STATE   runs, instructions, events, digests and queues so far (as in a digest), a place, and
            what a replay has by then, each in msgpack: handles, regions, pages of memory that are
            not zero, maps, rings (see standing.py). Not before version 3

A place is where program memory and handles come next (AddressSpace.place); changes are
(address, bytes). All of a run stands between its RUN and END: ASKED and READ in order, and what
others did meanwhile. Other records are of the time between runs.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple, get_args, get_type_hints

from pybpfvm import events
from pybpfvm.errors import InputError
from pybpfvm.events import Event
from pybpfvm.memory import USER_KINDS, RegionKind

if TYPE_CHECKING:
    from pybpfvm.trace.format import Record


class Kind(IntEnum):
    """The first item of a record."""

    HEADER = 0
    LOAD = 1
    RING = 2
    ENGINE = 3
    CAME = 4
    WENT = 5
    HANDLE = 6
    MAP = 7
    RUN = 8
    ASKED = 9
    READ = 10
    END = 11
    EVENT = 12
    CLOSED = 13
    SQES = 14
    STATE = 15


class Ask(IntEnum):
    """What programs ask of the world."""

    CLOCK = 0
    RANDOM = 1
    LOG = 2
    SUBMIT = 3
    EMIT = 4
    REAP = 5
    REQUEUE = 6
    SUBMIT_SQES = 7
    REGION = 8
    QUEUE_SQE = 9
    POST_CQE = 10
    CQE_ADDR = 11
    WAIT_FOR = 12
    NEXT_CQE = 13
    SET_RESULT = 14
    COPY_BUFFERS = 15
    SOCKET_STATE = 16
    SOCKET_PEEK = 17
    XOR_BUFFER = 18


class Numbers(NamedTuple):
    """SocketNumbers, as an answer."""

    inq: int
    rcvbuf: int
    rmem_alloc: int
    mss: int


class Op(IntEnum):
    """What a host does to a map."""

    UPDATE = 0
    DELETE = 1
    DRAIN = 2
    TAKE = 3


REGION_KINDS = {kind: number for number, kind in enumerate(RegionKind)}
# What others than programs bring and change, and all of memory that a recording may touch.
WORLD_KINDS = USER_KINDS | {RegionKind.CTX, RegionKind.PACKET, RegionKind.RING}
KIND_OF_REGION = {REGION_KINDS[kind]: kind for kind in WORLD_KINDS}

_EVENTS: tuple[tuple[type, tuple[str, ...]], ...] = tuple(
    (kind, tuple(kind.__dataclass_fields__))
    for kind in (
        events.RunStarted,
        events.RunEnded,
        events.RunFaulted,
        events.SqeIssued,
        events.RequestStarted,
        events.RequestEnded,
        events.CqePosted,
        events.CqeReaped,
        events.Parked,
        events.Woken,
        events.HostWaits,
        events.HostWoke,
        events.Noted,
    )
)
# The types that the fields of each may have; bool is not int here.
_TYPES: tuple[tuple[frozenset[type], ...], ...] = tuple(
    tuple(
        frozenset(get_args(hint) or (hint,))
        for name, hint in get_type_hints(kind).items()
        if name in fields
    )
    for kind, fields in _EVENTS
)
# What was found in order before, so that the next of its like is looked up: recordings have
# millions of records of a few shapes. Of events their number and types, of records the types asked
# for and had; both are few, whatever a file holds: lengths are fixed, and so are allowed types.
_GOOD_EVENTS: set[tuple[Any, ...]] = set()
_GOOD_RECORDS: set[tuple[Any, ...]] = set()
_FIELDS: dict[type, tuple[int, Callable[[Any], tuple[Any, ...]]]] = {
    kind: (number, attrgetter(*fields)) for number, (kind, fields) in enumerate(_EVENTS)
}


def event_record(ring: int, event: Event) -> Record | None:
    """The record of an event of a ring; None for calls of helpers, which a replay makes anew."""
    found = _FIELDS.get(type(event))
    if found is None:
        return None
    number, fields = found
    return (Kind.EVENT, ring, number, fields(event))


def event_of(record: Record) -> Event:
    """The event that `event_record` made. Raises InputError."""
    _, _, number, fields = items(record, int, int, tuple)
    check_event(number, fields)
    return made_event(number, fields)


def made_event(number: int, fields: tuple[Any, ...]) -> Event:
    """An event that `check_event` let pass."""
    event: Event = _EVENTS[number][0](*fields)
    return event


def check_event(number: int, fields: tuple[Any, ...]) -> None:
    """Raise InputError unless an event of this number has such fields."""
    given = (number, *map(type, fields))
    if given in _GOOD_EVENTS:
        return
    if not 0 <= number < len(_EVENTS):
        raise InputError(f"event {number} with {len(fields)} fields")
    kind, names = _EVENTS[number]
    if len(fields) != len(names):
        raise InputError(f"event {kind.__name__} with {len(fields)} fields")
    for name, allowed, value in zip(names, _TYPES[number], fields, strict=True):
        if type(value) not in allowed:
            raise InputError(f"event {kind.__name__} with {name} {value!r:.60}")
    _GOOD_EVENTS.add(given)


def event_number(kind: type) -> int:
    """The number of a kind of events."""
    return _FIELDS[kind][0]


def field_of(kind: type, name: str) -> int:
    """Which of a kind's fields is called so."""
    return _EVENTS[event_number(kind)][1].index(name)


def items(record: Record, *types: type | tuple[type, ...]) -> Record:
    """The record, if its items behind the first are of these types, in order. Raises InputError."""
    shape = (types, *map(type, record))
    if shape in _GOOD_RECORDS:
        return record
    if len(record) != len(types) + 1:
        raise InputError(f"a record {kind_of(record).name} of {len(record)} items")
    for item, wanted in zip(record[1:], types, strict=True):
        if not isinstance(item, wanted):
            raise InputError(f"a record {kind_of(record).name} with {item!r:.60}")
    _GOOD_RECORDS.add(shape)
    return record


def kind_of(record: object) -> Kind:
    """What the record is. Raises InputError for none."""
    if not isinstance(record, tuple) or not record or not isinstance(record[0], int):
        raise InputError(f"{record!r:.60} is no record")
    try:
        return Kind(record[0])
    except ValueError:
        raise InputError(f"a record of unknown kind {record[0]}") from None

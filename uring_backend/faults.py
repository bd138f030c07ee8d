"""Faults as values, and their one line of text: what `--faults` takes and a replay line prints.

    READ#2=EIO              the second READ that is tried fails with -EIO
    RECV#1=short:3          the first RECV moves at most 3 bytes
    RECV#2=reset            the connection is reset before the second RECV
    WRITE#4=late:20us       a worker performs the fourth WRITE, 20 microseconds later
    run#3=write:word+4:ff00 the user side writes these bytes before the third run of a program
    run#3=reap:1            the user side takes a CQE from CQ 1 before the third run
    backlog=0               there is no memory for CQEs beyond a full CQ 0: they are lost
    READ=EIO@0.1            each READ that is tried fails with this probability; without one, all

In a block's name, what has a meaning here is written as in addresses of the web: `my%20word`.
Requests are counted per opcode, runs over all programs, both from 1. Only what a kernel can do is
a fault: `LEGAL` and `MAY_WAIT` say which, with the behaviour that each one stands for.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final
from urllib.parse import quote, unquote

from pybpfvm.errors import InputError
from pybpfvm.uring_backend.abi import Op

_ERRNO: Final = {name: number for number, name in errno.errorcode.items()}
_NS: Final = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}
_NO_MEMORY: Final = "the kernel finds no memory for the request"
_SIGNAL: Final = "a signal ends the wait of a worker (a slow or remote file system)"
_DEVICE: Final = "the device fails"
_NAME_CHARACTERS: Final = "/@!$&()"
_FULL: Final = "the file system is full when the data is placed"

_READ: Final = {errno.EIO: _DEVICE, errno.EINTR: _SIGNAL, errno.ENOMEM: _NO_MEMORY}
_WRITE: Final = {**_READ, errno.ENOSPC: _FULL, errno.EDQUOT: "the user's quota is used up"}
_NAME: Final = {errno.EIO: _DEVICE, errno.ENOMEM: _NO_MEMORY, errno.EINTR: _SIGNAL}
_NEW_NAME: Final = {**_NAME, errno.ENOSPC: _FULL, errno.EDQUOT: "the user's quota is used up"}
_NEW_FD: Final = {
    errno.EMFILE: "the process has no descriptor left",
    errno.ENFILE: "the system has no open file left",
    errno.ENOMEM: _NO_MEMORY,
}
_RECEIVE: Final = {errno.ENOMEM: _NO_MEMORY, errno.EINTR: "a signal ends a worker's wait"}
_SEND: Final = {**_RECEIVE, errno.ENOBUFS: "the network stack has no buffer"}

LEGAL: Final[Mapping[Op, Mapping[int, str]]] = {
    Op.READ: _READ,
    Op.READV: _READ,
    Op.READ_FIXED: _READ,
    Op.WRITE: _WRITE,
    Op.WRITEV: _WRITE,
    Op.WRITE_FIXED: _WRITE,
    Op.FSYNC: {errno.EIO: "data written earlier never reached the device", errno.ENOSPC: _FULL},
    Op.FALLOCATE: {errno.ENOSPC: _FULL, errno.EIO: _DEVICE, errno.EINTR: _SIGNAL},
    Op.FTRUNCATE: {errno.EIO: _DEVICE},
    Op.OPENAT: {**_NAME, **_NEW_FD},
    Op.OPENAT2: {**_NAME, **_NEW_FD},
    Op.STATX: {errno.EIO: _DEVICE, errno.ENOMEM: _NO_MEMORY},
    Op.UNLINKAT: _NAME,
    Op.MKDIRAT: _NEW_NAME,
    Op.RENAMEAT: _NEW_NAME,
    Op.CLOSE: {
        errno.EIO: "data written earlier never reached the device; the descriptor is closed",
    },
    Op.SOCKET: _NEW_FD,
    Op.ACCEPT: _NEW_FD,
    Op.CONNECT: {
        errno.ECONNREFUSED: "nobody listens there any more",
        errno.ETIMEDOUT: "nobody answers",
        errno.ENETUNREACH: "there is no route",
    },
    Op.RECV: _RECEIVE,
    Op.RECVMSG: _RECEIVE,
    Op.SEND: _SEND,
    Op.SENDMSG: _SEND,
    Op.TIMEOUT: {errno.ENOMEM: _NO_MEMORY},
    Op.POLL_ADD: {errno.ENOMEM: _NO_MEMORY},
    Op.READV_FIXED: _READ,
    Op.WRITEV_FIXED: _WRITE,
    Op.SEND_ZC: _SEND,
    Op.SENDMSG_ZC: _SEND,
    Op.SYNC_FILE_RANGE: {errno.EIO: _DEVICE, errno.ENOMEM: _NO_MEMORY, errno.ENOSPC: _FULL},
    Op.LINKAT: _NEW_NAME,
    Op.SYMLINKAT: _NEW_NAME,
    Op.SETXATTR: _NEW_NAME,
    Op.FSETXATTR: _NEW_NAME,
    Op.GETXATTR: _NAME,
    Op.FGETXATTR: _NAME,
    Op.PIPE: _NEW_FD,
    Op.FIXED_FD_INSTALL: {errno.EMFILE: _NEW_FD[errno.EMFILE]},
}
"""Which errors an opcode may meet at any time, and what each stands for."""

MAY_BE_SHORT: Final = frozenset(
    {
        Op.READ,
        Op.READV,
        Op.READ_FIXED,
        Op.WRITE,
        Op.WRITEV,
        Op.WRITE_FIXED,
        Op.RECV,
        Op.RECVMSG,
        Op.SEND,
        Op.SENDMSG,
        Op.READV_FIXED,
        Op.WRITEV_FIXED,
        Op.SEND_ZC,
        Op.SENDMSG_ZC,
    }
)
"""A device error or a full disk part way; on pipes and sockets, what was there or fitted."""

MAY_WAIT: Final = frozenset(LEGAL) - {
    *(Op.TIMEOUT, Op.POLL_ADD, Op.FTRUNCATE),
    *(Op.PIPE, Op.FIXED_FD_INSTALL),
}
"""What would have to wait, for a lock or for data, goes to a worker: late, and out of turn."""

MAY_BE_RESET: Final = frozenset(
    {Op.RECV, Op.RECVMSG, Op.SEND, Op.SENDMSG, Op.SEND_ZC, Op.SENDMSG_ZC}
)
"""The other side of a TCP connection has gone, and said so by a reset."""

RESET: Final = "reset"
SHORT: Final = "short"
LATE: Final = "late"
ERRNO: Final = "errno"
KINDS: Final = (ERRNO, SHORT, LATE, RESET)


@dataclass(frozen=True, slots=True)
class Fails:
    """The request ends with -errno."""

    errno: int

    def __str__(self) -> str:
        return errno.errorcode[self.errno]


@dataclass(frozen=True, slots=True)
class Short:
    """It moves `most_bytes` (at least 1) at the most."""

    most_bytes: int

    def __str__(self) -> str:
        return f"short:{self.most_bytes}"


@dataclass(frozen=True, slots=True)
class Late:
    """A worker performs it, `delay_ns` of virtual time later."""

    delay_ns: int

    def __str__(self) -> str:
        return f"late:{_duration(self.delay_ns)}"


@dataclass(frozen=True, slots=True)
class Reset:
    """Its connection is reset before it is tried, for both ends."""

    def __str__(self) -> str:
        return RESET


Harm = Fails | Short | Late | Reset


@dataclass(frozen=True, slots=True)
class AtRequest:
    """`harm` comes to the `nth` request of opcode `op` that is tried."""

    op: Op
    nth: int
    harm: Harm

    def __str__(self) -> str:
        return f"{self.op.name}#{self.nth}={self.harm}"


@dataclass(frozen=True, slots=True)
class UserWrites:
    """Before the `nth` run of a program, the user side writes `data` into block `block`."""

    nth: int
    block: str
    offset: int
    data: bytes

    def __str__(self) -> str:
        name = quote(self.block, safe=_NAME_CHARACTERS)
        return f"run#{self.nth}=write:{name}+{self.offset}:{self.data.hex()}"


@dataclass(frozen=True, slots=True)
class UserReaps:
    """Before the `nth` run of a program, the user side takes the oldest CQE of CQ `cq`."""

    nth: int
    cq: int

    def __str__(self) -> str:
        return f"run#{self.nth}=reap:{self.cq}"


@dataclass(frozen=True, slots=True)
class SmallBacklog:
    """CQEs that find CQ 0 full are lost when `entries` others wait already."""

    entries: int

    def __str__(self) -> str:
        return f"backlog={self.entries}"


@dataclass(frozen=True, slots=True)
class AtRate:
    """`harm` comes to each request of opcode `op` that is tried, with probability `rate`."""

    op: Op
    harm: Harm
    rate: float

    def __str__(self) -> str:
        return f"{self.op.name}={self.harm}@{self.rate:g}"


Fault = AtRequest | UserWrites | UserReaps | SmallBacklog


@dataclass(frozen=True, slots=True)
class Missed:
    """A fault of a plan that did not come, and why, in a few words."""

    fault: Fault
    why: str

    def __str__(self) -> str:
        return f"fault {self.fault} did not come: {self.why}"


@dataclass(frozen=True, slots=True)
class Odds:
    """Faults drawn from the seed: `rates` gives each (opcode, kind) its probability in [0, 1],
    `chosen` what else comes to requests of an opcode, whatever the swarm leaves out.

    `shared` are the blocks that the user side may write between runs, `reaped` the CQs that it may
    take a CQE from, with probability `user_rate` each time; `swarm` lets the seed switch a random
    subset of all this on, and may leave CQ 0 little backlog.
    """

    rates: Mapping[tuple[Op, str], float]
    shared: tuple[str, ...] = ()
    reaped: tuple[int, ...] = ()
    user_rate: float = 0.0
    swarm: bool = False
    chosen: tuple[AtRate, ...] = ()


@dataclass(frozen=True, slots=True)
class Faults:
    """What a run is to meet: a plan, odds, or both."""

    plan: tuple[Fault, ...] = ()
    odds: Odds | None = None


SWARM_RATE: Final = 0.25
NO_FAULTS: Final = "none"


def even_odds(
    rate: float,
    *,
    shared: tuple[str, ...] = (),
    reaped: tuple[int, ...] = (),
    swarm: bool = False,
) -> Odds:
    """The same probability for everything that is legal."""
    rates = {(op, kind): rate for op in LEGAL for kind in kinds_of(op)}
    return Odds(rates, shared, reaped, rate if shared or reaped else 0.0, swarm)


def kinds_of(op: Op) -> tuple[str, ...]:
    """The kinds of fault that requests of this opcode can meet."""
    possible = {
        ERRNO: op in LEGAL,
        SHORT: op in MAY_BE_SHORT,
        LATE: op in MAY_WAIT,
        RESET: op in MAY_BE_RESET,
    }
    return tuple(kind for kind in KINDS if possible[kind])


def plan_text(plan: Iterable[Fault]) -> str:
    """One line that `parse_faults` reads back."""
    return ",".join(map(str, plan))


def parse_faults(text: str, where: str = "faults") -> Faults:
    """Read `swarm`, `rate:0.1`, `none`, or a list of a plan's faults and of opcodes' (AtRate).

    Raises InputError that names `where`.
    """
    if text == NO_FAULTS:
        return Faults()
    if text == "swarm":
        return Faults(odds=even_odds(SWARM_RATE, swarm=True))
    if text.startswith("rate:"):
        return Faults(odds=even_odds(parse_rate(text.removeprefix("rate:"), where)))
    plan: list[Fault] = []
    chosen: list[AtRate] = []
    for item in text.split(","):
        if match := _RATE_ITEM.fullmatch(item):
            chosen.append(_at_rate(match, where))
        elif item.strip():
            plan.append(parse_fault(item, where))
    return Faults(tuple(plan), Odds({}, chosen=tuple(chosen)) if chosen else None)


def _at_rate(match: re.Match[str], where: str) -> AtRate:
    op = _opcode(match["op"], where)
    rate = 1.0 if match["rate"] is None else parse_rate(match["rate"], where)
    return AtRate(op, _harm(op, match["what"], where), rate)


def parse_rate(value: object, where: str) -> float:
    """A probability."""
    try:
        rate = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        rate = -1.0
    if not 0 <= rate <= 1:
        raise InputError(f"{value!r} is no probability", where=where, remedy="between 0 and 1")
    return rate


_ITEM = re.compile(r"\s*(?:(?P<op>\w+)#(?P<nth>\d{1,9})|(?P<whole>backlog))=(?P<what>\S+)\s*")
_RATE_ITEM = re.compile(r"\s*(?!backlog=)(?P<op>\w+)=(?P<what>[^\s@]+)(?:@(?P<rate>\S+))?\s*")
_WRITE_ITEM = re.compile(
    r"write:(?P<block>[^+:]+)\+(?P<offset>\d{1,10}):(?P<data>(?:[0-9a-f]{2})+)"
)


def parse_fault(item: str, where: str = "faults") -> Fault:
    """One fault of a plan. Raises InputError that names `where`."""
    match = _ITEM.fullmatch(item)
    if match is None:
        raise InputError(
            f"{item.strip()!r} is no fault",
            where=where,
            remedy="e.g. READ#2=EIO, RECV#1=short:3, READ=EIO@0.1; or swarm, rate:0.1",
        )
    what = match["what"]
    if match["whole"]:
        return SmallBacklog(_number(what, where, 1 << 20))
    nth = int(match["nth"])
    if nth == 0:
        raise InputError(f"{item.strip()!r}: counting starts at 1", where=where)
    if match["op"] == "run":
        return _at_run(nth, what, where)
    op = _opcode(match["op"], where)
    return AtRequest(op, nth, _harm(op, what, where))


def _opcode(text: str, where: str) -> Op:
    name = text.upper()
    if name not in Op.__members__:
        close = get_close_matches(name, list(Op.__members__), 1)
        raise InputError(
            f"no opcode is called {text!r}",
            where=where,
            remedy=f"did you mean {close[0]}?" if close else "e.g. READ#2=EIO",
        )
    return Op[name]


def _at_run(nth: int, what: str, where: str) -> Fault:
    if what.startswith("reap:"):
        return UserReaps(nth, _number(what.removeprefix("reap:"), where, 1 << 16))
    match = _WRITE_ITEM.fullmatch(what)
    if match is None:
        raise InputError(
            f"run#{nth}={what}: before a run the user side can write or reap",
            where=where,
            remedy="write:BLOCK+OFFSET:HEX, or reap:CQ",
        )
    return UserWrites(
        nth, unquote(match["block"]), int(match["offset"]), bytes.fromhex(match["data"])
    )


def _harm(op: Op, what: str, where: str) -> Harm:
    kind, _, value = what.partition(":")
    if kind == SHORT and value:
        _require(op, SHORT, where)
        return Short(max(_number(value, where, 1 << 31), 1))
    if what == RESET:
        _require(op, RESET, where)
        return Reset()
    if kind == LATE and value:
        _require(op, LATE, where)
        return Late(_nanoseconds(value, where))
    number = _ERRNO.get(what, 0)
    legal = LEGAL.get(op, {})
    if number not in legal:
        names = ", ".join(errno.errorcode[number] for number in legal) or "none"
        kinds = ", ".join(kinds_of(op)[1:]) or "nothing"
        raise InputError(
            f"{op.name} does not meet {what}" if what in _ERRNO else f"{what} is no fault",
            where=where,
            remedy=f"errors that {op.name} may meet: {names}; also {kinds}",
        )
    return Fails(number)


def _require(op: Op, kind: str, where: str) -> None:
    if kind not in kinds_of(op):
        raise InputError(f"{op.name} is never {kind}", where=where)


def _number(text: str, where: str, most: int) -> int:
    if not text.isdecimal() or int(text[:12]) > most:
        raise InputError(f"{text!r} is no number up to {most}", where=where)
    return int(text)


def _nanoseconds(text: str, where: str) -> int:
    digits = text.rstrip("numes")
    unit = text[len(digits) :]
    if not digits.isdecimal() or len(digits) > 15 or unit not in _NS:
        raise InputError(f"{text!r} is no duration", where=where, remedy="e.g. 500ns, 20us, 3ms")
    return int(digits) * _NS[unit]


def _duration(ns: int) -> str:
    for unit, factor in reversed(_NS.items()):
        if ns and ns % factor == 0:
            return f"{ns // factor}{unit}"
    return f"{ns}ns"

"""The account of a run: the event stream as lines a person can follow, bounded in length.

One line per thing that happened on the ring; a program run is a block whose helper calls are
indented under it. Long runs keep their head and tail and say how much lies between.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping

from pybpfvm.bits import s32, s64
from pybpfvm.errors import InternalError, errno_name
from pybpfvm.events import (
    CqePosted,
    CqeReaped,
    Event,
    HelperCalled,
    HostWaits,
    HostWoke,
    Noted,
    OfRing,
    Parked,
    RequestEnded,
    RequestStarted,
    RunEnded,
    RunFaulted,
    RunStarted,
    SqeIssued,
    Woken,
)
from pybpfvm.helpers.proto import ArgType
from pybpfvm.helpers.table import HELPERS

AddressNamer = Callable[[int], str]
# What the lines around them tell as well.
_UNTOLD = (RequestStarted, RequestEnded, Woken, HostWaits, HostWoke)


def plain_number(value: int) -> str:
    """A 64-bit word as people write it: small numbers in decimal, addresses in hex."""
    return str(value) if value < 1 << 24 else f"{value:#x}"


class Account:
    """An observer that keeps the first `head` and last `tail` events that are lines of the account,
    and counts all of those."""

    def __init__(self, *, head: int = 160, tail: int = 40) -> None:
        self._head_limit = head
        self._head: list[Event] = []
        self._tail: deque[Event] = deque(maxlen=tail)
        self._ring_width = 0  # of the longest name
        self.events = 0
        self.insns = 0
        self.runs: Counter[str] = Counter()
        self.helper_calls: Counter[str] = Counter()
        self.posted: Counter[int] = Counter()
        self.reaped: Counter[int] = Counter()
        self.dropped: Counter[int] = Counter()

    def __call__(self, event: Event) -> None:
        told = event
        while isinstance(event, OfRing):
            self._ring_width = max(self._ring_width, len(event.ring))
            event = event.event
        if isinstance(event, _UNTOLD) or (isinstance(event, Noted) and event.kind == "step"):
            return
        self.events += 1
        if len(self._head) < self._head_limit:
            self._head.append(told)
        else:
            self._tail.append(told)
        match event:
            case RunEnded() | RunFaulted():
                self.runs[event.program] += 1
                self.insns += event.insns
            case HelperCalled():
                self.helper_calls[event.helper] += 1
            case CqePosted(fate="dropped"):
                self.dropped[event.cq] += 1
            case CqePosted(fate="posted"):
                self.posted[event.cq] += 1
            case CqeReaped():
                self.reaped[event.cq] += 1
            case _:
                pass

    @property
    def first_ns(self) -> int:
        """When its first event was, 0 without any."""
        return self._head[0].time_ns if self._head else 0

    def left(self, cq: int) -> int:
        """CQEs that were posted to a queue and not reaped."""
        return self.posted[cq] - self.reaped[cq]

    def lines(
        self,
        name_addr: AddressNamer = plain_number,
        opcodes: Mapping[int, str] | None = None,
        *,
        start_ns: int = 0,
    ) -> Iterator[str]:
        """The account as text; `name_addr` turns words that may be addresses into text. Times
        are shown since `start_ns`."""
        writer = _Writer(name_addr, opcodes or {}, start_ns, self._ring_width)
        for event in self._head:
            yield writer.line(event)
        skipped = self.events - len(self._head) - len(self._tail)
        if skipped:
            yield f"{'':14}… {skipped:,} more events …"
        for event in self._tail:
            yield writer.line(event)


class _Writer:
    def __init__(
        self, name_addr: AddressNamer, opcodes: Mapping[int, str], start_ns: int, ring_width: int
    ) -> None:
        self._ring_width = ring_width
        self._name = name_addr
        self._opcodes = opcodes
        self._start_ns = start_ns

    def line(self, event: Event) -> str:
        return f"{(event.time_ns - self._start_ns) / 1e6:10.3f} ms {self._text(event)}"

    def _text(self, event: Event) -> str:
        match event:
            case OfRing():
                return f"{event.ring:<{self._ring_width}} {self._text(event.event)}"
            case SqeIssued():
                opcode = self._opcodes.get(event.opcode, f"opcode {event.opcode}")
                who = "user" if event.origin == "user" else f"  {event.origin}"
                return (
                    f"{who} submits {opcode} as request {event.request} "
                    f"(user_data {self._name(event.user_data)}, CQ {event.cq})"
                )
            case RunStarted():
                started = f"▶ {event.program} run {event.run}"
                if not event.request:
                    return started
                whose = f"request {event.request} (user_data {self._name(event.user_data)})"
                return f"{started} of {whose}"
            case HelperCalled():
                call = helper_call(event.helper, event.args, event.result, self._name)
                return f"    {call}"
            case RunEnded():
                then = "run again when the futex is woken" if event.on_word else "done"
                if event.wait_cq is not None:
                    what = f"{_cqes(event.wait_nr)} on CQ {event.wait_cq}"
                    then = f"run again after {what}"
                    if event.refused:
                        then = f"asks to wait for {what}, but {event.refused}: -EINVAL"
                ended = f"■ {event.program} returned {s32(event.result)}, {event.insns} insns"
                return f"{ended}: {then}" if event.request else ended
            case RunFaulted():
                return (
                    f"✗ {event.program} faulted at +{event.pc} after {event.insns} insns: "
                    f"{event.reason}"
                )
            case Parked():
                return f"  request {event.request} parks until CQ {event.cq} holds {event.wanted}"
            case CqePosted():
                fate = "" if event.fate == "posted" else f" [{event.fate}]"
                if event.request is None:
                    return f"  CQ {event.cq} ← {self._cqe(event)} by {event.origin}{fate}"
                return f"  CQ {event.cq} ← request {event.request} {self._cqe(event)}{fate}"
            case CqeReaped():
                return f"  CQ {event.cq} → {self._cqe(event)} to {event.by}"
            case Noted(kind="fault"):
                whom = "" if event.request is None else f" comes to request {event.request}"
                return f"  ⚡ fault {event.text}{whom}"
            case Noted(kind="filter"):
                return f"  request {event.request} is {event.text}"
            case Noted(kind="requeue" | "futex"):
                return f"  request {event.request} {event.text}"
            case Noted():
                return f"! {event.kind}: {event.text}"
            case RequestStarted() | RequestEnded() | Woken() | HostWaits() | HostWoke():
                raise InternalError("no line of the account")

    def _cqe(self, event: CqePosted | CqeReaped) -> str:
        flags = f", flags {event.flags:#x}" if event.flags else ""
        return f"(user_data {self._name(event.user_data)}, res {result(event.res)}{flags})"


def _cqes(count: int) -> str:
    return "1 CQE" if count == 1 else f"{count} CQEs"


def result(value: int) -> str:
    """A result: a number, or -ENAME for a small negative one."""
    return f"-{errno_name(value)}" if -4096 < value < 0 else str(value)


def helper_call(
    helper: str, args: tuple[int, ...], r0: int, name_addr: AddressNamer = plain_number
) -> str:
    """`map_lookup_elem(arr, &stack+508) = 0x...`"""
    row = HELPERS.get(helper)
    used = sum(arg is not ArgType.DONTCARE for arg in row.args) if row is not None else len(args)
    signed = s64(r0)
    shown = result(signed) if signed < 0 else name_addr(r0)
    return f"{helper}({', '.join(name_addr(arg) for arg in args[:used])}) = {shown}"

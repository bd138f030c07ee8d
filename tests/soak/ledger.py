"""The book of one ring's requests, kept from its events: each one that is submitted ends once, and
leaves one last CQE, or none if it is quiet."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from pybpfvm.events import CqePosted, CqeReaped, Event, Noted, RequestEnded, SqeIssued
from pybpfvm.uring_backend.abi import CQE_F_MORE

_SHOWN = 5


@dataclass
class Ledger:
    """An observer. `live` are the requests under way, with their opcodes; `wrong` is what should
    never be."""

    issued: int = 0
    ended: int = 0
    faults: int = 0
    live: dict[int, int] = field(default_factory=dict)
    posted: Counter[int] = field(default_factory=Counter)
    reaped: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    _last: dict[int, int] = field(default_factory=dict)  # whose last CQE is due, with its res
    _backlog: Counter[int] = field(default_factory=Counter)

    def __call__(self, event: Event) -> None:
        """Write it down."""
        match event:
            case SqeIssued(request=request):
                if request in self.live:
                    self.wrong.append(f"request {request} was submitted twice")
                self.issued += 1
                self.live[request] = event.opcode
            case RequestEnded(request=request):
                if self.live.pop(request, None) is None:
                    self.wrong.append(f"request {request} ended, which was not under way")
                self.ended += 1
                if not event.quiet:
                    self._last[request] = event.res
            case CqePosted():
                self._post(event)
            case CqeReaped():
                self.reaped[event.cq] += 1
            case Noted(kind="fault"):
                self.faults += 1

    def _post(self, event: CqePosted) -> None:
        request = event.request
        self.posted[event.cq] += event.fate == "posted"
        if request is None:
            return
        if event.fate == "posted" and self._backlog[request]:
            self._backlog[request] -= 1  # told before, when the queue was full
            return
        self._backlog[request] += event.fate == "backlog"
        if request in self.live and event.flags & CQE_F_MORE:
            return
        if self._last.pop(request, None) != event.res:
            self.wrong.append(f"a CQE of request {request} too much: res {event.res}")

    def closing(self) -> list[str]:
        """What is wrong when nothing more can come."""
        found = list(self.wrong)
        if self.live:
            left = [f"{token} (opcode {op})" for token, op in list(self.live.items())[:_SHOWN]]
            found.append(f"{len(self.live)} requests never ended: {', '.join(left)}")
        if self._last:
            found.append(f"{len(self._last)} requests ended without their last CQE")
        return found

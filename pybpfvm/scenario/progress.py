"""What has happened so far while a scenario is carried out, and who is told of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from pybpfvm.events import CqeReaped, Event, Observer, OfRing, RunEnded
from pybpfvm.scenario.compare import Finding
from pybpfvm.scenario.invariants import Invariants
from pybpfvm.scenario.outcome import ShortSubmit
from pybpfvm.scenario.watching import Watch
from pybpfvm.session import Cqe


@dataclass
class Progress:
    """What has happened so far."""

    observer: Observer | None
    cqes: dict[str, dict[int, list[Cqe]]]  # by ring and CQ
    findings: list[Finding] = field(default_factory=list)
    short_submits: list[ShortSubmit] = field(default_factory=list)
    watcher: Watch | None = None
    step: int = -1  # index of the step being taken; -1 before the first
    place: str = ""  # before the first
    collecting: bool = False
    invariants: Invariants | None = None
    watched: bool = False  # because there are invariants

    def submitted(self, short: ShortSubmit, *, decides: bool) -> None:
        """A submit that expects nothing has returned; where a program `decides`, 0 says nothing."""
        if short.consumed < short.sqes and (short.consumed or not decides):
            self.short_submits.append(short)

    def see(self, event: Event) -> None:
        """Tell the observer, if there is one."""
        if self.observer is not None:
            self.observer(event)

    def watch(self, ring: str) -> Observer | None:
        """Whom a ring is to tell of its events, which get its name if there are several; None:
        nobody."""
        if self.observer is None and not self.watched:
            return None
        several = len(self.cqes) > 1

        def watch(event: Event) -> None:
            if self.collecting and isinstance(event, CqeReaped):
                return  # nobody in the scenario waited for what is collected at its end
            if self.invariants is not None and isinstance(event, RunEnded):
                self.findings += self.invariants.after(event)
            if self.observer is not None:
                self.observer(OfRing(ring, event) if several else event)

        return watch

"""What a run in some order showed, with the kind by which it is known.

Besides the kinds of `scenario.watching`:

    trap           a program did what it must not
    hang           nothing in flight can complete what is waited for
    live-lock      programs run over and over, and nothing changes
    expectation    the scenario expects something else
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from pybpfvm.errors import LoadRejected, RingHang, Trap
from pybpfvm.scenario import Outcome, watching
from pybpfvm.scenario.schedule import Answer, Schedule

KINDS: Final = (
    "trap",
    "live-lock",
    "hang",
    "buffer-in-flight",
    "ownership-race",
    "overflow",
    "lost-completion",
    "duplicate-completion",
    "leak",
    "expectation",
)
"""All kinds; of what one run showed, the first of these is what it is called by."""
assert set(watching.KINDS) < set(KINDS)


_INVARIANT: Final = "invariant["  # how the places of invariants begin, which hold whatever comes


@dataclass(frozen=True, slots=True)
class Shown:
    """One thing that a run showed. `place` is where, as far as it does not depend on the order."""

    kind: str
    place: str
    text: str

    @property
    def key(self) -> tuple[str, str]:
        """What makes it the same thing in another run."""
        return self.kind, self.place


@dataclass(frozen=True, slots=True)
class Size:
    """How much a schedule is: answers other than the usual, faults, steps of the scenario, bytes of
    its data (structs, paths and addresses apart), events of its run."""

    answers: int
    faults: int
    steps: int
    data_bytes: int
    events: int


@dataclass(frozen=True, slots=True)
class Found:
    """A finding: what it is, the smallest schedule that shows it, what that answers otherwise than
    usual, and what else the same run showed. `tries` schedules and `seconds` it took to find.
    `sizes` are of the schedule by which it was found and of the smallest, if that was looked for.
    `given`: nobody looked for the schedule.
    """

    shown: Shown
    schedule: Schedule
    answers: tuple[tuple[int, Answer], ...]
    tries: int
    seconds: float
    found_with: Schedule  # before it was made smaller
    also: tuple[Shown, ...] = field(default=())
    sizes: tuple[Size, Size] | None = None
    given: bool = False


def shown_by(outcome: Outcome, path: str, *, faulty: bool) -> tuple[Shown, ...]:
    """What a run showed, the most telling first. `faulty`: a fault came, so what the scenario
    expects when all goes well says nothing."""
    found: list[Shown] = []
    stop = outcome.stopped
    if stop is not None and not outcome.expected_stop and not isinstance(stop, LoadRejected):
        text = str(stop)
        if isinstance(stop, Trap):
            found.append(Shown("trap", f"{stop.program}+{stop.pc}", text))
        elif isinstance(stop, RingHang):
            found.append(Shown("live-lock" if stop.livelock else "hang", "", text))
    for finding in outcome.findings:
        place = finding.where.removeprefix(f"{path}: ")
        if finding.kind == "expectation" and faulty and not place.startswith(_INVARIANT):
            continue
        # What byte or element differs first depends on the order.
        place = place.split(",")[0] if finding.kind == "expectation" else place
        found.append(
            Shown(finding.kind, place, f"expected {finding.expected}, found {finding.found}")
        )
    return tuple(sorted(found, key=lambda one: KINDS.index(one.kind)))

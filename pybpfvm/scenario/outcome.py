"""What came of a scenario."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pybpfvm.errors import LoadRejected, RingHang, Trap
from pybpfvm.scenario.compare import Finding
from pybpfvm.session import Cqe
from pybpfvm.uring_backend.faults import Fault, Missed

Stopped = RingHang | Trap | LoadRejected


@dataclass(frozen=True, slots=True)
class ShortSubmit:
    """A submit that took `consumed` of `sqes` SQEs, and did not say how many it should take."""

    where: str
    sqes: int
    consumed: int

    def __str__(self) -> str:
        were = f"{self.consumed} of {self.sqes} SQEs were consumed"
        return f"{self.where}: {were} (consumed = {self.consumed} says that this is meant)"


@dataclass(frozen=True, slots=True)
class RingOutcome:
    """What came of a ring beside the first."""

    cqes: Mapping[int, tuple[Cqe, ...]]
    runs: Mapping[str, int]
    overflow: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a scenario: on its first ring, `cqes` and `overflow`; on all of them, `runs` and
    `insns`; `rings` is what came of those beside the first. `stopped` is the hang, trap or load
    rejection that ended it, or None; `expected_stop` says that the scenario wanted exactly that.
    An unexpected stop at `stopped_at` ("steps[2]") leaves `not_judged` expectations that nothing
    can be said of.
    `time_ns` counts from the first submit on a kernel's ring, all of virtual time in `sim`.
    `injected` are the faults that came, `missed` those of a plan that did not."""

    backend: str
    findings: tuple[Finding, ...]
    stopped: Stopped | None
    expected_stop: bool
    cqes: Mapping[int, tuple[Cqe, ...]]
    runs: Mapping[str, int]
    overflow: int
    time_ns: int
    insns: int = 0
    engine: str = "interp"
    stopped_at: str = ""
    injected: tuple[Fault, ...] = ()
    missed: tuple[Missed, ...] = ()
    short_submits: tuple[ShortSubmit, ...] = ()
    not_judged: int = 0
    rings: Mapping[str, RingOutcome] = field(default_factory=dict)
    left: tuple[str, ...] = ()  # with checks: requests in flight that nothing will end

    @property
    def ok(self) -> bool:
        """Whether everything was as expected."""
        return self.exit_code == 0

    @property
    def exit_code(self) -> int:
        """The command line's: that of an unexpected stop, 1 for findings, else 0."""
        if self.stopped is not None and not self.expected_stop:
            return self.stopped.exit_code
        return 1 if self.findings else 0

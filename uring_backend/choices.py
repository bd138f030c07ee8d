"""What may legally happen in another order, as questions: the simulated ring asks a Chooser.

Without one the seed and its latencies answer, and with one that always takes option 0 the same
things happen at the same times. Two kinds of question:

- of order: what happens next. Options are who acts: the token of a request (its program runs, or
  a worker gets to it), HOST (the host takes its next step) or CLOCK (time passes, up to the next
  timer or the end of the host's wait).
- of data: how it happens. Options are values, the first is "as usual": a fault, or None; or how
  a race ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from pybpfvm.uring_backend.faults import Harm, UserReaps, UserWrites

HOST: Final = -1
CLOCK: Final = -2
WORKER_MOST_NS: Final = 5_000_000  # how long a worker may take to get to a request


class Point(Enum):
    """What is asked."""

    RUN = "which program runs"
    NEXT = "what happens next"
    HARM = "what comes to a request"
    USER = "what the user side does before a run"
    RACE = "whether a worker has begun"


class Footprint(Enum):
    """What a request may touch that is no file."""

    ALL = "anything"


@dataclass(frozen=True, slots=True)
class Race:
    """Whether a worker has `begun` with request `token` when a cancellation finds it there."""

    token: int
    begun: bool

    def __str__(self) -> str:
        if self.begun:
            return f"a worker has begun with request {self.token} when it is cancelled"
        return f"request {self.token} is cancelled before its worker begins"


class Chooser(Protocol):
    """Answers. `faults_left` is how many faults it would choose yet."""

    faults_left: int

    def order(self, point: Point, who: Sequence[int]) -> int:
        """The index of who acts next, of one or more; 0 is who would without a chooser."""

    def harm(self, token: int, harms: Sequence[Harm | None]) -> int:
        """The index of what comes to a request."""

    def user(self, acts: Sequence[UserWrites | UserReaps | None]) -> int:
        """The index of what the user side does before a run."""

    def race(self, ends: Sequence[Race]) -> int:
        """The index of how a race ends; 0 is what the seed would have."""

    def performs(self, token: int, what: object) -> None:
        """A request is carried out at this moment: its memory, its queue and `what` are touched: a
        file of the simulated world, or None, or Footprint.ALL."""

    def host_acts(self) -> None:
        """The host takes a step, which may touch anything."""

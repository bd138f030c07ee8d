"""What a ring counts whether anybody observes it or not, loops in compiled code included."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Counts:
    """Since the ring was made: `runs` by program, begun ones included, and the instructions
    executed in them; by CQ the CQEs that were `posted`, `reaped` and `dropped`."""

    runs: Counter[str] = field(default_factory=Counter)
    insns: int = 0
    posted: Counter[int] = field(default_factory=Counter)
    reaped: Counter[int] = field(default_factory=Counter)
    dropped: Counter[int] = field(default_factory=Counter)

    def copy(self) -> Counts:
        """As they are now."""
        return Counts(
            self.runs.copy(),
            self.insns,
            self.posted.copy(),
            self.reaped.copy(),
            self.dropped.copy(),
        )

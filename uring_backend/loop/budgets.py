"""What one enter of a ring with a program may use up."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoopBudgets:
    """What one enter may use up before it is called a hang: `max_steps` of the program,
    `livelock_steps` in a row in which nothing changes, `wall_ns` of wall time, `idle_timeout_ns` of
    real time without any event in a wait (the kernel's ring only). `backlog_entries` CQEs beyond a
    full CQ; `live_requests` at a time, beyond which the kernel has no memory for more (-EAGAIN). At
    `end_ns` of time.monotonic_ns everything ends."""

    max_steps: int = 1_000_000
    livelock_steps: int = 10_000
    wall_ns: int = 120_000_000_000
    idle_timeout_ns: int = 10_000_000_000
    backlog_entries: int = 65_536
    live_requests: int = 262_144
    end_ns: int | None = None

"""Who does the shards of a campaign: this process (`Here`), others of this machine
(`processes.Processes`), those of a cluster (`cluster.Cluster`)."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Protocol

from pybpfvm.fuzz.campaign.shard import Performance, Result, Shard
from pybpfvm.fuzz.target import Target


@dataclass(slots=True)
class Working:
    """What one worker does, for a line on the terminal: executions, findings and shards so far;
    `covered` features as it knows them."""

    name: str
    doing: str = ""
    executions: int = 0
    shards: int = 0
    findings: int = 0
    covered: int = 0


class Workers(Protocol):
    """Takes shards, gives results in any order."""

    jobs: int  # processes beside this one
    slots: int  # shards that may be under way
    working: list[Working]
    notes: list[str]  # what went wrong and was made up for

    def submit(self, shard: Shard) -> None:
        """Have it done. At most `slots` are under way."""

    def wait(self, seconds: float) -> list[Result]:
        """What has come, perhaps nothing, after `seconds` at most. KeyboardInterrupt may come."""

    def stop(self) -> None:
        """Let shards that are under way end soon; what they have come to is `wait`ed for."""

    def abandon(self) -> None:
        """Forget what is under way: nobody waits for it."""

    def close(self) -> None:
        """Let the workers go."""


class Here(Workers):
    """This process, one shard at a time."""

    jobs = 0
    slots = 1

    def __init__(self, target: Target, *, findings: int | None = None) -> None:
        """`findings`: a shard ends with so many."""
        self.working = [Working("here")]
        self.notes: list[str] = []
        self._target = target
        self._findings = findings
        self._shards: deque[Shard] = deque()
        self._stopped = False

    def submit(self, shard: Shard) -> None:
        self._stopped = False
        self._shards.append(shard)

    def wait(self, seconds: float) -> list[Result]:
        shard = self._shards.popleft()
        end = time.monotonic() + seconds
        before = self.working[0].executions, self.working[0].findings

        def stop(now: Performance) -> bool:
            one = self.working[0]
            one.executions, one.covered = before[0] + now.executions, len(now.features)
            one.findings = before[1] + len(now.findings)
            enough = self._findings is not None and len(now.findings) >= self._findings
            return self._stopped or enough or time.monotonic() >= end

        performance = Performance(self._target, shard, stop)
        result = performance.run()
        stop(performance)
        if performance.interrupted:
            raise Interrupted(result)
        self.working[0].shards += 1
        return [result]

    def stop(self) -> None:
        self._stopped = True

    def abandon(self) -> None:
        self._shards.clear()

    def close(self) -> None:
        self.abandon()


class Interrupted(KeyboardInterrupt):
    """Ctrl-C came while a shard was done here; `result` is what it has come to."""

    def __init__(self, result: Result) -> None:
        super().__init__()
        self.result = result

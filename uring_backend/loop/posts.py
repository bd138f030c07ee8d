"""CQEs of a ring with a loop: they are posted, wait for room, and leave when the head of the CQ is
moved. What of it is counted, and who is told."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace

from pybpfvm.events import CqePosted, CqeReaped, Observer
from pybpfvm.uring_backend.counts import Counts
from pybpfvm.uring_backend.loop.memory import LoopMemory, Posting


class Posts:
    """What gets into the CQ of `queues` and out of it. `running` is the program that runs now (""
    for none), `number` how many CQEs there have been, those without room included; `signal` is told
    how many were posted."""

    def __init__(
        self, queues: LoopMemory, now_ns: Callable[[], int], observer: Observer | None
    ) -> None:
        self.running = ""
        self.number = 0
        self.signal: Callable[[int], None] | None = None
        self._queues = queues
        self._now_ns = now_ns
        self._observer = observer
        self._counts = Counts()
        self._held: deque[Posting] = deque()  # in the CQ, as far as an observer knows

    def post(self, posting: Posting) -> str:
        """Post it: what became of it, as `LoopMemory.post` says."""
        self.number += 1
        fate = self._queues.post(posting)
        self._tell_posted(posting, fate)
        return fate

    def flush(self) -> None:
        """Post what waited for room, as far as there is some now."""
        for posting in self._queues.flush_backlog():
            self._tell_posted(posting, "posted")

    def posted(self, count: int) -> None:
        """Compiled code posted so many, which no observer sees."""
        self.number += count
        self._counts.posted[0] += count

    def _tell_posted(self, posting: Posting, fate: str) -> None:
        if fate == "posted":
            self._counts.posted[0] += 1
            if self.signal is not None:
                self.signal(1)
        elif fate == "dropped":
            self._counts.dropped[0] += 1
        if self._observer is not None:
            if fate == "posted":
                self._held.append(posting)
            user_data, res, flags, origin, token, _ = posting
            now = self._now_ns()
            self._observer(CqePosted(now, 0, user_data, res, flags, fate, origin, token))

    def tell_reaped(self) -> None:
        """Tell of the CQEs that are behind the CQ's head now, which who runs has moved."""
        if self._observer is not None:
            held = self._queues.cq.count()
            while len(self._held) > held:
                cqe = self._held.popleft()
                who = self.running or "user"
                now = self._now_ns()
                self._observer(CqeReaped(now, 0, cqe.user_data, cqe.res, cqe.flags, who))

    def switch(self, name: str) -> str:
        """The program of this name runs now ("": none): it is who submits and reaps. Who did
        before."""
        self.tell_reaped()
        before, self.running = self.running, name
        return before

    def ran(self, name: str, insns: int, runs: int) -> None:
        """Runs of the program of this name, of so many instructions."""
        self._counts.runs[name] += runs
        self._counts.insns += insns

    def counts(self, entries: int) -> Counts:
        """Runs, instructions and CQEs so far, of a CQ with so many entries; what left it counts as
        reaped, whoever moved its head."""
        held = min(self._queues.cq.count(), entries)
        self._counts.reaped[0] = max(self._counts.posted[0] - held, 0)
        return self._counts

    def counts_told(self) -> Counts:
        """The same, as far as an observer was told: of CQEs whose leaving is still to be told, it
        says that they are there."""
        return replace(self._counts, reaped=Counter({0: self._counts.posted[0] - len(self._held)}))

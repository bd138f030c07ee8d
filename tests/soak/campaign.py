"""`make soak`: programs and hosts of examples/ round after round in one process, on the simulated
ring with faults and on the kernel's with clients that dribble, reset, vanish and are slow; ends in
a table.

It lasts PYBPFVM_SOAK_SECONDS (3600), and one round at the least. Each round is made of a seed,
PYBPFVM_SOAK_SEED (1) and what follows. After each job its rings are balanced: no request in flight,
each that was submitted completed once, CQEs that came are those that went and those that are
there. After each round the process has what it had before the first: descriptors, threads,
handlers of signals, address ranges, children, temporary files. At the end its memory must not have
grown. What is wrong is told with the line that repeats its round; the exit status is then 1.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from pybpfvm.session.hostring import BackendName
from pybpfvm.uring_backend.kernel.libring import available as through_library
from pybpfvm.uring_backend.kernel.probe import available
from tests.soak.jobs import Job, each_once, jobs_of
from tests.soak.process import GROWTH_BYTES, GROWTH_OBJECTS, Memory, Process, settled
from tests.support.evidence import Row, keep

PROGRESS_SECONDS = 30
KEPT_SECONDS = 3600  # a soak of at least so long is evidence


@dataclass
class Soak:
    """Jobs, what they counted by ring ("sim", "kernel", "liburing"), and what was wrong."""

    memory: Memory = field(default_factory=Memory)
    rounds: int = 0
    jobs: Counter[str] = field(default_factory=Counter)
    rings: Counter[str] = field(default_factory=Counter)
    requests: Counter[str] = field(default_factory=Counter)
    cqes: Counter[str] = field(default_factory=Counter)
    clients: Counter[str] = field(default_factory=Counter)
    looped: int = 0
    cut: int = 0
    faults: int = 0
    wrong: list[str] = field(default_factory=list)
    _before: Process | None = None

    def begin(self, jobs: Iterable[Job]) -> None:
        """Do these first; what the process has then is what it must have after each round."""
        cold = Process.now()
        found = self._do(jobs)
        found += settled(cold, warm=False)
        self.wrong += [f"before the first round: {text}" for text in found]
        self._before = Process.now()

    def round(self, jobs: Iterable[Job]) -> list[str]:
        """Do these; what was wrong with them, and with the process afterwards."""
        assert self._before is not None
        found = self._do(jobs)
        found += settled(self._before)
        self.rounds += 1
        self.memory.sample()
        self.wrong += found
        return found

    def end(self) -> list[str]:
        """What is wrong with the whole."""
        found = self.memory.wrong()
        self.wrong += found
        return found

    def _do(self, jobs: Iterable[Job]) -> list[str]:
        found = []
        for job in jobs:
            try:
                watch = job.run()
            except Exception:
                found.append(f"{job}: {traceback.format_exc()}")
                continue
            found += [f"{job}: {text}" for text in watch.wrong]
            name = job.backend
            self.jobs[name] += 1
            self.rings[name] += watch.rings
            self.requests[name] += watch.issued
            self.cqes[name] += watch.posted
            self.clients[name] += job.clients if job.kind == "server" else 0
            self.looped += watch.looped
            self.cut += watch.cut
            self.faults += watch.faults_met
        return found

    def progress(self) -> str:
        """One line."""
        growth = self.memory.growth()[0]
        return (
            f"{self.rounds} rounds, {self.rings.total():,} rings, {self.cqes.total():,} CQEs, "
            f"{self.memory.rss[-1] >> 20} MiB resident ({growth / (1 << 20):+.1f}), "
            f"{len(self.wrong)} wrong"
        )

    def figures(self, seconds: float) -> list[Row]:
        """The rows that a soak keeps."""
        grown, objects = self.memory.growth()
        return [
            (
                "soak of examples in one process, with faults on `sim`, rude clients on `kernel`",
                f"{seconds / 60:.0f} minutes, {self.rounds:,} rounds: {len(self.wrong)} findings",
            ),
            ("rings opened and closed", _by_ring(self.rings)),
            (
                "requests submitted and completed once, of rings whose events were followed",
                f"{_by_ring(self.requests)}; closing a ring ended {self.cut:,} of them",
            ),
            (
                "completions that came and were accounted for",
                f"{_by_ring(self.cqes)}; {self.looped:,} rings let compiled code loop",
            ),
            ("faults injected, clients served", f"{self.faults:,}; {_by_ring(self.clients)}"),
            (
                "memory, last quarter against second: resident bytes, objects",
                f"{grown / (1 << 20):+.1f} MiB (bound {GROWTH_BYTES >> 20}), "
                f"{objects:+,} (bound {GROWTH_OBJECTS:,})",
            ),
        ]


def _by_ring(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.most_common())


def kernels() -> tuple[BackendName, ...]:
    """The names under which there is a kernel's ring here; those there are not are told."""
    found: list[BackendName] = []
    names: tuple[tuple[BackendName, Exception | None], ...] = (
        ("kernel", available()),
        ("liburing", through_library()),
    )
    for name, reason in names:
        if reason is None:
            found.append(name)
        else:
            print(f"without {name}: {reason}", flush=True)
    return tuple(found)


def main() -> int:
    """The soak that the environment asks for."""
    wanted = float(os.environ.get("PYBPFVM_SOAK_SECONDS", "3600"))
    first = int(os.environ.get("PYBPFVM_SOAK_SEED", "1"))
    names = kernels()
    soak = Soak()
    others = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="soak-") as directory:
        tempfile.tempdir = directory  # what rings leave in it is theirs alone
        try:
            soak.begin(each_once(names))
            print("\n".join(soak.wrong) or "warmed up", flush=True)
            begun = shown = time.monotonic()
            seed = first
            while True:
                found = soak.round(jobs_of(seed, names))
                if found:
                    print("\n".join(found))
                    again = f"PYBPFVM_SOAK_SEED={seed} PYBPFVM_SOAK_SECONDS=0 make soak"
                    print(f"repeat: {again}", flush=True)
                seed += 1
                now = time.monotonic()
                if now - begun >= wanted:
                    break
                if now - shown > PROGRESS_SECONDS:
                    shown = now
                    print(f"{now - begun:.0f} s: {soak.progress()}", flush=True)
        finally:
            tempfile.tempdir = others
    seconds = time.monotonic() - begun
    print("\n".join((*soak.end(), soak.progress())))
    rows = soak.figures(seconds)
    print("\n".join(f"{what}: {figure}" for what, figure in rows))
    if wanted >= KEPT_SECONDS:
        print(f"kept in {keep('soak', 'make soak', rows)}")
    return 1 if soak.wrong else 0


if __name__ == "__main__":
    sys.exit(main())

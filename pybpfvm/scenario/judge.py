"""How a scenario ended: whether it was to, and what its queues still hold."""

from __future__ import annotations

from collections.abc import Sequence

from pybpfvm.errors import LoadRejected, RingHang, Trap, errno_name
from pybpfvm.scenario.compare import Finding
from pybpfvm.scenario.live import Live, LiveRing
from pybpfvm.scenario.model import Check, Scenario
from pybpfvm.scenario.outcome import RingOutcome, Stopped
from pybpfvm.scenario.progress import Progress


def judge_stop(scenario: Scenario, stopped: Stopped | None, progress: Progress) -> bool:
    """Whether the scenario ended as it was expected to; a missing end is a finding."""
    expect, where = scenario.expect, f"{scenario.path}: expect"
    found = "the end of the steps" if stopped is None else str(stopped).splitlines()[0]
    wanted: list[tuple[str, str, bool]] = []
    if expect.hang:
        wanted.append(("hang", "a hang", isinstance(stopped, RingHang)))
    if expect.trap is not None:
        right = isinstance(stopped, Trap) and stopped.kind.name == expect.trap
        wanted.append(("trap", f"trap {expect.trap}", right))
    if expect.load_errno:
        right = isinstance(stopped, LoadRejected) and stopped.errno == expect.load_errno
        text = f"load rejected with -{errno_name(expect.load_errno)}"
        wanted.append(("load_error", text, right))
    for key, text, right in wanted:
        if not right:
            progress.findings.append(Finding(f"{where}.{key}", text, found))
    return any(right for _, _, right in wanted)


def place_of_stop(progress: Progress) -> str:
    """Where something ended it: `steps[2]`, or what came before the first step."""
    return f"steps[{progress.step}]" if progress.step >= 0 else progress.place


def expectations_left(scenario: Scenario, step: int) -> int:
    """Expectations that a stop in `step` leaves unjudged: of later checks and of the end."""
    checks = [s.action for s in scenario.steps[step + 1 :] if isinstance(s.action, Check)]
    return scenario.expect.about_state + sum(check.expect.about_state for check in checks)


def collect(live: Live, progress: Progress) -> None:
    """Add what the queues still hold to what the host has reaped."""
    progress.collecting = True
    with live.ring.machine.recorder.quiet():
        for one in live.rings.values():
            one.counts = one.ring.counts.copy()
            for cq in one.cqs:
                progress.cqes[one.name].setdefault(cq, []).extend(one.ring.reap(cq))


def note_end(live: Live, stopped: Stopped | None, findings: Sequence[Finding]) -> None:
    """Tell the recording what went wrong, if something did."""
    recorder, ring = live.ring.machine.recorder, live.ring
    if not recorder.active:
        return
    for one in findings:
        text = f"{one.where}: expected {one.expected}, found {one.found}"
        recorder.ends(ring.number, ring.now_ns(), "failed", text[:1000])
    if stopped is not None:
        recorder.ends(ring.number, ring.now_ns(), "stopped", str(stopped)[:1000])


def ring_outcome(one: LiveRing, progress: Progress) -> RingOutcome:
    """What came of one ring, when `collect` was there."""
    cqes = {cq: tuple(cqes) for cq, cqes in progress.cqes[one.name].items()}
    return RingOutcome(cqes, dict(one.ring.counts.runs), one.ring.cq_overflow)

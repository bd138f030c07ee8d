"""What must hold after each run of a program."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pybpfvm.events import RunEnded
from pybpfvm.expr.scope import moment_of
from pybpfvm.scenario.compare import Finding, failed
from pybpfvm.scenario.live import Live


class Invariants:
    """The invariants of a running scenario. Each is found broken once, after the first run that
    leaves it so."""

    def __init__(self, live: Live) -> None:
        self._live = live
        path = live.scenario.path
        self._left = {
            text: f"{path}: invariant[{index}]"
            for index, text in enumerate(live.scenario.invariants)
        }
        self._runs = 0

    def after(self, event: RunEnded) -> Iterator[Finding]:
        """What the run that has ended broke."""
        self._runs += 1
        scope = self._live.scope
        scope.moment = moment_of(event)
        try:
            for text, where in list(self._left.items()):
                for finding in failed(text, self._live, where):
                    del self._left[text]
                    yield replace(finding, found=f"{finding.found} {self._after(event)}")
        finally:
            scope.moment = None

    def _after(self, event: RunEnded) -> str:
        of = f", run {event.run} of request {event.request}" if event.request else ""
        return f"after run {self._runs} ({event.program}{of})"

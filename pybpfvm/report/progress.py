"""A status line on stderr while something long runs. Only a terminal has one, and only after a
second; anywhere else the observer stays as it is and nothing is spent."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

from pybpfvm.events import Event, Observer, OfRing, RunEnded

_DELAY_S = 1.0
_PER_SECOND = 8.0


class Progress:
    """Counts program runs and instructions, and shows them while it is entered as a context.

    `observer` wraps the observer that is to see the events too; `after_run` counts a run that
    no event tells of. `stop` takes the line away: call it before anything is printed.
    """

    def __init__(self, console: Console | None = None, *, delay_s: float = _DELAY_S) -> None:
        self._console = console or Console(stderr=True)
        self._delay_s = delay_s
        self._start = time.monotonic()
        self._live: Live | None = None
        self._lock = threading.Lock()
        self._stopped = False
        self._timer: threading.Timer | None = None
        self.runs = 0
        self.insns = 0

    @property
    def shown(self) -> bool:
        """Whether there is a terminal to show it on."""
        return self._console.is_terminal and not self._console.is_dumb_terminal

    def observer(self, inner: Observer) -> Observer:
        """`inner`, or an observer that counts and passes on to it."""
        if not self.shown:
            return inner

        def observe(event: Event) -> None:
            what = event.event if type(event) is OfRing else event
            if type(what) is RunEnded:
                self.after_run(what.insns)
            inner(event)

        return observe

    def after_run(self, insns: int) -> None:
        """Count a run of `insns` instructions."""
        self.runs += 1
        self.insns += insns

    def each_run(self) -> Callable[[int], None] | None:
        """`after_run`, or None where nobody would see the count."""
        return self.after_run if self.shown else None

    def text(self) -> str:
        """The line as it would be now."""
        runs = "1 run" if self.runs == 1 else f"{self.runs:,} runs"
        seconds = time.monotonic() - self._start
        return f"{runs}, {short_number(self.insns)} instructions, {seconds:.1f} s"

    def stop(self) -> None:
        """Take the line away, for good."""
        with self._lock:
            self._stopped = True
            timer, live = self._timer, self._live
        if timer is not None:
            timer.cancel()
        if live is not None:
            live.stop()

    def __enter__(self) -> Progress:
        self._start = time.monotonic()
        if self.shown:
            self._timer = threading.Timer(self._delay_s, self._show)
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _show(self) -> None:
        with self._lock:
            if self._stopped:
                return
            # Only what this class prints goes to stderr: the account stays on stdout.
            self._live = Live(
                console=self._console,
                get_renderable=lambda: Text(self.text(), style="dim"),
                refresh_per_second=_PER_SECOND,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()


def on_stderr() -> Progress:
    """The progress of a command."""
    # rich would also believe FORCE_COLOR; a file wants no status lines, whatever its colours.
    return Progress(Console(file=sys.stderr, force_terminal=sys.stderr.isatty()))


def short_number(value: float) -> str:
    """A count as people read it: 950, 12,345, 1.2 M, 3.4 G."""
    for limit, unit in ((1e9, "G"), (1e6, "M")):
        if value >= limit:
            return f"{value / limit:.1f} {unit}"
    return f"{value:,.0f}"


def rates(runs: int, insns: int, seconds: float) -> str:
    """`1,234 runs/s, 5.6 M instructions/s`."""
    seconds = max(seconds, 1e-9)
    return f"{short_number(runs / seconds)} runs/s, {short_number(insns / seconds)} instructions/s"

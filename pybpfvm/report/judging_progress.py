"""A line on stderr that counts the programs judged: on terminals only, and after a second.

It is drawn from a timer's signal, not by a thread: processes are forked while it is shown.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import TextIO

_DELAY_S = 1.0
_PERIOD_S = 0.2
_BAR = 24
_CLEAR = "\r\x1b[K"

_Handler = Callable[[int, FrameType | None], object] | int | None


class JudgingProgress:
    """Call it with (judged, known so far) after each program; a context around the work, to be
    entered in the main thread."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._start = time.monotonic()
        self._counts = (0, 0)
        self._before: _Handler = None
        self._on = self._stream.isatty()

    def __call__(self, judged: int, known: int) -> None:
        self._counts = (judged, known)

    def text(self) -> str:
        """The line as it would be now."""
        judged, known = self._counts
        filled = _BAR * judged // known if known else 0
        bar = "█" * filled + "░" * (_BAR - filled)
        seconds = time.monotonic() - self._start
        return f"{bar} {judged:,} of {known:,} programs judged, {seconds:.0f} s"

    def __enter__(self) -> JudgingProgress:
        if self._on:
            self._before = signal.signal(signal.SIGALRM, self._draw)
            signal.setitimer(signal.ITIMER_REAL, _DELAY_S, _PERIOD_S)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._on:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self._before)
            self._stream.write(_CLEAR)
            self._stream.flush()

    def _draw(self, number: int, frame: FrameType | None) -> None:
        self._stream.write(f"{_CLEAR}{self.text()}")
        self._stream.flush()

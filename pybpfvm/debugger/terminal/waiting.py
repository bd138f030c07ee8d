"""A line on stderr while one waits: on terminals only, and after half a second."""

from __future__ import annotations

import os
import sys
import time
from typing import TextIO

_AFTER_S = 0.5
_EVERY_S = 0.2
_CLEAR = "\r\x1b[K"


class Waiting:
    """It is called with (done, all) of the work that `begin` named last, and takes the line away
    before it says anything, and at `end`."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._on = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._shown = False
        self._what = ""
        self._due = 0.0

    def begin(self, what: str) -> None:
        """Something begins that may take long."""
        self._what = what
        self._due = time.monotonic() + _AFTER_S

    def __call__(self, done: int, whole: int) -> None:
        if not self._on:
            return
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + _EVERY_S
        self._shown = True
        self._stream.write(f"{_CLEAR}{self._what}: {min(100, 100 * done // max(whole, 1))}%")
        self._stream.flush()

    def end(self) -> None:
        """Take the line away."""
        if self._shown:
            self._shown = False
            self._stream.write(_CLEAR)
            self._stream.flush()

    def say(self, text: str) -> None:
        """Print it, where the line was."""
        self.end()
        print(text)


__all__ = ["Waiting"]

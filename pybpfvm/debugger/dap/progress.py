"""What a client is told of long work."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from pybpfvm.debugger.dap.connection import Connection

_AFTER_S = 0.5  # shorter work is not worth a word
_EVERY_S = 0.25


class Progress:
    """Tells of one piece of work that is called `title`: a context manager, inside of which it is
    called with (done, all). `wanted`: whether the client wants to hear of it at all."""

    def __init__(self, connection: Connection, title: str, number: int, *, wanted: bool) -> None:
        self.name = f"work-{number}"
        self._connection = connection
        self._title = title
        self._wanted = wanted
        self._started = self._told = time.monotonic()
        self._shown = False

    def __enter__(self) -> Self:
        return self

    def __call__(self, done: int, whole: int) -> None:
        """So much of it is done."""
        now = time.monotonic()
        if not self._wanted or now - self._started < _AFTER_S or now - self._told < _EVERY_S:
            return
        self._told = now
        body = {
            "progressId": self.name,
            "message": f"{done:,} of {whole:,}",
            "percentage": min(100, 100 * done // max(whole, 1)),
        }
        if self._shown:
            self._connection.event("progressUpdate", body)
        else:
            self._shown = True
            start = body | {"title": self._title, "cancellable": True}
            self._connection.event("progressStart", start)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._shown:
            self._shown = False
            self._connection.event("progressEnd", {"progressId": self.name})

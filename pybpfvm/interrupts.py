"""Signals that ask to stop (Ctrl-C) wait until nothing is half done.

Python runs a handler between any two instructions of the main thread. What it raises in the middle
of a ring's bookkeeping would lose requests. So while a ring is open, handlers that come during its
calls are run where such a call can be left: between runs of programs, after a sleep, at the end. A
second signal of the same kind does not wait, and neither do others (an alarm, say).

`verify` does alike: its document is whole, and an exploration stops between two instructions.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from types import FrameType
from typing import Any, ParamSpec, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_Handler = Callable[[int, FrameType | None], Any]


class _Waiting:
    """The handlers, and those that are due. `depth`: calls of the main thread, one in another."""

    def __init__(self) -> None:
        self.depth = 0
        self.users = 0
        self.handlers: dict[int, _Handler] = {}
        self.due: dict[int, FrameType | None] = {}

    def handle(self, number: int, frame: FrameType | None) -> None:
        if self.depth == 0 or number in self.due:
            self.due.pop(number, None)
            self.handlers[number](number, frame)
        else:
            self.due[number] = frame


_waiting = _Waiting()


def watch() -> None:
    """A ring is opened: from now on handlers wait, if they were set before and this is the main
    thread."""
    _waiting.users += 1
    if not _is_main():
        return
    for number in _SIGNALS:
        handler = signal.getsignal(number)
        if callable(handler) and handler != _waiting.handle:
            _waiting.handlers[number] = handler
            signal.signal(number, _waiting.handle)


def unwatch() -> None:
    """A ring is closed. The last one gives the handlers back."""
    _waiting.users -= 1
    if _waiting.users or not _is_main():
        return
    for number, handler in _waiting.handlers.items():
        if signal.getsignal(number) == _waiting.handle:
            signal.signal(number, handler)


def uninterrupted(call: Callable[_P, _R]) -> Callable[_P, _R]:
    """Handlers wait while `call` runs. What is due when the outermost such call ends runs then."""

    @wraps(call)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if not _is_main():
            return call(*args, **kwargs)
        _waiting.depth += 1
        try:
            return call(*args, **kwargs)
        finally:
            _waiting.depth -= 1
            if not _waiting.depth:
                breathe()

    return run


@contextmanager
def held() -> Iterator[None]:
    """Handlers wait inside, and also afterwards until there is a place to `breathe`."""
    if not _is_main():
        yield
        return
    _waiting.depth += 1
    try:
        yield
    finally:
        _waiting.depth -= 1


@contextmanager
def watching() -> Iterator[None]:
    """`watch` and `unwatch`; what is due at the end is not run any more."""
    watch()
    try:
        yield
    finally:
        if _waiting.users == 1:
            _waiting.due.clear()
        unwatch()


def breathe() -> None:
    """A place where a call can be left: run what is due, and raise what it raises."""
    while _waiting.due and _is_main():
        number, frame = _waiting.due.popitem()
        _waiting.handlers[number](number, frame)


def _is_main() -> bool:
    return threading.get_ident() == threading.main_thread().ident

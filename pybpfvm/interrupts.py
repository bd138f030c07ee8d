"""Signals whose handlers raise (Ctrl-C) wait until nothing is half done.

Python runs a handler between any two instructions of the main thread. What it raises in the middle
of a ring's bookkeeping would lose requests. So during a ring's call the handlers of Python are
replaced; what comes is run where such a call can be left: between runs of programs, after a sleep,
at the end. A second signal of the same kind does not wait.

A handler that runs in the middle of a call can not make a ring's call itself: InputError.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from functools import wraps
from types import FrameType
from typing import Any, ParamSpec, TypeVar

from pybpfvm.errors import InputError

_P = ParamSpec("_P")
_R = TypeVar("_R")
_Handler = Callable[[int, FrameType | None], Any]
_SIGNALS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGALRM,
    signal.SIGUSR1,
    signal.SIGUSR2,
)


class _Waiting:
    """The handlers that a call has replaced, and the signals that are due, oldest first."""

    def __init__(self) -> None:
        self.calls = False  # within the outermost call
        self.handling = False  # in a handler that runs within it
        self.handlers: dict[int, _Handler] = {}
        self.due: dict[int, FrameType | None] = {}

    def begin(self) -> None:
        """The outermost call begins."""
        self.calls = True
        for number in _SIGNALS:
            handler = signal.getsignal(number)
            if callable(handler):
                self.handlers[number] = handler
                signal.signal(number, self.handle)

    def end(self) -> None:
        """It is over: give the handlers back, unless they were set meanwhile."""
        for number, handler in self.handlers.items():
            if signal.getsignal(number) == self.handle:
                signal.signal(number, handler)
        self.calls = False
        try:
            self.run_due()
        finally:
            self.handlers.clear()

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The handler meanwhile."""
        if self.calls and number not in self.due:
            self.due[number] = frame
        else:
            self.due.pop(number, None)
            self.handlers[number](number, frame)

    def run_due(self) -> None:
        """Run what is due, all of it; the first exception is raised, with the others as its
        context."""
        while self.due:
            number = next(iter(self.due))
            frame = self.due.pop(number)
            try:
                self.handlers[number](number, frame)
            except BaseException:
                self.run_due()
                raise

    def forget(self) -> None:
        """In a forked child: only its parent is within a call."""
        self.due.clear()
        self.handling = False
        if self.calls:
            self.end()


_waiting = _Waiting()
os.register_at_fork(after_in_child=_waiting.forget)


def uninterrupted(call: Callable[_P, _R]) -> Callable[_P, _R]:
    """Handlers wait while `call` runs. What is due when the outermost such call ends runs then."""

    @wraps(call)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if threading.get_ident() != threading.main_thread().ident:
            return call(*args, **kwargs)
        if _waiting.handling:
            raise InputError(
                "a signal's handler makes a ring's call in the middle of another",
                remedy="note the signal, and look at the note after the call",
            )
        if _waiting.calls:
            return call(*args, **kwargs)
        try:
            _waiting.begin()
            return call(*args, **kwargs)
        finally:
            _waiting.end()

    return run


def breathe() -> None:
    """A place where a call can be left: run what is due, and raise what it raises."""
    if not _waiting.due or threading.get_ident() != threading.main_thread().ident:
        return
    _waiting.handling = True
    try:
        _waiting.run_due()
    finally:
        _waiting.handling = False

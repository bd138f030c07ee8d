"""Calls of one ring from several threads: one at a time, as the kernel's ring lock has it.

A call that waits lets others in between two looks. Who only reaps takes no turn: a queue is memory
that one side fills and the other empties.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from functools import wraps
from types import TracebackType
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from pybpfvm.interrupts import breathe

SLICE_NS = 2_000_000  # of a sleep while there are other threads, who may wait for their turn
_LOOK_S = 0.05  # after so long who waits for a turn looks for signals


class Turns:
    """A context manager around each call; a call within a call of the same thread is let through.
    Who comes first is first.
    """

    def __init__(self) -> None:
        maker = threading.current_thread()
        self._last = threading.get_ident()  # whose call was the last
        self._callers = {self._last: maker}
        self._guard = threading.Lock()  # of what follows
        self._holder = 0
        self._depth = 0
        self._waiting: deque[_Place] = deque()

    def __enter__(self) -> None:
        me = threading.get_ident()
        if me != self._last:
            self._last = me
            self._callers[me] = threading.current_thread()
        if self._holder != me:
            with self._guard:
                place = None if not self._holder else self._queue_up(me)
                if place is None:
                    self._holder = me
            if place is not None:
                self._wait(place)
        self._depth += 1

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._depth -= 1
        if not self._depth:
            with self._guard:
                self._pass_on()

    @property
    def shared(self) -> bool:
        """Whether another thread lives that has made calls, or made this."""
        me = threading.get_ident()
        return any(one.is_alive() for who, one in list(self._callers.items()) if who != me)

    def let_others(self) -> bool:
        """In a call, where nothing is half done: who waits for a turn has it first. Whether
        somebody did."""
        if not self._waiting:
            return False
        depth, self._depth = self._depth, 0
        with self._guard:
            place = self._queue_up(self._holder)
            self._pass_on()
        raised: BaseException | None = None
        while self._holder != place.who:
            # What is raised waits for the turn, which the call that is left gives up.
            try:
                place.called.acquire(timeout=_LOOK_S)
                breathe()
            except BaseException as error:
                raised = raised or error
        self._depth = depth
        if raised is not None:
            raise raised
        return True

    def _queue_up(self, who: int) -> _Place:
        place = _Place(who)
        self._waiting.append(place)
        return place

    def _pass_on(self) -> None:
        self._holder = 0
        if self._waiting:
            place = self._waiting.popleft()
            self._holder = place.who
            place.called.release()

    def _wait(self, place: _Place) -> None:
        try:
            while not place.called.acquire(timeout=_LOOK_S):
                breathe()
        except BaseException:
            with self._guard:
                if place in self._waiting:
                    self._waiting.remove(place)
                else:
                    self._pass_on()
            raise


class _Place:
    """Where a thread waits in the queue: `called` is locked until it is its turn."""

    __slots__ = ("called", "who")

    def __init__(self, who: int) -> None:
        self.who = who
        self.called = threading.Lock()
        self.called.acquire()


class _Taken(Protocol):
    turns: Turns


_S = TypeVar("_S", bound=_Taken)
_P = ParamSpec("_P")
_R = TypeVar("_R")


def in_turn(call: Callable[Concatenate[_S, _P], _R]) -> Callable[Concatenate[_S, _P], _R]:
    """A method that is a call of a ring: it takes a turn."""

    @wraps(call)
    def run(self: _S, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        with self.turns:
            return call(self, *args, **kwargs)

    return run

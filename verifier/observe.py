"""What the explorer tells whoever watches it: the kernel log, the state-claim check, the lints.

An observer only looks. States are the explorer's own and change after the call returns: keep a
`copy`, or what you read from them.
"""

from __future__ import annotations

from collections.abc import Iterable

from pybpfvm.verifier.refusal import Refused
from pybpfvm.verifier.states.state import State


class Observer:
    """Hears everything and does nothing. A pc counts slots; calls come in the order of events."""

    def resumed(self, origin: int, pc: int, state: State) -> None:
        """A path begins at `pc`: the other arm of the branch at `origin`, or the function's first
        (`origin` -1)."""

    def forked(self, pc: int, target: int, state: State) -> None:
        """The instruction at `pc` put a path aside: it will be resumed at `target` in `state`."""

    def step(self, pc: int, state: State) -> None:
        """The instruction at `pc` is about to be judged in `state`."""

    def stored(self, pc: int, state: State) -> None:
        """The state at `pc` is kept, for later paths to be compared with."""

    def pruned(self, pc: int, state: State) -> None:
        """The path ends at `pc`: a kept state covers this one."""

    def ended(self, pc: int, state: State) -> None:
        """The path ends after the instruction at `pc`: an exit, or no arm of a branch is
        possible."""

    def refused(self, pc: int, state: State, refused: Refused) -> None:
        """A rule is broken at `pc`."""


class Observers(Observer):
    """Several observers, told in order."""

    def __init__(self, observers: Iterable[Observer]) -> None:
        self._all = tuple(observers)

    def resumed(self, origin: int, pc: int, state: State) -> None:
        for one in self._all:
            one.resumed(origin, pc, state)

    def forked(self, pc: int, target: int, state: State) -> None:
        for one in self._all:
            one.forked(pc, target, state)

    def step(self, pc: int, state: State) -> None:
        for one in self._all:
            one.step(pc, state)

    def stored(self, pc: int, state: State) -> None:
        for one in self._all:
            one.stored(pc, state)

    def pruned(self, pc: int, state: State) -> None:
        for one in self._all:
            one.pruned(pc, state)

    def ended(self, pc: int, state: State) -> None:
        for one in self._all:
            one.ended(pc, state)

    def refused(self, pc: int, state: State, refused: Refused) -> None:
        for one in self._all:
            one.refused(pc, state, refused)

"""The path that a rejected program failed on, found again by a second exploration.

Exploration is deterministic: verifying once more with this observer meets the same errors, and
keeps, for each, the instructions that led to it with the state before each. Verdicts without an
error never pay for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from pybpfvm.verifier.observe import Observer
from pybpfvm.verifier.refusal import Refused
from pybpfvm.verifier.states.state import State
from pybpfvm.verifier.verdict import Rule

# How many steps of a path are kept: memory is bounded by that of so many states.
KEPT_STEPS = 20_000


class Step:
    """An instruction of a path, the state before it, and what came before (None at the start,
    or where the path was cut off)."""

    __slots__ = ("parent", "pc", "state")

    def __init__(self, pc: int, state: State, parent: Step | None) -> None:
        self.pc = pc
        self.state = state
        self.parent = parent


@dataclass(frozen=True, slots=True)
class FailingPath:
    """`steps` in the order of execution; the last is the instruction that was refused."""

    steps: tuple[Step, ...]
    refused: Refused

    @property
    def pcs(self) -> tuple[int, ...]:
        """The instructions' pcs."""
        return tuple(step.pc for step in self.steps)


class AllFound(Exception):
    """Raised out of an exploration: every path that was looked for is known."""


class PathRecorder(Observer):
    """Keeps the path being explored and those it forked from; `paths` are those that failed,
    by the rule that was broken and where. AllFound is raised once those of `wanted` are known.

    A step holds on to what came before it, so what nobody refers to any more is freed: memory
    goes with the length of the path and the number of forks that wait.
    """

    def __init__(self, wanted: Collection[tuple[Rule, int]]) -> None:
        self._missing = set(wanted)
        self.paths: dict[tuple[Rule, int], FailingPath] = {}
        self._last: Step | None = None
        self._recent: deque[Step] = deque()
        # By the identity of the state that will be resumed, which is kept alive here.
        self._forks: dict[int, tuple[State, Step | None]] = {}

    def resumed(self, origin: int, pc: int, state: State) -> None:
        """Go back to where the path forked."""
        _, self._last = self._forks.pop(id(state), (state, None))
        while self._recent and self._recent[-1] is not self._last:
            self._recent.pop()

    def forked(self, pc: int, target: int, state: State) -> None:
        """Remember where the other path leaves this one."""
        self._forks[id(state)] = (state, self._last)

    def step(self, pc: int, state: State) -> None:
        """One more instruction."""
        self._last = Step(pc, state.copy(), self._last)
        self._recent.append(self._last)
        if len(self._recent) > KEPT_STEPS:
            self._recent.popleft()
            self._recent[0].parent = None

    def refused(self, pc: int, state: State, refused: Refused) -> None:
        """Keep the first path on which the rule is broken there."""
        key = (refused.rule, pc)
        if key in self.paths:
            return
        last = self._last
        if last is None or last.pc != pc:  # refused before it was stepped over
            last = Step(pc, state.copy(), last)
        self.paths[key] = FailingPath(tuple(_in_order(last)), refused)
        self._missing.discard(key)
        if not self._missing:
            raise AllFound


def _in_order(last: Step) -> Iterator[Step]:
    steps: list[Step] = []
    current: Step | None = last
    while current is not None:
        steps.append(current)
        current = current.parent
    return reversed(steps)

"""What is told on the way forward: the text of logpoints, and what programs print, in order."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable

from pybpfvm.debugger.history import History
from pybpfvm.debugger.met import Match, placed
from pybpfvm.debugger.placing import BRACES
from pybpfvm.debugger.scope import RecordedScope
from pybpfvm.debugger.search import Here
from pybpfvm.expr.compiled import Compiled, compile_expression
from pybpfvm.expr.mistake import ExpressionError
from pybpfvm.report.words import printable

_MOST_LINES = 10_000
_MOST_EXPRESSIONS = 256

Mark = tuple[int, int]  # a run, and how many of the records within it are past


class Telling:
    """During one move after the other. `sink` gets each line at once; without one they are kept for
    `end`. `scope_of` gives the scope of a run."""

    def __init__(self, history: History, scope_of: Callable[[int], RecordedScope]) -> None:
        self.sink: Callable[[str], None] | None = None
        self._history = history
        self._scope_of = scope_of
        self._lines: list[str] = []
        self._more = 0  # that were not kept
        self._compiled: dict[tuple[int, str], Compiled] = {}  # by scope and text
        self._printed: Mark = (0, 0)
        self._prints: tuple[int, list[tuple[int, str]]] = (-1, [])  # those of one run

    def begin(self, run: int) -> None:
        """A move begins, where the history is: in this run."""
        self._lines, self._more = [], 0
        self._printed = self._mark(run)

    def end(self, run: int | None) -> tuple[str, ...]:
        """It ended where the history is, in this run; None: it did not go forward. What was told
        that `sink` has not got."""
        if run is not None:
            self._print_up_to(*self._mark(run))
        if self._more:
            self._lines.append(f"... and {self._more} lines more")
        return tuple(self._lines)

    def logpoint(self, met: Match, here: Here) -> None:
        """One is met: its text, with the values of its expressions."""
        self._print_up_to(here.run, self._history.replay.answered)
        scope = placed(self._scope_of(here.run), here, met.moment)

        def value(found: re.Match[str]) -> str:
            key = id(scope), found[1]
            try:
                if key not in self._compiled:
                    if len(self._compiled) >= _MOST_EXPRESSIONS:
                        self._compiled.clear()
                    self._compiled[key] = compile_expression(found[1], scope)
                return self._compiled[key].text_of(scope)
            except ExpressionError as error:
                return f"<{error.reason}>"

        self._tell(BRACES.sub(value, met.breakpoint.log_message or ""))

    def _mark(self, run: int) -> Mark:
        return run, self._history.replay.answered if run < len(self._history.runs) else 0

    def _print_up_to(self, run: int, answered: int) -> None:
        """Tell what programs printed since the last time."""
        (first, since), runs = self._printed, self._history.runs
        self._printed = run, answered
        for number in range(first, min(run + 1, len(runs))):
            if not runs[number].prints:
                continue
            if self._prints[0] != number:
                self._prints = number, list(self._history.replay.prints(number))
            prints = self._prints[1]
            at = bisect_left(prints, (since if number == first else 0, ""))
            end = bisect_left(prints, (answered, "")) if number == run else len(prints)
            for _, text in prints[at:end]:
                self._tell(f"{runs[number].program} prints: {printable(text.rstrip())}")

    def _tell(self, text: str) -> None:
        if self.sink is not None:
            self.sink(text)
        elif len(self._lines) < _MOST_LINES:
            self._lines.append(text)
        else:
            self._more += 1


__all__ = ["Telling"]

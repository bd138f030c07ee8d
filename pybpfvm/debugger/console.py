"""The commands of the terminal debugger, for surfaces that have a console of their own."""

from __future__ import annotations

from collections.abc import Sequence

from pybpfvm.debugger.debugger import Debugger
from pybpfvm.debugger.terminal.commands import Commands, Quit
from pybpfvm.errors import PybpfvmError
from pybpfvm.report.paint import Paint

_MOST_LINES = 10_000


class Console:
    """Does what lines say, and gives back what there is to say about it."""

    def __init__(self, debugger: Debugger) -> None:
        self._debugger = debugger
        self._said: list[str] = []
        self._commands = Commands(debugger, self._say, Paint(False))
        self._names = {
            name for one in self._commands.all.values() for name in (one.name, *one.others)
        }

    def _say(self, line: str) -> None:
        if len(self._said) < _MOST_LINES:
            self._said.append(line)
        elif len(self._said) == _MOST_LINES:
            self._said.append("...")

    def knows(self, line: str) -> bool:
        """Whether a line begins with a command."""
        return line.strip().partition(" ")[0].partition("/")[0] in self._names

    def execute(self, line: str, frame: int = 0) -> str:
        """Do what a line says, in a frame. What is wrong with it is said, not raised."""
        self._said = []
        self._commands.frame = frame
        before, self._debugger.telling.sink = self._debugger.telling.sink, self._say
        try:
            self._commands.execute(line)
        except Quit:
            self._say("leave with the command of your client")
        except PybpfvmError as error:
            self._say(f"error: {error}")
        finally:
            self._debugger.telling.sink = before
        return "".join(f"{one}\n" for one in self._said)

    def words(self, line: str) -> Sequence[str]:
        """What could stand where the last word of a line begins."""
        return self._commands.words(line)

"""Reading commands: from scripts, a pipe, or a terminal with history and completion."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from pybpfvm.debugger.debugger import Debugger
from pybpfvm.debugger.history import Interrupted
from pybpfvm.debugger.terminal.commands import Commands, Quit
from pybpfvm.debugger.terminal.waiting import Waiting
from pybpfvm.errors import PybpfvmError
from pybpfvm.report.paint import Paint, wants_colour
from pybpfvm.report.words import count

PROMPT = "(pybpfvm) "


class Shell:
    """A debugger that is told what to do by lines of text. `failed` says whether one was wrong.
    `waiting` is told when work begins and ends."""

    def __init__(
        self,
        debugger: Debugger,
        say: Callable[[str], None] = print,
        waiting: Waiting | None = None,
    ) -> None:
        self.debugger = debugger
        self.commands = Commands(debugger, say, Paint(wants_colour(sys.stdout)))
        self.failed = False
        self._say = say
        self._waiting = waiting
        self._last = ""
        debugger.telling.sink = say

    def line(self, line: str) -> bool:
        """Do what a line says; whether to go on. A mistake is told in one line."""
        line = line.strip()
        if not line and self.commands.repeats(self._last):
            line = self._last
        self._last = line
        try:
            with self._interruptible(), self._waited(line):
                self.commands.execute(line)
        except Quit:
            return False
        except PybpfvmError as error:
            self.failed = True
            self._say(f"error: {str(error).splitlines()[0]}")
        except (Interrupted, KeyboardInterrupt):
            self._say("interrupted")
        return True

    @contextmanager
    def _waited(self, line: str) -> Iterator[None]:
        if self._waiting is None:
            yield
            return
        self._waiting.begin(f"{line:.60}")
        try:
            yield
        finally:
            self._waiting.end()

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Ctrl-C ends the command, not the session."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def interrupt(_: int, frame: FrameType | None) -> None:
            if self.debugger.history.interrupt():  # nobody listened the first time
                raise KeyboardInterrupt

        before = signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
            self.debugger.history.interrupted = False

    def script(self, lines: Sequence[str]) -> bool:
        """Do these lines, which are shown; whether to go on."""
        for line in lines:
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            self._say(f"{PROMPT}{text}")
            if not self.line(text):
                return False
        return True

    def interact(self) -> None:
        """Read commands from the user until there are no more."""
        read = self._reader()
        while True:
            try:
                line = read()
            except KeyboardInterrupt:
                self._say("quit leaves")
                continue
            except EOFError:
                return
            if not self.line(line):
                return

    def _reader(self) -> Callable[[], str]:
        if sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
            try:
                return _prompting(self.commands)
            except ImportError:
                return lambda: input(PROMPT)
        if sys.stdin.isatty():
            return lambda: input(PROMPT)

        def piped() -> str:
            line = sys.stdin.readline()
            if not line:
                raise EOFError
            self._say(f"{PROMPT}{line.strip()}")
            return line

        return piped


def _prompting(commands: Commands) -> Callable[[], str]:
    """A prompt with history and completion. ImportError without the extra `debug`."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import Completer, Completion
    from prompt_toolkit.history import FileHistory, History, InMemoryHistory

    class Words(Completer):
        def get_completions(self, document: Any, complete_event: Any) -> Iterator[Completion]:
            line = document.text_before_cursor
            word = line.rpartition(" ")[2]
            for one in commands.words(line):
                yield Completion(one, start_position=-len(word))

    history: History = InMemoryHistory()
    path = history_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", encoding="utf-8"):
            pass
        history = FileHistory(str(path))
    except OSError:
        pass  # a home that can not be written to
    session: PromptSession[str] = PromptSession(
        history=history, completer=Words(), complete_while_typing=False
    )
    return lambda: session.prompt(PROMPT)


def history_path() -> Path:
    """Where the commands of earlier sessions are kept: the XDG base directories' state."""
    state = os.environ.get("XDG_STATE_HOME", "")
    base = Path(state) if state.startswith("/") else Path.home() / ".local" / "state"
    return base / "pybpfvm" / "debug_history"


def open_shell(
    path: str | os.PathLike[str],
    *,
    engine: str = "auto",
    script: Sequence[str] = (),
    interactive: bool = True,
) -> bool:
    """Open a recording, do the lines of a script, then read commands; whether none was wrong.
    Raises InputError as Replay does."""
    waiting = Waiting()
    waiting.begin(f"opening {Path(path).name}")
    try:
        debugger = Debugger(path, engine=engine, progress=waiting)
    finally:
        waiting.end()
    with debugger:
        history = debugger.history
        shell = Shell(debugger, waiting.say, waiting)
        runs, insns = count(len(history.runs), "run"), count(history.insns, "instruction")
        print(f"{os.fspath(path)}: {runs}, {insns}")
        if history.replay.damage is not None:
            print(f"note: {history.replay.damage}")
        why = debugger.ended()
        if why:
            print(why)
        shell.commands.where()
        if shell.script(script) and interactive:
            shell.interact()
        return not shell.failed


__all__ = ["PROMPT", "Shell", "history_path", "open_shell"]

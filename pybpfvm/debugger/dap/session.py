"""A recording that a client looks at: where it stopped, and how it moves on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from pybpfvm.debugger.console import Console
from pybpfvm.debugger.dap.arguments import (
    Completions,
    DataBreakpointInfo,
    Initialize,
    Launch,
    OfSource,
)
from pybpfvm.debugger.dap.breakpoints import Breakpoints
from pybpfvm.debugger.dap.code import Code
from pybpfvm.debugger.dap.inspection import Inspection
from pybpfvm.debugger.dap.refusal import Refused
from pybpfvm.debugger.dap.sources import Sources
from pybpfvm.debugger.debugger import Debugger, How, Stop
from pybpfvm.debugger.target import Target
from pybpfvm.program import Program

Body = dict[str, Any]
_LINES = 1000  # that logpoints told are passed on together
_LINES_S = 0.2
_REASONS = {
    "breakpoint": "breakpoint",
    "step": "step",
    "goto": "goto",
    "pause": "pause",
    "trap": "exception",
    "diverged": "exception",
    "end": "end",
    "start": "entry",
}
_BY_KIND = {
    "function": "function breakpoint",
    "insn": "instruction breakpoint",
    "data": "data breakpoint",
    "trap": "exception",
    "cqe": "exception",
    "helper": "exception",
}
_TITLES = {
    "trap": "Trap",
    "diverged": "The replay diverges",
    "pause": "Back where the move began: it was interrupted",
    "end": "The recording ends here",
    "hang": "Hang",
    "failed": "Failed expectation",
    "start": "The recording begins here",
}


class Session:
    """What was launched."""

    def __init__(self, debugger: Debugger, folders: tuple[Path, ...], client: Initialize) -> None:
        self.debugger = debugger
        self.target = Target(debugger)
        lines = (
            debugger.lines_of(run).debug.lines(program) for run, program in _programs(debugger)
        )
        self.sources = Sources(lines, folders)
        self.code = Code(self.target, self.sources, client)
        self.breakpoints = Breakpoints(self.target, self.sources, self.code, client)
        self.inspection = Inspection(self.target, self.sources, self.code, client)
        self.console = Console(debugger)
        self._first_column = int(client.columns_start_at1)
        self._logged: list[str] = []
        self._exception: tuple[str, str] | None = None  # what, and more of it

    @classmethod
    def opened(
        cls, path: Path, launch: Launch, client: Initialize, progress: Callable[[int, int], None]
    ) -> Self:
        """The recording at `path`. Raises InputError."""
        debugger = Debugger(path, engine=launch.engine, progress=progress)
        try:
            return cls(debugger, _folders(path, launch, debugger), client)
        except BaseException:
            debugger.close()
            raise

    def close(self) -> None:
        """Give the recording back."""
        self.debugger.close()

    @property
    def name(self) -> str:
        """The object's path."""
        loaded = self.debugger.object
        return "no object" if loaded is None else loaded.object.path

    @property
    def damage(self) -> str:
        """Why the recording ends early, "" if it does not."""
        damage = self.debugger.history.replay.damage
        return "" if damage is None else str(damage)

    def interrupt(self) -> None:
        """From another thread: the move that is going on ends."""
        self.debugger.interrupt()

    def threads(self) -> list[Body]:
        """A thread for each ring, and one for programs that ran outside rings."""
        return [{"id": _id(number), "name": name} for number, name in self.target.threads().items()]

    def loaded_sources(self) -> list[Body]:
        """All C files."""
        return [file.reference() for file in self.sources.files.values()]

    def source(self, args: OfSource) -> Body:
        """The text of a C file."""
        number = args.source_reference or (args.source.source_reference if args.source else 0) or 0
        file = self.sources.numbered(number)
        if file is None and args.source is not None:
            file = self.sources.meant(args.source)
        if file is None:
            raise Refused(f"there is no source {number}")
        return {"content": file.text(), "mimeType": "text/x-c"}

    def completions(self, args: Completions) -> Body:
        """What could be meant by the last word of what is typed in the console."""
        text = args.text[: max(args.column - self._first_column, 0)]
        start = len(text) - len(text.rpartition(" ")[2])
        return {
            "targets": [
                {"label": word, "start": start + self._first_column, "length": len(text) - start}
                for word in self.console.words(text)
            ]
        }

    def data_breakpoint_info(self, args: DataBreakpointInfo) -> Body:
        """Whether a variable can be watched."""
        data, why = self.inspection.data_of(args)
        return self.breakpoints.data_info(data, args.name, why)

    # --- moving -------------------------------------------------------------------------------

    def entry(self, stop_at: str) -> Body:
        """Where one is at first: "auto", where the debugger opens: where something went wrong in
        the end, or else at the start; "start"; "end". The `stopped` event."""
        history = self.debugger.history
        if stop_at == "start":
            self._left()
            self.debugger.goto(history.start)
        elif stop_at == "end":
            self._left()
            self.debugger.goto(history.end)
        fault = history.fault()
        if fault is not None and self.debugger.position == fault:
            how = history.runs[fault.run].how
            assert how is not None
            return self._stopped(Stop("trap", fault, text=f"{how[4]}, {self.debugger.describe()}"))
        if self.debugger.position == history.end:
            return self._stopped(Stop("end", history.end, text=self.debugger.describe()))
        return self._message("entry", "", self.debugger.describe())

    def move(
        self,
        how: How,
        backward: bool,
        progress: Callable[[int, int], None],
        tell: Callable[[str, list[str]], None],
        given_up: Callable[[], bool],
    ) -> Body:
        """Move; the `stopped` event. `tell` gets what logpoints told, with a category; `given_up`
        is asked whether there is still somebody who wants it."""
        if given_up():
            return self._message("pause", "", self.debugger.describe())
        self._left()
        debugger = self.debugger
        told_at = time.monotonic()

        def log(line: str) -> None:
            nonlocal told_at
            self._logged.append(line)
            now = time.monotonic()
            if len(self._logged) >= _LINES or now - told_at > _LINES_S:
                told_at = now
                self._flush(tell)

        debugger.telling.sink = log
        debugger.history.progress = progress
        try:
            stop = debugger.move(how, backward=backward)
        finally:
            debugger.history.progress = None
            self._flush(tell)
        for line in stop.log:
            tell("console", [line])
        return self._stopped(stop)

    def _flush(self, tell: Callable[[str, list[str]], None]) -> None:
        lines, self._logged = self._logged, []
        if lines:
            tell("console", lines)

    def command(self, line: str, frame: int) -> tuple[str, Body | None]:
        """Do what a line of the console says: what there is to say, and the `stopped` event if one
        is elsewhere now."""
        before = self.debugger.position
        text = self.console.execute(line, frame)
        if self.debugger.position == before:
            return text, None
        self._left()
        return text, self._message("goto", "", self.debugger.describe())

    def goto(self, target: int) -> Body:
        """Go to a target that was told; the `stopped` event."""
        position = self.code.goto_position(target)
        self._left()
        return self._stopped(self.debugger.goto(position))

    def _left(self) -> None:
        self._exception = None
        self.inspection.forget()

    def broken(self, reason: str) -> Body:
        """The `stopped` event of a move that could not be made."""
        self._exception = "error", reason
        return self._message("exception", "The move could not be made", reason)

    def _stopped(self, stop: Stop) -> Body:
        reason = _REASONS.get(stop.reason, stop.reason)
        title, text = _TITLES.get(stop.reason, ""), stop.text
        if stop.breakpoints:
            first = stop.breakpoints[0]
            reason = _BY_KIND.get(first.kind, "breakpoint")
            if reason == "exception":
                title = f"{first.kind}: {first.where}"
                self._exception = first.kind, stop.text
            if stop.changes:
                title = "; ".join(
                    f"{one.breakpoint.where}: {one.old} -> {one.new}" for one in stop.changes
                )
        elif stop.reason == "trap" or stop.reason == "diverged":
            self._exception = stop.reason, stop.text
        elif stop.reason == "end":
            reason, title, text = self._at_the_end(text)
        return self._message(reason, title, text, stop)

    def _at_the_end(self, text: str) -> tuple[str, str, str]:
        what, why = self.target.ended()
        if what and self.breakpoints.filters.get(what):
            self._exception = what, why
            return "exception", _TITLES[what], why
        return "end", _TITLES["end"], why or text

    def _message(self, reason: str, title: str, text: str, stop: Stop | None = None) -> Body:
        body: Body = {
            "reason": reason,
            "threadId": _id(self.target.thread()),
            "allThreadsStopped": True,
        }
        if title:
            body["description"] = title
        if text:
            body["text"] = text
        numbers = [one.id for one in stop.breakpoints] if stop is not None else []
        told = [number for number in numbers if number in self.breakpoints.told]
        if told:
            body["hitBreakpointIds"] = told
        return body

    def exception_info(self) -> Mapping[str, Any]:
        """What stopped the program, of what is no breakpoint."""
        if self._exception is None:
            raise Refused("nothing went wrong where the program stopped")
        what, more = self._exception
        return {
            "exceptionId": what,
            "description": more,
            "breakMode": "always",
            "details": {"message": more, "typeName": what},
        }


def _id(ring: int) -> int:
    """Of a thread: they are counted from 1."""
    return ring + 1


def _programs(debugger: Debugger) -> list[tuple[int, Program]]:
    """The programs of all objects that ran, each with a run of its object."""
    replay = debugger.history.replay
    first: dict[int, int] = {}
    for entry in replay.runs:
        first.setdefault(replay.index.engines[entry.engine].obj, entry.number)
        if len(first) == len(replay.objects):
            break
    return [
        (first[number], program)
        for number, loaded in enumerate(replay.objects)
        if number in first
        for program in loaded.image.programs.values()
    ]


def _folders(path: Path, launch: Launch, debugger: Debugger) -> tuple[Path, ...]:
    """Where C files may be: beside what was recorded, and where the client works."""
    found = [Path(launch.cwd or ".")]
    if launch.program is not None:
        found.append(found[0] / Path(launch.program).parent)
    found += [Path(one.object.path).parent for one in debugger.history.replay.objects]
    found.append(path.parent)
    return tuple(dict.fromkeys(Path(os.path.abspath(one)) for one in found))

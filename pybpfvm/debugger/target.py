"""What protocols want to know of a recording besides where one is in it: its programs and where
their code is said to lie, their listings, what the verifier knew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

from pybpfvm.debugger.codespace import CodeSpace
from pybpfvm.debugger.debugger import Debugger
from pybpfvm.debugger.history import Interrupted
from pybpfvm.debugger.position import Position
from pybpfvm.debugger.ranges import Ranges
from pybpfvm.errors import InputError
from pybpfvm.events import Noted
from pybpfvm.isa.codec import encode, pcs
from pybpfvm.program import Program
from pybpfvm.session.objects import LoadedObject

_FAR_INSNS = 1_000_000  # of a run are looked through for a line


class Target:
    """A recording that `debugger` looks at."""

    def __init__(self, debugger: Debugger) -> None:
        self.debugger = debugger
        self._ranges: dict[int, Ranges | None] = {}
        self._pcs: dict[int, Sequence[int]] = {}
        self._owners: dict[int, LoadedObject] = {
            id(program): loaded
            for loaded in debugger.history.replay.objects
            for program in loaded.image.programs.values()
        }

    @cached_property
    def code(self) -> CodeSpace:
        """Addresses for all instructions."""
        return CodeSpace(
            [
                program
                for loaded in self.debugger.history.replay.objects
                for program in loaded.image.programs.values()
            ]
        )

    def owner(self, program: Program) -> LoadedObject:
        """The object that the program is of."""
        return self._owners[id(program)]

    def pcs(self, program: Program) -> Sequence[int]:
        """Where its instructions begin."""
        found = self._pcs.get(id(program))
        if found is None:
            found = self._pcs[id(program)] = tuple(pcs(program.insns))
        return found

    def code_bytes(self, program: Program) -> bytes:
        """The program as it is encoded."""
        return encode(program.insns, big_endian=program.big_endian)

    def readable(self, addr: int, count: int) -> bytes:
        """At most `count` bytes from an address on, as far as there is memory."""
        memory = self.debugger.history.memory
        found = bytearray()
        while len(found) < count:
            region = memory.region_at(addr + len(found))
            if region is None:
                break
            size = min(count - len(found), region.start + region.size - addr - len(found))
            data = memory.look(addr + len(found), size)
            if not data:
                break
            found += data
        return bytes(found)

    def visits(self, file: str, line: int, most: int) -> list[Position]:
        """Where the run that one is in comes to code of a line: the first `most` times. One stays
        where one is."""
        debugger, history = self.debugger, self.debugger.history
        here = debugger.position
        if here.run >= len(history.runs):
            return []
        debug = debugger.lines_of(here.run).debug
        found: list[Position] = []
        pcs: dict[int, frozenset[int]] = {}
        was_there = False

        def watch(insns: int, program: Program, pc: int, _: object, __: int) -> bool:
            nonlocal was_there
            if id(program) not in pcs:
                pcs[id(program)] = frozenset(debug.pcs_of(program, file, line))
            there = pc in pcs[id(program)]
            if there and not was_there:
                found.append(Position(here.run, insns))
            was_there = there
            return len(found) >= most

        history.interrupted = False
        try:
            history.walk(here.run, 0, min(history.length(here.run), _FAR_INSNS), watch)
        except Interrupted:
            pass
        finally:
            debugger.goto(here)
        return found

    def ranges(self, program: Program) -> Ranges | None:
        """What the verifier knew of its registers; None for a program that it does not know."""
        key = id(program)
        if key not in self._ranges:
            loaded = self.owner(program)
            try:
                original = loaded[program.name]
                self._ranges[key] = Ranges(original.program, loaded.object, original.profile)
            except InputError:
                self._ranges[key] = None
        return self._ranges[key]

    def threads(self) -> Mapping[int, str]:
        """Rings by number, and 0 for programs that run outside any: what is called a thread."""
        replay = self.debugger.history.replay
        numbers = range(1, len(replay.index.rings) + 1)
        found = {number: self.debugger.history.ring_title(number) for number in numbers}
        engines = replay.index.engines.values()
        if not found or any(not engine.ring for engine in engines):
            found[0] = "programs outside rings"
        return found

    def thread(self) -> int:
        """The ring of the run that one is in; at the very end that of the last run."""
        runs = self.debugger.history.runs
        if not runs:
            return next(iter(self.threads()))
        return runs[min(self.debugger.position.run, len(runs) - 1)].ring

    def ended(self) -> tuple[str, str]:
        """What went wrong where the recording ends, if one is there: ("hang", why) where it could
        not go on, ("failed", which) for an expectation; ("", "") for nothing that it knows of."""
        debugger = self.debugger
        text = debugger.ended()
        if not text or debugger.position != debugger.history.end:
            return "", ""
        told = debugger.history.told_before(debugger.history.end.run)
        stopped = any(isinstance(one.event, Noted) and one.event.kind == "stopped" for one in told)
        return "hang" if stopped else "failed", text

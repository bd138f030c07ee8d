"""`--timeline`: what it may name, and where the picture of a run goes."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from pybpfvm.errors import InputError, SourceLine
from pybpfvm.events import Event, Observer
from pybpfvm.report import timeline_html, timeline_text
from pybpfvm.report.names import AddressNames
from pybpfvm.report.paint import Paint, wants_colour
from pybpfvm.report.timeline import Setting, Timeline
from pybpfvm.report.timeline_builder import TimelineBuilder
from pybpfvm.scenario import Live, Scenario
from pybpfvm.session.engines import chosen

TERMINAL = "-"
_PAGES, _TEXTS = (".html", ".htm"), (".txt",)
_PIPE_WIDTH = 120
_WHERE = "--timeline"


class TimelineOutput:
    """Watches a run and draws it to `target`: a page, a text file, or "-" for stdout.

    InputError and OSError, before anything runs, for a target that can not be meant or written.
    """

    def __init__(self, target: str, scenario: Scenario, *, json: bool) -> None:
        self.target = target
        cqs = {name: 1 + len(plan.setup.cq_entries) for name, plan in scenario.plans.items()}
        self._builder = TimelineBuilder(rings=cqs if len(cqs) > 1 else None)
        if target == TERMINAL:
            if json:
                raise InputError(
                    "stdout is for the JSON document", where=_WHERE, remedy="name a file"
                )
            return
        path = Path(target)
        if path.suffix not in (*_PAGES, *_TEXTS):
            raise InputError(
                f"{target!r} is neither a page (.html) nor text (.txt)",
                where=_WHERE,
                remedy="name a file with one of these endings, or - for the terminal",
            )
        known = path.exists()
        with open(path, "a", encoding="utf-8"):
            pass  # a run may be long: whether it can be drawn is known before
        if not known:
            path.unlink()

    @property
    def on_terminal(self) -> bool:
        """Whether stdout gets it."""
        return self.target == TERMINAL

    def observer(self, inner: Observer) -> Observer:
        """An observer that keeps what is to be drawn and passes everything on."""

        def observe(event: Event) -> None:
            self._builder(event)
            inner(event)

        return observe

    def draw(
        self, live: Live, opcodes: Mapping[int, str], *, seed: int | None, engine: str
    ) -> None:
        """Draw the run that is over but whose ring still lives: its memory gives the names."""
        ring, obj = live.ring, live.object
        setting = Setting(
            title=live.scenario.title or live.scenario.path,
            object=obj.object.path,
            abi=obj.profile.name,
            backend=ring.backend.name,
            engine=chosen(engine, obj.image),
            seed=seed,
            virtual=ring.backend.name == "sim",
            cq_entries=tuple(
                one.ring.cq_entries(cq) for one in live.rings.values() for cq in one.cqs
            ),
            opcodes=opcodes,
            stopped="" if live.stopped is None else str(live.stopped),
        )
        picture = self._builder.finish(setting, start_ns=live.start_ns)
        if self.on_terminal:
            width = shutil.get_terminal_size((_PIPE_WIDTH, 0)).columns
            for line in timeline_text.lines(picture, width, Paint(wants_colour(sys.stdout))):
                print(line)
            return
        with open(self.target, "w", encoding="utf-8") as file:
            file.write(self._file(live, picture))

    def _file(self, live: Live, picture: Timeline) -> str:
        if self.target.endswith(_TEXTS):
            plain = timeline_text.lines(picture, _PIPE_WIDTH, Paint(False))
            return "".join(f"{line}\n" for line in plain)
        obj = live.object.object
        programs = {program.name: program for program in obj.programs}

        def source(name: str, pc: int) -> SourceLine | None:
            return programs[name].line_at(pc) if name in programs else None

        return timeline_html.render(picture, AddressNames(live.ring.machine.memory, obj), source)

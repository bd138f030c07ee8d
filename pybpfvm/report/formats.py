"""The formats of verdicts: a table, so that each is imported only when it is asked for.

A format's module has `render(report) -> str`. One that shows more than verdicts also has
`recorder(program, obj, profile, request) -> Recorder`; what it recorded is in
`JudgedProgram.recorded` when `render` is called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

from pybpfvm.errors import InputError
from pybpfvm.session.judged import JudgedObject, worst
from pybpfvm.session.judging import JudgeRequest, RecorderOf

FORMATS: Mapping[str, str] = {
    "text": "pybpfvm.report.verdict_text",
    "log": "pybpfvm.report.kernel_log",
    "json": "pybpfvm.report.verdict_json",
    "sarif": "pybpfvm.report.sarif",
    "github": "pybpfvm.report.github",
    "md": "pybpfvm.report.markdown",
    "html": "pybpfvm.report.html",
}


@dataclass(frozen=True, slots=True)
class Report:
    """What is to be shown: the objects in order. `timings`: say how long each program took.
    `colour`: for a terminal. `log_level` is the kernel's, 1 or 2."""

    objects: tuple[JudgedObject, ...]
    request: JudgeRequest
    timings: bool = False
    colour: bool = False
    log_level: int = 1

    @property
    def exit_code(self) -> int:
        """The worst of the objects'."""
        return worst([one.exit_code for one in self.objects])

    @property
    def interrupted(self) -> bool:
        """Whether programs are missing because judging was interrupted."""
        return not all(one.complete for one in self.objects)


@dataclass(frozen=True, slots=True)
class Format:
    """How verdicts are written, and what must be recorded while they are reached."""

    render: Callable[[Report], str]
    recorder: RecorderOf | None = None


def format_named(name: str) -> Format:
    """The format called `name`, a key of FORMATS; InputError if this version does not have it."""
    module_name = FORMATS[name]
    if find_spec(module_name) is None:
        raise InputError(f"this version can not write the format {name!r}", where="--format")
    module = import_module(module_name)
    return Format(module.render, getattr(module, "recorder", None))

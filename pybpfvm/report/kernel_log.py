"""`--format log`: what the kernel's verifier would have written, program by program."""

from __future__ import annotations

from pybpfvm.profiles.base import Profile
from pybpfvm.program import BpfObject, Program
from pybpfvm.report.formats import Report
from pybpfvm.session.judged import JudgedProgram
from pybpfvm.session.judging import JudgeRequest, Recorder
from pybpfvm.verifier.log import KernelLog
from pybpfvm.verifier.verdict import Verdict


class LogRecorder(KernelLog, Recorder):
    """Keeps the log of one verification, as text."""

    def recorded(self, verdict: Verdict) -> str:
        return self.text(verdict)


def recorder(
    program: Program, obj: BpfObject, profile: Profile, request: JudgeRequest
) -> LogRecorder:
    """What writes the log of `program`, at `request.log_level`."""
    return LogRecorder(program, obj, profile, level=request.log_level, limit=request.log_chars)


def render(report: Report) -> str:
    """The logs. A single one stands alone; several are set apart as libbpf does it."""
    programs = [program for one in report.objects for program in one.programs]
    errors = [one for one in report.objects if one.error]
    if len(programs) == 1 and not errors:
        return _log(programs[0])
    parts = [f"{one.path}: {one.error}\n" for one in errors]
    for program in programs:
        name = "".join(c if c.isprintable() else "?" for c in program.name)
        parts.append(
            f"prog '{name}': -- BEGIN PROG LOAD LOG --\n{_log(program)}-- END PROG LOAD LOG --\n"
        )
    return "".join(parts)


def _log(program: JudgedProgram) -> str:
    if isinstance(program.recorded, str):
        return program.recorded
    return "".join(f"{finding.message}\n" for finding in program.findings)

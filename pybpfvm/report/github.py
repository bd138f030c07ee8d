"""Verdicts as workflow commands of GitHub Actions: annotations on the lines of a pull request."""

from __future__ import annotations

from collections.abc import Iterator

from pybpfvm.errors import SourceLine
from pybpfvm.report.formats import Report
from pybpfvm.report.words import file_of, headline, totals, verdict_name
from pybpfvm.session.judged import Agreement, JudgedObject, JudgedProgram
from pybpfvm.verifier.verdict import Finding, Kind


def render(report: Report) -> str:
    """A command a finding, and a notice of how many programs passed."""
    lines = [line for one in report.objects for line in _object(one)]
    lines.append(_command("notice", {"title": "pybpfvm verify"}, totals(report.objects)))
    return "\n".join(lines) + "\n"


def _object(one: JudgedObject) -> Iterator[str]:
    if one.error:
        yield _command("error", {"file": one.path, "title": "can not be judged"}, one.error)
    for judged in one.programs:
        for finding in judged.findings:
            undecided = verdict_name(judged.verdict) == "inconclusive"
            yield _annotation("warning" if undecided else "error", one, judged, finding)
        for finding in judged.verdict.warnings:
            yield _annotation("warning", one, judged, finding)
        side = judged.kernel
        if side is not None and judged.agreement in (Agreement.STRICTER, Agreement.LOOSER):
            said = "accepts it" if side.accepted else f"refuses it: {side.message}"
            ours = verdict_name(judged.verdict)
            text = f"{judged.name}: {ours} here, and the running kernel {said}"
            yield _command("error", {"file": one.path, "title": "kernel disagrees"}, text)


def _annotation(level: str, one: JudgedObject, judged: JudgedProgram, finding: Finding) -> str:
    parts = [f"{judged.name}: {finding.message}"]
    if finding.kind is not Kind.LINT:
        parts[0] += f" ({finding.kind.value})"
    if finding.reason:
        parts.append(f"Reason: {finding.reason}")
    if finding.suggestion:
        parts.append(f"Suggestion: {finding.suggestion}")
    parts.append(f"At insn {finding.pc}: {judged.insns.get(finding.pc, '')}".rstrip(": "))
    title = f"{headline(finding)} [{finding.rule.value}]"
    return _command(level, _position(one, finding.source) | {"title": title}, "\n".join(parts))


def _position(one: JudgedObject, source: SourceLine | None) -> dict[str, str]:
    if source is None:
        return {"file": one.path}
    position = {"file": file_of(source), "line": str(source.line)}
    if source.column:
        position["col"] = str(source.column)
    return position


def _command(level: str, properties: dict[str, str], message: str) -> str:
    shown = ",".join(f"{name}={_property(value)}" for name, value in properties.items())
    return f"::{level} {shown}::{_data(message)}"


def _data(text: str) -> str:
    """What may stand behind the second `::`."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """What may stand as the value of a property."""
    return _data(text).replace(":", "%3A").replace(",", "%2C")

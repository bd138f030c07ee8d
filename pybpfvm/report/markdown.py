"""Verdicts as Markdown, for pull requests and job summaries."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pybpfvm.report.formats import Report
from pybpfvm.report.words import count, headline, place, printable, totals, verdict_name
from pybpfvm.session.judged import JudgedObject, JudgedProgram
from pybpfvm.verifier.explaining.categories import kind_note
from pybpfvm.verifier.verdict import Finding

_MARKS = {"accepted": "✅", "rejected": "❌", "inconclusive": "❔"}
_SPECIAL = re.compile(r"([\\`*_\[\]<>|~&])")


def render(report: Report) -> str:
    """A table of all programs, then what was found."""
    lines = ["# pybpfvm verify", "", f"{_plain(totals(report.objects))}.", ""]
    lines += _table(report)
    for one in report.objects:
        if one.error:
            lines += ["", f"**Can not be judged**: {_plain(one.error)}"]
        for note in one.notes:
            lines += ["", f"*Note* on {_code(one.path)}: {_plain(note)}"]
        for judged in one.programs:
            for finding in judged.findings:
                lines += _finding(one, judged, finding, "Error")
            for finding in judged.verdict.warnings:
                lines += _finding(one, judged, finding, "Warning")
    return "\n".join(lines) + "\n"


def _table(report: Report) -> Iterator[str]:
    compared = any(p.kernel is not None for one in report.objects for p in one.programs)
    columns = ["", "program", "object", "type", "verdict", "instructions", "processed", "stack"]
    if report.timings:
        columns.append("seconds")
    if compared:
        columns.append("running kernel")
    yield f"| {' | '.join(columns)} |"
    yield f"|{'---|' * len(columns)}"
    for one in report.objects:
        for judged in one.programs:
            verdict, stats = verdict_name(judged.verdict), judged.verdict.stats
            if judged.findings:
                verdict += f" ({judged.findings[0].kind.value})"
            row = [
                _MARKS[verdict_name(judged.verdict)],
                _code(judged.name),
                _code(one.path),
                judged.abi or "unknown",
                verdict,
                f"{stats.insns:,}",
                f"{stats.processed_insns:,}",
                f"{stats.stack_depth}",
            ]
            if report.timings:
                row.append(f"{judged.seconds:.3f}")
            if compared:
                row.append(judged.agreement.value if judged.agreement is not None else "")
            yield f"| {' | '.join(row)} |"


def _finding(
    one: JudgedObject, judged: JudgedProgram, finding: Finding, label: str
) -> Iterator[str]:
    yield ""
    yield f"## {label} in {_code(judged.name)}: {_plain(headline(finding))}"
    yield ""
    yield f"{_code(finding.message)}"
    yield ""
    yield f"*{finding.kind.value}*: {kind_note(finding)} ({_code(finding.rule.value)})"
    source = finding.source
    where = f"{_code(place(source))}, " if source is not None else ""
    yield ""
    yield f"**At** {where}insn {finding.pc} of {_code(one.path)}"
    shown = [printable(source.text.strip())] if source is not None and source.text else []
    if finding.pc in judged.insns:
        shown.append(f"{finding.pc}: {printable(judged.insns[finding.pc])}")
    if shown:
        yield from ("", *_block(shown))
    for title, text in (("Reason", finding.reason), ("Suggestion", finding.suggestion)):
        if text:
            yield from ("", f"**{title}** {_plain(text)}")
    if finding.registers:
        yield from ("", "**Registers**", "")
        yield from (f"- {_code(name)}: {_plain(words)}" for name, words in finding.registers)
    if finding.path:
        yield from ("", f"**Causal path**, {count(len(finding.path), 'step')}", "")
        for number, step in enumerate(finding.path, 1):
            at = f" at {_code(place(step.source))}" if step.source is not None else ""
            yield f"{number}. insn {step.pc}{at}: {_plain(step.note)}"
    if finding.witness is not None:
        yield from ("", f"**Witness** {_plain(finding.witness.trap)}")


def _plain(text: str) -> str:
    """Text in which nothing is markup."""
    return _SPECIAL.sub(r"\\\1", printable(text))


def _code(text: str) -> str:
    """Text as code: the fence is longer than any run of backticks in it. Bars end table cells."""
    shown = printable(text).replace("|", "¦")
    longest = max((len(run) for run in re.findall("`+", shown)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if longest else ""
    return f"{fence}{pad}{shown}{pad}{fence}" if shown else ""


def _block(lines: list[str]) -> list[str]:
    longest = max((len(run) for line in lines for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}c", *lines, fence]

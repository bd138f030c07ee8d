"""`--format html`: one page that needs nothing else, to look at verdicts and how they came about.

Verdicts and findings are plain HTML. States, paths and listings are JSON that the page's script
shows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from pybpfvm.report import ruletexts
from pybpfvm.report.formats import Report
from pybpfvm.report.htmlpage import asset, document, text_of
from pybpfvm.report.recording import Recording, recorder
from pybpfvm.session.judged import JudgedObject, JudgedProgram
from pybpfvm.session.witness_text import context_text
from pybpfvm.verifier.verdict import Accepted, Finding, Inconclusive, Kind, Rule, Verdict

__all__ = ["recorder", "render"]

_MOST_BYTES = 64  # of a packet
PAGE_STEPS = 25_000  # of all programs on one page
_CODE = re.compile(r"`([^`\n]+)`")

_KINDS = {
    Kind.UNSAFE: "unsafe: inputs that make it fault are known",
    Kind.UNPROVEN: "unproven: safe or not, a fact was lost",
    Kind.POLICY: "policy: forbidden for such programs",
    Kind.LIMIT: "limit: too complex",
    Kind.UNSUPPORTED: "unsupported: this verifier can not judge it",
    Kind.LINT: "probably a bug",
}
_TABS = (
    ("paths", "Paths"),
    ("visits", "Visits side by side"),
    ("history", "History of a value"),
    ("flow", "Control flow"),
)
_GO = (
    ("start", "start", "first step (s)"),
    ("previous", "◂ step", "previous step on the path (k)"),
    ("next", "step ▸", "next step on the path (j)"),
    ("visit-", "◂ visit", "previous visit of this instruction ([)"),
    ("visit+", "visit ▸", "next visit of this instruction (])"),
    ("error", "to the error", "the step before the error (e)"),
)


def render(report: Report) -> str:
    """The whole page."""
    style, script = asset("page.css"), asset("page.js")
    programs = [(one, program) for one in report.objects for program in one.programs]
    records = _within_budget([program for _, program in programs])
    data = [_data(program, kept) for (_, program), kept in zip(programs, records, strict=True)]
    title = ", ".join(one.path for one in report.objects)[:200] or "no objects"
    body = "\n".join(
        (
            f"<header><h1>Verification</h1>\n{''.join(_overview(report))}</header>\n<main>",
            *(
                _program(number, one, program, kept)
                for number, ((one, program), kept) in enumerate(zip(programs, records, strict=True))
            ),
            "</main>",
            f"<footer>{_footer(report)}</footer>",
        )
    )
    return document(f"{title} · pybpfvm verify", style, script, body, data)


def _word(verdict: Verdict) -> str:
    if isinstance(verdict, Accepted):
        return "accepted"
    return "inconclusive" if isinstance(verdict, Inconclusive) else "rejected"


def _findings(verdict: Verdict) -> tuple[Finding, ...]:
    if isinstance(verdict, Accepted):
        return ()
    return (verdict.finding,) if isinstance(verdict, Inconclusive) else verdict.errors


# What stands on the page without its script.


def _overview(report: Report) -> Iterator[str]:
    number = 0
    for one in report.objects:
        words = [text_of(part) for part in (one.abi, f"kernel {one.kernel}") if part]
        digest = f' · <span class="mono">{text_of(one.sha256[:12])}</span>' if one.sha256 else ""
        yield f'<p class="object"><b>{text_of(one.path)}</b> '
        yield f'<span class="soft">{" · ".join(words)}{digest}</span></p>'
        if one.error:
            yield f'<p><span class="badge error">can not be used</span> {text_of(one.error)}</p>'
        for note in one.notes:
            yield f'<p class="soft">{text_of(note)}</p>'
        if not one.complete:
            yield '<p class="soft">Judging was interrupted: programs are missing.</p>'
        yield '<ul class="programs">'
        for program in one.programs:
            word = _word(program.verdict)
            yield (
                f'<li><button id="choose-{number}">{text_of(program.name)}'
                f'<span class="badge {word}">{word}</span></button></li>'
            )
            number += 1
        yield "</ul>"


def _program(number: int, one: JudgedObject, program: JudgedProgram, kept: Recording | None) -> str:
    verdict = program.verdict
    word = _word(verdict)
    stats = verdict.stats
    counts = (
        f"{stats.insns:,} instructions, {stats.processed_insns:,} processed · "
        f"{stats.states:,} states stored · {stats.stack_depth:,} bytes of stack"
    )
    kind = "".join(
        f' <span class="soft">{_KINDS[first.kind]}</span>' for first in _findings(verdict)[:1]
    )
    parts = [
        f'<section class="program" id="program-{number}" aria-label="{text_of(program.name)}">',
        f'<div class="title"><h2>{text_of(program.name)}</h2>',
        f'<span class="badge {word}">{word}</span>{kind}</div>',
        f'<p class="soft">section <span class="mono">{text_of(program.section)}</span>'
        f"{' · ' + text_of(program.abi) if program.abi else ''} · {counts}</p>",
        *(f'<p class="soft">{text_of(note)}</p>' for note in program.notes),
    ]
    if isinstance(verdict, Accepted):
        parts.append("<p>On every path it can not fault, leak or hang.</p>")
    doubt = " doubt" if isinstance(verdict, Inconclusive) else ""
    parts += (_finding(finding, program, doubt) for finding in _findings(verdict))
    parts += (_finding(warning, program, " warning") for warning in verdict.warnings)
    if kept is not None:
        parts.append(_tools(kept))
    return "\n".join((*parts, "</section>"))


def _finding(finding: Finding, program: JudgedProgram, kind: str) -> str:
    at = f'<button class="link mono" data-pc="{finding.pc}">instruction {finding.pc}</button>'
    insn = program.insns.get(finding.pc)
    rows = [("At", at + (f" <code>{text_of(insn)}</code>" if insn else ""))]
    if finding.source is not None:
        line = finding.source
        rows.append(("In", f"<code>{text_of(line.text.strip())}</code> {text_of(str(line))}"))
    if finding.reason:
        rows.append(("Why", _prose(finding.reason)))
    if finding.path:
        steps = "".join(
            f'<li><button class="link mono" data-pc="{step.pc}">{step.pc}</button> '
            f"{_prose(step.note)}"
            + (f' <span class="soft">{text_of(str(step.source))}</span>' if step.source else "")
            + "</li>"
            for step in finding.path
        )
        rows.append(("How it came", f"<ol>{steps}</ol>"))
    if finding.suggestion:
        rows.append(("What to do", _prose(finding.suggestion)))
    rows.append(("The rule", _rule(finding.rule)))
    if finding.witness is not None:
        rows.append(("Inputs that trap", f"<code>{text_of(_witness(finding, program))}</code>"))
    listed = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows)
    return (
        f'<article class="finding{kind}"><div class="what">{text_of(finding.message)}</div>'
        f'<div class="soft">{text_of(finding.rule.value)} · {_KINDS[finding.kind]}</div>'
        f"<dl>{listed}</dl></article>"
    )


def _prose(text: str) -> str:
    """Text for people; what stands between two backquotes is code."""
    return _CODE.sub(r"<code>\1</code>", text_of(text))


def _rule(rule: Rule) -> str:
    """What a rule means, folded."""
    said = "".join(f"<p>{_prose(part)}</p>" for part in ruletexts.meaning(rule).split("\n\n"))
    return f"<details><summary>{text_of(ruletexts.title(rule))}</summary>{said}</details>"


def _witness(finding: Finding, judged: JudgedProgram) -> str:
    witness = finding.witness
    assert witness is not None
    parts = [witness.trap]
    context = context_text(witness.ctx, judged.ctx_fields, judged.ctx_read)
    if context:
        parts.append(f"ctx: {context}")
    if witness.packet:
        shown = witness.packet[:_MOST_BYTES].hex(" ")
        parts.append(f"packet {shown}{' …' if len(witness.packet) > _MOST_BYTES else ''}")
    parts += (f"{helper} gives {value:#x}" for helper, value in witness.results[:16])
    return " · ".join(parts)


def _tools(kept: Recording) -> str:
    buttons = "".join(
        f'<button data-go="{go}" title="{title}">{text}</button>'
        for go, text, title in _GO
        if go != "error" or kept.errors
    )
    tabs = "".join(
        f'<button role="tab" data-tab="{name}" aria-selected="false">{text}</button>'
        for name, text in _TABS
    )
    picture = kept.picture or f'<p class="soft">No picture: {text_of(kept.no_picture)}.</p>'
    return (
        '<div data-part="tools" hidden>'
        f'<div class="bar">{buttons}<span class="where" data-part="where" aria-live="polite">'
        f"</span></div>{_missing(kept)}"
        '<div class="panes">'
        '<section class="pane source"><h3>Source</h3>'
        '<div class="scroll" data-part="source" tabindex="0"></div></section>'
        '<section class="pane"><h3>Instructions</h3>'
        '<div class="scroll" data-part="insns" tabindex="0"></div></section>'
        '<section class="pane"><h3>State, and what the instruction changes</h3>'
        '<div class="scroll" data-part="state" tabindex="0"></div></section></div>'
        f'<div class="tabs" role="tablist">{tabs}</div>'
        '<div class="tab" data-part="paths" role="tabpanel"></div>'
        '<div class="tab" data-part="visits" role="tabpanel" hidden></div>'
        '<div class="tab" data-part="history" role="tabpanel" hidden></div>'
        '<div class="tab" data-part="flow" role="tabpanel" hidden>'
        f'<div class="picture">{picture}</div></div></div>'
    )


def _missing(kept: Recording) -> str:
    """What the bounds left out, said."""
    notes = []
    if len(kept.steps) < kept.all_steps:
        notes.append(f"States are kept of {len(kept.steps):,} of {kept.all_steps:,} steps.")
    if len(kept.paths) < kept.all_paths:
        notes.append(f"{len(kept.paths):,} of {kept.all_paths:,} paths are kept.")
    if kept.hidden_insns:
        notes.append(f"The last {kept.hidden_insns:,} instructions are left out.")
    return f'<p class="soft">{" ".join(notes)}</p>' if notes else ""


def _footer(report: Report) -> str:
    return (
        "Keys: <kbd>j</kbd> <kbd>k</kbd> next and previous step, <kbd>[</kbd> <kbd>]</kbd> "
        "visits of the instruction, <kbd>s</kbd> start, <kbd>e</kbd> error, <kbd>1</kbd> to "
        "<kbd>4</kbd> tabs, <kbd>↑</kbd> <kbd>↓</kbd> in the instructions. A value begins with P "
        f"where safety hung on it. Rules of kernel {text_of(report.request.kernel)}. Made by "
        "pybpfvm; this file needs nothing else."
    )


# What the script shows.


def _within_budget(programs: list[JudgedProgram]) -> list[Recording | None]:
    """The recordings, with steps for `PAGE_STEPS` in all: refused programs come first."""
    left = PAGE_STEPS
    kept: dict[int, Recording] = {}
    order = sorted(range(len(programs)), key=lambda at: isinstance(programs[at].verdict, Accepted))
    for at in order:
        recording = programs[at].recorded
        if isinstance(recording, Recording):
            steps = recording.steps if len(recording.steps) <= left else ()
            left -= len(steps)
            kept[at] = replace(recording, steps=steps)
    return [kept.get(at) for at in range(len(programs))]


def _data(program: JudgedProgram, kept: Recording | None) -> dict[str, object]:
    bad = bool(_findings(program.verdict))
    if kept is None:
        return {"bad": bad}
    found = (*_findings(program.verdict), *program.verdict.warnings)
    return {
        "bad": bad,
        "insns": [[i.pc, i.text, i.line, i.reads, i.function] for i in kept.insns],
        "hidden": kept.hidden_insns,
        "lines": [[line.file, line.line, line.text] for line in kept.lines],
        "steps": [
            [s.number, s.path, s.pc, s.depth, int(s.whole), [n for pair in s.changes for n in pair]]
            for s in kept.steps
        ],
        "allSteps": kept.all_steps,
        "paths": [[p.parent, p.fork, p.pc, p.end, p.end_pc, p.steps] for p in kept.paths],
        "allPaths": kept.all_paths,
        "places": kept.places,
        "values": kept.values,
        "visits": {str(pc): count for pc, count in kept.visits.items()},
        "errors": kept.errors,
        "findings": [finding.pc for finding in found],
    }

"""Verdicts as SARIF 2.1.0 (OASIS, errata 01), for code scanning and editors.

One run; a rule for each id that occurs. A rejection is an error, a lint a warning; where nothing
was decided the result is "open". An object that can not be read is a notification. The causal
path becomes a code flow, from the first cause to the instruction.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from urllib.parse import quote

from pybpfvm import __version__
from pybpfvm.errors import SourceLine
from pybpfvm.report.formats import Report
from pybpfvm.report.ruletexts import meaning, mend, title
from pybpfvm.report.words import file_of, headline, verdict_name
from pybpfvm.session.judged import Agreement, JudgedObject, JudgedProgram
from pybpfvm.verifier.explaining.categories import category, kind_note, problem
from pybpfvm.verifier.verdict import Finding, Kind, Rule

_SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)
_DISAGREEMENT = "kernel-disagreement"

Json = dict[str, object]


def render(report: Report) -> str:
    """The log."""
    results = [result for one in report.objects for result in _results(one)]
    ids = sorted({str(result["ruleId"]) for result in results})
    index = {name: number for number, name in enumerate(ids)}
    for result in results:
        result["ruleIndex"] = index[str(result["ruleId"])]
    readable = not any(one.error for one in report.objects)
    run: Json = {
        "tool": {
            "driver": {
                "name": "pybpfvm",
                "semanticVersion": __version__,
                "rules": [_rule(name) for name in ids],
            }
        },
        "invocations": [
            {
                "executionSuccessful": readable and not report.interrupted,
                "exitCode": report.exit_code,
                "toolExecutionNotifications": [
                    note for one in report.objects for note in _notifications(one)
                ],
            }
        ],
        "artifacts": list({one.path: _artifact(one) for one in report.objects}.values()),
        "columnKind": "utf16CodeUnits",
        "results": results,
    }
    log = {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}
    return json.dumps(log, indent=2) + "\n"


def _rule(name: str) -> Json:
    if name == _DISAGREEMENT:
        return {
            "id": name,
            "shortDescription": {"text": "the running kernel gives another verdict"},
            "help": {"text": "The verdict and the running kernel's differ: one of them is wrong."},
            "defaultConfiguration": {"level": "error"},
        }
    rule = Rule(name)
    more = f"`pybpfvm explain {name}` shows a bad and a good program."
    help_text = f"{meaning(rule)}\n\n**What to do.** {mend(rule)}\n\n{more}"
    return {
        "id": name,
        "name": rule.name.title().replace("_", ""),
        "shortDescription": {"text": problem(rule)},
        "fullDescription": {"text": f"{title(rule)}. {meaning(rule)}"},
        "help": {"text": help_text.replace("**", "").replace("`", ""), "markdown": help_text},
        "properties": {"tags": ["bpf", category(rule)]},
    }


def _artifact(one: JudgedObject) -> Json:
    found: Json = {"location": {"uri": _uri(one.path)}, "roles": ["analysisTarget"]}
    return found | ({"hashes": {"sha-256": one.sha256}} if one.sha256 else {})


def _results(one: JudgedObject) -> Iterator[Json]:
    for judged in one.programs:
        for finding in (*judged.findings, *judged.verdict.warnings):
            yield _result(one, judged, finding)
        if judged.agreement in (Agreement.STRICTER, Agreement.LOOSER):
            yield _disagreement(one, judged)


def _result(one: JudgedObject, judged: JudgedProgram, finding: Finding) -> Json:
    undecided = verdict_name(judged.verdict) == "inconclusive" and finding.kind is not Kind.LINT
    level = "warning" if finding.kind is Kind.LINT else "error"
    place = _location(one, judged, finding.pc, finding.source)
    result: Json = {
        "ruleId": finding.rule.value,
        "kind": "open" if undecided else "fail",
        "level": "none" if undecided else level,
        "message": {"text": _message(judged, finding)},
        "locations": [place],
        "properties": {
            "kind": finding.kind.value,
            "object": one.path,
            "program": judged.name,
            "insn": finding.pc,
            "registers": dict(finding.registers),
        },
    }
    if finding.path:
        steps = [
            {
                "location": _location(one, judged, step.pc, step.source)
                | {"message": {"text": step.note}},
                "importance": "important",
            }
            for step in finding.path
        ]
        steps.append(
            {
                "location": place | {"message": {"text": finding.message}},
                "importance": "essential",
            }
        )
        result["codeFlows"] = [{"threadFlows": [{"locations": steps}]}]
    return result


def _message(judged: JudgedProgram, finding: Finding) -> str:
    """All that is said, in sentences: viewers show little else."""
    parts = [f"{headline(finding)} (program {judged.name}, insn {finding.pc}).", finding.message]
    parts[1] += "." if not parts[1].endswith((".", "!")) else ""
    parts.append(f"{finding.kind.value}: {kind_note(finding)}.")
    for text in (finding.reason, finding.suggestion):
        if text:
            parts.append(f"{text[0].upper()}{text[1:]}" + ("" if text.endswith(".") else "."))
    return " ".join(parts)


def _disagreement(one: JudgedObject, judged: JudgedProgram) -> Json:
    side = judged.kernel
    assert side is not None
    assert judged.agreement is not None
    said = "accepts it" if side.accepted else f"refuses it: {side.message}"
    pc = side.pc if side.pc is not None else 0
    return {
        "ruleId": _DISAGREEMENT,
        "kind": "fail",
        "level": "error",
        "message": {
            "text": f"Program {judged.name} is {verdict_name(judged.verdict)} here, "
            f"and the running kernel {said}."
        },
        "locations": [_location(one, judged, pc, None)],
    }


def _location(one: JudgedObject, judged: JudgedProgram, pc: int, source: SourceLine | None) -> Json:
    """A line of C, or the object if none is known; always the instruction by name."""
    physical: Json = {"artifactLocation": {"uri": _uri(file_of(source) if source else one.path)}}
    if source is not None and source.line > 0:
        region: Json = {"startLine": source.line}
        if source.column > 0:
            region["startColumn"] = source.column
        if source.text:
            region["snippet"] = {"text": source.text}
        physical["region"] = region
    logical = {"fullyQualifiedName": f"{judged.name}+{pc}", "name": judged.name, "kind": "function"}
    return {"physicalLocation": physical, "logicalLocations": [logical]}


def _notifications(one: JudgedObject) -> Iterator[Json]:
    notes = [("error", one.error)] if one.error else [("note", note) for note in one.notes]
    if not one.complete:
        notes.append(("warning", "judging was interrupted: programs are missing"))
    for level, text in notes:
        yield {
            "level": level,
            "message": {"text": text},
            "locations": [{"physicalLocation": {"artifactLocation": {"uri": _uri(one.path)}}}],
        }


def _uri(path: str) -> str:
    """A path as a relative reference, or as a file URI if it is absolute: RFC 3986."""
    # Colons are quoted too: a first segment with one would be taken for a scheme.
    quoted = quote(os.fsencode(path), safe="/-._~")
    return f"file://{quoted}" if path.startswith("/") else quoted

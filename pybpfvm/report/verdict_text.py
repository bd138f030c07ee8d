"""Verdicts for people, in the shape that Linux 7.3 prints them: what is wrong, why, where, how it
came about, and what to do."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from pybpfvm.report.formats import Report
from pybpfvm.report.paint import Paint
from pybpfvm.report.words import (
    count,
    headline,
    place,
    printable,
    totals,
    verdict_name,
    work,
)
from pybpfvm.session.judged import Agreement, JudgedObject, JudgedProgram
from pybpfvm.session.witness_text import describe
from pybpfvm.verifier.explaining.categories import kind_note
from pybpfvm.verifier.verdict import Finding, Kind, Witness

_WIDTH = 96
_STYLES = {"accepted": "green", "rejected": "red", "inconclusive": "yellow"}
_MOST_LOG_LINES = 20
_AGREEMENT_STYLES = {
    Agreement.AGREED: "green",
    Agreement.STRICTER: "red",
    Agreement.LOOSER: "red",
    Agreement.UNDECIDED: "yellow",
    Agreement.NOT_COMPARED: "dim",
}


def render(report: Report) -> str:
    """The whole report."""
    paint = Paint(report.colour)
    lines = [line for one in report.objects for line in _object(one, report, paint)]
    programs = sum(len(one.programs) for one in report.objects)
    more = [paint(line, "dim") for line in _more(report)]
    counted = programs != 1 or len(report.objects) != 1 or report.interrupted
    if more or counted:
        lines += [""] if lines[-1:] != [""] else []
        lines += more
        lines += [paint(totals(report.objects), "bold")] if counted else []
    return "\n".join(lines) + "\n"


def _more(report: Report) -> Iterator[str]:
    """Where to read on: the rules that were broken, once for all programs."""
    rules = {
        finding.rule.value
        for one in report.objects
        for judged in one.programs
        for finding in (*judged.findings, *judged.verdict.warnings)
    }
    if len(rules) == 1:
        yield f"More: pybpfvm explain {min(rules)}"
    elif rules:
        text = f"More: pybpfvm explain RULE, for {', '.join(sorted(rules))}"
        yield from textwrap.wrap(text, _WIDTH, break_on_hyphens=False)


def _object(one: JudgedObject, report: Report, paint: Paint) -> Iterator[str]:
    if one.error:
        yield f"{paint('can not be judged', 'red', 'bold')}: {printable(one.error)}"
        return
    for judged in one.programs:
        yield from _program(one, judged, report, paint)
    for note in one.notes:
        yield paint(f"{printable(one.path)}: note: {printable(note)}", "dim")


def _program(
    one: JudgedObject, judged: JudgedProgram, report: Report, paint: Paint
) -> Iterator[str]:
    verdict = verdict_name(judged.verdict)
    name = f"{printable(one.path)}: {printable(judged.name)}"
    section = f" ({printable(judged.section)})" if judged.section else ""
    yield f"{name}{section}: {paint(verdict, _STYLES[verdict], 'bold')}"
    facts = [work(judged)]
    if judged.abi:
        rules = "" if judged.abi.startswith("iouring-") else f" of Linux {one.kernel}"
        if judged.abi.startswith(("loop-", "op-bpf-")):
            rules = f" by the rules of Linux {one.kernel}"
        facts.insert(0, f"{judged.abi}{rules}")
    if report.timings:
        facts.append(f"{judged.seconds:.3f} s")
    yield paint("  " + " · ".join(facts), "dim")
    for note in judged.notes:
        yield paint(f"  note: {printable(note)}", "dim")
    yield from _kernel(judged, paint)
    for number, finding in enumerate(judged.findings, 1):
        title = "Verification failed" if verdict == "rejected" else "No verdict"
        if len(judged.findings) > 1:
            title += f" ({number} of {len(judged.findings)})"
        yield ""
        yield from _finding(title, finding, judged, paint, _STYLES[verdict])
    for finding in judged.verdict.warnings:
        yield ""
        yield from _finding("Warning", finding, judged, paint, "yellow")
    yield from _kernel_log(judged, paint)
    if judged.findings or judged.verdict.warnings:
        yield ""


def _finding(
    title: str, finding: Finding, judged: JudgedProgram, paint: Paint, style: str
) -> Iterator[str]:
    yield f"{paint(f'{title}: {headline(finding)}', style, 'bold')}"
    yield f"  {printable(finding.message)}"
    if finding.kind is not Kind.UNSUPPORTED:
        note = f"{finding.kind.value}: {kind_note(finding)} [{finding.rule.value}]"
        yield paint(f"  {note}", "dim")
    if finding.reason:
        yield from _part("Reason", finding.reason, paint)
    if judged.abi:  # of a program of unknown type, no instruction is to blame
        yield from _place(finding, judged, paint)
    if finding.path:
        yield ""
        yield paint("Causal path:", "bold")
        for number, step in enumerate(finding.path, 1):
            where = f" at {place(step.source)}" if step.source else ""
            yield f"  {number}. insn {step.pc}{where}: {printable(step.note)}"
    if finding.witness is not None:
        yield ""
        yield paint("Witness:", "bold")
        yield from _witness(finding.witness, judged)
    if finding.suggestion:
        yield from _part("Suggestion", finding.suggestion, paint)


def _part(title: str, text: str, paint: Paint) -> Iterator[str]:
    yield ""
    yield paint(f"{title}:", "bold")
    yield from textwrap.wrap(
        printable(text),
        _WIDTH,
        initial_indent="  ",
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _place(finding: Finding, judged: JudgedProgram, paint: Paint) -> Iterator[str]:
    yield ""
    yield paint("At:", "bold")
    source = finding.source
    if source is not None:
        yield f"  {place(source)}"
        text = source.text.rstrip()
        indent = len(text) - len(text.lstrip())
        number = f"{source.line:>6} | "
        yield f"  {paint(number, 'dim')}{printable(text.lstrip())}"
        if 0 < source.column <= len(text):
            caret = " " * (len(number) + max(0, source.column - 1 - indent)) + "^"
            yield f"  {paint(caret, 'cyan', 'bold')}"
    near = judged.near.get(finding.pc)
    if near is not None:
        yield f"  in a function that is called near {place(near)}"
        number = f"{near.line:>6} | "
        yield f"  {paint(number, 'dim')}{printable(near.text.strip())}"
    shown = _around(finding.pc, judged)
    if shown:
        yield "  Instructions:"
        width = len(str(shown[-1][0]))
        for pc, text in shown:
            here = pc == finding.pc
            line = f"  {'>>>' if here else '   '} {pc:>{width}}: {printable(text)}"
            yield paint(line, "bold") if here else line
    if finding.registers:
        yield "  What is known before it:"
        for register, words in finding.registers:
            yield f"      {register}: {printable(words)}"


def _around(pc: int, judged: JudgedProgram) -> list[tuple[int, str]]:
    """The instruction at `pc` and those around it, as far as they were kept."""
    if pc not in judged.insns:
        return []
    kept = sorted(judged.insns)
    at = kept.index(pc)
    near = range(pc - 7, pc + 8)  # three instructions, of two slots at most
    return [(one, judged.insns[one]) for one in kept[max(0, at - 3) : at + 4] if one in near]


def _witness(witness: Witness, judged: JudgedProgram) -> Iterator[str]:
    """Inputs under which the program faults."""
    yield f"  With these inputs the program is stopped here: {printable(witness.trap)}"
    for line in describe(witness, judged.ctx_fields, judged.ctx_read):
        yield f"    {printable(line)}"


def _kernel(judged: JudgedProgram, paint: Paint) -> Iterator[str]:
    side, agreement = judged.kernel, judged.agreement
    if side is None or agreement is None:
        return
    if side.accepted is None:
        yield paint(f"  running kernel: not compared: {printable(side.message)}", "dim")
        return
    said = "accepts it" if side.accepted else f"refuses it: {printable(side.message)}"
    at = f" (insn {side.pc})" if side.pc is not None and not side.accepted else ""
    yield f"  running kernel: {said}{at}: {paint(agreement.value, _AGREEMENT_STYLES[agreement])}"


def _kernel_log(judged: JudgedProgram, paint: Paint) -> Iterator[str]:
    """The end of the kernel's log, where we accept what it refuses."""
    if judged.kernel is None or judged.agreement is not Agreement.LOOSER:
        return
    log = judged.kernel.log.splitlines()
    yield ""
    yield paint("The running kernel's log:", "bold")
    if len(log) > _MOST_LOG_LINES:
        yield f"  ... {count(len(log) - _MOST_LOG_LINES, 'line')} before"
    yield from (f"  {printable(line)}" for line in log[-_MOST_LOG_LINES:])
    yield ""

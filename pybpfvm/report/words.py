"""Words that all formats of verdicts share, and text made safe to print.

Names, paths and C lines come from the object: what would move a terminal's cursor, or look like
another line, is written as an escape.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from pybpfvm.errors import SourceLine
from pybpfvm.session.judged import JudgedObject, JudgedProgram
from pybpfvm.verifier.explaining.categories import category, problem
from pybpfvm.verifier.verdict import Accepted, Finding, Kind, Rejected, Verdict

# C0, DEL, C1, line separators, bidirectional overrides, surrogates.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    """`text` on one line, with control characters as escapes and each tab as a blank."""
    return _UNPRINTABLE.sub(_escape, text.replace("\t", " "))


def _escape(found: re.Match[str]) -> str:
    code = ord(found.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def verdict_name(verdict: Verdict) -> str:
    """`accepted`, `rejected` or `inconclusive`."""
    if isinstance(verdict, Accepted):
        return "accepted"
    return "rejected" if isinstance(verdict, Rejected) else "inconclusive"


def kind_of(judged: JudgedProgram) -> Kind | None:
    """Why a program was not accepted, by its first finding; None if it was."""
    return judged.findings[0].kind if judged.findings else None


def headline(finding: Finding) -> str:
    """`category: problem`."""
    return f"{category(finding.rule)}: {problem(finding.rule)}"


def file_of(source: SourceLine) -> str:
    """The path of its file, as debug information has it, without a leading `./`."""
    return source.file.removeprefix("./")


def place(source: SourceLine) -> str:
    """`file:line:column`, as compilers write it."""
    column = f":{source.column}" if source.column else ""
    return printable(f"{file_of(source)}:{source.line}{column}")


def count(number: int, noun: str) -> str:
    """`1 program`, `2,000 programs`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def work(judged: JudgedProgram) -> str:
    """How much work a verdict was."""
    stats = judged.verdict.stats
    parts = [count(stats.insns, "instruction")]
    if stats.processed_insns:
        parts.append(f"{stats.processed_insns:,} processed")
        parts.append(count(stats.states, "state") + " kept")
        parts.append(f"{stats.stack_depth} bytes of stack")
    return ", ".join(parts)


def totals(objects: Iterable[JudgedObject]) -> str:
    """`12 programs in 3 objects: 10 accepted, 1 rejected, 1 inconclusive`."""
    everything = tuple(objects)
    names = [verdict_name(p.verdict) for one in everything for p in one.programs]
    parts = [
        f"{names.count(name):,} {name}"
        for name in ("accepted", "rejected", "inconclusive")
        if name in names
    ]
    unusable = sum(1 for one in everything if one.error)
    if unusable:
        parts.append(f"{count(unusable, 'object')} could not be judged")
    if not all(one.complete for one in everything):
        parts.append("interrupted before the rest")
    programs, objects_ = count(len(names), "program"), count(len(everything), "object")
    return f"{programs} in {objects_}: {', '.join(parts) or 'nothing judged'}"

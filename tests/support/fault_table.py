"""The table of docs/faults.md from what the code injects: `python -m tests.support.fault_table`."""

from __future__ import annotations

from errno import errorcode
from pathlib import Path

from pybpfvm.uring_backend.faults import LEGAL, kinds_of

PAGE = Path(__file__).resolve().parents[2] / "docs" / "faults.md"
_BEGIN = "<!-- errors: written by python -m tests.support.fault_table -->\n"
_END = "<!-- end of errors -->"


def table() -> str:
    """Opcodes that meet the same share a row."""
    groups: dict[tuple[str, str], list[str]] = {}
    for op, errors in LEGAL.items():
        meaning = "; ".join(f"{errorcode[number]}: {why}" for number, why in errors.items())
        groups.setdefault((meaning, ", ".join(kinds_of(op)[1:])), []).append(op.name)
    rows = ["| opcodes | errors, and what each stands for | also |", "|---|---|---|"]
    rows += [f"| {', '.join(ops)} | {text} | {also} |" for (text, also), ops in groups.items()]
    return "\n".join(rows) + "\n"


def page_with(text: str) -> str:
    """The page's text with the table in its place."""
    head, _, rest = text.partition(_BEGIN)
    return head + _BEGIN + table() + _END + rest.partition(_END)[2]


if __name__ == "__main__":
    PAGE.write_text(page_with(PAGE.read_text()))

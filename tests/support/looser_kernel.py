"""The page of what the running kernel accepts and we refuse, from the verifier's corpus."""

from __future__ import annotations

from pathlib import Path

from tests.support.verifier_cases import corpus

PAGE = Path(__file__).parents[2] / "docs/evidence/looser-kernel.md"
_HEAD = """# What Linux 6.18 accepts, and `verify` refuses

Written by `make figures` from the cases of [tests/data/verifier](../../tests/data/verifier) whose
kernel answers otherwise; the test that judges them asks the running kernel each time. Each is a
small program to start from: some break a promise of the kernel's, some run on what is gone by then,
and some never end.

| type | what the program does | what the kernel does | refused by | file |
|---|---|---|---|---|
"""


def page() -> str:
    """The page, as text."""
    rows = [
        f"| {case.profile.name} | {case.name} | {case.kernel.why} "
        f"| {case.expected.rules[0].value} | {case.file}.toml |"
        for case in corpus()
        if (case.kernel.verdict, case.expected.verdict) == ("accept", "reject")
    ]
    return _HEAD + "\n".join(rows) + "\n"

"""What the cards of rules say in words (`rulebook` has their programs too, and the format)."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pybpfvm.verifier.verdict import Rule

RULES = Path(__file__).parent / "rules"

Row = Mapping[str, Any]


@cache
def row(rule: Rule) -> Row:
    """The card's file."""
    return tomllib.loads((RULES / f"{rule.value}.toml").read_text(encoding="utf-8"))


def title(rule: Rule) -> str:
    """What is wrong where the rule is broken, in a line without a stop."""
    return str(row(rule)["title"])


def meaning(rule: Rule) -> str:
    """Why there is such a rule: paragraphs apart by an empty line."""
    return str(row(rule)["meaning"]).strip()


def mend(rule: Rule) -> str:
    """What to write instead, likewise."""
    return str(row(rule)["mend"]).strip()

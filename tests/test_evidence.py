"""The README's figures are those that campaigns kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.evidence import BEGIN, END, README, files, keep, table, with_table


def test_the_readme_shows_what_is_kept() -> None:
    text = README.read_text(encoding="utf-8")
    assert with_table(text, table(files())) == text, "make figures writes the table anew"


def test_a_table_is_made_of_what_campaigns_keep(tmp_path: Path) -> None:
    path = keep("x", "make x", [("programs", "12"), ("agreed", "11")], tmp_path)
    assert json.loads(path.read_text())["rows"] == [["programs", "12"], ["agreed", "11"]]
    made = table([path])
    assert "| programs | 12 | `make x`," in made
    assert made.endswith("| agreed | 11 |  |")
    assert with_table(f"a\n{BEGIN}\nold\n{END}\nb", made) == f"a\n{BEGIN}\n{made}\n{END}\nb"


def test_a_readme_without_marks_is_an_error() -> None:
    with pytest.raises(AssertionError, match="has no"):
        with_table("text", "table")

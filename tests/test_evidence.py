"""The README's figures are those that campaigns kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.evidence import BEGIN, END, README, keep, speed_table, table, with_table, written


def test_the_readme_shows_what_is_kept() -> None:
    text = README.read_text(encoding="utf-8")
    assert written(text) == text, "make figures writes the tables anew"


def test_a_table_is_made_of_what_campaigns_keep(tmp_path: Path) -> None:
    path = keep("x", "make x", [("programs", "12"), ("agreed", "11")], tmp_path)
    assert json.loads(path.read_text())["rows"] == [["programs", "12"], ["agreed", "11"]]
    made = table([path])
    assert "| programs | 12 | `make x`," in made
    assert made.endswith("| agreed | 11 |  |")
    assert with_table(f"a\n{BEGIN}\nold\n{END}\nb", made) == f"a\n{BEGIN}\n{made}\n{END}\nb"


def test_a_table_of_speeds(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(
        json.dumps(
            {
                "machine": {
                    "date": "2026-01-02",
                    "cpu": "C",
                    "cpus": 2,
                    "linux": "6",
                    "load": 0.25,
                    "python": "3.11",
                },
                "engines": {
                    "programs": ["alu", "copy"],
                    "speeds": {"jit": {"alu": 3711.2, "copy": 12000.0}},
                    "ratios": {"/ native": {"jit": 0.914}, "/ kernel": {}},
                    "skipped": {"ubpf JIT": "there is none"},
                },
            }
        )
    )
    made = speed_table(path)
    assert "| jit | 3,711 | 12,000 | 0.91 | - |" in made
    assert "Not measured: ubpf JIT (there is none)." in made
    assert "`make bench`, 2026-01-02, C, 2 CPUs, Linux 6, Python 3.11, load average 0.2." in made


def test_a_readme_without_marks_is_an_error() -> None:
    with pytest.raises(AssertionError, match="has no"):
        with_table("text", "table")

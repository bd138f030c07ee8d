"""The README's figures are those that campaigns kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support import looser_kernel
from tests.support.evidence import (
    ANSWERS,
    BEGIN,
    END,
    PAGES,
    README,
    RINGS,
    ROOT,
    debugger_tables,
    figures_table,
    files,
    keep,
    page_with_tables,
    recording_table,
    rings_page,
    speed_table,
    table,
    tables_page,
    verifier_table,
    with_table,
    written,
)


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


def test_a_table_of_the_verifiers_speed_names_missed_targets(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    kept = {
        "compiled: median speed": [120.04, "k insns/s"],
        "compiled: processed, ours / kernel, most": [1.234, "x"],
        "9 generated: median speed": [99.9, "k insns/s"],
    }
    path.write_text(json.dumps({"verifier": kept}))
    assert verifier_table(path).splitlines() == [
        "| the verifier | compiled programs | 9 generated programs | target | |",
        "|---|---:|---:|---:|---|",
        "| thousand instructions processed a second, median | 120.0 | 99.9 | 100 | missed |",
        "| processed, as a multiple of the kernel's, at most | 1.23 | - | 1.2 | missed |",
        "| time, as a multiple of the kernel's | - | - | 10.6 | not measured |",
    ]
    kept["9 generated: median speed"][0] = 100.0
    path.write_text(json.dumps({"verifier": kept}))
    assert "| 120.0 | 100.0 | 100 | met |" in verifier_table(path)


def test_tables_behind_the_figures_have_a_page(tmp_path: Path) -> None:
    counts = {"xdp": {"agreed": 1200, "we-looser": 0}, "tc": {"agreed": 7, "we-looser": 1}}
    path = keep("x", "make x", [("programs", "12")], tmp_path, tables={"By type": counts})
    page = tables_page(path).splitlines()
    assert page[0] == "# `make x`: what was counted"
    assert "[x.json](x.json)" in page[2]
    assert page[4:] == [
        "## By type",
        "",
        "| | agreed | we-looser |",
        "|---|---:|---:|",
        "| xdp | 1,200 | 0 |",
        "| tc | 7 | 1 |",
    ]
    assert tables_page(keep("y", "make y", [], tmp_path)) == ""


def test_pages_of_tables_are_those_that_are_kept() -> None:
    kept = {path.with_suffix(".md"): tables_page(path) for path in files()}
    for path, page in kept.items():
        assert (path.read_text(encoding="utf-8") if path.exists() else "") == page, "make figures"


def test_a_page_of_rings_has_all_sides_of_a_case_in_one_row(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    sides = {"BPF program": 40.0, "C on liburing": 50.0, "epoll": 8000.0}
    gallery = {f"echo: {side}": [value, "k/s"] for side, value in sides.items()}
    gallery |= {f"echo: CPU, {side}": [value / 10, "us"] for side, value in sides.items()}
    gallery["echo: system calls, BPF program"] = [0.0123, "each"]
    loops = {f"tee: {side}": [value / 4, "k/s"] for side, value in sides.items()}
    machine = {"date": "2026-01-02", "cpus": 2, "load": 0.25}
    again = {"sim": {"date": "2026-01-03", "load": 3}}
    sim = {"NOP: sim": [1234.5, "k/s"]}
    path.write_text(
        json.dumps(
            {
                "machine": machine,
                "gallery": gallery,
                "gallery_loops": loops,
                "sim": sim,
                "again": again,
            }
        )
    )
    page = rings_page(path)
    row = "| echo | 40.0 / 50.0 / 8,000 | 0.800 / 0.00500 | 4.00 / 5.00 / 800 | 0.0123 / - / - |"
    assert row in page.splitlines()
    assert "| tee | 10.0 / 12.5 / 2,000 | 0.800 / 0.00500 | - / - / - | - / - / - |" in page
    assert "kernel's ring (2026-01-02, 2 CPUs, load average 0.2)" in page
    assert "simulated ring (2026-01-03, 2 CPUs, load average 3.0), by" in page
    assert "| NOP: sim | 1,234 | k/s |" in page


def test_the_page_of_what_the_kernel_accepts_is_of_the_corpus() -> None:
    made = looser_kernel.page()
    assert "| the frame's end is destroyed for the iterator below it |" in made
    assert looser_kernel.PAGE.read_text(encoding="utf-8") == made, "make figures"


def test_the_page_of_rings_is_the_one_that_is_kept() -> None:
    assert RINGS.read_text(encoding="utf-8") == rings_page(), "make figures"


def test_pages_show_what_is_kept() -> None:
    for name in PAGES:
        text = (ROOT / "docs" / name).read_text(encoding="utf-8")
        assert page_with_tables(name) == text, f"{name}: make figures"


def test_tables_of_recording_and_debugging(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    machine = {"date": "2026-01-02", "cpus": 2, "load": 0.25}
    recording = {
        "ping-pong: without a recording": [40.0, "ms"],
        "ping-pong: recorded / without": [2.51, "x"],
        "ping-pong: opened": [12, "ms"],
    }
    debugger = {
        "10^8 instructions in one run: open": [5.7, "ms"],
        "10^8 instructions in 1,000 runs: open": [17.5, "ms"],
        "10^8 instructions in one run: step": [0.5, "ms"],
        "100,000 short runs: go to the end": [250.0, "ms"],
        "seek a > 0, a map: from the end": [998.0, "ms"],
    }
    dap = {name: [0.25, "ms"] for name in ANSWERS}
    path.write_text(
        json.dumps({"machine": machine, "recording": recording, "debugger": debugger, "dap": dap})
    )
    made = recording_table(path).splitlines()
    assert made[2] == "| ping-pong | 40.0 | 2.51 | - | - | - | - |"
    assert made[-1] == "`python -m bench recording` (2026-01-02, 2 CPUs, load average 0.2)."
    made = debugger_tables(path).splitlines()
    assert made[0] == "| ms, of 10^8 instructions in | one run | 1,000 runs |"
    assert made[2:4] == ["| open | 5.70 | 17.5 |", "| step | 0.500 | - |"]
    assert made[5:8] == [
        "| ms, of 100,000 short runs | |", "|---|---:|", "| go to the end | 250 |",
    ]  # fmt: skip
    assert "| seek a > 0, a map | 998 | - |" in made
    assert "| stackTrace | 0.250 |" in made
    path.write_text(json.dumps({"machine": machine, "fuzz": {"loader": [640.0, "executions/s"]}}))
    assert "| loader | 640 | executions/s |" in figures_table("fuzz", path).splitlines()


def test_a_page_without_marks_is_an_error() -> None:
    with pytest.raises(AssertionError, match="has no"):
        with_table("text", "table")

"""Run every benchmark and print one table; `--json FILE` writes the same figures."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from bench import domains, interp, ring, startup, verification
from pybpfvm.report.terminal import heading, table

PARTS = (
    ("Start-up", startup),
    ("Interpreter", interp),
    ("Ring", ring),
    ("Domains", domains),
    ("Verifier", verification),
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--json", metavar="FILE", type=Path)
    args = parser.parse_args()
    figures: dict[str, dict[str, float]] = {}
    for title, part in PARTS:
        rows = part.run()
        heading(title)
        table(
            ("what", "value", "unit"), ((name, f"{value:.3g}", unit) for name, value, unit in rows)
        )
        print()
        figures[title] = {name: value for name, value, _ in rows}
    if args.json:
        args.json.write_text(json.dumps({"schema": "pybpfvm.bench/1", **figures}, indent=2) + "\n")


main()

"""What campaigns found, kept as files, and the README's table made from them.

Each campaign (`make oracle`, `make mutate`, `make prove`, `make bench`) ends by keeping its figures
in docs/evidence/NAME.json, with when and where. `make figures` (`python -m tests.support.evidence`)
writes the table between the marks in README.md; a test compares the two. No figure is typed in.
The table of speeds is made alike, from what `make bench` keeps in bench/results.json.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path

ROOT = Path(__file__).parents[2]
EVIDENCE = ROOT / "docs/evidence"
README = ROOT / "README.md"
BEGIN = "<!-- figures: written by make figures -->"
END = "<!-- end of figures -->"

RESULTS = ROOT / "bench/results.json"
SPEED_BEGIN = "<!-- speed: written by make figures -->"
SPEED_END = "<!-- end of speed -->"

Row = tuple[str, str]


def keep(name: str, command: str, rows: Iterable[Row], folder: Path = EVIDENCE) -> Path:
    """Write what the campaign `name` found, as (what, figure) rows; the file."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {
        "command": command,
        "date": date.today().isoformat(),
        "linux": platform.release(),
        "python": platform.python_version(),
        "rows": [list(row) for row in rows],
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return path


def table(files: Sequence[Path]) -> str:
    """The figures of `files` as a Markdown table."""
    lines = ["| what | figure | measured by |", "|---|---|---|"]
    for path in files:
        found = json.loads(path.read_text(encoding="utf-8"))
        by = f"`{found['command']}`, {found['date']}, Linux {found['linux']}"
        for index, (what, figure) in enumerate(found["rows"]):
            lines.append(f"| {what} | {figure} | {by if index == 0 else ''} |")
    return "\n".join(lines)


def speed_table(results: Path = RESULTS) -> str:
    """The speeds of engines as a Markdown table, with what they were measured on."""
    found = json.loads(results.read_text(encoding="utf-8"))
    engines, machine = found["engines"], found["machine"]
    programs, ratios = engines["programs"], engines["ratios"]
    lines = [
        f"| million BPF instructions a second | {' | '.join([*programs, *ratios])} |",
        f"|---|{'---:|' * (len(programs) + len(ratios))}",
    ]
    for name, speeds in engines["speeds"].items():
        cells = [f"{speeds[program]:,.0f}" for program in programs]
        cells += [_ratio(by_side.get(name)) for by_side in ratios.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [f"\nNot measured: {name} ({why})." for name, why in engines["skipped"].items()]
    lines.append(
        f"\n`make bench`, {machine['date']}, {machine['cpu']}, {machine['cpus']} CPUs, "
        f"Linux {machine['linux']}, Python {machine['python']}, load average {machine['load']:.1f}."
    )
    return "\n".join(lines)


def _ratio(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if value >= 0.1 else f"{value:.1g}"


def with_table(readme: str, made: str, begin: str = BEGIN, end: str = END) -> str:
    """The README with what stands between the marks replaced."""
    before, mark, rest = readme.partition(begin)
    _, last, after = rest.partition(end)
    assert mark, f"README.md has no {begin}"
    assert last, f"README.md has no {end}"
    return f"{before}{begin}\n{made}\n{end}{after}"


def written(readme: str) -> str:
    """The README with every table made anew."""
    with_figures = with_table(readme, table(files()))
    return with_table(with_figures, speed_table(), SPEED_BEGIN, SPEED_END)


def files() -> list[Path]:
    """All that is kept, by name."""
    return sorted(EVIDENCE.glob("*.json"))


def main() -> int:
    """Write the tables."""
    README.write_text(written(README.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

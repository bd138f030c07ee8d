"""What campaigns found, kept as files, and the README's table made from them.

Each campaign (`make oracle`, `make mutate`, `make prove`, `make bench`) ends by keeping its figures
in docs/evidence/NAME.json, with when and where. `make figures` (`python -m tests.support.evidence`)
writes the table between the marks in README.md; a test compares the two. No figure is typed in.
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


def with_table(readme: str, made: str) -> str:
    """The README with what stands between the marks replaced."""
    before, mark, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert mark, f"README.md has no {BEGIN}"
    assert end, f"README.md has no {END}"
    return f"{before}{BEGIN}\n{made}\n{END}{after}"


def files() -> list[Path]:
    """All that is kept, by name."""
    return sorted(EVIDENCE.glob("*.json"))


def main() -> int:
    """Write the table."""
    README.write_text(
        with_table(README.read_text(encoding="utf-8"), table(files())), encoding="utf-8"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

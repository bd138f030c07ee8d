"""What campaigns found, kept as files, and the README's table made from them.

Each campaign (`make oracle`, `make mutate`, `make soak`, ...) ends by keeping its figures
in docs/evidence/NAME.json, with when and where. `make figures` (`python -m tests.support.evidence`)
writes the table between the marks in README.md, and longer tables to docs/evidence/NAME.md; a test
compares them. No figure is typed in. The speeds are made alike, from what `make bench` keeps in
bench/results.json, and so are those in other pages of docs/.
"""

from __future__ import annotations

import json
import math
import platform
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from tests.support import looser_kernel

ROOT = Path(__file__).parents[2]
EVIDENCE = ROOT / "docs/evidence"
README = ROOT / "README.md"
BEGIN = "<!-- figures: written by make figures -->"
END = "<!-- end of figures -->"

RESULTS = ROOT / "bench/results.json"
RINGS = EVIDENCE / "rings.md"
SPEED_BEGIN = "<!-- speed: written by make figures -->"
SPEED_END = "<!-- end of speed -->"

Row = tuple[str, str]
# Counts by what was counted, of each row of a table.
Counts = Mapping[str, Mapping[str, int]]


def keep(
    name: str,
    command: str,
    rows: Iterable[Row],
    folder: Path = EVIDENCE,
    *,
    tables: Mapping[str, Counts] | None = None,
) -> Path:
    """Write what the campaign `name` found, as (what, figure) rows, and the `tables` behind them
    by title; the file."""
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, object] = {
        "command": command,
        "date": date.today().isoformat(),
        "linux": platform.release(),
        "python": platform.python_version(),
        "rows": [list(row) for row in rows],
    }
    if tables:
        found["tables"] = {title: dict(counts) for title, counts in tables.items()}
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


def tables_page(path: Path) -> str:
    """The tables behind the figures of a file, as a Markdown page; "" where it keeps none."""
    found = json.loads(path.read_text(encoding="utf-8"))
    lines = [
        f"# `{found['command']}`: what was counted",
        "",
        f"Written by `make figures` from [{path.name}]({path.name}): {found['date']}, "
        f"Linux {found['linux']}.",
    ]
    for title, counts in found.get("tables", {}).items():
        columns = list(next(iter(counts.values()), {}))
        lines += ["", f"## {title}", "", f"| | {' | '.join(columns)} |"]
        lines.append(f"|---|{'---:|' * len(columns)}")
        for name, row in counts.items():
            lines.append(f"| {name} | {' | '.join(f'{row[one]:,}' for one in columns)} |")
    return "\n".join(lines) + "\n" if "tables" in found else ""


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


# What is measured of the verifier: in words, as `make bench` calls it, what it is to be, and if
# more is better.
_VERIFIER = (
    ("thousand instructions processed a second, median", "median speed", 100.0, True),
    (
        "processed, as a multiple of the kernel's, at most",
        "processed, ours / kernel, most",
        1.2,
        False,
    ),
    ("time, as a multiple of the kernel's", "time, ours / kernel, whole", 10.6, False),
)


def verifier_table(results: Path = RESULTS) -> str:
    """The verifier's speed beside the running kernel's as a Markdown table, with what it was to be;
    "-" where there was no kernel to compare with."""
    found = json.loads(results.read_text(encoding="utf-8"))["verifier"]
    end = f": {_VERIFIER[0][1]}"
    sides = [name.removesuffix(end) for name in found if name.endswith(end)]
    lines = [
        f"| the verifier | {' | '.join(f'{side} programs' for side in sides)} | target | |",
        f"|---|{'---:|' * (len(sides) + 1)}---|",
    ]
    for what, name, target, more in _VERIFIER:
        values = [found.get(f"{side}: {name}", [None])[0] for side in sides]
        known = [value for value in values if value is not None]
        met = all(value >= target if more else value <= target for value in known)
        cells = [
            "-" if value is None else f"{value:.{2 if target < 2 else 1}f}" for value in values
        ]
        said = ("met" if met else "missed") if known else "not measured"
        lines.append(f"| {what} | {' | '.join(cells)} | {target:g} | {said} |")
    return "\n".join(lines)


# The sides of the gallery's programs: ours, C on a ring, and what C does without one.
_OURS, _ON_A_RING = "BPF program", "C on liburing"
_WITHOUT = ("read and write", "pread", "epoll", "recv and send")


def rings_page(results: Path = RESULTS) -> str:
    """The gallery's programs beside C, and the simulated ring, as a Markdown page."""
    found = json.loads(results.read_text(encoding="utf-8"))
    lines = [
        "# Programs on rings: what `make bench` measured",
        "",
        "Written by `make figures` from [bench/results.json](../../bench/results.json).",
        "",
        f"The gallery's programs on the kernel's ring{_when(found, 'gallery')}: a BPF program,",
        f"a C program on liburing, and one that does without a ring ({', '.join(_WITHOUT)}). Each",
        "cell has the three in this order; *against* is how many times as fast the BPF program is",
        "as each of the two.",
        "",
        *_beside_c(found["gallery"]),
        "",
        f"What of them there is in the merged ABI{_when(found, 'gallery_loops')}: loop_copy,",
        "_checksum, _echo and _broadcast of the examples, beside the same C in blocks as small as",
        "theirs.",
        "",
        *_beside_c(found["gallery_loops"]),
        "",
        f"The simulated ring{_when(found, 'sim')}, by the processor's time.",
        "",
        "| what | value | |",
        "|---|---:|---|",
    ]
    lines += [f"| {what} | {_short(row)} | {row[1]} |" for what, row in found["sim"].items()]
    return "\n".join(lines) + "\n"


def _beside_c(part: Mapping[str, Sequence[Any]]) -> list[str]:
    """A table of the programs of a part, each beside C on a ring and C without one."""
    end = f": {_OURS}"
    lines = [
        "| | thousand a second | against | CPU, µs each | system calls each |",
        "|---|---:|---:|---:|---:|",
    ]
    for case in (name.removesuffix(end) for name in part if name.endswith(end)):
        sides = [_OURS, _ON_A_RING, *(one for one in _WITHOUT if f"{case}: {one}" in part)]
        speeds = [part[f"{case}: {side}"][0] for side in sides]
        cells = [
            " / ".join(_short(part[f"{case}: {side}"]) for side in sides),
            " / ".join(_short([speeds[0] / other]) for other in speeds[1:]),
        ]
        cells += [
            " / ".join(_short(part.get(f"{case}: {what}, {side}")) for side in sides)
            for what in ("CPU", "system calls")
        ]
        lines.append(f"| {case} | {' | '.join(cells)} |")
    return lines


def _crossed(
    found: Mapping[str, Any], part: str, columns: Mapping[str, str], corner: str
) -> list[str]:
    """Figures that are called "ROW: COLUMN" as a table of these columns, by the words for each."""
    figures: Mapping[str, Sequence[Any]] = found[part]
    names = dict.fromkeys(name.rpartition(": ")[0] for name in figures if ": " in name)
    lines = [f"| {corner} | {' | '.join(columns.values())} |", f"|---|{'---:|' * len(columns)}"]
    for name in names:
        cells = [_short(figures.get(f"{name}: {column}")) for column in columns]
        if any(cell != "-" for cell in cells):
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


_RECORDING = {
    "without a recording": "without, ms",
    "recorded / without": "recorded / without",
    "recorded / observed": "recorded / observed",
    "bytes a million instructions": "bytes a million instructions",
    "bytes a CQE": "bytes a CQE",
    "replayed on the JIT / recorded": "replayed on the JIT / recorded",
}
_FAR = "10^8 instructions in "
_MANY = "100,000 short runs"
ANSWERS = (
    "launch", "next, a line", "stepBack, a line", "continue to the end",
    "stepBack at the end, first", "stepBack at the end", "reverseContinue to a breakpoint near",
    "stackTrace", "scopes", "variables, locals", "variables, registers, first",
    "variables, registers", "variables, maps", "variables, rings", "evaluate",
    "disassemble 400 instructions", "setBreakpoints",
)  # fmt: skip


def recording_table(results: Path = RESULTS) -> str:
    """What recording costs, as a Markdown table."""
    found = json.loads(results.read_text(encoding="utf-8"))
    lines = _crossed(found, "recording", _RECORDING, "1,000 rallies, or 500 (5) packets")
    return "\n".join([*lines, "", f"`python -m bench recording`{_when(found, 'recording')}."])


def debugger_tables(results: Path = RESULTS) -> str:
    """How fast one moves in a recording, finds conditions, and is answered by the adapter."""
    found = json.loads(results.read_text(encoding="utf-8"))
    figures: Mapping[str, Sequence[Any]] = found["debugger"]
    kinds = dict.fromkeys(name.partition(": ")[0] for name in figures if name.startswith(_FAR))
    moves = dict.fromkeys(name.partition(": ")[2] for name in figures if name.startswith(_FAR))
    lines = [
        f"| ms, of {_FAR.strip()} | {' | '.join(kind.removeprefix(_FAR) for kind in kinds)} |",
        f"|---|{'---:|' * len(kinds)}",
    ]
    for move in moves:
        cells = (_short(figures.get(f"{kind}: {move}")) for kind in kinds)
        lines.append(f"| {move} | {' | '.join(cells)} |")
    lines += ["", f"| ms, of {_MANY} | |", "|---|---:|"]
    lines += [
        f"| {name.partition(': ')[2]} | {_short(row)} |"
        for name, row in figures.items()
        if name.startswith(_MANY)
    ]
    ends = {"from the end": "from the end", "from the start": "from the start"}
    sought = {name: row for name, row in figures.items() if name.startswith("seek ")}
    lines += ["", *_crossed({"seek": sought}, "seek", ends, "ms, in 1,000 runs")]
    lines += ["", "| ms until the debug adapter has answered | |", "|---|---:|"]
    lines += [f"| {name} | {_short(found['dap'][name])} |" for name in ANSWERS]
    by = "`python -m bench debugger dap`"
    return "\n".join([*lines, "", f"{by}{_when(found, 'debugger')}."])


_LOOPS = {
    "BPF program": "BPF requests",
    "loop_step": "loop_step",
    "C on liburing": "C on liburing",
    "BPF / C": "BPF requests / C",
    "loop_step / C": "loop_step / C",
}


def loops_table(results: Path = RESULTS) -> str:
    """Loops over the kernel's ring beside C, as a Markdown table."""
    found = json.loads(results.read_text(encoding="utf-8"))
    lines = _crossed(found, "loops", _LOOPS, "million a second (the copy: GB/s)")
    return "\n".join([*lines, "", f"`python -m bench loops`{_when(found, 'loops')}."])


def figures_table(part: str, results: Path = RESULTS) -> str:
    """All figures of a part of the benchmarks, as a Markdown table."""
    found = json.loads(results.read_text(encoding="utf-8"))
    lines = ["| | | |", "|---|---:|---|"]
    lines += [f"| {name} | {_short(row)} | {row[1]} |" for name, row in found[part].items()]
    return "\n".join([*lines, "", f"`python -m bench {part}`{_when(found, part)}."])


# Tables in pages, by page and the name in their marks.
PAGES: Mapping[str, Mapping[str, Callable[[], str]]] = {
    "debugging.md": {"recording": recording_table, "debugger": debugger_tables},
    "engines.md": {"loops": loops_table},
    "exploring.md": {"explore": partial(figures_table, "explore")},
    "expressions.md": {"expressions": partial(figures_table, "expressions")},
    "fuzzing.md": {"fuzz": partial(figures_table, "fuzz")},
}


def page_with_tables(name: str) -> str:
    """A page of docs/ with its tables made anew."""
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    for mark, made in PAGES[name].items():
        marks = f"<!-- {mark}: written by make figures -->", f"<!-- end of {mark} -->"
        text = with_table(text, made(), *marks)
    return text


def _when(found: Mapping[str, Any], part: str) -> str:
    machine = found["machine"] | found.get("again", {}).get(part, {})
    return f" ({machine['date']}, {machine['cpus']} CPUs, load average {machine['load']:.1f})"


def _short(row: Sequence[Any] | None) -> str:
    """A figure with three digits."""
    if row is None:
        return "-"
    digits = max(0, 2 - math.floor(math.log10(abs(row[0])))) if row[0] else 0
    return f"{row[0]:,.{digits}f}"


def _ratio(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if value >= 0.1 else f"{value:.1g}"


def with_table(readme: str, made: str, begin: str = BEGIN, end: str = END) -> str:
    """The README with what stands between the marks replaced."""
    before, mark, rest = readme.partition(begin)
    _, last, after = rest.partition(end)
    assert mark, f"the page has no {begin}"
    assert last, f"the page has no {end}"
    return f"{before}{begin}\n{made}\n{end}{after}"


def written(readme: str) -> str:
    """The README with every table made anew."""
    with_figures = with_table(readme, table(files()))
    speeds = f"{speed_table()}\n\n{verifier_table()}"
    return with_table(with_figures, speeds, SPEED_BEGIN, SPEED_END)


def files() -> list[Path]:
    """All that is kept, by name."""
    return sorted(EVIDENCE.glob("*.json"))


def main() -> int:
    """Write the tables."""
    for path in files():
        page = tables_page(path)
        if page:
            path.with_suffix(".md").write_text(page, encoding="utf-8")
    RINGS.write_text(rings_page(), encoding="utf-8")
    looser_kernel.PAGE.write_text(looser_kernel.page(), encoding="utf-8")
    for name in PAGES:
        (ROOT / "docs" / name).write_text(page_with_tables(name), encoding="utf-8")
    README.write_text(written(README.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

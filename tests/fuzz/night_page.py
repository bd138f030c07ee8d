"""The report of `make fuzz-night` as a page that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pybpfvm.report.htmlpage import asset, document, text_of

_MOST_NEVER = 60  # names that a list shows before it is folded away

_SCRIPT = 'document.documentElement.dataset.ready = "1";'
_STYLE = """
main { max-width: 1100px; } header, footer { max-width: 1100px; }
main section { margin: 22px 0; }
.finding .what .soft { font-weight: 400; }
h3 { margin: 18px 0 4px; text-transform: none; letter-spacing: 0; font-size: .9rem; }
.scroll-x { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; padding: 4px 10px 4px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { color: var(--soft); font-weight: 600; white-space: nowrap; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.tiles { display: flex; flex-wrap: wrap; gap: 10px; margin: 12px 0; padding: 0; list-style: none; }
.tiles li { background: var(--panel); border: 1px solid var(--line); border-radius: 6px;
  padding: 8px 14px; min-width: 9em; }
.tiles b { display: block; font-size: 1.35rem; font-variant-numeric: tabular-nums; }
.names { font-family: var(--mono); font-size: 12.5px; overflow-wrap: anywhere; }
pre { background: var(--panel); border: 1px solid var(--line); border-radius: 5px;
  padding: 6px 10px; margin: 6px 0; white-space: pre-wrap; overflow-wrap: anywhere; }
summary { cursor: pointer; }
footer { padding-bottom: 30px; }
"""


def page(report: Mapping[str, Any]) -> str:
    """The page."""
    body = "\n".join(
        (
            "<header><h1>A night of fuzzing</h1>",
            *_head(report),
            "</header>\n<main>",
            *_found(report),
            *_table(report),
            *_never(report),
            *_notes(report),
            *_commands(report),
            "</main>",
            f"<footer class=soft>{_machine(report)}</footer>",
        )
    )
    title = f"fuzz-night {report['date']} · pybpfvm"
    return document(title, asset("page.css") + _STYLE, _SCRIPT, body, {})


def _documents(report: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Parts of `fuzz` that ended with a report, and their reports."""
    return [
        (part, part["document"])
        for part in report["parts"]
        if part["document"] is not None and part["group"] != "schedules"
    ]


def _head(report: Mapping[str, Any]) -> Iterator[str]:
    done = _documents(report)
    schedules = sum(
        part["document"]["schedules"]
        for part in report["parts"]
        if part["group"] == "schedules" and part["document"] is not None
    )
    found = sum(len(part["document"]["findings"]) for part in report["parts"] if part["document"])
    failed = sum(part["document"] is None for part in report["parts"])
    agreed = sum(one["kernel"].get("agreed", 0) for _, one in done)
    compared = sum(sum(one["kernel"].values()) for _, one in done)
    judged = [one for part, one in done if part["group"] == "verifier"]
    accepted = sum(one["outcomes"].get("accepted", 0) for one in judged)
    tiles = [
        (f"{found}", "finding" if found == 1 else "findings", "rejected" if found else "accepted"),
        (f"{sum(one['executions'] for _, one in done):,}", "executions", ""),
        (f"{schedules:,}", "schedules", ""),
    ]
    if judged:
        share = accepted / max(1, sum(one["executions"] for one in judged))
        tiles.append((f"{share:.1%}", "of generated programs accepted", ""))
    if compared:
        tiles.append((f"{agreed:,} of {compared:,}", "verdicts agree with the kernel's", ""))
    if failed:
        tiles.append((f"{failed}", f"part{'s' * (failed > 1)} ended without a report", "rejected"))
    if late := len(report["left out"]):
        tiles.append((f"{late}", f"part{'s' * (late > 1)} had no time left", ""))
    minutes = report["seconds"] / 60
    processes = "1 process" if report["jobs"] == 1 else f"{report['jobs']} processes"
    ended = ", interrupted" if report["interrupted"] else ""
    yield (
        f'<p class="soft">{text_of(report["date"])}, {minutes:.1f} minutes{ended}, '
        f"{processes}, seeds from {report['seed']:,}</p>"
    )
    yield '<ul class="tiles">'
    for value, what, kind in tiles:
        yield f'<li class="{kind}"><b>{text_of(value)}</b>{text_of(what)}</li>'
    yield "</ul>"


def _found(report: Mapping[str, Any]) -> Iterator[str]:
    yield "<section><h2>Findings</h2>"
    nothing = True
    for part in report["parts"]:
        if part["document"] is None:
            nothing = False
            yield (
                f'<div class="finding doubt"><p class="what">{text_of(part["title"])}: '
                f"ended with {part['exit_code']}, without a report</p>"
                f"<p>{text_of(part['error'])}</p>{_line(part['command'])}</div>"
            )
            continue
        for found in part["document"]["findings"]:
            nothing = False
            yield _finding(part, found)
    if nothing:
        yield "<p>Nothing was found.</p>"
    yield "</section>"


def _finding(part: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    if part["group"] == "schedules":
        name, message, command = found["kind"], found["text"], found["replay"]
        more = f"after {found['tries']:,} tries"
    else:
        name, message, command = found["bucket"], found["message"], found["command"]
        more = (
            f"{found['count']:,} inputs, first with seed {found['seed']:,} after "
            f"{found['executions']:,} executions; made smaller from "
            f"{found['first_bytes']:,} to {found['input_bytes']:,} bytes"
        )
    return (
        f'<div class="finding"><p class="what">{text_of(name)} '
        f'<span class="soft">{text_of(part["title"])}</span></p>'
        f'<p>{text_of(message)}</p><p class="soft">{text_of(more)}</p>{_line(command)}</div>'
    )


def _line(command: str) -> str:
    return f"<pre>{text_of(command)}</pre>"


def _table(report: Mapping[str, Any]) -> Iterator[str]:
    yield '<section><h2>What was tried</h2><div class="scroll-x"><table><tr><th>oracle</th>'
    for what in ("executions", "a second of a process", "accepted", "features", "corpus", "found"):
        yield f'<th class="number">{what}</th>'
    yield "</tr>"
    for part, one in _documents(report):
        accepted = one["accept_rate"]
        cells = (
            f"{one['executions']:,}",
            f"{one['rate']:,.0f}",
            "" if accepted is None else f"{accepted:.1%}",
            f"{one['features']:,}",
            f"{one['corpus']:,}",
            f"{len(one['findings'])}",
        )
        yield f"<tr><td>{text_of(part['title'])}{_ends(one)}</td>"
        yield "".join(f'<td class="number">{cell}</td>' for cell in cells) + "</tr>"
    for part in report["parts"]:
        if part["group"] == "schedules" and part["document"] is not None:
            yield _explored(part)
    yield "</table></div></section>"


def _ends(one: Mapping[str, Any]) -> str:
    """How executions ended, and how verdicts stood to the kernel's."""
    ends = sorted(one["outcomes"].items(), key=lambda end: -end[1])
    said = ", ".join(f"{count:,} {end}" for end, count in ends)
    if one["kernel"]:
        counts = ", ".join(f"{count:,} {how}" for how, count in sorted(one["kernel"].items()))
        said += f"; beside the kernel {counts}"
    return f'<br><span class="soft">{text_of(said)}</span>'


def _explored(part: Mapping[str, Any]) -> str:
    one = part["document"]
    rate = one["schedules"] / max(part["seconds"], 1e-9)
    cells = (f"{one['schedules']:,}", f"{rate:,.0f}", "", "", "", f"{len(one['findings'])}")
    return f"<tr><td>schedules of {text_of(part['title'])}</td>" + (
        "".join(f'<td class="number">{cell}</td>' for cell in cells) + "</tr>"
    )


def _never(report: Mapping[str, Any]) -> Iterator[str]:
    yield "<section><h2>Never hit</h2>"
    for part, one in _documents(report):
        for what, names in one["never"].items():
            total = len(names) + len(one["hits"][what])
            yield f"<h3>{text_of(part['title'])}: {text_of(what)}</h3>"
            if not names:
                yield f"<p>All {total:,} were hit.</p>"
                continue
            listed = text_of(", ".join(name.strip() for name in names))
            text = f'<p class="names">{listed}</p>'
            head = f"{len(names):,} of {total:,}"
            if len(names) > _MOST_NEVER:
                yield f"<details><summary>{head}</summary>{text}</details>"
            else:
                yield f"<p>{head}:</p>{text}"
    yield "</section>"


def _notes(report: Mapping[str, Any]) -> Iterator[str]:
    notes = [(part["title"], note) for part, one in _documents(report) for note in one["notes"]]
    notes += [(title, "there was no time left for it") for title in report["left out"]]
    if notes:
        yield "<section><h2>Notes</h2><ul>"
        for title, note in notes:
            yield f"<li>{text_of(title)}: {text_of(note)}</li>"
        yield "</ul></section>"


def _commands(report: Mapping[str, Any]) -> Iterator[str]:
    yield "<section><details><summary>The commands</summary><pre>"
    yield "\n".join(text_of(part["command"]) for part in report["parts"])
    yield "</pre></details></section>"


def _machine(report: Mapping[str, Any]) -> str:
    machine = report["machine"]
    return text_of(
        f"make fuzz-night · pybpfvm {machine['version']}, Python {machine['python']}, "
        f"Linux {machine['linux']}, {machine['cpus']} CPUs ({machine['cpu']}), "
        f"load average {report['load']:.1f}"
    )

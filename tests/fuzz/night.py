"""`make fuzz-night`: every oracle of the fuzzer for a while, and one report of what they found.

    python -m tests.fuzz.night [--minutes M] [--jobs N] [--seed S] [--out DIR]

M minutes (480) are shared out among the parts below; each is a command of `pybpfvm`, with N
processes (one a CPU), which anyone may give again. Seeds begin at S (the day, so that no two
nights do the same); corpora stay in DIR (build/fuzz-night) from night to night. DIR/report.html
and report.json are written after each part, so that a night which ends early has them too. Of
example programs and scenarios as many have their turn as there is time for.

Exit status 1 if anything was found. A night of KEPT_MINUTES is evidence (docs/evidence/fuzz.json).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pybpfvm
from pybpfvm import bpfsys
from pybpfvm.errors import InputError
from pybpfvm.session.engines import jit_refusal
from pybpfvm.uring_backend.kernel.probe import available
from pybpfvm.verifier.verdict import Accepted
from tests.fuzz.night_page import page
from tests.support.evidence import ROOT, Row, keep

KEPT_MINUTES = 60
LEAST_SECONDS = 6.0  # of a part: below it hardly anything is tried
_STARTING_SECONDS = 60.0  # that a part may take longer than it should
_DAY = 1_000_000  # seeds of a night


@dataclass(frozen=True, slots=True)
class Part:
    """A command: the words behind `pybpfvm`, and its share of the time among those of its
    `group`."""

    group: str
    title: str
    words: tuple[str, ...]


# Which share of a night each group has.
SHARES = {"verifier": 0.35, "engine": 0.2, "programs": 0.15, "loader": 0.08, "ring": 0.12} | {
    "schedules": 0.1
}


def parts() -> Iterator[Part]:
    """All parts that can run here."""
    kernel = ("--against", "kernel") if bpfsys.available() is None else ()
    beside = " beside the running kernel" if kernel else ""
    mixed, typed = ("fuzz", "verifier", *kernel), ("fuzz", "verifier", "--style", "typed", *kernel)
    yield Part("verifier", f"generated programs, judged{beside}, run and held to claims", mixed)
    yield Part("verifier", f"programs of all types, judged{beside}", typed)
    compiled = jit_refusal() is None
    if compiled:
        yield Part("engine", "generated programs on all engines", ("fuzz", "engine"))
        yield from _programs()
    yield Part("loader", "damaged objects", ("fuzz", "loader"))
    rings = "the simulated ring and the kernel's" if available() is None else "the simulated ring"
    yield Part("ring", f"request sequences on {rings}", ("fuzz", "ring"))
    for path in sorted(ROOT.glob("examples/[0-9]*/scenario.toml")):
        words = ("explore", str(path.relative_to(ROOT)), "--strategy", "random", "--all")
        yield Part("schedules", path.parent.name, words)


def _programs() -> Iterator[Part]:
    """The examples' programs that are accepted without a contract."""
    for path in sorted(ROOT.glob("examples/[0-9]*/prog.v3.bpf.o")):
        obj = pybpfvm.load(path, abi="iouring-v3")
        for name, program in obj.programs.items():
            if isinstance(program.verdict(), Accepted):
                words = ("fuzz", "engine", str(path.relative_to(ROOT)), "--abi", "iouring-v3")
                yield Part("programs", f"{path.parent.name}: {name}", (*words, "--prog", name))


def shared_out(known: Sequence[Part], seconds: float, turn: int) -> Iterator[tuple[Part, float]]:
    """Parts with their seconds. Where there is not time for all of a group, another one is first
    each `turn`."""
    groups = {group for group in SHARES if any(part.group == group for part in known)}
    whole = sum(SHARES[group] for group in groups)
    for group in (one for one in SHARES if one in groups):
        members = [part for part in known if part.group == group]
        share = seconds * SHARES[group] / whole
        count = max(1, min(len(members), int(share / LEAST_SECONDS)))
        first = turn % len(members) if count < len(members) else 0
        for number in range(count):
            yield members[(first + number) % len(members)], share / count


class Night:
    """Parts one after the other, and the report of those that were done."""

    def __init__(self, out: Path, minutes: float, jobs: int, seed: int) -> None:
        self.out = out
        self.jobs = jobs
        self.seed = seed
        self.interrupted = False
        self.report: dict[str, Any] = {
            "schema": "pybpfvm.fuzz-night/1",
            "date": date.today().isoformat(),
            "minutes": minutes,
            "jobs": jobs,
            "seed": seed,
            "machine": {
                "cpu": platform.machine(),
                "cpus": os.cpu_count(),
                "linux": platform.release(),
                "python": platform.python_version(),
                "version": pybpfvm.__version__,
            },
            "seconds": 0.0,
            "load": os.getloadavg()[0],
            "interrupted": False,
            "parts": [],
            "left out": [],
            "rows": [],
        }
        out.mkdir(parents=True, exist_ok=True)

    def run(self, plan: Sequence[tuple[Part, float]]) -> None:
        """Do the parts; what starting them takes longer, those behind it have less."""
        begun = time.monotonic()
        end = begun + sum(seconds for _, seconds in plan)
        for number, (part, seconds) in enumerate(plan):
            left = sum(seconds for _, seconds in plan[number:])
            seconds *= min(1.0, (end - time.monotonic()) / left)
            if seconds < LEAST_SECONDS / 3:
                self.report["left out"].append(part.title)
                continue
            print(f"{time.strftime('%H:%M:%S')} {part.title} ({seconds:.0f} s)", flush=True)
            done = self._done(part, seconds)
            self.report["parts"].append(done)
            self.report["seconds"] = time.monotonic() - begun
            self.report["load"] = os.getloadavg()[0]
            self.report["interrupted"] = self.interrupted
            self.report["rows"] = [list(row) for row in rows(self.report)]
            self.write()
            if self.interrupted:
                break
        self.write()

    def _done(self, part: Part, seconds: float) -> dict[str, Any]:
        words = [*part.words, "--seconds", f"{seconds:.0f}", "--seed", str(self.seed)]
        if part.group != "schedules":
            name = re.sub(r"[^a-z0-9]+", "-", " ".join(part.words[1:]).lower())
            below = Path(os.path.relpath(self.out, ROOT))
            words += ["--jobs", str(self.jobs), "--corpus", str(below / "corpus" / name)]
            words += ["--out", str(below / "findings")]
        command = [sys.executable, "-m", "pybpfvm", *words, "--format", "json"]
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        out, err = self._output(process, seconds + seconds / 2 + _STARTING_SECONDS)
        try:
            document: Mapping[str, Any] | None = json.loads(out)
        except ValueError:
            document = None
        lines = err.strip().splitlines()
        return {
            "group": part.group,
            "title": part.title,
            "command": shlex.join(("pybpfvm", *words)),
            "seconds": seconds,
            "exit_code": process.returncode,
            "error": lines[-1] if lines and document is None else "",
            "document": document,
        }

    def _output(self, process: subprocess.Popen[str], seconds: float) -> tuple[str, str]:
        """What it printed, to stdout and stderr. One that takes longer gets a Ctrl-C, so that it
        ends its workers and reports; what that does not end is killed."""
        for patience in (seconds, _STARTING_SECONDS):
            try:
                return process.communicate(timeout=patience)
            except KeyboardInterrupt:  # it has it too
                self.interrupted = True
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGINT)
        process.kill()
        process.wait()
        return "", "it did not end, and was killed"

    def write(self) -> None:
        """The report as it is."""
        for name, text in (
            ("report.json", json.dumps(self.report, indent=1) + "\n"),
            ("report.html", page(self.report)),
        ):
            partial = self.out / f".{name}.partial"
            partial.write_text(text, encoding="utf-8")
            partial.replace(self.out / name)

    @property
    def found(self) -> int:
        """Findings, and parts that ended without a report."""
        return sum(len(findings(part)) for part in self.report["parts"]) + sum(
            part["document"] is None for part in self.report["parts"]
        )


def findings(part: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What a part found."""
    document = part["document"]
    return [] if document is None else list(document["findings"])


def rows(report: Mapping[str, Any]) -> Iterator[Row]:
    """The figures that the README quotes."""
    for group in SHARES:
        done = [
            one["document"]
            for one in report["parts"]
            if one["group"] == group and one["document"] is not None
        ]
        if not done:
            continue
        found = sum(len(one["findings"]) for one in done)
        if group == "schedules":
            total = sum(one["schedules"] for one in done)
            what, unit = f"fuzz-night: schedules of {len(done)} scenarios", ""
        else:
            total = sum(one["executions"] for one in done)
            rate = total / max(sum(one["seconds"] for one in done), 1e-9)
            what, unit = f"fuzz-night: {_WHAT[group]}", f" ({rate:,.0f} a second of a process)"
        yield what, f"{total:,}{unit}: {found} findings"
        if group == "verifier":
            yield from _of_verdicts(done)


_WHAT = {
    "verifier": "generated programs judged and held to their claims",
    "engine": "runs of generated programs compared",
    "programs": "runs of example programs on changed inputs",
    "loader": "damaged objects loaded",
    "ring": "request sequences played",
}


def _of_verdicts(done: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    judged = sum(one["executions"] for one in done)
    accepted = sum(one["outcomes"].get("accepted", 0) for one in done)
    yield "of them accepted", f"{accepted:,} ({accepted / max(judged, 1):.1%})"
    never = set.intersection(*(set(one["never"]["rules"]) for one in done))
    yield "rules that none of them broke", f"{len(never)}"
    beside: dict[str, int] = {}
    for one in done:
        for how, count in one["kernel"].items():
            beside[how] = beside.get(how, 0) + count
    if beside:
        said = ", ".join(f"{count:,} {how}" for how, count in sorted(beside.items()))
        yield "verdicts beside the running kernel's", said


def main(arguments: Sequence[str] | None = None) -> int:
    """A night."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=480.0)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seed", type=int, default=date.today().toordinal() * _DAY)
    parser.add_argument("--out", type=Path, default=ROOT / "build/fuzz-night")
    args = parser.parse_args(arguments)
    if not 0 < args.minutes < math.inf or args.jobs < 1:
        parser.error("--minutes and --jobs must be more than 0")
    try:
        known = list(parts())
    except InputError as error:
        sys.exit(f"fuzz-night: {error}")
    night = Night(args.out.resolve(), args.minutes, args.jobs, args.seed)
    night.run(list(shared_out(known, args.minutes * 60, args.seed // _DAY)))
    for what, figure in rows(night.report):
        print(f"{what}: {figure}")
    print(f"{night.found} findings; {night.out / 'report.html'}, report.json")
    if args.minutes >= KEPT_MINUTES and not night.interrupted:
        keep("fuzz", "make fuzz-night", rows(night.report))
    return 130 if night.interrupted else 1 if night.found else 0


if __name__ == "__main__":
    sys.exit(main())

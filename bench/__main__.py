"""Run the benchmarks and print their tables; `--json FILE` writes the same figures. Where only some
parts run, what FILE has of the others stays.

python -m bench                      all of them
python -m bench engines ring         these only
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

from bench import (
    campaigns,
    dap,
    debugger,
    domains,
    engine_costs,
    engines,
    experiments,
    exploring,
    expressions,
    fuzz,
    gallery,
    gallery_loops,
    interp,
    llvm,
    moments,
    recording,
    ring,
    ringloops,
    simulated,
    startup,
    verification,
)
from pybpfvm.errors import InputError
from pybpfvm.report.terminal import heading, table

_SCHEMA = "pybpfvm.bench/2"
Rows = list[tuple[str, float, str]]

PARTS: dict[str, tuple[str, Callable[[], Rows]]] = {
    "startup": ("Start-up", startup.run),
    "costs": ("Costs of the JIT", engine_costs.run),
    "llvm": ("Compiling through LLVM", llvm.run),
    "interp": ("Interpreter", interp.run),
    "moments": ("Moments of a run", moments.run),
    "ring": ("Ring", ring.run),
    "loops": ("Ring loops", ringloops.run),
    "recording": ("Recording", recording.run),
    "debugger": ("Debugger", debugger.run),
    "dap": ("Debug adapter", dap.run),
    "gallery": ("Gallery", gallery.run),
    "gallery_loops": ("Gallery of the merged ABI", gallery_loops.run),
    "experiments": ("Experiments", experiments.run),
    "sim": ("The simulated ring", simulated.run),
    "explore": ("Exploring", exploring.run),
    "domains": ("Domains", domains.run),
    "expressions": ("Expressions", expressions.run),
    "verifier": ("Verifier", verification.run),
    "fuzz": ("Fuzzing", fuzz.run),
    "campaigns": ("Campaigns", campaigns.run),
}


def main() -> None:
    """Measure what the command line names, print it and keep it."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    known = ("engines", *PARTS)
    parser.add_argument("part", nargs="*", metavar="PART", help=", ".join(known))
    parser.add_argument("--json", metavar="FILE", type=Path)
    args = parser.parse_args()
    unknown = [part for part in args.part if part not in known]
    if unknown:
        parser.error(f"no part is called {unknown[0]!r}: {', '.join(known)}")
    wanted = args.part or known
    machine = _machine()
    kept = None
    if args.json and args.part and args.json.exists():
        kept = json.loads(args.json.read_text(encoding="utf-8"))
        check_same(kept, machine)
    document: dict[str, object] = {"schema": _SCHEMA, "machine": machine}
    if "engines" in wanted:
        document["engines"] = _engines()
    for name, (title, run) in PARTS.items():
        if name in wanted:
            rows = run()
            heading(title)
            table(
                ("what", "value", "unit"),
                ((what, f"{value:.3g}", unit) for what, value, unit in rows),
            )
            print()
            document[name] = {what: [value, unit] for what, value, unit in rows}
    if args.json:
        if kept is not None:
            document = merged(kept, document)
        args.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def check_same(kept: dict[str, Any], machine: dict[str, object]) -> None:
    """InputError for figures of another schema, or of another machine than this one: nothing is
    added to them."""
    place = ("cpu", "cpus", "linux", "python")
    if kept.get("schema") != _SCHEMA or any(
        kept["machine"].get(what) != machine[what] for what in place
    ):
        raise InputError(
            "the file's figures are of another machine, or of another form",
            where="--json",
            remedy="name another file, or measure all parts",
        )


def merged(kept: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """What a file keeps, with parts that were measured again; `again` tells when, and under which
    load."""
    parts = {name: part for name, part in new.items() if name not in ("schema", "machine")}
    when = {what: new["machine"][what] for what in ("date", "load")}
    again = kept.get("again", {}) | dict.fromkeys(parts, when)
    return kept | parts | {"again": again}


def _engines() -> dict[str, object]:
    start = time.monotonic()
    speeds = engines.measure()
    heading(f"Engines ({time.monotonic() - start:.0f} s)")
    table(engines.HEADERS, engines.rows(speeds))
    for name, why in speeds.skipped.items():
        print(f"{name}: skipped: {why}")
    print()
    return {
        "unit": "million BPF instructions per second",
        "programs": list(engines.PROGRAMS),
        "speeds": {name: dict(values) for name, values in speeds.by_side.items()},
        "ratios": engines.ratios(speeds),
        "skipped": dict(speeds.skipped),
    }


def _machine() -> dict[str, object]:
    """What the figures depend on; `load` is how many processes wanted to run meanwhile."""
    return {
        "date": date.today().isoformat(),
        "cpu": _cpu(),
        "cpus": os.cpu_count(),
        "linux": platform.release(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"bench: {error}")

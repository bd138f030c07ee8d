"""Whole-process time of small commands, against an interpreter that does nothing.

As pip installs a package: compiled to bytecode once, which an interpreter that may not write any
(PYTHONDONTWRITEBYTECODE) would do anew each time.
"""

from __future__ import annotations

import subprocess
import sys
import time
from compileall import compile_dir
from pathlib import Path
from statistics import median

_OBJECT = Path(__file__).parents[1] / "examples/03_pingpong/prog.v3.bpf.o"
_FILTER = Path(__file__).parents[1] / "tests/ordinary/filter.bpf.o"
_ENGINES = Path(__file__).parent / "programs/engines"
_RUN = ("-m", "pybpfvm", "run", str(_ENGINES / "hundred.bpf.o"), "--quiet", "--engine")
_ROUNDS = 9

COMMANDS = {
    "python -c pass": ("-c", "pass"),
    "pybpfvm --help": ("-m", "pybpfvm", "--help"),
    "pybpfvm info (small object)": ("-m", "pybpfvm", "info", str(_OBJECT)),
    "pybpfvm verify (small object of a ring)": ("-m", "pybpfvm", "verify", str(_OBJECT)),
    "pybpfvm verify (small object)": ("-m", "pybpfvm", "verify", str(_FILTER)),
    "pybpfvm run (100 instructions, jit)": (*_RUN, "jit"),
    "pybpfvm run (100 instructions, interp)": (*_RUN, "interp"),
}


def run() -> list[tuple[str, float, str]]:
    """Median seconds of each command over interleaved rounds, and their ratio to the first."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    root = Path(__file__).parents[1]
    for package in ("pybpfvm", "verifier", "helpers", "uring_backend"):
        compile_dir(root / package, quiet=2)
    for _ in range(_ROUNDS):
        for name, arguments in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            times[name].append(time.perf_counter() - start)
    medians = {name: median(values) for name, values in times.items()}
    bare = medians["python -c pass"]
    rows = [(name, value, "s") for name, value in medians.items()]
    rows += [
        (f"{name} / bare Python", value / bare, "x")
        for name, value in medians.items()
        if name != "python -c pass"
    ]
    return rows

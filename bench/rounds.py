"""Work of ours beside that of C programs, in rounds that take turns.

CPU is that of the side alone. System calls of the C programs (bench/programs/gallery.c) are counted
by themselves, ours by strace in a round of its own (left out where there is none).
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

_ROUNDS = 5

Rows = list[tuple[str, float, str]]


@dataclass(frozen=True, slots=True)
class Round:
    """Seconds, seconds of CPU, and system calls (None: not counted)."""

    seconds: float
    cpu: float
    calls: int | None = None


Side = Callable[[], Round]


def rows_of(case: str, operations: int, sides: dict[str, Side]) -> Rows:
    """Medians of interleaved rounds; the first of each is to warm up."""
    for side in sides.values():
        side()
    taken = [{name: side() for name, side in sides.items()} for _ in range(_ROUNDS)]
    ours, ring, plain = sides
    rows: Rows = []
    for name in sides:
        speed = operations / median(each[name].seconds for each in taken) / 1e3
        rows.append((f"{case}: {name}", speed, "k/s"))
    for other in (ring, plain):
        ratio = median(each[other].seconds / each[ours].seconds for each in taken)
        rows.append((f"{case}: {ours} / {other}", ratio, "x"))
    for name in sides:
        cpu = median(each[name].cpu for each in taken) / operations * 1e6
        rows.append((f"{case}: CPU, {name}", cpu, "us each"))
    for name in (ours, ring, plain):
        calls = taken[-1][name].calls if name != ours else _counted(sides[ours])
        if calls is not None:
            rows.append((f"{case}: system calls, {name}", calls / operations, "each"))
    return rows


_TOTAL = re.compile(r"^\s*100\.00\s+\S+\s+\S*\s*?(\d+)(?:\s+\d+)? total", re.MULTILINE)


def _counted(side: Side) -> int | None:
    """System calls of a round of ours; None where strace can not tell."""
    strace = shutil.which("strace")
    if strace is None:
        return None
    with tempfile.NamedTemporaryFile("r") as out:
        command = [strace, "-qq", "-c", "-o", out.name, "-p", str(os.getpid())]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as tracer:
            deadline = time.monotonic() + 5
            while _tracer() != tracer.pid and time.monotonic() < deadline:
                time.sleep(0.01)
            if _tracer() != tracer.pid:
                tracer.kill()
                return None
            side()
            tracer.send_signal(signal.SIGINT)
            tracer.wait()
        found = _TOTAL.search(out.read())
    return int(found[1]) if found else None


def _tracer() -> int:
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if "TracerPid" in x)
    return int(line.split()[1])


@contextmanager
def c_side(
    program: Path, *args: object, fds: tuple[int, ...] = ()
) -> Iterator[subprocess.Popen[str]]:
    command = [str(program), *map(str, args)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=fds
    ) as process:
        yield process


def start_round(process: subprocess.Popen[str], line: object = "") -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def line_of(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    return process.stdout.readline().split()


def c_round(process: subprocess.Popen[str]) -> Round:
    seconds, cpu, calls, _ = line_of(process)
    return Round(float(seconds), float(cpu), int(calls))


def timed(work: Callable[[], object]) -> Round:
    start, cpu = time.perf_counter(), time.process_time()
    work()
    return Round(time.perf_counter() - start, time.process_time() - cpu)


def sides_of(
    ours: Side, on_ring: subprocess.Popen[str], plain: subprocess.Popen[str], name: str
) -> dict[str, Side]:
    def side(process: subprocess.Popen[str]) -> Side:
        def turn() -> Round:
            start_round(process)
            return c_round(process)

        return turn

    return {"BPF program": ours, "C on liburing": side(on_ring), name: side(plain)}

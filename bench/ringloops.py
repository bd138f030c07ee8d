"""Ring loops: BPF programs on the kernel's ring against a C program on liburing.

A BPF request, a loop_step program and the C program make the same requests at the same depth on
the same files, in turns, on rings of their own, the C program in a process of its own. That is
compiled here, with gcc; where gcc or liburing is missing the part is skipped. With the cases of
NOPs comes how many instructions of BPF the programs execute for one: what ours do more than C,
beside what stands for helpers and loop (of a BPF request: up to 60 for submit, 25 for reap, 40 to
take a completion in, 60 for each run).
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Protocol, cast

from bench.liburing import compiled
from pybpfvm.events import Event, RunEnded
from pybpfvm.session import Block, LoadedObject, LoopRing, Machine, Ring
from pybpfvm.session.hostring import BackendName, HostRing
from pybpfvm.uring_backend.kernel import probe
from pybpfvm.uring_backend.loop.budgets import LoopBudgets

_HERE = Path(__file__).with_name("programs")
_OBJECT = _HERE / "ringloops.bpf.o"
_STEPS = _HERE / "steploops.bpf.o"
_SOURCE = _HERE / "ringloops.c"
_ROUNDS = 9
_COPY_ROUNDS = 5
# Requests of a round: a tenth of a second or more.
_REQUESTS = {
    ("nop", 1): 300_000,
    ("nop", 32): 3_200_000,
    ("read", 1): 200_000,
    ("read", 32): 640_000,
}
_BLOCK = 4096
_COPY_BYTES = 256 << 20
_COPY_BLOCK = 1 << 20
_COPY_DEPTH = 4
_JOB = ["depth", "left", "buffer", "size", "at", "block", "from", "to", "started", "bad"]


def run() -> list[tuple[str, float, str]]:
    """Requests and bytes a second of all, medians of interleaved rounds, and their ratios."""
    refused = probe.available()
    if refused is not None:
        print(f"skipped: {refused}")
        return []
    rows: list[tuple[str, float, str]] = []
    with tempfile.TemporaryDirectory() as made:
        program = compiled(_SOURCE, Path(made))
        if program is None:
            return []
        cached = Path(made, "cached")
        cached.write_bytes(bytes(_BLOCK))
        for name, command in (("NOP", "nop"), ("cached 4 KiB read", "read")):
            for depth in (1, 32):
                count = _REQUESTS[command, depth]
                times = _requests(program, command, depth, count, cached)
                case = f"{name}, depth {depth}"
                rows += _rows(case, count / 1e6, "M/s", times)
                if command == "nop":
                    insns = _insns(depth)
                    rows.append((f"{case}: BPF instructions of the program", insns, "each"))
        what = f"copy of {_COPY_BYTES >> 20} MiB, {_COPY_DEPTH} × {_COPY_BLOCK >> 10} KiB"
        rows += _rows(what, _COPY_BYTES / 1e9, "GB/s", _copies(program, Path(made)))
    return rows


Times = list[tuple[float, float, float]]
"""Seconds of rounds that were made in turns: of the BPF request, of loop_step, of C."""


def _rows(name: str, work: float, unit: str, times: Times) -> list[tuple[str, float, str]]:
    """Speeds, and ratios, each of neighbours."""
    request, step, c = (median(side) for side in zip(*times, strict=True))
    return [
        (f"{name}: BPF program", work / request, unit),
        (f"{name}: loop_step", work / step, unit),
        (f"{name}: C on liburing", work / c, unit),
        (f"{name}: BPF / C", median(theirs / ours for ours, _, theirs in times), "x"),
        (f"{name}: loop_step / C", median(theirs / ours for _, ours, theirs in times), "x"),
    ]


@contextmanager
def _c_rounds(program: Path, args: list[str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [str(program), *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process


def _c_round(process: subprocess.Popen[str]) -> float:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return float(process.stdout.readline())


class _Side(Protocol):
    """A program on a ring of ours."""

    @property
    def ring(self) -> HostRing:
        """The ring."""

    def round(self, **job: int) -> float:
        """Seconds that the job took."""


class _Request:
    """A program of ringloops.bpf.o, as a BPF request."""

    def __init__(self, ring: Ring, obj: LoadedObject, name: str, buffer_bytes: int) -> None:
        self.ring = ring
        self._jobs = obj.maps["jobs"]
        self._buffer: Block = ring.user.alloc(bytes([1]) * buffer_bytes)
        ring.register_bpf([obj[name]])

    def round(self, **job: int) -> float:
        self._jobs[0] = dict.fromkeys(_JOB, 0) | {"buffer": self._buffer.addr} | job
        start = time.perf_counter()
        self.ring.get_sqe().prep_bpf(0)
        self.ring.submit()
        cqe = self.ring.wait_cqe()
        taken = time.perf_counter() - start
        done = cast("dict[str, int]", self._jobs[0])
        if cqe.res or done["bad"]:
            raise AssertionError(f"the BPF request ended with {cqe.res}, {done['bad']} bad CQEs")
        return taken


class _Step:
    """A program of steploops.bpf.o, in the loop of an enter."""

    def __init__(self, ring: LoopRing, obj: LoadedObject, name: str, buffer_bytes: int) -> None:
        self.ring = ring
        self._obj = obj
        self._buffer: Block = ring.user.alloc(bytes([1]) * buffer_bytes)
        ring.attach(obj, f"{name}_ops")

    def round(self, **job: int) -> float:
        self._obj.globals["job"] = dict.fromkeys(_JOB, 0) | {"buffer": self._buffer.addr} | job
        start = time.perf_counter()
        self.ring.enter()
        taken = time.perf_counter() - start
        done = cast("dict[str, int]", self._obj.globals["job"])
        if done["bad"] or done["left"]:
            raise AssertionError(f"loop_step ended with {done['left']} to do, {done['bad']} bad")
        return taken


@contextmanager
def bpf_on(backend: BackendName, name: str, buffer_bytes: int) -> Iterator[_Side]:
    """The BPF request of that name on a ring of its own."""
    with Machine() as machine:
        obj = machine.load(_OBJECT, abi="iouring-v3")
        with Ring(64, (64,), backend=backend, abi=obj.profile, machine=machine) as ring:
            yield _Request(ring, obj, name, buffer_bytes)


@contextmanager
def _step(name: str, buffer_bytes: int) -> Iterator[_Side]:
    with Machine() as machine:
        obj = machine.load(_STEPS, abi="loop-7.2")
        budgets = LoopBudgets(max_steps=1 << 40)
        with LoopRing(
            64, cq_entries=64, backend="kernel", machine=machine, budgets=budgets
        ) as ring:
            yield _Step(ring, obj, name, buffer_bytes)


def _requests(program: Path, command: str, depth: int, count: int, cached: Path) -> Times:
    args = [command, str(depth), str(count)]
    reads = command == "read"
    if reads:
        args.append(str(cached))
    with (
        _c_rounds(program, args) as process,
        bpf_on("kernel", "requests", 32 * _BLOCK) as request,
        _step("requests", 32 * _BLOCK) as step,
    ):

        def times(count: int) -> tuple[float, float, float]:
            ours = [
                side.round(depth=depth, left=count, **{"from": fd})
                for side, fd in ((request, fds[0]), (step, fds[1]))
            ]
            return ours[0], ours[1], _c_round(process)

        fds = [-1, -1]
        if reads:
            for index, side in enumerate((request, step)):
                side.ring.world.add_file("cached", bytes(_BLOCK))
                fds[index] = side.ring.world.open("cached", os.O_RDONLY)
        times(64 * depth)  # compiles
        return [times(count) for _ in range(_ROUNDS)]


def _insns(depth: int) -> float:
    """How many instructions the program executes for a NOP, as the interpreter counts them."""
    runs: list[int] = []

    def note(event: Event) -> None:
        if isinstance(event, RunEnded):
            runs.append(event.insns)

    with Machine() as machine:
        obj = machine.load(_OBJECT, abi="iouring-v3")
        with Ring(
            64,
            (64,),
            backend="sim",
            abi=obj.profile,
            engine="interp",
            observer=note,
            machine=machine,
        ) as ring:
            _Request(ring, obj, "requests", 32 * _BLOCK).round(
                depth=depth, left=4 * depth, **{"from": -1}
            )
    return runs[2] / depth


def _copies(program: Path, folder: Path) -> Times:
    content = os.urandom(1 << 20) * (_COPY_BYTES >> 20)
    source, target = folder / "from", folder / "to"
    source.write_bytes(content)
    target.write_bytes(content)
    args = ["copy", str(_COPY_DEPTH), str(_COPY_BLOCK), str(source), str(target)]
    buffer_bytes = _COPY_DEPTH * _COPY_BLOCK
    with (
        _c_rounds(program, args) as process,
        bpf_on("kernel", "copy", buffer_bytes) as request,
        _step("copy", buffer_bytes) as step,
    ):
        sides = []
        for side in (request, step):
            side.ring.world.add_file("from", content)
            side.ring.world.add_file("to", content)
            job = {
                "depth": _COPY_DEPTH,
                "block": _COPY_BLOCK,
                "size": _COPY_BYTES,
                "from": side.ring.world.open("from", os.O_RDONLY),
                "to": side.ring.world.open("to", os.O_WRONLY),
            }
            sides.append((side, job))

        def times() -> tuple[float, float, float]:
            ours = [side.round(**job) for side, job in sides]
            return ours[0], ours[1], _c_round(process)

        times()  # compiles
        made = [times() for _ in range(_COPY_ROUNDS)]
        for side, _ in sides:
            if side.ring.world.file_data("to") != content:
                raise AssertionError("the copy is not what was copied")
    return made

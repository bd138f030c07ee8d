"""Ring loops: a BPF program on the kernel's ring against a C program on liburing.

Both make the same requests at the same depth on the same files, in turns, in processes of their
own rings. The C program is compiled here, with gcc; where that or liburing is missing the part is
skipped. With the cases of NOPs comes how many instructions of BPF the program executes for one:
what ours does more than C, beside the helpers' own (up to 60 for submit, 25 for reap, 40 to take a
completion in, 60 for each run).
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
from typing import cast

from bench.liburing import compiled
from pybpfvm.events import Event, RunEnded
from pybpfvm.session import Block, LoadedObject, Machine, Ring
from pybpfvm.session.hostring import BackendName
from pybpfvm.uring_backend.kernel import probe

_HERE = Path(__file__).with_name("programs")
_OBJECT = _HERE / "ringloops.bpf.o"
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
    """Requests and bytes a second of both, medians of interleaved rounds, and their ratio."""
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
                ours, theirs, insns = _requests(program, command, depth, count, cached)
                case = f"{name}, depth {depth}"
                rows += _rows(case, count / 1e6, "M/s", ours, theirs)
                if command == "nop":
                    rows.append((f"{case}: BPF instructions of the program", insns, "each"))
        ours, theirs = _copies(program, Path(made))
        what = f"copy of {_COPY_BYTES >> 20} MiB, {_COPY_DEPTH} × {_COPY_BLOCK >> 10} KiB"
        rows += _rows(what, _COPY_BYTES / 1e9, "GB/s", ours, theirs)
    return rows


def _rows(
    name: str, work: float, unit: str, ours: list[float], theirs: list[float]
) -> list[tuple[str, float, str]]:
    """Of the times of rounds that were made in turns: each ratio is of neighbours."""
    ratio = median(c / bpf for bpf, c in zip(ours, theirs, strict=True))
    return [
        (f"{name}: BPF program", work / median(ours), unit),
        (f"{name}: C on liburing", work / median(theirs), unit),
        (f"{name}: BPF / C", ratio, "x"),
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


class _Bpf:
    """A program of ringloops.bpf.o on a ring."""

    def __init__(self, ring: Ring, obj: LoadedObject, name: str, buffer_bytes: int) -> None:
        self._ring = ring
        self._jobs = obj.maps["jobs"]
        self._buffer: Block = ring.user.alloc(bytes([1]) * buffer_bytes)
        ring.register_bpf([obj[name]])

    def round(self, **job: int) -> float:
        """Seconds that the job took."""
        self._jobs[0] = dict.fromkeys(_JOB, 0) | {"buffer": self._buffer.addr} | job
        start = time.perf_counter()
        self._ring.get_sqe().prep_bpf(0)
        self._ring.submit()
        cqe = self._ring.wait_cqe()
        taken = time.perf_counter() - start
        done = cast("dict[str, int]", self._jobs[0])
        if cqe.res or done["bad"]:
            raise AssertionError(f"the BPF program ended with {cqe.res}, {done['bad']} bad CQEs")
        return taken


@contextmanager
def bpf_on(backend: BackendName, name: str, buffer_bytes: int) -> Iterator[tuple[_Bpf, Ring]]:
    """The program of that name on a ring of its own."""
    with Machine() as machine:
        obj = machine.load(_OBJECT, abi="iouring-v3")
        with Ring(64, (64,), backend=backend, abi=obj.profile, machine=machine) as ring:
            yield _Bpf(ring, obj, name, buffer_bytes), ring


def _requests(
    program: Path, command: str, depth: int, count: int, cached: Path
) -> tuple[list[float], list[float], float]:
    """Times of ours, of C, and how many instructions the BPF program executes for a request."""
    args = [command, str(depth), str(count)]
    reads = command == "read"
    if reads:
        args.append(str(cached))
    with (
        _c_rounds(program, args) as process,
        bpf_on("kernel", "requests", 32 * _BLOCK) as (bpf, ring),
    ):
        fd = -1
        if reads:
            ring.world.add_file("cached", bytes(_BLOCK))
            fd = ring.world.open("cached", os.O_RDONLY)
        job = {"depth": depth, "left": count, "from": fd}
        bpf.round(**{**job, "left": 64 * depth})  # compiles
        _c_round(process)
        pairs = [(bpf.round(**job), _c_round(process)) for _ in range(_ROUNDS)]
    return [ours for ours, _ in pairs], [theirs for _, theirs in pairs], _insns(depth)


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
            _Bpf(ring, obj, "requests", 32 * _BLOCK).round(
                depth=depth, left=4 * depth, **{"from": -1}
            )
    return runs[2] / depth


def _copies(program: Path, folder: Path) -> tuple[list[float], list[float]]:
    content = os.urandom(1 << 20) * (_COPY_BYTES >> 20)
    source, target = folder / "from", folder / "to"
    source.write_bytes(content)
    target.write_bytes(content)
    args = ["copy", str(_COPY_DEPTH), str(_COPY_BLOCK), str(source), str(target)]
    with (
        _c_rounds(program, args) as process,
        bpf_on("kernel", "copy", _COPY_DEPTH * _COPY_BLOCK) as (bpf, ring),
    ):
        ring.world.add_file("from", content)
        ring.world.add_file("to", content)
        job = {
            "depth": _COPY_DEPTH,
            "block": _COPY_BLOCK,
            "size": _COPY_BYTES,
            "from": ring.world.open("from", os.O_RDONLY),
            "to": ring.world.open("to", os.O_WRONLY),
        }
        bpf.round(**job)
        _c_round(process)
        pairs = [(bpf.round(**job), _c_round(process)) for _ in range(_COPY_ROUNDS)]
        if ring.world.file_data("to") != content:
            raise AssertionError("the copy is not what was copied")
    return [ours for ours, _ in pairs], [theirs for _, theirs in pairs]

"""Four programs of the gallery on the kernel's ring, against C on liburing and C without a ring.

Copy and checksum by depth, echo by connections, broadcast by sinks. All sides do the same work in
turns; those that serve have the same clients, a C process. CPU is that of the side alone. System
calls of the C programs are counted by themselves, ours by strace in a round of its own (left out
where there is none).
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.liburing import compiled
from pybpfvm.session import Machine, Ring
from pybpfvm.uring_backend.kernel import probe

_HERE = Path(__file__).with_name("programs")
_EXAMPLES = Path(__file__).parents[1] / "examples"
_ROUNDS = 5
_FILE_BYTES = 64 << 20
_COPY_BLOCK, _SUM_BLOCK = 16384, 4096
_DEPTHS = (1, 16, 128)
_CLIENTS = (1, 32, 1000)
_ECHOES = 20_000  # messages of a round
_SINKS = (1, 8)
_TEE_BYTES = 16 << 20
_TEE_BLOCK = 4096

Rows = list[tuple[str, float, str]]


@dataclass(frozen=True, slots=True)
class Round:
    """Seconds, seconds of CPU, and system calls (None: not counted)."""

    seconds: float
    cpu: float
    calls: int | None = None


Side = Callable[[], Round]


def run() -> Rows:
    """Operations a second, CPU and system calls for each, of all sides."""
    refused = probe.available()
    if refused is not None:
        print(f"skipped: {refused}")
        return []
    rows: Rows = []
    with tempfile.TemporaryDirectory() as made:
        program = compiled(_HERE / "gallery.c", Path(made))
        if program is None:
            return []
        source, target = Path(made, "from"), Path(made, "to")
        source.write_bytes(os.urandom(1 << 20) * (_FILE_BYTES >> 20))
        target.write_bytes(source.read_bytes())
        for depth in _DEPTHS:
            rows += _copies(program, depth, source, target)
        for depth in _DEPTHS:
            rows += _sums(program, depth, source)
        for clients in _CLIENTS:
            rows += _echoes(program, clients)
        for sinks in _SINKS:
            rows += _broadcasts(program, sinks)
    return rows


def _rows(case: str, operations: int, sides: dict[str, Side]) -> Rows:
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
def _c_side(
    program: Path, *args: object, fds: tuple[int, ...] = ()
) -> Iterator[subprocess.Popen[str]]:
    command = [str(program), *map(str, args)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=fds
    ) as process:
        yield process


def _start(process: subprocess.Popen[str], line: object = "") -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def _line(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    return process.stdout.readline().split()


def _c_round(process: subprocess.Popen[str]) -> Round:
    seconds, cpu, calls, _ = _line(process)
    return Round(float(seconds), float(cpu), int(calls))


@contextmanager
def _ring(path: Path, name: str, cq_entries: int) -> Iterator[Ring]:
    with Machine() as machine:
        obj = machine.load(path, abi="iouring-v3")
        with Ring(64, (cq_entries,), backend="kernel", abi=obj.profile, machine=machine) as ring:
            ring.register_bpf([obj[name]])
            yield ring


def _request(ring: Ring, job: int, emitted: int = 0) -> None:
    """Run the request to its end, `emitted` completions of which come before its own."""
    ring.get_sqe().prep_bpf(0, user_data=job)
    ring.submit()
    for _ in range(emitted):
        ring.wait_cqe()
    assert ring.wait_cqe().res == 0


def _timed(work: Callable[[], None]) -> Round:
    start, cpu = time.perf_counter(), time.process_time()
    work()
    return Round(time.perf_counter() - start, time.process_time() - cpu)


def _copies(program: Path, depth: int, source: Path, target: Path) -> Rows:
    with (
        _c_side(program, "copy", depth, source, target) as on_ring,
        _c_side(program, "copy", 0, source, target) as plain,
        _ring(_HERE / "copy.bpf.o", "copy", 256) as ring,
    ):
        content = source.read_bytes()
        ring.world.add_file("from", content)
        ring.world.add_file("to", content)
        fds = ring.world.open("from", os.O_RDONLY), ring.world.open("to", os.O_WRONLY)
        buffers = ring.user.alloc(bytes([1]) * (128 * _COPY_BLOCK))
        job = ring.user.alloc(64)

        def ours() -> Round:
            fields = (buffers.addr, *fds, 0, 0, _FILE_BYTES, depth, 0, 0)
            job.write(struct.pack("<QiiQQQIiQ", *fields))
            taken = _timed(lambda: _request(ring, job.addr))
            error, copied = struct.unpack("<iQ", job.read(12, 44))
            assert (error, copied) == (0, _FILE_BYTES)
            return taken

        rows = _rows(
            f"copy, depth {depth}",
            _FILE_BYTES // _COPY_BLOCK,
            _sides(ours, on_ring, plain, "read and write"),
        )
        assert ring.world.file_data("to") == content
    return rows


def _sides(
    ours: Side, on_ring: subprocess.Popen[str], plain: subprocess.Popen[str], name: str
) -> dict[str, Side]:
    def side(process: subprocess.Popen[str]) -> Side:
        def turn() -> Round:
            _start(process)
            return _c_round(process)

        return turn

    return {"BPF program": ours, "C on liburing": side(on_ring), name: side(plain)}


def _sums(program: Path, depth: int, source: Path) -> Rows:
    with (
        _c_side(program, "sum", depth, source) as on_ring,
        _c_side(program, "sum", 0, source) as plain,
        _ring(_HERE / "checksum.bpf.o", "checksum", 256) as ring,
    ):
        ring.world.add_file("from", source.read_bytes())
        fd = ring.world.open("from", os.O_RDONLY)
        buffers = ring.user.alloc(bytes([1]) * (128 * _SUM_BLOCK))
        job = ring.user.alloc(40)
        _start(plain)
        expected = int(_line(plain)[3])

        def ours() -> Round:
            blocks = _FILE_BYTES // _SUM_BLOCK
            job.write(struct.pack("<QiiQQII", buffers.addr, fd, 0, blocks, 0, depth, 0))
            taken = _timed(lambda: _request(ring, job.addr))
            assert job.u64(offset=24) == expected, "the checksum is wrong"
            return taken

        return _rows(
            f"checksum, depth {depth}",
            _FILE_BYTES // _SUM_BLOCK,
            _sides(ours, on_ring, plain, "pread"),
        )


def _load(program: Path, port: int, clients: int) -> subprocess.Popen[str]:
    each = _ECHOES // clients
    command = [str(program), "load", str(port), str(clients), str(each)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _echoes(program: Path, clients: int) -> Rows:
    with (
        _c_side(program, "echo", "uring") as on_ring,
        _c_side(program, "echo", "epoll") as plain,
        _ring(_EXAMPLES / "21_echo/prog.v3.bpf.o", "echo", 2048) as ring,
    ):
        listener = ring.world.listen(4096)
        (port,) = struct.unpack_from(">H", ring.world.address(listener), 2)
        buffers = ring.user.alloc(bytes([1]) * (1 << 20))
        job = ring.user.alloc(24)
        served = 0

        def ours() -> Round:
            nonlocal served
            served += clients
            job.write(struct.pack("<QiIQ", buffers.addr, listener, 1024, served))
            with _load(program, port, clients) as load:
                taken = _timed(lambda: _request(ring, job.addr, emitted=1))
                return Round(float(_line(load)[0]), taken.cpu)

        def theirs(process: subprocess.Popen[str], their_port: int) -> Side:
            def turn() -> Round:
                _start(process, clients)
                with _load(program, their_port, clients) as load:
                    seconds = float(_line(load)[0])
                done = _c_round(process)
                return Round(seconds, done.cpu, done.calls)

            return turn

        sides = {
            "BPF program": ours,
            "C on liburing": theirs(on_ring, int(_line(on_ring)[0])),
            "epoll": theirs(plain, int(_line(plain)[0])),
        }
        return _rows(f"echo, {clients} connections", _ECHOES // clients * clients, sides)


def _broadcasts(program: Path, sinks: int) -> Rows:
    def spread(ends: list[socket.socket]) -> subprocess.Popen[str]:
        fds = [end.fileno() for end in ends]
        command = [str(program), "spread", str(_TEE_BYTES), *map(str, fds)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, pass_fds=fds)

    def ours() -> Round:
        with _ring(_EXAMPLES / "14_broadcast/prog.v3.bpf.o", "tee", 16) as ring:
            pairs = [ring.world.socketpair() for _ in range(1 + sinks)]
            buffer = ring.user.alloc(bytes([1]) * _TEE_BLOCK)
            fds = [fd for fd, _ in pairs]
            to = [*fds[1:], *([-1] * (8 - sinks))]
            job = ring.user.alloc(struct.pack("<QiI8i", buffer.addr, fds[0], sinks, *to))
            ends = [peer._end for _, peer in pairs]  # type: ignore[attr-defined]
            with spread(ends) as load:
                for end in ends:
                    end.close()
                taken = _timed(lambda: _request(ring, job.addr, emitted=1))
                return Round(float(_line(load)[0]), taken.cpu)

    def theirs(how: str) -> Side:
        def turn() -> Round:
            with contextlib.ExitStack() as stack:
                pairs = [socket.socketpair() for _ in range(1 + sinks)]
                for pair in pairs:
                    for end in pair:
                        stack.enter_context(end)
                fds = tuple(inner.fileno() for inner, _ in pairs)
                process = stack.enter_context(_c_side(program, "tee", how, *fds, fds=fds))
                load = stack.enter_context(spread([outer for _, outer in pairs]))
                for _, outer in pairs:
                    outer.close()
                _start(process)
                done = _c_round(process)
                return Round(float(_line(load)[0]), done.cpu, done.calls)

        return turn

    sides = {"BPF program": ours, "C on liburing": theirs("uring"), "recv and send": theirs("loop")}
    return _rows(f"broadcast, {sinks} sinks", _TEE_BYTES // _TEE_BLOCK * sinks, sides)

"""Four programs of the gallery on the kernel's ring, against C on liburing and C without a ring.

Copy and checksum by depth, echo by connections, broadcast by sinks. All sides do the same work in
turns (see rounds); those that serve have the same clients, a C process. `gallery_loops` has what of
this there is in the merged ABI.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.liburing import compiled
from bench.rounds import (
    Round,
    Rows,
    Side,
    c_round,
    c_side,
    line_of,
    rows_of,
    sides_of,
    start_round,
    timed,
)
from pybpfvm.session import Machine, Ring
from pybpfvm.uring_backend.base import Peer, World
from pybpfvm.uring_backend.kernel import probe

PROGRAMS = Path(__file__).with_name("programs")
EXAMPLES = Path(__file__).parents[1] / "examples"
FILE_BYTES = 64 << 20
COPY_BLOCK, _SUM_BLOCK = 16384, 4096
_DEPTHS = (1, 16, 128)
_CLIENTS = (1, 32, 1000)
_ECHOES = 20_000  # messages of a round
_SINKS = (1, 8)
TEE_BYTES = 16 << 20
_TEE_BLOCK = 4096


def run() -> Rows:
    """Operations a second, CPU and system calls for each, of all sides."""
    rows: Rows = []
    with c_sides() as c:
        if c is None:
            return rows
        for depth in _DEPTHS:
            rows += _copies(c, depth)
        for depth in _DEPTHS:
            rows += _sums(c, depth)
        for clients in _CLIENTS:
            rows += _echoes(c, clients)
        for sinks in _SINKS:
            rows += broadcast_rows(c, sinks, _TEE_BLOCK, TEE_BYTES, _broadcast)
    return rows


@dataclass(frozen=True, slots=True)
class C:
    """The C program, and two files of FILE_BYTES: one to read, one to copy it to."""

    program: Path
    source: Path
    target: Path


@contextmanager
def c_sides(*options: str) -> Iterator[C | None]:
    """What all sides work with, the C program compiled with these options; None (with the reason
    printed) where nothing can be compared."""
    refused = probe.available()
    if refused is not None:
        print(f"skipped: {refused}")
        yield None
        return
    with tempfile.TemporaryDirectory() as made:
        program = compiled(PROGRAMS / "gallery.c", Path(made), *options)
        if program is None:
            yield None
            return
        source, target = Path(made, "from"), Path(made, "to")
        source.write_bytes(os.urandom(1 << 20) * (FILE_BYTES >> 20))
        target.write_bytes(source.read_bytes())
        yield C(program, source, target)


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


def _copies(c: C, depth: int) -> Rows:
    with _ring(PROGRAMS / "copy.bpf.o", "copy", 256) as ring:
        fds = files(c, ring.world)
        buffers = ring.user.alloc(bytes([1]) * (128 * COPY_BLOCK))
        job = ring.user.alloc(64)

        def ours() -> Round:
            fields = (buffers.addr, *fds, 0, 0, FILE_BYTES, depth, 0, 0)
            job.write(struct.pack("<QiiQQQIiQ", *fields))
            taken = timed(lambda: _request(ring, job.addr))
            error, copied = struct.unpack("<iQ", job.read(12, 44))
            assert (error, copied) == (0, FILE_BYTES)
            return taken

        rows = copy_rows(c, depth, ours)
        assert ring.world.file_data("to") == c.source.read_bytes()
    return rows


def files(c: C, world: World) -> tuple[int, int]:
    """Descriptors of files of the world that are like those of C: to read, to write."""
    content = c.source.read_bytes()
    world.add_file("from", content)
    world.add_file("to", content)
    return world.open("from", os.O_RDONLY), world.open("to", os.O_WRONLY)


def copy_rows(c: C, depth: int, ours: Side) -> Rows:
    """A copy of the file, so many blocks at a time, beside C."""
    with (
        c_side(c.program, "copy", depth, c.source, c.target) as on_ring,
        c_side(c.program, "copy", 0, c.source, c.target) as plain,
    ):
        sides = sides_of(ours, on_ring, plain, "read and write")
        return rows_of(f"copy, depth {depth}", FILE_BYTES // COPY_BLOCK, sides)


def sum_rows(c: C, depth: int, block: int, ours: Callable[[int], Round]) -> Rows:
    """The sum of the file's blocks, so many at a time, beside C; `ours` is told what it is."""
    with (
        c_side(c.program, "sum", depth, c.source) as on_ring,
        c_side(c.program, "sum", 0, c.source) as plain,
    ):
        start_round(plain)
        expected = int(line_of(plain)[3])
        sides = sides_of(lambda: ours(expected), on_ring, plain, "pread")
        return rows_of(f"checksum, depth {depth}", FILE_BYTES // block, sides)


def _sums(c: C, depth: int) -> Rows:
    with _ring(PROGRAMS / "checksum.bpf.o", "checksum", 256) as ring:
        fd, _ = files(c, ring.world)
        buffers = ring.user.alloc(bytes([1]) * (128 * _SUM_BLOCK))
        job = ring.user.alloc(40)

        def ours(expected: int) -> Round:
            blocks = FILE_BYTES // _SUM_BLOCK
            job.write(struct.pack("<QiiQQII", buffers.addr, fd, 0, blocks, 0, depth, 0))
            taken = timed(lambda: _request(ring, job.addr))
            assert job.u64(offset=24) == expected, "the checksum is wrong"
            return taken

        return sum_rows(c, depth, _SUM_BLOCK, ours)


def _echoes(c: C, clients: int) -> Rows:
    with _ring(EXAMPLES / "21_echo/prog.v3.bpf.o", "echo", 2048) as ring:
        listener = ring.world.listen(4096)
        (port,) = struct.unpack_from(">H", ring.world.address(listener), 2)
        buffers = ring.user.alloc(bytes([1]) * (1 << 20))
        job = ring.user.alloc(24)
        served = 0

        def serve() -> None:
            nonlocal served
            served += clients
            job.write(struct.pack("<QiIQ", buffers.addr, listener, 1024, served))
            _request(ring, job.addr, emitted=1)

        return echo_rows(c, clients, port, serve)


def echo_rows(c: C, clients: int, port: int, serve: Callable[[], None]) -> Rows:
    """An echo server at `port`, `serve` lets it serve so many clients, beside those in C."""

    def load(at: int) -> subprocess.Popen[str]:
        command = [str(c.program), "load", str(at), str(clients), str(_ECHOES // clients)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def ours() -> Round:
        with load(port) as clients_of_ours:
            taken = timed(serve)
            return Round(float(line_of(clients_of_ours)[0]), taken.cpu)

    def theirs(process: subprocess.Popen[str]) -> Side:
        at = int(line_of(process)[0])

        def turn() -> Round:
            start_round(process, clients)
            with load(at) as their_clients:
                seconds = float(line_of(their_clients)[0])
            done = c_round(process)
            return Round(seconds, done.cpu, done.calls)

        return turn

    with (
        c_side(c.program, "echo", "uring") as on_ring,
        c_side(c.program, "echo", "epoll") as plain,
    ):
        sides = {"BPF program": ours, "C on liburing": theirs(on_ring), "epoll": theirs(plain)}
        return rows_of(f"echo, {clients} connections", _ECHOES // clients * clients, sides)


Spread = Callable[[Sequence[Peer], Callable[[], object]], Round]
"""Lets work go on with the other ends of its sockets: the source's, then those of the sinks."""


def _broadcast(spread: Spread, sinks: int) -> Round:
    with _ring(EXAMPLES / "14_broadcast/prog.v3.bpf.o", "tee", 16) as ring:
        pairs = [ring.world.socketpair() for _ in range(1 + sinks)]
        buffer = ring.user.alloc(bytes([1]) * _TEE_BLOCK)
        fds = [fd for fd, _ in pairs]
        to = [*fds[1:], *([-1] * (8 - sinks))]
        job = ring.user.alloc(struct.pack("<QiI8i", buffer.addr, fds[0], sinks, *to))
        return spread([peer for _, peer in pairs], lambda: _request(ring, job.addr, emitted=1))


def broadcast_rows(
    c: C, sinks: int, block: int, each: int, ours: Callable[[Spread, int], Round]
) -> Rows:
    """A broadcast in pieces of `block` bytes, of which each sink gets `each` bytes, beside C."""

    def spread(ends: Sequence[socket.socket], sinks_get: int) -> subprocess.Popen[str]:
        fds = [end.fileno() for end in ends]
        command = [str(c.program), "spread", *map(str, (TEE_BYTES, sinks_get, *fds))]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, pass_fds=fds)

    def spread_ours(peers: Sequence[Peer], work: Callable[[], object]) -> Round:
        ends = [peer._end for peer in peers]  # type: ignore[attr-defined]
        with spread(ends, each) as load:
            for end in ends:
                end.close()
            taken = timed(work)
            return Round(float(line_of(load)[0]), taken.cpu)

    def theirs(how: str) -> Side:
        def turn() -> Round:
            with contextlib.ExitStack() as stack:
                pairs = [socket.socketpair() for _ in range(1 + sinks)]
                for pair in pairs:
                    for end in pair:
                        stack.enter_context(end)
                fds = tuple(inner.fileno() for inner, _ in pairs)
                process = stack.enter_context(c_side(c.program, "tee", how, *fds, fds=fds))
                load = stack.enter_context(spread([outer for _, outer in pairs], TEE_BYTES))
                for _, outer in pairs:
                    outer.close()
                start_round(process)
                done = c_round(process)
                return Round(float(line_of(load)[0]), done.cpu, done.calls)

        return turn

    sides = {
        "BPF program": lambda: ours(spread_ours, sinks),
        "C on liburing": theirs("uring"),
        "recv and send": theirs("loop"),
    }
    return rows_of(f"broadcast, {sinks} sinks", TEE_BYTES // block * sinks, sides)

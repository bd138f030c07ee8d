"""Round trips of the kernel backend, by both transports, against a plain ring through ctypes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

from pybpfvm.memory import AddressSpace, RegionKind
from pybpfvm.uring_backend.abi import Op, Sqe
from pybpfvm.uring_backend.base import Backend
from pybpfvm.uring_backend.kernel import KernelBackend, libring, probe
from pybpfvm.uring_backend.kernel.libring import LibRing
from pybpfvm.uring_backend.kernel.sysring import SysRing

_ROUNDS = 9
_REQUESTS = 2_000
_DEPTHS = (1, 32)
_READ_BYTES = 4096


def run() -> list[tuple[str, float, str]]:
    """Thousands of requests a second of both, medians of interleaved rounds, and their ratio."""
    refused = probe.available()
    if refused is not None:
        print(f"skipped: {refused}")
        return []
    rows = _against_plain()
    missing = libring.available()
    if missing is not None:
        print(f"liburing skipped: {missing}")
        return rows
    return rows + _transports()


def _transports() -> list[tuple[str, float, str]]:
    """The same requests by system calls of our own and through liburing."""
    rows: list[tuple[str, float, str]] = []
    with (
        AddressSpace() as memory,
        KernelBackend(memory) as raw,
        KernelBackend(memory, make_ring=LibRing) as library,
    ):
        for depth in _DEPTHS:
            batch = [Sqe(Op.NOP)] * depth
            through, own = compare(
                partial(backend_round, library, batch), partial(backend_round, raw, batch)
            )
            rows.append((f"NOP, depth {depth}: through liburing", through, "k/s"))
            rows.append((f"NOP, depth {depth}: liburing / raw", through / own, "x"))
    return rows


def _against_plain() -> list[tuple[str, float, str]]:
    rows: list[tuple[str, float, str]] = []
    with AddressSpace() as memory, KernelBackend(memory) as backend, SysRing(64) as plain:
        world = backend.world
        world.add_file("cached", bytes(_READ_BYTES))
        fd = world.open("cached", os.O_RDONLY)
        buffer = memory.alloc(_READ_BYTES, RegionKind.USER, "buffer")
        read = Sqe(Op.READ, fd=fd, addr=buffer.start, len=_READ_BYTES)
        for name, sqe in (("NOP", Sqe(Op.NOP)), ("cached 4 KiB read", read)):
            for depth in _DEPTHS:
                batch = [Sqe(sqe.opcode, fd=sqe.fd, addr=sqe.addr, len=sqe.len)] * depth
                ours, theirs = compare(
                    partial(backend_round, backend, batch), partial(_plain_round, plain, batch)
                )
                rows.append((f"{name}, depth {depth}: kernel backend", ours, "k/s"))
                rows.append((f"{name}, depth {depth}: plain ctypes ring", theirs, "k/s"))
                rows.append((f"{name}, depth {depth}: backend / plain", ours / theirs, "x"))
    return rows


def compare(ours: Callable[[], float], theirs: Callable[[], float]) -> tuple[float, float]:
    """Medians of interleaved rounds."""
    pairs = [(ours(), theirs()) for _ in range(_ROUNDS)]
    return median(pair[0] for pair in pairs), median(pair[1] for pair in pairs)


def _packed(batch: Sequence[Sqe]) -> list[bytes]:
    """The batch with user_data 1, 2, ..."""
    packed = []
    for token, sqe in enumerate(batch, 1):
        numbered = Sqe(sqe.opcode, fd=sqe.fd, addr=sqe.addr, len=sqe.len, user_data=token)
        packed.append(numbered.pack())
    return packed


def backend_round(
    backend: Backend, batch: Sequence[Sqe], clock: Callable[[], float] = time.perf_counter
) -> float:
    """Thousands of requests a second, as many at a time as there are in the batch."""
    sqes, rounds = _packed(batch), _REQUESTS // len(batch)
    start = clock()
    for _ in range(rounds):
        backend.submit(sqes)
        left = len(sqes)
        while left:
            events = backend.poll()
            left -= len(events)
            if left and not events:
                backend.wait(None)
    return rounds * len(sqes) / (clock() - start) / 1e3


def _plain_round(ring: SysRing, batch: Sequence[Sqe]) -> float:
    sqes, rounds = _packed(batch), _REQUESTS // len(batch)
    start = time.perf_counter()
    for _ in range(rounds):
        ring.submit(sqes)
        left = len(sqes)
        while left:
            done = len(ring.reap())
            left -= done
            if left and not done:
                ring.wait(None)
    return rounds * len(sqes) / (time.perf_counter() - start) / 1e3

"""What of the gallery's measured programs there is in the merged ABI, beside the same C.

loop_copy, loop_checksum, loop_echo and loop_broadcast as examples/ has them, on the kernel's ring.
What they are built for decides what the C programs do, too: copies at depth 1, checksums of blocks
of 1 KiB eight at a time, four connections and four receivers at most, pieces of 1 KiB. A piece of
loop_broadcast has 8 bytes more, its head.
"""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import MutableMapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from bench.gallery import (
    COPY_BLOCK,
    EXAMPLES,
    FILE_BYTES,
    PROGRAMS,
    TEE_BYTES,
    Spread,
    broadcast_rows,
    echo_rows,
)
from bench.liburing import compiled
from bench.rounds import Round, Rows, c_side, line_of, rows_of, sides_of, start_round, timed
from pybpfvm.examples.loops import attached
from pybpfvm.session import LoopRing
from pybpfvm.uring_backend.kernel import probe

_BLOCK, _DEPTH = 1024, 8  # of loop_checksum
_PIECE, _HEAD, _RECEIVERS = 1024, 8, 4  # of loop_broadcast
_CLIENTS = (1, 4)
_SINKS = (1, 4)

Variables = MutableMapping[str, Any]


def run() -> Rows:
    """Operations a second, CPU and system calls for each, of all sides."""
    refused = probe.available()
    if refused is not None:
        print(f"skipped: {refused}")
        return []
    rows: Rows = []
    with tempfile.TemporaryDirectory() as made:
        sizes = f"-DSUM_BLOCK={_BLOCK}", f"-DTEE_BLOCK={_PIECE}"
        program = compiled(PROGRAMS / "gallery.c", Path(made), *sizes)
        if program is None:
            return []
        source, target = Path(made, "from"), Path(made, "to")
        source.write_bytes(os.urandom(1 << 20) * (FILE_BYTES >> 20))
        target.write_bytes(source.read_bytes())
        rows += _copies(program, source, target)
        rows += _sums(program, source)
        for clients in _CLIENTS:
            rows += _echoes(program, clients)
        rows += _broadcasts(program)
    return rows


def _loop(name: str, callbacks: str) -> AbstractContextManager[tuple[LoopRing, Variables]]:
    return attached(EXAMPLES / name, callbacks, "kernel", "loop-7.2", "auto")


def _copies(program: Path, source: Path, target: Path) -> Rows:
    with (
        c_side(program, "copy", 1, source, target) as on_ring,
        c_side(program, "copy", 0, source, target) as plain,
        _loop("loop_copy", "copier") as (ring, variables),
    ):
        content = source.read_bytes()
        ring.world.add_file("from", content)
        ring.world.add_file("to", content)
        variables["from"] = ring.world.open("from", os.O_RDONLY)
        variables["to"] = ring.world.open("to", os.O_WRONLY)
        variables["buffer"] = ring.user.alloc(bytes([1]) * COPY_BLOCK).addr
        variables["buffer_bytes"] = COPY_BLOCK

        def ours() -> Round:
            variables["copied"] = variables["started"] = 0
            taken = timed(ring.enter)
            assert (variables["error"], variables["copied"]) == (0, FILE_BYTES)
            return taken

        sides = sides_of(ours, on_ring, plain, "read and write")
        rows = rows_of("copy, depth 1", FILE_BYTES // COPY_BLOCK, sides)
        assert ring.world.file_data("to") == content
    return rows


def _sums(program: Path, source: Path) -> Rows:
    with (
        c_side(program, "sum", _DEPTH, source) as on_ring,
        c_side(program, "sum", 0, source) as plain,
        _loop("loop_checksum", "checksum") as (ring, variables),
    ):
        content = source.read_bytes()
        ring.world.add_file("from", content)
        variables["file"] = ring.world.open("from", os.O_RDONLY)
        variables["size"] = len(content)
        variables["buffers"] = ring.register_mem(_DEPTH * _BLOCK).addr
        start_round(plain)
        # C weighs the word at index n with 2n + 1, loop_checksum with n + 1.
        words = sum(word for (word,) in struct.iter_unpack("<Q", content))
        expected = int(line_of(plain)[3])

        def ours() -> Round:
            variables["sum"] = variables["next"] = 0
            taken = timed(ring.enter)
            assert variables["error"] == 0
            assert (2 * variables["sum"] - words - expected) % (1 << 64) == 0
            return taken

        sides = sides_of(ours, on_ring, plain, "pread")
        return rows_of(f"checksum, depth {_DEPTH}", FILE_BYTES // _BLOCK, sides)


def _echoes(program: Path, clients: int) -> Rows:
    with _loop("loop_echo", "server") as (ring, variables):
        listener = ring.world.listen(4096)
        (port,) = struct.unpack_from(">H", ring.world.address(listener), 2)
        variables["listener"], variables["clients"] = listener, clients
        variables["buffers"] = ring.user.alloc(bytes([1]) * (4 * 1024)).addr

        def serve() -> None:
            variables["accepted"] = variables["served"] = 0
            ring.enter()
            assert (variables["error"], variables["served"]) == (0, clients)

        return echo_rows(program, clients, port, serve)


def _broadcasts(program: Path) -> Rows:
    with _loop("loop_broadcast", "broadcast") as (ring, variables):
        variables["buffer"] = ring.register_mem(2 * _PIECE).addr

        def ours(spread: Spread, sinks: int) -> Round:
            pairs = [ring.world.socketpair() for _ in range(1 + sinks)]
            fds = [fd for fd, _ in pairs]
            variables["source"], variables["count"] = fds[0], sinks
            variables["receivers"] = fds[1:] + [-1] * (_RECEIVERS - sinks)
            variables["pieces"] = variables["started"] = 0
            taken = spread([peer for _, peer in pairs], ring.enter)
            assert (variables["error"], variables["gone"]) == (0, 0)
            return taken

        each = TEE_BYTES + TEE_BYTES // _PIECE * _HEAD
        rows: Rows = []
        for sinks in _SINKS:
            rows += broadcast_rows(program, sinks, _PIECE, each, ours)
        return rows

"""What of the gallery's measured programs there is in the merged ABI, beside the same C.

loop_copy, loop_checksum, loop_echo and loop_broadcast as examples/ has them, on the kernel's ring.
What they are built for decides what the C programs do, too: copies at depth 1, checksums of blocks
of 1 KiB eight at a time, four connections and four receivers at most, pieces of 1 KiB. A piece of
loop_broadcast has 8 bytes more, its head.
"""

from __future__ import annotations

import struct
from collections.abc import MutableMapping
from contextlib import AbstractContextManager
from typing import Any

from bench.gallery import (
    COPY_BLOCK,
    EXAMPLES,
    FILE_BYTES,
    TEE_BYTES,
    C,
    Spread,
    broadcast_rows,
    c_sides,
    copy_rows,
    echo_rows,
    files,
    sum_rows,
)
from bench.rounds import Round, Rows, timed
from pybpfvm.examples.loops import attached
from pybpfvm.session import LoopRing

_BLOCK, _DEPTH = 1024, 8  # of loop_checksum
_PIECE, _HEAD, _RECEIVERS = 1024, 8, 4  # of loop_broadcast
_CLIENTS = (1, 4)
_SINKS = (1, 4)

Variables = MutableMapping[str, Any]


def run() -> Rows:
    """Operations a second, CPU and system calls for each, of all sides."""
    rows: Rows = []
    with c_sides(f"-DSUM_BLOCK={_BLOCK}", f"-DTEE_BLOCK={_PIECE}") as c:
        if c is None:
            return rows
        rows += _copies(c)
        rows += _sums(c)
        for clients in _CLIENTS:
            rows += _echoes(c, clients)
        rows += _broadcasts(c)
    return rows


def _loop(name: str, callbacks: str) -> AbstractContextManager[tuple[LoopRing, Variables]]:
    return attached(EXAMPLES / name, callbacks, "kernel", "loop-7.2", "auto")


def _copies(c: C) -> Rows:
    with _loop("loop_copy", "copier") as (ring, variables):
        variables["from"], variables["to"] = files(c, ring.world)
        variables["buffer"] = ring.user.alloc(bytes([1]) * COPY_BLOCK).addr
        variables["buffer_bytes"] = COPY_BLOCK

        def ours() -> Round:
            variables["copied"] = variables["started"] = 0
            taken = timed(ring.enter)
            assert (variables["error"], variables["copied"]) == (0, FILE_BYTES)
            return taken

        rows = copy_rows(c, 1, ours)
        assert ring.world.file_data("to") == c.source.read_bytes()
    return rows


def _sums(c: C) -> Rows:
    with _loop("loop_checksum", "checksum") as (ring, variables):
        variables["file"], _ = files(c, ring.world)
        variables["size"] = FILE_BYTES
        variables["buffers"] = ring.register_mem(_DEPTH * _BLOCK).addr
        # C weighs the word at index n with 2n + 1, loop_checksum with n + 1.
        words = sum(word for (word,) in struct.iter_unpack("<Q", c.source.read_bytes()))

        def ours(expected: int) -> Round:
            variables["sum"] = variables["next"] = 0
            taken = timed(ring.enter)
            assert variables["error"] == 0
            assert (2 * variables["sum"] - words - expected) % (1 << 64) == 0
            return taken

        return sum_rows(c, _DEPTH, _BLOCK, ours)


def _echoes(c: C, clients: int) -> Rows:
    with _loop("loop_echo", "server") as (ring, variables):
        listener = ring.world.listen(4096)
        (port,) = struct.unpack_from(">H", ring.world.address(listener), 2)
        variables["listener"], variables["clients"] = listener, clients
        variables["buffers"] = ring.user.alloc(bytes([1]) * (4 * 1024)).addr

        def serve() -> None:
            variables["accepted"] = variables["served"] = 0
            ring.enter()
            assert (variables["error"], variables["served"]) == (0, clients)

        return echo_rows(c, clients, port, serve)


def _broadcasts(c: C) -> Rows:
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
            rows += broadcast_rows(c, sinks, _PIECE, each, ours)
        return rows

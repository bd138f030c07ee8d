"""A broadcast inside one enter: what everybody hears while one goes in the middle of it."""

from __future__ import annotations

import struct
from pathlib import Path

from pybpfvm.examples.loops import attached, command
from pybpfvm.session.hostring import BackendName
from pybpfvm.uring_backend.base import Peer

NAMES, RECEIVERS, MEM = ("ann", "bob", "cy"), 4, 8192
PIECES = (b"to all of you", b"to who is left", b"x" * 3000, b"the end")
PAUSE_NS = 5_000_000
HEAD = struct.Struct("<II")


def main(backend: BackendName, abi: str, engine: str = "auto") -> None:
    """Run the example and print what happened."""
    with attached(Path(__file__).parent, "broadcast", backend, abi, engine) as (ring, variables):
        variables["buffer"] = ring.register_mem(MEM).addr
        variables["source"], speaker = ring.world.socketpair()
        ends = {name: ring.world.socketpair() for name in NAMES}
        fds = [fd for fd, _ in ends.values()]
        variables["receivers"] = fds + [0] * (RECEIVERS - len(fds))
        variables["count"] = len(fds)
        pieces = list(PIECES)

        def say() -> None:
            if not pieces:
                speaker.shutdown()
                return
            if len(pieces) == len(PIECES) - 1:
                ends["bob"][1].close()
            speaker.send(pieces.pop(0))
            ring.at(PAUSE_NS, say)

        ring.at(0, say)
        ring.enter()
        for name in ("ann", "cy"):
            print(f"{name} hears everything: {said_by(ends[name][1]) == b''.join(PIECES)}")
        print(f"gone: {[name for n, name in enumerate(NAMES) if variables['gone'] >> n & 1]}")


def said_by(peer: Peer) -> bytes:
    """What is in the pieces that the peer got, which have their numbers and lengths before them."""
    heard, said, number = peer.recv(65536) or b"", b"", 0
    while len(heard) >= HEAD.size and HEAD.unpack_from(heard)[0] == number:
        end = HEAD.size + HEAD.unpack_from(heard)[1]
        said, heard, number = said + heard[HEAD.size : end], heard[end:], number + 1
    return said + heard


if __name__ == "__main__":
    command(main, __doc__)

"""Copies across the 4 GiB line of sparse files, and of a socket that gives a little at a time."""

from __future__ import annotations

import argparse
import os
import random
import struct
from pathlib import Path

from pybpfvm.session import Block, Machine, Ring
from pybpfvm.session.hostring import BackendName

OBJECT = "prog.{version}.bpf.o"
DEPTH_MAX, BLOCK = 4, 16384
NO_POSITION = 0xFFFFFFFFFFFFFFFF
MORE = 1 << 20  # bytes to copy, where the source ends before
CONTENT = random.Random(11).randbytes(4 * BLOCK + 777)
# Half of the content lies before the line, half behind it.
ACROSS_4_GIB, ACROSS_8_GIB = (4 << 30) - 2 * BLOCK, (8 << 30) - 2 * BLOCK


def main(backend: BackendName, version: str, engine: str = "auto") -> None:
    """Run the example and print what happened."""
    path = Path(__file__).with_name(OBJECT.format(version=version))
    with Machine() as machine:
        obj = machine.load(path, abi=f"iouring-{version}")
        with Ring(
            8, [16], backend=backend, abi=obj.profile, machine=machine, engine=engine
        ) as ring:
            ring.register_bpf([obj["copy"]])
            files(ring)
            stream(ring)


def files(ring: Ring) -> None:
    """From across one line to the start of a file, and from there to across another."""
    sparse, part, moved = (opened(ring, name) for name in ("sparse.bin", "part.bin", "moved.bin"))
    content, seen = ring.user.alloc(CONTENT), ring.user.alloc(len(CONTENT))
    ring.get_sqe().prep_write(sparse, content.addr, content.size, ACROSS_4_GIB)
    ring.submit()
    print(f"written at {ACROSS_4_GIB:#x}: {ring.wait_cqe().res} bytes")

    down = start(ring, sparse, part, from_offset=ACROSS_4_GIB)
    print(f"from there to the start of a file: {ended(ring, down)}")
    print(f"  they are alike: {ring.world.file_data('part.bin') == CONTENT}")

    up = start(ring, part, moved, to_offset=ACROSS_8_GIB)
    print(f"from the start to {ACROSS_8_GIB:#x}: {ended(ring, up)}")
    ring.get_sqe().prep_read(moved, seen.addr, seen.size, ACROSS_8_GIB)
    ring.submit()
    alike = ring.wait_cqe().res == len(CONTENT) and seen.read() == CONTENT
    print(f"  they are alike: {alike}")


def stream(ring: Ring) -> None:
    """What a socket says, which has no positions: every read of it is short."""
    socket, sender = ring.world.socketpair()
    heard = start(ring, socket, opened(ring, "heard.txt"), from_offset=NO_POSITION, depth=1)
    for word in (b"a little ", b"at ", b"a time"):
        sender.send(word)
        ring.run_until_idle(2_000_000)
    sender.close()
    print(f"of a socket: {ended(ring, heard)}")
    print(f"  it said {ring.world.file_data('heard.txt').decode()!r}")


def opened(ring: Ring, name: str) -> int:
    """A new file's fd."""
    return ring.world.open(name, os.O_CREAT | os.O_RDWR)


def start(
    ring: Ring,
    source: int,
    target: int,
    from_offset: int = 0,
    to_offset: int = 0,
    depth: int = DEPTH_MAX,
) -> Block:
    """Submit a request that copies; its job."""
    buffers = ring.user.alloc(DEPTH_MAX * BLOCK).addr
    job = (buffers, source, target, from_offset, to_offset, MORE, depth, 0, 0)
    block = ring.user.alloc(struct.pack("<QiiQQQIiQ", *job))
    ring.get_sqe().prep_bpf(0, user_data=block.addr)
    ring.submit()
    return block


def ended(ring: Ring, job: Block) -> str:
    """What the request says when it is done."""
    assert ring.wait_cqe().user_data == job.addr
    error, copied = struct.unpack("<iQ", job.read(12, offset=44))
    return f"{copied} bytes, error {error}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=["sim", "kernel"], default="sim")
    parser.add_argument("--version", choices=["v2", "v3"], default="v3", help="of the ABI")
    args = parser.parse_args()
    main(args.backend, args.version)

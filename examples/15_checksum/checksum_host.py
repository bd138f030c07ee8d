"""A checksum of a file whose bytes the host never sees, whatever the order of the reads."""

from __future__ import annotations

import argparse
import os
import random
import struct
from pathlib import Path

from pybpfvm.session import Machine, Ring
from pybpfvm.session.hostring import BackendName

OBJECT = "prog.{version}.bpf.o"
DEPTH, BLOCK = 4, 1024
BLOCKS = 40
CONTENT = random.Random(15).randbytes(BLOCKS * BLOCK)


def main(backend: BackendName, version: str, engine: str = "auto") -> None:
    """Run the example and print what happened."""
    path = Path(__file__).with_name(OBJECT.format(version=version))
    with Machine() as machine:
        obj = machine.load(path, abi=f"iouring-{version}")
        with Ring(
            8, [16], backend=backend, abi=obj.profile, machine=machine, engine=engine
        ) as ring:
            ring.register_bpf([obj["checksum"]])
            ring.world.add_file("in.bin", CONTENT)
            file = ring.world.open("in.bin", os.O_RDONLY)
            wanted = weighed(CONTENT)
            for depth in (1, DEPTH):
                error, checksum = reduce(ring, file, BLOCKS, depth)
                print(f"depth {depth}: {checksum:#x}, error {error}; right: {checksum == wanted}")
            error, _ = reduce(ring, file, BLOCKS + 1, DEPTH)
            print(f"a block more than there is: {os.strerror(-error)}")


def reduce(ring: Ring, file: int, blocks: int, depth: int) -> tuple[int, int]:
    """(error, checksum) of so many blocks."""
    buffers = ring.user.alloc(DEPTH * BLOCK)
    job = ring.user.alloc(struct.pack("<QiiQQII", buffers.addr, file, 0, blocks, 0, depth, 0))
    ring.get_sqe().prep_bpf(0, user_data=job.addr)
    ring.submit()
    ring.wait_cqe()
    (error,) = struct.unpack("<i", job.read(4, offset=12))
    return error, job.u64(offset=24)


def weighed(content: bytes) -> int:
    """The sum of all 64-bit words, the i-th one times 2 i + 1."""
    words = struct.unpack(f"<{len(content) // 8}Q", content)
    total: int = sum(word * (2 * place + 1) for place, word in enumerate(words))
    return total % 2**64


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=["sim", "kernel"], default="sim")
    parser.add_argument("--version", choices=["v2", "v3"], default="v3", help="of the ABI")
    args = parser.parse_args()
    main(args.backend, args.version)

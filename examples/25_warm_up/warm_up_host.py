"""A cache is warmed with four reads in flight, and another only until the host says stop."""

from __future__ import annotations

import argparse
import os
import random
import struct
from pathlib import Path

from pybpfvm.session import Block, Machine, Ring
from pybpfvm.session.hostring import BackendName

OBJECT = "prog.{version}.bpf.o"
BLOCK, DEPTH_MAX, DEPTH, LIST_MAX = 4096, 8, 4, 256
HOT = random.Random(25).sample(range(48), 40)
UNUSED = b"\xee" * BLOCK
STOP = struct.pack("<I", 1)


def main(backend: BackendName, version: str, engine: str = "auto") -> None:
    """Run the example and print what happened."""
    path = Path(__file__).with_name(OBJECT.format(version=version))
    with Machine() as machine:
        obj = machine.load(path, abi=f"iouring-{version}")
        with Ring(
            8, [16], backend=backend, abi=obj.profile, machine=machine, engine=engine
        ) as ring:
            ring.register_bpf([obj["warm"]])
            buffers = ring.user.alloc(UNUSED * DEPTH_MAX)

            ring.world.add_file("cold.bin", bytes(48 * BLOCK))
            job = start(ring, buffers, ring.world.open("cold.bin", os.O_RDONLY), HOT * 3)
            print(f"done: res {ring.wait_cqe().res}")
            print(f"of {3 * len(HOT)} numbers in the list: {warmed(job)}")
            used = [buffers.read(BLOCK, n * BLOCK) != UNUSED for n in range(DEPTH_MAX)]
            print(f"{sum(used)} buffers of {DEPTH_MAX} were read into")

            # A disk that takes its time: a pipe, into which nothing was written yet.
            disk, arm = ring.world.pipe()
            job = start(ring, buffers, disk, range(100, 200))
            job.write(STOP, offset=28)
            data = ring.user.alloc(10 * BLOCK)
            ring.get_sqe().prep_write(arm, data.addr, data.size, 0)
            ring.submit()
            ends = {cqe.user_data: cqe.res for cqe in (ring.wait_cqe(), ring.wait_cqe())}
            print(f"stopped: res {ends[job.addr]}")
            print(f"of 100 numbers in the list, {DEPTH} of them in flight: {warmed(job)}")


def start(ring: Ring, buffers: Block, file: int, blocks: list[int] | range) -> Block:
    """Submit a request that reads some blocks; its job."""
    numbers = struct.pack(f"<{LIST_MAX}I", *blocks, *[0] * (LIST_MAX - len(blocks)))
    request = (ring.user.alloc(numbers).addr, buffers.addr, file, len(blocks), DEPTH, 0, 0, 0)
    job = ring.user.alloc(struct.pack("<QQiIIIII", *request))
    ring.get_sqe().prep_bpf(0, user_data=job.addr)
    ring.submit()
    return job


def warmed(job: Block) -> str:
    """What the request says when it is done."""
    return f"{job.u32(offset=32)} blocks read, {job.u32(offset=36)} repeats"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=["sim", "kernel"], default="sim")
    parser.add_argument("--version", choices=["v2", "v3"], default="v3", help="of the ABI")
    args = parser.parse_args()
    main(args.backend, args.version)

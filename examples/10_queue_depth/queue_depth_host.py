"""A file read at three depths: as many reads are in flight as the host asked for, and no more."""

from __future__ import annotations

import argparse
import os
import random
import struct
from pathlib import Path
from typing import Any, cast

from pybpfvm.session import Machine, Ring
from pybpfvm.session.hostring import BackendName

OBJECT = "prog.{version}.bpf.o"
BLOCK, DEPTH_MAX = 4096, 16
CONTENT = random.Random(10).randbytes(40 * BLOCK)
BLOCKS = [CONTENT[at : at + BLOCK] for at in range(0, len(CONTENT), BLOCK)]


def main(backend: BackendName, version: str, engine: str = "auto") -> None:
    """Run the example and print what happened."""
    path = Path(__file__).with_name(OBJECT.format(version=version))
    with Machine() as machine:
        obj = machine.load(path, abi=f"iouring-{version}")
        with Ring(
            8, [16], backend=backend, abi=obj.profile, machine=machine, engine=engine
        ) as ring:
            ring.register_bpf([obj["reader"]])
            ring.world.add_file("in.bin", CONTENT)
            file = ring.world.open("in.bin", os.O_RDONLY)
            for depth in (1, 8, DEPTH_MAX):
                obj.maps["state"][0] = {}  # the program begins with an empty one
                read(ring, file, depth)
                state = cast("dict[str, Any]", obj.maps["state"][0])
                print(f"  in flight at most {state['most']}, at the end {state['in_flight']}")


def read(ring: Ring, file: int, depth: int) -> None:
    """Read the file with so many reads in flight."""
    buffers = ring.user.alloc(DEPTH_MAX * BLOCK)
    job = struct.pack("<QiIII", buffers.addr, file, len(BLOCKS), depth, 0)
    ring.get_sqe().prep_bpf(0, user_data=ring.user.alloc(job).addr)
    ring.submit()
    told = ring.wait_cqe()
    ended = ring.wait_cqe()
    print(f"depth {depth}: {told.user_data} bytes, {told.res} reads failed; done: res {ended.res}")
    last = [buffers.read(BLOCK, slot * BLOCK) for slot in range(DEPTH_MAX)]
    right = all(block in BLOCKS for block in last[:depth]) and not any(map(any, last[depth:]))
    print(f"  each of its buffers holds a block, the others nothing: {right}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=["sim", "kernel"], default="sim")
    parser.add_argument("--version", choices=["v2", "v3"], default="v3", help="of the ABI")
    args = parser.parse_args()
    main(args.backend, args.version)

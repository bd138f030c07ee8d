"""A pipeline across two rings of one machine: the host carries buffers between them."""

from __future__ import annotations

import argparse
import os
import random
import struct
from pathlib import Path

from pybpfvm.session import LoadedObject, Machine, Ring
from pybpfvm.session.hostring import BackendName

OBJECT = "{program}.{version}.bpf.o"
BLOCK, BUFFERS, HANDED = 4096, 4, 0x100
CONTENT = random.Random(26).randbytes(37 * BLOCK + 1000)


def main(backend: BackendName, version: str, program: str = "prog", engine: str = "auto") -> None:
    """Run the example and print what happened."""
    path = Path(__file__).with_name(OBJECT.format(program=program, version=version))
    with Machine() as machine:
        obj = machine.load(path, abi=f"iouring-{version}")

        def ring() -> Ring:
            return Ring(8, [16], backend=backend, abi=obj.profile, machine=machine, engine=engine)

        with ring() as reading, ring() as writing:
            copy(obj, reading, writing)


def copy(obj: LoadedObject, reading: Ring, writing: Ring) -> None:
    """Start a program on each ring, and hand on what they give until all is written."""
    reading.world.add_file("in.bin", CONTENT)
    writing.world.add_file("out.bin", b"")
    source = reading.world.open("in.bin", os.O_RDONLY)
    target = writing.world.open("out.bin", os.O_WRONLY)
    blocks = -(-len(CONTENT) // BLOCK)
    user = reading.machine.user  # the memory of both rings
    buffers = user.alloc(BUFFERS * BLOCK).addr
    job = user.alloc(struct.pack("<QiiII", buffers, source, target, blocks, 0)).addr
    for ring, name in ((reading, "fill"), (writing, "drain")):
        ring.register_bpf([obj[name]])
        ring.get_sqe().prep_bpf(0, user_data=job)
        ring.submit()

    filled = emptied = 0
    while emptied < blocks:
        if filled < blocks and filled - emptied < BUFFERS:
            hand(reading, writing)
            filled += 1
        else:
            hand(writing, reading)
            emptied += 1
    ends = [ring.wait_cqe().res for ring in (reading, writing)]
    print(f"{filled} blocks went through {BUFFERS} buffers; the programs ended with {ends}")
    print(f"the copies are alike: {writing.world.file_data('out.bin') == CONTENT}")


def hand(giver: Ring, taker: Ring) -> None:
    """Carry the next buffer from one ring's CQ 0 to the other's CQ 1."""
    buffer = giver.wait_cqe().user_data
    taker.get_sqe().prep_nop(user_data=HANDED | buffer, cq_idx=1)
    taker.submit()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=["sim", "kernel"], default="sim")
    parser.add_argument("--version", choices=["v2", "v3"], default="v3", help="of the ABI")
    parser.add_argument("--program", choices=["prog", "twin"], default="prog")
    args = parser.parse_args()
    main(args.backend, args.version, args.program)

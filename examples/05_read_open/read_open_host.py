"""read(open(path)) as one request, from a Python host."""

from __future__ import annotations

import argparse
import os
import struct
from pathlib import Path

import pybpfvm
from pybpfvm.session import cstring
from pybpfvm.session.hostring import BackendName

OBJECT = "prog.{version}.bpf.o"
POEM = b"The rings go round,\nthe queues go by.\n"


def main(backend: BackendName, version: str) -> None:
    """Run the example and print what happened."""
    path = Path(__file__).with_name(OBJECT.format(version=version))
    obj = pybpfvm.load(path, abi=f"iouring-{version}")
    with pybpfvm.Ring(entries=8, cq_entries=[16], backend=backend, abi=obj.profile) as ring:
        ring.world.add_file("poem.txt", POEM)
        ring.register_files([-1])  # an empty slot for the v3 program to open into
        ring.register_bpf([obj["reader"]])
        buffer = ring.user.alloc(64, "buffer")
        for name in ("poem.txt", "nowhere.txt"):
            name_block = ring.user.alloc(cstring(ring.world.path(name)), "path")
            request = ring.user.alloc(
                struct.pack("<QQIi", name_block.addr, buffer.addr, 64, 0), "request"
            )
            ring.get_sqe().prep_bpf(0, user_data=request.addr)
            ring.submit()
            while ring.wait_cqe().user_data != request.addr:
                pass  # the program's own message: the file is closed
            (got,) = struct.unpack("<i", request.read(4, offset=20))
            print(f"{name}: {got} bytes" if got >= 0 else f"{name}: {os.strerror(-got)}")
        print(buffer.read(len(POEM)).decode(), end="")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=["sim", "kernel"], default="sim")
    parser.add_argument("--version", choices=["v2", "v3"], default="v3", help="of the ABI")
    args = parser.parse_args()
    main(args.backend, args.version)

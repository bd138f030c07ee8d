"""A file written four blocks at a time, from a Python host that submits one request."""

from __future__ import annotations

import argparse
import os
import struct
from collections.abc import Mapping
from pathlib import Path

import pybpfvm
from pybpfvm.session.hostring import BackendName

OBJECT = "prog.{version}.bpf.o"


def main(backend: BackendName, version: str) -> None:
    """Run the example and print what happened."""
    path = Path(__file__).with_name(OBJECT.format(version=version))
    obj = pybpfvm.load(path, abi=f"iouring-{version}")
    with pybpfvm.Ring(entries=8, cq_entries=[16], backend=backend, abi=obj.profile) as ring:
        ring.world.add_file("out.bin", b"")
        ring.register_files([ring.world.open("out.bin", os.O_RDWR)])
        ring.register_bpf([obj["writer"]])
        buffer = ring.user.alloc(bytes(range(256)) * 1024, "buffer")
        job = ring.user.alloc(struct.pack("<QII", buffer.addr, 16384, 16), "job")
        ring.get_sqe().prep_bpf(0, user_data=job.addr)
        ring.submit()
        print(f"done: res {ring.wait_cqe().res}")

        progress = obj.maps["progress"][0]
        assert isinstance(progress, Mapping)
        print({name: progress[name] for name in ("next", "in_flight", "written", "failed")})
        same = ring.world.file_data("out.bin") == buffer.read()
        print(f"the file is the buffer, {buffer.size} bytes: {same}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=["sim", "kernel"], default="sim")
    parser.add_argument("--version", choices=["v2", "v3"], default="v3", help="of the ABI")
    args = parser.parse_args()
    main(args.backend, args.version)

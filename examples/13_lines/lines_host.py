"""Lines of a file, for a Python host that never looks for a newline."""

from __future__ import annotations

import argparse
import os
import struct
from pathlib import Path

from pybpfvm.session import Machine, Ring
from pybpfvm.session.hostring import BackendName

OBJECT = "prog.{version}.bpf.o"
CHUNK = 256
# An empty line, one that is longer than a chunk, and a last one without its newline.
CONTENT = b"first\n\nthird line\n" + b"long " * 260 + b"\nlast"


def main(backend: BackendName, version: str, engine: str = "auto") -> None:
    """Run the example and print what happened."""
    path = Path(__file__).with_name(OBJECT.format(version=version))
    with Machine() as machine:
        obj = machine.load(path, abi=f"iouring-{version}")
        with Ring(
            8, [16], backend=backend, abi=obj.profile, machine=machine, engine=engine
        ) as ring:
            ring.register_bpf([obj["lines"]])
            ring.world.add_file("in.txt", CONTENT)
            file = ring.world.open("in.txt", os.O_RDONLY)
            buffer = ring.user.alloc(CHUNK)
            job = ring.user.alloc(struct.pack("<QiI", buffer.addr, file, 0))
            ring.get_sqe().prep_bpf(0, user_data=job.addr)
            ring.submit()

            joined = b""
            while (cqe := ring.wait_cqe()).user_data != job.addr:
                line = CONTENT[cqe.user_data : cqe.user_data + cqe.res]
                joined += line
                start = line[:20].decode()
                print(f"at {cqe.user_data}, {cqe.res} bytes: {start!r}")
            print(f"done: res {cqe.res}, lines {job.u32(offset=12)}")
            print(f"together they are the file: {joined == CONTENT}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=["sim", "kernel"], default="sim")
    parser.add_argument("--version", choices=["v2", "v3"], default="v3", help="of the ABI")
    args = parser.parse_args()
    main(args.backend, args.version)

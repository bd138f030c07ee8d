"""Hello, from a Python host: one BPF request, three helpers, a word of our memory."""

from __future__ import annotations

import argparse
import struct
from pathlib import Path

import pybpfvm
from pybpfvm.session.hostring import BackendName

OBJECT = "prog.{version}.bpf.o"


def main(backend: BackendName, version: str) -> None:
    """Run the example and print what happened."""
    path = Path(__file__).with_name(OBJECT.format(version=version))
    obj = pybpfvm.load(path, abi=f"iouring-{version}")
    with pybpfvm.Ring(entries=8, cq_entries=[128], backend=backend) as ring:
        ring.register_bpf([obj["hello"]])
        word = ring.user.alloc(struct.pack("<I", 29), "word")
        ring.get_sqe().prep_bpf(0, user_data=word.addr)
        print("submitted", ring.submit())

        greeting = ring.wait_cqe()
        print(f"the program says: user_data {greeting.user_data}, res {greeting.res}")
        done = ring.wait_cqe()
        ours = done.user_data == word.addr
        print(f"the request is done: res {done.res}, and its token is our word: {ours}")
        print(f"word: 29 + 42 = {word.u32()}, visits: {obj.maps['visits'][0]!r}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=["sim", "kernel"], default="sim")
    parser.add_argument("--version", choices=["v2", "v3"], default="v3", help="of the ABI")
    args = parser.parse_args()
    main(args.backend, args.version)

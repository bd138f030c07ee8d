"""A server that is BPF requests only, from a Python host that plays its clients."""

from __future__ import annotations

import argparse
import struct
from pathlib import Path

import pybpfvm
from pybpfvm.session.hostring import BackendName

OBJECT = "prog.{version}.bpf.o"
CLIENTS = ([b"hello", b"ring"], [b"bye"])


def main(backend: BackendName, version: str) -> None:
    """Run the example and print what happened."""
    path = Path(__file__).with_name(OBJECT.format(version=version))
    obj = pybpfvm.load(path, abi=f"iouring-{version}")
    with pybpfvm.Ring(entries=8, cq_entries=[16, 128], backend=backend) as ring:
        ring.register_bpf([obj["start"], obj["on_accept"], obj["on_recv"]])
        listener = ring.world.listen()
        buffer = ring.user.alloc(256, "buffer")
        server = struct.pack("<iIQII", listener, len(CLIENTS), buffer.addr, buffer.size, 0)
        block = ring.user.alloc(server, "server")
        ring.get_sqe().prep_bpf(0, user_data=block.addr, cq_idx=2)
        ring.submit()

        for messages in CLIENTS:
            client = ring.world.connect(listener)
            for message in messages:
                client.send(message)
                heard = ring.wait_cqe()
                print(
                    f"client {heard.user_data} sent {heard.res} bytes: {buffer.read(heard.res)!r}"
                )
            client.close()
            gone = ring.wait_cqe()
            print(f"client {gone.user_data - 1000} has gone after {gone.res} bytes")
        total = sum(sum(message) for messages in CLIENTS for message in messages)
        print(f"checksum is right: {block.u32(offset=20) == total}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=["sim", "kernel"], default="sim")
    parser.add_argument("--version", choices=["v2", "v3"], default="v3", help="of the ABI")
    args = parser.parse_args()
    main(args.backend, args.version)

"""Ping-pong, from a Python host: two requests, one program, the ball is a CQE."""

from __future__ import annotations

import argparse
import struct
from pathlib import Path

import pybpfvm
from pybpfvm.session.hostring import BackendName

OBJECT = "prog.{version}.bpf.o"
RALLIES = 11


def main(backend: BackendName, version: str) -> None:
    """Run the example and print what happened."""
    path = Path(__file__).with_name(OBJECT.format(version=version))
    obj = pybpfvm.load(path, abi=f"iouring-{version}")
    with pybpfvm.Ring(entries=8, cq_entries=[16, 16], backend=backend) as ring:
        ring.register_bpf([obj["player"]])
        alice = ring.user.alloc(struct.pack("<IIII", 1, 2, RALLIES, 0), "alice")
        bob = ring.user.alloc(struct.pack("<IIII", 2, 1, RALLIES, 0), "bob")
        for player in (alice, bob):
            ring.get_sqe().prep_bpf(0, user_data=player.addr)
        ring.get_sqe().prep_nop(cq_idx=1)  # its completion is the ball, served to alice
        print("submitted", ring.submit())

        names = {alice.addr: "alice", bob.addr: "bob"}
        for _ in range(2):
            done = ring.wait_cqe()
            print(f"{names[done.user_data]} is done: res {done.res}")
        for player in (alice, bob):
            print(f"{names[player.addr]} hit the ball {player.u32(offset=12)} times")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=["sim", "kernel"], default="sim")
    parser.add_argument("--version", choices=["v2", "v3"], default="v3", help="of the ABI")
    args = parser.parse_args()
    main(args.backend, args.version)

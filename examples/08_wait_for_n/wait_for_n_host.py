"""Fork and join, from a Python host: four timers, one continuation."""

from __future__ import annotations

import argparse
import struct
from pathlib import Path

import pybpfvm
from pybpfvm.session import timespec
from pybpfvm.session.hostring import BackendName

OBJECT = "prog.{version}.bpf.o"


def main(backend: BackendName, version: str) -> None:
    """Run the example and print what happened."""
    path = Path(__file__).with_name(OBJECT.format(version=version))
    obj = pybpfvm.load(path, abi=f"iouring-{version}")
    with pybpfvm.Ring(entries=8, cq_entries=[16], backend=backend) as ring:
        ring.register_bpf([obj["fork_join"]])
        sleeps = b"".join(timespec(ms * 1_000_000) for ms in (120, 30, 90, 60))
        team = ring.user.alloc(struct.pack("<IIQ", 4, 0, 0) + sleeps.ljust(256, b"\0"), "team")
        ring.get_sqe().prep_bpf(0, user_data=team.addr)
        ring.submit()
        print(f"done: res {ring.wait_cqe().res}")
        print(f"joined {team.u32(offset=4)}, sum {team.u64(offset=8)}")
        print("they came in as", [obj.maps["arrival"][place] for place in range(4)])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=["sim", "kernel"], default="sim")
    parser.add_argument("--version", choices=["v2", "v3"], default="v3", help="of the ABI")
    args = parser.parse_args()
    main(args.backend, args.version)

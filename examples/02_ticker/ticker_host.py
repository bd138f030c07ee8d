"""Ticker, from a Python host: a CQE for each tick, and the count in our own memory."""

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
        ring.register_bpf([obj["ticker"]])
        period = timespec(20_000_000)
        order = ring.user.alloc(period + struct.pack("<II", 5, 0), "order")
        ring.get_sqe().prep_bpf(0, user_data=order.addr)
        ring.submit()

        for _ in range(5):
            tick = ring.wait_cqe()
            print(f"tick {tick.user_data}, in memory {order.u32(offset=20)}")
        print(f"done: res {ring.wait_cqe().res}, global ticks = {obj.globals['ticks']!r}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=["sim", "kernel"], default="sim")
    parser.add_argument("--version", choices=["v2", "v3"], default="v3", help="of the ABI")
    args = parser.parse_args()
    main(args.backend, args.version)

"""A file that the host makes after a while is opened, one that nobody makes is given up."""

from __future__ import annotations

import argparse
import os
import struct
from pathlib import Path
from typing import Any, cast

from pybpfvm.session import Block, Machine, Ring, cstring, timespec
from pybpfvm.session.hostring import BackendName

OBJECT = "prog.{version}.bpf.o"
LATE = b"better late than never\n"
MS = 1_000_000  # ns


def main(backend: BackendName, version: str, engine: str = "auto") -> None:
    """Run the example and print what happened."""
    path = Path(__file__).with_name(OBJECT.format(version=version))
    with Machine() as machine:
        obj = machine.load(path, abi=f"iouring-{version}")
        with Ring(
            8, [16], backend=backend, abi=obj.profile, machine=machine, engine=engine
        ) as ring:
            ring.register_bpf([obj["retry"]])

            start(ring, "late.txt", delay_ns=2 * MS, attempts=12)
            state = cast("dict[str, Any]", obj.maps["state"][0])
            while state["job"]["made"] < 3:  # two have failed
                ring.run_until_idle(MS)
                state = cast("dict[str, Any]", obj.maps["state"][0])
            ring.world.add_file("late.txt", LATE)
            found = ring.wait_cqe()
            print(f"late.txt: opened: {found.res >= 0}, after failures: {found.user_data >= 3}")
            print(f"the request is done: res {ring.wait_cqe().res}")
            print(f"it says {read(ring, found.res).decode()!r}")

            begun = ring.now_ns()
            job = start(ring, "never.txt", delay_ns=MS, attempts=5)
            given_up = ring.wait_cqe()
            print(f"never.txt: {os.strerror(-given_up.res)}, {given_up.user_data} attempts")
            print(f"the request is done: res {ring.wait_cqe().res}")
            print(f"it waited {job.u64(offset=8) // MS} ms before the last of them")
            print(f"and 15 ms in all: {ring.now_ns() - begun >= 15 * MS}")


def start(ring: Ring, name: str, delay_ns: int, attempts: int) -> Block:
    """Submit a request that opens a file; its job."""
    path = ring.user.alloc(cstring(ring.world.path(name)))
    request = struct.pack("<QII", path.addr, attempts, 0)
    job = ring.user.alloc(timespec(delay_ns) + request)
    ring.get_sqe().prep_bpf(0, user_data=job.addr)
    ring.submit()
    return job


def read(ring: Ring, fd: int) -> bytes:
    """What can be read there; the descriptor is closed."""
    buffer = ring.user.alloc(64)
    ring.get_sqe().prep_read(fd, buffer.addr, buffer.size, 0)
    ring.submit()
    got = buffer.read(ring.wait_cqe().res)
    ring.world.close(fd)
    return got


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=["sim", "kernel"], default="sim")
    parser.add_argument("--version", choices=["v2", "v3"], default="v3", help="of the ABI")
    args = parser.parse_args()
    main(args.backend, args.version)

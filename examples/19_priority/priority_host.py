"""Jobs of three classes that come in the wrong order, and one more when all are done."""

from __future__ import annotations

import argparse
import struct
from pathlib import Path

from pybpfvm.session import Machine, Ring, timespec
from pybpfvm.session.hostring import BackendName

OBJECT = "prog.{version}.bpf.o"
WORK_NS = 1_000_000  # that a job takes
CLASSES = {1: "urgent", 2: "usual", 3: "idle"}
BELL_CQ = 4
EARLY = {31: 3, 32: 3, 21: 2, 11: 1, 12: 1, 13: 1, 14: 1}  # their classes, as they come
LATE = {22: 2}


def main(backend: BackendName, version: str, engine: str = "auto") -> None:
    """Run the example and print what happened."""
    path = Path(__file__).with_name(OBJECT.format(version=version))
    with Machine() as machine:
        obj = machine.load(path, abi=f"iouring-{version}")
        with Ring(
            16,
            [16, 16, 16, 32],
            backend=backend,
            abi=obj.profile,
            machine=machine,
            engine=engine,
        ) as ring:
            ring.register_bpf([obj["scheduler"]])
            job = timespec(WORK_NS) + struct.pack("<II", len(EARLY | LATE), 0)
            queue(ring, EARLY)
            ring.get_sqe().prep_bpf(0, user_data=ring.user.alloc(job).addr)
            ring.submit()

            watch(ring, len(EARLY))
            queue(ring, LATE)
            ring.submit()
            watch(ring, len(LATE))
            print(f"done: res {ring.wait_cqe().res}")


def queue(ring: Ring, jobs: dict[int, int]) -> None:
    """Prepare jobs, each in the queue of its class, and the bell after them."""
    for name, number in jobs.items():
        ring.get_sqe().prep_nop(user_data=name, cq_idx=number)
    ring.get_sqe().prep_nop(cq_idx=BELL_CQ)


def watch(ring: Ring, jobs: int) -> None:
    """Print so many jobs as they are served."""
    for _ in range(jobs):
        served = ring.wait_cqe()
        print(f"job {served.user_data}, {CLASSES[served.res]}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=["sim", "kernel"], default="sim")
    parser.add_argument("--version", choices=["v2", "v3"], default="v3", help="of the ABI")
    args = parser.parse_args()
    main(args.backend, args.version)

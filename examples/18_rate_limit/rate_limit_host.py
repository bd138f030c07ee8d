"""A burst of ten jobs, of which the program takes three in a window of time."""

from __future__ import annotations

import argparse
import struct
from pathlib import Path

from pybpfvm.session import Machine, Ring, timespec
from pybpfvm.session.hostring import BackendName

OBJECT = "prog.{version}.bpf.o"
JOBS, BURST, WINDOW_NS = 10, 3, 10_000_000
LAST = 0  # the job after which none comes


def main(backend: BackendName, version: str, engine: str = "auto") -> None:
    """Run the example and print what happened."""
    path = Path(__file__).with_name(OBJECT.format(version=version))
    with Machine() as machine:
        obj = machine.load(path, abi=f"iouring-{version}")
        with Ring(
            16, [64, 16], backend=backend, abi=obj.profile, machine=machine, engine=engine
        ) as ring:
            ring.register_bpf([obj["limiter"]])
            job = ring.user.alloc(timespec(WINDOW_NS) + struct.pack("<II", BURST, 0))
            for number in (*range(1, JOBS + 1), LAST):
                ring.get_sqe().prep_nop(user_data=number, cq_idx=1)
            ring.get_sqe().prep_bpf(0, user_data=job.addr)
            begun = ring.now_ns()
            ring.submit()

            windows: dict[int, list[int]] = {}
            while (served := ring.wait_cqe()).user_data != job.addr:
                windows.setdefault(served.res, []).append(served.user_data)
            for window, jobs in windows.items():
                print(f"window {window}: jobs {jobs}")
            whole = len(windows) - 1  # all but the last have been waited out
            print(f"it took {whole} windows at least: {ring.now_ns() - begun >= whole * WINDOW_NS}")
            print(f"done: res {served.res}, jobs left {ring.ready(1)}, lost {ring.cq_overflow}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=["sim", "kernel"], default="sim")
    parser.add_argument("--version", choices=["v2", "v3"], default="v3", help="of the ABI")
    args = parser.parse_args()
    main(args.backend, args.version)

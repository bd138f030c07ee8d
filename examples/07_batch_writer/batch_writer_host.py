"""Many small writes by a request that submits its successor, from a Python host."""

from __future__ import annotations

import argparse
import os
import struct
from pathlib import Path

import pybpfvm
from pybpfvm.session.hostring import BackendName

OBJECT = "prog.{version}.bpf.o"
RECORD, RECORDS = b"tick\n", 2000  # scenario.toml has the hundred thousand


def main(backend: BackendName, version: str) -> None:
    """Run the example and print what happened."""
    path = Path(__file__).with_name(OBJECT.format(version=version))
    obj = pybpfvm.load(path, abi=f"iouring-{version}")
    with pybpfvm.Ring(entries=8, cq_entries=[128, 128], backend=backend, abi=obj.profile) as ring:
        ring.world.add_file("log.bin", b"")
        ring.register_files([ring.world.open("log.bin", os.O_RDWR)])
        ring.register_bpf([obj["batch"]])
        record = ring.user.alloc(RECORD, "record")
        job = ring.user.alloc(struct.pack("<QII", record.addr, len(RECORD), RECORDS), "job")
        ring.get_sqe().prep_bpf(0, user_data=job.addr, cq_idx=2)
        ring.submit()
        done = ring.wait_cqe()
        print(f"{done.user_data} generations of the request wrote {done.res} records")
        same = ring.world.file_data("log.bin") == RECORD * RECORDS
        print(f"the file holds every one of them: {same}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=["sim", "kernel"], default="sim")
    parser.add_argument("--version", choices=["v2", "v3"], default="v3", help="of the ABI")
    args = parser.parse_args()
    main(args.backend, args.version)

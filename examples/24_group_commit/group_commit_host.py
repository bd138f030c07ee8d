"""A log whose records share their fsyncs, and one that can not be synced."""

from __future__ import annotations

import argparse
import os
import struct
from pathlib import Path
from typing import Any, cast

from pybpfvm.session import Block, Machine, Ring
from pybpfvm.session.hostring import BackendName

OBJECT = "prog.{version}.bpf.o"
RECORD, RECORDS_MAX, BATCH = 32, 64, 16
RECORDS = b"".join(b"record %2d ".ljust(RECORD, b".") % n for n in range(RECORDS_MAX))
COUNT, UNDURABLE = 40, 2


def main(backend: BackendName, version: str, engine: str = "auto") -> None:
    """Run the example and print what happened."""
    path = Path(__file__).with_name(OBJECT.format(version=version))
    with Machine() as machine:
        obj = machine.load(path, abi=f"iouring-{version}")
        with Ring(
            64, [64, 16], backend=backend, abi=obj.profile, machine=machine, engine=engine
        ) as ring:
            ring.register_bpf([obj["logger"]])
            records, batch = ring.user.alloc(RECORDS), ring.user.alloc(BATCH * RECORD)
            log = ring.world.open("log.bin", os.O_CREAT | os.O_RDWR)
            told = write(ring, records, batch, log, range(COUNT), COUNT)
            state = cast("dict[str, Any]", obj.maps["state"][0])
            durable = sum(res == 0 for res in told.values())
            print(f"{durable} records are durable, with {state['syncs']} fsyncs")
            written = ring.world.file_data("log.bin")
            size = len(told) * RECORD
            print(f"the log has them in their order: {written == RECORDS[:size]}")

            _, pipe = ring.world.pipe()  # takes what is written to it, and has no fsync
            told = write(ring, records, batch, pipe, range(UNDURABLE), COUNT + UNDURABLE)
            for number, res in sorted(told.items()):
                print(f"into a pipe: record {number}: {os.strerror(-res)}")


def write(
    ring: Ring, records: Block, batch: Block, log: int, numbers: range, count: int
) -> dict[int, int]:
    """Log some records, `count` since the program was loaded; what each of them was told."""
    job = ring.user.alloc(struct.pack("<QQiI", records.addr, batch.addr, log, count))
    for number in numbers:
        ring.get_sqe().prep_nop(user_data=number, cq_idx=1)
    ring.get_sqe().prep_bpf(0, user_data=job.addr)
    ring.submit()
    told: dict[int, int] = {}
    while (cqe := ring.wait_cqe()).user_data != job.addr:
        told[cqe.user_data] = cqe.res
    return told


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=["sim", "kernel"], default="sim")
    parser.add_argument("--version", choices=["v2", "v3"], default="v3", help="of the ABI")
    args = parser.parse_args()
    main(args.backend, args.version)

"""A log inside one enter: records of which no two are alike, and a pipe, which has no fsync."""

from __future__ import annotations

import os
from pathlib import Path

from pybpfvm.examples.loops import attached, command
from pybpfvm.session.hostring import BackendName

RECORD, COUNT = 16, 102
RECORDS = b"".join(b"record %3d ".ljust(RECORD, b".") % n for n in range(COUNT))


def main(backend: BackendName, abi: str, engine: str = "auto") -> None:
    """Run the example and print what happened."""
    for name in ("log.bin", "a pipe"):
        with attached(Path(__file__).parent, "committer", backend, abi, engine) as (
            ring,
            variables,
        ):
            if name == "log.bin":
                log = ring.world.open(name, os.O_CREAT | os.O_WRONLY)
            else:
                _, log = ring.world.pipe()
            variables["file"] = log
            variables["records"] = ring.user.alloc(RECORDS).addr
            variables["count"] = COUNT
            ring.enter()
            committed, syncs = variables["committed"], variables["syncs"]
            error = variables["error"]
            how = os.strerror(-error) if error else "no error"
            print(f"into {name}: {committed} records committed by {syncs} fsyncs, {how}")
            if name == "log.bin":
                print(f"  in their order: {ring.world.file_data(name) == RECORDS}")


if __name__ == "__main__":
    command(main, __doc__)

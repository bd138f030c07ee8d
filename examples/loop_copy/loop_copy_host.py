"""A copy inside one enter, of a file of some size and of an empty one."""

from __future__ import annotations

import os
import random
from pathlib import Path

from pybpfvm.examples.loops import attached, command
from pybpfvm.session.hostring import BackendName

BUFFER = 16384
CONTENT = random.Random(11).randbytes(40 * BUFFER + 777)


def main(backend: BackendName, abi: str, engine: str = "auto") -> None:
    """Run the example and print what happened."""
    for content in (CONTENT, b""):
        with attached(Path(__file__).parent, "copier", backend, abi, engine) as (ring, variables):
            ring.world.add_file("in.bin", content)
            variables["from"] = ring.world.open("in.bin", os.O_RDONLY)
            variables["to"] = ring.world.open("out.bin", os.O_CREAT | os.O_WRONLY)
            variables["buffer"] = ring.user.alloc(BUFFER).addr
            variables["buffer_bytes"] = BUFFER
            ring.enter()
            alike = ring.world.file_data("out.bin") == content
            print(f"copied {variables['copied']} bytes, error {variables['error']}")
            print(f"  they are alike: {alike}")


if __name__ == "__main__":
    command(main, __doc__)

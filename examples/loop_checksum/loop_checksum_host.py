"""A checksum inside one enter, of a file of some size, and of one that is shorter than was said."""

from __future__ import annotations

import os
import random
import struct
from pathlib import Path

from pybpfvm.examples.loops import attached, command
from pybpfvm.session.hostring import BackendName

MEM = 8192
CONTENT = random.Random(15).randbytes(300_003)


def checksum(data: bytes) -> int:
    """The sum of words, each times its place, modulo 2**64: what the program computes."""
    words = struct.iter_unpack("<Q", data.ljust(-(-len(data) // 8) * 8, b"\0"))
    return sum(int(word) * place for place, (word,) in enumerate(words, 1)) % (1 << 64)


def main(backend: BackendName, abi: str, engine: str = "auto") -> None:
    """Run the example and print what happened."""
    for said in (len(CONTENT), len(CONTENT) + 5000):
        with attached(Path(__file__).parent, "checksum", backend, abi, engine) as (ring, variables):
            ring.world.add_file("in.bin", CONTENT)
            variables["file"] = ring.world.open("in.bin", os.O_RDONLY)
            variables["size"] = said
            variables["buffers"] = ring.register_mem(MEM).addr
            ring.enter()
            error = variables["error"]
            if error:
                print(f"of {said} bytes: {os.strerror(-error)}")
            else:
                print(f"of {said} bytes: right {variables['sum'] == checksum(CONTENT)}")


if __name__ == "__main__":
    command(main, __doc__)

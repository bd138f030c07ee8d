"""Lines split inside one enter, drawn anew for each of some files, and compared with Python's."""

from __future__ import annotations

import os
import random
from pathlib import Path

from pybpfvm.examples.loops import attached, command
from pybpfvm.session.hostring import BackendName

LINES, MEM, FILES = 16, 4096, 6


def main(backend: BackendName, abi: str, engine: str = "auto") -> None:
    """Run the example and print what happened."""
    drawn = random.Random(13)
    right = 0
    for number in range(FILES):
        lines = [b"x" * drawn.choice((0, 1, 63, 64, 65, 500)) for _ in range(1 + 3 * number)]
        text = b"\n".join(lines)
        with attached(Path(__file__).parent, "lines_of", backend, abi, engine) as (ring, variables):
            ring.world.add_file("text", text)
            variables["stream"] = ring.world.open("text", os.O_RDONLY)
            variables["buffer"] = ring.register_mem(MEM).addr
            ring.enter()
            found = variables["lines"][: variables["count"]]
            split = [text[one["at"] : one["at"] + one["length"]] for one in found]
            right += split == text.splitlines() and variables["error"] == 0
    print(f"{right} of {FILES} files are split as Python splits them")


if __name__ == "__main__":
    command(main, __doc__)

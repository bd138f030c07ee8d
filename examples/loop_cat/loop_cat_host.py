"""cat inside one enter: files of all sizes, one that is not there, and a directory."""

from __future__ import annotations

import os
import random
from pathlib import Path

from pybpfvm.examples.loops import attached, command
from pybpfvm.session import cstring
from pybpfvm.session.hostring import BackendName

PATHS, BLOCK = 8, 1024
SIZES = {"a": 5, "b": BLOCK, "c/deep": 10 * BLOCK + 1, "d": 0, "e": 3 * BLOCK - 1, "f": 100_000}
ORDER = ("a", "b", "missing", "c/deep", "d", "c", "e", "f")


def main(backend: BackendName, abi: str, engine: str = "auto") -> None:
    """Run the example and print what happened."""
    drawn = random.Random(12)
    contents = {name: drawn.randbytes(size) for name, size in SIZES.items()}
    with attached(Path(__file__).parent, "cats", backend, abi, engine) as (ring, variables):
        for name, content in contents.items():
            ring.world.add_file(name, content)
        paths = [ring.user.alloc(cstring(ring.world.path(name))).addr for name in ORDER]
        variables["paths"] = paths + [0] * (PATHS - len(paths))
        variables["count"] = len(paths)
        variables["out"] = ring.world.open("out", os.O_CREAT | os.O_WRONLY)
        variables["buffer"] = ring.user.alloc(BLOCK).addr
        ring.enter()
        wanted = b"".join(contents.get(name, b"") for name in ORDER)
        failed, error = variables["failed"], variables["error"]
        print(f"{variables['to']} bytes of {len(ORDER)} files, {failed} failed, error {error}")
        print(f"they are alike: {ring.world.file_data('out') == wanted}")


if __name__ == "__main__":
    command(main, __doc__)

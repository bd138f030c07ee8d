"""C programs on liburing, which the benchmarks of rings are compared with."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path


def compiled(source: Path, folder: Path, *options: str) -> Path | None:
    """The program, made in `folder` with these options; None (with the reason printed) where it can
    not be had."""
    gcc = shutil.which("gcc")
    if gcc is None:
        print("skipped: no gcc; install it (Debian: apt-get install gcc)")
        return None
    program = folder / source.stem
    command = [gcc, "-O2", *options, str(source), "-o", str(program), "-luring"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        first = next(iter(done.stderr.splitlines()), "no message")
        print(f"skipped: {first}; install liburing (Debian: apt-get install liburing-dev)")
        return None
    return program

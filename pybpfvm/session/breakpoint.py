"""`pybpfvm.breakpoint(ring)`: the debugger, from within a host."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack

from pybpfvm.errors import InputError
from pybpfvm.session.hostring import HostRing


def breakpoint(ring: HostRing, script: Sequence[str] = ()) -> None:
    """Open the debugger on what was recorded of a ring's machine until now, where that ends; the
    host waits until the user leaves.

    The ring must be made with record=FILE. The debugger is a process of its own on the terminal,
    also where a test runner has taken the host's output; with a `script` it does these commands and
    prints to stdout. Without either it says how to open the recording, and the host goes on.
    """
    recorder = ring.machine.recorder
    path = recorder.path
    if path is None:
        raise InputError(
            "the ring is not recorded", where="breakpoint", remedy="make it with record=FILE"
        )
    recorder.flush()
    command = [sys.executable, "-m", "pybpfvm", "debug", path, "--command", "goto end"]
    for line in script:
        command += ["--command", line]
    if script:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        print((done.stdout + done.stderr).decode("utf-8", "replace"), end="")
        return
    with ExitStack() as stack:
        try:
            terminal = stack.enter_context(open("/dev/tty", "r+b", buffering=0))
        except OSError:
            print(f"{path} has been recorded until here; open it: pybpfvm debug {path}")
            return
        subprocess.run(
            [*command, "--stay"], stdin=terminal, stdout=terminal, stderr=terminal, check=False
        )

"""What `launch` asks for: a recording, perhaps made first, by a process of its own.

Programs run there and are replayed here, at the same addresses: one process can not do both.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import IO

import pybpfvm
from pybpfvm.debugger.dap.arguments import Launch
from pybpfvm.errors import InputError

_RECORDED = frozenset({0, 1, 4})  # exit codes of runs that took place
_OURS = ("--record", "--json")
_POLL_S = 0.1


def recording_of(
    launch: Launch,
    folder: Path,
    tell: Callable[[str, str], None],
    stopped: Callable[[], bool],
) -> Path:
    """The recording to open. One that is made lies in `folder`. `tell` is given what the run
    writes, with "stdout" or "stderr" before it; `stopped` is asked whether anybody still waits.

    Raises InputError where there is nothing to open.
    """
    if (launch.recording is None) == (launch.program is None):
        raise InputError(
            'one of "recording" and "program" is needed',
            where="launch",
            remedy='e.g. "program": "scenario.toml"',
        )
    root = Path(launch.cwd or ".")
    if launch.recording is not None:
        return root / launch.recording
    assert launch.program is not None
    taken = next((one for one in launch.args for ours in _OURS if one.startswith(ours)), None)
    if taken is not None:
        raise InputError(f"{taken} is for the debugger to say", where="launch: args")
    path = folder / "run.bpftrace"
    code = _run(launch.program, launch.args, path, root, tell, stopped)
    if code not in _RECORDED or not path.exists():
        raise InputError(
            f"nothing was recorded: pybpfvm run ended with exit code {code}",
            where=launch.program,
            remedy="its output says why",
        )
    return path


def _run(
    program: str,
    args: tuple[str, ...],
    path: Path,
    cwd: Path,
    tell: Callable[[str, str], None],
    stopped: Callable[[], bool],
) -> int:
    command = [sys.executable, "-P", "-m", "pybpfvm", "run", program, "--record", str(path), *args]
    root = str(Path(pybpfvm.__file__).parents[1])
    known = os.environ.get("PYTHONPATH")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((root, known) if known else (root,))}
    try:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="backslashreplace",
        )
    except OSError as error:
        raise InputError(error.strerror or str(error), where=str(cwd)) from None
    with process:
        lines = _Lines(process, tell)
        try:
            while True:
                lines.tell()
                try:
                    code = process.wait(_POLL_S)
                    break
                except subprocess.TimeoutExpired:
                    pass
                if stopped():
                    raise InputError("cancelled", where=program)
        except BaseException:
            process.kill()
            raise
        lines.join()
        lines.tell()
    return code


class _Lines:
    """What a process writes, read by threads and told by whoever asks for it."""

    def __init__(self, process: subprocess.Popen[str], tell: Callable[[str, str], None]) -> None:
        self._tell = tell
        self._found: SimpleQueue[tuple[str, str]] = SimpleQueue()
        streams = (("stdout", process.stdout), ("stderr", process.stderr))
        self._threads = [
            Thread(target=self._read, args=one, daemon=True) for one in streams if one[1]
        ]
        for thread in self._threads:
            thread.start()

    def _read(self, kind: str, stream: IO[str]) -> None:
        for line in stream:
            self._found.put((kind, line))

    def join(self) -> None:
        """Wait until all is read."""
        for thread in self._threads:
            thread.join()

    def tell(self) -> None:
        """Tell what came since the last time."""
        while not self._found.empty():
            self._tell(*self._found.get())

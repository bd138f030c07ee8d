"""Real child processes for WAITID: each waits for a line that says how it is to end."""

from __future__ import annotations

import contextlib
import os
import signal

from pybpfvm.errors import InputError

_SHELL = "/bin/sh"
_SCRIPT = "echo && read status && exit $status"


class Children:
    """The children of one world, by number; those that run have a pipe to them."""

    def __init__(self) -> None:
        self._running: dict[int, int] = {}
        self._started: list[int] = []

    def started(self, pid: int) -> bool:
        """Whether it is one of them, or was."""
        return pid in self._started

    def start(self) -> int:
        """A new child's number; InputError when there can be none."""
        reader, writer = os.pipe2(os.O_CLOEXEC)
        ready, told = os.pipe2(os.O_CLOEXEC)
        actions = [(os.POSIX_SPAWN_DUP2, reader, 0), (os.POSIX_SPAWN_DUP2, told, 1)]
        try:
            pid = os.posix_spawn(_SHELL, [_SHELL, "-c", _SCRIPT], {}, file_actions=actions)
        except OSError as error:
            os.close(writer)
            os.close(ready)
            raise InputError(f"can not start a child: {error}") from error
        finally:
            os.close(reader)
            os.close(told)
        # Until the shell runs, the child still has our descriptors, and keeps sockets open.
        os.read(ready, 1)
        os.close(ready)
        self._running[pid] = writer
        self._started.append(pid)
        return pid

    def end(self, pid: int, status: int) -> None:
        """A child exits with `status`, or is killed by signal -`status`."""
        writer = self._running.pop(pid, None)
        if writer is None:
            raise InputError(f"no child {pid} runs")
        if status >= 0:
            os.write(writer, b"%d\n" % status)
        else:
            os.kill(pid, -status)
        os.close(writer)
        with contextlib.suppress(ChildProcessError):  # a request was waiting for it
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)

    def close(self) -> None:
        """End and reap all of them."""
        for pid in list(self._running):
            with contextlib.suppress(OSError):
                self.end(pid, -signal.SIGKILL)
        for pid in self._started:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        self._started.clear()

"""Descriptors' numbers: none is free for the host while requests that name it may be looked up.

The kernel looks a descriptor up when the turn of its request comes. When one is closed before
that, a stand-in takes its number in the same step, which the kernel refuses as if nothing were
there (-EBADF; as the directory of a path -ENOTDIR), until the last such request is over.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path


class Numbers:
    """Closes descriptors for a world. `directory` is empty, and is so again."""

    def __init__(self, directory: Path) -> None:
        path = directory / "stand-in"
        path.touch()
        self._stand_in = os.open(path, os.O_PATH | os.O_CLOEXEC)
        path.unlink()
        self._named: Counter[int] = Counter()
        self._taken: set[int] = set()

    def hold(self, fds: Iterable[int]) -> None:
        """A request that names these may wait for its turn."""
        self._named.update(fds)

    def let_go(self, fds: Iterable[int]) -> None:
        """That request is over."""
        for fd in fds:
            self._named[fd] -= 1
            if not self._named[fd]:
                del self._named[fd]
                if fd in self._taken:
                    self._taken.discard(fd)
                    os.close(fd)

    def is_held(self, fd: int) -> bool:
        """Whether a request that names `fd` may wait for its turn."""
        return fd in self._named

    def close(self, fd: int) -> None:
        """Close `fd`, now; its number is free when nothing waits that names it."""
        with contextlib.suppress(OSError):
            if self.is_held(fd):
                os.dup2(self._stand_in, fd, inheritable=False)
                self._taken.add(fd)
            else:
                os.close(fd)

    def close_all(self) -> None:
        """Nothing waits any more; twice is fine."""
        self._named.clear()
        for fd in self._taken:
            os.close(fd)
        self._taken.clear()
        if self._stand_in >= 0:
            os.close(self._stand_in)
            self._stand_in = -1

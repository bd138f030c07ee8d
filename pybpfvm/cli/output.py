"""Where a command's output goes: to stdout, or to the file that -o names."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import redirect_stdout


def write(path: str | None, show: Callable[[], None]) -> None:
    """Let `show` print, to the file at `path` if there is one."""
    if path is None:
        show()
        return
    with open(path, "w", encoding="utf-8") as file, redirect_stdout(file):
        show()

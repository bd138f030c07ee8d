"""Files that the user names: read whole, up to a limit, whatever they turn out to be.

A FIFO is read if somebody writes to it and counts as empty otherwise, so that `<(command)` works
and a forgotten FIFO does not hang.
"""

from __future__ import annotations

import os

from pybpfvm.errors import InputError


def read_input_file(source: str | os.PathLike[str], limit_bytes: int, *, where: str = "") -> bytes:
    """The content of `source`; `where` names it in messages (its path otherwise).

    Raises InputError when it can not be read or has more than `limit_bytes`.
    """
    path = os.fspath(source)
    if not path:
        raise InputError("the name of a file is empty", where=where, remedy="give its path")
    where = where or path
    try:
        with open(path, "rb", opener=_open) as file:
            data = file.read(limit_bytes + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"can not be read: {reason}", where=where) from None
    if len(data) > limit_bytes:
        raise too_long(limit_bytes, where)
    return data


def too_long(limit_bytes: int, where: str) -> InputError:
    """The error for a file of more than `limit_bytes`."""
    return InputError(f"more than {limit_bytes} bytes", where=where, remedy="give a smaller file")


def _open(path: str, flags: int) -> int:
    # Opening a FIFO would wait for a writer without O_NONBLOCK; reading it must wait.
    fd = os.open(path, flags | os.O_NONBLOCK)
    os.set_blocking(fd, True)
    return fd

"""Whole trees of files: what a world is seeded from, and dumped to, on the host.

Only directories, regular files and symbolic links count. Links are copied, never followed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pybpfvm.errors import InputError

MAX_ENTRIES: Final = 1 << 14
MAX_BYTES: Final = 256 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """A name below the root. `mode` with its type; `data` of a file, or the target of a link."""

    path: str
    mode: int
    data: bytes = b""


def read_tree(directory: Path) -> list[Entry]:
    """What is below a host directory, parents first; InputError when unreadable or too much."""
    if not directory.is_dir():
        raise InputError(f"{directory} is no directory")
    entries: list[Entry] = []
    total = 0
    try:
        for path in _below(directory):
            mode = path.lstat().st_mode
            data = b""
            if stat.S_ISLNK(mode):
                data = os.fsencode(os.readlink(path))
            elif stat.S_ISREG(mode):
                with path.open("rb") as file:
                    data = file.read(MAX_BYTES - total + 1)
            elif not stat.S_ISDIR(mode):
                continue
            total += len(data)
            if len(entries) >= MAX_ENTRIES or total > MAX_BYTES:
                raise InputError(
                    f"{directory} holds more than {MAX_ENTRIES} names or {MAX_BYTES >> 20} MiB"
                )
            entries.append(Entry(str(path.relative_to(directory)), mode, data))
    except OSError as error:
        raise InputError(f"can not read {directory}: {_why(error, directory)}") from error
    return entries


def _below(directory: Path) -> Iterator[Path]:
    for path in sorted(directory.iterdir()):
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _below(path)


def write_tree(directory: Path, entries: Iterable[Entry]) -> None:
    """Put the entries into a host directory that is new or empty; InputError otherwise.

    Links come last, and nothing is written through one.
    """
    check_new(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        links: list[Entry] = []
        directories: list[Entry] = []
        for entry in entries:
            path = directory / entry.path
            if stat.S_ISDIR(entry.mode):
                path.mkdir()
                directories.append(entry)
            elif stat.S_ISLNK(entry.mode):
                links.append(entry)
            else:
                path.write_bytes(entry.data)
                path.chmod(stat.S_IMODE(entry.mode) & 0o777)
        for entry in links:
            (directory / entry.path).symlink_to(os.fsdecode(entry.data))
        for entry in reversed(directories):  # inner ones first: theirs may lock them up
            (directory / entry.path).chmod(stat.S_IMODE(entry.mode) & 0o777)
    except OSError as error:
        raise InputError(f"can not write {directory}: {_why(error, directory)}") from error


def check_new(directory: Path) -> None:
    """InputError unless a host directory is new or empty."""
    try:
        if directory.exists() and any(directory.iterdir()):
            raise InputError(f"{directory} is not empty", remedy="dump into a new directory")
    except OSError as error:
        raise InputError(f"can not write {directory}: {_why(error, directory)}") from error


def _why(error: OSError, directory: Path) -> str:
    """What the host says, and of which file where that is not the directory."""
    what = error.strerror or str(error)
    inside = error.filename is not None and str(error.filename) != str(directory)
    return f"{what}: {error.filename}" if inside else what

"""Compiled objects on disk, by a hash of all they depend on.

An entry is a file `<hash>.o`: a digest of the object, then the object. One that is not what it
says is removed and counts as missing. Writers write beside and rename, so readers see whole
entries whoever else writes. What was used longest ago goes when the folder has grown too big.
Code that is found here is run, so the folder and its entries must be ours alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from pathlib import Path

LIMIT_BYTES = 64 << 20
_DIGEST_BYTES = 32


def default_folder() -> Path | None:
    """$PYBPFVM_CACHE, or pybpfvm in the user's cache folder; None if it is set to nothing."""
    named = os.environ.get("PYBPFVM_CACHE")
    if named is not None:
        return Path(named) / "llvm" if named else None
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # no home
        return None
    return folder / "pybpfvm" / "llvm"


class ObjectCache:
    """Objects in `folder`, together up to about `limit_bytes`. What can not be read or written is
    as if it were not there: a cache is no reason to fail."""

    def __init__(self, folder: Path, *, limit_bytes: int = LIMIT_BYTES) -> None:
        self._folder = folder
        self._limit = limit_bytes

    def get(self, key: str) -> bytes | None:
        """The object, None if there is none."""
        path = self._path(key)
        try:
            with path.open("rb") as file:
                if not _is_ours(os.fstat(file.fileno())) or not _is_ours(self._folder.stat()):
                    return None
                raw = file.read()
        except OSError:
            return None
        made = raw[_DIGEST_BYTES:]
        if hashlib.sha256(made).digest() != raw[:_DIGEST_BYTES]:
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return made

    def put(self, key: str, made: bytes) -> None:
        """Keep the object."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not _is_ours(self._folder.stat()):
                return
            with tempfile.NamedTemporaryFile(dir=self._folder, prefix=".new-", delete=False) as new:
                new.write(hashlib.sha256(made).digest() + made)
            try:
                os.replace(new.name, self._path(key))
            except OSError:
                os.unlink(new.name)
            self._shrink()
        except OSError:
            return

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.o"

    def _shrink(self) -> None:
        """Remove what was used longest ago until three quarters of the limit are left."""
        entries: list[tuple[float, int, str]] = []
        for entry in os.scandir(self._folder):
            with contextlib.suppress(OSError):
                known = entry.stat()
                entries.append((known.st_mtime, known.st_size, entry.path))
        total = sum(size for _, size, _ in entries)
        if total <= self._limit:
            return
        for _, size, path in sorted(entries):
            if total <= self._limit * 3 // 4:
                return
            with contextlib.suppress(OSError):
                os.unlink(path)
                total -= size


def default_cache() -> ObjectCache | None:
    """The cache in the default folder, None if there is to be none."""
    folder = default_folder()
    return ObjectCache(folder) if folder is not None else None


def _is_ours(known: os.stat_result) -> bool:
    return known.st_uid == os.getuid() and not known.st_mode & (stat.S_IWGRP | stat.S_IWOTH)

"""Inputs that are worth keeping: a folder of files named by the hash of their content, as libFuzzer
and AFL keep theirs; and making it, and single inputs, smaller.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from pybpfvm.errors import InputError
from pybpfvm.fuzz.target import Target, Tried

MAX_INPUT_BYTES = 1 << 22
_MAX_ENTRIES = 1 << 17


def name_of(data: bytes) -> str:
    """The file name of an input: SHA-1 in hexadecimal."""
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


class Corpus:
    """The inputs, in the order of their names and then of arrival; `folder` None: in memory only.

    Raises InputError for a folder that can not be read or made.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.entries: list[bytes] = []
        self._names: set[str] = set()
        if folder is None:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            paths = sorted(path for path in folder.iterdir() if path.is_file())
            for path in paths[:_MAX_ENTRIES]:
                if path.stat().st_size <= MAX_INPUT_BYTES:
                    self._take(path.read_bytes())
        except OSError as error:
            raise InputError(error.strerror or str(error), where=str(folder)) from None
        self.read = len(self.entries)

    def _take(self, data: bytes) -> bool:
        name = name_of(data)
        if name in self._names:
            return False
        self._names.add(name)
        self.entries.append(data)
        return True

    def add(self, data: bytes) -> bool:
        """Keep an input; False if it was there."""
        if not self._take(data):
            return False
        if self.folder is not None:
            _write(self.folder / name_of(data), data)
        return True


def _write(path: Path, data: bytes) -> None:
    """As a whole or not at all, and by any number of processes."""
    if path.exists():
        return
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(data)
    partial.replace(path)


def fewest(target: Target, inputs: Iterable[bytes]) -> list[bytes]:
    """Some of the inputs that cover together what all of them cover, small ones first (cmin)."""
    kept: list[bytes] = []
    covered: set[object] = set()
    tried = [(len(data), data, target.run(data).features) for data in inputs]
    for _, data, features in sorted(tried, key=lambda one: one[:2]):
        if features - covered:
            covered |= features
            kept.append(data)
    return kept


def smallest(
    target: Target,
    data: bytes,
    holds: Callable[[Tried], bool],
    *,
    seconds: float,
    tries: int = 5_000,
    stop: Callable[[], bool] = lambda: False,
) -> tuple[bytes, int]:
    """The smallest input found from this one for which `holds` (tmin), and how many were tried.

    Whatever comes first ends the search: nothing smaller holds, the time, the tries, `stop`.
    """
    until = time.monotonic() + seconds
    tried = 0
    again = True
    while again:
        again = False
        for candidate in target.smaller(data):
            if tried >= tries or time.monotonic() > until or stop():
                return data, tried
            tried += 1
            if candidate != data and holds(target.run(candidate)):
                data, again = candidate, True
                break
    return data, tried


def same_problem(bucket: str) -> Callable[[Tried], bool]:
    """Whether an input shows a problem of this bucket."""
    return lambda tried: tried.problem is not None and tried.problem.bucket == bucket


def same_coverage(features: Sequence[object] | frozenset[object]) -> Callable[[Tried], bool]:
    """Whether an input covers at least these, without a problem."""
    wanted = frozenset(features)
    return lambda tried: tried.problem is None and wanted <= tried.features

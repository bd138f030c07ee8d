"""How any process makes a campaign's target, and what tells two campaigns apart."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pybpfvm
from pybpfvm.errors import InputError
from pybpfvm.fuzz.target import Target


@dataclass(frozen=True, slots=True)
class Recipe:
    """`make` gives the target: a function that can be pickled. What it makes depends on the
    `options`, plain values by name, and on the content of `files`. A turn that takes longer than
    `turn_seconds` counts as a hang."""

    make: Callable[[], Target]
    options: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    turn_seconds: float = 120.0

    def about(self) -> dict[str, Any]:
        """What must be the same wherever a shard shall come to the same. Raises InputError for a
        file that can not be read."""
        return {
            "options": dict(self.options),
            "files": _digest(map(Path, self.files)),
            "code": code(),
        }


@cache
def code() -> str:
    """Names the code of this version of pybpfvm and of Python."""
    root = Path(pybpfvm.__path__[0])
    folders = [root, *(one for one in sorted(root.iterdir()) if one.is_symlink() and one.is_dir())]
    paths = sorted({path for folder in folders for path in folder.rglob("*.py")})
    python = ".".join(map(str, sys.version_info[:3]))
    return f"pybpfvm {pybpfvm.__version__}, Python {python}, {_digest(paths)}"


def _digest(paths: Iterable[Path]) -> str:
    found = hashlib.sha256()
    for path in paths:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InputError(error.strerror or str(error), where=str(path)) from None
        found.update(hashlib.sha256(content).digest())
    return found.hexdigest()[:16]

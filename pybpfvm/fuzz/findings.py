"""What a campaign found, and the files that let anyone see it again."""

from __future__ import annotations

import re
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pybpfvm.errors import InputError
from pybpfvm.fuzz.corpus import name_of
from pybpfvm.fuzz.target import Problem

_NAME_CHARS = 80


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem of a bucket: `first` is the input as it was found, `data` the smallest that
    shows it. It came with `seed`, after `executions` and `seconds`; `count` inputs were of the
    bucket. `files` are `data` for people and other tools. `folder` and `command` are empty where
    nothing was saved."""

    problem: Problem
    data: bytes
    first: bytes
    seed: int
    executions: int
    seconds: float
    count: int = 1
    shrink_tries: int = 0
    files: Mapping[str, bytes] = field(default_factory=dict)
    folder: Path | None = None
    command: str = ""


def command(target: str, options: Sequence[str], path: Path) -> str:
    """The command that tries a saved input."""
    return shlex.join(("pybpfvm", "fuzz", target, *options, "--repeat", str(path)))


def require_place(out: Path) -> None:
    """Raises InputError where findings could not be saved to `out`, which nobody makes yet."""
    nearest = out.absolute()
    try:
        while not _is_there(nearest):
            nearest = nearest.parent
        with tempfile.TemporaryDirectory(dir=nearest, prefix=".pybpfvm-"):
            pass
    except OSError as error:
        raise InputError(
            f"findings can not be saved there: {error.strerror or error}",
            where=f"--out {out}",
            remedy="--out DIR, a folder that can be written",
        ) from None


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def save(found: Finding, target: str, out: Path, options: Sequence[str]) -> Finding:
    """Write the files of a finding to a folder of `out`, which is named by its bucket:

    input, input.first   the smallest and the first one, for --repeat
    finding.txt          what is wrong, and the command that repeats it
    and what the target makes of the input: a program as text and bytes, say.

    The finding with its folder and command. Raises InputError where that can not be written.
    """
    folder = out / f"{target}-{_file_name(found.problem.bucket)}"
    line = command(target, options, folder / "input")
    text = "\n".join(
        (
            found.problem.message,
            "",
            f"bucket: {found.problem.bucket}",
            f"found with seed {found.seed}, after {found.executions} executions",
            f"repeat: {line}",
            "",
            found.problem.details,
            "",
        )
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "input").write_bytes(found.data)
        (folder / "input.first").write_bytes(found.first)
        (folder / "finding.txt").write_text(text, encoding="utf-8", errors="backslashreplace")
        for file, content in found.files.items():
            (folder / file).write_bytes(content)
    except OSError as error:
        raise InputError(error.strerror or str(error), where=str(folder)) from None
    return replace(found, folder=folder, command=line)


def _file_name(bucket: str) -> str:
    """A name for files; buckets that are too long are told apart by their hash."""
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", bucket).strip("-")
    return (
        name if len(name) <= _NAME_CHARS else f"{name[:_NAME_CHARS]}-{name_of(bucket.encode())[:8]}"
    )

"""What a campaign has done, in a file, so that it goes on where it was stopped or killed.

Lines that are only appended, each with the CRC-32 of what follows it:

    8c736521 {"campaign": {...}}    first: what it is about
    ...      {"result": {...}}      then what each shard came to

A line that was broken off, or damaged, does not count: its shard is done again, and comes to the
same.
"""

from __future__ import annotations

import fcntl
import json
import os
import zlib
from base64 import b64decode, b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pybpfvm.errors import InputError
from pybpfvm.fuzz.campaign.shard import Kind, Result
from pybpfvm.fuzz.findings import Finding
from pybpfvm.fuzz.target import Problem

About = Mapping[str, Any]


class Journal:
    """The journal at a path, which is made if there is none. `about` is what the campaign in it is
    about; None until `begin`.

    Raises InputError where it can not be written, is no journal, or is in use.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.about: About | None = None
        self._places: dict[str, tuple[int, int]] = {}  # offsets and lengths of lines
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise InputError(error.strerror or str(error), where=str(path)) from None
        try:
            self._read()
        except BaseException:
            os.close(self._file)
            raise

    def _read(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(
                "another campaign writes to it",
                where=str(self.path),
                remedy="wait for its end, or name another journal",
            ) from None
        at = 0
        try:
            with self.path.open("rb") as file:
                for line in file:
                    if at and not line.endswith(b"\n"):
                        os.ftruncate(self._file, at)  # it was broken off
                        break
                    self._take(at, line)
                    at += len(line)
        except OSError as error:
            raise InputError(error.strerror or str(error), where=str(self.path)) from None

    def _take(self, at: int, line: bytes) -> None:
        entry = _entry(line)
        if at == 0:
            if entry is None or "campaign" not in entry:
                raise InputError(
                    "no journal of a campaign",
                    where=str(self.path),
                    remedy="name a file that does not exist yet",
                )
            self.about = entry["campaign"]
        elif entry is not None and "result" in entry:
            self._places.setdefault(entry["result"]["name"], (at, len(line)))

    def begin(self, about: About) -> None:
        """Say what the campaign is about. Raises InputError if it is about something else."""
        about = json.loads(json.dumps(about))
        if self.about is None:
            self._append({"campaign": about})
            self.about = about
            return
        for what in about:
            if self.about.get(what) != about[what]:
                raise InputError(
                    f"it is of a campaign with other {what}",
                    where=str(self.path),
                    remedy="go on with the same command and the same code, or name another journal",
                )

    def get(self, name: str) -> Result | None:
        """What the shard of this name came to, if that is known."""
        if name not in self._places:
            return None
        at, length = self._places[name]
        entry = _entry(os.pread(self._file, length, at))
        return None if entry is None else _result(entry["result"])

    def add(self, result: Result) -> None:
        """Note a result, and see it on the disk; nothing if it is there."""
        if result.name not in self._places:
            at = os.fstat(self._file).st_size
            length = self._append({"result": _plain(result)})
            self._places[result.name] = at, length
            os.fdatasync(self._file)

    def _append(self, entry: Mapping[str, Any]) -> int:
        """Write a line; its length."""
        text = json.dumps(entry, separators=(",", ":")).encode()
        line = b"%08x %s\n" % (zlib.crc32(text), text)
        left = line
        try:
            while left:
                left = left[os.write(self._file, left) :]
            return len(line)
        except OSError as error:
            raise InputError(error.strerror or str(error), where=str(self.path)) from None

    def close(self) -> None:
        """End of the campaign, or of this part of it."""
        os.close(self._file)


def _entry(line: bytes) -> dict[str, Any] | None:
    """What a line says; None if it is damaged or has no end."""
    checksum, _, text = line.removesuffix(b"\n").partition(b" ")
    if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(text):
        return None
    try:
        entry = json.loads(text)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


# What of a result is plain as it is.
_PLAIN = (
    *("name", "number", "first", "seeds", "seconds", "executions"),
    *("outcomes", "judged", "accepted", "hits"),
)


def _plain(result: Result) -> dict[str, Any]:
    return {
        **{what: getattr(result, what) for what in _PLAIN},
        "kind": result.kind.value,
        "kept": [[_text(data), sorted(features)] for data, features in result.kept],
        "findings": [_plain_finding(found) for found in result.findings],
    }


def _result(plain: Mapping[str, Any]) -> Result:
    kept = tuple((b64decode(data), frozenset(features)) for data, features in plain["kept"])
    others = {what: plain[what] for what in _PLAIN}
    return Result(
        **others,
        kind=Kind(plain["kind"]),
        kept=kept,
        findings=tuple(map(_finding, plain["findings"])),
    )


def _plain_finding(found: Finding) -> dict[str, Any]:
    problem = found.problem
    return {
        "problem": [problem.bucket, problem.message, problem.details],
        "data": _text(found.data),
        "first": _text(found.first),
        "seed": found.seed,
        "executions": found.executions,
        "seconds": found.seconds,
        "count": found.count,
        "shrink_tries": found.shrink_tries,
        "files": {name: _text(content) for name, content in found.files.items()},
    }


def _finding(plain: Mapping[str, Any]) -> Finding:
    return Finding(
        Problem(*plain["problem"]),
        b64decode(plain["data"]),
        b64decode(plain["first"]),
        plain["seed"],
        plain["executions"],
        plain["seconds"],
        plain["count"],
        plain["shrink_tries"],
        {name: b64decode(content) for name, content in plain["files"].items()},
    )


def _text(data: bytes) -> str:
    return b64encode(data).decode("ascii")

"""What a campaign has done, in a file, so that it goes on where it was stopped or killed.

Lines that are only appended, each with the CRC-32 of what follows it:

    8c736521 {"campaign": {...}}    first: what it is about
    ...      {"result": {...}}      then what each shard came to

A line that was broken off, or damaged, or says anything else, does not count: its shard is done
again, and comes to the same.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import stat
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
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")  # names of files that targets give to findings


class Journal:
    """The journal at a path, a file that is made if there is none. `about` is what the campaign in
    it is about; None until `begin`.

    Raises InputError where it can not be written, is no journal, or is in use.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.about: About | None = None
        self._places: dict[str, tuple[int, int]] = {}  # offsets and lengths of lines
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:
            remedy = f"make {path.parent} first, or name another file"
            raise InputError("there is no such folder", where=str(path), remedy=remedy) from None
        except OSError as error:
            raise InputError(error.strerror or str(error), where=str(path)) from None
        try:
            self._check_kind()
            self._read()
        except BaseException:
            os.close(self._file)
            raise

    def _check_kind(self) -> None:
        """A device or a FIFO might be read for ever."""
        if not stat.S_ISREG(os.fstat(self._file).st_mode):
            raise InputError(
                "not a regular file", where=str(self.path), remedy="name one, or a new one"
            )

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
            about = None if entry is None else entry.get("campaign")
            if not isinstance(about, dict) or not _are_texts(about.get("corpus")):
                raise InputError(
                    "no journal of a campaign",
                    where=str(self.path),
                    remedy="name a file that does not exist yet",
                )
            self.about = about
            return
        result = None if entry is None else entry.get("result")
        if isinstance(result, dict) and isinstance(name := result.get("name"), str):
            self._places[name] = at, len(line)

    def begin(self, about: About) -> None:
        """Say what the campaign is about, at least its `corpus`: the names of the inputs that it
        begins with. Raises InputError if it is about something else."""
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
        try:
            entry = _entry(os.pread(self._file, length, at))
            assert entry is not None
            return _result(entry["result"])
        except (KeyError, TypeError, ValueError):  # a journal may come from anywhere
            del self._places[name]
            return None

    def add(self, result: Result) -> None:
        """Note a result; nothing if it is there."""
        if result.name not in self._places:
            at = os.fstat(self._file).st_size
            length = self._append({"result": _plain(result)})
            self._places[result.name] = at, length

    def _append(self, entry: Mapping[str, Any]) -> int:
        """Write a line, and see it on the disk; its length."""
        text = json.dumps(entry, separators=(",", ":")).encode()
        line = b"%08x %s\n" % (zlib.crc32(text), text)
        left = line
        try:
            while left:
                left = left[os.write(self._file, left) :]
            os.fdatasync(self._file)
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
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None


# What of a result is plain as it is.
_PLAIN: Mapping[str, type] = {
    "name": str,
    **dict.fromkeys(("number", "first", "seeds", "executions", "judged", "accepted"), int),
    "seconds": float,
}


def _plain(result: Result) -> dict[str, Any]:
    return {
        **{what: getattr(result, what) for what in _PLAIN},
        "outcomes": result.outcomes,
        "hits": result.hits,
        "kind": result.kind.value,
        "kept": [[_text(data), sorted(features)] for data, features in result.kept],
        "findings": [_plain_finding(found) for found in result.findings],
    }


def _result(plain: Mapping[str, Any]) -> Result:
    """Raises KeyError, TypeError, ValueError for what `_plain` does not make."""
    kept = tuple(
        (_data(data), frozenset(_typed(one, int) for one in _typed(features, list)))
        for data, features in _typed(plain["kept"], list)
    )
    hits = {what: _counts(counts) for what, counts in _typed(plain["hits"], dict).items()}
    return Result(
        **{what: _typed(plain[what], wanted) for what, wanted in _PLAIN.items()},
        kind=Kind(plain["kind"]),
        outcomes=_counts(plain["outcomes"]),
        hits=hits,
        kept=kept,
        findings=tuple(map(_finding, _typed(plain["findings"], list))),
    )


# What of a finding is plain as it is.
_PLAIN_OF_FINDING: Mapping[str, type] = {
    **dict.fromkeys(("seed", "executions", "count", "shrink_tries"), int),
    "seconds": float,
}


def _plain_finding(found: Finding) -> dict[str, Any]:
    problem = found.problem
    return {
        **{what: getattr(found, what) for what in _PLAIN_OF_FINDING},
        "problem": [problem.bucket, problem.message, problem.details],
        "data": _text(found.data),
        "first": _text(found.first),
        "files": {name: _text(content) for name, content in found.files.items()},
    }


def _finding(plain: Mapping[str, Any]) -> Finding:
    bucket, message, details = (_typed(one, str) for one in plain["problem"])
    files = _typed(plain["files"], dict)
    if not all(map(_FILE.fullmatch, files)):
        raise ValueError("a file that lies anywhere")
    return Finding(
        Problem(bucket, message, details),
        _data(plain["data"]),
        _data(plain["first"]),
        files={name: _data(content) for name, content in files.items()},
        **{what: _typed(plain[what], wanted) for what, wanted in _PLAIN_OF_FINDING.items()},
    )


def _typed(value: Any, wanted: type) -> Any:
    if type(value) is not wanted:
        raise TypeError(f"{value!r:.60} is no {wanted.__name__}")
    return value


def _counts(value: Any) -> dict[str, int]:
    return {name: _typed(count, int) for name, count in _typed(value, dict).items()}


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _data(text: Any) -> bytes:
    return b64decode(_typed(text, str), validate=True)


def _text(data: bytes) -> str:
    return b64encode(data).decode("ascii")

"""What a long campaign has done so far, in a file, so that it goes on where it was stopped."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.support.evidence import ROOT


@dataclass(frozen=True)
class Chunk:
    """Work of one process: `count` cases of a kind, from the seed `first` on."""

    kind: str
    first: int
    count: int


Found = Mapping[str, object]


def code_of(places: Iterable[str]) -> str:
    """Names the code that a campaign is about: what matches these patterns, and Python."""
    found = hashlib.sha256(sys.version.encode())
    for path in sorted(path for place in places for path in ROOT.glob(place)):
        found.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:16]


class Journal:
    """A file of lines: first what the campaign is `about`, its code above all, then each chunk
    that was done and what was found.

    What other code has done, or a line that was broken off, does not count.
    """

    def __init__(self, path: Path, about: Mapping[str, object]) -> None:
        self._path = path
        self._found: dict[Chunk, Found] = {}
        head = json.dumps(about)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        if lines and lines[0] != head:
            print(f"{path} is about other code: begun anew", flush=True)
        elif lines:
            for line in lines[1:]:
                try:
                    entry = json.loads(line)
                except json.JSONDecodeError:
                    continue
                self._found[Chunk(**entry["chunk"])] = entry["found"]
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8") as file:
            file.write(head + "\n")
            file.writelines(_line(chunk, found) for chunk, found in self._found.items())

    def left(self, chunk: Chunk) -> bool:
        """Whether it is still to be done."""
        return chunk not in self._found

    def found(self, chunk: Chunk) -> Found:
        """What a chunk that was done found."""
        return self._found[chunk]

    def add(self, chunk: Chunk, found: Found) -> None:
        """Note what a chunk found."""
        self._found[chunk] = found
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_line(chunk, found))


def _line(chunk: Chunk, found: Found) -> str:
    return json.dumps({"chunk": asdict(chunk), "found": found}) + "\n"

"""C files as editors know them: by a path on this disk, or by a number where there is no such file.

Of a file that is not here, what BTF keeps of it is shown: the text of each line that code is of.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pybpfvm.debugger.dap.arguments import Source
from pybpfvm.errors import SourceLine

_MOST_LINES = 100_000  # of a text that is put together


class SourceFile:
    """A file by its name in the object, with the lines that code is of."""

    def __init__(self, name: str, number: int, folders: Sequence[Path]) -> None:
        self.name = name
        self.number = number
        self.path = _on_disk(name, folders)
        self._texts: dict[int, str] = {}
        self._sorted: list[int] = []

    def add(self, line: SourceLine) -> None:
        """Code is of that line."""
        self._texts.setdefault(line.line, line.text)

    @property
    def lines(self) -> Sequence[int]:
        """The lines that code is of, ascending."""
        if len(self._sorted) != len(self._texts):
            self._sorted = sorted(self._texts)
        return self._sorted

    def line_from(self, line: int) -> int | None:
        """The first line with code that is not before `line`."""
        place = bisect_left(self.lines, line)
        return self.lines[place] if place < len(self.lines) else None

    def reference(self) -> dict[str, Any]:
        """As protocol messages name it."""
        short = Path(self.name).name
        if self.path is not None:
            return {"name": short, "path": str(self.path)}
        return {
            "name": short,
            "path": self.name,
            "sourceReference": self.number,
            "origin": "lines that the object's BTF keeps",
            "presentationHint": "deemphasize",
        }

    def text(self) -> str:
        """What is known of it."""
        if self.path is not None:
            return self.path.read_text(encoding="utf-8", errors="replace")
        last = min(self.lines[-1] if self.lines else 0, _MOST_LINES)
        return "".join(f"{self._texts.get(line, '')}\n" for line in range(1, last + 1))


class Sources:
    """The files of a recording's objects."""

    def __init__(self, lines: Iterable[Mapping[int, SourceLine]], folders: Sequence[Path]) -> None:
        self.files: dict[str, SourceFile] = {}
        for known in lines:
            for line in known.values():
                file = self.files.get(line.file)
                if file is None:
                    file = SourceFile(line.file, len(self.files) + 1, folders)
                    self.files[line.file] = file
                file.add(line)

    def numbered(self, number: int) -> SourceFile | None:
        """The file with that number."""
        return next((one for one in self.files.values() if one.number == number), None)

    def meant(self, source: Source) -> SourceFile | None:
        """The file that a client names: the one at its path, or else the one whose name ends most
        alike."""
        if source.source_reference:
            return self.numbered(source.source_reference)
        if not source.path:
            return None
        wanted = Path(source.path)
        for file in self.files.values():
            if file.path is not None and _same(file.path, wanted):
                return file
        alike = {name: _alike(name, source.path) for name in self.files}
        best = max(alike.values(), default=0)
        found = [name for name, count in alike.items() if count == best]
        return self.files[found[0]] if best and len(found) == 1 else None


def _on_disk(name: str, folders: Sequence[Path]) -> Path | None:
    """Where the file is: names in objects are of where the compiler ran, so the end of one may be
    found in, or above, a folder of the recording."""
    if Path(name).is_absolute():
        return Path(name) if Path(name).is_file() else None
    for folder in folders:
        for base in (folder, *folder.parents):
            found = base / name
            if found.is_file():
                return found.resolve()
    return None


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except (OSError, ValueError):  # of a path with a NUL
        return False


def _alike(name: str, path: str) -> int:
    """How many of their last parts are the same."""
    parts = zip(reversed(_parts(name)), reversed(_parts(path)), strict=False)
    count = 0
    for one, other in parts:
        if one != other:
            break
        count += 1
    return count


def _parts(path: str) -> list[str]:
    return [part for part in path.replace("\\", "/").split("/") if part not in ("", ".")]

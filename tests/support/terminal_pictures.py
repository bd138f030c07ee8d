"""Pictures of the terminal debugger for docs/debugging.md, made by `make pictures`.

A shell on a pseudo-terminal is typed to, as a newcomer who follows the page would; what its screen
shows between two commands is written as SVG to docs/images. Nothing in them is typed in.
"""

from __future__ import annotations

import io
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from html import unescape
from itertools import groupby
from pathlib import Path

import pexpect
import pyte
from rich.console import Console
from rich.style import Style
from rich.terminal_theme import TerminalTheme
from rich.text import Text

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs" / "images"

# What is typed for each picture, in one session.
PICTURES = {
    "debug-record": ["pybpfvm run tests/data/hang/scenario.toml --quiet --record echo.bpftrace"],
    "debug-ring": ["pybpfvm debug echo.bpftrace", "ring", "timeline"],
    "debug-why": [
        "break echo.bpf.c:75",
        "rc",
        "p done.res",
        "p state[0].want",
        "why state[0].want",
        "goto 4:32",
        "list",
    ],
    "debug-fixed": [
        "quit",
        "grep -A4 'ifdef FIXED' tests/data/hang/echo.bpf.c",
        "pybpfvm run tests/data/hang/scenario.toml --quiet --object tests/data/hang/fixed.v3.bpf.o",
    ],
}

_COLUMNS, _ROWS = 100, 400
_PROMPTS = ("$", "(pybpfvm)")
_QUIET_S, _PATIENCE_S = 0.4, 60.0
_THEME = TerminalTheme(
    (30, 32, 36),
    (222, 222, 222),
    [
        (90, 90, 90), (240, 113, 120), (152, 195, 121), (229, 192, 123),
        (97, 175, 239), (198, 120, 221), (86, 182, 194), (222, 222, 222),
    ],
)  # fmt: skip
# Without the fonts from elsewhere that rich names; each run of text says how wide it is.
_SVG = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix, .{unique_id}-title {{
font-family: "DejaVu Sans Mono", Menlo, Consolas, monospace; font-size: {char_height}px;
white-space: pre; }}
.{unique_id}-title {{ font-size: 18px; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


class Terminal:
    """A shell in a folder, whose screen is long enough for all that it is told."""

    def __init__(self, folder: Path) -> None:
        (folder / "bin").mkdir()
        command = folder / "bin" / "pybpfvm"
        command.write_text(f'#!/bin/sh\nexec {sys.executable} -m pybpfvm "$@"\n')
        command.chmod(0o755)
        for name in ("tests", "examples"):
            (folder / name).symlink_to(ROOT / name)
        environment = {
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "HOME": str(folder),
            "PS1": "$ ",
            "TERM": "xterm",
            "LANG": "C.UTF-8",
            "PROMPT_TOOLKIT_NO_CPR": "1",
        }
        self._screen = pyte.Screen(_COLUMNS, _ROWS)
        self._stream = pyte.Stream(self._screen)
        self._child: pexpect.spawn[str] = pexpect.spawn(
            "/bin/sh",
            cwd=str(folder),
            env=environment,
            encoding="utf-8",
            dimensions=(_ROWS, _COLUMNS),
        )
        self._until_prompt(-1)

    def close(self) -> None:
        """End it."""
        self._child.close(force=True)

    @property
    def row(self) -> int:
        """Where the cursor is, from 0."""
        return int(self._screen.cursor.y)

    def type(self, line: str) -> None:
        """Type a line, and wait for the next prompt."""
        row = self.row
        self._child.send(line + "\r")
        self._until_prompt(row)

    def _until_prompt(self, row: int) -> None:
        until = time.monotonic() + _PATIENCE_S
        while time.monotonic() < until:
            try:
                self._stream.feed(self._child.read_nonblocking(1 << 16, _QUIET_S))
            except pexpect.TIMEOUT:
                shown = self._screen.display[self.row].strip()
                if self.row > row and shown in _PROMPTS:
                    return
        raise AssertionError(f"no prompt came: {self._screen.display[self.row]!r}")

    def rows(self, first: int, last: int) -> Iterator[Text]:
        """The rows from `first` to before `last`, with their colours."""
        for row in range(first, last):
            text = Text()
            chars = [self._screen.buffer[row][column] for column in range(_COLUMNS)]
            for (fg, bold), run in groupby(chars, lambda char: (char.fg, char.bold)):
                colour = {"default": None, "brown": "yellow"}.get(fg, fg)  # as pyte calls them
                text.append("".join(char.data for char in run), Style(color=colour, bold=bold))
            text.rstrip()
            yield text


def made() -> dict[str, str]:
    """Each picture as SVG, by name."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        terminal = Terminal(Path(folder))
        try:
            for name, lines in PICTURES.items():
                first = terminal.row
                for line in lines:
                    terminal.type(line)
                found[name] = _svg(list(terminal.rows(first, terminal.row)))
        finally:
            terminal.close()
    return found


def _svg(rows: list[Text]) -> str:
    console = Console(
        record=True,
        width=_COLUMNS,
        file=io.StringIO(),
        force_terminal=True,
        color_system="standard",
        highlight=False,
        legacy_windows=False,
    )
    for row in (*rows, Text()):
        console.print(row, crop=True, no_wrap=True)
    return console.export_svg(title="", theme=_THEME, code_format=_SVG)


def text_of(svg: str) -> list[str]:
    """What a picture says, run of text by run of text, without spaces."""
    found = re.findall(r"<text [^>]*>([^<]*)</text>", svg)
    return [word for one in found for word in unescape(one).replace("\xa0", " ").split()]


def main() -> None:
    """Write them all."""
    for name, svg in made().items():
        (IMAGES / f"{name}.svg").write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()

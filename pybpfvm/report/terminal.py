"""Tables and emphasis on a terminal, through rich: colour only there, NO_COLOR honoured."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

_PIPE_WIDTH = 160


class _Out(Console):
    """rich ends the process with code 1 when the reader has gone; the command line decides."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def _console(*, soft_wrap: bool = False) -> Console:
    """stdout, as wide as the terminal, or wide enough when it is a pipe."""
    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    return _Out(width=width, highlight=False, soft_wrap=soft_wrap)


def heading(text: str) -> None:
    """A line that starts a part."""
    _console(soft_wrap=True).print(Text(text, style="bold"))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Aligned columns under a header; long cells wrap on terminals."""
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in columns:
        grid.add_column(name, overflow="fold")
    for row in rows:
        grid.add_row(*(Text(str(cell)) for cell in row))
    out = _console()
    with out.capture() as capture:
        out.print(grid)
    # Trailing blanks would make expected output hard to keep in files.
    sys.stdout.write("\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n")

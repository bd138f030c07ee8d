"""Emphasis on terminals by their own codes: the report of a small object must not wait for more."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TextIO


@dataclass(frozen=True, slots=True)
class Paint:
    """Emphasis, or none where it would be noise."""

    on: bool

    def __call__(self, text: str, *styles: str) -> str:
        """`text` in these styles."""
        if not self.on or not text:
            return text
        return f"\x1b[{';'.join(_CODES[style] for style in styles)}m{text}\x1b[0m"


_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


def wants_colour(stream: TextIO) -> bool:
    """Whether `stream` is a terminal that shows colour, and nobody asked for none: no-color.org."""
    dumb = os.environ.get("TERM") == "dumb"
    return stream.isatty() and not os.environ.get("NO_COLOR") and not dumb

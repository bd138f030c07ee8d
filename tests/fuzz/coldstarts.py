"""Looking for the same thing from several cold starts: what it takes, as median and at worst.

A start ends with the first finding. Seconds are those of the processor's time, for what else the
machine does meanwhile is no part of it; tries are the target's.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from tests.support.evidence import keep

_FIGURES: Final = ("tries, median", "tries, worst", "ms, median", "ms, worst")
_PATIENCE: Final = 20  # of wall time a start may take so many times its seconds

Look = Callable[[str, int, float], int | None]
"""Look for the thing of this name from this start on, so many seconds of wall time at the most:
how many tries it took, None if it was not found."""


@dataclass(frozen=True, slots=True)
class Row:
    """What came of so many `starts`: tries and seconds of each that found it in time."""

    starts: int
    tries: tuple[int, ...]
    seconds: tuple[float, ...]

    @property
    def counts(self) -> dict[str, int]:
        """The row of a table."""
        found = {"starts": self.starts, "found": len(self.tries)}
        if not self.tries:
            return found | dict.fromkeys(_FIGURES, 0)
        figures = (
            statistics.median(self.tries),
            max(self.tries),
            1000 * statistics.median(self.seconds),
            1000 * max(self.seconds),
        )
        return found | dict(zip(_FIGURES, map(round, figures), strict=True))


def looked(name: str, look: Look, starts: int, seconds: float) -> Row:
    """Look from so many cold starts, each for so many seconds of the processor's time."""
    found = []
    for start in range(starts):
        began = time.process_time()
        tries = look(name, start, seconds * _PATIENCE)
        spent = time.process_time() - began
        if tries is not None and spent <= seconds:
            found.append((tries, spent))
    return Row(starts, tuple(one for one, _ in found), tuple(one for _, one in found))


def figures(what: str, rows: Mapping[str, Row], seconds: float) -> tuple[tuple[str, str], ...]:
    """The rows of evidence that a table comes to."""
    always = sum(row.starts == len(row.tries) for row in rows.values())
    spent = [one for row in rows.values() for one in row.seconds]
    starts = max(row.starts for row in rows.values())
    return (
        (
            f"{what} found from each of {starts} cold starts, in {seconds:g} s of a processor",
            f"{always} of {len(rows)}",
        ),
        (
            f"{what}: seconds to find one, median and worst",
            f"{statistics.median(spent):.2f}, {max(spent):.1f}",
        ),
    )


def measure(what: str, evidence: str, names: Iterable[str], look: Look, about: str) -> int:
    """Look for all of them as the command line says; prints a table, and keeps it as `evidence`
    where nothing was left out. 1 if one was not always found."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--seeds", type=int, default=20, help="cold starts (default 20)")
    parser.add_argument("--seconds", type=float, default=60.0, help="each at most (default 60)")
    parser.add_argument("--only", default="", metavar="TEXT", help="those with this in their name")
    args = parser.parse_args()
    print(f"{'':46}{'found':>8}" + "".join(f"{name:>15}" for name in _FIGURES))
    rows: dict[str, Row] = {}
    for name in (one for one in names if args.only in one):
        row = rows[name] = looked(name, look, args.seeds, args.seconds)
        share = f"{len(row.tries)}/{row.starts}"
        cells = "".join(f"{row.counts[figure]:15,}" for figure in _FIGURES)
        print(f"{name:46}{share:>8}{cells}", flush=True)
    if not args.only:
        counts = {name: row.counts for name, row in rows.items()}
        found = figures(what, rows, args.seconds)
        keep(evidence, "make fuzz-planted", found, tables={what.capitalize(): counts})
    return int(any(len(row.tries) < row.starts for row in rows.values()))

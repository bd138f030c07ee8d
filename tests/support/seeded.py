"""Seed after seed until there were enough or time is up: a seed that finds something is named."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence


def each_seed(
    variables: str, compare: Callable[[int], Sequence[str]], *, count: int, seconds: float
) -> None:
    """Fail at the first seed for which `compare` finds differences.

    `count` seeds within `seconds`, and 20 at the least; $`variables`_SEQUENCES asks for another
    number of them (more than `count`: without a limit of time), $`variables`_SEED for the first.
    """
    wanted = int(os.environ.get(f"{variables}_SEQUENCES", count))
    first = int(os.environ.get(f"{variables}_SEED", 1))
    end = time.monotonic() + (seconds if wanted <= count else float("inf"))
    played = 0
    for seed in range(first, first + wanted):
        found = compare(seed)
        assert not found, "\n".join((f"{variables}_SEED={seed}", *found))
        played += 1
        if time.monotonic() > end:
            break
    assert played >= min(wanted, 20)

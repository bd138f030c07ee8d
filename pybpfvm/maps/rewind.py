"""Bringing maps back to how they were, for who runs the same thing again and again."""

from __future__ import annotations

from collections.abc import Callable

from pybpfvm.maps.array import ArrayMap
from pybpfvm.maps.base import BpfMap
from pybpfvm.maps.handles import ProgArrayMap
from pybpfvm.maps.hash import HashMap
from pybpfvm.maps.queue import QueueMap


def rewinder(live: BpfMap) -> Callable[[], None] | None:
    """What brings the map back to how it is now; None for maps where nothing does.

    Arrays go back to any content, hashes, queues and stacks only to being empty. The addresses of
    elements that come afterwards are those of the first time.
    """
    if isinstance(live, ProgArrayMap):
        return lambda: None  # only hosts change it
    if isinstance(live, ArrayMap):
        memory = live.memory
        before = [(one.start, memory.read(one.start, one.size)) for one in live.regions]

        def restore() -> None:
            for start, data in before:
                memory.write(start, data)

        return restore
    if isinstance(live, HashMap | QueueMap) and not len(live):
        return live.clear
    return None

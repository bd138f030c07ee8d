"""What a process has of the system, before and after, and whether its memory grows."""

from __future__ import annotations

import ctypes
import gc
import os
import re
import signal
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from functools import _lru_cache_wrapper
from pathlib import Path
from statistics import median

from pybpfvm import interrupts, outline
from pybpfvm.jit.faults import _SIGNALS, _installed

GROWTH_BYTES = 4 << 20  # of resident memory, between the second and the last quarter of a run
GROWTH_OBJECTS = 200  # that the collector knows, likewise
LEAST_ROUNDS = 16  # fewer tell nothing of growth
SPARE_MAPPINGS = 40  # of the allocators
_SETTLE_S = 10.0  # workers of closed rings leave by and by
_MACHINE_BYTES = 1 << 33  # a machine reserves more than this
_PAGE = os.sysconf("SC_PAGE_SIZE")
_NUMBERS = re.compile(r"\d+")


@dataclass(frozen=True)
class Process:
    """What must be the same again: descriptors by what they are, threads, handlers of signals,
    machines' address ranges, mappings that only we make, children, temporary files."""

    fds: Counter[str]
    threads: Counter[str]
    handlers: dict[str, object]
    machines: int
    read_only_twins: int
    children: int
    temporary: tuple[str, ...]
    mappings: int

    @classmethod
    def now(cls) -> Process:
        """As it is now, garbage collected."""
        gc.collect()
        maps = Path("/proc/self/maps").read_text(encoding="ascii", errors="replace").splitlines()
        return cls(
            fds=_descriptors(),
            threads=_threads(),
            handlers=_handlers(),
            machines=int(_statm()[0]) * _PAGE // _MACHINE_BYTES,
            read_only_twins=sum("pybpfvm read-only" in line for line in maps),
            children=_children(),
            temporary=tuple(sorted(os.listdir(tempfile.gettempdir()))),
            mappings=len(maps),
        )

    def differences(self, before: Process, *, warm: bool = True) -> list[str]:
        """What is not as it was. What is made once in a process (handlers, descriptors that
        libraries keep) may be made before it is `warm`."""
        found = []
        names = ("threads", "machines", "read_only_twins", "children", "temporary")
        for name in (*names, "fds", "handlers") if warm else names:
            ours, theirs = getattr(self, name), getattr(before, name)
            if isinstance(ours, dict):
                keys = [key for key in ours | theirs if ours.get(key) != theirs.get(key)]
                found += [f"{name}: {key} {theirs.get(key)} -> {ours.get(key)}" for key in keys]
            elif isinstance(ours, int) and ours < theirs:
                continue  # what others left before this was given back meanwhile
            elif ours != theirs:
                found.append(f"{name}: {theirs} -> {ours}")
        if warm and self.mappings > before.mappings + SPARE_MAPPINGS:
            found.append(f"mappings: {before.mappings} -> {self.mappings}")
        return found


def settled(before: Process, patience_s: float = _SETTLE_S, *, warm: bool = True) -> list[str]:
    """What is not as it was, once that has had time to go away."""
    end = time.monotonic() + patience_s
    while found := Process.now().differences(before, warm=warm):
        if time.monotonic() > end:
            break
        time.sleep(0.02)
    return found


def _descriptors() -> Counter[str]:
    found = Counter[str]()
    for name in os.listdir("/proc/self/fd"):
        try:
            found[_NUMBERS.sub("N", os.readlink(f"/proc/self/fd/{name}"))] += 1
        except OSError:
            continue  # the one that read the directory
    return found


def _threads() -> Counter[str]:
    """The process's tasks by name: Python's threads, and the kernel's workers for its rings."""
    found = Counter[str](python=threading.active_count())
    for task in os.listdir("/proc/self/task"):
        try:
            comm = Path(f"/proc/self/task/{task}/comm").read_text(encoding="utf-8").strip()
        except OSError:
            continue
        found[_NUMBERS.sub("N", comm)] += 1
    return found


def _handlers() -> dict[str, object]:
    found: dict[str, object] = {
        number.name: signal.getsignal(number)
        for number in signal.valid_signals()
        if isinstance(number, signal.Signals)
    }
    found |= {f"sigaction of {number.name}": _installed(number)[0] for number in _SIGNALS}
    waiting = interrupts._waiting
    found["within a call"] = waiting.calls, waiting.handling
    found["handlers that wait"] = dict(waiting.handlers), dict(waiting.due)
    return found


def _children() -> int:
    tasks = os.listdir("/proc/self/task")
    return sum(len(_read(f"/proc/self/task/{task}/children").split()) for task in tasks)


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii")
    except OSError:
        return ""


def _statm() -> list[str]:
    return _read("/proc/self/statm").split()


def _give_back_free_memory() -> None:
    """What the C library holds ready for others was needed once, and is no leak."""
    with suppress(AttributeError):  # it has no such function
        ctypes.CDLL(None)["malloc_trim"](0)


@dataclass
class Memory:
    """Resident bytes and objects, round by round."""

    rss: list[int] = field(default_factory=list)
    objects: list[int] = field(default_factory=list)

    def sample(self) -> None:
        """A round is over."""
        _empty_caches()
        gc.collect()
        _give_back_free_memory()
        self.rss.append(int(_statm()[1]) * _PAGE)
        self.objects.append(len(gc.get_objects()))

    def growth(self) -> tuple[int, int]:
        """Bytes and objects more in the last quarter than in the second, by their medians; the
        first is the time to warm up."""
        return _growth(self.rss), _growth(self.objects)

    def wrong(self) -> list[str]:
        """Growth beyond the bounds, if there were rounds enough to tell."""
        if len(self.rss) < LEAST_ROUNDS:
            return []
        found = []
        for what, growth, bound in zip(
            ("resident bytes", "objects"), self.growth(), (GROWTH_BYTES, GROWTH_OBJECTS)
        ):
            if growth > bound:
                rounds = len(self.rss)
                found.append(f"{growth:,} more {what} after {rounds} rounds (bound {bound:,})")
        return found


def _empty_caches() -> None:
    """Those with a bound are no leaks, and hide some while they fill."""
    outline._outlines.clear()
    for found in gc.get_objects():
        if isinstance(found, _lru_cache_wrapper) and found.cache_parameters()["maxsize"]:
            found.cache_clear()


def _growth(samples: list[int]) -> int:
    quarter = len(samples) // 4
    if not quarter:
        return 0
    return int(median(samples[-quarter:]) - median(samples[quarter : 2 * quarter]))

"""Six programs on every engine: millions of BPF instructions a second, and ratios of times.

An instruction is one of the BPF bytecode, counted exactly, for every engine: native code executes
fewer, and is given the same number. All engines run a program back to back in each round. A figure
is the median of the fastest quarter of the rounds: what other processes took of the others does
not count (and a kernel does not account for its own BPF runs well enough to use CPU time). All must
compute the same words.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from statistics import median

from bench.sides import (
    INTERP,
    KERNEL,
    NATIVE,
    PROGRAMS,
    EngineSide,
    Missing,
    Side,
    makers,
)

_ROUNDS = 48
_SECONDS = 0.0015  # of each run
_CHECKED_TURNS = 3
_SHORTEST = 1e-3


@dataclass(frozen=True, slots=True)
class Speeds:
    """Million instructions per second by side and program; `skipped` says why sides are not
    there."""

    by_side: Mapping[str, Mapping[str, float]]
    skipped: Mapping[str, str]

    def ratio(self, side: str, other: str, programs: Sequence[str]) -> float | None:
        """Geometric mean of the side's speeds as multiples of the other's; None if one misses."""
        if side not in self.by_side or other not in self.by_side:
            return None
        ones, others = self.by_side[side], self.by_side[other]
        return exp(sum(log(ones[name] / others[name]) for name in programs) / len(programs))


def measure(rounds: int = _ROUNDS, seconds: float = _SECONDS) -> Speeds:
    """Run everything."""
    sides: list[Side] = []
    skipped: dict[str, str] = {}
    for name, make in makers():
        try:
            sides.append(make())
        except Missing as missing:
            skipped[name] = str(missing)
    try:
        speeds: dict[str, dict[str, float]] = {side.name: {} for side in sides}
        for program in PROGRAMS:
            _check(sides, program)
            insns = _insns(sides, program)
            for name, turns in _turns_a_second(sides, program, rounds, seconds).items():
                speeds[name][program] = turns * insns / 1e6
    finally:
        for side in sides:
            side.close()
    return Speeds(speeds, skipped)


def slowdowns(sides: Sequence[Side], program: str) -> dict[str, float]:
    """Times of the sides as multiples of the first one's, without that."""
    _check(sides, program)
    first, *others = _turns_a_second(sides, program, _ROUNDS, _SECONDS).items()
    return {name: first[1] / turns for name, turns in others}


def _turns_a_second(
    sides: Sequence[Side], program: str, rounds: int, seconds: float
) -> dict[str, float]:
    turns = {side.name: _calibrated(side, program, seconds) for side in sides}
    found: dict[str, list[float]] = {side.name: [] for side in sides}
    for _ in range(rounds):
        for side in sides:
            found[side.name].append(turns[side.name] / _timed(side, program, turns[side.name]))
    return {name: undisturbed(values) for name, values in found.items()}


# Geometric means over programs of speeds as multiples of another side's.
RATIOS = {
    f"A-E / {NATIVE}": (NATIVE, PROGRAMS[:5]),
    f"A-D / {KERNEL}": (KERNEL, PROGRAMS[:4]),
    f"E-F / {KERNEL}": (KERNEL, PROGRAMS[4:]),
}
HEADERS = ("Mi/s", *PROGRAMS, *RATIOS)


def ratios(speeds: Speeds) -> dict[str, dict[str, float]]:
    """The ratios, by what they are and by side; those that can not be had are left out."""
    found: dict[str, dict[str, float]] = {what: {} for what in RATIOS}
    for what, (other, programs) in RATIOS.items():
        for name in speeds.by_side:
            ratio = speeds.ratio(name, other, programs)
            if ratio is not None:
                found[what][name] = ratio
    return found


def rows(speeds: Speeds) -> list[tuple[str, ...]]:
    """The table, a side a row."""
    by_ratio = ratios(speeds)
    return [
        (
            name,
            *(f"{values[program]:,.0f}" for program in PROGRAMS),
            *(f"{by_side[name]:.3g}" if name in by_side else "-" for by_side in by_ratio.values()),
        )
        for name, values in speeds.by_side.items()
    ]


def undisturbed(speeds: Sequence[float]) -> float:
    """The median of the fastest quarter."""
    return median(sorted(speeds)[len(speeds) * 3 // 4 :])


def _timed(side: Side, program: str, turns: int) -> float:
    start = time.perf_counter()
    side.run(program, turns, 1)
    return time.perf_counter() - start


def _calibrated(side: Side, program: str, seconds: float) -> int:
    """So many turns that a run takes about `seconds`."""
    turns = 1
    while True:
        took = min(_timed(side, program, turns) for _ in range(3))
        if took >= _SHORTEST:
            return max(1, round(turns * seconds / took))
        turns *= 4


def _insns(sides: Sequence[Side], program: str) -> float:
    """Instructions of a turn."""
    oracle = next(side for side in sides if side.name == INTERP)
    assert isinstance(oracle, EngineSide)
    return oracle.insns(program, 2) - oracle.insns(program, 1)


def _check(sides: Sequence[Side], program: str) -> None:
    """Every side gives what the interpreter gives."""
    results = {side.name: side.run(program, _CHECKED_TURNS, 1) for side in sides}
    if len(set(results.values())) != 1:
        raise AssertionError(f"{program}: the sides compute different things: {results}")


__all__ = ["HEADERS", "PROGRAMS", "Speeds", "measure", "ratios", "rows", "slowdowns", "undisturbed"]

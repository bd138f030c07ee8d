"""What it costs to ask a condition, and to compile one: pingpong's ring after its scenario, an `r1`
that is made up."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from pybpfvm.expr import compile_expression
from pybpfvm.scenario import Live, parse, run_scenario

_SCENARIO = Path(__file__).resolve().parents[1] / "examples/03_pingpong/scenario.toml"
_TURNS = 20_000
_COMPILED = 100
_ROUNDS = 5
_CONDITIONS = (
    "r1 == 3",
    "r1 == 3 && r2 > 1",
    "cq[1].ready == 0",
    "players[1].hits == 6",
    "((struct player *)alice)->hits == 6",
    "me.hits == 3",
)


def _ns(call: Callable[[], object], turns: int) -> float:
    """The median processor time of one call."""
    rounds = []
    for _ in range(_ROUNDS):
        start = time.process_time_ns()
        for _ in range(turns):
            call()
        rounds.append((time.process_time_ns() - start) / turns)
    return median(rounds)


def run() -> list[tuple[str, float, str]]:
    """(what, figure, unit) rows."""
    rows: list[tuple[str, float, str]] = []

    def measure(live: Live) -> None:
        scope = live.scope
        block = live.blocks["alice"]
        scope.program = live.object.object.program("player")
        scope.pc = scope.program.slots - 1
        scope.regs = [block.addr] * 10 + [block.addr + 16]
        for text in _CONDITIONS:
            condition = compile_expression(text, scope)
            condition.holds(scope)
            rows.append((f"asking {text}", _ns(lambda: condition.holds(scope), _TURNS), "ns"))  # noqa: B023
        text = "cq[1].ready == 0 && players[1].hits > 3"
        time_ns = _ns(lambda: compile_expression(text, scope), _COMPILED)
        rows.append((f"compiling {text}", time_ns / 1000, "µs"))

    run_scenario(parse(_SCENARIO), on_end=measure)
    return rows

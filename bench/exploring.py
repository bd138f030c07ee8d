"""The explorer: schedules a second, and what it takes to find the broken twins that are its own.

Schedules of ping-pong are drawn, once with everything checked and once with what needs no events
(`explore --quick`); how long the default schedule takes without a stage that is kept is beside
them, how many can be drawn when none is played twice, and dfs through all of them. A twin is looked
for from a cold start (loading, verifying and compiling included) by pct with each of 20 seeds, and
by dfs. Seconds are those of the processor's time.
"""

from __future__ import annotations

import time
import tomllib
from dataclasses import replace
from pathlib import Path
from statistics import median

from pybpfvm.explore import explore
from pybpfvm.explore.strategies import RandomPlayer
from pybpfvm.explore.table import Options, Table
from pybpfvm.scenario import Scenario, parse, run_scenario

_EXAMPLES = Path(__file__).parents[1] / "examples"
_SCHEDULES = 300
_ALONE = 30
_DRAWN = 20_000
_SEEDS = 20

_now = time.process_time

Rows = list[tuple[str, float, str]]


def run() -> Rows:
    """Schedules a second; seconds and schedules for each twin."""
    pingpong = parse(_EXAMPLES / "03_pingpong/scenario.toml")
    rows = [
        ("ping-pong, everything checked", schedules(pingpong, Options()), "schedules/s"),
        ("ping-pong, without events", schedules(pingpong, Options(events=False)), "schedules/s"),
        ("ping-pong, set up anew each time", alone(pingpong), "runs/s"),
        *drawn(pingpong),
        *every(pingpong),
    ]
    known = tomllib.loads((_EXAMPLES / "twins.toml").read_text())
    for name, row in known.items():
        if "explore" in row:
            rows += finding(name, row["explore"])
    return rows


def schedules(scenario: Scenario, options: Options, count: int = _SCHEDULES) -> float:
    """Drawn schedules a second, once everything is set up."""
    with Table(scenario, options) as table:
        for seed in range(_ALONE):
            table.play(RandomPlayer(seed, 0))
        start = _now()
        for seed in range(count):
            table.play(RandomPlayer(seed, 0))
        return count / (_now() - start)


def alone(scenario: Scenario) -> float:
    """Runs a second where each loads, verifies and compiles."""
    run_scenario(scenario)
    start = _now()
    for _ in range(_ALONE):
        run_scenario(scenario)
    return _ALONE / (_now() - start)


def drawn(scenario: Scenario, count: int = _DRAWN) -> Rows:
    """Schedules a second that random draws, of which none is played twice."""
    start = _now()
    report = explore(scenario, Options(strategy="random", schedules=count))
    return [
        (f"ping-pong, {count:,} drawn by random", count / (_now() - start), "schedules/s"),
        ("ping-pong, different ones among them", report.different or 0, "schedules"),
    ]


def every(scenario: Scenario) -> Rows:
    """Schedules a second that dfs plays until there are no more, and how many that is."""
    start = _now()
    report = explore(scenario, Options(schedules=_DRAWN))
    taken = _now() - start
    if not report.exhaustive:
        raise ValueError(f"{report.schedules} schedules, and not all")
    return [
        ("ping-pong, every order by dfs", report.schedules / taken, "schedules/s"),
        ("ping-pong, orders in all", report.schedules, "schedules"),
    ]


def finding(name: str, kind: str, seeds: int = _SEEDS) -> Rows:
    """What it takes to find the twin of an example, as median and at worst."""
    folder = _EXAMPLES / name
    scenario = parse(folder / "scenario.toml")
    options = Options(object_path=str(folder / "twin.v3.bpf.o"), shrink=False)
    rows: Rows = []
    for strategy, count in (("pct", seeds), ("dfs", 1)):
        tries, seconds = [], []
        for seed in range(count):
            start = _now()
            report = explore(scenario, replace(options, strategy=strategy, seed=seed))
            seconds.append(_now() - start)
            if [found.shown.kind for found in report.found] != [kind]:
                raise ValueError(f"{name}, {strategy} {seed}: {report.found}")
            tries.append(report.schedules)
        what = f"twin of {name}, {strategy}"
        if count == 1:
            rows += [(what, seconds[0], "s"), (f"{what}, tries", tries[0], "schedules")]
            continue
        rows += [
            (f"{what}, median of {count}", median(seconds), "s"),
            (f"{what}, worst of {count}", max(seconds), "s"),
            (f"{what}, tries, median", median(tries), "schedules"),
            (f"{what}, tries, worst", max(tries), "schedules"),
        ]
    return rows

"""Which orders there are: the usual one is today's; reduction leaves out no state, no finding."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from pybpfvm.events import Event
from pybpfvm.explore import Report, explore
from pybpfvm.explore.footprints import Footprints, Touched
from pybpfvm.explore.table import Options, Table
from pybpfvm.scenario import Live, Scenario, parse, run_scenario
from pybpfvm.scenario.schedule import Player
from pybpfvm.scenario.watching import Checks
from tests.support.example_hosts import EXAMPLES
from tests.support.orders import OVERLAPS, SPINS, TELLS, WAITS, apart, scenario, two

ALL = Options(everything=True, shrink=False, schedules=3_000, seconds=120)
BASIC = [f"{n:02}" for n in range(1, 7)] + ["09", "12", "14", "17", "21"]
SCENARIOS = [path for n in BASIC for path in EXAMPLES.glob(f"{n}_*/scenario.toml")]
STAGED = [*BASIC, "08", "11", "15", "16", "18", "22", "23", "loop", "x"]
ON_STAGES = [path for n in STAGED for path in sorted(EXAMPLES.glob(f"{n}_*/scenario.toml"))]


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.parent.name)
def test_the_usual_schedule_is_the_run_without_one(path: object) -> None:
    made = parse(str(path))
    without: list[Event] = []
    usual: list[Event] = []
    run_scenario(made, observer=without.append)
    run_scenario(made, observer=usual.append, chooser=Player({}))
    assert without == usual


@pytest.mark.parametrize("path", ON_STAGES, ids=lambda path: path.parent.name)
def test_a_stage_that_is_used_again_gives_the_same_run(path: object) -> None:
    with Table(parse(str(path)), Options()) as table:
        runs: list[list[Event]] = [[], [], []]
        for events in runs[:2]:
            table.play(Player({}), observer=events.append)
        table.play(Player({0: 1, 1: 1}))
        table.play(Player({}), observer=runs[2].append)
    assert runs[0] == runs[1] == runs[2]
    fresh: list[Event] = []
    run_scenario(parse(str(path)), observer=fresh.append, chooser=Player({}), checks=Checks())
    assert fresh == runs[0]


def both(made: Scenario, options: Options = ALL) -> tuple[Report, Report]:
    return explore(made, options), explore(made, replace(options, reduce=False))


@pytest.mark.parametrize("count", [2, 3, 4])
def test_what_shares_nothing_has_one_order(count: int) -> None:
    reduced, full = both(apart(count))
    assert (reduced.exhaustive, full.exhaustive) == (True, True)
    assert full.schedules == math.factorial(count)
    assert reduced.schedules == 1
    assert reduced.saved
    assert reduced.states == full.states
    assert len(full.states) == 1


def test_what_shares_a_queue_has_every_order() -> None:
    reduced, full = both(apart(3, queues=False))
    assert reduced.schedules == full.schedules == 6
    assert reduced.states == full.states


@pytest.mark.parametrize("does", [WAITS, SPINS, OVERLAPS, TELLS])
def test_reduction_loses_no_finding(does: int) -> None:
    reduced, full = both(two(does))
    assert reduced.exhaustive
    assert full.exhaustive
    assert {one.shown.key for one in reduced.found} == {one.shown.key for one in full.found}
    assert reduced.states == full.states


def files(same: bool) -> Scenario:
    """Three writes by workers, to a file each or to one, whose CQEs come to queues of their own."""
    names = ["a", "a" if same else "b", "c"]
    sqes = ",".join(
        f'{{ op = "write", fd = "{fd}", addr = {{ block = "x" }}, len = 4, off = {at}, cq = {at},'
        f' flags = ["async"] }}'
        for at, fd in enumerate(names)
    )
    opened = "\n".join(
        f'[fds.{name}]\nopen = "{name}"\nflags = ["creat", "rdwr"]' for name in sorted({*names})
    )
    return scenario(
        f"""
programs = ["second"]
ring = {{ cq_entries = [16, 16] }}
steps = [{{ submit = [{sqes}] }}, {{ sleep = "20 ms" }}]
[user.x]
u32 = 7
{opened}
"""
    )


@pytest.mark.parametrize("same", [False, True])
def test_reduction_over_files(same: bool) -> None:
    reduced, full = both(files(same))
    assert (reduced.schedules, full.schedules) == (1, 3 if same else 6)
    assert reduced.reduced
    assert reduced.exhaustive
    assert reduced.states == full.states


def test_reduction_over_an_example() -> None:
    reduced, full = both(parse(EXAMPLES / "05_read_open/scenario.toml"), replace(ALL, depth=10))
    assert reduced.exhaustive
    assert full.exhaustive
    assert reduced.states == full.states
    assert {one.shown.key for one in reduced.found} == {one.shown.key for one in full.found}
    assert reduced.schedules <= full.schedules


def test_a_clock_that_is_read_late_takes_the_reduction_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begins = Footprints.begins
    runs = []

    def third_run_reads(self: Footprints, live: Live) -> None:
        runs.append(live)
        self.reads_time |= len(runs) > 2
        begins(self, live)

    monkeypatch.setattr(Footprints, "begins", third_run_reads)
    report = explore(apart(3), ALL)
    assert report.exhaustive
    assert not report.reduced
    assert report.schedules > math.factorial(3)  # all of them, after those before it was known
    assert report.saved == 0


def test_bounds() -> None:
    made = apart(4, queues=False)
    bounded = explore(made, replace(ALL, deviations=1))
    assert not bounded.exhaustive
    assert not bounded.reduced
    assert bounded.schedules == 1 + 3 + 2 + 1
    shallow = explore(made, replace(ALL, depth=1))
    assert shallow.exhaustive
    assert shallow.schedules == 4
    assert shallow.longest > 1
    few = explore(made, replace(ALL, schedules=5))
    assert (few.exhaustive, few.schedules, few.stopped_by) == (False, 5, "5 schedules")


def touched(*writes: object, memory: tuple[tuple[int, int, bool], ...] = ()) -> Touched:
    found = Touched()
    found.writes = {*writes}
    found.memory = [*memory]
    return found


def test_independence() -> None:
    everything = Touched()
    everything.all = True
    assert touched(("cq", 1)).independent(touched(("cq", 2)))
    assert not touched(("cq", 1)).independent(touched(("cq", 1)))
    assert not touched().independent(everything)
    reads, writes = (0, 8, False), (4, 12, True)
    assert touched(memory=(reads,)).independent(touched(memory=(reads,)))
    assert not touched(memory=(reads,)).independent(touched(memory=(writes,)))
    assert touched(memory=((0, 4, False),)).independent(touched(memory=(writes,)))
    assert touched(memory=((12, 16, True),)).independent(touched(memory=(writes,)))

"""Scenarios with several rings: what comes first on which of them is free, too."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pybpfvm.events import Event
from pybpfvm.explore import explore
from pybpfvm.explore.strategies import NAMES
from pybpfvm.explore.table import Options, Table
from pybpfvm.scenario import Scenario, parse, run_scenario
from pybpfvm.scenario.schedule import Player
from pybpfvm.uring_backend.choices import Point
from tests.support.example_hosts import EXAMPLES
from tests.support.orders import NOTHING, OVERFLOWS, WAITS, job, scenario

COPY = parse(EXAMPLES / "26_two_rings/scenario.toml")
BY_WORKERS = '{ op = "nop", flags = ["async", "link"] }'
BY_ONE_MESSAGE = '{ op = "poll_add", fd = "ear", op_flags = 1, flags = ["link"] }'


def two_rings(first: str, does: int, *steps: str, other: int = NOTHING) -> Scenario:
    """A program on each ring behind `first`; that of the ring `a` does this if the other one ran
    before it, that of `b` does `other`."""

    def submit(block: str) -> str:
        return f'submit = [{first}, {{ prog = "second", user_data = {{ block = "{block}" }} }}]'

    return scenario(
        f"""
programs = ["second"]
ring = {{ name = "a", cq_entries = [2] }}
rings.b = {{ cq_entries = [2], programs = ["second"] }}
steps = [
    {{ {submit("wrong")} }},
    {{ ring = "b", {submit("right")} }},
    {", ".join(["", *steps]).removeprefix(", ")}{"," if steps else ""}
    {{ wait = 2 }},
    {{ ring = "b", wait = 2 }},
]
[fds.ear]
socketpair = "mouth"
{job("wrong", does=does)}
{job("right", does=other)}
"""
    )


def test_the_usual_schedule_is_the_run_without_one() -> None:
    without: list[Event] = []
    usual: list[Event] = []
    run_scenario(COPY, observer=without.append)
    run_scenario(COPY, observer=usual.append, chooser=Player({}))
    assert without == usual


@pytest.mark.parametrize("strategy", NAMES)
def test_a_good_program_has_no_findings(strategy: str) -> None:
    report = explore(COPY, Options(strategy=strategy, schedules=8))
    assert not report.found
    assert not report.uncontrolled


def test_workers_of_two_rings_have_an_order() -> None:
    # From this seed the worker of b is the faster one.
    (found,) = explore(two_rings(BY_WORKERS, NOTHING, other=WAITS), Options()).found
    assert found.shown.kind == "hang"
    ((_, answer),) = found.answers
    assert answer.point is Point.NEXT


def test_programs_of_two_rings_have_an_order() -> None:
    made = two_rings(BY_ONE_MESSAGE, WAITS, '{ send = "mouth", text = "!" }')
    (found,) = explore(made, Options()).found
    assert found.shown.kind == "hang"
    ((_, answer),) = found.answers
    assert answer.point is Point.RUN
    assert len(answer.options) == 2


@pytest.mark.parametrize("first", [BY_WORKERS, BY_ONE_MESSAGE])
def test_reduction_loses_nothing(first: str) -> None:
    steps = () if first is BY_WORKERS else ('{ send = "mouth", text = "!" }',)
    made = two_rings(first, WAITS, *steps)
    options = Options(everything=True, shrink=False)
    reduced, full = explore(made, options), explore(made, replace(options, reduce=False))
    assert reduced.exhaustive
    assert full.exhaustive
    assert {one.shown.key for one in reduced.found} == {one.shown.key for one in full.found}
    assert reduced.states == full.states
    assert reduced.schedules <= full.schedules


def test_an_overflow_says_on_which_ring() -> None:
    (found,) = explore(two_rings(BY_WORKERS, OVERFLOWS), Options()).found
    assert (found.shown.kind, found.shown.place) == ("overflow", "end")
    (found,) = explore(two_rings(BY_WORKERS, NOTHING, other=OVERFLOWS), Options()).found
    assert (found.shown.kind, found.shown.place) == ("overflow", "end of b")


def test_the_same_schedule_is_the_same_run() -> None:
    with Table(COPY, Options()) as table:
        runs: list[list[Event]] = [[], []]
        for events in runs:
            table.play(Player({0: 1, 2: 1}), observer=events.append)
    assert runs[0] == runs[1]

"""Faults as answers, what they leave unjudged, and what no schedule controls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from pybpfvm.explore import explore, table
from pybpfvm.explore.table import Options
from pybpfvm.scenario import run_scenario
from pybpfvm.scenario.schedule import Answer
from pybpfvm.uring_backend.choices import Point
from pybpfvm.uring_backend.faults import UserReaps
from tests.support.orders import job, scenario

REAPED = scenario(
    """
programs = ["alone"]
ring = { cq_entries = [8] }
steps = [
    { submit = [
        { prog = "alone", user_data = { block = "one" } },
        { prog = "alone", user_data = { block = "two" } },
    ] },
    { wait = 2, cq = 1 },
]
faults = { reaped = [1] }
"""
    + job("one", cq=1, value=1)
    + job("two", cq=1, value=2)
)
READ = scenario(
    """
programs = ["alone"]
steps = [
    { submit = [{ op = "read", fd = "file", addr = { block = "buffer" }, len = 4 }] },
    { wait = 1 },
]
[expect.cqes]
0 = [{ res = 4 }]
[user.buffer]
zero = 4
[files.file]
text = "text"
[fds.file]
open = "file"
"""
)
ASYNC = scenario(
    """
programs = ["alone"]
steps = [{ submit = [{ op = "nop", flags = ["async"] }] }, { wait = 1 }]
"""
)


def test_a_fault_of_the_user_side_is_found_and_told() -> None:
    assert not explore(REAPED, Options()).found
    (found,) = explore(REAPED, Options(faults=1)).found
    assert found.shown.kind == "hang"
    ((_, answer),) = found.answers
    assert isinstance(answer, Answer)
    assert answer.point is Point.USER
    assert answer.options[answer.index] == UserReaps(2, 1)
    assert found.schedule.faults == 1


def test_expectations_are_not_judged_after_a_fault() -> None:
    usual = explore(READ, Options())
    assert (usual.exhaustive, usual.found) == (True, [])
    faulty = explore(READ, Options(faults=1))
    assert (faulty.exhaustive, faulty.found) == (True, [])
    assert usual.schedules == 2  # at once, or late
    assert faulty.schedules == 2 + 3 + 3  # or one of 3 errors, or moving 1, 2 or 3 bytes


def test_what_no_schedule_controls_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not explore(ASYNC, Options()).uncontrolled
    seeds: Iterator[int] = count()

    def another_seed(*args: Any, **kwargs: Any) -> object:
        return run_scenario(*args, **{**kwargs, "seed": next(seeds)})

    monkeypatch.setattr(table, "run_scenario", another_seed)
    report = explore(ASYNC, Options())
    assert report.uncontrolled
    assert report.exit_code == 3
    assert report.schedules == 0


def test_an_invariant_is_judged_after_a_fault() -> None:
    made = replace(READ, invariants=("0 == 1",))
    assert not explore(made, Options()).found  # no program runs
    broken = replace(REAPED, invariants=("0 == 1",))
    (found,) = explore(broken, Options(faults=1)).found
    assert found.shown.place == "invariant[0]"

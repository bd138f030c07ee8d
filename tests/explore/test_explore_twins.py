"""Twins of the gallery that the explorer finds by name; in their programs it finds nothing."""

from __future__ import annotations

import pytest

from pybpfvm.explore import explore
from pybpfvm.explore.table import Options
from pybpfvm.scenario import parse
from tests.support.example_hosts import EXAMPLES, EXPLORED


@pytest.mark.parametrize("name", EXPLORED)
def test_the_twin_is_found_by_its_kind(name: str) -> None:
    folder = EXAMPLES / name
    twin = str(folder / "twin.v3.bpf.o")
    options = Options(object_path=twin, schedules=20, shrink=False)
    report = explore(parse(folder / "scenario.toml"), options)
    assert {found.shown.kind for found in report.found} == {EXPLORED[name]}


@pytest.mark.parametrize("strategy", ["dfs", "random", "pct"])
@pytest.mark.parametrize("name", EXPLORED)
def test_nothing_is_found_in_the_program(name: str, strategy: str) -> None:
    options = Options(strategy=strategy, schedules=8)
    report = explore(parse(EXAMPLES / name / "scenario.toml"), options)
    assert report.schedules == 8
    assert report.found == []
    assert not report.uncontrolled

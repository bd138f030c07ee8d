"""Planted bugs are found, each within a stated number of tries. `make
fuzz-planted` looks for all of them from 20 cold starts."""

from __future__ import annotations

import time
from contextlib import nullcontext

import pytest

from pybpfvm.fuzz.campaign import Budget
from pybpfvm.session.engines import jit_refusal
from pybpfvm.uring_backend.kernel.probe import available
from tests.fuzz.coldstarts import Row, figures, looked
from tests.fuzz.planted import PLANTS, Plant, find
from tests.fuzz.twins import catch
from tests.support.example_hosts import TWINS

SECONDS = 200.0  # far more than it takes: the tries are the budget
TRIES = {"verifier": 3_000, "jit": 60_000, "loader": 20_000, "ring": 200}


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name)
def test_a_planted_bug_is_found(plant: Plant) -> None:
    kind = plant.name.partition(":")[0]
    if kind == "jit" and (refused := jit_refusal()) is not None:
        pytest.skip(refused)
    if kind == "ring" and (missing := available()) is not None:
        pytest.skip(str(missing))
    report = find(plant, 0, Budget(SECONDS, TRIES[kind]))
    assert report.findings, report.outcomes


@pytest.mark.parametrize("name", sorted(TWINS)[::5])
def test_the_twin_of_an_example_is_found_by_who_knows_nothing_of_it(name: str) -> None:
    caught = catch(name, 0, SECONDS)
    assert caught is not None
    ((how, what),) = TWINS[name].items()
    if how in ("lint", "rule") and name != "loop_broadcast":  # its lint takes --ring
        assert caught.by == f"verify: {what}"
        assert caught.tries == 1
    else:
        assert caught.by.startswith("explore: ")


def test_what_cold_starts_come_to() -> None:
    def look(name: str, start: int, seconds: float) -> int | None:
        assert seconds == 20 * 60
        return None if (name, start) == ("shy", 1) else start + 1

    rows = {name: looked(name, look, 3, 60.0) for name in ("bold", "shy")}
    assert rows["bold"].tries == (1, 2, 3)
    assert rows["shy"].tries == (1, 3)
    counts = rows["bold"].counts
    assert (counts["starts"], counts["found"]) == (3, 3)
    assert (counts["tries, median"], counts["tries, worst"]) == (2, 3)
    assert set(Row(3, (), ()).counts.values()) == {3, 0}
    (found, share), (_, spent) = figures("bugs", rows, 60.0)
    assert found == "bugs found from each of 3 cold starts, in 60 s of a processor"
    assert share == "1 of 2"
    assert spent == "0.00, 0.0"


def test_what_takes_longer_than_it_may_is_not_found() -> None:
    def look(name: str, start: int, seconds: float) -> int:
        end = time.process_time() + 0.02
        while time.process_time() < end:
            pass
        return 1

    assert looked("slow", look, 2, 0.01) == Row(2, (), ())
    assert looked("slow", look, 2, 60.0).tries == (1, 1)


@pytest.mark.parametrize("plant", PLANTS[::6], ids=lambda plant: plant.name)
def test_without_the_bug_nothing_is_found(plant: Plant) -> None:
    if plant.name.startswith("jit") and jit_refusal() is not None:
        pytest.skip(str(jit_refusal()))
    sane = Plant(plant.name, plant.target, nullcontext)
    assert not find(sane, 0, Budget(3.0)).findings

"""Planted bugs are found, each within a stated number of tries. `make
fuzz-planted` looks for all of them from 20 cold starts."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from pybpfvm.fuzz.campaign import Budget
from pybpfvm.session.engines import jit_refusal
from pybpfvm.uring_backend.kernel.probe import available
from tests.fuzz.planted import PLANTS, Plant, find

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


@pytest.mark.parametrize("plant", PLANTS[::6], ids=lambda plant: plant.name)
def test_without_the_bug_nothing_is_found(plant: Plant) -> None:
    if plant.name.startswith("jit") and jit_refusal() is not None:
        pytest.skip(str(jit_refusal()))
    sane = Plant(plant.name, plant.target, nullcontext)
    assert not find(sane, 0, Budget(3.0)).findings

"""A cancellation finds a request with a worker that may have begun: dfs tries both ends."""

from __future__ import annotations

import errno

import pytest

from pybpfvm.explore import explore
from pybpfvm.explore.strategies import NAMES
from pybpfvm.explore.table import Options
from pybpfvm.explore.telling import story
from pybpfvm.scenario import run_scenario
from pybpfvm.scenario.schedule import Player
from tests.support.orders import scenario

CANCELS = """
[user.word]
text = "hello"
[fds.file]
open = "f"
flags = ["creat", "rdwr"]
[[steps]]
submit = [
    { op = "write", fd = { fd = "file" }, WORD, user_data = 7, flags = ["async"] },
    { op = "async_cancel", addr = 7, user_data = 8 },
]
[[steps]]
wait = 2
""".replace("WORD", 'addr = { block = "word" }, len = 5')
BEGAN = {7: 5, 8: -errno.EALREADY}
TAKEN_BACK = {7: -errno.ECANCELED, 8: 0}
NEVER_BEGINS = f"""
[[expect.cqes.0]]
user_data = 8
res = 0
[[expect.cqes.0]]
user_data = 7
res = {-errno.ECANCELED}
"""


def results(seed: int, picks: dict[int, int] | None) -> dict[int, int]:
    player = None if picks is None else Player(picks)
    outcome = run_scenario(scenario(CANCELS), seed=seed, chooser=player)
    return {cqe.user_data: cqe.res for cqe in outcome.cqes[0]}


def test_the_first_answer_is_what_the_seed_draws_the_second_the_other() -> None:
    drawn = [results(seed, None) for seed in range(8)]
    assert BEGAN in drawn
    assert TAKEN_BACK in drawn
    for seed, usual in enumerate(drawn):
        assert results(seed, {}) == usual
        assert results(seed, {0: 1}) == (BEGAN if usual == TAKEN_BACK else TAKEN_BACK)


@pytest.mark.parametrize("seed", [0, 1])
def test_every_order_has_both_ends(seed: int) -> None:
    report = explore(scenario(CANCELS), Options(seed=seed))
    assert (report.schedules, report.exhaustive, report.found) == (2, True, [])


@pytest.mark.parametrize("strategy", NAMES)
def test_who_relies_on_one_end_is_found(strategy: str) -> None:
    seed = next(seed for seed in range(8) if results(seed, None) == TAKEN_BACK)
    made = scenario(CANCELS + NEVER_BEGINS)
    assert run_scenario(made, seed=seed).ok
    report = explore(made, Options(strategy=strategy, seed=seed))
    (found,) = report.found
    assert found.shown.kind == "expectation"
    assert any("a worker has begun with request 1 (WRITE)" in line for line in story(found, NAMED))
    replayed = run_scenario(made, seed=seed, chooser=Player(found.schedule.picks))
    assert not replayed.ok


NAMED = {1: "WRITE", 2: "ASYNC_CANCEL"}

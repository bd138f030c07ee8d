"""Each kind of finding, on a scenario that shows it in some orders only, or in the usual one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pybpfvm.events import CqePosted, CqeReaped, Event, RequestEnded, SqeIssued
from pybpfvm.explore import Report, explore
from pybpfvm.explore.findings import KINDS
from pybpfvm.explore.strategies import NAMES
from pybpfvm.explore.table import Options, Table
from pybpfvm.scenario import Scenario, run_scenario
from pybpfvm.scenario.schedule import Player, Schedule
from pybpfvm.scenario.watching import Watch
from pybpfvm.uring_backend.requests import Request
from pybpfvm.uring_backend.submitter import Submitter
from tests.support.orders import (
    LEAVES,
    NOTHING,
    OVERFLOWS,
    OVERLAPS,
    SPINS,
    TELLS,
    WAITS,
    job,
    scenario,
    two,
)

FAULTY = scenario(
    """
unverified = true
programs = ["second", "faulty"]
steps = [
    { submit = [
        { prog = "faulty" },
        { prog = "second", user_data = { block = "right" } },
    ] },
    { wait = 2 },
]
"""
    + job("right", does=NOTHING)
)
RACE = """
programs = ["alone"]
ring = { cq_entries = [4] }
steps = [
    { submit = [{ prog = "alone", user_data = { block = "job" } }] },
    STEP
    { write = "job", u32 = [5], offset = 20 },
    { sleep = "1 ms" },
]
""" + job("job", cq=1, value=1)
EXPECTS_NOTHING = "[expect.cqes]\n1 = []"
IN_SOME_ORDERS = {
    "trap": FAULTY,
    "live-lock": two(SPINS),
    "hang": two(WAITS),
    "buffer-in-flight": two(OVERLAPS),
    "overflow": two(OVERFLOWS),
    "leak": two(LEAVES),
    "expectation": two(TELLS, more=EXPECTS_NOTHING),
}


def kinds(report: Report) -> set[str]:
    return {found.shown.kind for found in report.found}


@pytest.mark.parametrize("strategy", NAMES)
@pytest.mark.parametrize("kind", IN_SOME_ORDERS)
def test_a_finding_of_one_order(kind: str, strategy: str) -> None:
    made = IN_SOME_ORDERS[kind]
    assert run_scenario(made, verify=kind != "trap").ok
    report = explore(made, Options(strategy=strategy, schedules=40))
    assert kinds(report) == {kind}
    (found,) = report.found
    assert found.schedule.picks == {0: 1}
    assert report.exit_code == 1
    assert not report.uncontrolled


@pytest.mark.parametrize("kind", IN_SOME_ORDERS)
def test_a_finding_replays_from_its_line(kind: str) -> None:
    made = IN_SOME_ORDERS[kind]
    (found,) = explore(made, Options()).found
    for schedule, shows in ((found.schedule, True), (Schedule(), False)):
        with Table(made, Options()) as table:
            table.left = 0
            player = Player(schedule.picks, strict=True)
            seen = table.shown(player, schedule.applied(made))
        assert (kind in {one.kind for one in seen}) is shows


def test_without_events_the_rest_is_found() -> None:
    for kind, made in IN_SOME_ORDERS.items():
        report = explore(made, Options(events=False))
        assert kinds(report) == {"leak" if kind == "buffer-in-flight" else kind}


def test_host_and_program_that_nothing_orders() -> None:
    report = explore(scenario(RACE.replace("STEP", "")), Options())
    assert [(f.shown.kind, f.shown.place) for f in report.found] == [("ownership-race", "job+20")]
    assert not explore(scenario(RACE.replace("STEP", "{ wait = 1 },")), Options()).found


def test_host_and_program_that_reap_the_same_queue() -> None:
    watch = Watch(None)
    for by in ("user", "player"):
        watch(CqeReaped(0, 1, 0, 0, 0, by))
    assert [(f.kind, f.where) for f in watch.findings] == [("ownership-race", "CQ 1")]


ENDED = RequestEnded(0, 7, 0, 0, quiet=False)
POSTED = CqePosted(0, 0, 0, 0, 0, "posted", "user", 7)
WAITING = replace(POSTED, fate="backlog")


@pytest.mark.parametrize(
    ("events", "kind"),
    [
        ([ENDED, POSTED], None),
        ([ENDED], "lost-completion"),
        ([ENDED, POSTED, POSTED], "duplicate-completion"),
        ([RequestEnded(0, 7, 0, 0, quiet=True)], None),
        ([ENDED, WAITING, POSTED], None),
        ([ENDED, POSTED, WAITING], "duplicate-completion"),
        ([ENDED, WAITING, POSTED, POSTED], "duplicate-completion"),
    ],
)
def test_completions_come_once(events: list[Event], kind: str | None) -> None:
    watch = Watch(None)
    for event in events:
        watch(event)
    assert [finding.kind for finding in watch.findings] == ([kind] if kind else [])


@pytest.mark.parametrize("kind", ["lost-completion", "duplicate-completion"])
def test_a_ring_that_does_not_post_each_completion_once(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    post = Submitter._post

    def posts(self: Submitter, request: Request, *what: Any) -> None:
        for _ in range(2 if kind == "duplicate-completion" else 0):
            post(self, request, *what)

    monkeypatch.setattr(Submitter, "_post", posts)
    found = explore(two(NOTHING, wait=1), Options(shrink=False)).found
    assert kind in {shown.kind for one in found for shown in (one.shown, *one.also)}


def test_a_completion_that_waits_for_room_is_one() -> None:
    nops = ", ".join(["{ submit = [{ op = 'nop' }, { op = 'nop' }] }"] * 3)
    made = scenario(f"ring = {{ entries = 2 }}\nsteps = [{nops}, {{ wait = 6 }}]")
    seen: list[Event] = []
    run_scenario(made, observer=seen.append)
    assert [e.fate for e in seen if isinstance(e, CqePosted)].count("backlog") == 2
    assert not explore(made, Options()).found


def test_what_is_kept_of_requests_that_are_over() -> None:
    watch = Watch(None)
    for token in range(1, 1001):
        watch(SqeIssued(0, token, 0, 0, 0, 0, "user", bytes(64)))
        watch(RequestEnded(0, token, 0, 0, quiet=False))
        watch(CqePosted(0, 0, 0, 0, 0, "posted", "user", token))
        watch(CqeReaped(0, 0, 0, 0, 0, "user"))
    assert not watch.findings
    assert len(watch._clocks) == 1  # the host's


def test_every_kind_is_tested() -> None:
    others = {"ownership-race", "lost-completion", "duplicate-completion"}
    assert {*IN_SOME_ORDERS} | others == {*KINDS}


def test_steps_that_do_not_matter_are_left_out() -> None:
    report = explore(scenario_with_more_steps(), Options())
    assert kinds(report) == {"hang"}
    assert report.found[0].schedule.without == (0, 3)


def scenario_with_more_steps() -> Scenario:
    return scenario(
        """
programs = ["second"]
ring = { cq_entries = [2] }
steps = [
    { submit = [{ op = "nop", cq = 1, flags = ["cqe_skip_success"] }] },
    { submit = [
        { prog = "second", user_data = { block = "wrong" } },
        { prog = "second", user_data = { block = "right" } },
    ] },
    { wait = 2 },
    { sleep = "1 ms" },
]
"""
        + job("wrong", does=WAITS)
        + job("right", does=NOTHING)
    )

"""The rings of a scenario: what each is made with."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import TypedDict

from pybpfvm.events import Observer
from pybpfvm.filters.table import Task
from pybpfvm.profiles.base import Profile
from pybpfvm.scenario.model import RingSetup, Scenario
from pybpfvm.session import Budgets, LoopRing, Machine, Ring
from pybpfvm.session.engines import Kept
from pybpfvm.session.hostring import BackendName, HostRing
from pybpfvm.uring_backend.choices import Chooser
from pybpfvm.uring_backend.faults import Faults
from pybpfvm.uring_backend.loop.budgets import LoopBudgets


class Common(TypedDict):
    """What all rings are given."""

    backend: BackendName
    abi: Profile
    verify: bool
    engine: str
    heard: frozenset[str] | None
    budget_insns: int
    machine: Machine
    task: Task
    chooser: Chooser | None


class Own(TypedDict):
    """What a ring is given that others are not."""

    seed: int
    observer: Observer | None
    faults: Faults | None
    log: Callable[[str], None] | None
    record: str | os.PathLike[str] | None
    name: str


def make_ring(
    setup: RingSetup,
    common: Common,
    own: Own,
    budgets: Budgets | None,
    beside: HostRing | None,
    kept: Kept | None,
    *,
    strict_ctx: bool,
) -> HostRing:
    """A ring of the kind that the profile has, beside the first one if there is one."""
    if common["abi"].loop is not None:
        assert isinstance(beside, LoopRing | None)
        return LoopRing(
            setup.entries,
            flags=setup.flags,
            cq_entries=setup.cq0_entries or 0,
            budgets=_loop_budgets(budgets),
            beside=beside,
            kept=kept,
            **common,
            **own,
        )
    assert isinstance(beside, Ring | None)
    return Ring(
        setup.entries,
        setup.cq_entries,
        strict_ctx=strict_ctx,
        flags=setup.flags or 0,
        cq0_entries=setup.cq0_entries,
        budgets=budgets,
        beside=beside,
        kept=kept,
        **common,
        **own,
    )


def _loop_budgets(budgets: Budgets | None) -> LoopBudgets | None:
    """The same, as rings of a loop have them."""
    if budgets is None:
        return None
    return LoopBudgets(
        max_steps=budgets.max_runs,
        livelock_steps=budgets.livelock_runs,
        wall_ns=budgets.wall_ns,
        idle_timeout_ns=budgets.idle_timeout_ns,
        backlog_entries=budgets.backlog_entries,
        live_requests=budgets.live_requests,
        end_ns=budgets.end_ns,
    )


def faults_of_run(scenario: Scenario, given: Faults | None) -> Faults | None:
    """The faults that decide in a run: the caller's, with what the scenario shares where it has
    odds."""
    own = scenario.faults
    if given is None:
        return own
    if given.odds is None or own is None or own.odds is None:
        return given
    user = own.odds
    odds = replace(given.odds, shared=user.shared, reaped=user.reaped, user_rate=user.user_rate)
    return replace(given, odds=odds)

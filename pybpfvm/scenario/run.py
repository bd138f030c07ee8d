"""Carrying a scenario out: set up, take the steps, compare with what was expected."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import TypedDict

from pybpfvm.btf.types import Btf
from pybpfvm.engine import DEFAULT_BUDGET_INSNS
from pybpfvm.errors import RingError, UnsupportedError
from pybpfvm.events import Observer
from pybpfvm.filters.table import Scope, Task
from pybpfvm.loader.kconfig import Kconfig
from pybpfvm.scenario.compare import Finding, compare
from pybpfvm.scenario.invariants import Invariants
from pybpfvm.scenario.judge import (
    collect,
    expectations_left,
    judge_stop,
    note_end,
    place_of_stop,
    ring_outcome,
)
from pybpfvm.scenario.live import Live, placed
from pybpfvm.scenario.model import MAIN_RING, Scenario
from pybpfvm.scenario.outcome import Outcome, RingOutcome
from pybpfvm.scenario.progress import Progress
from pybpfvm.scenario.rings import Common, Own, faults_of_run, make_ring
from pybpfvm.scenario.schedule import Player, parse_schedule
from pybpfvm.scenario.stage import Stage
from pybpfvm.scenario.steps import register_filters, take_steps
from pybpfvm.scenario.watching import HEARD, Checks, Watch, left_in_flight, lost, too_many_left
from pybpfvm.session import Budgets
from pybpfvm.session.engines import chosen
from pybpfvm.session.hostring import BackendName, HostRing
from pybpfvm.uring_backend.choices import Chooser
from pybpfvm.uring_backend.faults import Faults

__all__ = ["Finding", "Live", "Outcome", "RingOutcome", "run_scenario"]


def run_scenario(
    scenario: Scenario,
    *,
    backend: BackendName = "sim",
    seed: int = 0,
    object_path: str | os.PathLike[str] | None = None,
    abi: str | None = None,
    helpers: Mapping[int, str] | None = None,
    btf: Btf | None = None,
    kconfig: Kconfig | None = None,
    verify: bool = True,
    strict_ctx: bool = True,
    engine: str = "auto",
    budgets: Budgets | None = None,
    budget_insns: int = DEFAULT_BUDGET_INSNS,
    faults: Faults | None = None,
    observer: Observer | None = None,
    heard: frozenset[str] | None = None,
    on_start: Callable[[Live], None] | None = None,
    on_end: Callable[[Live], None] | None = None,
    chooser: Chooser | None = None,
    checks: Checks | None = None,
    stage: Stage | None = None,
    record: str | os.PathLike[str] | None = None,
) -> Outcome:
    """Run `scenario` on rings of its own, in a machine of its own.

    `object_path`, `abi` and `faults` replace the scenario's; `helpers`, `btf` and `kconfig` are
    those of Machine.load.
    CqeReaped events are of waits and programs: what queues hold at the end is collected silently,
    and nothing is told of what the ring cancels when it closes; of calls of helpers it is told
    where they are `heard` (None: all). Without an observer compiled code
    loops by itself where it can. With several rings, each event that is a ring's comes as OfRing.
    `record` is a file to record to, until the rings are closed.
    `on_start` and `on_end` see the live ring, object and blocks before the first step and after the
    last. A `chooser` (in `sim`) decides the order of what is free; with `checks` findings of
    `watching` come, too. A scenario with a schedule has both of its own, and the schedule's seed.
    `stage` has the object in its machine already, and is left as it was before; `object_path`,
    `abi`, `helpers`, `btf` and `kconfig` are its own. Raises InputError and RingError for what the
    scenario sets up wrongly; hangs, traps and load rejections are in the outcome.
    """
    if scenario.schedule is not None and chooser is None:
        schedule = parse_schedule(scenario.schedule, f"{scenario.path}: schedule")
        plain, seed = schedule.applied(replace(scenario, schedule=None)), schedule.seed
        given: _Given = {
            "backend": backend,
            "seed": seed,
            "object_path": object_path,
            "abi": abi,
            "helpers": helpers,
            "btf": btf,
            "kconfig": kconfig,
            "verify": verify,
            "strict_ctx": strict_ctx,
            "engine": engine,
            "budgets": budgets,
            "budget_insns": budget_insns,
            "faults": faults,
        }
        usual = run_scenario(plain, **given, chooser=Player({}), checks=Checks())
        where = f"{scenario.path}: schedule"
        player = Player(schedule.picks, schedule.faults, strict=True, where=where)
        checks = Checks(left=len(usual.left) if usual.stopped is None else None)
        replayed = run_scenario(
            plain,
            **given,
            chooser=player,
            checks=checks,
            observer=observer,
            heard=heard,
            on_start=on_start,
            on_end=on_end,
            record=record,
        )
        player.require_all()
        return replayed
    watch = None if checks is None or not checks.events else Watch(observer)
    if watch is not None:
        if observer is None:
            heard = HEARD
        elif heard is not None:
            heard |= HEARD
        observer = watch
    progress = Progress(
        observer, {name: {} for name in scenario.plans}, watched=bool(scenario.invariants)
    )
    with ExitStack() as stack:
        if stage is None:
            stage = stack.enter_context(
                Stage(
                    scenario,
                    object_path=object_path,
                    abi=abi,
                    helpers=helpers,
                    btf=btf,
                    kconfig=kconfig,
                )
            )
        else:
            stack.callback(stage.rewind)
        machine, obj = stage.machine, stage.object
        task = Task()
        progress.findings += register_filters(scenario, task, Scope.TASK)
        common: Common = {
            "backend": backend,
            "abi": obj.profile,
            "verify": verify and not scenario.unverified,
            "engine": engine,
            "heard": heard,
            "budget_insns": budget_insns,
            "machine": machine,
            "task": task,
            "chooser": chooser,
        }
        rings: dict[str, HostRing] = {}
        first: HostRing | None = None
        named = list(scenario.plans) != [MAIN_RING]
        for index, (name, plan) in enumerate(scenario.plans.items()):
            own: Own = {
                "seed": seed + (index << 32),
                "observer": progress.watch(name),
                "faults": faults_of_run(scenario, faults) if first is None else None,
                "log": None if first is None else first.trace.append,
                "record": record if first is None else None,
                "name": name if named else "",
            }
            place = f"{scenario.path}: {'ring' if first is None else f'rings.{name}'}"
            try:
                ring = make_ring(
                    plan.setup,
                    common,
                    own,
                    budgets,
                    first,
                    stage.kept.get(name),
                    strict_ctx=strict_ctx,
                )
            except RingError as error:
                raise RingError(error.errno, f"{place}: {error.reason}") from None
            except UnsupportedError as error:
                raise error.inside(place) from None
            rings[name] = stack.enter_context(ring)
            first = first or ring
        with placed(scenario, scenario.path):
            live = Live(scenario, rings, obj)
        if watch is not None:
            watch.begins(live)
            progress.watcher = watch
        progress.findings += register_filters(scenario, live.ring, Scope.RING)
        if on_start is not None:
            on_start(live)
        if scenario.invariants:
            progress.invariants = Invariants(live)
        stopped = live.stopped = take_steps(scenario, live, progress, chooser)
        progress.invariants = None  # they are of the runs of steps
        collect(live, progress)
        live.dump()
        expected_stop = judge_stop(scenario, stopped, progress)
        not_judged = 0
        if stopped is None or expected_stop:
            place = f"{scenario.path}: expect"
            with placed(scenario, place):
                progress.findings += compare(scenario.expect, live, progress.cqes, place)
        else:
            not_judged = expectations_left(scenario, progress.step)
        left: tuple[str, ...] = ()
        if checks is not None:
            if stopped is None:
                left = left_in_flight(live)
                progress.findings += too_many_left(left, checks, scenario)
            progress.findings += lost(live)
        if watch is not None:
            progress.findings += watch.findings
        if on_end is not None:
            on_end(live)
        note_end(live, None if expected_stop else stopped, progress.findings)
        # What the rings cancel when they close is not of the run.
        machine.recorder.stop()
        progress.observer = None
        outcomes = {name: ring_outcome(one, progress) for name, one in live.rings.items()}
        of_first = outcomes.pop(live.first.name)
        runs = Counter(of_first.runs)
        for outcome in outcomes.values():
            runs.update(outcome.runs)
        return Outcome(
            backend=backend,
            findings=tuple(progress.findings),
            stopped=stopped,
            expected_stop=expected_stop,
            cqes=of_first.cqes,
            runs=dict(runs),
            insns=sum(one.ring.counts.insns for one in live.rings.values()),
            overflow=of_first.overflow,
            time_ns=max(live.ring.now_ns() - live.start_ns, 0),
            engine=chosen(engine, obj.image),
            stopped_at="" if stopped is None else place_of_stop(progress),
            injected=live.ring.injected,
            missed=live.ring.missed_faults,
            short_submits=tuple(progress.short_submits),
            not_judged=not_judged,
            rings=outcomes,
            left=left,
        )


class _Given(TypedDict):
    """How a scenario is run, whatever its schedule."""

    backend: BackendName
    seed: int
    object_path: str | os.PathLike[str] | None
    abi: str | None
    helpers: Mapping[int, str] | None
    btf: Btf | None
    kconfig: Kconfig | None
    verify: bool
    strict_ctx: bool
    engine: str
    budgets: Budgets | None
    budget_insns: int
    faults: Faults | None

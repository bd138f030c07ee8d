"""Carrying a scenario out: set up, take the steps, compare with what was expected."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TypedDict

from pybpfvm.btf.types import Btf
from pybpfvm.engine import DEFAULT_BUDGET_INSNS
from pybpfvm.errors import (
    InputError,
    LoadRejected,
    RingError,
    RingHang,
    Trap,
    errno_name,
)
from pybpfvm.events import CqeReaped, Event, Noted, Observer, OfRing, RunEnded
from pybpfvm.filters.table import Scope, Task
from pybpfvm.filters.uapi import Registrar
from pybpfvm.loader.kconfig import Kconfig
from pybpfvm.profiles.base import Profile
from pybpfvm.scenario.compare import Finding, compare, differing
from pybpfvm.scenario.invariants import Invariants
from pybpfvm.scenario.live import Live, LiveRing, placed
from pybpfvm.scenario.model import (
    MAIN_RING,
    Action,
    Attach,
    Check,
    CloseFd,
    Connect,
    Detach,
    Enable,
    Enter,
    FilterSpec,
    Later,
    NetworkChange,
    PeerEnd,
    PeerRecv,
    PeerSend,
    Register,
    RingSetup,
    Scenario,
    Signal,
    Sleep,
    Step,
    Submit,
    Unregister,
    Wait,
    Write,
)
from pybpfvm.scenario.schedule import Player, parse_schedule
from pybpfvm.scenario.stage import Stage
from pybpfvm.scenario.watching import HEARD, Checks, Watch, left_in_flight, lost, too_many_left
from pybpfvm.session import Budgets, Cqe, LoopRing, Machine, Ring
from pybpfvm.session.engines import Kept, chosen
from pybpfvm.session.hostring import BackendName, HostRing
from pybpfvm.uring_backend.choices import Chooser
from pybpfvm.uring_backend.faults import Fault, Faults, Missed
from pybpfvm.uring_backend.loop.ring import LoopBudgets

__all__ = ["Finding", "Live", "Outcome", "RingOutcome", "run_scenario"]

_PEER_TRIES = 500
_SHOWN_BYTES = 80  # of what a peer received, as text
_PEER_TRY_NS = 10_000_000
Stopped = RingHang | Trap | LoadRejected


@dataclass(frozen=True, slots=True)
class ShortSubmit:
    """A submit that took `consumed` of `sqes` SQEs, and did not say how many it should take."""

    where: str
    sqes: int
    consumed: int

    def __str__(self) -> str:
        were = f"{self.consumed} of {self.sqes} SQEs were consumed"
        return f"{self.where}: {were} (consumed = {self.consumed} says that this is meant)"


@dataclass(frozen=True, slots=True)
class RingOutcome:
    """What came of a ring beside the first."""

    cqes: Mapping[int, tuple[Cqe, ...]]
    runs: Mapping[str, int]
    overflow: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a scenario: on its first ring, `cqes` and `overflow`; on all of them, `runs` and
    `insns`; `rings` is what came of those beside the first. `stopped` is the hang, trap or load
    rejection that ended it, or None; `expected_stop` says that the scenario wanted exactly that.
    An unexpected stop at `stopped_at` ("steps[2]") leaves `not_judged` expectations that nothing
    can be said of.
    `time_ns` counts from the first submit on a kernel's ring, all of virtual time in `sim`.
    `injected` are the faults that came, `missed` those of a plan that did not."""

    backend: str
    findings: tuple[Finding, ...]
    stopped: Stopped | None
    expected_stop: bool
    cqes: Mapping[int, tuple[Cqe, ...]]
    runs: Mapping[str, int]
    overflow: int
    time_ns: int
    insns: int = 0
    engine: str = "interp"
    stopped_at: str = ""
    injected: tuple[Fault, ...] = ()
    missed: tuple[Missed, ...] = ()
    short_submits: tuple[ShortSubmit, ...] = ()
    not_judged: int = 0
    rings: Mapping[str, RingOutcome] = field(default_factory=dict)
    left: tuple[str, ...] = ()  # with checks: requests in flight that nothing will end

    @property
    def ok(self) -> bool:
        """Whether everything was as expected."""
        return self.exit_code == 0

    @property
    def exit_code(self) -> int:
        """The command line's: that of an unexpected stop, 1 for findings, else 0."""
        if self.stopped is not None and not self.expected_stop:
            return self.stopped.exit_code
        return 1 if self.findings else 0


@dataclass
class _Progress:
    """What has happened so far."""

    observer: Observer | None
    cqes: dict[str, dict[int, list[Cqe]]]  # by ring and CQ
    findings: list[Finding] = field(default_factory=list)
    short_submits: list[ShortSubmit] = field(default_factory=list)
    watcher: Watch | None = None
    step: int = -1  # index of the step being taken; -1 before the first
    place: str = ""  # before the first
    collecting: bool = False
    invariants: Invariants | None = None
    watched: bool = False  # because there are invariants

    def submitted(self, short: ShortSubmit, *, decides: bool) -> None:
        """A submit that expects nothing has returned; where a program `decides`, 0 says nothing."""
        if short.consumed < short.sqes and (short.consumed or not decides):
            self.short_submits.append(short)

    def see(self, event: Event) -> None:
        if self.observer is not None:
            self.observer(event)

    def watch(self, ring: str) -> Observer | None:
        """Whom a ring is to tell of its events, which get its name if there are several; None:
        nobody."""
        if self.observer is None and not self.watched:
            return None
        several = len(self.cqes) > 1

        def watch(event: Event) -> None:
            if self.collecting and isinstance(event, CqeReaped):
                return  # nobody in the scenario waited for what is collected at its end
            if self.invariants is not None and isinstance(event, RunEnded):
                self.findings += self.invariants.after(event)
            if self.observer is not None:
                self.observer(OfRing(ring, event) if several else event)

        return watch


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
    progress = _Progress(
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
        progress.findings += _register_filters(scenario, task, Scope.TASK)
        common: _Common = {
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
            own: _Own = {
                "seed": seed + (index << 32),
                "observer": progress.watch(name),
                "faults": _faults(scenario, faults) if first is None else None,
                "log": None if first is None else first.trace.append,
                "record": record if first is None else None,
                "name": name if named else "",
            }
            try:
                ring = _make_ring(
                    plan.setup,
                    common,
                    own,
                    budgets,
                    first,
                    stage.kept.get(name),
                    strict_ctx=strict_ctx,
                )
            except RingError as error:
                place = "ring" if first is None else f"rings.{name}"
                raise RingError(error.errno, f"{scenario.path}: {place}: {error.reason}") from None
            rings[name] = stack.enter_context(ring)
            first = first or ring
        with placed(scenario, scenario.path):
            live = Live(scenario, rings, obj)
        if watch is not None:
            watch.begins(live)
            progress.watcher = watch
        progress.findings += _register_filters(scenario, live.ring, Scope.RING)
        if on_start is not None:
            on_start(live)
        if scenario.invariants:
            progress.invariants = Invariants(live)
        stopped = live.stopped = _take_steps(scenario, live, progress, chooser)
        progress.invariants = None  # they are of the runs of steps
        _collect(live, progress)
        live.dump()
        expected_stop = _judge_stop(scenario, stopped, progress)
        not_judged = 0
        if stopped is None or expected_stop:
            place = f"{scenario.path}: expect"
            with placed(scenario, place):
                progress.findings += compare(scenario.expect, live, progress.cqes, place)
        else:
            not_judged = _expectations_left(scenario, progress.step)
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
        _note_end(live, None if expected_stop else stopped, progress.findings)
        # What the rings cancel when they close is not of the run.
        machine.recorder.stop()
        progress.observer = None
        outcomes = {name: _ring_outcome(one, progress) for name, one in live.rings.items()}
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
            stopped_at="" if stopped is None else _place_of_stop(progress),
            injected=live.ring.injected,
            missed=live.ring.missed_faults,
            short_submits=tuple(progress.short_submits),
            not_judged=not_judged,
            rings=outcomes,
            left=left,
        )


def _ring_outcome(one: LiveRing, progress: _Progress) -> RingOutcome:
    cqes = {cq: tuple(cqes) for cq, cqes in progress.cqes[one.name].items()}
    return RingOutcome(cqes, dict(one.ring.counts.runs), one.ring.cq_overflow)


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


class _Common(TypedDict):
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


class _Own(TypedDict):
    """What a ring is given that others are not."""

    seed: int
    observer: Observer | None
    faults: Faults | None
    log: Callable[[str], None] | None
    record: str | os.PathLike[str] | None
    name: str


def _make_ring(
    setup: RingSetup,
    common: _Common,
    own: _Own,
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


def _faults(scenario: Scenario, given: Faults | None) -> Faults | None:
    """The faults that decide: the caller's, with what the scenario shares if it has odds."""
    own = scenario.faults
    if given is None:
        return own
    if given.odds is None or own is None or own.odds is None:
        return given
    user = own.odds
    odds = replace(given.odds, shared=user.shared, reaped=user.reaped, user_rate=user.user_rate)
    return replace(given, odds=odds)


def _register_filters(scenario: Scenario, registrar: Registrar, scope: Scope) -> list[Finding]:
    """Register what the scenario begins with on a task, or on the ring."""
    found = []
    for index, spec in enumerate(scenario.filters):
        if spec.scope is scope:
            where = f"{scenario.path}: filters[{index}]"
            with placed(scenario, where):
                found += _registered(spec, registrar, where)
    return found


def _registered(spec: FilterSpec, registrar: Registrar, where: str) -> list[Finding]:
    return _refused(lambda: registrar.register_filter(spec.wanted), spec.errno, where)


# Before these nothing needs to happen first: it can happen in them.
_PASSES_TIME = (Wait, Sleep, PeerRecv, Enter)


def _take_steps(
    scenario: Scenario, live: Live, progress: _Progress, chooser: Chooser | None
) -> Stopped | None:
    try:
        for one in live.rings.values():
            _put_programs(scenario, live, one, progress)
        for index, step in enumerate(scenario.steps):
            progress.step = index
            if chooser is not None:
                chooser.host_acts()
                if index and not isinstance(step.action, _PASSES_TIME):
                    live.ring.before_step()
            if progress.observer is not None:
                on = live.on(step.ring)
                told = f"steps[{index}]: {_told(step.action)}"
                told += f" on {on.name}" if step.ring else ""
                progress.see(Noted(on.ring.now_ns(), "step", told))
            _step(step, live, progress)
    except (RingHang, Trap, LoadRejected) as stop:
        return stop
    return None


def _note_end(live: Live, stopped: Stopped | None, findings: Sequence[Finding]) -> None:
    """Tell the recording what went wrong, if something did."""
    recorder, ring = live.ring.machine.recorder, live.ring
    if not recorder.active:
        return
    for one in findings:
        text = f"{one.where}: expected {one.expected}, found {one.found}"
        recorder.ends(ring.number, ring.now_ns(), "failed", text[:1000])
    if stopped is not None:
        recorder.ends(ring.number, ring.now_ns(), "stopped", str(stopped)[:1000])


def _put_programs(scenario: Scenario, live: Live, one: LiveRing, progress: _Progress) -> None:
    """Register or attach what is on a ring from the beginning."""
    prefix = "" if one is live.first else f"rings.{one.name}."
    if one.plan.programs:
        progress.place = f"{prefix}programs"
        with placed(scenario, f"{scenario.path}: {progress.place}"):
            live.register(one.plan.programs, one)
    if live.object.profile.loop is not None:
        progress.place = f"{prefix}attach"
        with placed(scenario, f"{scenario.path}: {progress.place}"):
            for name in _attached_first(scenario, live, one):
                live.attach(name, one)


def _attached_first(scenario: Scenario, live: Live, one: LiveRing) -> Sequence[str]:
    """The callbacks that are on the ring from the beginning."""
    if one.plan.attach is not None:
        return one.plan.attach
    if any(isinstance(step.action, Attach) for step in scenario.steps):
        return ()
    known = live.object.callbacks
    if len(known) != 1:
        raise InputError(
            f"the object has {len(known)} structs of callbacks",
            remedy=f"say which: {', '.join(known)}"
            if known
            else "compile it with -g: its BTF says what they are"
            if live.object.object.btf is None
            else "",
        )
    return known


def _told(action: Action) -> str:
    """The step in a few words."""
    match action:
        case Attach():
            return f"attach {action.callbacks}"
        case Detach():
            return f"detach {action.callbacks}"
        case Enter():
            return "enter"
        case Enable():
            return "enable"
        case Signal():
            return "signal"
        case Later():
            return f"{_told(action.action)} after {action.delay_ns / 1e6:g} ms"
        case Submit():
            return f"submit {len(action.sqes)}"
        case Wait():
            return f"wait for {action.count} on CQ {action.cq}"
        case Sleep():
            return f"sleep {action.duration_ns / 1e6:g} ms"
        case Write():
            return f"write {action.block}"
        case Connect():
            return f"connect {action.peer} to {action.to}"
        case PeerSend():
            return f"send {action.peer}"
        case PeerRecv():
            return f"recv {action.peer}"
        case PeerEnd():
            return f"{'close' if action.close else 'shutdown'} {action.peer}"
        case CloseFd():
            return f"close {action.fd}"
        case NetworkChange():
            return f"network of {action.peer or 'all'}"
        case Register():
            return "register"
        case Unregister():
            return "unregister"
        case FilterSpec():
            return f"filter {action.wanted.name}".rstrip()
        case Check():
            return "check"


def _judge_stop(scenario: Scenario, stopped: Stopped | None, progress: _Progress) -> bool:
    """Whether the scenario ended as it was expected to; a missing end is a finding."""
    expect, where = scenario.expect, f"{scenario.path}: expect"
    found = "the end of the steps" if stopped is None else str(stopped).splitlines()[0]
    wanted: list[tuple[str, str, bool]] = []
    if expect.hang:
        wanted.append(("hang", "a hang", isinstance(stopped, RingHang)))
    if expect.trap is not None:
        right = isinstance(stopped, Trap) and stopped.kind.name == expect.trap
        wanted.append(("trap", f"trap {expect.trap}", right))
    if expect.load_errno:
        right = isinstance(stopped, LoadRejected) and stopped.errno == expect.load_errno
        text = f"load rejected with -{errno_name(expect.load_errno)}"
        wanted.append(("load_error", text, right))
    for key, text, right in wanted:
        if not right:
            progress.findings.append(Finding(f"{where}.{key}", text, found))
    return any(right for _, _, right in wanted)


def _place_of_stop(progress: _Progress) -> str:
    return f"steps[{progress.step}]" if progress.step >= 0 else progress.place


def _expectations_left(scenario: Scenario, step: int) -> int:
    """Expectations that a stop in `step` leaves unjudged: of later checks and of the end."""
    checks = [s.action for s in scenario.steps[step + 1 :] if isinstance(s.action, Check)]
    return scenario.expect.about_state + sum(check.expect.about_state for check in checks)


def _collect(live: Live, progress: _Progress) -> None:
    """Add what the queues still hold to what the host has reaped."""
    progress.collecting = True
    with live.ring.machine.recorder.quiet():
        for one in live.rings.values():
            one.counts = one.ring.counts.copy()
            for cq in one.cqs:
                progress.cqes[one.name].setdefault(cq, []).extend(one.ring.reap(cq))


def _step(step: Step, live: Live, progress: _Progress) -> None:
    with placed(live.scenario, step.where):
        progress.findings += _act(step, live, progress)


def _act(step: Step, live: Live, progress: _Progress) -> Iterable[Finding]:
    action, where, on = step.action, step.where, live.on(step.ring)
    ring = on.ring
    match action:
        case PeerSend() | PeerRecv() | PeerEnd() | NetworkChange() if _awaits(action.peer, live):
            return [Finding(where, f"{action.peer} is connected", "its step has not come yet")]
        case Submit():
            for sqe in action.sqes:
                live.fill_sqe(sqe, on)
            live.starts()
            if action.errno:
                return _refused(ring.submit, action.errno, where)
            decides = isinstance(ring, LoopRing) and ring.core.driven
            consumed = ring.submit()
            if action.consumed is None:
                short = ShortSubmit(where, len(action.sqes), consumed)
                progress.submitted(short, decides=decides)
            elif consumed != action.consumed:
                return [Finding(where, f"{action.consumed} SQEs consumed", str(consumed))]
        case Wait():
            return _wait(action, on, progress, where)
        case Sleep():
            ring.run_until_idle(action.duration_ns)
        case Write():
            block, data = live.blocks[action.block], live.render(action.content)
            if progress.watcher is not None:
                progress.watcher.host_writes(block.addr + action.offset, len(data))
            block.write(data, action.offset)
        case Connect():
            live.peers[action.peer] = ring.world.connect(live.fds[action.to])
        case PeerSend():
            return _send(action, live, where)
        case PeerRecv():
            return _recv(action, live, where)
        case PeerEnd():
            peer = live.peers[action.peer]
            if action.close:
                peer.close()
            else:
                peer.shutdown()
        case CloseFd():
            ring.world.close(live.fds[action.fd])
        case Register():
            return _refused(lambda: live.register(action.programs, on), action.errno, where)
        case Unregister():
            return _refused(on.requests.unregister_bpf, action.errno, where)
        case Attach():
            return _refused(lambda: live.attach(action.callbacks, on), action.errno, where)
        case Detach():
            on.detach(action.callbacks)
        case Enter():
            return _enter(action, live, on, progress, where)
        case Enable():
            return _refused(on.loop.enable, action.errno, where)
        case Signal():
            on.loop.core.signal()
        case Later():
            later = replace(step, action=action.action)
            on.loop.at(action.delay_ns, lambda: _step(later, live, progress))
        case NetworkChange():
            live.change_network(action)
        case FilterSpec():
            return _registered(action, ring, where)
        case Check():
            return list(compare(action.expect, live, progress.cqes, where))
    return []


def _enter(
    action: Enter, live: Live, on: LiveRing, progress: _Progress, where: str
) -> list[Finding]:
    """A finding unless it returns, or is refused, as expected."""
    live.starts()
    result, errno = 0, 0
    try:
        result = on.loop.enter(action.to_submit, action.min_complete, action.flags)
    except RingError as error:
        errno = error.errno
    found = f"-{errno_name(errno)}" if errno else str(result)
    if (see := progress.watch(on.name)) is not None:
        see(Noted(on.ring.now_ns(), "enter", f"returned {found}"))
    if errno != action.errno:
        wanted = f"-{errno_name(action.errno)}" if action.errno else "no refusal"
        return [Finding(where, f"enter: {wanted}", found)]
    if action.result is not None and result != action.result:
        return [Finding(where, f"enter: {action.result}", found)]
    return []


def _wait(action: Wait, on: LiveRing, progress: _Progress, where: str) -> list[Finding]:
    got = progress.cqes[on.name].setdefault(action.cq, [])
    for index in range(action.count):
        try:
            got.append(on.ring.wait_cqe(action.timeout_ns, action.cq))
        except TimeoutError:
            wanted = f"{action.count} CQEs on CQ {action.cq} in time"
            return [Finding(where, wanted, f"{index} until the timeout")]
    return []


def _refused(call: Callable[[], object], wanted: int, where: str) -> list[Finding]:
    """Call; a finding unless it is refused with `wanted` (0: not at all)."""
    errno = 0
    try:
        call()
    except (RingError, LoadRejected) as error:
        if not wanted:
            raise
        errno = error.errno
    if errno == wanted:
        return []
    found = f"-{errno_name(errno)}" if errno else "success"
    return [Finding(where, f"refusal with -{errno_name(wanted)}", found)]


def _send(action: PeerSend, live: Live, where: str) -> list[Finding]:
    data = live.render(action.content)
    peer, sent = live.peers[action.peer], 0
    for _ in range(_PEER_TRIES):
        sent += peer.send(data[sent:])
        if sent == len(data):
            return []
        live.ring.run_until_idle(_PEER_TRY_NS)
    return [Finding(where, f"{len(data)} bytes sent", f"{sent}, then nobody received")]


def _awaits(peer: str | None, live: Live) -> bool:
    """Whether the peer connects in a step that comes later, and has not come."""
    return peer is not None and peer not in live.peers


def _recv(action: PeerRecv, live: Live, where: str) -> list[Finding]:
    wanted = live.render(action.content)
    peer, got = live.peers[action.peer], b""
    for _ in _tries(action):
        if len(got) == len(wanted):
            break
        data = peer.recv(len(wanted) - len(got))
        if data == b"":
            break
        if data is None:
            live.ring.run_until_idle(_PEER_TRY_NS)
        else:
            got += data
    if got != wanted:
        if len(wanted) <= _SHOWN_BYTES:  # and no more were received
            return [Finding(where, repr(wanted), repr(got))]
        return list(differing(wanted, got, where))
    return _ended(action, live, where) if action.end else []


def _tries(action: PeerRecv) -> range:
    given = action.timeout_ns
    return range(_PEER_TRIES if given is None else max(given // _PEER_TRY_NS, 1))


def _ended(action: PeerRecv, live: Live, where: str) -> list[Finding]:
    """A finding unless the stream to this peer ends now."""
    for _ in _tries(action):
        data = live.peers[action.peer].recv(1)
        if data is not None:
            return [Finding(where, "the end of the stream", repr(data))] if data else []
        live.ring.run_until_idle(_PEER_TRY_NS)
    return [Finding(where, "the end of the stream", "nothing")]

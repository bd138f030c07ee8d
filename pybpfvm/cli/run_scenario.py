"""The scenario half of `pybpfvm run`, which `demo` shares."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from shlex import quote
from typing import Final

from pybpfvm.btf.types import Btf
from pybpfvm.cli.common import (
    kconfig,
    open_command,
    overrides,
    print_json,
    settings,
    target_btf,
)
from pybpfvm.cli.timeline import TimelineOutput
from pybpfvm.engine import DEFAULT_BUDGET_INSNS
from pybpfvm.errors import LoadRejected, PybpfvmError, RingHang, Trap
from pybpfvm.events import Observer
from pybpfvm.loader.kconfig import Kconfig
from pybpfvm.report.account import Account, result
from pybpfvm.report.names import AddressNames
from pybpfvm.report.progress import on_stderr, rates
from pybpfvm.report.run import global_values, map_rows, print_maps
from pybpfvm.report.terminal import heading, table
from pybpfvm.scenario import Live, Outcome, Scenario, parse, run_scenario
from pybpfvm.scenario.schedule import parse_schedule
from pybpfvm.session import Budgets, Cqe
from pybpfvm.session.engines import chosen
from pybpfvm.session.hostring import BackendName
from pybpfvm.uring_backend.abi import Op
from pybpfvm.uring_backend.counts import Counts
from pybpfvm.uring_backend.faults import NO_FAULTS, Faults, parse_faults, plan_text

_ARGUMENT_BYTES: Final = 131_071
"""What an argument of a command may have, execve(2); odds and seed say a longer plan, too."""
_PLAYED: Final = (
    "this process plays the kernel's part around a real ring, without its lock: completions come "
    "whenever they are found, and a wait that nothing can end is a hang (docs/abi-upstream.md, "
    "What is played)"
)


@dataclass(frozen=True, slots=True)
class Options:
    """How to run a scenario and how much to say."""

    backend: BackendName = "sim"
    seed: int = 0
    json: bool = False
    quiet: bool = False
    everything: bool = False
    timings: bool = False
    verify: bool = True
    strict_ctx: bool = True
    budget_insns: int = DEFAULT_BUDGET_INSNS
    budgets: Budgets | None = None
    engine: str = "auto"
    faults: Faults | None = None
    faults_text: str | None = None  # as they were given
    object: str | None = None  # given instead of the scenario's
    abi: str | None = None
    abi_note: str = ""  # why this one, where nobody said
    helpers: Mapping[int, str] | None = None
    btf: Btf | None = None
    kconfig: Kconfig | None = None
    sources: Sequence[str] = ()  # the options that gave these two
    head: int = 160  # events that the account begins with, unless `everything`
    tail: int = 40  # and ends with
    timeline: str | None = None  # where to draw it: a file, or "-"
    settings: Mapping[str, str] = field(default_factory=dict)  # of an object without a scenario
    prog: str | None = None  # the same
    mem_bytes: int = 0  # the same
    record: str | None = None  # a file to record to


def run(args: argparse.Namespace, scenario: Scenario | None = None, abi_note: str = "") -> int:
    """The scenario that the arguments name, or this one; `abi_note` says why their ABI is what it
    is where nobody gave one."""
    options = Options(
        backend=args.backend or "sim",
        seed=args.seed or 0,
        json=args.json,
        quiet=args.quiet,
        everything=args.all,
        timings=args.timings,
        verify=not args.no_verify,
        strict_ctx=not args.lenient_ctx,
        budget_insns=args.budget_insns,
        budgets=_budgets(args.budget_runs, args.budget_seconds),
        engine=args.engine,
        faults=None if args.faults is None else parse_faults(args.faults, "--faults"),
        faults_text=args.faults,
        abi=args.abi,
        abi_note=abi_note,
        helpers=overrides(args),
        btf=target_btf(args),
        kconfig=kconfig(args),
        sources=_sources(args),
        timeline=args.timeline,
        settings=settings(args),
        prog=args.prog,
        mem_bytes=args.mem or 0,
        record=args.record,
    )
    scenario = scenario or parse(args.file)
    if args.object is not None:
        scenario = replace(scenario, object=Path(args.object))
        options = replace(options, object=args.object)
    if args.schedule is not None:
        parse_schedule(args.schedule, "--schedule")
        scenario = replace(scenario, schedule=args.schedule)
    return show(scenario, options)


def _sources(args: argparse.Namespace) -> Sequence[str]:
    """The options --btf and --kconfig, as they were given."""
    words = ["--btf", args.btf] if args.btf else []
    return [*words, "--kconfig", args.kconfig] if args.kconfig else words


def _budgets(runs: int | None, seconds: float | None) -> Budgets:
    """What a step may use up, by --budget-runs and --budget-seconds."""
    budgets = Budgets()
    if runs is not None:
        budgets = replace(budgets, max_runs=runs)
    if seconds is not None:
        budgets = replace(budgets, wall_ns=int(seconds * 1_000_000_000))
    return budgets


def show(scenario: Scenario, options: Options) -> int:
    """Run the scenario, print its account, results and findings; the exit code."""
    account = Account(head=1 << 20 if options.everything else options.head, tail=options.tail)
    drawing = None
    observer: Observer = account
    if options.timeline is not None:
        drawing = TimelineOutput(options.timeline, scenario, json=options.json)
        observer = drawing.observer(account)

    def on_start(live: Live) -> None:
        if not options.json:
            _print_header(live, options)

    def on_end(live: Live) -> None:
        progress.stop()
        counts.update({name: one.counts for name, one in live.rings.items()})
        if drawing is not None:
            seed = options.seed if options.backend == "sim" else None
            drawing.draw(live, _opcodes(live), seed=seed, engine=options.engine)
        if options.json:
            maps.update(map_rows(live.object))
            variables.update(global_values(live.object))
            return
        if drawing is not None and drawing.on_terminal:
            print()
        elif not options.quiet:
            _print_account(live, account)
        _print_queues(live)
        print_maps(live.object)

    # Where nobody asks for the events, none are made.
    observed = options.json or not options.quiet or drawing is not None
    counts: dict[str, Counts] = {}
    maps: dict[str, list[dict[str, object]]] = {}
    variables: dict[str, object] = {}
    progress = on_stderr()
    start = time.perf_counter()
    with progress:
        outcome = run_scenario(
            scenario,
            backend=options.backend,
            seed=options.seed,
            abi=options.abi,
            helpers=options.helpers,
            btf=options.btf,
            kconfig=options.kconfig,
            verify=options.verify,
            strict_ctx=options.strict_ctx,
            engine=options.engine,
            budget_insns=options.budget_insns,
            budgets=options.budgets,
            faults=options.faults,
            observer=progress.observer(observer) if observed else None,
            on_start=on_start,
            on_end=on_end,
            record=options.record,
        )
    if options.json:
        _print_document(scenario, options, account, counts, outcome, maps, variables)
    else:
        print()
        if options.timings:
            seconds = time.perf_counter() - start
            rate = rates(sum(outcome.runs.values()), outcome.insns, seconds)
            print(f"took {seconds * 1e3:.1f} ms: {rate}")
        if drawing is not None and not drawing.on_terminal:
            print(f"timeline: {drawing.target}")
        _print_outcome(scenario, options, outcome)
    return outcome.exit_code


def _opcodes(live: Live) -> Mapping[int, str]:
    rules = live.ring.profile.ring
    names = {int(op): op.name for op in Op}
    return {**names, rules.bpf_opcode: "BPF"} if rules is not None else names


def _print_header(live: Live, options: Options) -> None:
    engine = chosen(options.engine, live.object.image)
    print(
        f"{live.scenario.path}: {live.scenario.title}"
        if live.scenario.title
        else live.scenario.path
    )
    seed = f", seed {options.seed}" if options.backend == "sim" else ""
    where = "simulated ring" if options.backend == "sim" else "the running kernel's ring"
    print(
        f"{live.object.object.path}  ABI {live.object.profile.name}  on {where}{seed}, "
        f"engine {engine}"
    )
    if live.object.abi_doubt:
        print(f"note: {live.object.abi_doubt}")
    if options.abi_note:
        print(f"note: {options.abi_note}")
    if options.backend != "sim" and live.object.profile.loop is not None:
        print(f"note: {_PLAYED}")
    print()


def _print_account(live: Live, account: Account) -> None:
    heading("Account")
    names = AddressNames(live.ring.machine.memory, live.object.object)
    for line in account.lines(names, _opcodes(live), start_ns=live.start_ns):
        print(line)
    if live.ring.trace:
        print()
        heading("Trace output (bpf_trace_printk)")
        for line in live.ring.trace:
            print(f"  {line}")
    print()


def _print_queues(live: Live) -> None:
    heading("Completion queues")
    names = AddressNames(live.ring.machine.memory, live.object.object)
    rows = []
    for one in live.rings.values():
        counts = one.counts
        for cq in one.cqs:
            last = one.ring.newest(cq)
            text = "-"
            if last is not None:
                text = f"user_data {names(last.user_data)}, res {result(last.res)}"
            posted, reaped, lost = counts.posted[cq], counts.reaped[cq], counts.dropped[cq]
            name = f"{one.name} {cq}" if len(live.rings) > 1 else cq
            rows.append((name, posted, reaped, posted - reaped, lost, text))
    table(("CQ", "posted", "reaped", "left", "lost", "last CQE"), rows)


def _stop_text(stopped: PybpfvmError) -> str:
    match stopped:
        case RingHang():
            return str(stopped)
        case Trap():
            return f"guest fault: {stopped}"
        case LoadRejected():
            return f"load rejected: {stopped}"
    return str(stopped)


def _verify_command(scenario: Scenario, options: Options, program: str) -> str:
    """What a user types to learn why a program was refused."""
    abi = options.abi or scenario.abi
    given = ["--abi", abi] if abi else []
    for name, value in scenario.constants.items():
        given += ["--set", f"{name}={value}"] if isinstance(value, int) else []
    for number, name in (options.helpers or {}).items():
        given += ["--helper", f"{number}={name}"]
    given += options.sources
    words = ["pybpfvm", "verify", str(scenario.object), *given, "--prog", program]
    return " ".join(quote(word) for word in words)


def _replay_command(scenario: Scenario, options: Options, outcome: Outcome) -> str:
    """What a user types to see the same again: in `sim` exactly the same."""
    words = ["pybpfvm", "run", str(scenario.path), "--seed", str(options.seed)]
    if options.object is not None:
        words += ["--object", options.object]
    if outcome.backend != "sim":
        words += ["--backend", outcome.backend]
    if scenario.schedule is not None:
        words += ["--schedule", scenario.schedule]
    elif outcome.injected or options.faults or scenario.faults:
        plan = plan_text(outcome.injected) or NO_FAULTS
        if len(plan.encode()) <= _ARGUMENT_BYTES:
            words += ["--faults", plan]
        elif options.faults_text is not None:
            words += ["--faults", options.faults_text]
    if options.abi:
        words += ["--abi", options.abi]
    for number, name in (options.helpers or {}).items():
        words += ["--helper", f"{number}={name}"]
    words += options.sources
    if options.engine != "auto":
        words += ["--engine", options.engine]
    words += [] if options.prog is None else ["--prog", options.prog]
    for name, value in options.settings.items():
        words += ["--set", f"{name}={value}"]
    words += ["--mem", str(options.mem_bytes)] if options.mem_bytes else []
    words += [] if options.verify else ["--no-verify"]
    words += [] if options.strict_ctx else ["--lenient-ctx"]
    if options.budget_insns != DEFAULT_BUDGET_INSNS:
        words += ["--budget-insns", str(options.budget_insns)]
    budgets, usual = options.budgets or Budgets(), Budgets()
    if budgets.max_runs != usual.max_runs:
        words += ["--budget-runs", str(budgets.max_runs)]
    if budgets.wall_ns != usual.wall_ns:
        words += ["--budget-seconds", f"{budgets.wall_ns / 1e9:g}"]
    return " ".join(quote(word) for word in words)


def _print_outcome(scenario: Scenario, options: Options, outcome: Outcome) -> None:
    """What came of it; the reason of a stop comes last, where it is seen."""
    runs = ", ".join(f"{name} {count}" for name, count in outcome.runs.items()) or "none"
    print(f"runs: {runs}; {outcome.insns:,} instructions; {outcome.time_ns / 1e6:.3f} ms ring time")
    stop = outcome.stopped
    if stop is not None and outcome.expected_stop:
        print(f"{_stop_text(stop)} (as expected)")
    for finding in outcome.findings:
        kind = "" if finding.kind == "expectation" else f"{finding.kind}: "
        print(f"FAILED {kind}{finding.where}: expected {finding.expected}, found {finding.found}")
    if stop is not None and not outcome.expected_stop:
        if outcome.not_judged:
            are = "expectation was" if outcome.not_judged == 1 else "expectations were"
            print(f"{outcome.not_judged} {are} not reached")
        print()
        heading(f"STOPPED in {outcome.stopped_at}: {_stop_text(stop)}")
        if isinstance(stop, LoadRejected) and stop.program:
            print(f"more: {_verify_command(scenario, options, stop.program)}")
    for fault in outcome.missed:
        print(f"note: {fault}")
    for short in outcome.short_submits:
        print(f"note: {short}")
    if outcome.ok and not scenario.stated:
        print("ran to its end; no expectations were stated")
    elif outcome.ok:
        print("all expectations met")
    elif not isinstance(stop, LoadRejected) and (outcome.backend == "sim" or outcome.injected):
        print(f"replay: {_replay_command(scenario, options, outcome)}")
    if options.record is not None:
        print(f"recording: {options.record}")
        if not outcome.ok:
            print(f"open it: {open_command(options.record)}")


def _print_document(
    scenario: Scenario,
    options: Options,
    account: Account,
    counts: Mapping[str, Counts],
    outcome: Outcome,
    maps: Mapping[str, object],
    variables: Mapping[str, object],
) -> None:
    stop = outcome.stopped
    print_json(
        "run/1",
        {
            "scenario": str(scenario.path),
            "backend": outcome.backend,
            "engine": outcome.engine,
            "seed": options.seed,
            "ok": outcome.ok,
            "exit_code": outcome.exit_code,
            "stopped": None
            if stop is None
            else {
                "kind": type(stop).__name__,
                "text": str(stop),
                "where": outcome.stopped_at,
                "expected": outcome.expected_stop,
            },
            "findings": [
                {"kind": f.kind, "where": f.where, "expected": f.expected, "found": f.found}
                for f in outcome.findings
            ],
            "expectations": scenario.stated,
            "not_judged": outcome.not_judged,
            "recording": options.record,
            "runs": dict(outcome.runs),
            "insns": account.insns,
            "helper_calls": dict(account.helper_calls),
            "cqs": _cq_rows(counts[scenario.ring_name], outcome.cqes),
            "rings": [
                {
                    "ring": name,
                    "runs": dict(one.runs),
                    "cqs": _cq_rows(counts[name], one.cqes),
                    "cq_overflow": one.overflow,
                }
                for name, one in outcome.rings.items()
            ],
            "faults": [str(fault) for fault in outcome.injected],
            "missed_faults": [{"fault": str(m.fault), "why": m.why} for m in outcome.missed],
            "short_submits": [
                {"where": short.where, "sqes": short.sqes, "consumed": short.consumed}
                for short in outcome.short_submits
            ],
            "replay": _replay_command(scenario, options, outcome),
            "cq_overflow": outcome.overflow,
            "time_ns": outcome.time_ns,
            "maps": maps,
            "globals": variables,
        },
    )


def _cq_rows(counts: Counts, cqes: Mapping[int, Sequence[Cqe]]) -> list[dict[str, object]]:
    return [
        {
            "cq": cq,
            "posted": counts.posted[cq],
            "reaped": counts.reaped[cq],
            "left": counts.posted[cq] - counts.reaped[cq],
            "lost": counts.dropped[cq],
            "cqes_to_user": [
                {
                    "user_data": cqe.user_data,
                    "res": cqe.res,
                    "flags": cqe.flags,
                    **({"big_cqe": list(cqe.extra)} if any(cqe.extra) else {}),
                }
                for cqe in of
            ],
        }
        for cq, of in sorted(cqes.items())
    ]

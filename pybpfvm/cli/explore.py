"""`pybpfvm explore SCENARIO`: run a scenario in many orders, and find those in which it fails."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Self

from pybpfvm.cli.common import (
    add_abi_arguments,
    jobs,
    kconfig,
    not_negative,
    overrides,
    positive,
    positive_seconds,
    print_json,
    target_btf,
)
from pybpfvm.cli.timeline import TERMINAL, TimelineOutput
from pybpfvm.errors import InputError, InternalError
from pybpfvm.events import Event, OfRing, SqeIssued
from pybpfvm.explore import Found, Report, explore
from pybpfvm.explore.findings import shown_by
from pybpfvm.explore.strategies import NAMES, OutOfTime
from pybpfvm.explore.table import (
    DEFAULT_RUNS,
    DEFAULT_SCHEDULES,
    DEFAULT_SECONDS,
    Options,
    Table,
)
from pybpfvm.explore.telling import document, story, summary
from pybpfvm.interrupts import released
from pybpfvm.report.terminal import heading
from pybpfvm.scenario import Live, Scenario, parse
from pybpfvm.scenario.schedule import Player, Schedule, parse_schedule
from pybpfvm.scenario.write import with_schedule
from pybpfvm.uring_backend.abi import Op

_EVERY_S = 1.0
_EPILOG = """exit codes: 0 nothing was found; 1 something was; 2 usage or unreadable input; 3 the
same schedule went two ways, or one did not end within the time; 130 interrupted, with what there
was by then"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.epilog = _EPILOG
    parser.add_argument("scenario", metavar="SCENARIO", help="a scenario (.toml), on sim")
    parser.add_argument("--object", metavar="OBJ", help="this object instead of the scenario's")
    parser.add_argument(
        "--strategy",
        choices=NAMES,
        default="dfs",
        help="who decides the order: dfs (every order, the default), random, pct or rr",
    )
    parser.add_argument(
        "--schedules",
        type=positive,
        default=DEFAULT_SCHEDULES,
        metavar="N",
        help=f"at most so many (default {DEFAULT_SCHEDULES:,})",
    )
    parser.add_argument(
        "--seconds",
        type=positive_seconds,
        default=DEFAULT_SECONDS,
        metavar="S",
        help=f"at most so long (default {DEFAULT_SECONDS:g})",
    )
    parser.add_argument(
        "--budget-runs",
        type=positive,
        default=DEFAULT_RUNS,
        metavar="N",
        help=f"runs of programs in one step before that is a hang (default {DEFAULT_RUNS:,})",
    )
    parser.add_argument(
        "--depth", type=positive, metavar="N", help="dfs: vary only the first N actions"
    )
    parser.add_argument(
        "--deviations",
        type=not_negative,
        metavar="N",
        help="dfs: only schedules that go otherwise than usual at most N times",
    )
    parser.add_argument(
        "--no-reduction",
        action="store_true",
        help="dfs: also orders that only change places of independent actions",
    )
    parser.add_argument(
        "--seed", type=not_negative, default=0, metavar="N", help="of what is drawn (default 0)"
    )
    parser.add_argument(
        "--faults",
        type=not_negative,
        nargs="?",
        const=1,
        default=0,
        metavar="N",
        help="let up to N faults come in one schedule (default 0, without a number 1)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="only check what needs no events: traps, hangs, expectations, overflow, leaks",
    )
    parser.add_argument(
        "-j",
        "--jobs",
        type=jobs,
        metavar="N",
        help="random and pct: in so many processes, with a seed for each 128 schedules; "
        "0: one a CPU",
    )
    parser.add_argument("--all", action="store_true", help="go on after the first finding")
    parser.add_argument("--replay", metavar="TEXT", help="play this schedule, as printed before")
    parser.add_argument(
        "--save", metavar="FILE", help="write the first finding as a scenario that fails"
    )
    parser.add_argument(
        "--format", choices=("text", "json"), default="text", help="of the report (default text)"
    )
    parser.add_argument("--no-verify", action="store_true", help="programs are not verified")
    parser.add_argument("--engine", default="auto", metavar="NAME", help="as of run")
    add_abi_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Explore, print what was found; the exit code."""
    scenario = replace(parse(args.scenario), schedule=None)
    options = Options(
        strategy=args.strategy,
        schedules=args.schedules,
        seconds=args.seconds,
        seed=args.seed,
        faults=args.faults,
        depth=args.depth,
        deviations=args.deviations,
        everything=args.all,
        reduce=not args.no_reduction,
        events=not args.quick,
        object_path=args.object,
        abi=args.abi,
        helpers=overrides(args),
        btf=target_btf(args),
        kconfig=kconfig(args),
        verify=not args.no_verify,
        engine=args.engine,
        budget_runs=args.budget_runs,
    )
    if args.replay is not None:
        with released():
            report = _replayed(scenario, options, parse_schedule(args.replay, "--replay"))
    elif args.jobs is not None:
        report = _shared(scenario, options, args.jobs)
    else:
        with _Line() as line:
            report = explore(scenario, options, line)
    saved, lost = "", None
    try:
        saved = _save(args, report) if args.save is not None else ""
    except (OSError, InputError) as error:
        lost = error  # what was found is told first
    commands = {index: _command(args, found) for index, found in enumerate(report.found)}
    if args.format == "json":
        print_json("explore/1", document(args.scenario, report, commands))
    else:
        _print(scenario, options, report, commands, saved)
    if lost is not None:
        raise lost
    return report.exit_code


def _replayed(scenario: Scenario, options: Options, schedule: Schedule) -> Report:
    """A report of one schedule."""
    began = time.perf_counter()
    options = replace(options, seed=schedule.seed, faults=schedule.faults)
    report = Report("replay")
    try:
        _play_again(scenario, options, schedule, report, began)
    except OutOfTime as over:
        report.out_of_time(over, options.seconds)
    report.seconds = time.perf_counter() - began
    return report


def _play_again(
    scenario: Scenario, options: Options, schedule: Schedule, report: Report, began: float
) -> None:
    """Play it twice, after the usual one. Raises OutOfTime."""
    with Table(scenario, options) as table:
        table.ends_after(options.seconds)
        usual = table.play(Player({}, schedule.faults), scenario=schedule.applied(scenario))
        table.left = len(usual.left) if usual.stopped is None else None
        players = []
        for _ in range(2):
            player = Player(schedule.picks, schedule.faults, strict=True, where="--replay")
            outcome = table.play(player, scenario=schedule.applied(scenario))
            player.require_all()
            players.append(player.answers)
    report.uncontrolled = players[0] != players[1]
    shown = shown_by(outcome, scenario.path, faulty=player.faulty)
    if shown:
        answers = tuple((at, one) for at, one in enumerate(player.answers) if one.index)
        seconds = time.perf_counter() - began
        found = Found(shown[0], schedule, answers, 1, seconds, schedule, shown[1:], given=True)
        report.found.append(found)
    report.questions, report.schedules = len(player.answers), 1


def _shared(scenario: Scenario, options: Options, jobs: int) -> Report:
    """A report of what several processes found, each finding played once more here."""
    from pybpfvm.explore.shared import UNCONTROLLED, UNENDED, ScheduleTarget, recipe
    from pybpfvm.fuzz.campaign import Budget, Campaign
    from pybpfvm.fuzz.campaign.careful import LOST
    from pybpfvm.fuzz.campaign.processes import Processes
    from pybpfvm.report.fuzzing import FuzzProgress

    target = ScheduleTarget(scenario, options)
    with closing(Processes(recipe(scenario, options), jobs)) as workers:
        campaign = Campaign(target, first=options.seed, workers=workers, shrink_seconds=0)
        findings = None if options.everything else 1
        with FuzzProgress(campaign):
            done = campaign.run(Budget(options.seconds, options.schedules, findings))
    unended = done.outcomes[UNENDED]
    report = Report(options.strategy, schedules=done.executions - unended, seconds=done.elapsed)
    report.uncontrolled = UNCONTROLLED in done.outcomes
    report.interrupted = done.interrupted
    report.stopped_by = "Ctrl-C" if done.interrupted else ""
    if unended:
        report.unended = f"{UNENDED} of {options.seconds:g} s"
    elif not (done.executions or done.interrupted):
        report.unended = f"no process ended its first schedules within {options.seconds:g} s"
    for one in list(done.findings.values())[:findings]:
        if one.problem.bucket.startswith(f"{LOST}/"):
            raise InternalError(f"seed {one.seed}: {one.problem.message}")
        schedule = parse_schedule(one.data.decode(), "a finding")
        again = _replayed(scenario, options, schedule)
        report.questions, report.unended = again.questions, again.unended or report.unended
        report.found += [
            replace(found, tries=one.executions, seconds=one.seconds, given=False)
            for found in again.found
        ]
    return report


def _print(
    scenario: Scenario, options: Options, report: Report, commands: Mapping[int, str], saved: str
) -> None:
    print(f"{scenario.path}: {scenario.title}" if scenario.title else scenario.path)
    for index, found in enumerate(report.found):
        print()
        _tell(scenario, options, found, draws=index == 0)
        print(f"replay: {commands[index]}")
    print()
    if report.uncontrolled:
        print(
            "not controlled: the same schedule went two ways, so a finding may not come again; "
            "something besides the schedule decides"
        )
    print(summary(report))
    if report.unended:
        print(
            f"not ended: {report.unended}; --budget-runs N calls it a hang after N program runs "
            "in a step, --seconds gives it more time"
        )
    if report.interrupted:
        print("interrupted: this is what there was by then")
    if saved:
        print(f"saved: {saved}")
    if not (report.found or report.uncontrolled or report.unended):
        print("nothing was found")


def _tell(scenario: Scenario, options: Options, found: Found, *, draws: bool) -> None:
    """Play a finding once more, to know what its requests are: tell it, and draw it."""
    drawing = TimelineOutput(TERMINAL, scenario, json=False)
    opcodes = {int(op): op.name for op in Op}
    requests: dict[int, str] = {}

    def see(event: Event) -> None:
        ring = ""
        if isinstance(event, OfRing):
            ring, event = f" on {event.ring}", event.event
        if isinstance(event, SqeIssued):
            requests[event.request] = opcodes.get(event.opcode, f"opcode {event.opcode}") + ring

    def on_start(live: Live) -> None:
        rules = live.ring.profile.ring
        if rules is not None:
            opcodes[rules.bpf_opcode] = "BPF"

    def on_end(live: Live) -> None:
        first, *rest = story(found, requests)
        heading(f"FOUND {first}")
        for line in rest:
            print(line)
        if draws:
            print()
            drawing.draw(live, opcodes, seed=found.schedule.seed, engine=options.engine)

    with Table(scenario, replace(options, seed=found.schedule.seed)) as table:
        table.play(
            Player(found.schedule.picks, found.schedule.faults),
            scenario=found.schedule.applied(scenario),
            observer=drawing.observer(see),
            on_start=on_start,
            on_end=on_end,
        )


def _command(args: argparse.Namespace, found: Found) -> str:
    """What a user types to see a finding again."""
    words = ["pybpfvm", "explore", args.scenario, "--replay", str(found.schedule)]
    for option in ("object", "abi", "btf", "kconfig"):
        value = getattr(args, option)
        words += [f"--{option}", value] if value else []
    for given in args.helper:
        words += ["--helper", given]
    if args.budget_runs != DEFAULT_RUNS:
        words += ["--budget-runs", str(args.budget_runs)]
    words += ["--no-verify"] if args.no_verify else []
    words += ["--engine", args.engine] if args.engine != "auto" else []
    return " ".join(quote(word) for word in words)


def _save(args: argparse.Namespace, report: Report) -> str:
    """Write the first finding to --save FILE; where that is, "" if there is none."""
    if not report.found:
        return ""
    found, target = report.found[0], Path(args.save)
    comment = f"Found by pybpfvm explore: {found.shown.kind} {found.shown.place}".rstrip()
    obj = None if args.object is None else Path(args.object)
    text = with_schedule(Path(args.scenario), target, found.schedule, comment, obj)
    target.write_text(text, encoding="utf-8")
    return str(target)


class _Line:
    """A line on stderr while it takes long, if that is a terminal."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self._last = time.monotonic()
        self._drawn = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._drawn:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def __call__(self, report: Report) -> None:
        now = time.monotonic()
        if self._shown and now - self._last >= _EVERY_S:
            self._last, self._drawn = now, True
            found = len(report.found)
            text = f"{report.schedules:,} schedules, {found} finding{'s' if found != 1 else ''}"
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)

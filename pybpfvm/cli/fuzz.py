"""`pybpfvm fuzz TARGET`: look for programs, objects and requests that show an error."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from pybpfvm.cli.common import (
    add_abi_arguments,
    jobs,
    kconfig,
    not_negative,
    overrides,
    positive,
    positive_seconds,
    print_json,
    settings,
    target_btf,
)
from pybpfvm.errors import InputError, UnsupportedError
from pybpfvm.fuzz.campaign import Budget, Campaign, Recipe, Report
from pybpfvm.fuzz.campaign.journal import Journal
from pybpfvm.fuzz.campaign.plan import AHEAD
from pybpfvm.fuzz.campaign.workers import Workers
from pybpfvm.fuzz.corpus import (
    MAX_INPUT_BYTES,
    Corpus,
    fewest,
    same_coverage,
    same_problem,
    smallest,
)
from pybpfvm.fuzz.findings import Finding, require_place
from pybpfvm.fuzz.harness import target_named
from pybpfvm.fuzz.program_inputs import STYLES, Choice
from pybpfvm.fuzz.raw_programs import FAMILIES
from pybpfvm.fuzz.target import NO_INPUT, Target
from pybpfvm.inputfile import read_input_file
from pybpfvm.loader.elf import ELF_MAGIC
from pybpfvm.report.fuzzing import FuzzProgress, document, finding_lines, lines
from pybpfvm.report.terminal import heading

DEFAULT_SECONDS = 60.0
_OUT = "pybpfvm-findings"
_MIXED = ("near", "near", "valid", "near", "hostile")
_EPILOG = """exit codes: 0 nothing was found; 1 something was, or the program is rejected; 2 usage
or unreadable input; 3 its target can not run here, or the verifier does not know; 130 interrupted,
with the whole report"""
# Options that change nothing about what a shard comes to.
_NO_MATTER = frozenset(
    {"command", "seconds", "count", "seed", "corpus", "out", "repeat", "format"}
    | {"jobs", "scheduler", "journal", "ahead"}
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments and options."""
    parser.epilog = _EPILOG
    tasks = parser.add_subparsers(dest="task", metavar="TARGET", required=True)
    verifier = tasks.add_parser("verifier", help="judge generated programs, hold verdicts to runs")
    verifier.add_argument(
        "--style",
        choices=(*STYLES, "mixed"),
        default="mixed",
        help="valid, near (nearly valid), typed (of all types; only judged), hostile, or mixed",
    )
    verifier.add_argument("--type", metavar="TYPE", help="program type, such as xdp (any without)")
    verifier.add_argument(
        "--feature", default="", metavar="NAME", help="only programs with this, such as 'spill'"
    )
    verifier.add_argument(
        "--against",
        choices=("kernel",),
        help="load each program into the running kernel too (root; with a journal)",
    )
    engine = tasks.add_parser(
        "engine", help="generated programs on all engines; with OBJ, its program on changed inputs"
    )
    engine.add_argument("object", metavar="OBJ", nargs="?", help="an object that clang made")
    engine.add_argument(
        "--family", choices=FAMILIES, help="of generated programs: only of this family"
    )
    _add_program(engine)
    loader = tasks.add_parser("loader", help="load damaged objects")
    loader.add_argument(
        "objects", metavar="OBJ", nargs="*", help="objects to damage (the examples without)"
    )
    loader.add_argument(
        "--btf", metavar="FILE", help="BTF that CO-RE relocations are resolved against"
    )
    ring = tasks.add_parser("ring", help="requests on the simulated ring and on the kernel's")
    ring.add_argument(
        "--backend", choices=("sim",), help="the simulated ring alone, without the kernel's"
    )
    for one in (verifier, engine, loader, ring):
        _add_campaign(one)
    cmin = tasks.add_parser("cmin", help="keep of a corpus what covers all that it covers")
    cmin.add_argument("corpus", metavar="DIR", help="folder of inputs, all of one target")
    cmin.add_argument("-o", "--output", metavar="DIR", required=True, help="folder for the result")
    tmin = tasks.add_parser("tmin", help="make an input smaller that shows the same")
    tmin.add_argument("file", metavar="FILE", help="an input: of a corpus, or of a finding")
    tmin.add_argument("-o", "--output", metavar="OUT", help="result (FILE.min without)")
    tmin.add_argument(
        "--seconds", type=positive_seconds, default=30.0, metavar="S", help="at most (default 30)"
    )
    for one in (cmin, tmin):
        one.add_argument(
            "object", metavar="OBJ", nargs="?", help="for inputs of `fuzz engine OBJ`: the object"
        )
        _add_program(one)


def _add_program(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("of a program of OBJ")
    group.add_argument("--prog", metavar="NAME", help="which program (needed if there are several)")
    group.add_argument(
        "--no-verify",
        action="store_true",
        help="run it though the verifier does not accept it: its faults are findings",
    )
    group.add_argument(
        "--no-coverage", action="store_true", help="change inputs blindly, which is faster"
    )
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="value of a constant (const volatile in C); may be repeated",
    )
    add_abi_arguments(parser)


def _add_campaign(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    group = parser.add_argument_group("the campaign")
    group.add_argument(
        "--seconds",
        type=positive_seconds,
        metavar="S",
        help=f"how long (default {DEFAULT_SECONDS:.0f}, without --count)",
    )
    group.add_argument("--count", type=positive, metavar="N", help="at most so many executions")
    group.add_argument(
        "--seed", type=not_negative, default=0, metavar="N", help="the first seed (default 0)"
    )
    group.add_argument(
        "--corpus", metavar="DIR", help="inputs that cover something, read and added to"
    )
    group.add_argument(
        "--out", metavar="DIR", default=_OUT, help=f"folder for findings (default {_OUT})"
    )
    group.add_argument(
        "--repeat", metavar="FILE", help="try this input alone, and say what it shows"
    )
    group.add_argument("--format", choices=("text", "json"), default="text", help="default text")
    group = parser.add_argument_group("who does it")
    who = group.add_mutually_exclusive_group()
    who.add_argument(
        "-j",
        "--jobs",
        type=jobs,
        metavar="N",
        help="so many processes; 0: one a CPU (without: this one, which an input may take down)",
    )
    who.add_argument(
        "--scheduler", metavar="ADDRESS", help="the workers of a Dask scheduler (extra cluster)"
    )
    group.add_argument(
        "--journal",
        metavar="FILE",
        help="note what is done, or go on with a campaign that noted it there",
    )
    group.add_argument(
        "--ahead",
        type=positive,
        default=AHEAD,
        metavar="N",
        help=f"shards under way at once, for large clusters (default {AHEAD})",
    )


def run(args: argparse.Namespace) -> int:
    """Do what the arguments ask for; the exit code."""
    if args.task == "cmin":
        return _cmin(args)
    if args.task == "tmin":
        return _tmin(args)
    target = _target(args)
    try:
        if args.repeat is not None:
            return _repeat(args, target)
        report = _campaign(args, target)
    finally:
        target.close()
    _print(args, report)
    return report.exit_code


def _campaign(args: argparse.Namespace, target: Target) -> Report:
    seconds = args.seconds
    if seconds is None and args.count is None:
        seconds = DEFAULT_SECONDS
    require_place(Path(args.out))
    recipe = _recipe(args)
    with ExitStack() as ends:
        journal = None
        if args.journal is not None:
            journal = ends.enter_context(closing(Journal(Path(args.journal))))
        campaign = Campaign(
            target,
            first=args.seed,
            corpus=Corpus(Path(args.corpus) if args.corpus else None),
            out=Path(args.out),
            options=_options(args),
            workers=_workers(args, recipe, ends),
            journal=journal,
            about=recipe.about() if journal is not None else None,
            ahead=args.ahead,
        )
        with FuzzProgress(campaign):
            return campaign.run(Budget(seconds, args.count))


def _workers(args: argparse.Namespace, recipe: Recipe, ends: ExitStack) -> Workers | None:
    if args.jobs is not None:
        from pybpfvm.fuzz.campaign.processes import Processes

        return ends.enter_context(closing(Processes(recipe, args.jobs)))
    if args.scheduler is not None:
        if find_spec("distributed") is None:
            raise UnsupportedError(
                "Dask distributed is not installed",
                where="--scheduler",
                remedy="pip install 'pybpfvm[cluster]'",
            )
        from pybpfvm.fuzz.campaign.cluster import Cluster

        return ends.enter_context(closing(Cluster(recipe, args.scheduler)))
    return None


def _recipe(args: argparse.Namespace) -> Recipe:
    """How other processes make the same target."""
    options = {name: value for name, value in vars(args).items() if name not in _NO_MATTER}
    files = [getattr(args, name, None) for name in ("object", "btf", "kconfig")]
    files += getattr(args, "objects", ())
    return Recipe(partial(_target, args), options, tuple(file for file in files if file))


def _target(args: argparse.Namespace) -> Target:
    return _TARGETS[args.task](args)


def _print(args: argparse.Namespace, report: Report) -> None:
    if args.format == "json":
        print_json("fuzz/1", document(report))
        return
    first, *rest = lines(report)
    heading(first)
    for line in rest:
        print(line)


def _repeat(args: argparse.Namespace, target: Target) -> int:
    data = _input(args.repeat)
    tried = target.run(data)
    if tried.outcome == NO_INPUT:
        raise InputError(
            f"this is no input of fuzz {target.name}",
            where=args.repeat,
            remedy="repeat it as the line `repeat:` of its finding.txt says",
        )
    if args.format == "json":
        report = Campaign(target, corpus=_holding(data), shrink_seconds=0).run(Budget(count=1))
        print_json("fuzz/1", document(report))
        return report.exit_code
    heading(f"fuzz {target.name}: {args.repeat}: {tried.outcome}")
    if tried.problem is None:
        print("  nothing is wrong with it")
        return 0
    for line in finding_lines(Finding(tried.problem, data, data, 0, 1, 0.0)):
        print(line)
    print()
    print(tried.problem.details)
    return 1


def _holding(data: bytes) -> Corpus:
    corpus = Corpus()
    corpus.add(data)
    return corpus


def _input(path: str) -> bytes:
    return read_input_file(path, MAX_INPUT_BYTES)


def _options(args: argparse.Namespace) -> list[str]:
    """The options that decide what a saved input does, for the command that repeats it."""
    found: list[str] = []
    if getattr(args, "object", None):
        found.append(args.object)
    for name in ("prog", "abi", "btf", "kconfig", "against", "backend"):
        value = getattr(args, name, None)
        if value:
            found += [f"--{name}", value]
    for name in ("helper", "set"):
        for value in getattr(args, name, ()):
            found += [f"--{name}", value]
    if getattr(args, "no_verify", False):
        found.append("--no-verify")
    return found


# --- targets, each imported when it is asked for -------------------------------------------------


def _verifier(args: argparse.Namespace) -> Target:
    from pybpfvm.fuzz.verifier import VerifierTarget

    choice = Choice(_styles(args), args.type, args.feature)
    choice.program(args.seed)  # what can not be made is said at once
    return VerifierTarget(choice, against_kernel=args.against == "kernel")


def _styles(args: argparse.Namespace) -> tuple[str, ...]:
    """Which programs are meant; where only some styles have what is wanted, those."""
    if args.style != "mixed":
        return (args.style,)
    if not args.type and not args.feature:
        return _MIXED
    if args.type and not Choice((), args.type).runs:
        return ("typed",)
    try:
        Choice(("near",), args.type, args.feature).program(args.seed)
    except InputError:
        return ("typed",)
    return ("near",)


def _engine(args: argparse.Namespace) -> Target:
    if args.object is None:
        from pybpfvm.fuzz.engine import EngineTarget

        return EngineTarget(FAMILIES if args.family is None else (args.family,))
    if args.family is not None:
        raise InputError("both say what runs", where="OBJ and --family", remedy="give one of them")
    return _program(args, args.object)


def _program(args: argparse.Namespace, path: str) -> Target:
    from pybpfvm.fuzz.program_runs import ProgramTarget
    from pybpfvm.session import load

    obj = load(
        path,
        abi=args.abi,
        helpers=overrides(args),
        btf=target_btf(args),
        kconfig=kconfig(args),
        constants=settings(args),
    )
    return ProgramTarget(obj, args.prog, unverified=args.no_verify, coverage=not args.no_coverage)


def _loader(args: argparse.Namespace) -> Target:
    from pybpfvm.fuzz.loader import LoaderTarget

    objects = [_input(path) for path in args.objects]
    return LoaderTarget(objects, target_btf=target_btf(args))


def _ring(args: argparse.Namespace) -> Target:
    from pybpfvm.fuzz.ring import RingTarget

    return RingTarget(kernel=args.backend != "sim")


_TARGETS: dict[str, Callable[[argparse.Namespace], Target]] = {
    "verifier": _verifier,
    "engine": _engine,
    "loader": _loader,
    "ring": _ring,
}


# How inputs begin, and whose they are.
_WORDS = {"case": "engine", "requests": "ring", "network": "ring"} | dict.fromkeys(
    STYLES, "verifier"
)


def _target_of(args: argparse.Namespace, data: bytes, where: str) -> Target:
    """The target whose input this is."""
    if args.object is not None:
        return _program(args, args.object)
    head = data[:64]
    word = head.partition(b" ")[0].decode("ascii", "replace")
    if head.startswith(ELF_MAGIC):
        return target_named("loader")
    if word in _WORDS:
        return target_named(_WORDS[word])
    raise InputError(
        "no target has such inputs", where=where, remedy="for those of a program, name its object"
    )


# --- minimisers ---------------------------------------------------------------------------------


def _cmin(args: argparse.Namespace) -> int:
    before = Corpus(Path(args.corpus))
    if not before.entries:
        raise InputError("no inputs", where=args.corpus)
    target = _target_of(args, before.entries[0], args.corpus)
    try:
        kept = fewest(target, before.entries)
    finally:
        target.close()
    after = Corpus(Path(args.output))
    for data in kept:
        after.add(data)
    print(f"{args.output}: {len(kept)} of {len(before.entries)} inputs cover the same")
    return 0


def _tmin(args: argparse.Namespace) -> int:
    data = _input(args.file)
    target = _target_of(args, data, args.file)
    try:
        tried = target.run(data)
        if tried.problem is not None:
            holds, what = same_problem(tried.problem.bucket), tried.problem.bucket
        else:
            holds, what = same_coverage(tried.features), "what it covers"
        made, tries = smallest(target, data, holds, seconds=args.seconds)
    finally:
        target.close()
    output = Path(args.output or f"{args.file}.min")
    output.write_bytes(made)
    print(f"{output}: {len(data)} to {len(made)} bytes in {tries} tries, with the same: {what}")
    return 0

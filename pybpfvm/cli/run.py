"""`pybpfvm run SCENARIO` and `pybpfvm run OBJ`: a program once, or in the loop of a ring."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence

from pybpfvm.bits import s32, s64
from pybpfvm.cli.common import (
    add_abi_arguments,
    kconfig,
    not_negative,
    overrides,
    positive,
    positive_seconds,
    print_json,
    replacements,
    settings,
    target_btf,
)
from pybpfvm.engine import DEFAULT_BUDGET_INSNS
from pybpfvm.errors import InputError, Trap
from pybpfvm.inputfile import read_input_file
from pybpfvm.loader.elf import NOT_ELF
from pybpfvm.objectfile import read_object
from pybpfvm.profiles.base import Profile
from pybpfvm.report.account import Account
from pybpfvm.report.names import AddressNames
from pybpfvm.report.progress import on_stderr, rates
from pybpfvm.report.run import map_rows, print_maps
from pybpfvm.session import Machine
from pybpfvm.session.constants import is_constant, parse_value, variable_bytes
from pybpfvm.session.engines import chosen
from pybpfvm.session.objects import LoadedObject, LoadedProgram
from pybpfvm.session.testrun import TestRun

_MAX_BYTES = 16 << 20  # of a context, and of a packet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments and options."""
    parser.add_argument("file", metavar="OBJ|SCENARIO", help="a scenario (.toml), or an object")
    parser.add_argument(
        "--json",
        action="store_true",
        help="one JSON document instead of text; errors go to stderr, with the exit code",
    )
    parser.add_argument(
        "--quiet", action="store_true", help="without the account: results and expectations only"
    )
    parser.add_argument("--all", action="store_true", help="the whole account, however long")
    parser.add_argument(
        "--timings", action="store_true", help="say how long the run took, and its rates"
    )
    parser.add_argument(
        "--engine",
        default="auto",
        metavar="NAME",
        help="what executes the programs: interp, jit, auto (the default): the JIT where it can "
        "run; llvm (extra llvm): fewest cycles, slow to compile; or ubpf, a libubpf of the "
        "system's, to compare with",
    )
    parser.add_argument(
        "--record",
        metavar="FILE",
        help="record the run, to be replayed and looked into: pybpfvm debug FILE",
    )
    parser.add_argument(
        "--budget-insns",
        type=positive,
        default=DEFAULT_BUDGET_INSNS,
        metavar="N",
        help=f"instructions per run of a program (default {DEFAULT_BUDGET_INSNS:,})",
    )
    parser.add_argument(
        "--lenient-ctx", action="store_true", help="let merged stores to the context pass"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="with an object: value of a global variable, given before anything runs, of a "
        "constant before it is judged; may be repeated",
    )
    parser.add_argument(
        "--replace",
        action="append",
        default=[],
        metavar="FUNCTION=OBJ[:PROG]",
        help="with an object: a freplace program takes the place of this function; may be repeated",
    )
    add_abi_arguments(parser)
    ring = parser.add_argument_group("scenarios, and objects with the loop of a ring")
    # No defaults here: an option that is given to the wrong kind of file is to be told apart.
    ring.add_argument(
        "--backend",
        choices=("sim", "kernel", "liburing"),
        help="a simulated ring (the default), the running kernel's, or the same through liburing",
    )
    parser.add_argument(
        "--object", metavar="OBJ", help="run the scenario on this object instead of its own"
    )
    ring.add_argument(
        "--seed", type=not_negative, help="decides everything in sim (default 0)", metavar="N"
    )
    ring.add_argument(
        "--faults",
        metavar="WHAT",
        help="what requests and programs meet: swarm (drawn from the seed), rate:0.1, a plan, "
        "e.g. READ#2=EIO,RECV#1=short:3, or READ=EIO@0.1 (docs/faults.md)",
    )
    ring.add_argument(
        "--schedule",
        metavar="TEXT",
        help="the order in which things happen, as `explore` prints it (docs/exploring.md)",
    )
    ring.add_argument(
        "--timeline",
        nargs="?",
        const="-",
        metavar="FILE",
        help="draw the run: as a page (FILE.html), as text (FILE.txt), or on the terminal",
    )
    ring.add_argument(
        "--no-verify",
        action="store_true",
        default=None,
        help="register programs without verifying them: they run sandboxed",
    )
    ring.add_argument(
        "--budget-runs",
        type=positive,
        metavar="N",
        help="runs of programs in one step before that is a hang (default 1,000,000)",
    )
    ring.add_argument(
        "--budget-seconds",
        type=positive_seconds,
        metavar="S",
        help="wall time of a step without a timeout before that is a hang (default 120)",
    )
    ring.add_argument(
        "--mem",
        type=positive,
        metavar="BYTES",
        help="with an object: give its ring a MEM region of so many bytes, zeroed",
    )
    parser.add_argument(
        "--prog",
        metavar="NAME",
        help="the object's program, or struct of callbacks (needed if there are several)",
    )
    once = parser.add_argument_group("one program once, without a ring")
    once.add_argument(
        "--ctx",
        metavar="HEX|@FILE",
        help="context bytes; what they leave of the context is zero, as for BPF_PROG_TEST_RUN",
    )
    once.add_argument("--data", metavar="HEX|@FILE", help="packet: an Ethernet frame")
    once.add_argument("--repeat", type=positive, metavar="N", help="run it so often (default 1)")


def run(args: argparse.Namespace) -> int:
    """Do what the command is asked for: its exit code."""
    if args.file.endswith(".toml"):
        from pybpfvm.cli import run_scenario

        _refuse(args, ("prog", *_ONCE), "a run of one program (OBJ), not a scenario")
        _refuse(args, ("mem",), "an object with the loop of a ring; a scenario has ring.mem")
        if args.set:
            raise InputError(
                "values are for a run of an object", where="--set", remedy=_SET_IN_SCENARIOS
            )
        if args.replace:
            raise InputError(
                "functions are replaced in a run of an object",
                where="--replace",
                remedy='write replace = { FUNCTION = "OBJ" } into the scenario',
            )
        return run_scenario.run(args)
    _refuse(args, ("object",), "a scenario (.toml), not a run of one program")
    with Machine() as machine:
        obj = _load(machine, args)
        note = ""
        if obj.known_profile is None and args.abi is None and (alike := _alike(args)):
            names = " and ".join(one.name for one in alike)
            args.abi = alike[-1].name
            note = f"the ABI is ambiguous: it does the same by {names}; run as {args.abi}"
            obj = _load(machine, args)
        if not obj.drives_ring:
            _refuse(args, _RING, "a scenario (.toml), not a run of one program")
            _refuse(args, ("mem",), "the loop of a ring, not a program that runs once")
            return _run_once(args, machine, obj)
        _refuse(args, _ONCE, "a program that runs once, not the loop of a ring")
        from pybpfvm.cli import run_scenario
        from pybpfvm.scenario.alone import alone

        scenario = alone(obj, args.prog, settings(args), args.mem or 0, replacements(args))
    return run_scenario.run(args, scenario, note)


def _alike(args: argparse.Namespace) -> Sequence[Profile]:
    """The ABIs of a loop of which it makes no difference which one the object runs by."""
    if args.replace:
        return ()
    from pybpfvm.session.judging import JudgeRequest, loops_alike

    given = read_object(args.file)
    constants = {name: text for name, text in settings(args).items() if is_constant(given, name)}
    request = JudgeRequest(
        helpers=overrides(args),
        btf=target_btf(args),
        kconfig=kconfig(args),
        constants=constants,
        strict_ctx=not args.lenient_ctx,
    )
    return loops_alike(args.file, request, refusals=not args.no_verify)


_SET_IN_SCENARIOS = "write constants or globals into the scenario"
_RING = (
    "backend",
    "seed",
    "faults",
    "schedule",
    "timeline",
    "no_verify",
    "budget_runs",
    "budget_seconds",
)
_ONCE = ("ctx", "data", "repeat")


def _refuse(args: argparse.Namespace, options: tuple[str, ...], owner: str) -> None:
    """InputError for the first of `options` that was given."""
    for name in options:
        if getattr(args, name) is not None:
            option = f"--{name.replace('_', '-')}"
            raise InputError(f"the option belongs to {owner}", where=option, remedy="leave it out")


def _bytes(option: str | None, name: str) -> bytes | None:
    if option is None:
        return None
    if option.startswith("@"):
        return read_input_file(option[1:], _MAX_BYTES, where=f"{name} {option}")
    try:
        return bytes.fromhex(option)
    except ValueError:
        raise InputError(
            f"{option!r} is not hexadecimal",
            where=name,
            remedy="give pairs of hex digits, or @FILE",
        ) from None


def _choose(obj: LoadedObject, name: str | None) -> LoadedProgram:
    if name is not None:
        return obj[name]
    if len(obj.programs) != 1:
        known = ", ".join(obj.programs) or "it has none"
        left_out = [f"{name} is left out: {why}" for name, why in obj.object.left_out.items()]
        raise InputError(
            f"the object has {len(obj.programs)} programs",
            where=obj.object.path,
            remedy=left_out[0]
            if left_out and not obj.programs
            else f"choose one with --prog: {known}; or run a scenario (.toml) with a ring",
        )
    return next(iter(obj.programs.values()))


def _load(
    machine: Machine, args: argparse.Namespace, constants: Mapping[str, str] | None = None
) -> LoadedObject:
    try:
        return machine.load(
            args.file,
            abi=args.abi,
            helpers=overrides(args),
            btf=target_btf(args),
            kconfig=kconfig(args),
            constants=constants,
            replace=replacements(args),
        )
    except InputError as error:
        if error.reason != NOT_ELF:
            raise
        remedy = f"{error.remedy}; if it is a scenario: their names end in .toml"
        raise InputError(error.reason, where=error.where, remedy=remedy) from None


def _set(machine: Machine, args: argparse.Namespace, obj: LoadedObject) -> LoadedObject:
    """The object with the values of --set."""
    given = settings(args)
    constants = {name: text for name, text in given.items() if is_constant(obj.object, name)}
    if constants:
        obj = _load(machine, args, constants)
    for name in given.keys() - constants.keys():
        where = f"--set {name}"
        value = parse_value(given[name], where, variable_bytes(obj.object, name))
        try:
            obj.globals[name] = value
        except InputError as error:
            raise InputError(error.reason, where=where, remedy=error.remedy) from None
    return obj


def _run_once(args: argparse.Namespace, machine: Machine, obj: LoadedObject) -> int:
    account = Account(head=1 << 20 if args.all else 160)
    obj = _set(machine, args, obj)
    program = _choose(obj, args.prog)
    if args.record is not None:
        machine.record(args.record, {"engine": args.engine, "program": program.name})
    engine = chosen(args.engine, obj.image)
    ctx, data = _bytes(args.ctx, "--ctx"), _bytes(args.data, "--data") or b""
    names = AddressNames(machine.memory, obj.object)
    repeat = args.repeat or 1
    start = time.perf_counter()
    try:
        with on_stderr() as progress:
            done = program.run(
                ctx,
                data,
                repeat=repeat,
                budget_insns=args.budget_insns,
                observer=account if args.json or not args.quiet else None,
                strict_ctx=not args.lenient_ctx,
                engine=engine,
                after_each=progress.each_run(),
            )
    except Trap as trap:
        if args.json:
            _print_document(args, obj, program, account, trap)
        elif not args.quiet:
            for line in account.lines(names, start_ns=account.first_ns):
                print(line)
        raise
    seconds = time.perf_counter() - start
    if args.json:
        _print_document(args, obj, program, account, done)
        return 0
    checks = "not verified, sandboxed" if engine == "jit" else "not verified"
    how = f"{program.profile.name}, engine {engine}: {checks}"
    print(f"{obj.object.path}: {program.name}  ({how})")
    if not args.quiet:
        for line in account.lines(names, start_ns=account.first_ns):
            print(line)
    print(f"returned {s64(done.retval)} (as int {s32(done.retval)}), {done.insns} instructions")
    if done.data:
        print(f"data {done.data.hex()}")
    if args.record is not None:
        print(f"recording: {args.record}")
    if args.timings:
        print(f"took {seconds * 1e3:.3f} ms: {rates(repeat, done.insns, seconds)}")
    print_maps(obj)
    return 0


def _print_document(
    args: argparse.Namespace,
    obj: LoadedObject,
    program: LoadedProgram,
    account: Account,
    end: TestRun | Trap,
) -> None:
    """What a run, or its fault, gave. Nothing is known of context and packet after a fault."""
    done = None if isinstance(end, Trap) else end
    print_json(
        "run-once/1",
        {
            "object": obj.object.path,
            "program": program.name,
            "engine": chosen(args.engine, obj.image),
            "retval": None if done is None else done.retval,
            "insns": end.insns,
            "repeat": args.repeat or 1,
            "recording": args.record,
            "ctx": None if done is None else done.ctx.hex(),
            "data": None if done is None else done.data.hex(),
            "helper_calls": dict(account.helper_calls),
            "maps": map_rows(obj),
            "fault": _fault(end) if isinstance(end, Trap) else None,
        },
    )


def _fault(trap: Trap) -> dict[str, object]:
    source = trap.source
    return {
        "kind": trap.kind.name.lower().replace("_", "-"),
        "message": trap.summary,
        "program": trap.program,
        "pc": trap.pc,
        "insn": trap.insn,
        "file": None if source is None else source.file,
        "line": None if source is None else source.line,
    }

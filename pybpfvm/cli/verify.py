"""`pybpfvm verify OBJ...`."""

from __future__ import annotations

import argparse
import os
import stat
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pybpfvm.cli.common import (
    add_abi_arguments,
    jobs,
    kconfig,
    overrides,
    positive,
    positive_seconds,
    settings,
    target_btf,
)
from pybpfvm.errors import InputError
from pybpfvm.inputfile import read_input_file
from pybpfvm.objectfile import read_object
from pybpfvm.report.formats import FORMATS, Format, Report, format_named
from pybpfvm.report.judging_progress import JudgingProgress
from pybpfvm.report.paint import wants_colour
from pybpfvm.session.judging import DEFAULT_BUDGET_INSNS, JudgeRequest, Policy
from pybpfvm.session.object_judge import AskKernel, Assignment
from pybpfvm.session.replacing import Target, split_program
from pybpfvm.session.workers import judge_all
from pybpfvm.verifier.environment import DEFAULT_BUDGET_SECONDS, DEFAULT_BUDGET_STATES
from pybpfvm.verifier.kernels import DEFAULT_KERNEL, KERNELS, NOTES
from pybpfvm.verifier.log import DEFAULT_LOG_CHARS
from pybpfvm.verifier.privileges.privilege import parse_capabilities

if TYPE_CHECKING:
    from pybpfvm.uring_backend.loop.shape import RingShape

_PIECE = 1 << 14  # characters written at a time
_MAX_TEXT_BYTES = 1 << 20

_KERNELS_HELP = "what --kernel changes (rules of ordinary program types only):\n" + "\n".join(
    f"  {name:<5} {note}" for name, note in NOTES.items()
)
_EPILOG = f"""{_KERNELS_HELP}

exit codes: 0 every program is accepted; 1 one is rejected, or the running kernel disagrees; 3 one
could not be decided; 2 usage or an object that can not be read (the others are judged all the
same); 130 interrupted, with the verdicts there were by then."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments and options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument("objects", metavar="OBJ", nargs="+", help="ELF objects that clang made")
    what = parser.add_argument_group("what is judged")
    what.add_argument(
        "--prog",
        action="append",
        default=[],
        metavar="NAME",
        help="this program only; may be repeated (all programs without)",
    )
    what.add_argument(
        "--type", metavar="TYPE", help="program type, such as xdp (by section name otherwise)"
    )
    what.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="value of a constant (const volatile in C), given before judging; may be repeated",
    )
    add_abi_arguments(parser)
    how = parser.add_argument_group("by which rules")
    how.add_argument(
        "--kernel",
        choices=tuple(KERNELS),
        default=DEFAULT_KERNEL,
        help=f"whose verdict to give (default {DEFAULT_KERNEL})",
    )
    how.add_argument(
        "--policy",
        choices=[policy.value for policy in Policy],
        default=Policy.KERNEL.value,
        help="kernel (default): refuse what the kernel refuses; strict: accept what is proved safe"
        " here, and say where the kernel would refuse it",
    )
    how.add_argument(
        "--contract", metavar="FILE", help="what user memory holds (TOML; docs/contracts.md)"
    )
    how.add_argument(
        "--ring",
        metavar="FILE",
        help="the ring that programs with a loop are for: warn where they take it to be another"
        " (written by `doctor --ring`)",
    )
    how.add_argument(
        "--target",
        metavar="OBJ[:PROG]",
        help="the object, and the program in it, that freplace programs replace a function of",
    )
    how.add_argument(
        "--caps",
        default="bpf,perfmon",
        metavar="LIST",
        help="capabilities of the loader: bpf,perfmon (default), bpf or none",
    )
    how.add_argument(
        "--against",
        choices=("kernel",),
        help="load each program into the running kernel too (root), and compare the verdicts",
    )
    how.add_argument(
        "--all-errors",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="go on after the first error of a program (default)",
    )
    how.add_argument(
        "--budget-insns",
        type=positive,
        default=DEFAULT_BUDGET_INSNS,
        metavar="N",
        help=f"instructions that a verdict may take (default {DEFAULT_BUDGET_INSNS:,})",
    )
    how.add_argument(
        "--budget-states",
        type=positive,
        default=DEFAULT_BUDGET_STATES,
        metavar="N",
        help=f"states in memory, 1 to 4 KiB each (default {DEFAULT_BUDGET_STATES:,})",
    )
    how.add_argument(
        "--budget-seconds",
        type=positive_seconds,
        default=DEFAULT_BUDGET_SECONDS,
        metavar="S",
        help=f"time for a program (default {DEFAULT_BUDGET_SECONDS:.0f})",
    )
    shown = parser.add_argument_group("how it is shown")
    shown.add_argument("--format", choices=tuple(FORMATS), default="text", help="default text")
    shown.add_argument("-o", "--output", metavar="FILE", help="write to this file")
    shown.add_argument(
        "-j",
        "--jobs",
        type=jobs,
        default=1,
        metavar="N",
        help="processes (default 1; 0: one a CPU)",
    )
    shown.add_argument("--timings", action="store_true", help="say how long each program took")
    shown.add_argument(
        "--log-level",
        type=int,
        choices=(1, 2),
        help="of --format log: the path to an error (1, default), or every state (2)",
    )
    shown.add_argument(
        "--log-chars",
        type=positive,
        default=DEFAULT_LOG_CHARS,
        metavar="N",
        help=f"of --format log: keep the last N characters (default {DEFAULT_LOG_CHARS:,})",
    )


def run(args: argparse.Namespace) -> int:
    """Do what the command is asked for: its exit code."""
    # Ctrl-C cuts judging short, and nothing else: what is known is written in full.
    request, assignment, chosen, output = _asked(args)
    with JudgingProgress() as progress:
        objects = judge_all(args.objects, assignment, jobs=args.jobs, progress=progress)
    report = Report(
        objects,
        request,
        timings=args.timings,
        colour=output is None and wants_colour(sys.stdout),
        log_level=request.log_level,
    )
    text = chosen.render(report)
    if output is None:
        _print(text)
    else:
        output.write(text)
    return report.exit_code


def _asked(
    args: argparse.Namespace,
) -> tuple[JudgeRequest, Assignment, Format, _Output | None]:
    """What the options ask for, and where it goes (None is stdout). Raises InputError."""
    if args.abi and args.type:
        raise InputError(
            "both say what a program is", where="--abi and --type", remedy="give one of them"
        )
    if args.log_level is not None and args.format != "log":
        raise InputError(
            "only the kernel log has levels", where="--log-level", remedy="add --format log"
        )
    log_level = args.log_level or 1
    chosen = format_named(args.format)
    request = JudgeRequest(
        kernel=args.kernel,
        policy=Policy(args.policy),
        abi=args.abi,
        program_type=_type(args.type),
        helpers=overrides(args),
        btf=target_btf(args),
        kconfig=kconfig(args),
        constants=settings(args),
        budget_insns=args.budget_insns,
        budget_states=args.budget_states,
        budget_seconds=args.budget_seconds,
        all_errors=args.all_errors,
        log_level=log_level,
        log_chars=args.log_chars,
        caps=parse_capabilities(args.caps),
        ring=_ring(args.ring),
        target=_target(args),
    )
    output = None if args.output is None else _Output(args.output, args.objects)
    assignment = Assignment(
        request,
        tuple(args.prog),
        _contract(args.contract),
        chosen.recorder,
        _running_kernel() if args.against else None,
    )
    return request, assignment, chosen, output


def _print(text: str) -> None:
    """`text` on stdout, in pieces: of one that is cut short, an unbuffered stdout (python -u)
    would not tell, and a reader that has gone would not be noticed."""
    for start in range(0, len(text), _PIECE):
        sys.stdout.write(text[start : start + _PIECE])


def _running_kernel() -> AskKernel:
    from pybpfvm.session.against import RunningKernel

    return RunningKernel()


def _type(name: str | None) -> str | None:
    """The profile that --type names, by its name or by that of a section."""
    if name is None:
        return None
    from pybpfvm.profiles import all_profiles
    from pybpfvm.profiles.btf_typed import BTF_TYPED, btf_typed_profile
    from pybpfvm.profiles.iouring_2021 import PROFILES_2021
    from pybpfvm.profiles.loop_dialects import DIALECTS
    from pybpfvm.profiles.ordinary import profile_of_section, unsupported_type

    known = all_profiles()
    if name in known:
        return name
    found = profile_of_section(name)
    if found is not None:
        return found.name
    by_section = next(
        (one for one in BTF_TYPED if name == one.name or one is btf_typed_profile(f"{name}/x")),
        None,
    )
    if by_section is not None:
        example = f"{by_section.sections[0].prefix}NAME"
        raise InputError(
            f"what a program of type {by_section.name} is attached to decides its rules, and only "
            "its section says it",
            where="--type",
            remedy=f"leave it out, and give the program a section such as {example}",
        )
    kind = unsupported_type(name)
    of_rings = (*PROFILES_2021, *DIALECTS)
    ordinary = ", ".join(
        name
        for name, profile in known.items()
        if profile not in of_rings and not profile.experimental
    )
    raise InputError(
        f"programs of type {kind} are not supported" if kind else f"no program type is {name!r}",
        where="--type",
        remedy=f"known: {ordinary}",
    )


def _contract(path: str | None) -> tuple[str, str] | None:
    """The --contract option: its text, and where it is from."""
    return None if path is None else (_text(path), path)


def _target(args: argparse.Namespace) -> Target | None:
    """The --target option."""
    if args.target is None:
        return None
    path, program = split_program(args.target)
    obj = read_object(path, btf=target_btf(args), kconfig=kconfig(args), abi=args.abi)
    return Target(obj, program)


def _ring(path: str | None) -> RingShape | None:
    """The ring that the file of --ring describes."""
    if path is None:
        return None
    from pybpfvm.uring_backend.loop.shape import parse_shape

    return parse_shape(_text(path), path)


def _text(path: str) -> str:
    data = read_input_file(path, _MAX_TEXT_BYTES)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8: {error.reason}", where=path) from None


@dataclass(frozen=True, slots=True)
class _Output:
    """The file of -o: found writable before anything is judged, and written once at the end."""

    path: str
    objects: Sequence[str]

    def __post_init__(self) -> None:
        if not self.path:
            raise InputError("the name of a file is empty", where="-o", remedy="give its path")
        for name in self.objects:
            if os.path.exists(self.path) and _same_file(self.path, name):
                raise InputError(
                    "is one of the objects", where=f"-o {self.path}", remedy="give another file"
                )
        folder = Path(self.path).parent
        exists = os.path.exists(self.path)
        if os.path.isdir(self.path):
            raise InputError("is a directory", where=f"-o {self.path}", remedy="give a file")
        if not exists and not folder.is_dir():
            raise InputError(f"there is no folder {folder}", where=f"-o {self.path}")
        if not os.access(self.path if exists else folder, os.W_OK):
            raise InputError("can not be written", where=f"-o {self.path}")

    def write(self, text: str) -> None:
        """Replace the file's content."""
        try:
            with open(self.path, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
        except OSError as error:
            raise InputError(
                f"can not be written: {error.strerror}", where=f"-o {self.path}"
            ) from None


def _same_file(path: str, other: str) -> bool:
    """Whether both are the same regular file."""
    try:
        regular = stat.S_ISREG(os.stat(path).st_mode)
        return regular and os.path.samefile(path, other)
    except (OSError, ValueError):
        return False

"""`pybpfvm debug FILE|SCENARIO|OBJ`: look into what was recorded, or is recorded for that."""

from __future__ import annotations

import argparse
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pybpfvm.debugger.terminal.shell import open_shell
from pybpfvm.errors import InputError, PybpfvmError
from pybpfvm.loader.elf import ELF_MAGIC
from pybpfvm.trace.format import MAGIC

_MAX_SCRIPT_BYTES = 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments and options."""
    parser.add_argument(
        "file", metavar="FILE|SCENARIO|OBJ", help="a recording; or what is to be run and recorded"
    )
    parser.add_argument(
        "--options",
        type=shlex.split,
        default=[],
        metavar="TEXT",
        help="for SCENARIO and OBJ: options of pybpfvm run, e.g. --options='--seed 3'",
    )
    parser.add_argument(
        "--engine",
        choices=("auto", "interp", "jit", "llvm"),
        default="auto",
        help="what executes whole runs of a recording",
    )
    parser.add_argument(
        "-x",
        "--script",
        action="append",
        default=[],
        metavar="FILE",
        help="do the commands in a file, then leave; may be repeated",
    )
    parser.add_argument(
        "--command",
        action="append",
        default=[],
        dest="lines",
        metavar="COMMAND",
        help="do this, then leave; may be repeated",
    )
    parser.add_argument(
        "--stay", action="store_true", help="read commands after those of -x and --command"
    )


def run(args: argparse.Namespace) -> int:
    """Debug; the exit code: 1 where a command of a script was wrong."""
    script = [line for name in args.script for line in _lines(name)] + args.lines
    interactive = args.stay or not script
    if _begins(args.file, MAGIC):
        if args.options:
            raise InputError("options of a run, and a recording", where=args.file)
        return _open(args, args.file, script, interactive)
    if not args.file.endswith(".toml") and not _begins(args.file, ELF_MAGIC):
        raise InputError(
            "neither a recording nor an object, and no scenario by its name",
            where=args.file,
            remedy="give what `run ... --record FILE` or clang -c made, or a scenario (.toml)",
        )
    with tempfile.TemporaryDirectory(prefix="pybpfvm-") as folder:
        path = str(Path(folder) / "run.bpftrace")
        _record(args.file, args.options, path)
        return _open(args, path, script, interactive)


def _open(args: argparse.Namespace, path: str, script: Sequence[str], interactive: bool) -> int:
    done = open_shell(path, engine=args.engine, script=script, interactive=interactive)
    return 0 if done or interactive else 1


def _begins(path: str, magic: bytes) -> bool:
    with open(path, "rb") as file:
        return file.read(len(magic)) == magic


def _lines(path: str) -> Sequence[str]:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read(_MAX_SCRIPT_BYTES).splitlines()


def _record(target: str, options: Sequence[str], path: str) -> None:
    """Run it, recorded. What goes wrong while it runs is what is looked for."""
    from pybpfvm.cli import run as run_command

    parser = argparse.ArgumentParser(prog="pybpfvm debug ... --", add_help=False)
    run_command.add_arguments(parser)
    args = parser.parse_args([target, *options, "--quiet", "--record", path])
    try:
        run_command.run(args)
    except InputError:
        raise
    except PybpfvmError as error:
        print(error)
    print()

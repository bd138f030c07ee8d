"""`pybpfvm replay FILE`: run a recording again, and prove that it does the same."""

from __future__ import annotations

import argparse
import time

from pybpfvm.cli.common import print_json
from pybpfvm.errors import InputError
from pybpfvm.report.progress import on_stderr
from pybpfvm.report.replay import document, lines
from pybpfvm.trace.replay import Replay

_DIVERGED = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments and options."""
    parser.add_argument("file", metavar="FILE", help="a recording: see pybpfvm run --record")
    parser.add_argument(
        "--engine",
        choices=("auto", "interp", "jit", "llvm"),
        default="auto",
        help="what executes the programs, whatever did then",
    )
    parser.add_argument(
        "--format", choices=("text", "json"), default="text", help="how to tell (default text)"
    )
    parser.add_argument(
        "--to",
        metavar="EXPR",
        help="stop where this condition held last, and say where that is (docs/expressions.md)",
    )
    parser.add_argument("--first", action="store_true", help="with --to: where it held first")
    parser.add_argument("--timings", action="store_true", help="say how long it took, then and now")


def run(args: argparse.Namespace) -> int:
    """Replay the recording; the exit code."""
    if args.to is not None:
        return _to(args)
    if args.first:
        raise InputError("--first of what?", where="--first", remedy="--to EXPR --first")
    start = time.perf_counter_ns()
    with Replay(args.file, engine=args.engine) as replay:
        with on_stderr() as progress:
            found = replay.rest(progress.each_run())
        took_ns = time.perf_counter_ns() - start if args.timings else None
        if args.format == "json":
            print_json("replay/1", document(replay, found, took_ns))
        else:
            for line in lines(replay, found, took_ns):
                print(line)
        if found is not None:
            return _DIVERGED
        if replay.damage is not None:
            raise replay.damage
    return 0


def _to(args: argparse.Namespace) -> int:
    """Where a condition held; the exit code."""
    from pybpfvm.debugger import Debugger
    from pybpfvm.debugger.place import place_document, place_lines

    with Debugger(args.file, engine=args.engine) as debugger:
        stop = debugger.seek(args.to, last=not args.first)
        if args.format == "json":
            print_json("replay-to/1", place_document(debugger, args.to, stop))
        else:
            for line in place_lines(debugger, args.to, stop):
                print(line)
        return 0 if stop.reason == "goto" else _DIVERGED

"""`pybpfvm demo`: an example that ships with the package, on the best ring there is."""

from __future__ import annotations

import argparse
from dataclasses import replace

from pybpfvm.cli.common import EXAMPLES
from pybpfvm.cli.run_scenario import Options, show
from pybpfvm.errors import InputError
from pybpfvm.report.terminal import heading, table
from pybpfvm.scenario import parse
from pybpfvm.uring_backend.kernel import probe

_FLAGSHIP = "03_pingpong"
_HEAD = 20  # events: enough to see the game begin


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments and options."""
    parser.add_argument(
        "example", nargs="?", default=_FLAGSHIP, help=f"an example's name (default {_FLAGSHIP})"
    )
    parser.add_argument("--list", action="store_true", help="list the examples")
    parser.add_argument("--quiet", action="store_true", help="without the account")
    parser.add_argument("--all", action="store_true", help="the whole account, however long")
    parser.add_argument("--sim", action="store_true", help="on the simulated ring only")


def run(args: argparse.Namespace) -> int:
    """Do what the command is asked for: its exit code."""
    folders = sorted(path.parent for path in EXAMPLES.glob("*/scenario.toml"))
    if args.list:
        table(("example", "shows"), ((f.name, parse(f / "scenario.toml").title) for f in folders))
        return 0
    folder = next((f for f in folders if args.example in (f.name, f.name[3:])), None)
    if folder is None:
        raise InputError(
            f"no example is called {args.example!r}",
            remedy=f"one of {', '.join(f.name for f in folders)}",
        )
    scenario = parse(folder / "scenario.toml")
    heading("First on the simulated ring: one seed decides everything, time is virtual.")
    options = Options(quiet=args.quiet, everything=args.all, head=_HEAD, tail=0)
    code = show(scenario, options)
    if not args.quiet and not args.all:
        print(f"\nThe whole account: pybpfvm demo {folder.name} --all")
    if args.sim or code:
        return code
    print()
    refused = probe.available()
    if refused is not None:
        heading(f"Not on the kernel's ring: {refused.reason}")
        print("The simulated run above is the whole demo on this machine.")
        return code
    heading("Now the same object, unmodified, on the running kernel's own io_uring.")
    return show(scenario, replace(options, backend="kernel"))

"""`pybpfvm dap`: a server of the Debug Adapter Protocol, for editors."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments and options."""
    parser.add_argument(
        "--listen",
        metavar="[HOST:]PORT",
        help="serve clients on a socket, one after the other (127.0.0.1 without HOST; PORT 0: any "
        "that is free), instead of the one at stdin and stdout",
    )
    parser.add_argument("--once", action="store_true", help="with --listen: end after one client")


def run(args: argparse.Namespace) -> int:
    """Serve; the exit code."""
    from pybpfvm.debugger.dap.server import serve_socket, serve_stdio
    from pybpfvm.debugger.listening import parse_address

    if args.listen is None:
        serve_stdio()
    else:
        serve_socket(parse_address(args.listen), once=args.once)
    return 0

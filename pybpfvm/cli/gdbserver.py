"""`pybpfvm gdbserver FILE`: a recording for frontends of GDB's remote protocol."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments and options."""
    parser.add_argument("file", metavar="FILE", help="a recording: see pybpfvm run --record")
    parser.add_argument(
        "--listen",
        required=True,
        metavar="[HOST:]PORT",
        help="where to serve clients, one after the other (127.0.0.1 without HOST; PORT 0: any "
        "that is free)",
    )
    parser.add_argument("--once", action="store_true", help="end after one client")
    parser.add_argument(
        "--engine",
        choices=("auto", "interp", "jit", "llvm"),
        default="auto",
        help="what executes whole runs",
    )


def run(args: argparse.Namespace) -> int:
    """Serve; the exit code."""
    from pybpfvm.debugger.gdb.server import serve_recording
    from pybpfvm.debugger.listening import parse_address

    address = parse_address(args.listen)
    serve_recording(args.file, address, engine=args.engine, once=args.once)
    return 0

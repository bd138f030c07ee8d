"""The command line: parsing and printing only.

Each command is a module with `add_arguments(parser)` and `run(args) -> int`; it is imported when
its name is used, so that `pybpfvm --help` stays fast.

Exit codes: 0 accepted, expectations met · 1 rejected, finding or failed expectation · 2 usage or
unreadable input · 3 inconclusive, unsupported feature · 4 guest fault · 70 internal error.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper

from pybpfvm import __version__
from pybpfvm.collection import no_collection

# name -> help line; the module of the same name holds the command.
COMMANDS = {
    "explain": "what a rule of the verifier means, with a bad and a good program",
    "info": "what is in an object: programs, maps, globals, relocations, its ABI and why",
    "disasm": "instructions of an object, beside their C lines",
    "asm": "assemble text into bytecode",
    "verify": "judge programs: accepted, or what is wrong, why, where, and what to do",
    "filter": "filters of requests in classic BPF: assemble, check, explain who denies what",
    "port": "what must change in programs of 2021 for Linux 7.1, with a skeleton in C",
    "run": "run a scenario, or one program once",
    "explore": "run a scenario in many orders, and find those in which it fails",
    "replay": "run a recording again, and prove that it does the same",
    "debug": "look into a recording, a scenario or a program: step forward and backward",
    "dap": "debug recordings from an editor, by the Debug Adapter Protocol",
    "gdbserver": "debug a recording from GDB and what speaks its remote protocol",
    "fuzz": "look for errors: of the verifier, the engines, the loader, rings, a program of yours",
    "demo": "an example on both rings: ping-pong over two completion queues, or the one named",
    "doctor": "what works on this machine, and what to do about what does not",
}

# These answer with a whole document also when Ctrl-C comes before they have begun.
_ANSWER_INTERRUPTED = frozenset({"verify", "fuzz", "explore"})
_INTERNAL_ERROR = 70
_NO_STDOUT = (
    "pybpfvm: error: standard output is closed (redirect it to a file or to /dev/null instead)"
)
_EPILOG = """exit codes: 0 accepted or expectations met, 1 rejected or failed expectation, 2 usage
or unreadable input, 3 inconclusive or unsupported, 4 guest fault, 70 internal error, 130
interrupted"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if sys.stdout is None:  # the shell's >&-
        print(_NO_STDOUT, file=sys.stderr)
        return 2
    if isinstance(sys.stdout, TextIOWrapper):  # C lines and paths have any characters
        sys.stdout.reconfigure(errors="backslashreplace")
    command = _command_in(arguments)
    if command not in COMMANDS:
        # --help, --version or a mistake: argparse answers and exits.
        parser = _parser(None)
        parser.parse_args(arguments)
        parser.print_help()
        return 2
    try:
        return _run(command, arguments)
    except BrokenPipeError:
        # The reader went away (`| head`): nobody is left to tell.
        _drop_output()
        return 0


def _run(command: str, arguments: Sequence[str]) -> int:
    if command not in _ANSWER_INTERRUPTED:
        return _answered(command, arguments)
    from pybpfvm.interrupts import held

    with held():
        return _answered(command, arguments)


def _answered(command: str, arguments: Sequence[str]) -> int:
    from pybpfvm.errors import InputError, InternalError, PybpfvmError

    args = None
    try:
        # Looking for garbage among what imports make takes a tenth of their time.
        with no_collection():
            args = _parsed(command, arguments)
            run = import_module(f"pybpfvm.cli.{command}").run
        code: int = run(args)
        sys.stdout.flush()
    except InternalError as error:
        what = "internal error (a bug of pybpfvm, please report it)"
        return _report(error, error.exit_code, what, _recording(args))
    except PybpfvmError as error:
        # Who gave wrong input knows where; what happened while programs ran is in the recording.
        recorded = "" if isinstance(error, InputError) else _recording(args)
        return _report(error, error.exit_code, "error", recorded)
    except KeyboardInterrupt:
        print(f"interrupted{_recording(args)}", file=sys.stderr)
        return 130
    except MemoryError:
        print("pybpfvm: error: out of memory", file=sys.stderr)
        return 2
    except ImportError as error:
        missing = error.name or str(error)
        print(
            f"pybpfvm: error: the Python package {missing!r} is missing or broken: {error}\n"
            "  remedy: pip install pybpfvm installs what it needs",
            file=sys.stderr,
        )
        return 2
    except BrokenPipeError:
        raise
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        if not place and error.errno == errno.ENOSPC:
            place = "standard output: "
            _drop_output()
        print(f"pybpfvm: error: {place}{error.strerror or error}", file=sys.stderr)
        return 2
    except Exception as error:
        return _crashed(error, arguments, _recording(args))
    return code


def _drop_output() -> None:
    """What is still to be written to stdout goes nowhere."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
    os.close(devnull)


def _recording(args: argparse.Namespace | None) -> str:
    """The line about the recording of the run that went wrong, "" if there is none."""
    path = getattr(args, "record", None)
    if path is None or not os.path.exists(path):
        return ""
    from pybpfvm.cli.common import open_command

    return f"\n  recording: {path}, open it: {open_command(path)}"


def _crashed(error: Exception, arguments: Sequence[str], recording: str) -> int:
    """What no error class covers is our bug: the details go to a file, one line to the user."""
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile(
        "w", prefix="pybpfvm-crash-", suffix=".txt", delete=False
    ) as file:
        print(f"pybpfvm {__version__}, Python {sys.version}\n{arguments}\n", file=file)
        traceback.print_exception(error, file=file)
        print(recording, file=file)
    print(
        f"pybpfvm: internal error: {type(error).__name__}: {error}\n"
        f"  details are in {file.name}; please report it with the input that caused it{recording}",
        file=sys.stderr,
    )
    return _INTERNAL_ERROR


def _report(error: Exception, code: int, label: str, more: str = "") -> int:
    print(f"pybpfvm: {label}: {error}{more}", file=sys.stderr)
    return code


def _command_in(arguments: Sequence[str]) -> str | None:
    """The command that `arguments` name, so that only its module is imported."""
    return next((word for word in arguments if not word.startswith("-")), None)


def _parsed(command: str, arguments: Sequence[str]) -> argparse.Namespace:
    """The arguments of a command; what it does not know is told with its own usage."""
    parser = _parser(command)
    args, unknown = parser.parse_known_args(arguments)
    its_own = vars(args).pop("parser")  # which can not be pickled for other processes
    if unknown:
        its_own.error(f"unrecognized arguments: {' '.join(unknown)}")
    return args


def _parser(command: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pybpfvm",
        description="Verify and run BPF programs that drive io_uring, and see what they do.",
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"pybpfvm {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, summary in COMMANDS.items():
        sub = subparsers.add_parser(name, help=summary, description=summary)
        if name == command:
            import_module(f"pybpfvm.cli.{name}").add_arguments(sub)
            sub.set_defaults(parser=sub)
    return parser

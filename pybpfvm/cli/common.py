"""What several commands share: options that name an ABI, JSON output, choosing programs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote

from pybpfvm.btf.types import Btf
from pybpfvm.errors import InputError
from pybpfvm.loader.kconfig import Kconfig, read_kconfig
from pybpfvm.loader.target import read_btf_file
from pybpfvm.profiles import profile_named
from pybpfvm.profiles.detect import parse_overrides
from pybpfvm.program import BpfObject, Program

# C sources, objects and scenarios that ship with the package.
EXAMPLES = Path(__file__).parents[1] / "examples"
_LARGEST = (1 << 63) - 1
_MAX_JOBS = 256


def add_abi_arguments(parser: argparse.ArgumentParser) -> None:
    """--abi, --helper, --btf and --kconfig."""
    parser.add_argument(
        "--abi", type=_profile_name, metavar="PROFILE", help="ABI profile (detected otherwise)"
    )
    parser.add_argument(
        "--helper",
        action="append",
        default=[],
        metavar="NUMBER=NAME",
        help="give a helper number another meaning; may be repeated",
    )
    parser.add_argument(
        "--btf", metavar="FILE", help="BTF that CO-RE relocations are resolved against"
    )
    parser.add_argument(
        "--kconfig",
        metavar="FILE",
        help="configuration that kconfig externs are taken from, as in .config or /proc/config.gz",
    )


def _profile_name(text: str) -> str:
    """argparse type: the name of a profile. Raises InputError."""
    profile_named(text, "--abi")
    return text


def overrides(args: argparse.Namespace) -> Mapping[int, str]:
    """The --helper options."""
    if not args.helper:
        return {}
    from pybpfvm.helpers.table import HELPERS

    return parse_overrides(args.helper, HELPERS)


def target_btf(args: argparse.Namespace) -> Btf | None:
    """The --btf option: a file of raw BTF, such as /sys/kernel/btf/vmlinux."""
    return read_btf_file(args.btf) if args.btf else None


def kconfig(args: argparse.Namespace) -> Kconfig | None:
    """The --kconfig option."""
    return read_kconfig(args.kconfig) if args.kconfig else None


def replacements(args: argparse.Namespace) -> Mapping[str, str]:
    """The --replace options: by function, OBJ or OBJ:PROG."""
    return _named(args.replace, "--replace", "FUNCTION=OBJ", "--replace policy=other.bpf.o")


def settings(args: argparse.Namespace) -> Mapping[str, str]:
    """The --set options."""
    return _named(args.set, "--set", "NAME=VALUE", "--set limit=16")


def _named(options: Sequence[str], where: str, form: str, example: str) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals or not name:
            raise InputError(f"{option!r} is not {form}", where=where, remedy=f"e.g. {example}")
        found[name.strip()] = value.strip()
    return found


def print_json(schema: str, body: Mapping[str, object]) -> None:
    """One JSON document on stdout, with its schema first."""
    import json

    json.dump({"schema": f"pybpfvm.{schema}", **body}, sys.stdout, indent=2)
    print()


def open_command(recording: str) -> str:
    """What a user types to look into a recording."""
    return f"pybpfvm debug {quote(recording)}"


def positive(text: str) -> int:
    """argparse type: an integer of at least 1."""
    return _integer(text, 1)


def not_negative(text: str) -> int:
    """argparse type: an integer of at least 0."""
    return _integer(text, 0)


def positive_seconds(text: str) -> float:
    """argparse type: a time in seconds, more than 0; fractions too."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 < value < 1 << 31:
        raise argparse.ArgumentTypeError(f"{text} is out of range: more than 0")
    return value


def jobs(text: str) -> int:
    """argparse type: a number of processes, which is that of CPUs for 0."""
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 <= number <= _MAX_JOBS:
        raise argparse.ArgumentTypeError(f"{text} is out of range: 0 to {_MAX_JOBS}")
    return number or len(os.sched_getaffinity(0))


def _integer(text: str, low: int) -> int:
    try:
        value = int(text, 0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not low <= value <= _LARGEST:
        raise argparse.ArgumentTypeError(f"{text} is out of range: {low} to {_LARGEST}")
    return value


def select_programs(obj: BpfObject, name: str | None) -> tuple[Program, ...]:
    """The program called `name`, or all of them."""
    if name is None:
        return obj.programs
    try:
        return (obj.program(name),)
    except KeyError:
        known = ", ".join(program.name for program in obj.programs) or "it has none"
        raise InputError(
            f"no program is called {name!r}", where=obj.path, remedy=f"programs: {known}"
        ) from None

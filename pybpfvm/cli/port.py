"""`pybpfvm port --to loop-7.1 OBJ`: what must change in programs of 2021, with a skeleton in C."""

from __future__ import annotations

import argparse
from pathlib import Path

from pybpfvm.cli.common import add_abi_arguments, overrides, print_json, target_btf
from pybpfvm.errors import InputError
from pybpfvm.porting.port import Port, port
from pybpfvm.profiles.base import Profile
from pybpfvm.profiles.loop_upstream import LOOP_PROFILES
from pybpfvm.report.porting import change_lines, document, side_by_side
from pybpfvm.report.terminal import heading
from pybpfvm.session.judging import JudgeRequest, read_cases


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments and options."""
    parser.add_argument("object", metavar="OBJ", help="ELF object of a 2021 ABI")
    parser.add_argument(
        "--to",
        required=True,
        metavar="PROFILE",
        help=f"the ABI to move to: {', '.join(profile.name for profile in LOOP_PROFILES)}",
    )
    parser.add_argument("--prog", metavar="NAME", help="only this program")
    parser.add_argument(
        "-o", "--output", metavar="DIR", help="write the skeletons, NAME.loop.bpf.c, to this folder"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document instead of text")
    add_abi_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Do what the command is asked for: its exit code."""
    target = _target(args.to)
    request = JudgeRequest(abi=args.abi, helpers=overrides(args), btf=target_btf(args))
    found = read_cases(args.object, request)
    chosen = [case for case in found.cases if args.prog in (None, case.program.name)]
    if not chosen:
        names = ", ".join(case.program.name for case in found.cases) or "it has none"
        what = "no programs" if args.prog is None else f"no program is called {args.prog!r}"
        raise InputError(what, where=args.object, remedy=f"programs: {names}")
    ports = [port(case.program, found.obj, case.profiles, target) for case in chosen]
    written = _write(Path(args.output), ports) if args.output else []
    if args.json:
        programs = [document(one) for one in ports]
        print_json("port/1", {"object": args.object, "to": target.name, "programs": programs})
        return 0
    for one in ports:
        _print(one, target, written=bool(args.output))
    for path in written:
        print(f"wrote {path}")
    return 0


def _target(name: str) -> Profile:
    known = {profile.name: profile for profile in LOOP_PROFILES}
    if name not in known:
        reason = f"no port leads to {name!r}"
        raise InputError(reason, where="--to", remedy=f"one of {', '.join(known)}")
    return known[name]


def _print(one: Port, target: Profile, *, written: bool) -> None:
    made, old = one.skeleton, one.seen.profile.name
    heading(f"{made.name}: from {old} to {target.name}")
    if one.note:
        print(f"  ({one.note})")
    for line in change_lines(one.changes):
        print(line)
    heading("\nSide by side")
    for line in side_by_side(made.pieces, old, target.name):
        print(line)
    if not written:
        heading(f"\n{made.name}.loop.bpf.c")
        print(made.text)


def _write(folder: Path, ports: list[Port]) -> list[Path]:
    """Write the skeletons: their paths."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(
            "is no folder", where=f"-o {folder}", remedy="name one, new or not"
        ) from None
    paths = [folder / f"{one.skeleton.name}.loop.bpf.c" for one in ports]
    for path, one in zip(paths, ports, strict=True):
        path.write_text(one.skeleton.text, encoding="utf-8")
    return paths

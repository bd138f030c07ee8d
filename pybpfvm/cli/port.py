"""`pybpfvm port --to loop-7.1 OBJ`: what must change in programs of 2021, with a skeleton in C."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from pybpfvm.cli.common import add_abi_arguments, overrides, print_json, target_btf
from pybpfvm.errors import InputError
from pybpfvm.porting.changes import Change, changes
from pybpfvm.porting.places import Places
from pybpfvm.porting.skeleton import Skeleton, skeleton
from pybpfvm.porting.survey import Survey, survey
from pybpfvm.profiles import profile_named
from pybpfvm.profiles.base import Profile
from pybpfvm.profiles.loop_upstream import LOOP_PROFILES
from pybpfvm.report.porting import change_lines, document, side_by_side
from pybpfvm.report.terminal import heading
from pybpfvm.session.judging import Case, JudgeRequest, read_cases


@dataclass(frozen=True, slots=True)
class _Port:
    """One program's."""

    seen: Survey
    found: tuple[Change, ...]
    made: Skeleton


def add_arguments(parser: argparse.ArgumentParser) -> None:
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
    target = _target(args.to)
    request = JudgeRequest(abi=args.abi, helpers=overrides(args), btf=target_btf(args))
    found = read_cases(args.object, request)
    chosen = [case for case in found.cases if args.prog in (None, case.program.name)]
    if not chosen:
        names = ", ".join(case.program.name for case in found.cases) or "it has none"
        what = "no programs" if args.prog is None else f"no program is called {args.prog!r}"
        raise InputError(what, where=args.object, remedy=f"programs: {names}")
    ports = []
    for case in chosen:
        seen = survey(case.program, found.obj, _profile(case, args.object))
        listed = changes(seen, target, len(found.cases) - 1)
        ports.append(_Port(seen, listed, skeleton(seen, target.name)))
    if args.output:
        _write(Path(args.output), ports)
    if args.json:
        print_json("port/1", {"object": args.object, "to": target.name, "programs": _body(ports)})
        return 0
    for port in ports:
        _print(port, target, written=bool(args.output))
    return 0


def _target(name: str) -> Profile:
    known = ", ".join(profile.name for profile in LOOP_PROFILES)
    profile = profile_named(name)
    if profile not in LOOP_PROFILES:
        raise InputError(f"no port leads to {name}", where="--to", remedy=f"one of {known}")
    return profile


def _profile(case: Case, path: str) -> Profile:
    if len(case.profiles) > 1:
        names = " or ".join(profile.name for profile in case.profiles)
        raise InputError(
            f"the ABI of {case.program.name} is ambiguous: {names}",
            where=path,
            remedy=f"say which, e.g. --abi {case.profiles[-1].name}",
        )
    if case.profile is None or case.profile.ring is None:
        what = "of no known ABI" if case.profile is None else f"a {case.profile.name} program"
        raise InputError(
            f"{case.program.name} is {what}",
            where=path,
            remedy="ports begin at programs of 2021: --abi iouring-v2, iouring-v3, ...",
        )
    return case.profile


def _print(port: _Port, target: Profile, *, written: bool) -> None:
    seen, made = port.seen, port.made
    heading(f"{made.name}: from {seen.profile.name} to {target.name}")
    for line in change_lines(port.found):
        print(line)
    heading("\nSide by side")
    for line in side_by_side(made.pieces, seen.profile.name, target.name):
        print(line)
    if not written:
        heading(f"\n{made.name}.loop.bpf.c")
        print(made.text)


def _write(folder: Path, ports: list[_Port]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for port in ports:
        (folder / f"{port.made.name}.loop.bpf.c").write_text(port.made.text, encoding="utf-8")


def _body(ports: list[_Port]) -> list[dict[str, object]]:
    body = []
    for port in ports:
        places = Places(port.seen.program)
        lines = {fact.pc: places.line(fact.pc) for fact in port.seen.facts}
        body.append(document(port.seen, port.found, port.made, lines))
    return body

"""`pybpfvm info OBJ`."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from pybpfvm.cli.common import add_abi_arguments, kconfig, overrides, print_json, target_btf
from pybpfvm.facts import program_facts
from pybpfvm.isa.opcodes import Kind
from pybpfvm.objectfile import detect_abi, global_variables, read_object
from pybpfvm.profiles import profile_named, with_helpers
from pybpfvm.profiles.base import Profile
from pybpfvm.profiles.detect import Detection
from pybpfvm.program import BpfObject, MapSpec, MapType, Program
from pybpfvm.report.terminal import heading, table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments and options."""
    parser.add_argument("object", metavar="OBJ", help="ELF object that clang made")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of text")
    add_abi_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Do what the command is asked for: its exit code."""
    renamed = overrides(args)
    obj = read_object(args.object, btf=target_btf(args), kconfig=kconfig(args))
    detection = detect_abi(obj)
    profile = profile_named(args.abi) if args.abi else detection.profile
    if profile is not None:
        profile = with_helpers(profile, renamed)
    if args.json:
        print_json("info/1", _document(obj, profile, detection))
    else:
        _print(obj, profile, detection)
    return 0


def _features(program: Program) -> list[str]:
    """Instruction groups beyond the base set that the program uses, and calls by kind."""
    groups = {insn.spec.group for insn in program.insns} - {"base32", "base64"}
    kinds = {insn.spec.kind for insn in program.insns}
    named = {
        Kind.CALL_LOCAL: "subprogram calls",
        Kind.CALL_KFUNC: "kfunc calls",
        Kind.MAY_GOTO: "may_goto",
        Kind.LDSX: "sign-extending loads",
    }
    return sorted(groups) + [text for kind, text in named.items() if kind in kinds]


def _helper_names(program: Program, profile: Profile | None) -> Iterable[str]:
    numbers = sorted({insn.imm for insn in program.insns if insn.spec.kind is Kind.CALL})
    names = profile.helpers if profile is not None else {}
    return (f"{names[n]}#{n}" if n in names else f"#{n}" for n in numbers)


def _type_name(spec: MapSpec) -> str:
    return spec.type.name.lower() if isinstance(spec.type, MapType) else f"type {spec.type}"


def _print(obj: BpfObject, profile: Profile | None, detection: Detection) -> None:
    order = "big" if obj.big_endian else "little"
    print(f"{obj.path}: BPF object, {order}-endian, license {obj.license or 'none'!r}")
    print(f"sha256 {obj.sha256}")
    if profile is not None:
        print(f"ABI {profile.name}: {profile.title}")
    elif detection.candidates:
        names = " or ".join(p.name for p in detection.candidates)
        print(f"ABI ambiguous: {names}; say which with --abi")
    else:
        print("ABI unknown: no profile fits; choose one with --abi")
    for line in detection.why:
        print(f"  {line}")
    for line in profile.notes if profile is not None else ():
        print(f"  note: {line}")
    print()
    heading("Programs")
    table(
        ("name", "section", "slots", "subprograms", "helpers", "uses"),
        (
            (
                p.name,
                p.section,
                p.slots,
                ", ".join(sub.name for sub in p.subprogs if sub.start) or "-",
                ", ".join(_helper_names(p, profile)) or "-",
                ", ".join(_features(p)) or "-",
            )
            for p in obj.programs
        ),
    )
    if obj.maps:
        print()
        heading("Maps")
        table(
            ("name", "type", "key", "value", "entries", "flags", "from"),
            (
                (
                    m.name,
                    _type_name(m),
                    m.key_size,
                    m.value_size,
                    m.max_entries,
                    f"{m.flags:#x}" + (" frozen" if m.frozen else ""),
                    m.section,
                )
                for m in obj.maps
            ),
        )
    variables = list(global_variables(obj))
    if variables:
        print()
        heading("Global variables")
        table(("name", "map", "offset", "bytes"), ((n, *place[:3]) for n, place in variables))
    _print_lines("Relocations", obj.relocations)
    _print_lines("Not supported", obj.unsupported)
    if obj.btf is not None:
        print(f"\nBTF: {len(obj.btf) - 1} types")


def _print_lines(title: str, lines: tuple[str, ...]) -> None:
    if lines:
        print()
        heading(title)
        for line in lines:
            print(f"  {line}")


def _document(obj: BpfObject, profile: Profile | None, detection: Detection) -> dict[str, object]:
    return {
        "object": obj.path,
        "sha256": obj.sha256,
        "big_endian": obj.big_endian,
        "license": obj.license,
        "abi": profile.name if profile else None,
        "abi_candidates": [p.name for p in detection.candidates],
        "abi_why": list(detection.why),
        "programs": [
            {
                "name": p.name,
                "section": p.section,
                "slots": p.slots,
                "subprograms": [sub.name for sub in p.subprogs if sub.start],
                "helpers": sorted(program_facts(p).helpers),
                "uses": _features(p),
            }
            for p in obj.programs
        ],
        "maps": [
            {
                "name": m.name,
                "type": _type_name(m),
                "key_size": m.key_size,
                "value_size": m.value_size,
                "max_entries": m.max_entries,
                "flags": m.flags,
                "frozen": m.frozen,
                "section": m.section,
            }
            for m in obj.maps
        ],
        "globals": [
            {"name": name, "map": place[0], "offset": place[1], "size": place[2]}
            for name, place in global_variables(obj)
        ],
        "relocations": list(obj.relocations),
        "unsupported": list(obj.unsupported),
    }

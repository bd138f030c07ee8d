"""`pybpfvm disasm OBJ [PROG]`."""

from __future__ import annotations

import argparse

from pybpfvm.cli.common import (
    Names,
    add_abi_arguments,
    overrides,
    print_json,
    select_programs,
    target_btf,
)
from pybpfvm.isa.codec import encode, pcs
from pybpfvm.isa.disasm import format_insn, format_program
from pybpfvm.objectfile import detect_abi, read_object
from pybpfvm.profiles import profile_named, with_helpers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("object", metavar="OBJ", help="ELF object that clang made")
    parser.add_argument("program", metavar="PROG", nargs="?", help="one program only")
    parser.add_argument(
        "--style",
        choices=("clang", "kernel", "mnemonic"),
        default="clang",
        help="text as clang writes it (default), as the kernel's log does, or mnemonics",
    )
    parser.add_argument("--no-source", action="store_true", help="without the lines of C")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of text")
    add_abi_arguments(parser)


def run(args: argparse.Namespace) -> int:
    obj = read_object(args.object, btf=target_btf(args))
    profile = profile_named(args.abi) if args.abi else detect_abi(obj).profile
    if profile is not None:
        profile = with_helpers(profile, overrides(args))
    programs = select_programs(obj, args.program)
    if args.json:
        listing = []
        for program in programs:
            names = Names(obj, program, profile)
            listing.append(
                {
                    "name": program.name,
                    "section": program.section,
                    "insns": [
                        {
                            "pc": pc,
                            "bytes": encode([insn], big_endian=program.big_endian).hex(),
                            "text": format_insn(insn, pc, style=args.style, resolve=names),
                            "source": str(program.lines[pc]) if pc in program.lines else None,
                        }
                        for pc, insn in zip(pcs(program.insns), program.insns, strict=True)
                    ],
                }
            )
        print_json("disasm/1", {"object": obj.path, "programs": listing})
        return 0
    for number, program in enumerate(programs):
        if number:
            print()
        print(f"{program.name}  ({program.section}, {program.slots} slots)")
        for line in format_program(
            program.insns,
            style=args.style,
            resolve=Names(obj, program, profile),
            lines=None if args.no_source else program.lines,
            labels={sub.start: sub.name for sub in program.subprogs},
        ):
            print(line)
    return 0

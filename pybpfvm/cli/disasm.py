"""`pybpfvm disasm OBJ [PROG]`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

from pybpfvm.cfg import Cfg
from pybpfvm.cfg import text as cfg_text
from pybpfvm.cfg.svg import svg
from pybpfvm.cli.common import (
    add_abi_arguments,
    kconfig,
    overrides,
    print_json,
    select_programs,
    target_btf,
)
from pybpfvm.cli.output import write
from pybpfvm.errors import InputError
from pybpfvm.isa.codec import encode, pcs
from pybpfvm.isa.disasm import format_insn, format_program
from pybpfvm.jit.options import Checks
from pybpfvm.listing import Names
from pybpfvm.objectfile import detect_abi, read_object
from pybpfvm.profiles import profile_named, with_helpers
from pybpfvm.profiles.base import Profile
from pybpfvm.program import BpfObject, Program


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments and options."""
    parser.add_argument("object", metavar="OBJ", help="ELF object that clang made")
    parser.add_argument("program", metavar="PROG", nargs="?", help="one program only")
    parser.add_argument(
        "--style",
        choices=("clang", "kernel", "mnemonic"),
        default="clang",
        help="text as clang writes it (default), as the kernel's log does, or mnemonics",
    )
    parser.add_argument("--no-source", action="store_true", help="without the lines of C")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="one JSON document instead of text")
    shape.add_argument(
        "--cfg",
        choices=("text", "svg"),
        help="the control-flow graph instead: blocks and where they lead, or a picture",
    )
    parser.add_argument(
        "--native",
        action="store_true",
        help="what the JIT makes of the program: machine code beside BPF and C",
    )
    parser.add_argument(
        "--checks",
        choices=[checks.value for checks in Checks],
        help="with --native, how accesses are checked: as for programs that the verifier "
        "accepted, as for all others (the default), or by pages",
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="write to this file")
    add_abi_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Do what the command is asked for: its exit code."""
    renamed = overrides(args)
    obj = read_object(args.object, btf=target_btf(args), kconfig=kconfig(args))
    profile = profile_named(args.abi) if args.abi else detect_abi(obj).profile
    if profile is not None:
        profile = with_helpers(profile, renamed)
    programs = select_programs(obj, args.program)
    if args.checks is not None and not args.native:
        raise InputError("it says how --native compiles", where="--checks", remedy="add --native")
    if args.native:
        from pybpfvm.cli import disasm_native

        disasm_native.run(args, [program.name for program in programs])
    elif args.cfg == "svg":
        if not programs:
            raise InputError("the object has no programs", where=obj.path)
        # Made before the file is opened: a graph too large leaves no empty file behind.
        graphs = [Cfg(program, resolve=Names(obj, program, profile)) for program in programs]
        picture = svg(graphs, source=not args.no_source)
        write(args.output, lambda: print(picture, end=""))
    elif args.cfg == "text":
        write(args.output, lambda: _print_cfg(args, obj, programs, profile))
    elif args.json:
        write(args.output, lambda: _print_document(args, obj, programs, profile))
    else:
        write(args.output, lambda: _print_listing(args, obj, programs, profile))
    return 0


def _print_cfg(
    args: argparse.Namespace, obj: BpfObject, programs: Sequence[Program], profile: Profile | None
) -> None:
    for number, program in enumerate(programs):
        if number:
            print()
        graph = Cfg(program, resolve=Names(obj, program, profile))
        for line in cfg_text.lines(graph, source=not args.no_source):
            print(line)


def _print_document(
    args: argparse.Namespace, obj: BpfObject, programs: Sequence[Program], profile: Profile | None
) -> None:
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
                "blocks": list(_blocks(Cfg(program))),
            }
        )
    print_json("disasm/1", {"object": obj.path, "programs": listing})


def _blocks(graph: Cfg) -> Iterator[dict[str, object]]:
    for block in graph.blocks:
        yield {
            "start": block.start,
            "end": block.end,
            "function": graph.functions[block.function].name,
            "reachable": block.reachable,
            "edges": [
                {
                    "pc": edge.pc,
                    "to": graph.blocks[edge.target].start,
                    "kind": edge.kind.value,
                    "back": edge.back,
                }
                for edge in graph.successors[block.index]
            ],
        }


def _print_listing(
    args: argparse.Namespace, obj: BpfObject, programs: Sequence[Program], profile: Profile | None
) -> None:
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

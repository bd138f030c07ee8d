"""`pybpfvm disasm OBJ [PROG] --native`: BPF, machine code and C side by side."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest

from pybpfvm.cli.common import kconfig, overrides, print_json, target_btf
from pybpfvm.cli.output import write
from pybpfvm.errors import InputError, SourceLine
from pybpfvm.isa.codec import pcs
from pybpfvm.isa.disasm import format_insn
from pybpfvm.jit.options import Checks
from pybpfvm.listing import Names
from pybpfvm.session import Machine
from pybpfvm.session.native import REGISTERS, Part, native_parts
from pybpfvm.session.objects import LoadedObject, LoadedProgram

_BPF_COLUMNS = 44
_BYTES_SHOWN = 10  # the longest instructions are cut: their text says the rest


def run(args: argparse.Namespace, names: Sequence[str]) -> None:
    """Print the code of the programs called `names`."""
    if args.cfg is not None:
        raise InputError("a graph has no machine code", where="--native", remedy="leave --cfg out")
    checks = Checks(args.checks or Checks.EXACT.value)
    with Machine() as machine:
        obj = machine.load(
            args.object,
            abi=args.abi,
            helpers=overrides(args),
            btf=target_btf(args),
            kconfig=kconfig(args),
        )
        made = [(obj[name], native_parts(obj[name], checks)) for name in names]
        if args.json:
            write(args.output, lambda: _print_document(obj, made, checks))
        else:
            write(args.output, lambda: _print_listing(args, made, checks))


def _texts(args: argparse.Namespace, program: LoadedProgram) -> Mapping[int, str]:
    """The BPF instructions by pc."""
    names = Names(program.owner.object, program.program, program.profile)
    insns = program.program.insns
    return {
        pc: format_insn(insn, pc, style=args.style, resolve=names)
        for pc, insn in zip(pcs(insns), insns, strict=True)
    }


def _print_listing(
    args: argparse.Namespace, made: list[tuple[LoadedProgram, list[Part]]], checks: Checks
) -> None:
    for number, (program, parts) in enumerate(made):
        if number:
            print()
        size = sum(len(insn.code) for part in parts for insn in part.insns)
        section = program.program.section
        print(f"{program.name}  ({section}, {checks.value}: {size} bytes of machine code)")
        print(f"; {REGISTERS}")
        for line in _lines(parts, _texts(args, program), _sources(args, program)):
            print(line)


def _sources(args: argparse.Namespace, program: LoadedProgram) -> Mapping[int, SourceLine]:
    return {} if args.no_source else program.program.lines


def _lines(
    parts: list[Part], texts: Mapping[int, str], sources: Mapping[int, SourceLine]
) -> Iterator[str]:
    shown = ""
    for part in parts:
        source = None
        if part.pc is None:
            left = f"      ; {part.what}"
        else:
            left = f"{part.pc:6}: {texts[part.pc]}"
            source = sources.get(part.pc)
        c_line = ""
        if source is not None and str(source) != shown:
            shown = str(source)
            c_line = f"; {' '.join(source.text.split())} @ {shown}"
        rows = [_machine(insn.offset, insn.code, insn.text) for insn in part.insns] or [""]
        # What does not fit beside its machine code gets a line of its own.
        if len(left) > _BPF_COLUMNS:
            yield f"{left}{'  ' + c_line if c_line else ''}"
            left = c_line = ""
        for text, row, comment in zip_longest([left], rows, [c_line], fillvalue=""):
            yield f"{text:{_BPF_COLUMNS}}  {row:62}  {comment}".rstrip()


def _machine(offset: int, code: bytes, text: str) -> str:
    cut = code[:_BYTES_SHOWN].hex() + ("+" if len(code) > _BYTES_SHOWN else "")
    return f"{offset:5x}  {cut:21} {text}"


def _print_document(
    obj: LoadedObject, made: list[tuple[LoadedProgram, list[Part]]], checks: Checks
) -> None:
    print_json(
        "disasm-native/1",
        {
            "object": obj.object.path,
            "checks": checks.value,
            "programs": [
                {
                    "name": program.name,
                    "section": program.program.section,
                    "parts": [
                        {
                            "pc": part.pc,
                            "what": part.what,
                            "insns": [
                                {
                                    "offset": insn.offset,
                                    "bytes": insn.code.hex(),
                                    "text": insn.text,
                                }
                                for insn in part.insns
                            ],
                        }
                        for part in parts
                    ],
                }
                for program, parts in made
            ],
        },
    )

"""`pybpfvm asm FILE`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pybpfvm.cli.common import print_json
from pybpfvm.errors import InputError
from pybpfvm.isa.asm import assemble
from pybpfvm.isa.codec import check_targets, encode, pcs
from pybpfvm.isa.disasm import format_insn


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="assembly text; - for standard input")
    parser.add_argument("-o", "--output", metavar="OUT", help="write raw bytecode to this file")
    parser.add_argument("--big-endian", action="store_true", help="encode for bpfeb")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of text")


def run(args: argparse.Namespace) -> int:
    text = _read(args.file)
    try:
        insns = assemble(text)
        check_targets(insns)
    except InputError as error:
        name = "<stdin>" if args.file == "-" else args.file
        where = f"{name}: {error.where}" if error.where else name
        raise InputError(error.reason, where=where, remedy=error.remedy) from None
    code = encode(insns, big_endian=args.big_endian)
    if args.output:
        Path(args.output).write_bytes(code)
    if args.json:
        print_json("asm/1", {"slots": len(code) // 8, "bytes": code.hex()})
    elif args.output:
        print(f"{args.output}: {len(insns)} instructions, {len(code)} bytes")
    else:
        for pc, insn in zip(pcs(insns), insns, strict=True):
            raw = encode([insn], big_endian=args.big_endian).hex(" ", 8)
            print(f"{pc:4}: {raw:35}  {format_insn(insn, pc)}")
    return 0


def _read(name: str) -> str:
    raw = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"not UTF-8 text at byte {error.start}", where=name, remedy="give assembly text"
        ) from None

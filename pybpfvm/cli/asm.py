"""`pybpfvm asm FILE`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pybpfvm.cli.common import print_json
from pybpfvm.errors import InputError
from pybpfvm.inputfile import read_input_file, too_long
from pybpfvm.isa.asm import MAX_TEXT_CHARS, assemble
from pybpfvm.isa.codec import check_targets, encode, pcs
from pybpfvm.isa.disasm import format_insn

_MAX_BYTES = 4 * MAX_TEXT_CHARS  # UTF-8 has 4 bytes a character at most


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments and options."""
    parser.add_argument("file", metavar="FILE", help="assembly text; - for standard input")
    parser.add_argument("-o", "--output", metavar="OUT", help="write raw bytecode to this file")
    parser.add_argument("--big-endian", action="store_true", help="encode for bpfeb")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of text")


def run(args: argparse.Namespace) -> int:
    """Do what the command is asked for: its exit code."""
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
        _write(args.output, code)
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
    if name == "-":
        if sys.stdin is None:
            raise InputError("standard input is closed", remedy="give a file")
        raw = sys.stdin.buffer.read(_MAX_BYTES + 1)
        if len(raw) > _MAX_BYTES:
            raise too_long(_MAX_BYTES, "<stdin>")
    else:
        raw = read_input_file(name, _MAX_BYTES)
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"not UTF-8 text at byte {error.start}", where=name, remedy="give assembly text"
        ) from None


def _write(name: str, code: bytes) -> None:
    try:
        Path(name).write_bytes(code)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"can not be written: {reason}", where=name) from None

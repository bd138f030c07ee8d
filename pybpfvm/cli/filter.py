"""`pybpfvm filter`: filters of requests in classic BPF: assemble, list, check, and explain what
they say of a request."""

from __future__ import annotations

import argparse
import ipaddress
from pathlib import Path

from pybpfvm.cli.common import print_json
from pybpfvm.errors import InputError, RingError
from pybpfvm.filters.cbpf import encode, lines
from pybpfvm.filters.check import check
from pybpfvm.filters.context import LATEST, build, kernel_named
from pybpfvm.filters.table import FilterTable, Registration, Scope, Verdict
from pybpfvm.report.filters import (
    listing,
    problem_document,
    problem_line,
    verdict_document,
    verdict_lines,
)
from pybpfvm.report.terminal import heading
from pybpfvm.scenario.filters import read_filters, read_lines, read_program
from pybpfvm.scenario.model import FilterSpec
from pybpfvm.scenario.sqes import opcode_named
from pybpfvm.scenario.table import nearest
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.abi import OP_LAST

_U64 = 1 << 64
_NAMES = {
    name: value
    for name, value in vars(abi).items()
    if name.startswith(("AF_", "SOCK_", "O_")) and isinstance(value, int)
} | {
    "AF_INET6": 10,
    "RESOLVE_NO_XDEV": 1,
    "RESOLVE_NO_MAGICLINKS": 2,
    "RESOLVE_NO_SYMLINKS": 4,
    "RESOLVE_BENEATH": 8,
    "RESOLVE_IN_ROOT": 0x10,
    "RESOLVE_CACHED": 0x20,
}
_FAMILY = {"v4": _NAMES["AF_INET"], "v6": _NAMES["AF_INET6"]}  # whose addresses these are
_COMMON = ("user_data", "sqe_flags")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments and options."""
    tasks = parser.add_subparsers(dest="task", metavar="TASK", required=True)
    asm = tasks.add_parser("asm", help="assemble text into instructions of 8 bytes")
    asm.add_argument("file", metavar="FILE", help="assembly text")
    asm.add_argument("-o", "--output", metavar="OUT", help="write the instructions to this file")
    disasm = tasks.add_parser("disasm", help="instructions as text that assembles to them")
    disasm.add_argument("file", metavar="FILE", help="instructions of 8 bytes")
    checks = tasks.add_parser("check", help="would a kernel take it as a filter, and if not, why")
    checks.add_argument("file", metavar="FILE", help="assembly text, or instructions")
    explain = tasks.add_parser("explain", help="why a request is allowed or denied, and by whom")
    explain.add_argument(
        "file", metavar="FILE", help="a scenario or another TOML file with filters, or one filter"
    )
    explain.add_argument("op", metavar="OP", help="the request's opcode, e.g. socket or 45")
    explain.add_argument(
        "fields",
        metavar="FIELD=VALUE",
        nargs="*",
        help="what filters see of it, e.g. family=AF_INET6 type=SOCK_STREAM; else 0",
    )
    for sub in (asm, checks):
        sub.add_argument("--op", metavar="OP", help="name the words of this opcode's context")
    for sub in (asm, checks, explain):
        sub.add_argument("--kernel", metavar="VERSION", default=LATEST, help=f"default {LATEST}")
        sub.add_argument("--json", action="store_true", help="one JSON document instead of text")


def run(args: argparse.Namespace) -> int:
    """Do what the command is asked for: its exit code."""
    return {"asm": _asm, "disasm": _disasm, "check": _check, "explain": _explain}[args.task](args)


def _opcode(name: str, where: str) -> int:
    """By its name, or its number as scenarios give it too."""
    if name.isdecimal() and len(name) <= 3 and int(name) < OP_LAST:
        return int(name)
    return opcode_named(name.lower(), where)


def _opcode_if_given(name: str | None, where: str) -> int | None:
    return None if name is None else _opcode(name, where)


def _asm(args: argparse.Namespace) -> int:
    kernel, opcode = kernel_named(args.kernel), _opcode_if_given(args.op, "--op")
    insns = read_program(args.file)
    code = encode(insns)
    if args.output:
        Path(args.output).write_bytes(code)
    if args.json:
        print_json("filter-asm/1", {"insns": len(insns), "bytes": code.hex()})
    elif args.output:
        print(f"{args.output}: {len(insns)} instructions, {len(code)} bytes")
    else:
        for line in listing(insns, opcode, kernel):
            print(line)
    return 0


def _disasm(args: argparse.Namespace) -> int:
    for line in lines(read_program(args.file)):
        print(line)
    return 0


def _check(args: argparse.Namespace) -> int:
    kernel, opcode = kernel_named(args.kernel), _opcode_if_given(args.op, "--op")
    insns, numbers = read_lines(args.file)
    problems = check(insns)
    if args.json:
        found = [problem_document(problem, insns, numbers) for problem in problems]
        print_json("filter-check/1", {"accepted": not problems, "problems": found})
    elif problems:
        heading(f"{args.file}: refused, -EINVAL")
        for problem in problems:
            print(f"  {problem_line(problem, insns, numbers)}")
            if problem.remedy:
                print(f"    remedy: {problem.remedy}")
    else:
        heading(f"{args.file}: a filter of {len(insns)} instructions")
        for line in listing(insns, opcode, kernel):
            print(f"  {line}")
    return 1 if problems else 0


def _explain(args: argparse.Namespace) -> int:
    kernel = kernel_named(args.kernel)
    opcode = _opcode(args.op, "OP")
    verdict = _verdict(args, opcode, kernel)
    if args.json:
        print_json("filter-explain/1", verdict_document(verdict, kernel))
    else:
        for line in verdict_lines(verdict, kernel):
            print(line)
    return 0 if verdict.allowed else 1


def _verdict(args: argparse.Namespace, opcode: int, kernel: str) -> Verdict:
    values = dict(_field(text) for text in args.fields)
    for name, family in _FAMILY.items():
        if name in values:
            values.setdefault("family", family)
    common = {name: values.pop(name, 0) for name in _COMMON}
    context = build(opcode, values, kernel=kernel, **common)
    if args.file.endswith(".toml"):
        specs = read_filters(args.file)
    else:
        wanted = Registration(opcode, read_program(args.file), name=args.file)
        specs = (FilterSpec(wanted),)
    return _table(specs, args.file, kernel).judge(opcode, context)


def _table(specs: tuple[FilterSpec, ...], where: str, kernel: str) -> FilterTable:
    """The filters of a ring whose task, and which itself, registered these."""
    table = FilterTable(kernel=kernel)
    for scope in (Scope.TASK, Scope.RING):
        for index, spec in enumerate(specs):
            if spec.scope is not scope:
                continue
            try:
                table, _ = table.register(spec.wanted, scope)
            except RingError as error:
                if error.errno == spec.errno:
                    continue
                place = f"{where}: filters[{index}]" if len(specs) > 1 else where
                raise InputError(
                    f"a kernel would refuse it: {error}",
                    where=place,
                    remedy="`pybpfvm filter check` lists what is wrong with a program",
                ) from None
    return table


def _field(text: str) -> tuple[str, int]:
    """A FIELD=VALUE."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise InputError(f"{text!r} is no FIELD=VALUE", remedy="e.g. family=AF_INET")
    total = 0
    for part in value.split("|"):
        total |= _number(part.strip(), text)
    return name, total


def _number(text: str, where: str) -> int:
    if text in _NAMES:
        return _NAMES[text]
    try:
        value = int(text, 0) if len(text) < 70 else _U64
    except ValueError:
        value = _address(text, where)
    if value < 0:
        raise InputError(f"{text} is negative", where=where)
    return value


def _address(text: str, where: str) -> int:
    try:
        return int(ipaddress.ip_address(text))
    except ValueError:
        raise InputError(
            f"{text!r} is no number, address or known name",
            where=where,
            remedy=nearest(text, _NAMES),
        ) from None

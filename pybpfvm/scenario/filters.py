"""Reading filters of requests, of a scenario or of a file that has nothing else.

filters = [{ op = "socket", file = "inet.cbpf", on = "task", deny_rest = true }]
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

from pybpfvm.errors import InputError
from pybpfvm.filters.asm import MAX_TEXT_CHARS, assemble, assemble_lines
from pybpfvm.filters.cbpf import Insn, decode
from pybpfvm.filters.table import FILTER_DENY_REST, FILTER_SZ_STRICT, Registration, Scope
from pybpfvm.inputfile import read_input_file
from pybpfvm.loader.elf import ELF_MAGIC
from pybpfvm.scenario.model import FilterSpec
from pybpfvm.scenario.sqes import opcode_named
from pybpfvm.scenario.table import Table, TomlValue, array, integer, nearest

MAX_FILE_BYTES = 4 * MAX_TEXT_CHARS
_SCOPES = {scope.value: scope for scope in Scope}


def filter_specs(value: TomlValue, where: str, base: Path) -> tuple[FilterSpec, ...]:
    """What the key `filters` says, in order; nothing when it is not there."""
    items = [] if value is None else array(value, where)
    return tuple(
        filter_spec(Table(item, f"{where}[{index}]"), base) for index, item in enumerate(items)
    )


def filter_spec(table: Table, base: Path, scope: Scope | None = None) -> FilterSpec:
    """One filter. `scope` is what it is registered on, `on` says that without."""
    name = table.text("name")
    if "op" not in table:
        raise InputError("'op' is missing", where=table.where, remedy='e.g. op = "socket"')
    op = table.take("op")
    if isinstance(op, int):
        opcode = integer(op, table.at("op"), 0, 0xFF)
    else:
        opcode = opcode_named(op, table.at("op"))
    if scope is None:
        on = table.text("on", Scope.RING.value)
        if on not in _SCOPES:
            raise InputError(
                f"a filter is on no {on!r}", where=table.at("on"), remedy=nearest(on, _SCOPES)
            )
        scope = _SCOPES[on]
    flags = FILTER_DENY_REST if table.flag("deny_rest") else 0
    flags |= FILTER_SZ_STRICT if table.flag("strict") else 0
    size = table.integer("pdu_size", 0, 0xFF)
    if ("text" in table) == ("file" in table):
        raise InputError("exactly one of text, file is needed", where=table.where)
    if "text" in table:
        program = assemble(table.text("text"), table.at("text"))
        name = name or table.where.rpartition(": ")[2]
    else:
        file = table.name("file")
        program = read_program(base / file)
        name = name or file
    error = table.errno("error")
    table.finish()
    return FilterSpec(Registration(opcode, program, flags, size, name), scope, error)


def read_program(path: str | os.PathLike[str]) -> tuple[Insn, ...]:
    """The program in a file: text, or instructions as bytes (which have zeros, as text has not)."""
    return read_lines(path)[0]


def read_lines(path: str | os.PathLike[str]) -> tuple[tuple[Insn, ...], tuple[int, ...]]:
    """The same, and the line of each instruction; no lines of instructions as bytes."""
    data = read_input_file(path, MAX_FILE_BYTES)
    if data.startswith(ELF_MAGIC):
        raise InputError(
            "an ELF object, where a filter in classic BPF belongs",
            where=str(path),
            remedy="give assembly text, or its instructions of 8 bytes; objects are for `verify`",
        )
    if b"\0" in data:
        return decode(data, str(path)), ()
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"neither text nor instructions: byte {error.start} is not UTF-8", where=str(path)
        ) from None
    return assemble_lines(text, str(path))


def read_filters(path: str | os.PathLike[str]) -> tuple[FilterSpec, ...]:
    """The filters of a TOML file: a scenario's, or one with nothing but `filters`."""
    name = str(path)
    data = read_input_file(path, MAX_FILE_BYTES)
    try:
        tree = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise InputError(f"not TOML: {error}", where=name) from None
    if "filters" not in tree:
        raise InputError(
            "there are no filters", where=name, remedy='filters = [{ op = "nop", text = "ret #0" }]'
        )
    table = Table(tree, f"{name}: ")
    found = filter_specs(table.take("filters"), table.at("filters"), Path(path).parent)
    if "object" not in table:
        table.finish()
    return found

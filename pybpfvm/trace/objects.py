"""What a recording keeps of an object: its file, and what was executed of it.

What a loader makes of a file depends on the machine: its kernel's types and configuration. So the
instructions and maps that there were then are kept too, and take the place of what the file gives.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pybpfvm.errors import InputError
from pybpfvm.isa.codec import check_targets, decode, encode
from pybpfvm.objectfile import read_object
from pybpfvm.program import BpfObject, MapSpec, Program, Subprog


def object_record(obj: BpfObject, data: bytes) -> Mapping[str, Any]:
    """The object of the file `data`, as a table of plain values."""
    return {
        "path": obj.path,
        "file": data,
        "big_endian": obj.big_endian,
        "programs": tuple(_program(one) for one in obj.programs),
        "maps": tuple(_map(one) for one in obj.maps),
        "functions": dict(obj.kernel_functions),
        "variables": dict(obj.kernel_variables),
        "digest": executed_digest(obj.programs),
    }


def executed_digest(programs: Sequence[Program]) -> str:
    """sha256 of the instructions of these programs, in hexadecimal."""
    found = hashlib.sha256()
    for program in programs:
        raw = encode(program.insns, big_endian=program.big_endian)
        found.update(f"{program.name} {len(raw)}\n".encode("utf-8", "surrogateescape"))
        found.update(raw)
    return found.hexdigest()


def _program(program: Program) -> Mapping[str, Any]:
    return {
        "name": program.name,
        "section": program.section,
        "code": encode(program.insns, big_endian=program.big_endian),
        "subprogs": tuple(
            (one.name, one.start, one.end, one.is_global, one.btf_type_id)
            for one in program.subprogs
        ),
        "license": program.license,
        "attach_to": program.attach_to,
    }


def _map(spec: MapSpec) -> Mapping[str, Any]:
    found = {name: getattr(spec, name) for name in _MAP_FIELDS}
    found["type"] = int(spec.type)
    found["inner"] = None if spec.inner is None else _map(spec.inner)
    found["slots"] = dict(spec.slots)
    return found


_MAP_FIELDS = tuple(MapSpec.__dataclass_fields__)


def recorded_object(record: Mapping[str, Any]) -> BpfObject:
    """The object that `object_record` kept. Raises InputError for what can not be one."""
    try:
        return _recorded(record)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"an object can not be read: {error!r}") from None


def _recorded(record: Mapping[str, Any]) -> BpfObject:
    obj = replace(read_object(record["file"]), path=record["path"])
    known = {one.name: one for one in obj.programs}
    programs = tuple(
        _program_of(one, known.get(one["name"]), record["big_endian"]) for one in record["programs"]
    )
    found = replace(
        obj,
        programs=programs,
        maps=tuple(_map_of(one) for one in record["maps"]),
        big_endian=record["big_endian"],
        kernel_functions=dict(record["functions"]),
        kernel_variables=dict(record["variables"]),
    )
    if executed_digest(programs) != record["digest"]:
        raise InputError("the programs are not those that were recorded", where=record["path"])
    return found


def _program_of(record: Mapping[str, Any], known: Program | None, big_endian: bool) -> Program:
    code = record["code"]
    if known is not None and encode(known.insns, big_endian=big_endian) == code:
        return known
    insns = decode(code, big_endian=big_endian)
    check_targets(insns, where=record["name"])
    program = Program(
        record["name"],
        record["section"],
        insns,
        tuple(Subprog(*one) for one in record["subprogs"]),
        license=record["license"],
        big_endian=big_endian,
        attach_to=record["attach_to"],
    )
    same = known is not None and known.slots == program.slots
    return replace(program, lines=known.lines) if same and known is not None else program


def _map_of(record: Mapping[str, Any]) -> MapSpec:
    inner = record["inner"]
    fields = {name: record[name] for name in _MAP_FIELDS}
    fields["inner"] = None if inner is None else _map_of(inner)
    return MapSpec(**fields)

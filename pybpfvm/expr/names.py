"""What a name in an expression stands for, apart from the language: constants, types, globals."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache

from pybpfvm.btf.types import Btf, BtfKind, Enum, Enum64
from pybpfvm.expr.ctype import CType, ctype
from pybpfvm.objectfile import global_variables
from pybpfvm.program import BpfObject
from pybpfvm.source.info import DebugInfo
from pybpfvm.uring_backend import abi

_TYPE_KINDS = {
    "struct": (BtfKind.STRUCT,),
    "union": (BtfKind.UNION,),
    "enum": (BtfKind.ENUM, BtfKind.ENUM64),
}


@cache
def constants() -> Mapping[str, int]:
    """Opcodes, flags of SQEs and CQEs, and errno names (positive), by the kernel's names."""
    found = {name: number for number, name in errno.errorcode.items()}
    found |= {f"IORING_OP_{op.name}": int(op) for op in abi.Op}
    for name, number in vars(abi).items():
        if not isinstance(number, int):
            continue
        if name.startswith("SQE_"):
            found[f"IOSQE_{name.removeprefix('SQE_')}"] = number
        elif name.startswith(("CQE_F_", "SETUP_", "ENTER_")):
            found[f"IORING_{name}"] = number
    return found


def named_type(debug: DebugInfo | None, kind: str, name: str) -> CType | None:
    """`struct NAME`, `union NAME` or `enum NAME`; with `kind` "" what else is called so."""
    kinds = _TYPE_KINDS.get(kind, (BtfKind.TYPEDEF, BtfKind.INT))
    for table in () if debug is None else debug.type_tables:
        found = table.find(name, *kinds)
        if found is not None:
            return ctype(table, found)
    return None


def type_names(debug: DebugInfo | None, kind: str) -> set[str]:
    """What `named_type` knows."""
    kinds = _TYPE_KINDS.get(kind, (BtfKind.TYPEDEF, BtfKind.INT))
    tables = () if debug is None else debug.type_tables
    return {table.name(one) for table in tables for one in table.ids_of(*kinds)} - {""}


@lru_cache(maxsize=16)
def enumerators(debug: DebugInfo) -> Mapping[str, tuple[int, Btf, int]]:
    """(value, table, type id) of the object's enum constants."""
    found: dict[str, tuple[int, Btf, int]] = {}
    for table in debug.type_tables:
        for type_id in table.ids_of(BtfKind.ENUM, BtfKind.ENUM64):
            one = table.type(type_id)
            assert isinstance(one, Enum | Enum64)
            for item in one.values:
                found.setdefault(item.name, (item.value, table, type_id))
    return found


@lru_cache(maxsize=16)
def variables(debug: DebugInfo) -> Mapping[str, tuple[str, int, int]]:
    """(section, offset, type id) of the object's global variables."""
    return dict(_variables(debug.object))


def _variables(obj: BpfObject) -> Iterator[tuple[str, tuple[str, int, int]]]:
    sections = {spec.name: spec.section for spec in obj.maps}
    for name, (map_name, offset, _, type_id) in global_variables(obj):
        yield name, (sections[map_name], offset, type_id)

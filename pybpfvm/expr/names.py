"""What a name in an expression stands for, apart from the language: constants, types, globals."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache

from pybpfvm.btf.types import Btf, BtfKind, Enum, Enum64
from pybpfvm.objectfile import global_variables
from pybpfvm.program import BpfObject
from pybpfvm.source.info import DebugInfo
from pybpfvm.uring_backend import abi


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


@lru_cache(maxsize=32)
def enumerators(table: Btf) -> Mapping[str, tuple[int, int]]:
    """(value, type id) of the enum constants of a table."""
    found: dict[str, tuple[int, int]] = {}
    for type_id in table.ids_of(BtfKind.ENUM, BtfKind.ENUM64):
        one = table.type(type_id)
        assert isinstance(one, Enum | Enum64)
        for item in one.values:
            found.setdefault(item.name, (item.value, type_id))
    return found


@lru_cache(maxsize=16)
def variables(debug: DebugInfo) -> Mapping[str, tuple[str, int, int]]:
    """(section, offset, type id) of the object's global variables."""
    return dict(_variables(debug.object))


def _variables(obj: BpfObject) -> Iterator[tuple[str, tuple[str, int, int]]]:
    sections = {spec.name: spec.section for spec in obj.maps}
    for name, (map_name, offset, _, type_id) in global_variables(obj):
        yield name, (sections[map_name], offset, type_id)

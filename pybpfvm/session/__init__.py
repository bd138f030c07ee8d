"""Where the parts meet: load an object, judge its programs, put them on a ring, run them. The host
API.

Names are imported on first use, as in `pybpfvm`: whoever judges programs needs no ring.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pybpfvm.btf.types import Btf
    from pybpfvm.loader.kconfig import Kconfig
    from pybpfvm.session.hostring import make_backend
    from pybpfvm.session.loopring import LoopRing
    from pybpfvm.session.machine import Machine, default_machine
    from pybpfvm.session.objects import LoadedObject, LoadedProgram, MapView
    from pybpfvm.session.ring import Ring
    from pybpfvm.session.sqe import SqeBuilder, cstring, timespec
    from pybpfvm.session.testrun import TestRun
    from pybpfvm.session.user import Block, UserMemory
    from pybpfvm.session.values import Value
    from pybpfvm.uring_backend.abi import Cqe
    from pybpfvm.uring_backend.bpf import Budgets

__all__ = [
    "Block",
    "Budgets",
    "Cqe",
    "LoadedObject",
    "LoadedProgram",
    "LoopRing",
    "Machine",
    "MapView",
    "Ring",
    "SqeBuilder",
    "TestRun",
    "UserMemory",
    "cstring",
    "default_machine",
    "load",
    "make_backend",
    "timespec",
]


# name -> the module that has it
_HOMES: Mapping[str, str] = {
    "Block": "pybpfvm.session.user",
    "Budgets": "pybpfvm.uring_backend.bpf",
    "Cqe": "pybpfvm.uring_backend.abi",
    "LoopRing": "pybpfvm.session.loopring",
    "LoadedObject": "pybpfvm.session.objects",
    "LoadedProgram": "pybpfvm.session.objects",
    "Machine": "pybpfvm.session.machine",
    "MapView": "pybpfvm.session.objects",
    "Ring": "pybpfvm.session.ring",
    "SqeBuilder": "pybpfvm.session.sqe",
    "TestRun": "pybpfvm.session.testrun",
    "UserMemory": "pybpfvm.session.user",
    "cstring": "pybpfvm.session.sqe",
    "default_machine": "pybpfvm.session.machine",
    "make_backend": "pybpfvm.session.hostring",
    "timespec": "pybpfvm.session.sqe",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def load(
    source: str | os.PathLike[str] | bytes,
    *,
    abi: str | None = None,
    helpers: Mapping[int, str] | None = None,
    btf: Btf | None = None,
    kconfig: Kconfig | None = None,
    constants: Mapping[str, Value | str] | None = None,
    replace: Mapping[str, str] | None = None,
    machine: Machine | None = None,
) -> LoadedObject:
    """Load an ELF object into `machine` (the default one): see Machine.load."""
    from pybpfvm.session.machine import default_machine

    where = machine or default_machine()
    return where.load(
        source,
        abi=abi,
        helpers=helpers,
        btf=btf,
        kconfig=kconfig,
        constants=constants,
        replace=replace,
    )

"""Where the parts meet: load an object, put its programs on a ring, run them. The host API."""

from __future__ import annotations

import os
from collections.abc import Mapping

from pybpfvm.btf.types import Btf
from pybpfvm.session.machine import Machine, default_machine
from pybpfvm.session.objects import LoadedObject, LoadedProgram, MapView
from pybpfvm.session.ring import Ring, make_backend
from pybpfvm.session.sqe import SqeBuilder, cstring, timespec
from pybpfvm.session.testrun import TestRun
from pybpfvm.session.user import Block, UserMemory
from pybpfvm.uring_backend.abi import Cqe
from pybpfvm.uring_backend.bpf import Budgets

__all__ = [
    "Block",
    "Budgets",
    "Cqe",
    "LoadedObject",
    "LoadedProgram",
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


def load(
    source: str | os.PathLike[str] | bytes,
    *,
    abi: str | None = None,
    helpers: Mapping[int, str] | None = None,
    btf: Btf | None = None,
    machine: Machine | None = None,
) -> LoadedObject:
    """Load an ELF object into `machine` (the default one): see Machine.load."""
    return (machine or default_machine()).load(source, abi=abi, helpers=helpers, btf=btf)

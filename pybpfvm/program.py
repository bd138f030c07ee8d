"""What the loader makes and everyone else takes: maps, programs, objects. Immutable.

A program's instructions name maps by their index in `BpfObject.maps` (LDDW with Pseudo.MAP_IDX
or MAP_IDX_VALUE) and subprograms by pc-relative offsets: every relocation is applied, nothing
points outside, and the encoded bytes go to bpf(2) as they are, with map fds as `fd_array`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

from pybpfvm.errors import SourceLine
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import Kind

if TYPE_CHECKING:
    from pybpfvm.btf.types import Btf
    from pybpfvm.profiles.detect import Detection

# Helper numbers that the loader, as libbpf, leaves where something is missing: a program that
# comes there can not go on. 0xbad2310 is also what people search for.
POISON_CORE = 0xBAD2310
POISON_KFUNC = 2_002_000_000

__all__ = [
    "POISON_CORE",
    "POISON_KFUNC",
    "BpfObject",
    "MapSpec",
    "MapType",
    "Program",
    "Replaced",
    "SourceLine",
    "StructOps",
    "Subprog",
    "told_apart",
]


class MapType(IntEnum):
    """Map types by the kernel's numbers."""

    HASH = 1
    ARRAY = 2
    PROG_ARRAY = 3
    PERF_EVENT_ARRAY = 4
    PERCPU_HASH = 5
    PERCPU_ARRAY = 6
    STACK_TRACE = 7
    CGROUP_ARRAY = 8
    LRU_HASH = 9
    LRU_PERCPU_HASH = 10
    LPM_TRIE = 11
    ARRAY_OF_MAPS = 12
    HASH_OF_MAPS = 13
    DEVMAP = 14
    SOCKMAP = 15
    CPUMAP = 16
    XSKMAP = 17
    SOCKHASH = 18
    CGROUP_STORAGE = 19
    REUSEPORT_SOCKARRAY = 20
    PERCPU_CGROUP_STORAGE = 21
    QUEUE = 22
    STACK = 23
    SK_STORAGE = 24
    DEVMAP_HASH = 25
    STRUCT_OPS = 26
    RINGBUF = 27
    INODE_STORAGE = 28
    TASK_STORAGE = 29
    BLOOM_FILTER = 30
    USER_RINGBUF = 31
    CGRP_STORAGE = 32
    ARENA = 33


# Flag bits of MapSpec.flags, by the kernel's numbers.
BPF_F_NO_PREALLOC = 1 << 0
BPF_F_RDONLY = 1 << 3
BPF_F_WRONLY = 1 << 4
BPF_F_RDONLY_PROG = 1 << 7
BPF_F_WRONLY_PROG = 1 << 8
BPF_F_MMAPABLE = 1 << 10
BPF_F_INNER_MAP = 1 << 12

ARENA_PAGE_BYTES = 4096  # x86-64's; max_entries of an arena counts pages


@dataclass(frozen=True, slots=True)
class MapSpec:
    """A map as the object declares it.

    `type` is a MapType, or the bare number where that is unknown. `data` is the initial value of
    element 0 for maps made from .rodata, .data and .bss (None for all others), and `frozen` says
    that no one may change it after loading. `slots` are initial contents of a map-in-map (index
    -> name of an inner map) or program array (index -> name of a program).
    """

    name: str
    type: MapType | int
    key_size: int
    value_size: int
    max_entries: int
    flags: int = 0
    section: str = ""
    data: bytes | None = None
    frozen: bool = False
    inner: MapSpec | None = None
    slots: Mapping[int, str] = field(default_factory=dict)
    btf_key_type_id: int = 0
    btf_value_type_id: int = 0
    pinning: int = 0
    map_extra: int = 0


@dataclass(frozen=True, slots=True)
class StructOps:
    """A variable of a `.struct_ops` section: a struct of callbacks for the kernel.

    `struct` is the name of its type, `type_id` its id in the object's BTF, `data` its bytes with
    zeros where callbacks stand; `programs` are those by member. `link`: it is attached by a link.
    """

    name: str
    struct: str
    type_id: int
    data: bytes
    programs: Mapping[str, str]
    link: bool


@dataclass(frozen=True, slots=True)
class Subprog:
    """A function inside a program: [start, end) in slots; the main function starts at 0."""

    name: str
    start: int
    end: int
    is_global: bool = False
    btf_type_id: int = 0


@dataclass(frozen=True, slots=True)
class Program:
    """A loadable program: its main function followed by the subprograms it reaches.

    `insns` are in order; `lines` and `Subprog` bounds are keyed by pc (slots). `sleepable` and
    `section` come from the object; the ABI profile gives them meaning. `attach_to` is what the
    program is attached to where its section does not say: STRUCT/MEMBER for struct_ops. `replaces`
    is the function whose place it takes, for programs of type EXT once that is known.
    """

    name: str
    section: str
    insns: tuple[Insn, ...]
    subprogs: tuple[Subprog, ...] = ()
    lines: Mapping[int, SourceLine] = field(default_factory=dict)
    license: str = ""
    big_endian: bool = False
    attach_to: str = ""
    replaces: Replaced | None = None

    @property
    def is_callback(self) -> bool:
        """Whether its section says that it is a member of a struct of callbacks."""
        return self.section.startswith("struct_ops")

    @property
    def slots(self) -> int:
        """Length in 8-byte slots."""
        return len(self.insns) + [insn.spec.kind for insn in self.insns].count(Kind.LDDW)

    def line_at(self, pc: int) -> SourceLine | None:
        """The C line that `pc` belongs to: the nearest one at or before it in its function."""
        if not self.lines:
            return None
        start = max((sub.start for sub in self.subprogs if sub.start <= pc), default=0)
        return next((self.lines[p] for p in range(pc, start - 1, -1) if p in self.lines), None)

    @property
    def own_file(self) -> str:
        """The file that most of its lines are of, headers aside; "" without line information."""
        files = Counter(line.file for line in self.lines.values())
        return next((name for name, _ in files.most_common() if not name.endswith(".h")), "")

    def own_line_at(self, pc: int) -> SourceLine | None:
        """The nearest line of its own file at or before `pc`: for an inlined function of a header
        one near its call. None without line information."""
        file = self.own_file
        own = [at for at, line in self.lines.items() if at <= pc and line.file == file]
        return self.lines[max(own)] if own else None


@dataclass(frozen=True, slots=True)
class Replaced:
    """`function` of `program` of `obj`, which another program takes the place of."""

    obj: BpfObject
    program: Program
    function: Subprog


@dataclass(frozen=True, slots=True)
class BpfObject:
    """A loaded ELF object: everything in it, nothing instantiated.

    `path` is for messages only. `unsupported` lists features found and left out, one line each;
    `left_out` says, by name, why a program could not be made. `kernel_functions` and
    `kernel_variables` are what it uses of the kernel, by the numbers that stand for them in
    instructions; weak functions that are missing are among them, from POISON_KFUNC on. `dialect`:
    its ABI, for objects of those dialects that structs of callbacks and the like tell apart.
    """

    path: str
    sha256: str
    programs: tuple[Program, ...]
    maps: tuple[MapSpec, ...]
    license: str = ""
    big_endian: bool = False
    btf: Btf | None = None
    unsupported: tuple[str, ...] = ()
    relocations: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    struct_ops: tuple[StructOps, ...] = ()
    kernel_functions: Mapping[int, str] = field(default_factory=dict)
    kernel_variables: Mapping[int, str] = field(default_factory=dict)
    dialect: Detection | None = None

    def program(self, name: str) -> Program:
        """The program called `name`; KeyError if there is none."""
        for program in self.programs:
            if program.name == name:
                return program
        raise KeyError(name)

    def map_index(self, name: str) -> int:
        """Index of the map called `name`; KeyError if there is none."""
        for index, spec in enumerate(self.maps):
            if spec.name == name:
                return index
        raise KeyError(name)


def told_apart(names: Iterable[str]) -> list[str]:
    """The names, a number behind those that others have: `own`, `own_2`. In an object that was
    linked of several, each may have maps and variables of its own under the same name."""
    known = list(names)
    taken, turns = set(known), Counter[str]()
    for index, name in enumerate(known):
        turns[name] += 1
        while turns[name] > 1 and (other := f"{name}_{turns[name]}") in taken:
            turns[name] += 1
        if turns[name] > 1:
            known[index] = other
            taken.add(other)
    return known

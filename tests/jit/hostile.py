"""Hostile programs on compiled code, and whether the process is afterwards what it was before.

Watched all the time: memory that programs must not change (a private region, user memory, the
pages of the code itself). Watched at the end: signal handlers, open files, mappings, the heap.
"""

from __future__ import annotations

import ctypes
import gc
import os
import zlib
from collections import Counter
from dataclasses import dataclass, field, replace
from random import Random

from pybpfvm.errors import InputError, Trap
from pybpfvm.fuzz.agreement import CANARY, World, compiler
from pybpfvm.fuzz.raw_programs import USER_WRITERS, Case, generate
from pybpfvm.jit.engine import JitEngine
from pybpfvm.jit.faults import _SIGNALS, _installed, fault_handler
from pybpfvm.jit.options import Checks
from pybpfvm.jit.unit import Unit

_FAMILIES = ("hostile", "hostile", "noise", "hostile", "lost", "hostile", "rings", "pairs")
_LONG = 1 << 20  # a budget that a loop uses up in a millisecond
_SPARE_MAPPINGS = 40
_BLOCKS = 2000

_libc = ctypes.CDLL(None)
_libc.malloc.restype = ctypes.c_void_p
_libc.malloc.argtypes = (ctypes.c_size_t,)
_libc.realloc.restype = ctypes.c_void_p
_libc.realloc.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.free.argtypes = (ctypes.c_void_p,)


@dataclass
class Watched:
    """Runs hostile programs; `wrong` is what they left behind that they must not."""

    programs: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.run(0, Checks.PAGES)  # what is made once is made
        self.run(1, Checks.EXACT)
        self.programs = 0
        gc.collect()
        self._files = _files()
        self._mappings = _mappings()
        self._code = _code_bytes()

    def run(self, seed: int, checks: Checks) -> None:
        """Run the hostile case of the seed."""
        case = _hostile_case(seed)
        with World(case, compiler(checks)) as world:
            engine = world.engine
            assert isinstance(engine, JitEngine)
            for number, budget in case.runs:
                program = case.object.programs[number]
                try:
                    engine.run(program, world.ctx.start, budget_insns=budget, packet=world.packet)
                    self.ends["r0"] += 1
                except Trap as trap:
                    self.ends[trap.kind.name] += 1
                except InputError:
                    self.ends["refused"] += 1
                self.programs += 1
            self._look(seed, checks, world, engine)

    def _look(self, seed: int, checks: Checks, world: World, engine: JitEngine) -> None:
        memory, where = world.image.memory, f"seed {seed} {checks.name}"
        for region in (world.canary, world.user):
            if bytes(memory.view(region)) != CANARY * (region.size // len(CANARY)):
                self.wrong.append(f"{where}: {region.name} was changed")
        for unit, _ in engine._units.values():
            if not _intact(unit):
                self.wrong.append(f"{where}: code of {unit.program.name} was changed")
        if engine._pieces:
            self.wrong.append(f"{where}: pieces are left")

    def finish(self) -> None:
        """Look at the process."""
        gc.collect()
        handler = fault_handler()
        handler.ensure()
        for number in _SIGNALS:
            if _installed(number)[0] != handler._ours[number]:
                self.wrong.append(f"the handler of signal {number} is not ours")
        if _files() != self._files:
            self.wrong.append(f"open files: {self._files} before, {_files()} after")
        if _mappings() > self._mappings + _SPARE_MAPPINGS:
            self.wrong.append(f"mappings: {self._mappings} before, {_mappings()} after")
        if _code_bytes() > self._code:
            self.wrong.append(f"code pages: {self._code} bytes before, {_code_bytes()} after")
        if not heap_is_sane(Random(len(self.ends))):
            self.wrong.append("the heap gives blocks that overlap or change")


def _hostile_case(seed: int) -> Case:
    case = generate(seed, _FAMILIES[seed % len(_FAMILIES)])
    random = Random(seed)
    runs = tuple(
        (number, _LONG if random.random() < 0.02 else budget) for number, budget in case.runs
    )
    assert not USER_WRITERS & {case.family}
    return replace(case, runs=runs, hooked=False, observed=False)


def _intact(unit: Unit) -> bool:
    data = ctypes.string_at(unit.base, len(unit.code.data))
    return zlib.crc32(data) == zlib.crc32(bytes(unit.code.data))


def _files() -> int:
    return len(os.listdir("/proc/self/fd"))


def _mappings() -> int:
    with open("/proc/self/maps", encoding="ascii", errors="replace") as file:
        return sum(1 for _ in file)


def _code_bytes() -> int:
    """Bytes of executable anonymous memory, all of it the code area's."""
    total = 0
    with open("/proc/self/maps", encoding="ascii", errors="replace") as file:
        for line in file:
            fields = line.split()
            if fields[1].startswith("r-x") and len(fields) == 5:
                start, end = (int(number, 16) for number in fields[0].split("-"))
                total += end - start
    return total


def heap_is_sane(random: Random) -> bool:
    """Whether malloc, realloc and free keep many blocks of all sizes apart and unchanged."""
    blocks: list[tuple[int, bytes]] = []
    for _ in range(_BLOCKS):
        data = random.randbytes(random.choice((1, 8, 24, 100, 1000, 5000, 70_000)))
        at = _libc.malloc(len(data))
        ctypes.memmove(at, data, len(data))
        blocks.append((at, data))
    random.shuffle(blocks)
    for index in range(0, _BLOCKS, 3):
        at, data = blocks[index]
        data += random.randbytes(333)
        at = _libc.realloc(at, len(data))
        ctypes.memmove(at + len(data) - 333, data[-333:], 333)
        blocks[index] = at, data
    fine = all(ctypes.string_at(at, len(data)) == data for at, data in blocks)
    for at, _ in blocks:
        _libc.free(at)
    return fine

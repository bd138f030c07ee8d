"""A loaded object brought to life: its maps in an address space, its programs ready for an engine.

An image belongs to no engine and no ring; both use it. Map and function references inside
programs are resolved here, once: an engine asks `constant(insn)` what an LDDW loads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import cast

from pybpfvm.btf.kernelfields import copied_around
from pybpfvm.errors import InputError, UnsupportedError
from pybpfvm.isa.codec import target_pc
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import Kind, Pseudo
from pybpfvm.isa.table import SPECS
from pybpfvm.maps import make_map
from pybpfvm.maps.base import BpfMap, MapState
from pybpfvm.maps.live import LiveMap
from pybpfvm.memory import AddressSpace, MemorySnapshot
from pybpfvm.program import BpfObject, Program


@dataclass(frozen=True, slots=True)
class FunctionRef:
    """What a function handle stands for: the subprogram of `program` that starts at `pc`."""

    program: Program
    pc: int


@dataclass(frozen=True, slots=True)
class ProgramRef:
    """What a program handle stands for (slots of program arrays)."""

    program: Program


def executable(program: Program) -> Program:
    """The program as engines take it: a call of kernel function N is one of helper -N. Functions of
    modules, and numbers that are no function's, become a helper that there is not."""
    if all(insn.spec.kind is not Kind.CALL_KFUNC for insn in program.insns):
        return program
    return replace(
        program,
        insns=tuple(
            replace(insn, spec=_CALL, off=0, imm=_helper_number(insn))
            if insn.spec.kind is Kind.CALL_KFUNC
            else insn
            for insn in program.insns
        ),
    )


def _helper_number(insn: Insn) -> int:
    return -insn.imm if insn.imm > 0 and not insn.off else _NO_FUNCTION


_NO_FUNCTION = -(1 << 31)
_CALL = next(spec for spec in SPECS.values() if spec.kind is Kind.CALL)


@dataclass(frozen=True, slots=True)
class ImageSnapshot:
    """Memory, and every map in it with what it keeps beside its bytes. `named`: what the image had
    given handles to."""

    memory: MemorySnapshot
    maps: tuple[tuple[BpfMap, MapState], ...]
    named: tuple[dict[tuple[str, int], int], dict[str, int], dict[str, int]]


class Image:
    """Maps and programs of one object, in one AddressSpace. A context manager."""

    def __init__(self, obj: BpfObject, memory: AddressSpace | None = None, *, cpus: int = 1):
        self.object = obj
        self.memory = memory if memory is not None else AddressSpace()
        self.memory.byteorder = "big" if obj.big_endian else "little"
        self.programs: Mapping[str, Program] = {p.name: executable(p) for p in obj.programs}
        self.maps: dict[str, BpfMap] = {}
        self._functions: dict[tuple[str, int], int] = {}
        self._kernel_functions: dict[str, int] = {}
        self._programs: dict[str, int] = {}
        self._by_index: list[BpfMap] = []
        before = set(self.memory.regions())
        try:
            self._make_maps(cpus)
        except InputError:
            for region in self.memory.regions():
                if region not in before:
                    self.memory.free(region)
            raise
        self._name_all()

    def _make_maps(self, cpus: int) -> None:
        obj = self.object
        for spec in obj.maps:
            fields = copied_around(obj.btf, spec.btf_value_type_id)
            live = make_map(spec, self.memory, cpus=cpus, fields=fields)
            self._by_index.append(live)
            self.maps[spec.name] = live
        for spec, live in zip(obj.maps, self._by_index, strict=True):
            for index, name in spec.slots.items():
                self._fill_slot(spec.name, live, index, name)
            if spec.frozen:
                live.freeze()

    def _name_all(self) -> None:
        """Give handles to the functions that programs name: none depends on what runs first."""
        for program in self.programs.values():
            starts = {sub.start for sub in program.subprogs}
            pc = 0
            for insn in program.insns:
                if insn.spec.kind is Kind.LDDW:
                    target = target_pc(insn, pc)
                    if target in starts:
                        self.function_handle(program, target)
                pc += insn.slots
        for name in self.object.kernel_functions.values():
            self.kernel_function(name)

    def _fill_slot(self, map_name: str, live: BpfMap, index: int, name: str) -> None:
        key = index.to_bytes(live.spec.key_size, self.memory.byteorder)
        if name in self.maps:
            target = self.maps[name].handle
        elif name in self.programs:
            target = self.program_handle(name)
        else:
            raise InputError(
                f"slot {index} names {name!r}, which is neither a map nor a program",
                where=f"{self.object.path}: map {map_name}",
            )
        live.host_update(key, target.to_bytes(8, self.memory.byteorder))

    def program_handle(self, name: str) -> int:
        """A handle for the program, as program arrays hold it."""
        if name not in self._programs:
            self._programs[name] = self.memory.handle(ProgramRef(self.programs[name]))
        return self._programs[name]

    def function_handle(self, program: Program, pc: int) -> int:
        """A handle for the subprogram of `program` that starts at `pc`."""
        key = (program.name, pc)
        if key not in self._functions:
            self._functions[key] = self.memory.handle(FunctionRef(program, pc))
        return self._functions[key]

    def handles(self) -> Iterator[tuple[int, object]]:
        """(address, what it stands for) of each handle that was made for a program or function."""
        for addr in (*self._programs.values(), *self._functions.values()):
            yield addr, self.memory.resolve(addr)
        for name, addr in self._kernel_functions.items():
            yield addr, name

    def kernel_function(self, name: str) -> int:
        """What stands for the address of a function of the kernel, which nobody can look behind."""
        if name not in self._kernel_functions:
            self._kernel_functions[name] = self.memory.handle(name)
        return self._kernel_functions[name]

    def constant(self, program: Program, pc: int, insn: Insn) -> int:
        """The 64-bit value that the LDDW `insn` at `pc` loads.

        Raises InputError for a map or subprogram that is not there, or a pseudo source that
        only the kernel can resolve.
        """
        if insn.src == Pseudo.NONE:
            return insn.imm
        low, high = insn.imm & 0xFFFF_FFFF, insn.imm >> 32
        where = f"{self.object.path}: {program.name}+{pc}"
        if insn.src in (Pseudo.MAP_IDX, Pseudo.MAP_IDX_VALUE):
            if low >= len(self._by_index):
                raise InputError(f"map index {low} of {len(self._by_index)} maps", where=where)
            live = self._by_index[low]
            if insn.src == Pseudo.MAP_IDX:
                return live.handle
            value = live.lookup(bytes(live.spec.key_size), 0)
            if value == 0 or high >= live.spec.value_size:
                raise InputError(
                    f"offset {high} in the value of map {live.spec.name}, "
                    f"which has {live.spec.value_size} bytes",
                    where=where,
                )
            return value + high
        if insn.src == Pseudo.FUNC:
            target = target_pc(insn, pc)
            if target is None or all(sub.start != target for sub in program.subprogs):
                raise InputError(f"no subprogram starts at {target}", where=where)
            return self.function_handle(program, target)
        if insn.src == Pseudo.BTF_ID and low in self.object.kernel_functions:
            return self.kernel_function(self.object.kernel_functions[low])
        if insn.src == Pseudo.BTF_ID and low in self.object.kernel_variables:
            raise UnsupportedError(
                f"variable {self.object.kernel_variables[low]} of a kernel in a run", where=where
            )
        raise InputError(
            f"lddw with pseudo source {insn.src}, which only a kernel can resolve", where=where
        )

    def snapshot(self) -> ImageSnapshot:
        """Its memory, and all maps that live there: those of other images, too, and those that the
        host made. Engines are no part of it: see AddressSpace.snapshot."""
        memory = self.memory.snapshot()
        maps = (
            cast(BpfMap, found) for found in memory.handles.values() if isinstance(found, LiveMap)
        )
        named = dict(self._functions), dict(self._programs), dict(self._kernel_functions)
        return ImageSnapshot(memory, tuple((live, live.state()) for live in maps), named)

    def restore(self, snapshot: ImageSnapshot) -> None:
        """Have again what `snapshot` found. Raises as AddressSpace.restore."""
        self.memory.restore(snapshot.memory)
        for live, state in snapshot.maps:
            live.restore(state)
        functions, programs, kernel_functions = snapshot.named
        self._functions, self._programs = dict(functions), dict(programs)
        self._kernel_functions = dict(kernel_functions)

    def close(self) -> None:
        """Give the address space back."""
        self.memory.close()

    def __enter__(self) -> Image:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

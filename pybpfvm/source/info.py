"""What is known of the source of an object's programs: from BTF always, from DWARF if there is any.

    info = debug_info(obj)
    for variable in info.variables(program, pc):
        print(variable.name, info.locate(variable, program, pc, machine))

pcs are slots of a program, whose functions come from several sections of the object.
"""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pybpfvm.bits import align_up
from pybpfvm.btf.types import Btf, Func, FuncProto
from pybpfvm.errors import InputError, SourceLine
from pybpfvm.inputfile import read_input_file
from pybpfvm.isa.codec import SLOT_BYTES
from pybpfvm.loader.elf import MAX_FILE_BYTES, STT_FUNC
from pybpfvm.program import BpfObject, Program, Subprog
from pybpfvm.source.dwarf import Block, Dwarf, Variable, read_dwarf
from pybpfvm.source.frames import frame_bytes
from pybpfvm.source.location import Absent, InRegister, Location, Machine, Ops, locate

_ARGUMENT_REGISTERS = 5
_NO_DWARF = Absent("only DWARF tells where it is by now, and the object has none")


@dataclass(frozen=True, slots=True)
class Local:
    """A name that a function knows at some pc: a variable or parameter of type `type_id` in
    `btf`, in the function `function`, perhaps an inlined one, at `depth` blocks inside."""

    name: str
    btf: Btf
    type_id: int
    parameter: bool
    function: str
    depth: int
    ops: Ops | None  # None: only BTF tells of it, as parameter number `index`
    index: int = 0


@dataclass(frozen=True, slots=True)
class Frame:
    """A function that the code at a pc is of, the innermost first: several where some were
    inlined. `call_line` is where the outer one calls it, 0 for one that was not inlined."""

    function: str
    call_line: int


class DebugInfo:
    """The source of one object. `data` gives the bytes of its file when DWARF is first asked for,
    None where they are gone. DWARF that can not be had is no error: BTF is used alone."""

    def __init__(self, obj: BpfObject, data: Callable[[], bytes | None]) -> None:
        self.object = obj
        self._data_of_file = data
        self._frames: dict[tuple[str, int], int] = {}
        self._starts: dict[tuple[str, int], int | None] = {}

    @cached_property
    def _read(self) -> tuple[Dwarf | None, str]:
        data = self._data_of_file()
        if data is None:
            return None, "only DWARF tells where it is by now, and its file is gone"
        if hashlib.sha256(data).hexdigest() != self.object.sha256:
            return None, f"{self.object.path} has changed since it was loaded"
        try:
            return read_dwarf(data, self.object.path), ""
        except InputError as error:
            return None, str(error)

    @property
    def dwarf(self) -> Dwarf | None:
        """What the object has of it, None if it has none or that can not be read."""
        return self._read[0]

    @property
    def why_no_dwarf(self) -> str:
        """Why DWARF that there may be can not be had, "" if there is none or it was read."""
        return self._read[1]

    # --- types --------------------------------------------------------------------------------

    def type_tables(self) -> Iterator[Btf]:
        """Where types are found by name: BTF has those of maps, globals and arguments, DWARF all.
        It is read only by whoever gets as far."""
        if self.object.btf is not None:
            yield self.object.btf
        if self.dwarf is not None:
            yield self.dwarf.btf

    # --- lines --------------------------------------------------------------------------------

    def lines(self, program: Program) -> Mapping[int, SourceLine]:
        """pc -> the C line that begins there: from BTF, or else from DWARF (without its text)."""
        if program.lines or self.dwarf is None:
            return program.lines
        found: dict[int, SourceLine] = {}
        for sub in program.subprogs:
            start = self._address(program, sub)
            if start is None:
                continue
            size = (sub.end - sub.start) * SLOT_BYTES
            rows = self.dwarf.lines
            first = bisect_right([row.addr for row in rows], start - 1)
            for row in rows[first:]:
                if row.addr >= start + size:
                    break
                pc = sub.start + (row.addr - start) // SLOT_BYTES
                # Of several rows for an address the last one is for the code behind it.
                found[pc] = SourceLine(row.file, row.line, row.column, "")
        return found

    def pcs_of(self, program: Program, file: str, line: int) -> tuple[int, ...]:
        """Where code of that line begins, ascending. `file` may be the end of a path: `prog.bpf.c`
        is `./examples/prog.bpf.c` too."""
        return tuple(
            pc
            for pc, found in sorted(self.lines(program).items())
            if found.line == line and _names(found.file, file)
        )

    # --- functions and variables --------------------------------------------------------------

    def frames(self, program: Program, pc: int) -> tuple[Frame, ...]:
        """The functions that the code at `pc` is of, inlined ones first."""
        blocks = self._blocks(program, pc)
        frames = [Frame(one.name, one.call_line) for one in reversed(blocks) if one.name]
        if frames:
            return tuple(frames)
        sub = _function_at(program, pc)
        return () if sub is None else (Frame(sub.name, 0),)

    def variables(self, program: Program, pc: int) -> tuple[Local, ...]:
        """What has a name at `pc`, innermost first; a name may be there again further out."""
        addr = self._addr_of(program, pc)
        blocks = self._blocks(program, pc)
        if addr is None or not blocks or self.dwarf is None:
            return tuple(self._parameters(program, pc))
        found: list[Local] = []
        function = ""
        for depth, block in enumerate(blocks):
            function = block.name or function
            found += (self._local(variable, function, depth, addr) for variable in block.variables)
        return tuple(sorted(found, key=lambda one: -one.depth))

    def _local(self, variable: Variable, function: str, depth: int, addr: int) -> Local:
        assert self.dwarf is not None
        return Local(
            variable.name,
            self.dwarf.btf,
            variable.type_id,
            variable.parameter,
            function,
            depth,
            variable.ops_at(addr),
        )

    def _parameters(self, program: Program, pc: int) -> Iterator[Local]:
        """What BTF tells of the function at `pc`."""
        btf, sub = self.object.btf, _function_at(program, pc)
        if btf is None or sub is None or not sub.btf_type_id:
            return
        func = btf.type(sub.btf_type_id)
        proto = btf.type(func.type_id) if isinstance(func, Func) else None
        if isinstance(proto, FuncProto):
            for index, one in enumerate(proto.params[:_ARGUMENT_REGISTERS]):
                if one.name:
                    yield Local(one.name, btf, one.type_id, True, sub.name, 0, None, index)

    def locate(
        self,
        local: Local,
        program: Program,
        pc: int,
        regs: Sequence[int],
        read: Callable[[int, int], int | None],
        data_address: Callable[[str, int], int | None],
    ) -> Location:
        """Where it is at `pc`, when registers are `regs`. `read` gives an unsigned word at an
        address or None; `data_address` is where a byte of a data section of the object lies."""
        if local.ops is None:
            sub = _function_at(program, pc)
            at_entry = sub is not None and pc == sub.start
            return InRegister(1 + local.index) if at_entry else self._no_dwarf()
        machine = Machine(
            regs, self.frame_bytes(program, pc), read, lambda addr: self._data(addr, data_address)
        )
        return locate(local.ops, machine)

    def _no_dwarf(self) -> Absent:
        return Absent(self.why_no_dwarf) if self.why_no_dwarf else _NO_DWARF

    def _data(self, addr: int, data_address: Callable[[str, int], int | None]) -> int | None:
        assert self.dwarf is not None
        place = self.dwarf.section_of(addr)
        return None if place is None else data_address(*place)

    def frame_bytes(self, program: Program, pc: int) -> int:
        """The size of the frame of the function at `pc`."""
        sub = _function_at(program, pc)
        if sub is None:
            return 0
        key = program.name, sub.start
        known = self._frames.get(key)
        if known is None:
            known = max(frame_bytes(program, sub), self._described_bytes(program, sub))
            self._frames[key] = known
        return known

    def _described_bytes(self, program: Program, sub: Subprog) -> int:
        """Where the last variable ends that DWARF puts into the frame."""
        start = self._address(program, sub)
        block = None if self.dwarf is None or start is None else self.dwarf.function_at(start)
        if block is None or self.dwarf is None:
            return 0
        end, pending = 0, [block]
        while pending:
            one = pending.pop()
            pending += one.blocks
            for variable in one.variables:
                for place in variable.places:
                    end = max(end, _end_in_frame(place.ops, self.dwarf.btf, variable.type_id))
        return align_up(end, SLOT_BYTES)

    # --- from programs to sections --------------------------------------------------------------

    def _blocks(self, program: Program, pc: int) -> list[Block]:
        """The function at `pc` and the blocks in it that hold `pc`, outermost first."""
        addr = self._addr_of(program, pc)
        if addr is None or self.dwarf is None:
            return []
        found: list[Block] = []
        block = self.dwarf.function_at(addr)
        while block is not None:
            found.append(block)
            block = next((inner for inner in block.blocks if inner.holds(addr)), None)
        return found

    def _addr_of(self, program: Program, pc: int) -> int | None:
        sub = _function_at(program, pc)
        start = None if sub is None else self._address(program, sub)
        return None if sub is None or start is None else start + (pc - sub.start) * SLOT_BYTES

    def _address(self, program: Program, sub: Subprog) -> int | None:
        """Where DWARF has a function of the program; None unless exactly one can be meant."""
        key = program.name, sub.start
        if key not in self._starts:
            self._starts[key] = self._find(program, sub)
        return self._starts[key]

    def _find(self, program: Program, sub: Subprog) -> int | None:
        if self.dwarf is None:
            return None
        elf, size = self.dwarf.elf, (sub.end - sub.start) * SLOT_BYTES
        places = {
            (elf.sections[symbol.section].name, symbol.value)
            for symbol in elf.symbols
            if symbol.type == STT_FUNC
            and symbol.name == sub.name
            and symbol.size == size
            and symbol.section < len(elf.sections)
        }
        if sub.start == 0:
            places = {one for one in places if one[0] == program.section} or places
        return self.dwarf.address(*places.pop()) if len(places) == 1 else None


def debug_info(obj: BpfObject, path: str | os.PathLike[str] | None = None) -> DebugInfo:
    """What is known of the source of `obj`, read from the file at `path` (its own without)."""
    file = Path(obj.path if path is None else path)

    def data() -> bytes | None:
        return read_input_file(file, MAX_FILE_BYTES) if file.is_file() else None

    return DebugInfo(obj, data)


def _function_at(program: Program, pc: int) -> Subprog | None:
    return next((sub for sub in program.subprogs if sub.start <= pc < sub.end), None)


def _names(path: str, end: str) -> bool:
    return path == end or path.endswith(f"/{end.removeprefix('./')}")


def _end_in_frame(ops: Ops, btf: Btf, type_id: int) -> int:
    if len(ops) != 1 or ops[0][0] not in ("DW_OP_fbreg", "DW_OP_breg10"):
        return 0
    try:
        return ops[0][1][0] + btf.size(type_id)
    except InputError:
        return 0

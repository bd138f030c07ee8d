"""What instructions refer to: maps, variables, functions, fields of types.

Kernel Documentation/bpf/llvm_reloc.rst. In code two types occur: R_BPF_64_64 on an lddw (value:
S + A, A the 64-bit immediate) and R_BPF_64_32 on a call ((S + A) / 8 - 1 in the immediate). The
result of this step is a `Body`: a function whose only open ends are the functions it names,
because those get their place when a program is linked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pybpfvm.bits import s32, u32
from pybpfvm.errors import InputError
from pybpfvm.isa.codec import SLOT_BYTES, target_pc
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import Kind, Pseudo
from pybpfvm.isa.table import SPECS
from pybpfvm.loader.core import CoreResolver
from pybpfvm.loader.elf import STT_FUNC, ElfObject, Relocation, Symbol
from pybpfvm.loader.functions import Function, FunctionTable
from pybpfvm.loader.kconfig import PLACE, KconfigVariables
from pybpfvm.loader.ksyms import KernelSymbols
from pybpfvm.loader.maps import PlacedMap
from pybpfvm.loader.structops import is_struct_ops

R_BPF_64_64 = 1
R_BPF_64_32 = 10
_JUMPS = (Kind.JUMP, Kind.GOTO, Kind.MAY_GOTO)


@dataclass(frozen=True, slots=True)
class FunctionReference:
    """The instruction at list position `index`, slot `slot` of a body names `target`."""

    index: int
    slot: int
    target: Function


@dataclass(frozen=True, slots=True)
class Body:
    """A function's instructions, ready but for `references`.

    `externs` are things outside the object that it uses: a program that reaches such a body
    can not run.
    """

    function: Function
    insns: tuple[Insn, ...]
    references: tuple[FunctionReference, ...]
    externs: tuple[str, ...]


class MapTable:
    """Which map a place in a section stands for. `arena`: the section of variables that are in the
    arena with this index."""

    def __init__(self, maps: Sequence[PlacedMap], arena: tuple[int, int] | None) -> None:
        self._declared: dict[tuple[int, int], int] = {}
        self._data: dict[int, int] = {}
        for index, placed in enumerate(maps):
            if placed.spec.data is None:
                self._declared[placed.section, placed.offset] = index
            else:
                self._data[placed.section] = index
        if arena is not None:
            section, index = arena
            self._data[section] = index

    def declared(self, section: int, offset: int) -> int | None:
        """Index of the map declared at exactly this place, None if there is none."""
        return self._declared.get((section, offset))

    def data(self, section: int) -> int | None:
        """Index of the map that holds this data section, None if it has none."""
        return self._data.get(section)


class Relocator:
    """Makes bodies of functions. Holds what an object's relocations are resolved against."""

    def __init__(
        self,
        elf: ElfObject,
        functions: FunctionTable,
        maps: MapTable,
        core: CoreResolver,
        kernel: KernelSymbols,
        kconfig: KconfigVariables,
    ) -> None:
        self._elf = elf
        self._functions = functions
        self._maps = maps
        self._core = core
        self._kernel = kernel
        self._kconfig = kconfig
        self._by_slot: dict[int, dict[int, Relocation]] = {}
        self._notes: dict[str, None] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        """One line for each relocated reference to a map, a variable or a function."""
        return tuple(self._notes)

    def body(self, function: Function) -> Body:
        """Resolve everything in `function`. InputError with section and offset if it fails."""
        relocations = self._relocations(function.section)
        insns: list[Insn] = []
        references: list[FunctionReference] = []
        externs: dict[str, None] = {}
        decoded = self._functions.decode(function)
        self._check_jumps(function, decoded)
        slot = 0
        for insn in decoded:
            place = function.start + slot
            relocation = relocations.get(place)
            target: Function | None = None
            if relocation is not None:
                insn, target, extern = self._relocate(function, insn, place, relocation)
                if extern:
                    externs[extern] = None
            else:
                target = self._direct(function, insn, place)
            if target is not None:
                references.append(FunctionReference(len(insns), slot, target))
            width = insn.slots
            insns += self._core.patch(function.section, place, insn)
            slot += width
        return Body(function, tuple(insns), tuple(references), tuple(externs))

    def _where(self, function: Function, slot: int) -> str:
        return f"{self._elf.where(function.section, slot * SLOT_BYTES)} ({function.name})"

    def _relocations(self, section: int) -> Mapping[int, Relocation]:
        """Relocations of a code section by slot."""
        known = self._by_slot.get(section)
        if known is None:
            known = self._by_slot[section] = {}
            for relocation in self._elf.relocations.get(section, ()):
                slot, rest = divmod(relocation.offset, SLOT_BYTES)
                if rest or slot in known:
                    raise InputError(
                        "a relocation inside an instruction, or a second one for it",
                        where=self._elf.where(section, relocation.offset),
                    )
                known[slot] = relocation
        return known

    def _check_jumps(self, function: Function, insns: Sequence[Insn]) -> None:
        """Jumps stay inside: what lies around a function changes when it is linked."""
        starts = set()
        slot = 0
        for insn in insns:
            starts.add(slot)
            slot += insn.slots
        slot = 0
        for insn in insns:
            if insn.spec.kind in _JUMPS:
                target = target_pc(insn, slot)
                if target not in starts:
                    raise InputError(
                        f"{insn.spec.mnemonic} leads to slot {target} of function "
                        f"{function.name}, where no instruction begins",
                        where=self._where(function, function.start + slot),
                    )
            slot += insn.slots

    def _direct(self, function: Function, insn: Insn, place: int) -> Function | None:
        """The function that an unrelocated call or function address in the section names."""
        kind = insn.spec.kind
        if kind is Kind.CALL_LOCAL:
            slot = place + 1 + insn.imm
        elif kind is Kind.LDDW and insn.src == Pseudo.FUNC:
            slot = place + 1 + s32(insn.imm)
        else:
            return None
        return self._function_at(function.section, slot, self._where(function, place))

    def _function_at(self, section: int, slot: int, where: str) -> Function:
        found = self._functions.at(section, slot)
        if found is None:
            raise InputError(
                f"it names offset {slot * SLOT_BYTES:#x} of section "
                f"{self._elf.sections[section].name}, where no function begins",
                where=where,
            )
        return found

    def _relocate(
        self, function: Function, insn: Insn, place: int, relocation: Relocation
    ) -> tuple[Insn, Function | None, str]:
        """(instruction, function it names, thing outside the object it needs)."""
        symbol = self._elf.symbol_of(relocation)
        where = self._where(function, place)
        kind = insn.spec.kind
        if relocation.type == R_BPF_64_32 and kind in (Kind.CALL_LOCAL, Kind.CALL_KFUNC):
            if not symbol.section:
                call = self._kernel.call(insn, symbol)
                if isinstance(call, str):
                    return insn, None, call
                self._note(function, symbol, f"kernel function {call.imm}")
                return call, None, ""
            # Where there is no addend beside the relocation, the immediate holds A / 8 - 1.
            addend = relocation.addend
            if addend is None:
                addend = (insn.imm + 1) * SLOT_BYTES
            target = self._code_target(symbol, addend, where)
            self._note(function, symbol, target.name)
            return Insn(SPECS[_CALL_LOCAL]), target, ""
        if relocation.type == R_BPF_64_64 and kind is Kind.LDDW:
            if not symbol.section:
                return self._relocate_extern(function, insn, symbol)
            addend = relocation.addend
            if addend is None:
                # Objects of older compilers carry only the low word.
                addend = s32(insn.imm) if not insn.imm >> 32 else insn.imm
            return self._relocate_lddw(function, insn, symbol, addend, where)
        raise InputError(
            f"relocation of type {relocation.type} on {insn.spec.mnemonic}",
            where=where,
            remedy="a BPF object has R_BPF_64_64 on lddw and R_BPF_64_32 on call",
        )

    def _relocate_extern(
        self, function: Function, insn: Insn, symbol: Symbol
    ) -> tuple[Insn, Function | None, str]:
        """The address of something that the kernel or its configuration has."""
        at = self._kconfig.offset(symbol.name)
        if at is None:
            found = self._kernel.address(insn, symbol)
            if isinstance(found, str):
                return insn, None, found
            self._note(function, symbol, f"kernel symbol {found.imm}")
            return found, None, ""
        lacking = self._kconfig.lacking.get(symbol.name)
        if lacking is not None:
            return insn, None, f"kconfig {symbol.name}, which {lacking}"
        index = self._maps.data(PLACE)
        assert index is not None
        self._note(function, symbol, f"map {index} offset {at:#x}")
        return replace(insn, src=Pseudo.MAP_IDX_VALUE, imm=at << 32 | index), None, ""

    def _code_target(self, symbol: Symbol, addend: int, where: str) -> Function:
        offset = symbol.value + addend
        if symbol.section >= len(self._elf.sections) or not (
            self._elf.sections[symbol.section].is_code
        ):
            raise InputError(f"a call of {symbol.name!r}, which is no code", where=where)
        if offset % SLOT_BYTES:
            raise InputError(f"a call of {symbol.name} + {addend:#x}", where=where)
        return self._function_at(symbol.section, offset // SLOT_BYTES, where)

    def _relocate_lddw(
        self, function: Function, insn: Insn, symbol: Symbol, addend: int, where: str
    ) -> tuple[Insn, Function | None, str]:
        if symbol.section >= len(self._elf.sections):
            raise InputError(f"{symbol.name!r} has no section", where=where)
        section = self._elf.sections[symbol.section]
        offset = symbol.value + addend
        if section.is_code or symbol.type == STT_FUNC:
            target = self._code_target(symbol, addend, where)
            self._note(function, symbol, target.name)
            return replace(insn, src=Pseudo.FUNC, imm=0), target, ""
        index = self._maps.declared(section.index, offset)
        if index is not None:
            self._note(function, symbol, f"map {index}")
            return replace(insn, src=Pseudo.MAP_IDX, imm=index), None, ""
        index = self._maps.data(section.index)
        if index is None:
            if is_struct_ops(section.name):
                return insn, None, f"variable {symbol.name} of section {section.name}"
            raise InputError(
                f"{symbol.name or section.name!r} + {addend:#x} is no map, variable or function",
                where=where,
            )
        if not 0 <= offset <= section.size:
            raise InputError(
                f"offset {offset:#x} lies outside section {section.name} ({section.size:#x} bytes)",
                where=where,
            )
        self._note(function, symbol, f"map {index} offset {offset:#x}")
        imm = u32(offset) << 32 | index
        return replace(insn, src=Pseudo.MAP_IDX_VALUE, imm=imm), None, ""

    def _note(self, function: Function, symbol: Symbol, what: str) -> None:
        name = symbol.name or self._elf.sections[symbol.section].name
        if len(self._notes) < _MAX_NOTES:
            self._notes[f"{function.name}: {name} -> {what}"] = None


_CALL_LOCAL = next(spec.mnemonic for spec in SPECS.values() if spec.kind is Kind.CALL_LOCAL)
_MAX_NOTES = 10_000

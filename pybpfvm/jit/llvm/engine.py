"""The engine that compiles with LLVM: a JitEngine whose units are LLVM's where they can be.

Hooks, recordings and pauses are the templates' business, so a program that is watched runs on
them. The
last instructions of a budget that ends inside a block do too.

Two things are not as in the JIT. A trap shows 0 for registers that nothing would have read again:
LLVM keeps what is needed. And code without checks of its own (PAGES, NONE) runs into the
processor's: there the pc is exact as long as instructions are counted, for accesses are then made
one by one as they stand; without counting LLVM may merge, move and drop accesses, as a C compiler
does, and a bad one is reported where LLVM left it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Mapping, Sequence

from pybpfvm.bits import U64
from pybpfvm.engine import RunEnvironment, trust_nobody
from pybpfvm.errors import InternalError, Trap
from pybpfvm.helpers.proto import Helper
from pybpfvm.image import Image
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import FRAME_POINTER, REGISTERS, AtomicOp, Kind
from pybpfvm.isa.semantics import FETCHES
from pybpfvm.jit.emitted import Ask, Build, Callee, Site
from pybpfvm.jit.engine import SLICE_INSNS, JitEngine
from pybpfvm.jit.llvm.cache import ObjectCache
from pybpfvm.jit.llvm.compiler import compiler
from pybpfvm.jit.llvm.ir import IrEmitter
from pybpfvm.jit.llvm.lines import FaultTable
from pybpfvm.jit.llvm.linked import linked
from pybpfvm.jit.llvm.objectfile import read_object
from pybpfvm.jit.llvm.thunks import RETURN, LlvmThunks
from pybpfvm.jit.llvm.unit import LlvmUnit
from pybpfvm.jit.options import Checks
from pybpfvm.jit.pages import Pages, code_area
from pybpfvm.jit.state import Slot
from pybpfvm.jit.thunks import BPF
from pybpfvm.jit.unit import Unit
from pybpfvm.jit.x86 import R11, Assembler, jump_reg, mov_imm, push
from pybpfvm.memory import MemoryFault
from pybpfvm.program import Program
from pybpfvm.recording import NOTHING, Recording

_LOADS = frozenset({Kind.LDX, Kind.LDSX, Kind.LOAD_ACQ})
_NULL_END = 0x10000  # below this offset of the window nothing ever lies
_USER_START = 1 << 31  # above this one lies user memory, a window further on
_WINDOW = 1 << 32


class LlvmEngine(JitEngine):
    """As JitEngine, compiled by LLVM. `cache` keeps what it compiles for other processes (see
    `cache.default_cache`), None nothing.

    Raises InputError where llvmlite or executable memory is missing.
    """

    def __init__(
        self,
        image: Image,
        helpers: Mapping[int, Helper],
        environment: RunEnvironment,
        *,
        checks: Checks = Checks.EXACT,
        trusted: Callable[[Program], bool] = trust_nobody,
        counted: bool = True,
        record: Recording = NOTHING,
        cache: ObjectCache | None,
    ) -> None:
        self._compiler = compiler()
        self._cache = cache
        # Templates that finish functions for want of fuel, by unit; ways into their blocks.
        self._finishers: dict[int, Unit] = {}
        self._ends: dict[tuple[int, int], Pages] = {}
        self._tables: dict[int, FaultTable] = {}  # by the base of their unit
        super().__init__(
            image,
            helpers,
            environment,
            checks=checks,
            trusted=trusted,
            counted=counted,
            record=record,
        )
        self._bridge = LlvmThunks(self._state, self.memory)

    def close(self) -> None:
        """Give everything back; twice is fine."""
        if not self._closed:
            self._bridge.close()
            for made in self._finishers.values():
                made.close()
            for pages in self._ends.values():
                code_area().release(pages)
            super().close()

    # --- compiling --------------------------------------------------------------------------

    def _made(self, program: Program, build: Build, callee: Callee | None = None) -> Unit:
        if build.hooked or build.walked or build.record != NOTHING:
            return super()._made(program, build, callee)
        ir = self._ir(program, build, callee).emit()
        made = read_object(self._object(ir.text))
        return LlvmUnit(program, build, ir, made, self._state, self._thunks, self._bridge)

    def _ir(
        self, program: Program, build: Build, callee: Callee | None = None, *, lines: bool = False
    ) -> IrEmitter:
        natives = self._natives_for(program, build)
        return IrEmitter(
            program,
            self.image,
            self._helpers,
            build,
            callee or self._callee(build),
            linked(natives) if natives is not None else None,
            lines=lines,
        )

    def _object(self, text: str) -> bytes:
        """The object file of the IR, from the cache if it is there."""
        key = self._compiler.key(text)
        made = self._cache.get(key) if self._cache is not None else None
        if made is None:
            made = self._compiler.compile(text)
            if self._cache is not None:
                self._cache.put(key, made)
        return made

    # --- where code is ----------------------------------------------------------------------

    def _asking(self, moved: int = 0) -> LlvmUnit | None:
        """The unit that asks or calls, if it is LLVM's. PC then is the place in it. `moved`: how
        far the stack has been copied from where it was."""
        words = self._state.words
        if self._bridge.holds(words[Slot.PC]):
            at = words[Slot.NATIVE] + 8 * RETURN + moved
            words[Slot.PC] = ctypes.c_uint64.from_address(at).value
        unit = self._unit_at(words[Slot.PC])
        return unit if isinstance(unit, LlvmUnit) else None

    def _show(self, unit: LlvmUnit, moved: int = 0) -> int:
        """Put the registers of the place that asks into the state; the fuel there."""
        words = self._state.words
        fuel, registers = unit.shown(words[Slot.PC], words[Slot.NATIVE], moved)
        for number in range(REGISTERS):
            words[number] = registers.get(number, 0) & U64
        return fuel & U64

    def _all_units(self) -> Iterator[Unit]:
        yield from super()._all_units()
        yield from self._finishers.values()

    @property
    def pc(self) -> int:
        """The pc of the call that compiled code makes."""
        self._asking()
        return super().pc

    def kept_registers(self) -> bytes | None:
        """None: what is not needed behind a call is nowhere."""
        return None

    def _trap(self, stop: Exception) -> Trap:
        moved = self._bridge.copy - self._state.words[Slot.NATIVE]
        unit = self._asking(moved)
        # Who asks has shown its registers before; who called a helper has not.
        if unit is not None and self._state.words[Slot.PC] - unit.base not in unit.code.sites:
            self._show(unit, moved)
        return super()._trap(stop)

    def call(self, function: int, args: Sequence[int]) -> int:
        """Call back the subprogram with handle `function`; its r0. Raises BadArgument, Trap."""
        unit = self._asking()
        if unit is not None:
            self._show(unit)
        return super().call(function, args)

    def _check_exit(self, r0: int) -> None:
        words = self._state.words
        if isinstance(self._unit_at(words[Slot.EXIT_PC]), LlvmUnit):
            for number in range(1, FRAME_POINTER):
                words[number] = 0  # nobody reads them again
            words[FRAME_POINTER] = words[Slot.FIRST_FRAME]
        super()._check_exit(r0)

    # --- what code asks ---------------------------------------------------------------------

    def _answer(self) -> int:
        unit = self._asking()
        if unit is None:
            return super()._answer()
        words = self._state.words
        site = unit.code.sites[words[Slot.PC] - unit.base]
        words[Slot.FUEL] = self._show(unit)
        words[Slot.REGS] = _ANSWERS[site.ask](self, unit, site) & U64
        return 0

    def _on_check(self, unit: Unit, site: Site) -> int:
        """Fuel for what may come before the next check. If there is no more, the function is
        finished by templates, which stop at the exact instruction: -1 then."""
        words = self._state.words
        more = min(self._beyond, SLICE_INSNS)
        self._beyond -= more
        words[Slot.FUEL] += more
        if words[Slot.FUEL] >= site.count:
            return words[Slot.FUEL]
        words[Slot.TARGET] = self._guarded(self._thunks.enter, self._finishing(unit, site.pc))
        return -1

    def _finishing(self, unit: Unit, pc: int) -> int:
        """Where the template's code for the block at `pc` begins, behind a prologue of its own."""
        key = (unit.base, pc)
        if key not in self._ends:
            made = self._finishers.get(unit.base)
            if made is None:
                loops = self._loops
                callee = loops.callee if loops is not None and loops.has(unit) else None
                made = super()._made(unit.program, unit.build, callee)
                self._finishers[unit.base] = made
            functions = made.code.saved
            saved = functions[max(start for start in functions if start <= pc)]
            asm = Assembler()
            asm(*(push(BPF[number]) for number in saved))
            asm(mov_imm(R11, made.base + made.code.blocks[pc]), jump_reg(R11))
            self._ends[key] = code_area().place(asm.finish())
        return self._ends[key].start

    def _on_access(self, unit: Unit, site: Site) -> int:
        if not isinstance(unit, LlvmUnit):
            return super()._on_access(unit, site)
        insn = unit.program.insns[site.index]
        region = self._accessed(insn)
        if region is not None and site.words:
            self._lets_in(region, insn, site)
        self._do_access(insn)
        result = _result(insn)
        return self._state.words[result] if result is not None else 0

    def _on_packet(self, unit: Unit, site: Site) -> int:
        leaves = super()._on_packet(unit, site)
        if not isinstance(unit, LlvmUnit):
            return leaves
        return -1 if leaves else self._state.words[0]

    def _exit_pc_of(self, unit: Unit, site: Site) -> int:
        if not isinstance(unit, LlvmUnit):
            return super()._exit_pc_of(unit, site)
        return self._state.words[Slot.EXIT_PC]  # the code notes it

    def _on_tail_call(self, unit: Unit, site: Site) -> int:
        words = self._state.words
        where = super()._on_tail_call(unit, site)
        if not isinstance(unit, LlvmUnit):
            return where
        if not where:
            words[Slot.TARGET] = words[Slot.REGS]
            return 0
        target = self._unit_at(where)
        if isinstance(target, LlvmUnit):
            return target.function("start")
        words[Slot.TARGET] = target.base + target.code.entries[0]
        return self._bridge.into_jit

    # --- faults -----------------------------------------------------------------------------

    def _explain_fault(self) -> None:
        words = self._state.words
        unit = self._unit_at(words[Slot.PC])
        if not isinstance(unit, LlvmUnit):
            super()._explain_fault()
            return
        for number in range(REGISTERS):
            words[number] = 0
        if unit.build.fuel and unit.build.checks is Checks.PAGES:
            words[Slot.FUEL] = words[Slot.NOTED_FUEL]
        index = self._fault_index(unit, words[Slot.PC])
        insn = unit.program.insns[index]
        addr = self._faulted(words[Slot.FAULT])
        try:
            self.memory.check(addr, insn.spec.size or 1, write=insn.spec.kind not in _LOADS)
        except MemoryFault as stop:
            raise self._trap_at(stop, unit, index, unit.after(index)) from stop
        raise InternalError(
            f"{unit.program.name}+{unit.pc_of(index)} faulted at {addr:#x}, which it may access"
        )

    def _faulted(self, address: int) -> int:
        """The address that the program meant, as far as its place in the window tells."""
        offset = address - self.memory.base
        if 0 <= offset < _NULL_END:
            return offset
        if _USER_START <= offset < _WINDOW and self.memory.region_at(address + _WINDOW):
            return address + _WINDOW
        return address

    def _fault_index(self, unit: LlvmUnit, address: int) -> int:
        table = self._tables.get(unit.base)
        if table is None:
            text = self._ir(unit.program, unit.build, lines=True).emit().text
            table = self._tables[unit.base] = FaultTable(self._object(text))
        index = None
        if table.code == unit.compiled:
            index = table.index_at(address - unit.base - unit.code_start)
        if index is None:
            raise InternalError(f"{unit.program.name} faulted at an access that LLVM merged")
        return index


def _result(insn: Insn) -> int | None:
    """The register that an access sets."""
    if insn.spec.kind in _LOADS:
        return insn.dst
    if insn.spec.op is AtomicOp.CMPXCHG:
        return 0
    return insn.src if insn.spec.op in FETCHES else None


_ANSWERS: Mapping[Ask, Callable[[LlvmEngine, Unit, Site], int]] = {
    Ask.FUEL: LlvmEngine._on_check,
    Ask.ACCESS: LlvmEngine._on_access,
    Ask.KEY: LlvmEngine._on_key,
    Ask.REFUSE: LlvmEngine._on_refuse,
    Ask.TAIL_CALL: LlvmEngine._on_tail_call,
    Ask.PACKET: LlvmEngine._on_packet,
}

"""A program compiled by LLVM, on its pages: LLVM's code with what joins it to the JIT's thunks.

    way in of the JIT ── stubs ── code and constants of the object ── words

A stub is code for the JIT's conventions that calls a function of LLVM's, whose only argument is
the state.
"""

from __future__ import annotations

import ctypes

from pybpfvm.errors import InternalError
from pybpfvm.isa.opcodes import FRAME_POINTER
from pybpfvm.jit.emitted import Build, Code, Site
from pybpfvm.jit.llvm.irparts import CALL_BYTES, HELPER_BYTES, Ir, Place
from pybpfvm.jit.llvm.objectfile import CONSTANT, DIRECT, INDIRECT, REGISTER, Location, Object
from pybpfvm.jit.llvm.thunks import RETURN, LlvmThunks
from pybpfvm.jit.state import SITE_BYTES, Slot, State
from pybpfvm.jit.thunks import BPF, FUEL, Thunks, load, store
from pybpfvm.jit.unit import Unit
from pybpfvm.jit.x86 import (
    AND,
    MOV,
    RBP,
    RDI,
    RET,
    RSP,
    Assembler,
    group,
    imm32,
    mov_imm,
    pop,
    push,
    rr,
)
from pybpfvm.program import Program

_CALL = b"\xff\x15"  # call [rip + x]
_LOAD_R11 = b"\x4c\x8b\x1d"  # mov r11, [rip + x]
_RSP_NUMBER = 7  # DWARF's
_WORD = ctypes.c_uint64
_FRAME = _WORD * RETURN


class LlvmUnit(Unit):
    """`program` compiled as `build` says."""

    def __init__(
        self,
        program: Program,
        build: Build,
        ir: Ir,
        made: Object,
        state: State,
        thunks: Thunks,
        bridge: LlvmThunks,
    ) -> None:
        self.places = ir.places
        self._object = made
        self._at: dict[int, tuple[Place, int]] = {}  # by return address: place, its record
        self._live: dict[int, list[Location]] = {}  # by record, once looked up: fuel and registers
        code = Code(starts=ir.starts, ends=ir.ends)
        sites = state.row_of_sites(ir.sites) if ir.sites else 0
        self.sites = sites
        words = [*bridge.words, state.base + sites, *ir.words]
        self._link(code, ir, state, thunks, words)
        # Where a program ends is noted as so many bytes from the start of the code as its index.
        code.data += bytes(max(0, self.code_start + len(ir.starts) - len(code.data)))
        super().__init__(program, build, code)

    def _link(self, code: Code, ir: Ir, state: State, thunks: Thunks, words: list[int]) -> None:
        made = self._object
        asm = Assembler()
        asm(thunks.start)
        asm.label("main")
        asm(store(state.disp(Slot.REGS + FRAME_POINTER), RBP))
        calls = self._stub(asm, state, "start")
        asm.label("tail")
        calls += self._stub(asm, state, "start", saved=True)
        for pc in ir.entries:
            asm.label(f"enter{pc}")
            calls += self._stub(asm, state, f"enter{pc}")
        code.data += asm.finish()
        code.data += b"\xcc" * (-len(code.data) % 64)
        start = self.code_start = len(code.data)
        code.data += made.data
        code.data += bytes(-len(code.data) % 8)
        table = len(code.data)
        code.data += b"".join(word.to_bytes(8, "little") for word in words)
        data = code.data
        for at, name in calls:
            data[at : at + 4] = imm32(start + made.symbols[name] - at - 4)
        outside = {"words": table, "code": start}
        for at, name, addend in made.wants:
            if name not in outside:
                raise InternalError(f"LLVM's code calls {name}")
            at += start
            data[at : at + 4] = imm32(outside[name] + addend - at)
        for offset, number, record in made.places:
            self._fill(code, start + offset, table, ir.places[number], record)
        code.tail = asm.offset("tail")
        code.entries = {
            0: asm.offset("main"),
            **{pc: asm.offset(f"enter{pc}") for pc in ir.entries},
        }

    def _stub(
        self, asm: Assembler, state: State, name: str, *, saved: bool = False
    ) -> list[tuple[int, str]]:
        """Code that the JIT's conventions call, and goes on in LLVM's; where it calls what.
        `saved`: r6 to r9 lie on the native stack, as behind the prologue of a function."""
        asm(push(RBP), rr(MOV, RBP, RSP), group(AND, RSP, -16), mov_imm(RDI, state.start))
        asm(b"\xe8\0\0\0\0")
        called = len(asm.code) - 4
        asm(rr(MOV, RSP, RBP), pop(RBP), load(FUEL, state.disp(Slot.FUEL)))
        if saved:
            asm(*(pop(BPF[number]) for number in (9, 8, 7, 6)))
        asm(RET)
        return [(called, name)]

    def _fill(self, code: Code, at: int, table: int, place: Place, record: int) -> None:
        """Put the call of a patchpoint into the room LLVM left for it."""
        data = code.data
        if place.ask is None:
            data[at : at + 7] = _LOAD_R11 + imm32(table + 8 * place.callee - at - 7)
            at += HELPER_BYTES - CALL_BYTES
        data[at : at + 6] = _CALL + imm32(table + 8 * place.helper - at - 6)
        self._at[at + 6] = place, record
        words = self.sites + SITE_BYTES * place.site if place.site >= 0 else 0
        if place.ask is not None:
            code.sites[at + 6] = Site(
                place.ask,
                code.starts[place.index],
                place.index,
                place.after,
                words=words,
                why=place.why,
                count=place.count,
            )

    @property
    def compiled(self) -> bytes:
        """What LLVM made, before it was joined to anything."""
        return bytes(self._object.data)

    def function(self, name: str) -> int:
        """The address of an exported function."""
        return self.base + self.code_start + self._object.symbols[name]

    def index_at(self, address: int) -> int:
        """The instruction that a return address belongs to."""
        return self._at[address - self.base][0].index

    def index_of(self, address: int) -> int:
        """The instruction whose exit is noted as this address."""
        return address - self.base - self.code_start

    def shown(self, address: int, native: int, moved: int = 0) -> tuple[int, dict[int, int]]:
        """The fuel and the values of registers by number at the place that returns to `address`,
        where the thunk keeps the machine's registers at `native`. `moved`: how far the stack has
        been copied from where it was."""
        place, record = self._at[address - self.base]
        frame = _FRAME.from_address(native + moved)
        values: list[int] = []
        live = self._live.get(record)
        if live is None:
            live = self._live[record] = self._object.locations(record)[-len(place.shown) - 2 :]
        for kind, register, offset in live:
            if kind == CONSTANT:
                values.append(offset)
                continue
            held = native + 8 * (RETURN + 1) if register == _RSP_NUMBER else frame[register]
            if kind == REGISTER:
                values.append(held)
            elif kind == INDIRECT:
                values.append(_WORD.from_address(held + offset + moved).value)
            elif kind == DIRECT:
                values.append(held + offset)
        numbers = (*place.shown, FRAME_POINTER)
        return values[0], dict(zip(numbers, values[1:], strict=True))

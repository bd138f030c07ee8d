"""A program as LLVM IR, in text: building it from objects would cost more than compiling it.

One internal function for each BPF function: (state, frame pointer, fuel, the registers it reads)
-> (r0, fuel). Registers live in allocas between blocks and in names inside them; LLVM makes SSA of
that. For each way in from outside there is an exported function of the state alone.

Python is asked by `patchpoint`: a call that costs nothing where it is not made. LLVM leaves room
for the call (see `link`) and writes down where the fuel and the live registers are at that place
(see `stackmap`), so nothing is moved to where Python could find it. The calling convention
preserve_most keeps the asking out of the way of the registers around it. Every check is one
comparison and a jump to such a place, so the code of a program grows with its instructions only.

Nothing in the text depends on the process: addresses come from a table of words behind the code,
`@words`, which is filled when the code is placed. So the text is what a compiled object is cached
by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pybpfvm.bits import U64, sign_extend
from pybpfvm.isa.codec import target_pc
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import (
    FRAME_POINTER,
    STACK_BYTES,
    AluOp,
    Kind,
    Operand,
    Pseudo,
)
from pybpfvm.jit.llvm.arithmetic import ALU, SETS, WHOLE
from pybpfvm.jit.llvm.ircalls import IrCalls
from pybpfvm.jit.llvm.irflow import ENDED
from pybpfvm.jit.llvm.irparts import FIXED, PIECE_INSNS, PROGRAM, SITES, Ir, word_at
from pybpfvm.jit.llvm.liveness import Block
from pybpfvm.jit.options import Checks
from pybpfvm.jit.state import Slot
from pybpfvm.outline import refusal

_HEAD = """\
@words = external hidden constant [0 x i64]
@code = external hidden constant i8
declare i64 @llvm.experimental.patchpoint.i64(i64, i32, ptr, i32, ...)
declare i16 @llvm.bswap.i16(i16)
declare i32 @llvm.bswap.i32(i32)
declare i64 @llvm.bswap.i64(i64)
"""
_TAIL = """\
attributes #0 = { nounwind null_pointer_is_valid "no-builtins" }
attributes #1 = { nounwind cold }
attributes #2 = { nounwind cold noreturn }
!0 = !{!"branch_weights", i32 1000000, i32 1}
!1 = !{!"branch_weights", i32 1, i32 1000000}
!2 = !{}
!3 = !{!"bpfvm"}
!4 = !{!"program", !3}
!5 = !{!"state", !3}
!6 = !{!4, !4, i64 0}
!7 = !{!5, !5, i64 0}
"""
_RESTRICTED = frozenset({Kind.ADDR_SPACE_CAST, Kind.CALL_KFUNC, Kind.CALL})


class IrEmitter(IrCalls):
    """Emits one program; `emit` does it. `lines`: with the pc's number at every access, for
    finding where a fault was. `prefix` begins the names of its functions."""

    def emit(self) -> Ir:
        """The IR of the program. Raises InputError as Image.constant does."""
        outline = self._outline
        targets: set[int] = set()
        # In order and unreached ones too: any may be refused, and functions get handles by turns.
        for pc, insn in zip(outline.starts, self._program.insns, strict=True):
            if insn.spec.kind is Kind.LDDW and insn.src != Pseudo.NONE:
                self._image.constant(self._program, pc, insn)
                target = target_pc(insn, pc)
                if insn.src == Pseudo.FUNC and target in self._liveness.entry:
                    targets.add(target)
        called_back = sorted(targets)
        self._emit_functions()
        for pc in called_back:
            self._way_in(f"enter{pc}", pc, fresh=False)
        self._way_in("start", 0, fresh=True)
        if self._linked is not None and self._links:
            self._line(self._linked.text)
        debug = self._debug.metadata() if self._debug is not None else ""
        text = _HEAD + "\n".join(self._text) + "\n" + _TAIL + debug
        ends = {block.first: block.last for block in self._liveness.blocks}
        return Ir(
            text, self._places, self._words, self._sites, ends, outline.starts, sorted(called_back)
        )

    def functions(self) -> str:
        """The definitions of all functions but the main one, without what they refer to."""
        self._emit_functions(beside=0)
        return "\n".join(self._text)

    def _emit_functions(self, beside: int | None = None) -> None:
        blocks_of: dict[int, list[Block]] = {}
        for block in self._liveness.blocks:
            if block.pc in self._liveness.entry:
                own = blocks_of[block.pc] = []
            own.append(block)
        for pc, blocks in blocks_of.items():
            if pc != beside:
                self._begin_function(pc)
                for block in blocks:
                    self._block(block)
                self._finish_function()

    def _begin_function(self, pc: int) -> None:
        self._function = pc
        taken = self._parameters(pc)
        registers = "".join(f", i64 %a{number}" for number in taken)
        fuel = ", i64 %f" if self._build.fuel else ""
        debug = self._debug.function(f"f{pc}") if self._debug is not None else ""
        self._line(
            f"define internal fastcc {self._result} {self.function(pc)[0]}"
            f"(ptr %st, i64 %fp{fuel}{registers}) #0{debug} {{"
        )
        self._begin_label("entry")
        for number in range(FRAME_POINTER):
            self._line(f"%r{number} = alloca i64")
        for number in taken:
            self._line(f"store i64 %a{number}, ptr %r{number}")
        if self._build.fuel:
            self._line("%fuel = alloca i64")
            self._line("store i64 %f, ptr %fuel")
        if self._checks is Checks.EXACT:
            self._line(f"%sites = load ptr, ptr {word_at(SITES)}{FIXED}")
        if self._checks is Checks.PAGES:
            at = self._slot(Slot.BASE)
            self._line(f"%base = load ptr, ptr {at}{FIXED}")
        if pc in self._outline.framed:
            self._blank_frame()
        self._line(f"br label %b{pc}")

    def _blank_frame(self) -> None:
        frame = self.new(f"sub i64 %fp, {STACK_BYTES}")
        for offset in range(0, STACK_BYTES, 64):
            at = self.new(f"add i64 {frame}, {offset}")
            pointer = self.new(f"inttoptr i64 {at} to ptr")
            self._line(f"store <8 x i64> zeroinitializer, ptr {pointer}, align 8{PROGRAM}")

    def _finish_function(self) -> None:
        while self._late:
            self._late.pop(0)()
        self._line("}")

    def _way_in(self, name: str, pc: int, *, fresh: bool) -> None:
        """An exported function: registers and fuel from the state, fuel back to it; its r0.
        `fresh`: r1 is the context, the others but r10 are 0."""
        debug = self._debug.function(name) if self._debug is not None else ""
        self._line(f"define i64 @{name}(ptr %st) #0{debug} {{")
        operands = f"ptr %st, i64 {self._load_slot(Slot.REGS + FRAME_POINTER)}"
        if self._build.fuel:
            operands += f", i64 {self._load_slot(Slot.FUEL)}"
        for number in self._parameters(pc):
            if not fresh:
                operands += f", i64 {self._load_slot(Slot.REGS + number)}"
            else:
                operands += f", i64 {self._load_slot(Slot.CTX) if number == 1 else 0}"
        # LLVM forgets the lines of what is inlined where there are none.
        at = self._debug.place(name, 0) if self._debug is not None else ""
        result = self.new(f"call fastcc {self._result} {self.function(pc)[0]}({operands}){at}")
        self._line(f"ret i64 {self._take_result(result, store=True)}")
        self._line("}")

    def _block(self, block: Block) -> None:
        self._begin_label(f"b{block.pc}")
        self._value = [None] * FRAME_POINTER
        self._dirty = 0
        self._index, self._pc, self._last = block.first, block.pc, block.last
        if self._build.fuel:
            self._fuel = self.new("load i64, ptr %fuel")
            if block.need:
                self._check_fuel(block.need)
            self._take_fuel(block.last - block.first + 1)
        insns, starts = self._program.insns, self._outline.starts
        for index in range(block.first, block.last + 1):
            insn = insns[index]
            self._index, self._pc = index, starts[index]
            if index - self._cut_at >= PIECE_INSNS and not self._in_short_loop[index]:
                self._cut()
            kind = insn.spec.kind
            if kind in _RESTRICTED or FRAME_POINTER in (insn.dst, insn.src):
                why = refusal(insn, self._helpers)
                if why is not None:
                    self._stop(why=why)
                    return
            if _EMIT[kind](self, insn, block) is ENDED:
                return
        self._flush(block.behind)
        self._line(f"br label %{self._leading(self._pc + insns[block.last].slots)}")

    def _alu(self, insn: Insn, _: Block) -> None:
        spec = insn.spec
        op = spec.op
        assert isinstance(op, AluOp)
        by_register = spec.operand is Operand.X
        operand = self._get(insn.src) if by_register else str(insn.imm)
        if op is AluOp.MOV and spec.width == 64:
            self._set(insn.dst, operand)
        elif op in WHOLE:
            self._set(insn.dst, ALU[op](self, self._get(insn.dst), "0", 64))
        elif spec.width == 64:
            a = self._get(insn.dst) if op not in SETS else "0"
            self._set(insn.dst, ALU[op](self, a, operand, 64))
        else:
            a = self._low(self._get(insn.dst)) if op not in SETS else "0"
            b = self._low(operand) if by_register else operand
            result = ALU[op](self, a, b, 32)
            self._set(insn.dst, self.new(f"zext i32 {result} to i64"))

    def _lddw(self, insn: Insn, _: Block) -> None:
        constant = self._image.constant(self._program, self._pc, insn) & U64
        if insn.src == Pseudo.NONE:
            self._set(insn.dst, str(sign_extend(constant, 64)))
        else:
            self._set(insn.dst, self._word(self._own_word(constant)))


_EMIT: Mapping[Kind, Callable[[IrEmitter, Insn, Block], bool | None]] = {
    Kind.ALU: IrEmitter._alu,
    Kind.JUMP: IrEmitter._jump,
    Kind.GOTO: IrEmitter._goto,
    Kind.MAY_GOTO: IrEmitter._may_goto,
    Kind.CALL: IrEmitter._call,
    Kind.CALL_LOCAL: IrEmitter._call_local,
    Kind.EXIT: IrEmitter._exit,
    Kind.LDX: IrEmitter._load,
    Kind.LDSX: IrEmitter._load,
    Kind.LOAD_ACQ: IrEmitter._load,
    Kind.ST: IrEmitter._store,
    Kind.STX: IrEmitter._store,
    Kind.STORE_REL: IrEmitter._store,
    Kind.ATOMIC: IrEmitter._atomic,
    Kind.LDDW: IrEmitter._lddw,
    Kind.LD_ABS: IrEmitter._packet_load,
    Kind.LD_IND: IrEmitter._packet_load,
}

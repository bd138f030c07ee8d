"""IR of where control goes: fuel, jumps, exits, local calls."""

from __future__ import annotations

from pybpfvm.errors import TrapKind
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import (
    JmpOp,
    Operand,
)
from pybpfvm.jit.emitted import Ask
from pybpfvm.jit.llvm.arithmetic import CONDITION
from pybpfvm.jit.llvm.irparts import STATE, UNLIKELY
from pybpfvm.jit.llvm.irwriter import IrWriter
from pybpfvm.jit.llvm.liveness import Block
from pybpfvm.jit.state import Slot
from pybpfvm.memory import FRAME_STRIDE

ENDED = True  # what emitters answer that have ended the block


class IrFlow(IrWriter):
    """Emits what moves control."""

    def function(self, pc: int) -> tuple[str, list[int]]:
        """The symbol of the function at `pc`, and which registers it takes."""
        return f"@{self._prefix}f{pc}", self._parameters(pc)

    def _cut(self) -> None:
        """A way to Python that is never taken, which LLVM can not know: no frame ends at such an
        address."""
        self._cut_at = self._index
        never = self.new(f"icmp eq i64 %fp, {self._index}")
        self._stop_if(never, (TrapKind.STACK_DEPTH, ""))

    def _leading(self, target: int) -> str:
        """The label of what control going from here to `target` leads to."""
        astray = self._outline.astray(self._pc, target)
        return f"b{target}" if astray is None else self._way_out(astray)

    def _check_fuel(self, need: int) -> None:
        """Python is asked where there is not so much fuel. It gives more, or runs the rest of the
        function itself: then the answer is -1, and r0 is in the state."""
        short = self.new(f"icmp slt i64 {self._fuel}, {need}")
        number = len(self._places)
        operands = self._operands(self._place(Ask.FUEL, count=need))
        asks, returns, goes = self._fresh(), self._fresh(), self._fresh()
        here, before = self._label, self._fuel
        self._line(f"br i1 {short}, label %{asks}, label %{goes}{UNLIKELY}")
        self._line(f"{asks}:")
        more = self.new(f"{self._asking(number, operands)} #1")
        done = self.new(f"icmp eq i64 {more}, -1")
        self._line(f"br i1 {done}, label %{returns}, label %{goes}{UNLIKELY}")
        self._line(f"{returns}:")
        self._fuel = self._load_slot(Slot.FUEL)
        self._return(self._load_slot(Slot.TARGET))
        self._begin_label(goes)
        self._fuel = self.new(f"phi i64 [{before}, %{here}], [{more}, %{asks}]")

    def _take_fuel(self, count: int) -> None:
        """Take fuel for `count` instructions; that it is there has been checked."""
        self._fuel = self.new(f"sub i64 {self._fuel}, {count}")
        if self._noted:
            at = self._slot(Slot.NOTED_FUEL)
            self._line(f"store volatile i64 {self._fuel}, ptr {at}{STATE}")

    def _way_out(self, why: str, frame: str = "%fp") -> str:
        """The label of where control leaves the program: an instruction of its own that can not
        be executed. `frame`: the r10 that it has."""
        label, pc, index = self._fresh(), self._pc, self._index

        def late() -> None:
            self._begin_label(label)
            self._pc, self._index, self._last = pc, index, index
            self._left = True  # registers are no more where they were
            self._frame = frame
            if self._build.fuel:
                self._fuel = self.new("load i64, ptr %fuel")
                self._take_fuel(1)
            self._stop(why=(TrapKind.BAD_PC, why))
            self._left = False
            self._frame = "%fp"

        self._late.append(late)
        return label

    def _jump(self, insn: Insn, block: Block) -> bool:
        spec = insn.spec
        assert isinstance(spec.op, JmpOp)
        by_register = spec.operand is Operand.X
        a = self._get(insn.dst)
        b = self._get(insn.src) if by_register else str(insn.imm)
        if spec.width == 32:
            a, b = self._low(a), self._low(b) if by_register else b
        kind = f"i{spec.width}"
        if spec.op is JmpOp.JSET:
            a, b = self.new(f"and {kind} {a}, {b}"), "0"
        taken = self.new(f"icmp {CONDITION[spec.op]} {kind} {a}, {b}")
        self._flush(block.behind)
        target, behind = self._leading(self._pc + 1 + insn.off), self._leading(self._pc + 1)
        self._line(f"br i1 {taken}, label %{target}, label %{behind}")
        return ENDED

    def _goto(self, insn: Insn, block: Block) -> bool:
        self._flush(block.behind)
        self._line(f"br label %{self._leading(self._pc + 1 + insn.off)}")
        return ENDED

    def _may_goto(self, insn: Insn, block: Block) -> bool:
        at = self._slot(Slot.MAY_GOTO)
        turns = self.new(f"load i64, ptr {at}{STATE}")
        done = self.new(f"icmp eq i64 {turns}, 0")
        less = self.new(f"sub i64 {turns}, 1")
        left = self.new(f"select i1 {done}, i64 0, i64 {less}")
        self._line(f"store i64 {left}, ptr {at}{STATE}")
        self._flush(block.behind)
        target, behind = self._leading(self._pc + 1 + insn.off), self._leading(self._pc + 1)
        self._line(f"br i1 {done}, label %{target}, label %{behind}{UNLIKELY}")
        return ENDED

    def _exit(self, _: Insn, _block: Block) -> bool:
        r0 = self._get(0)
        self._note_exit()
        self._return(r0)
        return ENDED

    def _note_exit(self) -> None:
        """Where the program ends, if its return value will be checked: code + index."""
        if self._build.check_return and self._function == 0:
            at = self.new(f"add i64 ptrtoint (ptr @code to i64), {self._index}")
            self._store_slot(Slot.EXIT_PC, at)

    def _call_local(self, insn: Insn, _: Block) -> bool | None:
        target = self._pc + 1 + insn.imm
        if self._depth_checked:
            self._check_depth()
        frame = self.new(f"add i64 %fp, {FRAME_STRIDE}")
        astray = self._outline.astray(self._pc, target, is_call=True)
        if astray is not None:
            self._flush(0)
            self._line(f"br label %{self._way_out(astray, frame)}")
            return ENDED
        operands = f"ptr %st, i64 {frame}"
        if self._build.fuel:
            operands += f", i64 {self._fuel}"
        for number in self._parameters(target):
            operands += f", i64 {self._get(number)}"
        result = self.new(
            f"call fastcc {self._result} {self.function(target)[0]}({operands}){self._at()}"
        )
        self._set(0, self._take_result(result))
        self._clear_arguments()
        return None

    def _check_depth(self) -> None:
        deepest = self._load_slot(Slot.LAST_FRAME)
        full = self.new(f"icmp eq i64 %fp, {deepest}")
        self._stop_if(full, (TrapKind.STACK_DEPTH, ""))

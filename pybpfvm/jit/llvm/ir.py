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
from dataclasses import dataclass, field
from typing import Any

from pybpfvm.bits import U64, sign_extend
from pybpfvm.errors import InternalError, TrapKind
from pybpfvm.helpers.proto import ArgType, Helper
from pybpfvm.isa.codec import target_pc
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import (
    FRAME_POINTER,
    STACK_BYTES,
    AluOp,
    AtomicOp,
    JmpOp,
    Kind,
    Operand,
    Pseudo,
)
from pybpfvm.isa.semantics import FETCHES
from pybpfvm.jit.emitted import Ask, Build, Callee, Constants, Known, arguments_used, map_in_r1
from pybpfvm.jit.llvm.arithmetic import ALU, ATOMIC, CONDITION, SETS, WHOLE
from pybpfvm.jit.llvm.liveness import Block, Liveness
from pybpfvm.jit.options import Checks
from pybpfvm.jit.state import SITE_BYTES, Slot
from pybpfvm.memory import FRAME_STRIDE
from pybpfvm.outline import outline_of, refusal
from pybpfvm.program import Program

# Words of the table that every program has; behind them its own.
ASK, HELPER, SITES = 0, 1, 7
_FIRST_OWN = 8
# What a patchpoint leaves room for: call [rip + x], before it for helpers mov r11, [rip + x].
CALL_BYTES, HELPER_BYTES = 6, 13

# LLVM's time grows faster than its basic blocks, and it makes long ones out of short ones: it gets
# no code of more instructions than these without a way to Python in it, unless it is a loop.
_PIECE_INSNS = 128
_ENDED = True  # what emitters answer that have ended the block
_RESTRICTED = frozenset({Kind.ADDR_SPACE_CAST, Kind.CALL_KFUNC, Kind.CALL})
_POINT = "i64 (i64, i32, ptr, i32, ...) @llvm.experimental.patchpoint.i64"

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
_LIKELY, _UNLIKELY, _PROGRAM, _STATE = ", !prof !0", ", !prof !1", ", !tbaa !6", ", !tbaa !7"
_FIXED = ", !invariant.load !2"


@dataclass(slots=True)
class Place:
    """Where Python is asked, or called: what it must know of the instruction.

    `after`: how many instructions its block has behind it. `shown`: the registers whose values the
    place's record gives, behind the fuel and in front of r10. FUEL: `count` is wanted.
    `site`: number of the access site, -1 for none. `callee`: for helpers the word of their object,
    `helper` that of their thunk.
    """

    index: int
    after: int
    shown: tuple[int, ...]
    ask: Ask | None = None
    count: int = 0
    site: int = -1
    why: tuple[TrapKind, str] | None = None
    callee: int = 0
    helper: int = 0


@dataclass(slots=True)
class Ir:
    """`text`, and what belongs to it: the places by patchpoint id, the words of the program's own
    by number, how many access sites there are, the index of the last instruction of each block by
    that of its first, the pcs of functions that may be called back."""

    text: str
    places: list[Place]
    words: list[int]
    sites: int
    ends: dict[int, int]
    starts: list[int]
    entries: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Lookup:
    """A function that looks up in one map, given `stands_for` in place of its handle; the registers
    it takes."""

    stands_for: int
    function: str
    registers: list[int]
    key_bytes: int


@dataclass(frozen=True, slots=True)
class Linked:
    """Functions that stand for helpers. `text` defines them. `lookup` is for map_lookup_elem: what
    there is for the map with a handle."""

    text: str
    lookup: Callable[[int], Lookup | None]


def _no_callee(helper: Helper) -> object:
    raise InternalError(f"{helper.name} is called where nothing can be")


class IrEmitter:
    """Emits one program; `emit` does it. `lines`: with the pc's number at every access, for
    finding where a fault was. `prefix` begins the names of its functions."""

    def __init__(
        self,
        program: Program,
        image: Constants,
        helpers: Mapping[int, Helper],
        build: Build,
        callee: Callee = _no_callee,
        linked: Linked | None = None,
        *,
        lines: bool = False,
        prefix: str = "",
    ) -> None:
        self._program = program
        self._image = image
        self._helpers = helpers
        self._build = build
        self._callee = callee
        self._linked = linked
        self._links = False
        self._prefix = prefix
        self._outline = outline_of(program)
        self._liveness = Liveness(program, self._outline, helpers)
        self._checks = build.checks
        self._checked = build.checks is not Checks.NONE
        self._noted = build.fuel and build.checks is Checks.PAGES
        self._volatile = " volatile" if self._noted else ""
        self._result = "{ i64, i64 }" if build.fuel else "i64"
        self._text: list[str] = []
        self._places: list[Place] = []
        self._words: list[int] = []
        self._word_of: dict[int, int] = {}
        self._sites = 0
        self._names = 0
        self._late: list[Callable[[], None]] = []
        self._function = 0
        self._label = ""
        self._value: list[str | None] = [None] * FRAME_POINTER
        self._dirty = 0
        self._fuel = "0"
        self._left = False
        self._frame = "%fp"
        self._index = self._pc = self._last = 0
        self._cut_at = 0
        self._in_short_loop = self._short_loops()
        self._debug = _Lines() if lines else None
        shallow = not build.uniform and self._outline.stays_shallow(helpers)
        self._depth_checked = not shallow

    def emit(self) -> Ir:
        """The IR of the program. Raises InputError as Image.constant does."""
        outline = self._outline
        self._emit_functions()
        called_back = sorted(
            target
            for pc, insn in zip(outline.starts, self._program.insns, strict=True)
            if insn.spec.kind is Kind.LDDW
            and insn.src == Pseudo.FUNC
            and (target := target_pc(insn, pc)) in self._liveness.entry
        )
        called_back = list(dict.fromkeys(called_back))
        for pc in called_back:
            self._way_in(f"enter{pc}", pc, fresh=False)
        self._way_in("start", 0, fresh=True)
        if self._linked is not None and self._links:
            self._line(self._linked.text)
        debug = self._debug.metadata() if self._debug is not None else ""
        text = _HEAD + "\n".join(self._text) + "\n" + _TAIL + debug
        ends = {block.first: block.last for block in self._liveness.blocks}
        return Ir(text, self._places, self._words, self._sites, ends, outline.starts, called_back)

    def functions(self) -> str:
        """The definitions of all functions but the main one, without what they refer to."""
        self._emit_functions(beside=0)
        return "\n".join(self._text)

    def function(self, pc: int) -> tuple[str, list[int]]:
        """The symbol of the function at `pc`, and which registers it takes."""
        return f"@{self._prefix}f{pc}", self._parameters(pc)

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

    # --- text -------------------------------------------------------------------------------

    def new(self, text: str) -> str:
        """Append an instruction; the name of its result."""
        self._names += 1
        name = f"%v{self._names}"
        self._text.append(f"{name} = {text}")
        return name

    def _line(self, text: str) -> None:
        self._text.append(text)

    def _fresh(self) -> str:
        self._names += 1
        return f"l{self._names}"

    def _begin_label(self, label: str) -> None:
        self._text.append(f"{label}:")
        self._label = label

    def _slot(self, slot: int) -> str:
        return self.new(f"getelementptr i8, ptr %st, i64 {8 * slot}")

    def _load_slot(self, slot: int) -> str:
        return self.new(f"load i64, ptr {self._slot(slot)}{_STATE}")

    def _store_slot(self, slot: int, value: str) -> None:
        self._line(f"store i64 {value}, ptr {self._slot(slot)}{_STATE}")

    def _word(self, number: int) -> str:
        return self.new(f"load i64, ptr {_word_at(number)}{_FIXED}")

    def _own_word(self, value: int) -> int:
        """The number of the word that holds the value."""
        found = self._word_of.get(value)
        if found is None:
            found = self._word_of[value] = _FIRST_OWN + len(self._words)
            self._words.append(value)
        return found

    # --- registers --------------------------------------------------------------------------

    def _get(self, number: int) -> str:
        if number == FRAME_POINTER:
            return "%fp"
        value = self._value[number]
        if value is None:
            value = self._value[number] = self.new(f"load i64, ptr %r{number}")
        return value

    def _set(self, number: int, value: str) -> None:
        self._value[number] = value
        self._dirty |= 1 << number

    def _clear_arguments(self) -> None:
        for number in range(1, 6):
            self._set(number, "0")

    def _low(self, value: str) -> str:
        """The low half as an i32."""
        if value[0] != "%":
            number = int(value) & 0xFFFF_FFFF
            return str(number - (1 << 32) if number >> 31 else number)
        return self.new(f"trunc i64 {value} to i32")

    def _flush(self, live: int) -> None:
        """End of a block: what is live behind it goes to the allocas."""
        for number in range(FRAME_POINTER):
            if self._dirty & live & 1 << number:
                self._line(f"store i64 {self._value[number]}, ptr %r{number}")
        if self._build.fuel:
            self._line(f"store i64 {self._fuel}, ptr %fuel")

    # --- asking -----------------------------------------------------------------------------

    def _shown(self) -> tuple[int, ...]:
        live = 0 if self._left else self._liveness.before[self._index]
        return tuple(number for number in range(FRAME_POINTER) if live >> number & 1)

    def _operands(self, place: Place) -> str:
        """The live values of the place's record."""
        shown = "".join(f", i64 {self._get(number)}" for number in place.shown)
        return f"i64 {self._fuel}{shown}, i64 {self._frame}"

    def _place(self, ask: Ask | None, **known: Any) -> Place:
        place = Place(self._index, self._last - self._index, self._shown(), ask, **known)
        self._places.append(place)
        return place

    def _asking(self, number: int, operands: str) -> str:
        point = f"i64 {number}, i32 {CALL_BYTES}, ptr null, i32 0, {operands}"
        return f"call preserve_mostcc {_POINT}({point})"

    def _ask(self, ask: Ask, **known: Any) -> str:
        """Ask here and now; the name of the answer."""
        number = len(self._places)
        operands = self._operands(self._place(ask, **known))
        return self.new(f"{self._asking(number, operands)} #1")

    def _stop(self, **known: Any) -> None:
        """Ask for what can only raise."""
        number = len(self._places)
        operands = self._operands(self._place(Ask.REFUSE, **known))
        self._line(f"{self._asking(number, operands)} #2")
        self._line("unreachable")

    def _stop_if(self, condition: str, why: tuple[TrapKind, str]) -> None:
        """Ask, if the condition holds, for what can only raise."""
        number = len(self._places)
        operands = self._operands(self._place(Ask.REFUSE, why=why))
        stops, goes = self._fresh(), self._fresh()
        self._line(f"br i1 {condition}, label %{stops}, label %{goes}{_UNLIKELY}")
        self._line(f"{stops}:")
        self._line(f"{self._asking(number, operands)} #2")
        self._line("unreachable")
        self._begin_label(goes)

    # --- functions and blocks ---------------------------------------------------------------

    def _parameters(self, pc: int) -> list[int]:
        live = self._liveness.entry[pc]
        return [number for number in range(FRAME_POINTER) if live >> number & 1]

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
            self._line(f"%sites = load ptr, ptr {_word_at(SITES)}{_FIXED}")
        if self._checks is Checks.PAGES:
            at = self._slot(Slot.BASE)
            self._line(f"%base = load ptr, ptr {at}{_FIXED}")
        if pc in self._outline.framed:
            self._blank_frame()
        self._line(f"br label %b{pc}")

    def _blank_frame(self) -> None:
        frame = self.new(f"sub i64 %fp, {STACK_BYTES}")
        for offset in range(0, STACK_BYTES, 64):
            at = self.new(f"add i64 {frame}, {offset}")
            pointer = self.new(f"inttoptr i64 {at} to ptr")
            self._line(f"store <8 x i64> zeroinitializer, ptr {pointer}, align 8{_PROGRAM}")

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

    def _take_result(self, result: str, *, store: bool = False) -> str:
        """The r0 of a call; its fuel is the fuel from here on, or goes to the state."""
        if not self._build.fuel:
            return result
        r0 = self.new(f"extractvalue {self._result} {result}, 0")
        fuel = self.new(f"extractvalue {self._result} {result}, 1")
        if store:
            self._store_slot(Slot.FUEL, fuel)
        else:
            self._fuel = fuel
        return r0

    def _return(self, r0: str) -> None:
        if not self._build.fuel:
            self._line(f"ret i64 {r0}")
            return
        pair = self.new(f"insertvalue {self._result} poison, i64 {r0}, 0")
        pair = self.new(f"insertvalue {self._result} {pair}, i64 {self._fuel}, 1")
        self._line(f"ret {self._result} {pair}")

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
            if index - self._cut_at >= _PIECE_INSNS and not self._in_short_loop[index]:
                self._cut()
            kind = insn.spec.kind
            if kind in _RESTRICTED or FRAME_POINTER in (insn.dst, insn.src):
                why = refusal(insn, self._helpers)
                if why is not None:
                    self._stop(why=why)
                    return
            if _EMIT[kind](self, insn, block) is _ENDED:
                return
        self._flush(block.behind)
        self._line(f"br label %{self._leading(self._pc + insns[block.last].slots)}")

    def _short_loops(self) -> bytearray:
        """Which instructions lie in a loop that is shorter than a piece."""
        index_of = {pc: index for index, pc in enumerate(self._outline.starts)}
        inside = bytearray(len(self._program.insns))
        for block in self._liveness.blocks:
            for pc in block.leads:
                first = index_of[pc]
                if 0 <= block.last - first < _PIECE_INSNS:
                    inside[first : block.last + 1] = b"\1" * (block.last + 1 - first)
        return inside

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
        self._line(f"br i1 {short}, label %{asks}, label %{goes}{_UNLIKELY}")
        self._line(f"{asks}:")
        more = self.new(f"{self._asking(number, operands)} #1")
        done = self.new(f"icmp eq i64 {more}, -1")
        self._line(f"br i1 {done}, label %{returns}, label %{goes}{_UNLIKELY}")
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
            self._line(f"store volatile i64 {self._fuel}, ptr {at}{_STATE}")

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

    # --- arithmetic and control flow --------------------------------------------------------

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
        return _ENDED

    def _goto(self, insn: Insn, block: Block) -> bool:
        self._flush(block.behind)
        self._line(f"br label %{self._leading(self._pc + 1 + insn.off)}")
        return _ENDED

    def _may_goto(self, insn: Insn, block: Block) -> bool:
        at = self._slot(Slot.MAY_GOTO)
        turns = self.new(f"load i64, ptr {at}{_STATE}")
        done = self.new(f"icmp eq i64 {turns}, 0")
        less = self.new(f"sub i64 {turns}, 1")
        left = self.new(f"select i1 {done}, i64 0, i64 {less}")
        self._line(f"store i64 {left}, ptr {at}{_STATE}")
        self._flush(block.behind)
        target, behind = self._leading(self._pc + 1 + insn.off), self._leading(self._pc + 1)
        self._line(f"br i1 {done}, label %{target}, label %{behind}{_UNLIKELY}")
        return _ENDED

    def _exit(self, _: Insn, _block: Block) -> bool:
        r0 = self._get(0)
        self._note_exit()
        self._return(r0)
        return _ENDED

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
            return _ENDED
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

    # --- helpers ----------------------------------------------------------------------------

    def _call(self, insn: Insn, block: Block) -> None:
        helper = self._helpers[insn.imm]
        if helper.name == "tail_call":
            self._tail_call()
            return
        if helper.name == "map_lookup_elem" and self._call_linked(block):
            return
        callee = self._callee(helper)
        if isinstance(callee, Known):
            self._set(0, str(sign_extend(callee.result, 64)))
            self._clear_arguments()
            return
        used = arguments_used(helper)
        number = len(self._places)
        place = self._place(None, callee=self._own_word(id(callee)), helper=HELPER + used)
        # The thunk takes the fuel where a sixth argument would be.
        args = [f"i64 {self._get(n)}" if n <= used else "i64 poison" for n in range(1, 6)]
        fuel = self._fuel if self._build.fuel else self._load_slot(Slot.FUEL)
        point = f"i64 {number}, i32 {HELPER_BYTES}, ptr null, i32 6, {', '.join(args)}"
        operands = self._operands(place)
        result = self.new(f"call {_POINT}({point}, i64 {fuel}, {operands})")
        if self._build.fuel and ArgType.PTR_TO_FUNC in helper.args:
            self._fuel = self._load_slot(Slot.FUEL)
        self._set(0, result)
        self._clear_arguments()

    def _call_linked(self, block: Block) -> bool:
        """Look up by a function of ours, where the map is known and there is one for it."""
        if self._linked is None:
            return False
        handle = map_in_r1(self._program, self._outline, self._image, block.first, self._index)
        found = self._linked.lookup(handle) if handle is not None else None
        if found is None:
            return False
        if self._checked:
            site = self._sites
            passes = self._in_site(self._get(2))
            asks, goes = self._fresh(), self._fresh()
            number = len(self._places)
            shown = self._operands(self._place(Ask.KEY, site=site, count=found.key_bytes))
            self._line(f"br i1 {passes}, label %{goes}, label %{asks}{_LIKELY}")
            self._line(f"{asks}:")
            self._line(f"{self._asking(number, shown)} #1")
            self._line(f"br label %{goes}")
            self._begin_label(goes)
        descriptor = self._word(self._own_word(found.stands_for))
        operands = "ptr %st, i64 %fp" + "".join(
            f", i64 {descriptor if number == 1 else self._get(number)}"
            for number in found.registers
        )
        self._links = True
        self._set(0, self.new(f"call fastcc i64 {found.function}({operands}){self._at()}"))
        self._clear_arguments()
        return True

    def _tail_call(self) -> None:
        """Python sets the registers of the called program and says where it is, or what r0 is."""
        where = self._ask(Ask.TAIL_CALL)
        away, stays = self._fresh(), self._fresh()
        left = self.new(f"icmp ne i64 {where}, 0")
        self._line(f"br i1 {left}, label %{away}, label %{stays}")
        self._begin_label(away)
        target = self.new(f"inttoptr i64 {where} to ptr")
        r0 = self.new(f"call i64 {target}(ptr %st)")
        before = self._fuel
        if self._build.fuel:
            self._fuel = self._load_slot(Slot.FUEL)
        self._return(r0)
        self._fuel = before
        self._begin_label(stays)
        self._set(0, self._load_slot(Slot.TARGET))
        self._clear_arguments()

    def _packet_load(self, _: Insn, _block: Block) -> None:
        value = self._ask(Ask.PACKET)
        outside = self.new(f"icmp eq i64 {value}, -1")
        leaves, goes = self._fresh(), self._fresh()
        self._line(f"br i1 {outside}, label %{leaves}, label %{goes}")
        self._begin_label(leaves)
        self._note_exit()
        self._return("0")
        self._begin_label(goes)
        self._set(0, value)
        self._clear_arguments()

    def _lddw(self, insn: Insn, _: Block) -> None:
        constant = self._image.constant(self._program, self._pc, insn) & U64
        if insn.src == Pseudo.NONE:
            self._set(insn.dst, str(sign_extend(constant, 64)))
        else:
            self._set(insn.dst, self._word(self._own_word(constant)))

    # --- memory -----------------------------------------------------------------------------

    def _at(self) -> str:
        """The place of the instruction, for the table of lines."""
        if self._debug is None:
            return ""
        return self._debug.place(f"f{self._function}", self._index)

    def _load(self, insn: Insn, _: Block) -> None:
        size = _size(insn)
        signed = insn.spec.kind is Kind.LDSX
        ordered = " acquire" if insn.spec.kind is Kind.LOAD_ACQ else ""
        atomic = " atomic" if ordered else ""

        def access(pointer: str) -> str:
            align = size if ordered else 1
            value = self.new(
                f"load{atomic}{self._volatile} i{8 * size}, ptr {pointer}{ordered}, align {align}"
                f"{_PROGRAM}{self._at()}"
            )
            if size == 8:
                return value
            return self.new(f"{'sext' if signed else 'zext'} i{8 * size} {value} to i64")

        value = self._access(insn.src, insn.off, size, access, aligned=bool(ordered))
        self._set(insn.dst, value)

    def _store(self, insn: Insn, _: Block) -> None:
        size = _size(insn)
        ordered = " release" if insn.spec.kind is Kind.STORE_REL else ""
        atomic = " atomic" if ordered else ""
        value = str(insn.imm) if insn.spec.kind is Kind.ST else self._get(insn.src)

        def access(pointer: str) -> str:
            low = self._narrow(value, size)
            self._line(
                f"store{atomic}{self._volatile} i{8 * size} {low}, ptr {pointer}{ordered}, "
                f"align {size if ordered else 1}{_PROGRAM}{self._at()}"
            )
            return "0"

        self._access(insn.dst, insn.off, size, access, aligned=bool(ordered))

    def _narrow(self, value: str, size: int) -> str:
        """The low bytes of a 64-bit value."""
        bits = 8 * size
        if bits == 64:
            return value
        if value[0] != "%":
            number = int(value) & ((1 << bits) - 1)
            return str(number - (1 << bits) if number >> (bits - 1) else number)
        return self.new(f"trunc i64 {value} to i{bits}")

    def _atomic(self, insn: Insn, _: Block) -> None:
        size, op = _size(insn), insn.spec.op
        kind = f"i{8 * size}"
        src, r0 = self._get(insn.src), self._get(0) if op is AtomicOp.CMPXCHG else "0"
        assert isinstance(op, AtomicOp)

        def access(pointer: str) -> str:
            value = self._narrow(src, size)
            if op is AtomicOp.CMPXCHG:
                wanted = self._narrow(r0, size)
                pair = self.new(
                    f"cmpxchg{self._volatile} ptr {pointer}, {kind} {wanted}, {kind} {value} "
                    f"seq_cst seq_cst, align {size}{_PROGRAM}{self._at()}"
                )
                old = self.new(f"extractvalue {{ {kind}, i1 }} {pair}, 0")
            else:
                old = self.new(
                    f"atomicrmw{self._volatile} {ATOMIC[op]} ptr {pointer}, {kind} {value} "
                    f"seq_cst, align {size}{_PROGRAM}{self._at()}"
                )
            return old if size == 8 else self.new(f"zext {kind} {old} to i64")

        old = self._access(insn.dst, insn.off, size, access, aligned=True)
        if op in FETCHES:
            self._set(insn.src, old)
        elif op is AtomicOp.CMPXCHG:
            self._set(0, old)

    def _access(
        self, base: int, off: int, size: int, access: Callable[[str], str], *, aligned: bool
    ) -> str:
        """Access memory at the register `base` + `off`, checked as the build says; its value."""
        in_frame = base == FRAME_POINTER and -STACK_BYTES <= off <= -size
        if in_frame and not (aligned and off % size):
            return access(self._pointer(self._address(base, off)))
        if self._checks is Checks.NONE:
            return access(self._pointer(self._address(base, off)))
        if base == FRAME_POINTER and not aligned:
            return self._ask(Ask.ACCESS)
        address = self._address(base, off)
        if self._checks is Checks.EXACT:
            return self._access_checked(address, size, access, aligned=aligned)
        low = self.new(f"trunc i64 {address} to i32")
        offset = self.new(f"zext i32 {low} to i64")
        pointer = self.new(f"getelementptr i8, ptr %base, i64 {offset}")
        if not aligned or size == 1:
            return access(pointer)
        return self._guarded(self._is_aligned(offset, size), -1, lambda: access(pointer))

    def _address(self, base: int, off: int) -> str:
        value = self._get(base)
        return self.new(f"add i64 {value}, {off}") if off else value

    def _pointer(self, address: str) -> str:
        return self.new(f"inttoptr i64 {address} to ptr")

    def _access_checked(
        self, address: str, size: int, access: Callable[[str], str], *, aligned: bool
    ) -> str:
        """Python is asked unless the address lies in the range that passed the last time."""
        site = self._sites
        passes = self._in_site(address)
        if aligned and size > 1:
            passes = self.new(f"and i1 {passes}, {self._is_aligned(address, size)}")
        return self._guarded(passes, site, lambda: access(self._pointer(address)))

    def _in_site(self, address: str) -> str:
        """Whether the address lies in the range of a new site."""
        site = self._sites
        self._sites += 1
        at = self.new(f"getelementptr i8, ptr %sites, i64 {SITE_BYTES * site}")
        start = self.new(f"load i64, ptr {at}{_STATE}")
        at = self.new(f"getelementptr i8, ptr %sites, i64 {SITE_BYTES * site + 8}")
        length = self.new(f"load i64, ptr {at}{_STATE}")
        offset = self.new(f"sub i64 {address}, {start}")
        return self.new(f"icmp ult i64 {offset}, {length}")

    def _is_aligned(self, address: str, size: int) -> str:
        low = self.new(f"and i64 {address}, {size - 1}")
        return self.new(f"icmp eq i64 {low}, 0")

    def _guarded(self, passes: str, site: int, access: Callable[[], str]) -> str:
        """Do the access if it passes, have Python do it if not; its value."""
        number = len(self._places)
        operands = self._operands(self._place(Ask.ACCESS, site=site))
        does, asks, goes = self._fresh(), self._fresh(), self._fresh()
        self._line(f"br i1 {passes}, label %{does}, label %{asks}{_LIKELY}")
        self._line(f"{asks}:")
        answer = self.new(f"{self._asking(number, operands)} #1")
        self._line(f"br label %{goes}")
        self._line(f"{does}:")
        value = access()
        self._line(f"br label %{goes}")
        self._begin_label(goes)
        if value == "0":  # a store
            return value
        return self.new(f"phi i64 [{value}, %{does}], [{answer}, %{asks}]")


def _word_at(number: int) -> str:
    return f"getelementptr (i8, ptr @words, i64 {8 * number})"


def _size(insn: Insn) -> int:
    assert insn.spec.size is not None
    return int(insn.spec.size)


class _Lines:
    """Debug information of the smallest kind: the line of an access is its index + 1."""

    def __init__(self) -> None:
        self._functions: dict[str, int] = {}
        self._places: dict[tuple[str, int], int] = {}
        self._next = 20
        self._rows = [
            "!llvm.dbg.cu = !{!10}",
            "!llvm.module.flags = !{!12, !13}",
            "!10 = distinct !DICompileUnit(language: DW_LANG_C, file: !11, "
            "isOptimized: true, emissionKind: LineTablesOnly)",
            '!11 = !DIFile(filename: "program", directory: "")',
            '!12 = !{i32 2, !"Debug Info Version", i32 3}',
            '!13 = !{i32 7, !"Dwarf Version", i32 4}',
            "!14 = !DISubroutineType(types: !2)",
        ]

    def function(self, name: str) -> str:
        """What the definition of a function carries."""
        number = self._functions[name] = self._number()
        self._rows.append(
            f'!{number} = distinct !DISubprogram(name: "{name}", scope: !11, file: !11, line: 1, '
            "type: !14, unit: !10, spFlags: DISPFlagDefinition)"
        )
        return f" !dbg !{number}"

    def place(self, function: str, index: int) -> str:
        """What an access carries."""
        found = self._places.get((function, index))
        if found is None:
            found = self._places[function, index] = self._number()
            scope = self._functions[function]
            self._rows.append(f"!{found} = !DILocation(line: {index + 1}, scope: !{scope})")
        return f", !dbg !{found}"

    def metadata(self) -> str:
        """All of it, as text."""
        return "\n".join(self._rows) + "\n"

    def _number(self) -> int:
        self._next += 1
        return self._next


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

"""IR as it is written: lines, registers, places where Python is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pybpfvm.errors import InternalError, TrapKind
from pybpfvm.helpers.proto import Helper
from pybpfvm.isa.opcodes import (
    FRAME_POINTER,
)
from pybpfvm.jit.emitted import Ask, Build, Callee, Constants
from pybpfvm.jit.llvm.irlines import DebugLines
from pybpfvm.jit.llvm.irparts import (
    CALL_BYTES,
    FIRST_OWN,
    FIXED,
    PIECE_INSNS,
    STATE,
    UNLIKELY,
    Linked,
    Place,
    word_at,
)
from pybpfvm.jit.llvm.liveness import Liveness
from pybpfvm.jit.options import Checks
from pybpfvm.jit.state import Slot
from pybpfvm.outline import outline_of
from pybpfvm.program import Program

POINT = "i64 (i64, i32, ptr, i32, ...) @llvm.experimental.patchpoint.i64"


def no_callee(helper: Helper) -> object:
    """The callee of each helper, in code that calls none. Raises InternalError."""
    raise InternalError(f"{helper.name} is called where nothing can be")


class IrWriter:
    """What those share that emit a program: see IrEmitter."""

    def __init__(
        self,
        program: Program,
        image: Constants,
        helpers: Mapping[int, Helper],
        build: Build,
        callee: Callee = no_callee,
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
        self._volatile = " volatile" if self._noted or build.shares else ""
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
        self._debug = DebugLines() if lines else None
        shallow = not build.uniform and self._outline.stays_shallow(helpers)
        self._depth_checked = not shallow

    def _short_loops(self) -> bytearray:
        """Which instructions lie in a loop that is shorter than a piece."""
        index_of = {pc: index for index, pc in enumerate(self._outline.starts)}
        inside = bytearray(len(self._program.insns))
        for block in self._liveness.blocks:
            for pc in block.leads:
                first = index_of[pc]
                if 0 <= block.last - first < PIECE_INSNS:
                    inside[first : block.last + 1] = b"\1" * (block.last + 1 - first)
        return inside

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
        return self.new(f"load i64, ptr {self._slot(slot)}{STATE}")

    def _store_slot(self, slot: int, value: str) -> None:
        self._line(f"store i64 {value}, ptr {self._slot(slot)}{STATE}")

    def _word(self, number: int) -> str:
        return self.new(f"load i64, ptr {word_at(number)}{FIXED}")

    def _own_word(self, value: int) -> int:
        """The number of the word that holds the value."""
        found = self._word_of.get(value)
        if found is None:
            found = self._word_of[value] = FIRST_OWN + len(self._words)
            self._words.append(value)
        return found

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
        return f"call preserve_mostcc {POINT}({point})"

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
        self._line(f"br i1 {condition}, label %{stops}, label %{goes}{UNLIKELY}")
        self._line(f"{stops}:")
        self._line(f"{self._asking(number, operands)} #2")
        self._line("unreachable")
        self._begin_label(goes)

    def _parameters(self, pc: int) -> list[int]:
        live = self._liveness.entry[pc]
        return [number for number in range(FRAME_POINTER) if live >> number & 1]

    def _return(self, r0: str) -> None:
        if not self._build.fuel:
            self._line(f"ret i64 {r0}")
            return
        pair = self.new(f"insertvalue {self._result} poison, i64 {r0}, 0")
        pair = self.new(f"insertvalue {self._result} {pair}, i64 {self._fuel}, 1")
        self._line(f"ret {self._result} {pair}")

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

    def _at(self) -> str:
        """The place of the instruction, for the table of lines."""
        if self._debug is None:
            return ""
        return self._debug.place(f"f{self._function}", self._index)

"""IR of calls: of helpers in Python or in IR, and packet loads."""

from __future__ import annotations

from pybpfvm.bits import sign_extend
from pybpfvm.helpers.proto import ArgType
from pybpfvm.isa.insn import Insn
from pybpfvm.jit.emitted import Ask, Known, arguments_used, map_in_r1
from pybpfvm.jit.llvm.irflow import IrFlow
from pybpfvm.jit.llvm.irmemory import IrMemory
from pybpfvm.jit.llvm.irparts import HELPER, HELPER_BYTES, LIKELY, NATIVE
from pybpfvm.jit.llvm.irwriter import POINT
from pybpfvm.jit.llvm.liveness import Block
from pybpfvm.jit.state import Slot


class IrCalls(IrMemory, IrFlow):
    """Emits calls."""

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
        called, thunk = (callee, NATIVE) if isinstance(callee, int) else (id(callee), HELPER + used)
        place = self._place(None, callee=self._own_word(called), helper=thunk)
        # The thunk takes the fuel where a sixth argument would be.
        args = [f"i64 {self._get(n)}" if n <= used else "i64 poison" for n in range(1, 6)]
        fuel = self._fuel if self._build.fuel else self._load_slot(Slot.FUEL)
        point = f"i64 {number}, i32 {HELPER_BYTES}, ptr null, i32 6, {', '.join(args)}"
        operands = self._operands(place)
        result = self.new(f"call {POINT}({point}, i64 {fuel}, {operands})")
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
            self._line(f"br i1 {passes}, label %{goes}, label %{asks}{LIKELY}")
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

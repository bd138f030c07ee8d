"""Calls of helpers: in Python, in machine code, or none where the result is known; packet loads,
which are calls in all but name.
"""

from __future__ import annotations

from pybpfvm.isa.insn import Insn
from pybpfvm.jit.emitted import (
    Ask,
    Callee,
    Constants,
    Known,
    Lookup,
    arguments_used,
    map_in_r1,
)
from pybpfvm.jit.flow import NO_ARGUMENTS, Flow
from pybpfvm.jit.memorycode import CMP_R11_STATE, SUB_R11_STATE
from pybpfvm.jit.state import Slot
from pybpfvm.jit.thunks import BPF, call_slot, load
from pybpfvm.jit.x86 import AE, MOV, R11, RAX, RDI, imm32, mov_imm, rr
from pybpfvm.outline import runs_others


class Calls(Flow):
    """Emits calls: `_callee` says of what, `_lookup` how a map is looked up in machine code."""

    _image: Constants
    _callee: Callee
    _lookup: Lookup | None

    def _call(self, insn: Insn) -> None:
        helper = self._helpers[insn.imm]
        data = self._code.data
        if runs_others(helper):
            self._leave_block()
        if helper.name == "tail_call":
            self._ask(Ask.TAIL_CALL)
            return
        if self._lookup is not None and helper.name == "map_lookup_elem":
            handle = map_in_r1(
                self._program, self._outline, self._image, self._block_first, self._index
            )
            native = self._lookup(handle) if handle is not None else None
            if native is not None:
                self._native_lookup(*native)
                return
        callee = self._callee(helper)
        if isinstance(callee, int):
            self._call_address(callee)
            return
        if isinstance(callee, Known):
            data += mov_imm(RAX, callee.result)
            if self._checked:
                data += NO_ARGUMENTS
            return
        data += load(R11, self._state.callee(callee))
        data += call_slot(self._state.disp(Slot.HELPER + arguments_used(helper)))
        if self._checked:
            data += NO_ARGUMENTS

    def _native_lookup(self, described: int, function: int, key_bytes: int) -> None:
        """Look the key at r2 up in machine code; what `described` says stands for the map."""
        data = self._code.data
        if self._checked:
            words = self._state.site()
            data += rr(MOV, R11, BPF[2]) + SUB_R11_STATE + imm32(words)
            data += CMP_R11_STATE + imm32(words + 8)
            at = self._jump_late(AE)
            site = self._site(Ask.KEY, words=words)
            site.count = key_bytes
            self._asked.append((at, site, b"", len(data)))
        data += mov_imm(RDI, described)
        self._call_address(function)
        if self._checked:
            data += NO_ARGUMENTS

    def _call_address(self, target: int) -> None:
        """Call machine code of ours, which lies where a rel32 reaches it from any place."""
        data = self._code.data
        data += b"\xe8"
        self._code.outward.append((len(data), target))
        data += bytes(4)

    def _packet_load(self, _: Insn) -> None:
        site = self._ask(Ask.PACKET)

        def late(leave: bytes = self._leave_function(), block: int = self._block_pc) -> None:
            site.skip = len(self._code.data)
            self._block_pc = block
            self._leave_block()
            if self._build.record.trace:
                self._record_alone(site.index)
            self._code.data += leave

        self._late.append(late)

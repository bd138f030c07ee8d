"""What programs are held to and recorded by: fuel, counts of instructions, edges, the trace.

Fuel is taken at the start of each basic block for all of it, so counts are exact at every place
where control can leave: a block ends where something else may run in between (jumps, local calls,
helpers that call back or away, packet loads). What is missing in a started block when it traps is
known from the code. Where the fuel does not suffice Python is asked (`Ask.FUEL`).
"""

from __future__ import annotations

from pybpfvm.errors import TrapKind
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import Kind
from pybpfvm.jit.emitted import Ask, Site
from pybpfvm.jit.recorder import RUN, Recorder
from pybpfvm.jit.thunks import BPF, FUEL
from pybpfvm.jit.writer import FAR, Writer
from pybpfvm.jit.x86 import RAX, SUB, A, B, group
from pybpfvm.outline import changed, runs_others
from pybpfvm.recording import block_number


class Accounting(Writer):
    """Emits what counts."""

    _recorder: Recorder | None = None
    _room_last = 0  # the last instruction that room in the trace was taken for

    def _come_to(self, first: int, last: int, edge: int | None = None) -> None:
        """Take the fuel for a block, count the `edge` to it (None: from what the state says)."""
        pc = self._outline.starts[first]
        if self._build.fuel:
            count = last - first + 1
            self._take_fuel(Site(Ask.FUEL, pc, first, count - 1, count=count, edge=edge))
        if self._build.record.edges:
            assert self._recorder is not None
            if edge is None:
                self._code.data += self._recorder.enter_block(self._program, pc)
            else:
                self._code.data += self._recorder.count_edge(edge)

    def _take_fuel(self, site: Site) -> None:
        """Take fuel for the site's block; where there is not enough ask, then try again.

        Fuel is never negative here, so what is missing shows as a borrow, and processors do a SUB
        and the jump on its borrow as one; not so the jump on its sign.
        """
        data = self._code.data
        again = len(data)
        data += group(SUB, FUEL, site.count) + FAR[B]
        self._asked.append((len(data) - 4, site, b"", again))

    def _count(self, first: int, last: int) -> None:
        """Count the instructions from `first` to `last`."""
        if not self._build.record.counts:
            return
        assert self._recorder is not None
        pcs = self._outline.starts[first : last + 1]
        self._code.data += self._recorder.count_block(self._program, pcs)

    def _way_out(self, why: str) -> None:
        """Control leaves the program: an instruction of its own that can not be executed."""
        refused = TrapKind.BAD_PC, why
        if self._build.fuel:
            self._take_fuel(Site(Ask.FUEL, self._pc, self._index, 0, why=refused, count=1))
        if self._build.hooked:
            self._ask_site(Site(Ask.HOOK, self._pc, self._index, 0))
        self._count(self._index, self._index)
        self._ask_site(Site(Ask.REFUSE, self._pc, self._index, 0, why=refused))

    def _edge_to(self, pc: int) -> int:
        """The edge from the block that is being emitted to that at `pc`."""
        name = self._program.name
        return block_number(name, self._block_pc) >> 1 ^ block_number(name, pc)

    def _leads_elsewhere(self, insn: Insn) -> bool:
        """Whether the block that counts next is not known from the instruction, and the one
        behind it does not know which counted before."""
        kind = insn.spec.kind
        if kind is Kind.CALL:
            return runs_others(self._helpers.get(insn.imm))
        return kind is Kind.CALL_LOCAL

    def _leave_block(self) -> None:
        """Let the state know which block counted last."""
        if self._build.record.edges:
            assert self._recorder is not None
            self._code.data += self._recorder.leave_block(self._program, self._block_pc)

    def _ends_elsewhere(self, insn: Insn) -> bool:
        """Whether other records may come before the instruction's: room for it is taken when it
        ended. It is the last of its block."""
        kind = insn.spec.kind
        if kind is Kind.CALL:
            return runs_others(self._helpers.get(insn.imm))
        return kind in (Kind.LD_ABS, Kind.LD_IND)

    def _record_before(self, insn: Insn, first: int, last: int) -> None:
        """Take room in the trace where a run of instructions begins."""
        if self._ends_elsewhere(insn):
            return
        index = self._index
        if (index - first) % RUN == 0:
            end = last - self._ends_elsewhere(self._program.insns[last])
            self._room_last = self._code.rooms[index] = min(index + RUN - 1, end)
            self._take_room(index, self._room_last)

    def _record_after(self, insn: Insn) -> None:
        """The value of an instruction that changes a register, behind it."""
        register = changed(insn)
        if self._ends_elsewhere(insn):
            self._record_alone(self._index)
        elif register is not None:
            assert self._recorder is not None
            left = self._room_last - self._index
            self._code.data += self._recorder.record(left, BPF[register])

    def _record_alone(self, index: int) -> None:
        """The trace of an instruction that has just left r0."""
        assert self._recorder is not None
        self._take_room(index, index)
        self._code.data += self._recorder.record(0, RAX)

    def _take_room(self, first: int, last: int) -> None:
        assert self._recorder is not None
        base = self._recorder.place(self._program, 0)
        insns, starts = self._program.insns, self._outline.starts
        there, around, joined = self._recorder.room(
            tuple((base + starts[i], changed(insns[i]) is not None) for i in range(first, last + 1))
        )
        data = self._code.data
        data += there
        at = self._jump_late(A)
        back = len(data)
        data += joined

        def late() -> None:
            self._land(at)
            self._code.data += around
            self._jump_to(back)

        self._late.append(late)

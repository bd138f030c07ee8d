"""A program as machine code: instruction by instruction, block by block."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

from pybpfvm.helpers.proto import Helper
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import FRAME_POINTER, AluOp, Kind
from pybpfvm.isa.table import SPECS
from pybpfvm.jit.calls import Calls
from pybpfvm.jit.emitted import Ask, Build, Callee, Code, Constants, Lookup, Site
from pybpfvm.jit.flow import LINE
from pybpfvm.jit.memorycode import MemoryCode
from pybpfvm.jit.options import Checks
from pybpfvm.jit.recorder import Recorder
from pybpfvm.jit.state import State
from pybpfvm.jit.templates import ALU
from pybpfvm.jit.thunks import BPF, Thunks
from pybpfvm.jit.x86 import nops
from pybpfvm.outline import REFUSABLE, refusal
from pybpfvm.program import Program

_ENDS = frozenset({Kind.EXIT, Kind.GOTO})


class Emitter(MemoryCode, Calls):
    """Emits one program for one engine; `emit` does it."""

    def __init__(
        self,
        program: Program,
        image: Constants,
        helpers: Mapping[int, Helper],
        state: State,
        thunks: Thunks,
        build: Build,
        callee: Callee,
        lookup: Lookup | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        super().__init__(program, helpers, state, build)
        self._image = image
        self._thunks = thunks
        self._callee = callee
        self._lookup = lookup if build.checks is not Checks.PAGES else None
        self._recorder = recorder
        self._single = build.hooked or build.record.trace > 0
        self._shallow = not build.uniform and self._outline.stays_shallow(helpers)
        self._frameless = self._outline.frameless()

    def emit(self) -> Code:
        """The code of the whole program. Raises InputError as Image.constant does."""
        code = self._code
        code.data += self._thunks.start
        outline = self._outline
        code.starts = outline.starts
        last_of = self._last_of = outline.blocks(self._helpers)
        heads = outline.loop_heads()
        index = 0
        for pc, last in last_of.items():
            self._index, self._pc = index, pc
            if pc in self._functions:
                self._begin_function(pc)
            if pc in heads:
                code.data += nops(-len(code.data) % LINE)
            self._begin_block(index, last)
            self._block(index, last)
            index = last + 1
        self._write_late()
        return code

    def emit_rest(self, first: int, count: int, edge: int | None) -> Code:
        """The code of the first `count` instructions of a block, not all, with a stop for want of
        fuel behind them; `edge` leads to it. What has no place in it is as in `emit`."""
        code = self._code
        code.starts = self._outline.starts
        code.offsets = [0] * first
        self._index, self._pc = first, code.starts[first]
        self._open_block(first, first + count - 1)
        self._come_to(first, first + count - 1, edge)
        self._count(first, first + count - 1)
        self._block(first, first + count - 1)
        self._index = first + count
        self._pc = code.starts[self._index]
        self._ask_site(Site(Ask.FUEL, self._pc, self._index, 0))
        self._write_late()
        return code

    def _block(self, first: int, last: int) -> None:
        """The instructions from `first` to `last`."""
        data, offsets = self._code.data, self._code.offsets
        starts, insns = self._outline.starts, self._program.insns
        single, skip = self._single, 0
        for index in range(first, last + 1):
            if index < skip:
                offsets.append(offsets[-1])
                continue
            insn = insns[index]
            offsets.append(len(data))
            spec = insn.spec
            kind = spec.kind
            if kind is Kind.ALU and insn.dst != FRAME_POINTER and not single:
                data += alu(spec.mnemonic, insn.dst, insn.src, insn.imm)
                continue
            self._index, self._pc = index, starts[index]
            if single:
                self._watched(insn, first, last)
            else:
                self._one(insn, kind)
                if self._fused:
                    skip, self._fused = index + 1 + self._fused, 0
        insn, self._index, self._pc = insns[last], last, starts[last]
        behind = self._pc + insn.slots
        if insn.spec.kind not in _ENDS and (behind in self._functions or last + 1 == len(insns)):
            what = "another function" if behind in self._functions else "no instruction"
            self._way_out(f"pc {behind} is {what}")

    def _one(self, insn: Insn, kind: Kind) -> None:
        if kind in REFUSABLE or insn.dst == FRAME_POINTER or insn.src == FRAME_POINTER:
            refused = refusal(insn, self._helpers)
            if refused is not None:
                if kind is Kind.LDDW:  # what it would load may be wrong too, which comes first
                    self._image.constant(self._program, self._pc, insn)
                self._ask(Ask.REFUSE, why=refused)
                return
        _EMIT[kind](self, insn)

    def _watched(self, insn: Insn, first: int, last: int) -> None:
        """The instruction, and what shows it to the hook and the trace."""
        if self._build.hooked:
            self._ask(Ask.HOOK)
        traced = self._build.record.trace > 0
        if traced:
            self._record_before(insn, first, last)
        self._one(insn, insn.spec.kind)
        if traced:
            self._record_after(insn)

    def _alu(self, insn: Insn) -> None:
        self._code.data += alu(insn.spec.mnemonic, insn.dst, insn.src, insn.imm)

    def _begin_block(self, first: int, last: int) -> None:
        self._open_block(first, last)
        pc = self._pc
        if not self._build.record.edges:
            self._bound[pc] = len(self._code.data)
            self._come_to(first, last)
        else:
            # Jumps take the fuel where they are, and count their edge; so does what comes here.
            before = self._program.insns[first - 1] if first else None
            if before is None or pc in self._functions or self._leads_elsewhere(before):
                self._come_to(first, last)
            elif before.spec.kind not in _ENDS:
                self._come_to(first, last, self._edge_to(pc))
            self._bound[pc] = len(self._code.data)
        self._block_pc = pc
        self._count(first, last)

    def _open_block(self, first: int, last: int) -> None:
        self._block_first = first
        self._code.ends[first] = self._block_last = last


@lru_cache(maxsize=1 << 15)
def alu(mnemonic: str, dst: int, src: int, imm: int) -> bytes:
    """The code of an arithmetic instruction."""
    spec = SPECS[mnemonic]
    assert isinstance(spec.op, AluOp)
    return ALU[spec.op](Insn(spec, dst, src, imm=imm), BPF[dst], spec.width == 64)


_EMIT: Mapping[Kind, Callable[[Emitter, Insn], None]] = {
    Kind.ALU: Emitter._alu,
    Kind.JUMP: Emitter._jump,
    Kind.GOTO: Emitter._goto,
    Kind.MAY_GOTO: Emitter._may_goto,
    Kind.CALL: Emitter._call,
    Kind.CALL_LOCAL: Emitter._call_local,
    Kind.EXIT: Emitter._exit,
    Kind.LDX: Emitter._access,
    Kind.LDSX: Emitter._access,
    Kind.ST: Emitter._access,
    Kind.STX: Emitter._access,
    Kind.ATOMIC: Emitter._atomic,
    Kind.LOAD_ACQ: Emitter._load_acquire,
    Kind.STORE_REL: Emitter._store_release,
    Kind.LDDW: Emitter._lddw,
    Kind.LD_ABS: Emitter._packet_load,
    Kind.LD_IND: Emitter._packet_load,
}

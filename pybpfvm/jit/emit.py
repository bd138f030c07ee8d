"""A program as machine code: instruction by instruction, block by block.

Blocks. Fuel is taken at the start of each basic block for all of it, so counts are exact at every
place where control can leave: a block ends where something else may run in between (jumps, local
calls, helpers that call back or away, packet loads). What is missing in a started block when it
traps is known from the code. Where the fuel does not suffice Python is asked (`Ask.FUEL`).

Frames. The frames of a program lie FRAME_STRIDE apart; a local call moves r10 by that much and
uses the native stack for its return address and for the callee's registers, nothing else.

Checked accesses compare with the words of their site: the range that passed the last time. What
is outside asks Python (`Ask.ACCESS`), which lets the range in, does the access itself or raises.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping

from pybpfvm.bits import U64
from pybpfvm.errors import TrapKind
from pybpfvm.helpers.proto import Helper
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import FRAME_POINTER, STACK_BYTES, AluOp, JmpOp, Kind, Operand
from pybpfvm.jit.cpu import HAS_AVX
from pybpfvm.jit.emitted import (
    Ask,
    Build,
    Callee,
    Code,
    Constants,
    Known,
    Lookup,
    Site,
    arguments_used,
    map_in_r1,
)
from pybpfvm.jit.options import Checks
from pybpfvm.jit.recorder import RUN, Recorder
from pybpfvm.jit.state import Slot, State
from pybpfvm.jit.templates import (
    ALU,
    CONDITION,
    LOADS,
    STORES,
    STORES_IMM,
    Form,
    atomic,
    compare,
)
from pybpfvm.jit.thunks import BASE, BPF, FUEL, Thunks, call_slot, load, store
from pybpfvm.jit.x86 import (
    ADD,
    AE,
    CMP,
    LEA,
    MOV,
    NE,
    R10,
    R11,
    RAX,
    RBP,
    RDI,
    RET,
    SUB,
    A,
    Assembler,
    B,
    E,
    group,
    imm32,
    mov_imm,
    nops,
    pop,
    push,
    rm,
    rr,
    rx,
    rxd,
    s8,
    s32,
)
from pybpfvm.memory import FRAME_STRIDE
from pybpfvm.outline import Outline, changed, refusal, runs_others, written
from pybpfvm.program import Program
from pybpfvm.recording import block_number

_ENDS = frozenset({Kind.EXIT, Kind.GOTO})
_CALLEE_SAVED = (6, 7, 8, 9)
_JUMPS = frozenset({Kind.JUMP, Kind.GOTO, Kind.MAY_GOTO})
# Loops and functions begin at such a multiple, as instructions are kept decoded by lines: one that
# lies across two where it could lie in one has been seen to take 1.7 times as long.
_LINE = 64
_NO_ARGUMENTS = b"".join(mov_imm(BPF[number], 0) for number in range(1, 6))


class Emitter:
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
        self._program = program
        self._image = image
        self._helpers = helpers
        self._state = state
        self._thunks = thunks
        self._build = build
        self._callee = callee
        self._lookup = lookup if build.checks is not Checks.PAGES else None
        self._recorder = recorder
        self._outline = Outline(program)
        self._functions = frozenset(self._outline.functions)
        self._code = Code()
        self._index = 0
        self._pc = 0
        self._block_first = self._block_last = 0
        self._block_pc = 0
        self._last_of: dict[int, int] = {}
        self._room_last = 0
        self._saved: tuple[int, ...] = ()
        self._calls: list[tuple[int, int]] = []
        self._jumps: list[tuple[int, int]] = []  # where a rel32 is, the pc it leads to
        self._late: list[Callable[[], None]] = []  # what is emitted behind the code
        self._bound = self._code.blocks
        self._exact = build.checks is Checks.EXACT
        self._callout = call_slot(state.disp(Slot.CALLOUT))
        self._cache: dict[tuple[object, int, int, int], bytes] = {}
        self._fused = 0  # how many of the next instructions have been emitted already
        self._single = build.hooked or build.record.trace > 0
        self._shallow = not build.uniform and self._outline.stays_shallow(helpers)
        self._frameless = self._find_frameless()

    def _find_frameless(self) -> frozenset[int]:
        """The functions that name no frame and call nothing."""
        outline = self._outline
        calling = {
            outline.functions[bisect_right(outline.functions, pc) - 1]
            for pc, insn in zip(outline.starts, self._program.insns, strict=True)
            if insn.spec.kind in (Kind.CALL, Kind.CALL_LOCAL)
        }
        return frozenset(outline.functions) - calling - outline.framed

    def emit(self) -> Code:
        """The code of the whole program. Raises InputError as Image.constant does."""
        code = self._code
        entry = Assembler()
        self._thunks.start(entry, "main")
        entry.label("main")
        code.data += entry.finish()
        outline = self._outline
        code.starts = outline.starts
        last_of = self._last_of = outline.blocks(self._helpers)
        heads = self._loop_heads()
        for index, pc in enumerate(outline.starts):
            if pc in last_of:
                self._index, self._pc = index, pc
                if pc in self._functions:
                    self._begin_function(pc)
                if pc in heads:
                    code.data += nops(-len(code.data) % _LINE)
                self._begin_block(index, last_of[pc])
                self._block(index, last_of[pc])
        self._finish()
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
        self._finish()
        return code

    def _block(self, first: int, last: int) -> None:
        """The instructions from `first` to `last`."""
        data, offsets, cache = self._code.data, self._code.offsets, self._cache
        starts, insns, functions = self._outline.starts, self._program.insns, self._functions
        hooked, traced = self._build.hooked, self._build.record.trace > 0
        for index in range(first, last + 1):
            insn, pc = insns[index], starts[index]
            self._index, self._pc = index, pc
            if self._fused:
                self._fused -= 1
                offsets.append(offsets[-1])
                continue
            offsets.append(len(data))
            if hooked:
                self._ask(Ask.HOOK)
            if traced:
                self._record_before(insn, first, last)
            spec = insn.spec
            kind = spec.kind
            if kind is Kind.ALU and insn.dst != FRAME_POINTER:
                key = (spec.mnemonic, insn.dst, insn.src, insn.imm)
                piece = cache.get(key)
                if piece is None:
                    assert isinstance(spec.op, AluOp)
                    piece = ALU[spec.op](insn, BPF[insn.dst], spec.width == 64)
                    cache[key] = piece
                data += piece
            else:
                refused = None
                if kind in _MAY_BE_REFUSED or FRAME_POINTER in (insn.dst, insn.src):
                    refused = refusal(insn, self._helpers)
                if refused is None:
                    _EMIT[kind](self, insn)
                else:
                    self._ask(Ask.REFUSE, why=refused)
            if traced:
                self._record_after(insn)
        behind = self._pc + insn.slots
        if insn.spec.kind not in _ENDS and (behind in functions or last + 1 == len(insns)):
            what = "another function" if behind in functions else "no instruction"
            self._way_out(f"pc {behind} is {what}")

    def _loop_heads(self) -> set[int]:
        """The pcs that jumps lead back to."""
        insns, starts = self._program.insns, self._outline.starts
        return {
            pc + insn.slots + insn.off
            for pc, insn in zip(starts, insns, strict=True)
            if insn.off < 0 and insn.spec.kind in _JUMPS
        }

    def _finish(self) -> None:
        for late in self._late:
            late()
        data = self._code.data
        for places, lead in ((self._jumps, self._bound), (self._calls, self._code.entries)):
            for at, pc in places:
                data[at : at + 4] = imm32(lead[pc] - at - 4)

    # --- functions and blocks ---------------------------------------------------------------

    def _begin_function(self, pc: int) -> None:
        data = self._code.data
        if data and pc:
            data += nops(-len(data) % _LINE)
        self._code.entries[pc] = len(data)
        self._saved = self._code.saved[pc] = self._to_save(pc)
        for number in self._saved:
            data += push(BPF[number])
        if pc == 0:
            self._code.tail = len(data)
        if pc in self._outline.framed:
            data += _blank(STACK_BYTES)

    def _to_save(self, pc: int) -> tuple[int, ...]:
        """The registers that the function must give back: those of r6 to r9 that it writes."""
        if self._build.uniform:
            return _CALLEE_SAVED
        if pc == 0 and not self._outline.main_is_called:
            return ()  # nothing of ours calls it, and the way in keeps what C wants back
        first = bisect_left(self._outline.starts, pc)
        place = bisect_right(self._outline.functions, pc)
        behind = self._outline.functions[place:]
        last = bisect_left(self._outline.starts, behind[0]) if behind else None
        changed = {written(insn) for insn in self._program.insns[first:last]}
        return tuple(number for number in _CALLEE_SAVED if number in changed)

    def _leave_function(self) -> bytes:
        return b"".join(pop(BPF[number]) for number in reversed(self._saved)) + RET

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
        data += group(SUB, FUEL, site.count)
        at = self._jump_late(B)

        def late() -> None:
            self._land(at)
            self._ask_site(site)
            self._jump_to(again)

        self._late.append(late)

    # --- recording --------------------------------------------------------------------------

    def _count(self, first: int, last: int) -> None:
        """Count the instructions from `first` to `last`."""
        if not self._build.record.counts:
            return
        assert self._recorder is not None
        pcs = self._outline.starts[first : last + 1]
        self._code.data += self._recorder.count_block(self._program, pcs)

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

    # --- asking -----------------------------------------------------------------------------

    def _ask(self, ask: Ask, *, words: int = 0, why: tuple[TrapKind, str] | None = None) -> Site:
        site = self._site(ask, words=words, why=why)
        self._ask_site(site)
        return site

    def _site(self, ask: Ask, *, words: int = 0, why: tuple[TrapKind, str] | None = None) -> Site:
        after = self._block_last - self._index
        return Site(ask, self._pc, self._index, after, words=words, why=why)

    def _ask_site(self, site: Site) -> None:
        code = self._code
        code.data += self._callout
        code.sites[len(code.data)] = site

    def _jump_late(self, condition: int) -> int:
        """Jump on the condition to somewhere behind the code; where its rel32 is."""
        data = self._code.data
        data += bytes((0x0F, 0x80 | condition, 0, 0, 0, 0))
        return len(data) - 4

    def _land(self, at: int) -> None:
        """Let the jump whose rel32 is at `at` lead here."""
        data = self._code.data
        data[at : at + 4] = imm32(len(data) - at - 4)

    def _jump_to(self, offset: int) -> None:
        data = self._code.data
        data += b"\xe9" + imm32(offset - len(data) - 5)

    def _way_out(self, why: str) -> None:
        """Control leaves the program: an instruction of its own that can not be executed."""
        if self._build.fuel:
            self._take_fuel(Site(Ask.FUEL, self._pc, self._index, 0, count=1))
        if self._build.hooked:
            self._ask_site(Site(Ask.HOOK, self._pc, self._index, 0))
        self._count(self._index, self._index)
        self._ask_site(Site(Ask.REFUSE, self._pc, self._index, 0, why=(TrapKind.BAD_PC, why)))

    # --- control flow -----------------------------------------------------------------------

    def _jump(self, insn: Insn) -> None:
        assert isinstance(insn.spec.op, JmpOp)
        self._code.data += compare(insn)
        self._branch(insn, CONDITION[insn.spec.op])

    def _branch(self, insn: Insn, condition: int | None) -> None:
        """To the instruction's target, on the condition if there is one."""
        target = self._pc + 1 + insn.off
        data = self._code.data
        astray = self._outline.astray(self._pc, target)
        if astray is None and self._build.record.edges:
            self._recorded_branch(target, condition)
            return
        if astray is None and target in self._bound:
            self._backward(self._bound[target], condition)
            return
        data += b"\xe9" if condition is None else bytes((0x0F, 0x80 | condition))
        at = len(data)
        data += bytes(4)
        if astray is None:
            self._jumps.append((at, target))
            return
        pc, index = self._pc, self._index

        def late() -> None:
            self._pc, self._index = pc, index
            self._land(at)
            self._way_out(astray)

        self._late.append(late)

    def _recorded_branch(self, target: int, condition: int | None) -> None:
        """The same where edges are recorded: what belongs to this edge lies on it."""
        data = self._code.data
        at = None if condition is None else self._jump_late(condition ^ 1)
        first = bisect_left(self._outline.starts, target)
        self._come_to(first, self._last_of[target], self._edge_to(target))
        if target in self._bound:
            self._backward(self._bound[target], None)
        else:
            self._jumps.append((len(data) + 1, target))
            data += b"\xe9" + bytes(4)
        if at is not None:
            self._land(at)

    def _backward(self, offset: int, condition: int | None) -> None:
        data = self._code.data
        short = offset - len(data) - 2
        if s8(short):
            data += bytes((0xEB if condition is None else 0x70 | condition, short & 0xFF))
        elif condition is None:
            self._jump_to(offset)
        else:
            data += bytes((0x0F, 0x80 | condition)) + imm32(offset - len(data) - 6)

    def _goto(self, insn: Insn) -> None:
        self._branch(insn, None)

    def _may_goto(self, insn: Insn) -> None:
        turns = self._state.disp(Slot.MAY_GOTO)
        self._code.data += rm(0x83, 7, BASE, turns) + b"\0"
        self._branch(insn, E)
        self._code.data += rm(0xFF, 1, BASE, turns)

    def _exit(self, _: Insn) -> None:
        data = self._code.data
        self._leave_block()
        if self._build.check_return and bisect_right(self._outline.functions, self._pc) == 1:
            data += b"\x4c\x8d\x1d" + imm32(-7)  # lea r11, [rip]: this instruction
            data += store(self._state.disp(Slot.EXIT_PC), R11)
            for number, reg in enumerate(BPF):  # for the trap, if the value is not allowed
                data += store(self._state.disp(Slot.REGS + number), reg)
        data += self._leave_function()

    def _call_local(self, insn: Insn) -> None:
        data = self._code.data
        checked = self._build.checks is not Checks.NONE
        if not self._shallow:  # also where the verifier has been: it counts no tail calls
            data += rm(CMP, RBP, BASE, self._state.disp(Slot.LAST_FRAME))
            at = self._jump_late(E)
            site = self._site(Ask.REFUSE, why=(TrapKind.STACK_DEPTH, ""))

            def too_deep() -> None:
                self._land(at)
                self._ask_site(site)

            self._late.append(too_deep)
        self._leave_block()
        target = self._pc + 1 + insn.imm
        # Nobody can see the frame of a function that names none and calls nothing.
        moves = checked or target not in self._frameless
        if moves:
            data += group(ADD, RBP, FRAME_STRIDE)
        data += b"\xe8"
        called = len(data)
        data += bytes(4)
        astray = self._outline.astray(self._pc, target, is_call=True)
        if astray is None:
            self._calls.append((called, target))
        else:
            pc, index = self._pc, self._index

            def late() -> None:
                self._pc, self._index = pc, index
                self._land(called)
                self._way_out(astray)

            self._late.append(late)
        if moves:
            data += group(SUB, RBP, FRAME_STRIDE)
        if checked:
            data += _NO_ARGUMENTS

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
            if self._build.checks is not Checks.NONE:
                data += _NO_ARGUMENTS
            return
        data += load(R11, self._state.callee(callee))
        data += call_slot(self._state.disp(Slot.HELPER + arguments_used(helper)))
        if self._build.checks is not Checks.NONE:
            data += _NO_ARGUMENTS

    def _native_lookup(self, described: int, function: int, key_bytes: int) -> None:
        """Look the key at r2 up in machine code; what `described` says stands for the map."""
        data = self._code.data
        checked = self._build.checks is not Checks.NONE
        if checked:
            words = self._state.site()
            data += rr(MOV, R11, BPF[2]) + _SUB_R11_STATE + imm32(words)
            data += _CMP_R11_STATE + imm32(words + 8)
            at = self._jump_late(AE)
            back, site = len(data), self._site(Ask.KEY, words=words)
            site.count = key_bytes

            def late() -> None:
                self._land(at)
                self._ask_site(site)
                self._jump_to(back)

            self._late.append(late)
        data += mov_imm(RDI, described)
        self._call_address(function)
        if checked:
            data += _NO_ARGUMENTS

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

    def _lddw(self, insn: Insn) -> None:
        constant = self._image.constant(self._program, self._pc, insn) & U64
        if not self._fuse(insn, constant - self._thunks.base):
            self._code.data += mov_imm(BPF[insn.dst], constant)

    def _fuse(self, insn: Insn, disp: int) -> bool:
        """Emit the address `insn` loads, base + `disp`, together with the addition of a register
        behind it, if one follows; where nothing is checked, with the load from there as well."""
        insns, dst = self._program.insns, insn.dst
        if self._single or not s32(disp) or self._index >= self._block_last:
            return False
        add = insns[self._index + 1]
        if add.spec.op is not AluOp.ADD or add.spec.width != 64 or add.dst != dst:
            return False
        if add.spec.operand is not Operand.X or add.src in (dst, FRAME_POINTER):
            return False
        self._fused = 1
        data, index = self._code.data, BPF[add.src]
        if self._index + 1 < self._block_last and self._build.checks is Checks.NONE:
            then = insns[self._index + 2]
            kind, size = then.spec.kind, then.spec.size
            reloads = kind in (Kind.LDX, Kind.LDSX) and then.dst == then.src == dst
            if reloads and size is not None and s32(disp + then.off):
                _, opcode, wide, _ = LOADS[size, kind is Kind.LDSX]
                self._fused = 2
                data += rxd(opcode, BPF[dst], BASE, index, disp + then.off, wide)
                return True
        data += rxd(LEA, BPF[dst], BASE, index, disp)
        return True

    # --- memory -----------------------------------------------------------------------------

    def _load(self, insn: Insn) -> None:
        size = insn.spec.size
        assert size is not None
        form = LOADS[size, insn.spec.kind is Kind.LDSX]
        self._access(insn.src, insn.off, size, form, BPF[insn.dst])

    def _store(self, insn: Insn) -> None:
        size = insn.spec.size
        assert size is not None
        self._access(insn.dst, insn.off, size, STORES[size], BPF[insn.src])

    def _store_imm(self, insn: Insn) -> None:
        size = insn.spec.size
        assert size is not None
        form, bytes_ = STORES_IMM[size]
        tail = (insn.imm & ((1 << 8 * bytes_) - 1)).to_bytes(bytes_, "little")
        self._access(insn.dst, insn.off, size, form, 0, tail)

    def _access(
        self, base: int, off: int, size: int, form: Form, reg: int, tail: bytes = b""
    ) -> None:
        """Access memory at the register `base` + `off`, checked as the build says."""
        data = self._code.data
        prefix, opcode, wide, byte = form
        checks = self._build.checks
        if checks is Checks.NONE or (base == FRAME_POINTER and -STACK_BYTES <= off <= -size):
            data += prefix + rm(opcode, reg, BPF[base], off, wide, byte=byte) + tail
        elif base == FRAME_POINTER:
            # Beside the frame; another may lie there, which Python then accesses.
            site = self._ask(Ask.ACCESS)
            site.skip = len(data)
        elif self._exact:
            site, at = self._check(base, off)
            back = len(data)
            data += prefix + rm(opcode, reg, BPF[base], off, wide, byte=byte) + tail
            self._finish_check(site, at, back)
        else:
            data += rm(LEA, R11, BPF[base], off, False)
            data += prefix + rx(opcode, reg, BASE, R11, wide, byte=byte) + tail

    def _check(self, base: int, off: int) -> tuple[Site, int]:
        """Compare the register `base` + `off` with the site's words; the jump for what does not
        pass. Of registers only r11 is changed."""
        data = self._code.data
        words = self._state.site()
        data += rm(LEA, R11, BPF[base], off) if off else rr(MOV, R11, BPF[base])
        # No two sites have the same words: what `rm` keeps would never be asked for again.
        data += _SUB_R11_STATE + imm32(words) + _CMP_R11_STATE + imm32(words + 8)
        at = self._jump_late(AE)
        return self._site(Ask.ACCESS, words=words), at

    def _finish_check(self, site: Site, at: int, back: int, again: bytes = b"") -> None:
        """The stub of a check; `again` is what must be done once more, for Python has used r10."""
        site.skip = len(self._code.data)

        def late() -> None:
            self._land(at)
            self._ask_site(site)
            self._code.data += again
            self._jump_to(back)

        self._late.append(late)

    def _atomic(self, insn: Insn) -> None:
        size = insn.spec.size
        assert size is not None
        self._at_address(insn, insn.dst, size, atomic(insn))

    def _load_acquire(self, insn: Insn) -> None:
        size = insn.spec.size
        assert size is not None
        prefix, opcode, wide, byte = LOADS[size, False]
        operation = prefix + rm(opcode, BPF[insn.dst], R10, 0, wide, byte=byte)
        self._at_address(insn, insn.src, size, operation)

    def _store_release(self, insn: Insn) -> None:
        size = insn.spec.size
        assert size is not None
        prefix, opcode, wide, byte = STORES[size]
        operation = prefix + rm(opcode, BPF[insn.src], R10, 0, wide, byte=byte)
        self._at_address(insn, insn.dst, size, operation)

    def _at_address(self, insn: Insn, base: int, size: int, operation: bytes) -> None:
        """An operation on the memory at r10, which must be aligned."""
        data = self._code.data
        checks = self._build.checks
        if checks is Checks.NONE:
            data += rm(LEA, R10, BPF[base], insn.off) + operation
        elif self._exact:
            address = rm(LEA, R10, BPF[base], insn.off)
            data += address
            site, at = self._check(base, insn.off)
            misaligned = self._test_alignment(size)
            back = len(data)
            data += operation
            self._finish_check(site, at, back, address)
            if misaligned:
                self._ask_late(misaligned)
        else:
            data += rm(LEA, R10, BPF[base], insn.off, False) + rx(LEA, R10, BASE, R10)
            misaligned = self._test_alignment(size)
            data += operation
            if misaligned:
                self._ask_late(misaligned)

    def _test_alignment(self, size: int) -> int:
        """Test the address in r10; the jump for one that is not aligned, 0 where all are."""
        if size == 1:
            return 0
        self._code.data += b"\x41\xf6\xc2" + bytes((size - 1,))  # test r10b, size - 1
        return self._jump_late(NE)

    def _ask_late(self, at: int) -> None:
        """The jump at `at` leads to where Python is asked to do the access, so to stop it."""
        site = self._site(Ask.ACCESS)

        def late() -> None:
            self._land(at)
            self._ask_site(site)

        self._late.append(late)


_EMIT: Mapping[Kind, Callable[[Emitter, Insn], None]] = {
    Kind.JUMP: Emitter._jump,
    Kind.GOTO: Emitter._goto,
    Kind.MAY_GOTO: Emitter._may_goto,
    Kind.CALL: Emitter._call,
    Kind.CALL_LOCAL: Emitter._call_local,
    Kind.EXIT: Emitter._exit,
    Kind.LDX: Emitter._load,
    Kind.LDSX: Emitter._load,
    Kind.ST: Emitter._store_imm,
    Kind.STX: Emitter._store,
    Kind.ATOMIC: Emitter._atomic,
    Kind.LOAD_ACQ: Emitter._load_acquire,
    Kind.STORE_REL: Emitter._store_release,
    Kind.LDDW: Emitter._lddw,
    Kind.LD_ABS: Emitter._packet_load,
    Kind.LD_IND: Emitter._packet_load,
}
# `op r11, [r12 + disp32]` without the displacement.
_SUB_R11_STATE = rm(SUB, R11, BASE, 1 << 30)[:-4]
_CMP_R11_STATE = rm(CMP, R11, BASE, 1 << 30)[:-4]
_MAY_BE_REFUSED = frozenset({Kind.ADDR_SPACE_CAST, Kind.CALL_KFUNC, Kind.CALL})


def _blank(size: int) -> bytes:
    """Zero the `size` bytes below r10, 32 at a time where the processor can."""
    if HAS_AVX:
        code = b"\xc5\xf8\x57\xc0"  # vxorps xmm0, xmm0, xmm0, which clears all of ymm0
        for off in range(-size, 0, 32):
            code += b"\xc5\xfc\x11" + rm(0, 0, RBP, off, False)[1:]  # vmovups [rbp + off], ymm0
        return code + b"\xc5\xf8\x77"  # vzeroupper
    code = b"\x0f\x57\xc0"  # xorps xmm0, xmm0
    for off in range(-size, 0, 16):
        code += b"\x0f\x11" + rm(0, 0, RBP, off, False)[1:]  # movups [rbp + off], xmm0
    return code

"""What a run of the sandbox looks like from beside it: the way it went, and for each register and
byte of memory the inputs that it was computed from.

The interpreter knows nothing of it: the hook is called before each instruction, and works out
from the registers what the one before it did.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pybpfvm.bits import U64
from pybpfvm.errors import Trap, TrapKind
from pybpfvm.helpers.proto import ArgType, Helper, RetType
from pybpfvm.helpers.table import HELPERS
from pybpfvm.image import Image
from pybpfvm.isa.codec import pcs
from pybpfvm.isa.disasm import format_insn
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import AluOp, AtomicOp, JmpOp, Kind, Operand, Pseudo
from pybpfvm.isa.semantics import FETCHES
from pybpfvm.maps.live import LiveMap
from pybpfvm.memory import Region, RegionKind
from pybpfvm.profiles.base import CtxHolds, Profile
from pybpfvm.program import MapType, Program
from pybpfvm.session.sandbox import Script
from pybpfvm.session.symbols import Source, Symbol

Registers = list[Symbol | None]
Span = tuple[int, int]  # the first address of an object, and that behind it

MAX_TRACE = 20_000
MAX_ARRIVALS = 16
_CALLER_SAVED = range(6)
_ALL = range(11)
_LOADS = (Kind.LDX, Kind.LDSX, Kind.LOAD_ACQ)
_STORES = (Kind.ST, Kind.STX, Kind.STORE_REL)
_FROM_OUTSIDE = (CtxHolds.GIVEN,)
# What a ring fills in: no input, and nothing that could be anything.
_OF_THE_RING = (CtxHolds.DATA, CtxHolds.DATA_END, CtxHolds.USER_BLOCK, CtxHolds.RESULT)
_PACKET_POINTERS = (CtxHolds.DATA, CtxHolds.DATA_END, CtxHolds.DATA_META)
_RELEASES = ("ringbuf_submit", "ringbuf_discard", "spin_unlock")
_PACKET_LOADS = ("skb_load_bytes", "xdp_load_bytes")
_STALE: Span = (0, 0)


@dataclass(frozen=True, slots=True)
class Branch:
    """A conditional jump that was executed as instruction number `index` of the run."""

    index: int
    pc: int
    op: JmpOp
    width: int
    left: Symbol | None
    right: Symbol | None
    left_value: int
    right_value: int


@dataclass(frozen=True, slots=True)
class Sought:
    """What the sandbox is to stop at besides what the interpreter does: a read of what was never
    written (`uninit`: registers; `uninit_stack`: stack bytes too), the end with a reference held,
    and coming back to `loop_pc` with nothing changed, or after `fuel` instructions."""

    uninit: bool = False
    uninit_stack: bool = False
    held: bool = False
    loop_pc: int = -1
    fuel: int = 1 << 15


@dataclass(frozen=True, slots=True)
class Arrival:
    """The run came to the instruction of interest, as number `index`."""

    index: int
    regs: tuple[int, ...]
    symbols: tuple[Symbol | None, ...]
    spans: tuple[tuple[int, int], ...]  # of the region that each register points into, or (0, 0)


class Shadow:
    """The hook of one run. `trace` are the pcs executed (the first `MAX_TRACE`), `branches` the
    conditional jumps among them, `arrivals` the first times that `goal` was reached."""

    def __init__(
        self,
        program: Program,
        profile: Profile,
        sought: Sought,
        goal: int,
        image: Image,
        script: Script,
    ) -> None:
        self.trace: list[int] = []
        self.branches: list[Branch] = []
        self.arrivals: list[Arrival] = []
        self.symbols: Registers = [None] * 11
        self.regs: tuple[int, ...] = ()
        self.elements: dict[int, tuple[LiveMap, bytes, Symbol | None]] = {}
        self._program, self._profile, self._sought = program, profile, sought
        self._goal = goal
        self._image, self._memory, self._script = image, image.memory, script
        self._code: Mapping[int, Insn] = dict(zip(pcs(program.insns), program.insns, strict=True))
        self._callers: list[tuple[Registers, set[int], list[Span | None]]] = []
        self._bytes: dict[int, tuple[Symbol | Source | None, int]] = {}
        # The element of a map, or record, that a register points into or did: elements of one
        # map lie side by side, so that leaving one is no fault of the interpreter's.
        self._objects: list[Span | None] = [None] * 11
        self._spilled: dict[int, Span] = {}
        self._written: set[int] = {1, 10}
        self._stack_written: set[int] = set()
        self._stacks: list[Region] = []
        self._ctx = 0
        self._packet: Region | None = None
        self._packet_span: Span = (0, 0)
        self._packet_fields = frozenset(
            one.offset for one in profile.ctx_fields if one.holds in _PACKET_POINTERS
        )
        hidden = profile.packet.hidden_bytes if profile.packet is not None else 0
        self._shown = max(0, len(script.inputs.packet) - hidden)
        self._last: tuple[int, Insn, tuple[int, ...], int, int] | None = None
        self._held: set[int] = set()
        self._seen: tuple[tuple[int, ...], int, bytes, int] | None = None
        self._visits = 0
        self._steps = 0
        self.gone = False  # into another program, which is not looked at

    def __call__(self, program: Program, pc: int, regs: tuple[int, ...], depth: int) -> None:
        """The instruction at `pc` is about to be executed."""
        if self.gone or program is not self._program:
            self.gone = True
            return
        self._steps += 1
        if self._last is None:
            self._begin(regs)
        else:
            self._finish(pc, regs, depth)
        insn = self._code[pc]
        self.regs = regs
        if len(self.trace) < MAX_TRACE:
            self.trace.append(pc)
        self._last = (pc, insn, regs, depth, len(self._script.asked))
        if insn.spec.kind is Kind.JUMP and len(self.branches) < MAX_TRACE:
            self._branch(pc, insn, regs)
        if pc == self._goal and len(self.arrivals) < MAX_ARRIVALS:
            spans = tuple(self._span(value) for value in regs)
            index = len(self.trace) - 1
            self.arrivals.append(Arrival(index, regs, tuple(self.symbols), spans))
        self._look(pc, insn, regs, depth)

    def _span(self, addr: int) -> tuple[int, int]:
        region = self._memory.region_at(addr)
        return (0, 0) if region is None else (region.start, region.end)

    def _begin(self, regs: tuple[int, ...]) -> None:
        self._ctx = regs[1]
        regions = self._memory.regions()
        self._packet = next((one for one in regions if one.kind is RegionKind.PACKET), None)
        if self._packet is not None:
            # Not its region's: an empty packet's has one byte.
            self._packet_span = (self._packet.start, self._packet.start + self._shown)
        stacks = [one for one in regions if one.kind is RegionKind.STACK]
        self._stacks = sorted(stacks, key=lambda one: one.name)

    def _branch(self, pc: int, insn: Insn, regs: tuple[int, ...]) -> None:
        op = insn.spec.op
        assert isinstance(op, JmpOp)
        by_register = insn.spec.operand is Operand.X
        self.branches.append(
            Branch(
                len(self.trace) - 1,
                pc,
                op,
                insn.spec.width,
                self.symbols[insn.dst],
                self.symbols[insn.src] if by_register else None,
                regs[insn.dst],
                regs[insn.src] if by_register else insn.imm & U64,
            )
        )

    # What the last instruction did.

    def _finish(self, pc: int, regs: tuple[int, ...], depth: int) -> None:
        assert self._last is not None
        _, insn, before, was, asked = self._last
        kind, symbols = insn.spec.kind, self.symbols
        if depth > was:
            self._enter(kind)
        elif depth < was:
            self._leave(regs)
        elif kind is Kind.ALU:
            symbols[insn.dst] = self._computed(insn, before, regs)
            self._objects[insn.dst] = self._moved(insn)
            self._written.add(insn.dst)
        elif kind in _LOADS:
            addr = (before[insn.src] + insn.off) & U64
            size = int(insn.spec.size or 8)
            symbols[insn.dst] = self._loaded(addr, size, kind is Kind.LDSX, regs[insn.dst])
            self._objects[insn.dst] = self._spilled.get(addr) if size == 8 else None
            if self._packet is not None and addr - self._ctx in self._packet_fields:
                self._objects[insn.dst] = self._packet_span
            self._written.add(insn.dst)
        elif kind in _STORES:
            value = None if kind is Kind.ST else symbols[insn.src]
            addr = (before[insn.dst] + insn.off) & U64
            self._store(addr, int(insn.spec.size or 8), value)
            span = None if kind is Kind.ST else self._objects[insn.src]
            if span is not None and insn.spec.size == 8:
                self._spilled[addr] = span
        elif kind is Kind.ATOMIC:
            self._atomic(insn, before, regs)
        elif kind is Kind.CALL:
            self._called(insn, before, regs, asked)
        elif kind is Kind.LDDW:
            symbols[insn.dst] = self._objects[insn.dst] = None
            self._written.add(insn.dst)
            self._named(insn, regs[insn.dst])
        elif kind in (Kind.LD_ABS, Kind.LD_IND):
            symbols[0:6] = [None] * 6
            self._objects[0:6] = [None] * 6
            self._written.add(0)
            self._written -= {1, 2, 3, 4, 5}
        elif kind is Kind.EXIT:  # another round of a callback
            self.symbols = [None] * 11
            self._objects = [None] * 11
            self._written = {1, 2, 3, 4, 5, 10}

    def _enter(self, kind: Kind) -> None:
        self._callers.append((self.symbols, self._written, self._objects))
        local = kind is Kind.CALL_LOCAL
        symbols, objects = self.symbols, self._objects
        self._objects = [objects[n] if local and 1 <= n <= 5 else None for n in _ALL]
        self.symbols = [symbols[n] if local and 1 <= n <= 5 else None for n in _ALL]
        given = self._written & {1, 2, 3, 4, 5} if local else {1, 2, 3, 4, 5}
        self._written = given | {10}
        frame = len(self._callers)
        if frame < len(self._stacks):
            region = self._stacks[frame]
            for addr in range(region.start, region.end):
                self._bytes.pop(addr, None)
                self._stack_written.discard(addr)

    def _leave(self, regs: tuple[int, ...]) -> None:
        result, had = self.symbols[0], 0 in self._written
        span = self._objects[0]
        self.symbols, self._written, self._objects = self._callers.pop()
        self._objects[0:6] = [span, None, None, None, None, None]
        if result is not None and result.value != regs[0]:
            result = None  # the helper's result, not its callback's
            had = True
        self.symbols[0:6] = [result, None, None, None, None, None]
        self._written -= {1, 2, 3, 4, 5}
        if had:
            self._written.add(0)
        else:
            self._written.discard(0)

    def _computed(
        self, insn: Insn, before: tuple[int, ...], regs: tuple[int, ...]
    ) -> Symbol | None:
        op, width = insn.spec.op, insn.spec.width
        assert isinstance(op, AluOp)
        register = insn.spec.operand is Operand.X
        b = self.symbols[insn.src] if register else None
        bv = before[insn.src] if register else insn.imm & U64
        if op is AluOp.MOV or op.name.startswith("MOVSX"):
            if b is None or (op is AluOp.MOV and width == 64):
                return b
            return Symbol(regs[insn.dst], op=op, width=width, a=b, av=bv)
        a = self.symbols[insn.dst]
        if a is None and b is None:
            return None
        return Symbol(regs[insn.dst], op=op, width=width, a=a, av=before[insn.dst], b=b, bv=bv)

    def _moved(self, insn: Insn) -> Span | None:
        """The object that arithmetic leaves dst pointing into, or beside."""
        op = insn.spec.op
        register = insn.spec.operand is Operand.X
        if insn.spec.width != 64 or op not in (AluOp.MOV, AluOp.ADD, AluOp.SUB):
            return None
        other = self._objects[insn.src] if register else None
        return other if op is AluOp.MOV else self._objects[insn.dst] or other

    def _atomic(self, insn: Insn, before: tuple[int, ...], regs: tuple[int, ...]) -> None:
        addr = (before[insn.dst] + insn.off) & U64
        size = int(insn.spec.size or 8)
        target = 0 if insn.spec.op is AtomicOp.CMPXCHG else insn.src
        fetches = insn.spec.op is AtomicOp.CMPXCHG or insn.spec.op in FETCHES
        old = self._loaded(addr, size, False, regs[target]) if fetches else None
        self._store(addr, size, None)
        if fetches:
            self.symbols[target] = old
            self._objects[target] = None
            self._written.add(target)

    def _named(self, insn: Insn, value: int) -> None:
        """An lddw of an address in a map's only value."""
        if insn.src == Pseudo.MAP_IDX_VALUE:
            spec = self._image.object.maps[insn.imm & 0xFFFF_FFFF]
            live = self._image.maps[spec.name]
            if isinstance(live, LiveMap):
                start = value - (insn.imm >> 32)
                self.elements[start] = (live, bytes(spec.key_size), None)
                self._objects[insn.dst] = (start, start + spec.value_size)

    def _called(
        self, insn: Insn, before: tuple[int, ...], regs: tuple[int, ...], asked: int
    ) -> None:
        name = self._profile.helpers.get(insn.imm, "")
        helper = HELPERS.get(name)
        result: Symbol | None = None
        for number in range(asked, len(self._script.asked)):
            one = self._script.asked[number]
            result = Symbol(regs[0], source=Source("result", number=number))
            if one.size:
                # A reaped CQE goes to the third argument, a record is what is returned.
                elsewhere = regs[0] if name == "ringbuf_reserve" else before[3]
                self._fill(one.addr or elsewhere, one.size, number)
        if name == "map_lookup_elem":
            result = self._looked_up(before, regs[0])
        elif name == "ringbuf_reserve" and regs[0]:
            self._held.add(regs[0])
        elif name == "spin_lock":
            self._held.add(before[1])
        elif name in _RELEASES:
            self._held.discard(before[1])
        elif helper is not None:
            self._outputs(helper, before)
        if name in _PACKET_LOADS and regs[0] == 0:
            self._copied(before)
        if helper is not None and helper.moves_packet:
            self._packet_moved()
        self.symbols[0:6] = [result, None, None, None, None, None]
        self._objects[0:6] = [self._given(name, before, regs[0]), None, None, None, None, None]
        self._written -= {1, 2, 3, 4, 5}
        if helper is not None and helper.ret is RetType.VOID:
            self._written.discard(0)
        else:
            self._written.add(0)

    def _looked_up(self, before: tuple[int, ...], found: int) -> Symbol | None:
        live = self._memory.resolve(before[1])
        if not isinstance(live, LiveMap):
            return None
        size = live.spec.key_size
        region = self._memory.region_at(before[2])
        if region is None or before[2] + size > region.end:
            return None
        key = self._memory.read(before[2], size)
        symbol = self._loaded(before[2], size, False, int.from_bytes(key, "little"))
        if found:
            self.elements[found] = (live, key, symbol)
        source = Source("present", 0, live.spec.max_entries, 0, live.spec.name, key)
        is_array = live.spec.type in (MapType.ARRAY, MapType.PERCPU_ARRAY)
        return Symbol(found, source=source, a=symbol if is_array else None)

    def _copied(self, before: tuple[int, ...]) -> None:
        """Bytes of the packet, at the offset in r2, were copied to r3."""
        source = Source("packet", before[2] & 0xFFFF_FFFF, 0)
        for index in range(min(before[4] & 0xFFFF_FFFF, 4096)):
            self._bytes[before[3] + index] = (source, index)
            self._stack_written.add(before[3] + index)

    def _packet_moved(self) -> None:
        """A helper may have moved the packet: pointers into it lead nowhere."""
        frames = [self._objects, *(objects for _, _, objects in self._callers)]
        for objects in frames:
            for number, span in enumerate(objects):
                if span is self._packet_span:
                    objects[number] = _STALE
        for addr, span in self._spilled.items():
            if span is self._packet_span:
                self._spilled[addr] = _STALE

    def _given(self, name: str, before: tuple[int, ...], addr: int) -> Span | None:
        """The object that a helper returned a pointer to."""
        if not addr:
            return None
        if name == "ringbuf_reserve":
            return addr, addr + before[2]
        live = self._memory.resolve(before[1]) if name == "map_lookup_elem" else None
        return (addr, addr + live.spec.value_size) if isinstance(live, LiveMap) else None

    def _outputs(self, helper: Helper, before: tuple[int, ...]) -> None:
        """Memory that the helper fills counts as written; where its bytes come from is unknown."""
        for index, kind in enumerate(helper.args):
            if kind in _FILLED and index + 1 < len(helper.args):
                size = before[index + 2] & 0xFFFF_FFFF
                start = before[index + 1]
                for addr in range(start, start + min(size, 512)):
                    if addr not in self._bytes or helper.name not in _SCRIPTED_FILLS:
                        self._bytes[addr] = (None, 0)
                    self._stack_written.add(addr)

    # Memory.

    def _fill(self, addr: int, size: int, number: int) -> None:
        source = Source("answer", 0, size, number)
        for index in range(min(size, 4096)):
            self._bytes[addr + index] = (source, index)
            self._stack_written.add(addr + index)

    def _store(self, addr: int, size: int, value: Symbol | None) -> None:
        for near in range(addr - 7, addr + size):
            self._spilled.pop(near, None)
        for index in range(size):
            self._bytes[addr + index] = (value, index)
            self._stack_written.add(addr + index)

    def _loaded(self, addr: int, size: int, signed: bool, value: int) -> Symbol | None:
        parts = [self._bytes.get(addr + index) for index in range(size)]
        first = parts[0]
        if all(part is None for part in parts):
            return self._input(addr, size, signed, value)
        if first is None:
            return None
        origin, start = first
        if any(part != (origin, start + index) for index, part in enumerate(parts)):
            return None
        if isinstance(origin, Source):
            source = replace(origin, offset=origin.offset + start, size=size)
            return Symbol(value, source=source, signed=signed)
        if origin is None or start:
            return None
        if size == 8:
            return origin
        mask = (1 << 8 * size) - 1
        low = Symbol(origin.value & mask, op=AluOp.AND, a=origin, av=origin.value, bv=mask)
        if not signed:
            return low
        extend = {1: AluOp.MOVSX8, 2: AluOp.MOVSX16, 4: AluOp.MOVSX32}[size]
        return Symbol(value, op=extend, a=low, av=low.value)

    def _input(self, addr: int, size: int, signed: bool, value: int) -> Symbol | None:
        region = self._memory.region_at(addr)
        if region is None:
            return None
        offset = addr - region.start
        if region.kind is RegionKind.CTX:
            return self._ctx_input(offset, size, signed, value)
        if region.kind is RegionKind.PACKET:
            return Symbol(value, source=Source("packet", offset, size), signed=signed)
        if region.kind is RegionKind.MAP_VALUE:
            for start, (live, key, _) in self.elements.items():
                if start <= addr < start + live.spec.value_size:
                    source = Source("map", addr - start, size, 0, live.spec.name, key)
                    return Symbol(value, source=source, signed=signed)
        return None

    def _ctx_input(self, offset: int, size: int, signed: bool, value: int) -> Symbol | None:
        named = self._profile.ctx_field_named(offset, size, store=False)
        if named is not None and self._profile.ring is not None and named.holds in _OF_THE_RING:
            return None
        if named is not None and self._profile.packet is not None:
            if named.holds is CtxHolds.DATA_END:
                return Symbol(value, source=Source("length", offset=self._start()))
            if named.holds is CtxHolds.LENGTH:
                return Symbol(value, source=Source("length"))
            if named.holds not in _FROM_OUTSIDE:
                return None
        return Symbol(value, source=Source("ctx", offset, size), signed=signed)

    def _start(self) -> int:
        return self._packet.start if self._packet is not None else 0

    # What the sandbox stops at.

    def _look(self, pc: int, insn: Insn, regs: tuple[int, ...], depth: int) -> None:
        sought = self._sought
        if sought.uninit:
            for number in self._read_by(insn, depth):
                if number not in self._written:
                    raise self._trap(TrapKind.UNINIT_REGISTER, f"r{number}", pc, insn)
        self._look_at_memory(pc, insn, regs)
        if sought.held and self._held and depth == 0 and self._ends(insn):
            raise self._trap(TrapKind.HELD, "ring buffer record", pc, insn)
        if pc == sought.loop_pc:
            self._look_for_loop(pc, insn, regs, depth)

    def _ends(self, insn: Insn) -> bool:
        if insn.spec.kind is Kind.CALL:
            return self._profile.helpers.get(insn.imm) == "tail_call"
        return insn.spec.kind in (Kind.EXIT, Kind.LD_ABS, Kind.LD_IND)

    def _read_by(self, insn: Insn, depth: int) -> tuple[int, ...]:
        kind = insn.spec.kind
        if kind is Kind.ALU or kind is Kind.JUMP:
            operand = (insn.src,) if insn.spec.operand is Operand.X else ()
            moves = insn.spec.op is AluOp.MOV or str(insn.spec.op).startswith("AluOp.MOVSX")
            return operand if moves else (*operand, insn.dst)
        if kind in _LOADS:
            return (insn.src,)
        if kind is Kind.ST:
            return (insn.dst,)
        if kind in _STORES:
            return (insn.src, insn.dst)
        if kind is Kind.ATOMIC:
            compared = (0,) if insn.spec.op is AtomicOp.CMPXCHG else ()
            return (*compared, insn.src, insn.dst)
        if kind is Kind.EXIT:
            return (0,) if depth == 0 else ()
        if kind is Kind.CALL:
            helper = HELPERS.get(self._profile.helpers.get(insn.imm, ""))
            return tuple(range(1, 1 + len(helper.args))) if helper is not None else ()
        if kind is Kind.LD_IND:
            return (6, insn.src)
        return (6,) if kind is Kind.LD_ABS else ()

    def _look_at_memory(self, pc: int, insn: Insn, regs: tuple[int, ...]) -> None:
        for number, size, reads in self._accesses(insn, regs):
            addr = regs[number] + (insn.off if insn.spec.kind is not Kind.CALL else 0) & U64
            span = self._objects[number]
            if span is not None and size and not span[0] <= addr <= span[1] - size:
                name = self._memory.explain(addr)
                detail = f"{size} bytes at {addr - span[0]:+d} of {span[1] - span[0]} ({name})"
                raise self._trap(TrapKind.OUT_OF_BOUNDS, detail, pc, insn)
            if reads and self._sought.uninit_stack:
                self._look_at_stack(pc, insn, addr, size)

    def _look_at_stack(self, pc: int, insn: Insn, addr: int, size: int) -> None:
        for at in range(addr, addr + min(size, 512)):
            if at not in self._stack_written and self._on_stack(at):
                raise self._trap(TrapKind.UNINIT_STACK, f"stack byte {at:#x}", pc, insn)

    def _on_stack(self, addr: int) -> bool:
        return any(stack.start <= addr < stack.end for stack in self._stacks)

    def _accesses(self, insn: Insn, regs: tuple[int, ...]) -> tuple[tuple[int, int, bool], ...]:
        """(register, bytes, whether they are read) of the memory that the instruction reaches."""
        kind = insn.spec.kind
        size = int(insn.spec.size or 8)
        if kind in _LOADS:
            return ((insn.src, size, True),)
        if kind in _STORES:
            return ((insn.dst, size, False),)
        if kind is Kind.ATOMIC:
            return ((insn.dst, size, True),)
        helper = HELPERS.get(self._profile.helpers.get(insn.imm, ""))
        if kind is not Kind.CALL or helper is None:
            return ()
        live = self._memory.resolve(regs[1])
        found: list[tuple[int, int, bool]] = []
        for number, arg in enumerate(helper.args, 1):
            sized = regs[number + 1] & 0xFFFF_FFFF if number < 5 else 0
            if arg in _SIZED:
                found.append((number, sized, arg not in _FILLED))
            elif arg in _ELEMENTS and isinstance(live, LiveMap):
                is_key = arg is ArgType.PTR_TO_MAP_KEY
                size = live.spec.key_size if is_key else live.spec.value_size
                found.append((number, size, arg is not ArgType.PTR_TO_UNINIT_MAP_VALUE))
        return tuple(found)

    def _look_for_loop(self, pc: int, insn: Insn, regs: tuple[int, ...], depth: int) -> None:
        """Stop if everything is as it was when the path was here before, or the fuel is used up."""
        if self._steps > self._sought.fuel:
            raise self._trap(TrapKind.BUDGET, f"{self._steps} instructions", pc, insn)
        self._visits += 1
        if self._visits & (self._visits - 1):  # compare with visits number 1, 2, 4, 8, ...
            last = self._seen
            if last is None or (regs, depth, len(self._script.asked)) != (*last[:2], last[3]):
                return
            if self._content() == last[2]:
                raise self._trap(TrapKind.BUDGET, "nothing changed in a turn of a loop", pc, insn)
            return
        self._seen = (regs, depth, self._content(), len(self._script.asked))

    def _content(self) -> bytes:
        regions = (one for one in self._memory.regions() if one.kind is not RegionKind.HOST)
        return b"".join(self._memory.read(one.start, one.size) for one in regions if one.writable)

    def _trap(self, kind: TrapKind, detail: str, pc: int, insn: Insn) -> Trap:
        return Trap(
            kind,
            detail,
            pc=pc,
            program=self._program.name,
            insn=format_insn(insn, pc, style="kernel"),
            source=self._program.line_at(pc),
            regs=self.regs,
            insns=self._steps - 1,
        )


_FILLED = frozenset({ArgType.PTR_TO_UNINIT_MEM})
_SIZED = frozenset({ArgType.PTR_TO_MEM, ArgType.PTR_TO_MEM_OR_NULL, ArgType.PTR_TO_UNINIT_MEM})
_ELEMENTS = frozenset(
    {ArgType.PTR_TO_MAP_KEY, ArgType.PTR_TO_MAP_VALUE, ArgType.PTR_TO_UNINIT_MAP_VALUE}
)
_SCRIPTED_FILLS = frozenset(
    {"copy_from_user", "probe_read_user", "probe_read_kernel", "probe_read_user_str"}
    | {"probe_read_kernel_str", "iouring_reap_cqe", "io_uring_reap_cqe"}
)

"""What Python answers when compiled code asks: see `emitted.Ask`."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping, Sequence

from pybpfvm.bits import U64, s32, sign_extend
from pybpfvm.engine import PausedFrame
from pybpfvm.errors import TrapKind
from pybpfvm.helpers.context import TailCall
from pybpfvm.interrupts import breathe
from pybpfvm.isa.opcodes import FRAME_POINTER, REGISTERS, Kind
from pybpfvm.jit.emitted import Ask, Site
from pybpfvm.jit.frames import PauseReached, callers
from pybpfvm.jit.state import Slot
from pybpfvm.jit.stopping import Stopping
from pybpfvm.jit.unit import Unit
from pybpfvm.memory import FRAME_STRIDE, Region
from pybpfvm.runcontext import Stop

# Python is entered at least this often, so that signals and other threads get their turn.
SLICE_INSNS = 1 << 24

_LD_CONTEXT = 6


class Answers(Stopping):
    """Answers. `_stack` are the frames; `_beyond` are instructions of the budget that are not in
    the slice."""

    _stack: Sequence[Region]
    _beyond: int
    _tail_calls_left: int

    def _answer(self) -> int:
        """Answer the callout: 0 to go on behind it, or the address to go on at. May raise."""
        address = self._state.words[Slot.PC]
        unit = self._unit_at(address)
        site = unit.code.sites[address - unit.base]
        return _ANSWERS[site.ask](self, unit, site)

    def _on_fuel(self, unit: Unit, site: Site) -> int:
        breathe()
        words = self._state.words
        fuel = sign_extend(words[Slot.FUEL], 64) + site.count
        more = min(self._beyond, SLICE_INSNS)
        self._beyond -= more
        fuel += more
        words[Slot.FUEL] = fuel
        if fuel >= max(site.count, 1):
            return 0
        if fuel == 0 and self._pausing:
            astray = site.why[1] if site.why is not None else None
            innermost = PausedFrame(unit.program, site.pc, self._registers(), astray)
            raise PauseReached([innermost, *self._callers(words)])
        if fuel == 0:
            raise Stop(TrapKind.BUDGET, f"{self._budget} instructions")
        return self._rest(unit, site, fuel)

    def _rest(self, unit: Unit, site: Site, count: int) -> int:
        """Compile the first `count` instructions of the site's block, with a stop behind them;
        where that begins."""
        if not self._pieces:  # nothing is compiled behind a piece but pieces
            self._lasting_sites = self._state.sites()
        emitter = self._emitter(unit.program, unit.build)
        piece = Unit(unit.program, unit.build, emitter.emit_rest(site.index, count, site.edge))
        self._pieces.append(piece)
        return piece.base

    def _callers(self, words: Sequence[int]) -> Iterator[PausedFrame]:
        """Who called the function from which Python was asked or told, innermost first, up to
        where this code was entered. `words` are those of the state then."""
        return callers(
            words[Slot.STACK],
            self._state.words[Slot.SAVED_RSP],
            words[FRAME_POINTER],
            self._unit_at,
        )

    def _on_access(self, unit: Unit, site: Site) -> int:
        insn = unit.program.insns[site.index]
        region = self._accessed(insn)
        if region is not None and site.words and self._lets_in(region, insn, site):
            return 0
        self._do_access(insn)
        return unit.base + site.skip

    def _on_key(self, _: Unit, site: Site) -> int:
        addr = self._state.words[2]
        region = self.memory.check(addr, site.count, write=False)[0]
        self._state.set_site(site.words, region.start, region.size - site.count + 1)
        return 0

    def _on_refuse(self, _: Unit, site: Site) -> int:
        assert site.why is not None
        raise Stop(*site.why)

    def _on_hook(self, unit: Unit, site: Site) -> int:
        if self.hook is not None:
            self.hook(unit.program, site.pc, self._registers(), self._depth())
        return 0

    def _depth(self) -> int:
        """Frames above the outermost."""
        return (self._state.words[FRAME_POINTER] - self._stack[0].end) // FRAME_STRIDE

    def _on_packet(self, unit: Unit, site: Site) -> int:
        words = self._state.words
        insn = unit.program.insns[site.index]
        offset = insn.imm
        if insn.spec.kind is Kind.LD_IND:
            offset = s32(words[insn.src] + insn.imm)
        size = insn.spec.size
        assert size is not None
        value = self.load_packet(offset, size, words[_LD_CONTEXT])
        for number in range(1, 6):
            words[number] = 0
        words[0] = value or 0
        if value is not None:
            return 0
        words[Slot.EXIT_PC] = self._exit_pc_of(unit, site)
        return unit.base + site.skip

    def _exit_pc_of(self, unit: Unit, site: Site) -> int:
        """Where the exit counts as being, if the packet load that ends a function is the main's."""
        if not unit.build.check_return or self._depth():
            return self._state.words[Slot.EXIT_PC]
        return unit.base + unit.code.offsets[site.index]

    def _on_tail_call(self, unit: Unit, site: Site) -> int:
        words = self._state.words
        helper = self._helpers[unit.program.insns[site.index].imm]
        call = self._callees.setdefault(
            ("tail_call", True, True), self._wrapped(helper, checked=True, observed=True)
        )
        try:
            result: int = call(self, *words[1:6])  # type: ignore[operator]
        except TailCall as leaving:
            program = self.tail_target(leaving.program)
            if self._tail_calls_left:
                self._tail_calls_left -= 1
                target = self.unit(program)
                if self._recorder is not None:
                    self._recorder.ended(self._recorder.place(unit.program, site.pc))
                frame = words[FRAME_POINTER]
                for number in range(REGISTERS):
                    words[number] = 0
                words[FRAME_POINTER] = frame
                words[1] = self.ctx_addr
                return target.base + target.code.tail
            result = -errno.ELOOP & U64
        words[0] = result & U64
        for number in range(1, 6):
            words[number] = 0
        return 0


_ANSWERS: Mapping[Ask, Callable[[Answers, Unit, Site], int]] = {
    Ask.FUEL: Answers._on_fuel,
    Ask.ACCESS: Answers._on_access,
    Ask.REFUSE: Answers._on_refuse,
    Ask.TAIL_CALL: Answers._on_tail_call,
    Ask.PACKET: Answers._on_packet,
    Ask.HOOK: Answers._on_hook,
    Ask.KEY: Answers._on_key,
}

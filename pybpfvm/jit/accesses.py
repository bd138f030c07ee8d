"""Memory accesses that compiled code leaves to Python: let in for the next time, done here, or
stopped as the contract says.
"""

from __future__ import annotations

from pybpfvm.bits import U64, sign_extend
from pybpfvm.errors import InternalError
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import AtomicOp, Kind
from pybpfvm.isa.semantics import FETCHES
from pybpfvm.jit.emitted import Site
from pybpfvm.jit.state import Slot, State
from pybpfvm.memory import MemoryFault, Region, RegionKind
from pybpfvm.runcontext import RunContext

_ALIGNED = (Kind.ATOMIC, Kind.LOAD_ACQ, Kind.STORE_REL)
_LOADS = (Kind.LDX, Kind.LDSX, Kind.LOAD_ACQ)


class Accesses(RunContext):
    """A run whose registers lie in the words of a State: r0 to r10 first."""

    _state: State

    def _accessed(self, insn: Insn) -> Region | None:
        """The region that holds all of the access and allows it, None if there is none."""
        size = insn.spec.size
        assert size is not None
        loads = insn.spec.kind in _LOADS
        addr = self._address(insn)
        try:
            region, _, _ = self.memory.check(addr, size, write=not loads)
        except MemoryFault:
            return None
        return region

    def _address(self, insn: Insn) -> int:
        base = insn.src if insn.spec.kind in _LOADS else insn.dst
        return (self._state.words[Slot.REGS + base] + insn.off) & U64

    def _lets_in(self, region: Region, insn: Insn, site: Site) -> bool:
        """Note the range that the access may reach unasked; False if it must be done here."""
        size = insn.spec.size
        assert size is not None
        if insn.spec.kind in _ALIGNED and self._address(insn) % size:
            return False
        start, length = region.start, region.size - size + 1
        profile = self.environment.profile
        if region.kind is RegionKind.CTX and profile is not None:
            if profile.packet is not None:
                return False  # what the load gives need not be what lies there
            kind = insn.spec.kind
            store = kind not in _LOADS
            start, length = self._address(insn), 1
            if kind is Kind.ATOMIC:
                self._check_ctx(start, size, store=False, plain=True)
            self._check_ctx(start, size, store=store, plain=not store or kind is Kind.STX)
        self._state.set_site(site.words, start, length)
        return True

    def _do_access(self, insn: Insn) -> None:
        """Do what the instruction does to memory and registers, as the contract says. May raise."""
        words, spec = self._state.words, insn.spec
        size, kind = spec.size, spec.kind
        if size is None:
            raise InternalError(f"{spec.mnemonic} faulted, which touches no memory")
        addr = self._address(insn)
        if kind in (Kind.LDX, Kind.LDSX):
            value = self.load(addr, size)
            signed = kind is Kind.LDSX
            words[insn.dst] = (sign_extend(value, 8 * size) & U64) if signed else value
        elif kind is Kind.ST:
            self.store(addr, size, insn.imm & U64, plain=False)
        elif kind is Kind.STX:
            self.store(addr, size, words[insn.src], plain=True)
        elif kind is Kind.LOAD_ACQ:
            words[insn.dst] = self.load(self.aligned(addr, size), size)
        elif kind is Kind.STORE_REL:
            self.store(self.aligned(addr, size), size, words[insn.src], plain=False)
        elif kind is Kind.ATOMIC:
            old = self.atomic(insn, addr, words[insn.src], words[0])
            if spec.op in FETCHES:
                words[insn.src] = old
            elif spec.op is AtomicOp.CMPXCHG:
                words[0] = old
        else:
            raise InternalError(f"{spec.mnemonic} faulted")

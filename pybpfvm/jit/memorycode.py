"""Accesses to memory, checked as the build says.

Checked accesses compare with the words of their site: the range that passed the last time. What
is outside asks Python (`Ask.ACCESS`), which lets the range in, does the access itself or raises.
"""

from __future__ import annotations

from functools import lru_cache

from pybpfvm.bits import U32, U64
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import FRAME_POINTER, STACK_BYTES, Kind, Pseudo
from pybpfvm.isa.table import SPECS
from pybpfvm.jit.emitted import Ask, Constants, Site
from pybpfvm.jit.options import Checks
from pybpfvm.jit.templates import LOADS, STORES, STORES_IMM, Form, atomic
from pybpfvm.jit.thunks import BASE, BPF, Thunks
from pybpfvm.jit.writer import FAR, Writer
from pybpfvm.jit.x86 import (
    AE,
    CMP,
    LEA,
    MOV,
    NE,
    R10,
    R11,
    SUB,
    mov_imm,
    rm,
    rr,
    rx,
    rxd,
    s32,
)

_LOADS = frozenset({Kind.LDX, Kind.LDSX})
_ADD = SPECS["add64_x"]
# `op r11, [r12 + disp32]` without the displacement.
SUB_R11_STATE = rm(SUB, R11, BASE, 1 << 30)[:-4]
CMP_R11_STATE = rm(CMP, R11, BASE, 1 << 30)[:-4]


class MemoryCode(Writer):
    """Emits loads, stores, atomics and the addresses they begin with. `_fused` says how many of
    the next instructions have been emitted already, `_single` that none may be."""

    _image: Constants
    _thunks: Thunks
    _fused = 0
    _single = False

    def _lddw(self, insn: Insn) -> None:
        constant = insn.imm
        if insn.src != Pseudo.NONE:
            constant = self._image.constant(self._program, self._pc, insn) & U64
        fuses = self._index < self._block_last and not self._single
        fuses = fuses and self._program.insns[self._index + 1].spec is _ADD
        if not fuses or not self._fuse(insn, constant - self._thunks.base):
            self._code.data += mov_imm(BPF[insn.dst], constant)

    def _fuse(self, insn: Insn, disp: int) -> bool:
        """Emit the address `insn` loads, base + `disp`, together with the addition of a register
        behind it, if one follows; where nothing is checked, with the load from there as well."""
        insns, dst = self._program.insns, insn.dst
        add = insns[self._index + 1]
        if not s32(disp) or add.dst != dst or add.src in (dst, FRAME_POINTER):
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

    def _access(self, insn: Insn) -> None:
        """A load or store, checked as the build says."""
        data, off, size = self._code.data, insn.off, insn.spec.size
        assert size is not None
        base = insn.src if insn.spec.kind in _LOADS else insn.dst
        if not self._checked or (base == FRAME_POINTER and -STACK_BYTES <= off <= -size):
            data += _plain(insn.spec.mnemonic, insn.dst, insn.src, off, insn.imm)
        elif base == FRAME_POINTER:
            # Beside the frame; another may lie there, which Python then accesses.
            site = self._ask(Ask.ACCESS)
            site.skip = len(data)
        elif self._exact:
            site, at = self._check(base, off)
            back = len(data)
            data += _plain(insn.spec.mnemonic, insn.dst, insn.src, off, insn.imm)
            self._finish_check(site, at, back)
        else:
            (prefix, opcode, wide, byte), reg, tail = form_of(insn)
            data += rm(LEA, R11, BPF[base], off, False)
            data += prefix + rx(opcode, reg, BASE, R11, wide, byte=byte) + tail

    def _check(self, base: int, off: int) -> tuple[Site, int]:
        """Compare the register `base` + `off` with the site's words; the jump for what does not
        pass. Of registers only r11 is changed."""
        data = self._code.data
        words = self._state.site()
        data += rm(LEA, R11, BPF[base], off) if off else rr(MOV, R11, BPF[base])
        start, length = words & U32, words + 8 & U32
        data += SUB_R11_STATE + start.to_bytes(4, "little")
        data += CMP_R11_STATE + length.to_bytes(4, "little") + FAR[AE]
        return self._site(Ask.ACCESS, words), len(data) - 4

    def _finish_check(self, site: Site, at: int, back: int, again: bytes = b"") -> None:
        """The stub of a check; `again` is what must be done once more, for Python has used r10."""
        site.skip = len(self._code.data)
        self._asked.append((at, site, again, back))

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
        self._asked.append((at, self._site(Ask.ACCESS), b"", None))


def form_of(insn: Insn) -> tuple[Form, int, bytes]:
    """How a load or store is encoded: its form, the register that goes there, and what follows."""
    size, kind = insn.spec.size, insn.spec.kind
    assert size is not None
    if kind in _LOADS:
        return LOADS[size, kind is Kind.LDSX], BPF[insn.dst], b""
    if kind is Kind.STX:
        return STORES[size], BPF[insn.src], b""
    form, bytes_ = STORES_IMM[size]
    return form, 0, (insn.imm & ((1 << 8 * bytes_) - 1)).to_bytes(bytes_, "little")


@lru_cache(maxsize=1 << 14)
def _plain(mnemonic: str, dst: int, src: int, off: int, imm: int) -> bytes:
    """A load or store that goes where its pointer says."""
    insn = Insn(SPECS[mnemonic], dst, src, off, imm)
    (prefix, opcode, wide, byte), reg, tail = form_of(insn)
    base = src if insn.spec.kind in _LOADS else dst
    return prefix + rm(opcode, reg, BPF[base], off, wide, byte=byte) + tail

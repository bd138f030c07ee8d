"""IR of accesses to memory, checked as the build says."""

from __future__ import annotations

from collections.abc import Callable

from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import (
    FRAME_POINTER,
    STACK_BYTES,
    AtomicOp,
    Kind,
)
from pybpfvm.isa.semantics import FETCHES
from pybpfvm.jit.emitted import Ask
from pybpfvm.jit.llvm.arithmetic import ATOMIC
from pybpfvm.jit.llvm.irparts import LIKELY, PROGRAM, STATE
from pybpfvm.jit.llvm.irwriter import IrWriter
from pybpfvm.jit.llvm.liveness import Block
from pybpfvm.jit.options import Checks
from pybpfvm.jit.state import SITE_BYTES


class IrMemory(IrWriter):
    """Emits loads, stores and atomics."""

    def _load(self, insn: Insn, _: Block) -> None:
        size = _size(insn)
        signed = insn.spec.kind is Kind.LDSX
        ordered = " acquire" if insn.spec.kind is Kind.LOAD_ACQ else ""
        atomic = " atomic" if ordered else ""

        def access(pointer: str) -> str:
            align = size if ordered else 1
            value = self.new(
                f"load{atomic}{self._volatile} i{8 * size}, ptr {pointer}{ordered}, align {align}"
                f"{PROGRAM}{self._at()}"
            )
            if size == 8:
                return value
            return self.new(f"{'sext' if signed else 'zext'} i{8 * size} {value} to i64")

        value = self._access(insn.src, insn.off, size, access, aligned=bool(ordered))
        self._set(insn.dst, value)

    def _store(self, insn: Insn, _: Block) -> None:
        size = _size(insn)
        ordered = " release" if insn.spec.kind is Kind.STORE_REL else ""
        atomic = " atomic" if ordered else ""
        value = str(insn.imm) if insn.spec.kind is Kind.ST else self._get(insn.src)

        def access(pointer: str) -> str:
            low = self._narrow(value, size)
            self._line(
                f"store{atomic}{self._volatile} i{8 * size} {low}, ptr {pointer}{ordered}, "
                f"align {size if ordered else 1}{PROGRAM}{self._at()}"
            )
            return "0"

        self._access(insn.dst, insn.off, size, access, aligned=bool(ordered))

    def _narrow(self, value: str, size: int) -> str:
        """The low bytes of a 64-bit value."""
        bits = 8 * size
        if bits == 64:
            return value
        if value[0] != "%":
            number = int(value) & ((1 << bits) - 1)
            return str(number - (1 << bits) if number >> (bits - 1) else number)
        return self.new(f"trunc i64 {value} to i{bits}")

    def _atomic(self, insn: Insn, _: Block) -> None:
        size, op = _size(insn), insn.spec.op
        kind = f"i{8 * size}"
        src, r0 = self._get(insn.src), self._get(0) if op is AtomicOp.CMPXCHG else "0"
        assert isinstance(op, AtomicOp)

        def access(pointer: str) -> str:
            value = self._narrow(src, size)
            if op is AtomicOp.CMPXCHG:
                wanted = self._narrow(r0, size)
                pair = self.new(
                    f"cmpxchg{self._volatile} ptr {pointer}, {kind} {wanted}, {kind} {value} "
                    f"seq_cst seq_cst, align {size}{PROGRAM}{self._at()}"
                )
                old = self.new(f"extractvalue {{ {kind}, i1 }} {pair}, 0")
            else:
                old = self.new(
                    f"atomicrmw{self._volatile} {ATOMIC[op]} ptr {pointer}, {kind} {value} "
                    f"seq_cst, align {size}{PROGRAM}{self._at()}"
                )
            return old if size == 8 else self.new(f"zext {kind} {old} to i64")

        old = self._access(insn.dst, insn.off, size, access, aligned=True)
        if op in FETCHES:
            self._set(insn.src, old)
        elif op is AtomicOp.CMPXCHG:
            self._set(0, old)

    def _access(
        self, base: int, off: int, size: int, access: Callable[[str], str], *, aligned: bool
    ) -> str:
        """Access memory at the register `base` + `off`, checked as the build says; its value."""
        in_frame = base == FRAME_POINTER and -STACK_BYTES <= off <= -size
        if in_frame and not (aligned and off % size):
            return access(self._pointer(self._address(base, off)))
        if self._checks is Checks.NONE:
            return access(self._pointer(self._address(base, off)))
        if base == FRAME_POINTER and not aligned:
            return self._ask(Ask.ACCESS)
        address = self._address(base, off)
        if self._checks is Checks.EXACT:
            return self._access_checked(address, size, access, aligned=aligned)
        low = self.new(f"trunc i64 {address} to i32")
        offset = self.new(f"zext i32 {low} to i64")
        pointer = self.new(f"getelementptr i8, ptr %base, i64 {offset}")
        if not aligned or size == 1:
            return access(pointer)
        return self._guarded(self._is_aligned(offset, size), -1, lambda: access(pointer))

    def _address(self, base: int, off: int) -> str:
        value = self._get(base)
        return self.new(f"add i64 {value}, {off}") if off else value

    def _pointer(self, address: str) -> str:
        return self.new(f"inttoptr i64 {address} to ptr")

    def _access_checked(
        self, address: str, size: int, access: Callable[[str], str], *, aligned: bool
    ) -> str:
        """Python is asked unless the address lies in the range that passed the last time."""
        site = self._sites
        passes = self._in_site(address)
        if aligned and size > 1:
            passes = self.new(f"and i1 {passes}, {self._is_aligned(address, size)}")
        return self._guarded(passes, site, lambda: access(self._pointer(address)))

    def _in_site(self, address: str) -> str:
        """Whether the address lies in the range of a new site."""
        site = self._sites
        self._sites += 1
        at = self.new(f"getelementptr i8, ptr %sites, i64 {SITE_BYTES * site}")
        start = self.new(f"load i64, ptr {at}{STATE}")
        at = self.new(f"getelementptr i8, ptr %sites, i64 {SITE_BYTES * site + 8}")
        length = self.new(f"load i64, ptr {at}{STATE}")
        offset = self.new(f"sub i64 {address}, {start}")
        return self.new(f"icmp ult i64 {offset}, {length}")

    def _is_aligned(self, address: str, size: int) -> str:
        low = self.new(f"and i64 {address}, {size - 1}")
        return self.new(f"icmp eq i64 {low}, 0")

    def _guarded(self, passes: str, site: int, access: Callable[[], str]) -> str:
        """Do the access if it passes, have Python do it if not; its value."""
        number = len(self._places)
        operands = self._operands(self._place(Ask.ACCESS, site=site))
        does, asks, goes = self._fresh(), self._fresh(), self._fresh()
        self._line(f"br i1 {passes}, label %{does}, label %{asks}{LIKELY}")
        self._line(f"{asks}:")
        answer = self.new(f"{self._asking(number, operands)} #1")
        self._line(f"br label %{goes}")
        self._line(f"{does}:")
        value = access()
        self._line(f"br label %{goes}")
        self._begin_label(goes)
        if value == "0":  # a store
            return value
        return self.new(f"phi i64 [{value}, %{does}], [{answer}, %{asks}]")


def _size(insn: Insn) -> int:
    assert insn.spec.size is not None
    return int(insn.spec.size)

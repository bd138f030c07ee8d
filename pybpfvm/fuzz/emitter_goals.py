"""What programs should make the emitters of engines emit, and what of it none has yet: each row
right behind each row, and the extremes of each row: registers, displacements, immediates.

A generator that prefers what is `left` is done after a few hundred programs.
"""

from __future__ import annotations

from itertools import pairwise, product

from pybpfvm.isa.insn import Insn, InsnSpec
from pybpfvm.isa.opcodes import FRAME_POINTER, STACK_BYTES, Kind, Operand, Pseudo
from pybpfvm.isa.table import TABLE
from pybpfvm.program import Program

LOADS = (Kind.LDX, Kind.LDSX, Kind.LOAD_ACQ)
ALIGNED = frozenset({Kind.LOAD_ACQ, Kind.STORE_REL, Kind.ATOMIC})
ACCESSES = ALIGNED | {Kind.LDX, Kind.LDSX, Kind.ST, Kind.STX}
# Where x86 displacements change their form, and the ends of what BPF encodes.
EDGE_OFFSETS = (0, 1, -1, 8, -8, 127, 128, -128, -129, 255, -256, 4095, -4096, 32767, -32768)
# Where x86 immediates change their form, the ends, and shift counts beside the width.
_EDGE_IMMS = (0, 1, -1, 31, 32, 63, 64, 127, 128, -128, -129, (1 << 31) - 1, -(1 << 31))
_EDGE_WORDS = tuple(number % (1 << 64) for number in (*_EDGE_IMMS, 1 << 31, 1 << 32, 1 << 63))
_WRITABLE = range(FRAME_POINTER)
_READABLE = range(FRAME_POINTER + 1)

Extreme = tuple[str, int, int]  # what it is of, and one or two numbers


def extremes(spec: InsnSpec) -> list[Extreme]:
    """All of a row."""
    kind, size = spec.kind, spec.size
    if kind in (Kind.ALU, Kind.JUMP):
        changed = _WRITABLE if kind is Kind.ALU else _READABLE
        if spec.operand is Operand.X:
            return [("registers", dst, src) for dst, src in product(changed, _READABLE)]
        imms = _EDGE_IMMS if spec.operand is Operand.K else ()
        return [*(("dst", dst, 0) for dst in changed), *(("imm", imm, 0) for imm in imms)]
    if kind is Kind.LDDW:
        found = [("dst", dst, 0) for dst in _WRITABLE]
        return [*found, *(("imm", word, 0) for word in _EDGE_WORDS)]
    if kind not in ACCESSES:
        return []
    assert size is not None
    found = [("address", base, off) for base, off in product(_WRITABLE, EDGE_OFFSETS)]
    on_stack = [off for off in EDGE_OFFSETS if -STACK_BYTES <= off <= -size]
    found += [("address", FRAME_POINTER, off) for off in on_stack if not _unaligned(spec, off)]
    if kind in ALIGNED and size > 1:
        found.append(("unaligned", 0, 0))
    if kind is Kind.ST:
        return found + [("imm", imm, 0) for imm in _EDGE_IMMS]
    return found + [("value", register, 0) for register in _WRITABLE]


def shown(insn: Insn) -> list[Extreme]:
    """Those that an instruction is an example of, and more that are none."""
    spec = insn.spec
    if spec.kind in ACCESSES:
        loads = spec.kind in LOADS
        base, value = (insn.src, insn.dst) if loads else (insn.dst, insn.src)
        found = [("value", value, 0), ("imm", insn.imm, 0), ("address", base, insn.off)]
        if base == FRAME_POINTER and _unaligned(spec, insn.off):
            found[-1] = ("unaligned", 0, 0)
        return found
    if spec.kind is Kind.LDDW and insn.src != Pseudo.NONE:
        return [("dst", insn.dst, 0)]
    return [("registers", insn.dst, insn.src), ("dst", insn.dst, 0), ("imm", insn.imm, 0)]


def _unaligned(spec: InsnSpec, off: int) -> bool:
    return spec.kind in ALIGNED and spec.size is not None and off % spec.size != 0


class Goals:
    """What is left: `behind` names by row the rows that were not yet right behind it, `extremes`
    by row its own. Dictionaries stand for sets in order."""

    def __init__(self) -> None:
        names = [spec.mnemonic for spec in TABLE]
        self.behind = {name: dict.fromkeys(names) for name in names}
        self.extremes = {spec.mnemonic: dict.fromkeys(extremes(spec)) for spec in TABLE}

    @property
    def left(self) -> int:
        """How many pairs and extremes."""
        pairs = sum(len(left) for left in self.behind.values())
        return pairs + sum(len(left) for left in self.extremes.values())

    def note(self, program: Program) -> None:
        """A program was made: what it shows is no longer left."""
        for insn in program.insns:
            for extreme in shown(insn):
                self.extremes[insn.spec.mnemonic].pop(extreme, None)
        for first, second in pairwise(program.insns):
            self.behind[first.spec.mnemonic].pop(second.spec.mnemonic, None)

    def of(self, spec: InsnSpec, what: str) -> list[Extreme]:
        """The extremes of a row that are left, of one sort."""
        return [extreme for extreme in self.extremes[spec.mnemonic] if extreme[0] == what]

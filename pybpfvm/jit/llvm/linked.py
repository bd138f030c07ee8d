"""Helpers as bytecode of our own, in the IR of the programs that call them: LLVM inlines what pays.

What the JIT calls as machine code (`pybpfvm.jit.natives`) is a function of the same module here.
"""

from __future__ import annotations

from functools import cache

from pybpfvm.isa.codec import decode, pcs, target_pc
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import Kind, Pseudo
from pybpfvm.jit.bytecode import binary
from pybpfvm.jit.emitted import Build
from pybpfvm.jit.llvm.ir import IrEmitter
from pybpfvm.jit.llvm.irparts import Linked, Lookup
from pybpfvm.jit.natives import ENTRIES, Natives
from pybpfvm.jit.options import Checks
from pybpfvm.program import Program


class _Constants:
    """Stands for an image: the bytecode names nothing but its own functions."""

    def constant(self, _program: Program, _pc: int, insn: Insn) -> int:
        return 0 if insn.src == Pseudo.FUNC else insn.imm


@cache
def _functions() -> tuple[str, dict[str, tuple[str, list[int]]]]:
    """The IR of all of them; by name the symbol and the registers it takes."""
    insns = decode(binary("maps").read_bytes(), where="maps.bin")
    program = Program("maps", "", insns)
    emitter = IrEmitter(program, _Constants(), {}, Build(Checks.NONE, fuel=False), prefix="maps_")
    starts = [
        target_pc(insn, pc)
        for pc, insn in zip(pcs(insns), insns, strict=True)
        if insn.spec.kind is Kind.LDDW and insn.src == Pseudo.FUNC
    ]
    known = {
        name: emitter.function(pc)
        for name, pc in zip(ENTRIES, starts, strict=True)
        if pc is not None
    }
    return emitter.functions(), known


def linked(natives: Natives) -> Linked:
    """What IrEmitter links with."""
    text, known = _functions()

    def lookup(handle: int) -> Lookup | None:
        found = natives.lookup(handle)
        if found is None:
            return None
        stands_for, address, key_bytes = found
        return Lookup(stands_for, *known[natives.entry(address)], key_bytes)

    return Linked(text, lookup)

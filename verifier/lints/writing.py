"""Keeping up with what a program stores on its stack (`stores`)."""

from __future__ import annotations

from dataclasses import replace

from pybpfvm.isa.opcodes import STACK_BYTES, Kind
from pybpfvm.verifier.domains.scalar import Scalar
from pybpfvm.verifier.lints.site import Site, stack_place
from pybpfvm.verifier.lints.stores import Stored
from pybpfvm.verifier.states.regstate import Reg, RegType, scalar, unknown


def stored(site: Site) -> None:
    """A store, or an atomic operation, on the stack."""
    insn = site.insn
    if insn.spec.kind is Kind.ATOMIC:
        value = unknown(site.pc)
    elif insn.spec.kind is Kind.ST:
        value = scalar(Scalar.const(insn.imm), site.pc)
    else:
        value = site.regs[insn.src]
    _write(site, site.regs[insn.dst], insn.off, int(insn.spec.size or 8), value)


def filled(site: Site, memory: Reg, size: Reg) -> None:
    """A helper writes to memory of the program."""
    if memory.type is RegType.PTR_TO_STACK and size.type is RegType.SCALAR_VALUE:
        _write(site, memory, 0, min(size.var.umax, STACK_BYTES), unknown(site.pc))


def returned(site: Site) -> None:
    """A function that was called, or a callback, ends."""
    left = site.notes.stores.above(site.state.frame.number)
    site.notes = replace(site.notes, stores=left)


def _write(site: Site, pointer: Reg, off: int, size: int, value: Reg) -> None:
    stores = site.notes.stores
    place = stack_place(site.state, pointer)
    if place is None:
        stores = stores.unknown(pointer.frame)
    else:
        stores = stores.with_(Stored(pointer.frame, place[1] + off, size, value))
    site.notes = replace(site.notes, stores=stores)

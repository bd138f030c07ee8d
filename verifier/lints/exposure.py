"""Pointers of the kernel's that a program gives to user space."""

from __future__ import annotations

from pybpfvm.isa.opcodes import Kind
from pybpfvm.program import BPF_F_MMAPABLE
from pybpfvm.verifier.lints.site import Site, stack_place
from pybpfvm.verifier.states import stack
from pybpfvm.verifier.states.regstate import Reg, RegType
from pybpfvm.verifier.verdict import Rule

_NOT_POINTERS = frozenset({RegType.SCALAR_VALUE, RegType.NOT_INIT})
_SQE_BYTES = 64


def submitted(site: Site) -> None:
    """An SQE: all its bytes are seen by user space, one way or other."""
    _memory(site, site.regs[2], _SQE_BYTES, "an SQE")


def emitted(site: Site) -> None:
    """user_data, res and flags of a CQE."""
    for number, what in ((3, "user_data"), (4, "res"), (5, "flags")):
        if site.regs[number].type not in _NOT_POINTERS:
            _warn(site, site.regs[number], f"the {what} of a CQE")


def copied(site: Site, memory: Reg, size: Reg) -> None:
    """The program's memory goes to user memory."""
    if size.type is RegType.SCALAR_VALUE:
        _memory(site, memory, min(size.var.umax, 512), "user memory")


def stored(site: Site) -> None:
    """A store to a map value: one that user space maps or writes is shared with it."""
    spec = site.regs[site.insn.dst].map
    if spec is None or site.insn.spec.kind is Kind.ST:
        return
    value = site.regs[site.insn.src]
    shared = site.contract is not None and spec.name in site.contract.user_writes
    if value.type not in _NOT_POINTERS and (shared or spec.flags & BPF_F_MMAPABLE):
        _warn(site, value, f"map {spec.name}, which user space sees")


def stored_in_context(site: Site) -> None:
    """A store to memory of the request, which is the host's."""
    value = site.regs[site.insn.src]
    if site.insn.spec.kind is not Kind.ST and value.type not in _NOT_POINTERS:
        _warn(site, value, "memory of the request, which user space sees")


def _memory(site: Site, memory: Reg, size: int, what: str) -> None:
    place = stack_place(site.state, memory)
    if place is None or not size:
        return
    found = stack.spilled_pointer(place[0], place[1], size)
    if found is not None:
        _warn(site, found, what)


def _warn(site: Site, pointer: Reg, what: str) -> None:
    site.warn(
        Rule.POINTER_EXPOSED,
        f"a pointer ({pointer.type.value}) is stored into {what}",
        "user space learns where the kernel's memory lies, and a request takes it for an "
        "address of user memory",
        "give an index or a user address instead",
    )

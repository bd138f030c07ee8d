"""Functions of the kernel that an object calls (`extern ... __ksym`): their ids in its BTF.

A call is resolved when the object is loaded, as kernels want it: src KFUNC, the BTF id in the
immediate. A weak function that the target does not have is never to be called: its call becomes
one of a helper that no kernel has, so that a verifier refuses a path that reaches it.
"""

from __future__ import annotations

from dataclasses import replace

from pybpfvm.btf.types import Btf, BtfKind
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import Kind
from pybpfvm.isa.table import SPECS
from pybpfvm.loader.elf import STB_WEAK, Symbol
from pybpfvm.loader.target import TargetBtf
from pybpfvm.program import POISON_KFUNC

# The section that BTF puts functions and variables of the kernel into.
_KSYMS = ".ksyms"
_SPECS_BY_KIND = {spec.kind: spec for spec in SPECS.values()}


class KernelFunctions:
    """Resolves calls of an object's extern functions. `btf`: the object's own."""

    def __init__(self, btf: Btf | None, target: TargetBtf) -> None:
        self._btf = btf
        self._target = target

    def declared(self, name: str) -> bool:
        """Whether the object's BTF says that this is a function of the kernel."""
        if self._btf is None or self._btf.find(_KSYMS, BtfKind.DATASEC) is None:
            return False
        return self._btf.find(name, BtfKind.FUNC) is not None

    def resolved(self, insn: Insn, symbol: Symbol) -> Insn | None:
        """The call with the function's id in it; None where the target does not have it."""
        if not self.declared(symbol.name):
            return None
        btf = self._target(symbol.name)
        essential = symbol.name.partition("___")[0]
        found = btf.find(essential, BtfKind.FUNC) if btf is not None else None
        if found is not None:
            return replace(insn, spec=_SPECS_BY_KIND[Kind.CALL_KFUNC], off=0, imm=found)
        if symbol.binding == STB_WEAK:
            return replace(insn, spec=_SPECS_BY_KIND[Kind.CALL], off=0, imm=POISON_KFUNC)
        return None

"""What an object wants of the kernel (`extern ... __ksym`): functions to call, addresses to take.

All is resolved when the object is loaded, against the target's BTF, as kernels want it: a call gets
src KFUNC and the function's id, an lddw src BTF_ID and the id of the function or variable. One
without a type (`extern const void`) is a number to programs: its address, which only the running
kernel's list of symbols tells. What is declared weak may be missing: its address is 0, and a call
of it is one of a helper that no kernel has, so that a verifier refuses a path that reaches it.
Where the target is what is built in for rings, that is known only of what belongs to rings:
whatever else is not there may be in such a kernel all the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pybpfvm.btf.types import Btf, BtfKind, Datasec, Func, FuncProto, Fwd, Ptr, Var
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import Kind, Pseudo
from pybpfvm.isa.table import SPECS
from pybpfvm.loader.core_match import TypeMatcher
from pybpfvm.loader.elf import STB_WEAK, Symbol
from pybpfvm.loader.kallsyms import Kallsyms
from pybpfvm.loader.target import TargetBtf
from pybpfvm.program import POISON_KFUNC

# The section that BTF puts functions and variables of the kernel into.
_KSYMS = ".ksyms"
# What the built-in types of rings have all of.
_OF_RINGS = ("bpf_io_uring_", "io_uring_bpf_", "uring_bpf_", "bpf_iter_num_")
_NO_BTF = ", and there is no kernel's BTF to look in"
_SPECS_BY_KIND = {spec.kind: spec for spec in SPECS.values()}


def names_of_kernel(btf: Btf | None) -> Iterator[tuple[str, BtfKind]]:
    """Functions and variables that an object's types say to be the kernel's."""
    section = btf.find(_KSYMS, BtfKind.DATASEC) if btf is not None else None
    if btf is None or section is None:
        return
    datasec = btf.type(section)
    assert isinstance(datasec, Datasec)
    for variable in datasec.variables:
        named = btf.type(variable.type_id)
        if isinstance(named, Func | Var):
            yield named.name, named.kind


class KernelSymbols:
    """Resolves an object's references to the kernel. `btf`: the object's own. `symbols` are the
    target's, where it is the running kernel. `built_in`: the target is what is built in for rings.

    `functions` and `variables` are those that were found, by id in the target's BTF; `missing` are
    weak functions that were not, by the number that stands for a call of them.
    """

    def __init__(
        self,
        btf: Btf | None,
        target: TargetBtf,
        symbols: Kallsyms | None = None,
        *,
        built_in: bool = False,
    ) -> None:
        self._btf = btf
        self._of_kernel = frozenset(names_of_kernel(btf))
        self._target = target
        self._symbols = symbols
        self._built_in = built_in
        self.functions: dict[int, str] = {}
        self.variables: dict[int, str] = {}
        self.missing: dict[int, str] = {}
        self._numbers: set[str] = set()  # whose address is a number: those found, and missing ones

    @property
    def resolved(self) -> frozenset[str]:
        """Names that need nothing more."""
        known = (self.functions, self.variables, self.missing)
        return frozenset(name for names in known for name in names.values()) | self._numbers

    def call(self, insn: Insn, symbol: Symbol) -> Insn | str:
        """The call of a function; what it lacks, if it can not be made."""
        lacks = f"extern function {symbol.name}"
        if not self._declared(symbol.name, BtfKind.FUNC):
            return lacks
        known = self._target(symbol.name) is not None
        # A weak function of a kernel that nobody knows may be missing: to call it is to go wrong.
        unknown = 0 if symbol.binding == STB_WEAK else _NO_BTF
        found = self._find(symbol, BtfKind.FUNC) if known else unknown
        if isinstance(found, str):
            return lacks + found
        if found:
            return replace(insn, spec=_SPECS_BY_KIND[Kind.CALL_KFUNC], off=0, imm=found)
        if symbol.binding != STB_WEAK:
            return lacks
        return replace(insn, spec=_SPECS_BY_KIND[Kind.CALL], off=0, imm=self._missing(symbol.name))

    def address(self, insn: Insn, symbol: Symbol) -> Insn | str:
        """The lddw of an address; what it lacks, if it can not be had."""
        if self._declared(symbol.name, BtfKind.FUNC):
            kind, lacks = BtfKind.FUNC, f"extern function {symbol.name}"
        else:
            kind, lacks = BtfKind.VAR, f"extern variable {symbol.name}"
        if not self._declared(symbol.name, kind):
            return lacks
        if kind is BtfKind.VAR and self._untyped(symbol.name):
            found = self._untyped_address(symbol)
            if isinstance(found, str):
                return f"{lacks} without a type, {found}"
            self._numbers.add(symbol.name)
            return replace(insn, src=Pseudo.NONE, imm=found)
        found = self._find(symbol, kind)
        if isinstance(found, str):
            return lacks + found
        if found:
            return replace(insn, src=Pseudo.BTF_ID, imm=found)
        if symbol.binding != STB_WEAK:
            return lacks
        self._numbers.add(symbol.name)
        return replace(insn, src=Pseudo.NONE, imm=0)

    def _declared(self, name: str, kind: BtfKind) -> bool:
        """Whether the object's BTF says that this is of the kernel."""
        return (name, kind) in self._of_kernel

    def _untyped(self, name: str) -> bool:
        assert self._btf is not None
        found = self._btf.find(name, BtfKind.VAR)
        variable = self._btf.type(found) if found is not None else None
        return isinstance(variable, Var) and not self._btf.skip_modifiers(variable.type_id)

    def _untyped_address(self, symbol: Symbol) -> int | str:
        """Its address, 0 for a weak one that is not there; why it can not be told."""
        if self._symbols is None:
            return "whose address only a running kernel knows"
        found = self._symbols.addresses(symbol.name)
        if self._symbols.hidden:
            return f"whose address is not shown: {self._symbols.hidden}"
        if len(found) > 1:
            listed = ", ".join(f"{address:#x}" for address in sorted(found)[:4])
            return f"of which the kernel has {len(found)}, at {listed}"
        if not found and symbol.binding != STB_WEAK:
            return "which the running kernel does not have"
        return next(iter(found), 0)

    def _find(self, symbol: Symbol, kind: BtfKind) -> int | str:
        """Its id in the target's BTF, 0 where that does not have it; why it can not be told."""
        btf = self._target(symbol.name)
        if btf is None:
            return _NO_BTF
        # What follows ___ in a name is the object's own, to tell declarations apart.
        found = btf.find(symbol.name.partition("___")[0], kind)
        if found is None and self._built_in and not symbol.name.startswith(_OF_RINGS):
            return f", which the {btf.where} do not have (--btf FILE gives a kernel's)"
        if found is None:
            return 0
        assert self._btf is not None
        own = self._btf.find(symbol.name, kind)
        assert own is not None
        matcher = TypeMatcher(self._btf, btf)
        if not matcher.types_compatible(_typed(self._btf, own), _typed(btf, found)):
            return ", which has another type in the kernel" + _declared_only(self._btf, own)
        (self.functions if kind is BtfKind.FUNC else self.variables)[found] = symbol.name
        return found

    def _missing(self, name: str) -> int:
        """The number for calls of a weak function that is not there."""
        for number, known in self.missing.items():
            if known == name:
                return number
        number = POISON_KFUNC + len(self.missing)
        self.missing[number] = name
        return number


def _declared_only(btf: Btf, function: int) -> str:
    """Advice for a function that takes or returns pointers to what the object only declares."""
    proto = btf.type(_typed(btf, function))
    if not isinstance(proto, FuncProto):
        return ""
    for type_id in (proto.return_id, *(param.type_id for param in proto.params)):
        pointer = btf.type(btf.resolve(type_id))
        pointed = btf.type(btf.resolve(pointer.type_id)) if isinstance(pointer, Ptr) else None
        if isinstance(pointed, Fwd):
            return f" (it only declares struct {pointed.name}: write `struct {pointed.name} {{}};`)"
    return ""


def _typed(btf: Btf, id_: int) -> int:
    """The type of a function or variable."""
    found = btf.type(id_)
    assert isinstance(found, Func | Var)
    return found.type_id

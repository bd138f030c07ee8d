"""Types for programs in text: those of map values with fields of the kernel's, and of functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pybpfvm.btf.types import (
    Array,
    Btf,
    BtfType,
    Datasec,
    DeclTag,
    Func,
    FuncLinkage,
    FuncProto,
    Int,
    Member,
    Param,
    Ptr,
    SectionVar,
    Struct,
    TypeTag,
    Var,
    VarLinkage,
)
from pybpfvm.program import Program


def _struct(name: str, size: int, *members: tuple[str, int, int]) -> Struct:
    """Members are (name, type id, offset in bytes)."""
    return Struct(name, size, tuple(Member(n, type_id, at * 8) for n, type_id, at in members))


INT, LONG, SPIN_LOCK, LOCKED, BYTES, TIMER, TIMED = 1, 2, 3, 4, 5, 6, 7
_PROTO, STATIC, MAIN = 8, 9, 10
BSS = 13
# (variable, offset, size): count, guarded, tasks, seen.
_BSS = ((14, 0, 8), (15, 8, 16), (17, 24, 16), (21, 40, 8))
_PLAIN: list[BtfType] = [
    Int("int", 4, 32, signed=True),
    Int("long", 8, 64),
    _struct("bpf_spin_lock", 4, ("val", INT, 0)),
    _struct("locked", 64, ("count", LONG, 0), ("lock", SPIN_LOCK, 8), ("rest", BYTES, 16)),
    Array(LONG, INT, 6),
    _struct("bpf_timer", 16, ("__opaque", 11, 0)),
    _struct("timed", 64, ("count", LONG, 0), ("timer", TIMER, 16), ("rest", 12, 32)),
    FuncProto(INT, (Param("x", LONG), Param("y", LONG))),
    Func("sub", _PROTO, FuncLinkage.STATIC),
    Func("main", _PROTO, FuncLinkage.GLOBAL),
    Array(LONG, INT, 2),
    Array(LONG, INT, 4),
    # Variables of a section, from 13 on.
    Datasec(".bss", 48, tuple(SectionVar(*place) for place in _BSS)),
    Var("count", LONG, VarLinkage.GLOBAL),
    Var("guarded", 16, VarLinkage.GLOBAL),
    _struct("guarded", 16, ("before", LONG, 0), ("lock", SPIN_LOCK, 8)),
    Var("tasks", 18, VarLinkage.GLOBAL),
    Array(19, INT, 2),
    Ptr(20),
    TypeTag("kptr", 22),
    Var("seen", 23, VarLinkage.GLOBAL),
    _struct("task_struct", 8),
    Ptr(24),
    TypeTag("kptr_untrusted", 22),
    # Functions that are not static, or give nothing.
    Ptr(LONG),
    FuncProto(INT, (Param("memory", 25), Param("y", LONG))),
    Func("memory", 26, FuncLinkage.GLOBAL),
    _struct("__sk_buff", 4, ("len", INT, 0)),
    Ptr(28),
    FuncProto(INT, (Param("skb", 29),)),
    Func("context", 30, FuncLinkage.GLOBAL),
    FuncProto(0, ()),
    Func("nothing", 32, FuncLinkage.STATIC),
    Func("numbers", _PROTO, FuncLinkage.GLOBAL),
]


class Types:
    """A list of types, to which more are added."""

    def __init__(self, types: Sequence[BtfType]) -> None:
        self.all = list(types)

    def add(self, type: BtfType) -> int:
        """The id that the type gets."""
        self.all.append(type)
        return len(self.all)

    def pointer(self, tag: str, target: int) -> int:
        """A pointer whose target is tagged."""
        return self.add(Ptr(self.add(TypeTag(tag, target))))

    def holds(self, struct: int, member: int, value: str, node: str) -> None:
        """A member is the root of a collection of such nodes."""
        self.add(DeclTag(f"contains:{value}:{node}", struct, member))


def _with_objects(types: Types) -> dict[str, int]:
    """Structs of programs' own objects, and of map values that hold them, by name."""
    add, named = types.add, {}

    def struct(name: str, size: int, *members: tuple[str, int, int]) -> int:
        named[name] = add(_struct(name, size, *members))
        return named[name]

    wq = struct("bpf_wq", 16, ("__opaque", 11, 0))
    res_lock = struct("bpf_res_spin_lock", 4, ("val", INT, 0))
    three = add(Array(LONG, INT, 3))
    list_head = struct("bpf_list_head", 16, ("__opaque", 11, 0))
    list_node = struct("bpf_list_node", 24, ("__opaque", three, 0))
    rb_root = struct("bpf_rb_root", 16, ("__opaque", 11, 0))
    rb_node = struct("bpf_rb_node", 32, ("__opaque", 12, 0))
    refcount = struct("bpf_refcount", 4, ("__opaque", INT, 0))
    cpumask = struct("bpf_cpumask", 40, ("__opaque", 12, 0))
    plain = struct("my_plain", 16, ("a", LONG, 0), ("b", LONG, 8))
    struct("my_elem", 32, ("node", list_node, 0), ("data", LONG, 24))
    tree = struct("my_tree", 40, ("key", LONG, 0), ("rb", rb_node, 8))
    both = struct(
        "my_both",
        72,
        ("key", LONG, 0),
        ("rb", rb_node, 8),
        ("node", list_node, 40),
        ("ref", refcount, 64),
    )
    locked = struct(
        "my_locked",
        32,
        ("lock", SPIN_LOCK, 0),
        ("data", LONG, 8),
        ("head", list_head, 16),
    )
    types.holds(locked, 2, "my_elem", "node")
    struct("my_holder", 16, ("a", LONG, 0), ("inner", types.pointer("kptr", plain), 8))
    struct("my_big", 1024, ("a", add(Array(LONG, INT, 128)), 0))
    struct("my_pointer", 16, ("a", LONG, 0), ("p", 25, 8))
    struct(
        "kptrs",
        64,
        ("count", LONG, 0),
        ("seen", types.pointer("kptr_untrusted", 22), 8),
        ("held", types.pointer("kptr", 22), 16),
        ("own", types.pointer("kptr", plain), 24),
        ("each", types.pointer("percpu_kptr", plain), 32),
        ("mask", types.pointer("kptr", cpumask), 40),
        ("tree", types.pointer("kptr", tree), 48),
        ("both", types.pointer("kptr", both), 56),
    )
    struct("queued", 64, ("count", LONG, 0), ("work", wq, 16), ("rest", 12, 32))
    roots = struct(
        "roots",
        72,
        ("lock", SPIN_LOCK, 0),
        ("head", list_head, 8),
        ("root", rb_root, 24),
        ("mixed", list_head, 40),
        ("sorted", rb_root, 56),
    )
    types.holds(roots, 1, "my_elem", "node")
    types.holds(roots, 2, "my_tree", "rb")
    types.holds(roots, 3, "my_both", "node")
    types.holds(roots, 4, "my_both", "rb")
    struct("reslocked", 16, ("count", LONG, 0), ("lock", res_lock, 8))
    struct("my_twice", 56, ("a", list_node, 0), ("b", list_node, 24), ("key", LONG, 48))
    resroots = struct(
        "resroots", 48, ("lock", res_lock, 0), ("head", list_head, 8), ("twice", list_head, 24)
    )
    types.holds(resroots, 2, "my_twice", "b")
    types.holds(resroots, 1, "my_elem", "node")
    return named


_ALL = Types(_PLAIN)
STRUCTS = _with_objects(_ALL)
BTF = Btf.of(_ALL.all)
# Functions but the main one, by what the corpus calls them.
FUNCTIONS = {"static": STATIC, "memory": 27, "context": 31, "nothing": 33, "numbers": 34}
# Names of types of map values, for the corpus.
VALUES = {"locked": LOCKED, "timed": TIMED, "int": INT, "long": LONG, ".bss": BSS} | STRUCTS


def with_types(program: Program, *others: str) -> Program:
    """The program with types of its functions: those but the main one are as `others` say, in
    order; the last of them stands for all that follow."""
    kinds = others or ("static",)
    subprogs = []
    for number, sub in enumerate(program.subprogs):
        type_id = FUNCTIONS[kinds[min(number, len(kinds)) - 1]] if sub.start else MAIN
        func = BTF.type(type_id)
        is_global = isinstance(func, Func) and func.linkage is FuncLinkage.GLOBAL
        subprogs.append(replace(sub, btf_type_id=type_id, is_global=is_global and sub.start != 0))
    return replace(program, subprogs=tuple(subprogs))

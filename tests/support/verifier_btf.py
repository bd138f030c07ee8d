"""Types for programs in text: those of map values with fields of the kernel's, and of functions."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import replace

from pybpfvm.btf.types import (
    Array,
    Btf,
    Datasec,
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
from pybpfvm.program import Program, Subprog


def _struct(name: str, size: int, *members: tuple[str, int, int]) -> Struct:
    """Members are (name, type id, offset in bytes)."""
    return Struct(name, size, tuple(Member(n, type_id, at * 8) for n, type_id, at in members))


INT, LONG, SPIN_LOCK, LOCKED, BYTES, TIMER, TIMED = 1, 2, 3, 4, 5, 6, 7
_PROTO, STATIC, MAIN = 8, 9, 10
BSS = 13
# (variable, offset, size): count, guarded, tasks, seen.
_BSS = ((14, 0, 8), (15, 8, 16), (17, 24, 16), (21, 40, 8))
BTF = Btf.of(
    [
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
)
# Functions but the main one, by what the corpus calls them.
FUNCTIONS = {"static": STATIC, "memory": 27, "context": 31, "nothing": 33, "numbers": 34}
# Names of types of map values, for the corpus.
VALUES = {"locked": LOCKED, "timed": TIMED, "int": INT, "long": LONG, ".bss": BSS}


def with_types(program: Program, others: str = "static") -> Program:
    """The program with types of its functions: those but the main one are as `others` says."""
    others_id = FUNCTIONS[others]
    func = BTF.type(others_id)
    is_global = isinstance(func, Func) and func.linkage is FuncLinkage.GLOBAL
    subprogs = tuple(
        replace(sub, btf_type_id=MAIN)
        if sub.start == 0
        else replace(sub, btf_type_id=others_id, is_global=is_global)
        for sub in program.subprogs
    )
    return replace(program, subprogs=subprogs)


def func_info(subprogs: Sequence[Subprog]) -> bytes:
    """What tells the kernel the types of functions; none of those without one."""
    typed = [sub for sub in subprogs if sub.btf_type_id]
    return b"".join(struct.pack("=II", sub.start, sub.btf_type_id) for sub in typed)

"""Features without rules that no case of the corpus can have: those of kernels with other types
than the running one's, of maps that no kernel makes, of profiles of our own. Each is named, and
nothing is decided. And what is refused of such kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest

from pybpfvm.btf.types import (
    Array,
    Btf,
    BtfType,
    Enum,
    EnumValue,
    Func,
    FuncLinkage,
    FuncProto,
    Int,
    Member,
    Param,
    Ptr,
    Struct,
    Typedef,
    TypeTag,
)
from pybpfvm.fuzz.lines import subprogs_of
from pybpfvm.isa.asm import assemble
from pybpfvm.isa.opcodes import Pseudo
from pybpfvm.profiles import PROFILES
from pybpfvm.profiles.base import Profile
from pybpfvm.profiles.btf_typed import btf_typed_profile
from pybpfvm.profiles.mainline import MAINLINE_NAMES
from pybpfvm.program import BpfObject, MapSpec, MapType, Program, Subprog
from pybpfvm.verifier import environment
from pybpfvm.verifier.verdict import Accepted, Inconclusive, Rejected, Rule, Verdict
from pybpfvm.verifier.verify import Options, verify
from tests.support.verifier_btf import Types

_CALLS = {name: number for number, name in MAINLINE_NAMES.items()}
_TC = PROFILES["sched_cls"]
_VALUE = MapSpec("m", MapType.ARRAY, 4, 64, 1)


def _verdict(
    text: str,
    *maps: MapSpec,
    profile: Profile = _TC,
    section: str = "tc",
    target: Btf | None = None,
    btf: Btf | None = None,
) -> Verdict:
    """The verdict on a program of such an object, for a kernel with the types of `target`."""
    places = {spec.name: index for index, spec in enumerate(maps)}
    insns = assemble(text, calls=_CALLS, maps=places)
    program = Program("case", section, insns, subprogs=subprogs_of(insns), license="GPL")
    obj = BpfObject("case.o", "", (program,), maps, btf=btf, license="GPL")
    return verify(program, obj, profile, options=Options(target_btf=target))


def _feature(verdict: Verdict) -> str:
    """What an inconclusive verdict names."""
    assert isinstance(verdict, Inconclusive), verdict
    return verdict.finding.feature


def _rule(verdict: Verdict) -> Rule:
    assert isinstance(verdict, Rejected), verdict
    return verdict.errors[0].rule


# Kfuncs with other prototypes than the running kernel's.

_NAMED: dict[str, BtfType] = {
    "int": Int("int", 4, 32, signed=True),
    "array": Array(1, 1, 2),
    "dynptr": Struct("bpf_dynptr", 16, (Member("opaque", 2, 0),)),
}
_IDS = {name: number for number, name in enumerate(_NAMED, 1)}


@dataclass(frozen=True, slots=True)
class _Kfunc:
    """A kernel with one kfunc: parameters and result are names of types, or pointers to such
    ("int *"). It is called once `before` was executed; `more` types are the kernel's."""

    feature: str
    name: str
    params: Sequence[tuple[str, str]] = ()
    result: str = "int"
    before: str = ""
    more: Sequence[BtfType] = ()

    def verdict(self, after: str = "", btf: Btf | None = None) -> Verdict:
        """On a program that makes the call."""
        types = Types([*_NAMED.values(), *self.more])
        params = tuple(Param(name, _type(types, of)) for name, of in self.params)
        proto = types.add(FuncProto(_type(types, self.result), params))
        number = types.add(Func(self.name, proto, FuncLinkage.GLOBAL))
        text = f"{self.before}\n call kfunc {self.name}#{number}\n{after}\n r0 = 0\n exit"
        return _verdict(text, _VALUE, target=Btf.of(types.all), btf=btf)


def _type(types: Types, name: str) -> int:
    target, star, _ = name.partition(" *")
    return types.add(Ptr(_IDS[target])) if star else _IDS[target]


_STACK = "r1 = r10\n r1 += -16"
_CONTEXTS = (Enum("bpf_prog_type", 4, (EnumValue("BPF_PROG_TYPE_SCHED_CLS", 3),)),)
_KFUNCS = (
    _Kfunc("the kfunc bpf_strlen with 6 arguments", "bpf_strlen", [("a", "int")] * 6),
    _Kfunc("argument p__alloc of", "bpf_strlen", [("p__alloc", "int *")]),
    _Kfunc("argument a of the kfunc bpf_strlen", "bpf_strlen", [("a", "array")]),
    _Kfunc("the result of the kfunc bpf_strlen", "bpf_strlen", result="array"),
    _Kfunc(
        "values of a map where a kfunc takes the map",
        "bpf_strlen",
        [("m__map", "int *")],
        before="r1 = map[m][0]+0 ll",
    ),
    _Kfunc(
        "the dynptr that bpf_strlen makes", "bpf_strlen", [("p__uninit", "dynptr *")], before=_STACK
    ),
    _Kfunc(
        "in which nothing is cloned",
        "bpf_dynptr_clone",
        [("p__uninit", "dynptr *")],
        before=_STACK,
    ),
    _Kfunc("in which it takes no dynptr", "bpf_dynptr_slice", result="int *"),
    _Kfunc(
        "the iterator that bpf_iter_num_new takes",
        "bpf_iter_num_new",
        [("it", "int *")],
        before=_STACK,
    ),
    _Kfunc("elements of int without an iterator", "bpf_iter_num_next", result="int *"),
    _Kfunc("in which next takes none", "bpf_iter_num_next"),
    _Kfunc("that has bpf_ctx_convert", "bpf_cast_to_kern_ctx", [("obj", "int *")], "int *"),
    _Kfunc(
        "the kernel's context of sched_cls programs",
        "bpf_cast_to_kern_ctx",
        [("obj", "int *")],
        "int *",
        more=(*_CONTEXTS, Struct("bpf_ctx_convert", 8, (Member("BPF_PROG_TYPE_XDP_kern", 1, 0),))),
    ),
    _Kfunc(
        "own objects without the object's BTF",
        "bpf_obj_new_impl",
        [("id", "int")],
        "int *",
        "r1 = 1",
    ),
)


@pytest.mark.parametrize("kfunc", _KFUNCS, ids=lambda kfunc: kfunc.feature)
def test_kfuncs_of_other_kernels(kfunc: _Kfunc) -> None:
    assert kfunc.feature in _feature(kfunc.verdict())


def test_a_kfunc_that_takes_a_map_takes_nothing_else() -> None:
    kfunc = _Kfunc("", "bpf_strlen", [("m__map", "int *")])
    assert isinstance(replace(kfunc, before="r1 = map[m] ll").verdict(), Accepted)
    assert _rule(replace(kfunc, before=_STACK).verdict()) is Rule.KFUNC_ARG


_SIZES = """
  call get_prandom_u32
  r6 = {first}
  if r0 > 7 goto other
  goto join
  other: r6 = {second}
  join: call get_prandom_u32
  r1 = 1
  r2 = 2
  r3 = 3
  r4 = 4
  r5 = 5
  if r0 == 9 goto +0
  if r0 == 10 goto +0
  r1 = r6
"""


@pytest.mark.parametrize(
    ("first", "second", "rule"),
    [("64", "64", None), ("64", "32", Rule.MEM_ACCESS), ("64", "r0", Rule.KFUNC_ARG)],
)
def test_the_size_of_memory_that_a_kfunc_gives(first: str, second: str, rule: Rule | None) -> None:
    before = _SIZES.format(first=first, second=second)
    kfunc = _Kfunc("", "bpf_strlen", [("rdwr_buf_size", "int")], "int *", before)
    verdict = kfunc.verdict("*(u64 *)(r0 + 56) = 0")
    if rule is None:
        assert isinstance(verdict, Accepted), verdict
    else:
        assert _rule(verdict) is rule


# What programs are attached to, in other kernels.


def _attachable() -> Btf:
    """A kernel with struct_ops odd_ops, a function without a prototype, and a tracepoint."""
    types = Types([Int("int", 4, 32, signed=True), Struct("thing", 4, (Member("a", 1, 0),))])
    thing = types.add(Ptr(2))
    members = []
    for index, (name, proto) in enumerate(
        {
            "plain": FuncProto(1, ()),
            "owned": FuncProto(1, (Param("t", thing),)),
            "pointer": FuncProto(thing, ()),
        }.items()
    ):
        members.append(Member(name, types.add(Ptr(types.add(proto))), 64 * index))
    types.add(Struct("odd_ops", 24, tuple(members)))
    types.add(Struct("bpf_struct_ops_odd_ops", 24, ()))
    stub = types.add(FuncProto(1, (Param("t__ref", thing),)))
    types.add(Func("odd_ops__owned", stub, FuncLinkage.STATIC))
    types.add(Func("broken", 1, FuncLinkage.STATIC))
    percpu = types.pointer("percpu", 2)
    traced = types.add(FuncProto(0, (Param("data", types.add(Ptr(0))), Param("t", percpu))))
    types.add(Typedef("btf_trace_happened", types.add(Ptr(traced))))
    return Btf.of(types.all)


_ATTACHABLE = _attachable()
_SOCKETS = MapSpec("sockets", MapType.SOCKMAP, 4, 4, 1)
_STORAGE = MapSpec("storage", MapType.TASK_STORAGE, 4, 8, 0, 1)


@pytest.mark.parametrize(
    ("section", "code", "feature"),
    [
        ("struct_ops/odd_ops/plain", "call ktime_get_ns", "in programs of struct_ops odd_ops"),
        ("struct_ops/odd_ops/owned", "", "arguments that own a reference (t__ref)"),
        ("struct_ops/odd_ops/pointer", "", "functions that return a pointer (pointer)"),
        ("fentry/", "", "a tracing program whose section does not say what it is for"),
        ("fentry/broken", "", "attaching to broken: "),
        ("tp_btf/happened", "call get_current_task_btf", "struct task_struct without a target BTF"),
        (
            "tp_btf/happened",
            "r1 = *(u64 *)(r1 + 0)\n call this_cpu_ptr",
            "per-CPU members of the kernel's structs (this_cpu_ptr)",
        ),
        (
            "tp_btf/happened",
            "r1 = map[sockets] ll\n call map_update_elem",
            "changing socket maps in tracing programs (sockets)",
        ),
        (
            "tp_btf/happened",
            "r2 = *(u64 *)(r1 + 0)\n r1 = map[storage] ll\n r4 = 0\n r3 = r4\n"
            "call task_storage_get",
            "arguments of type PTR_TO_BTF_ID_OR_NULL (task_storage_get)",
        ),
    ],
)
def test_attaching_to_other_kernels(section: str, code: str, feature: str) -> None:
    profile = btf_typed_profile(section)
    assert profile is not None
    text = f"{code}\n r0 = 0\n exit"
    maps = (_SOCKETS, _STORAGE)
    verdict = _verdict(
        text,
        *maps,
        profile=profile.for_section(section),
        section=section,
        target=_ATTACHABLE,
        btf=_ATTACHABLE,
    )
    assert feature in _feature(verdict)


# Fields of map values that are the kernel's.

# 1 int, 2 struct task_struct, 3 struct file, 4 struct bpf_timer, 5 long, 6 the tag, 7 the pointer.
_TARGETS = {"int": 1, "task_struct": 2, "file": 3}


def _holding(tag: str, target: str) -> Btf:
    """An object's BTF in which struct value, type 8, has a tagged pointer at 8 and a timer at
    16."""
    return Btf.of(
        [
            Int("int", 4, 32, signed=True),
            Struct("task_struct", 8, (Member("a", 5, 0),)),
            Struct("file", 8, (Member("a", 5, 0),)),
            Struct("bpf_timer", 16, (Member("a", 5, 0), Member("b", 5, 64))),
            Int("long", 8, 64),
            TypeTag(tag, _TARGETS[target]),
            Ptr(6),
            Struct("value", 32, (Member("a", 5, 0), Member("p", 7, 64), Member("t", 4, 128))),
        ]
    )


_HELD = MapSpec("m", MapType.ARRAY, 4, 32, 1, btf_key_type_id=1, btf_value_type_id=8)
_OUTER = MapSpec("outer", MapType.ARRAY_OF_MAPS, 4, 4, 1, inner=_HELD)
_KERNEL = _holding("kptr", "int")  # has all these structs
_DIRECT = "r6 = map[m][0]+0 ll"
# The kernel makes no such inner map; nothing looks at its fields before its values are used.
_INNER = """
  *(u32 *)(r10 - 4) = 0
  r2 = r10
  r2 += -4
  r1 = map[outer] ll
  call map_lookup_elem
  if r0 != 0 goto +2
  r0 = 0
  exit
  r1 = r0
  r2 = r10
  r2 += -4
  call map_lookup_elem
  if r0 != 0 goto +2
  r0 = 0
  exit
  r6 = r0
"""
_LOAD, _STORE = "r1 = *(u64 *)(r6 + 8)", "*(u64 *)(r6 + 8) = 0"
_EXCHANGE = "r1 = r6\n r1 += 8\n r2 = 0\n call kptr_xchg"


@pytest.mark.parametrize(
    ("btf", "place", "use", "feature"),
    [
        (_holding("kptr", "int"), _DIRECT, _LOAD, "to anything but one struct"),
        (_holding("kptr", "file"), _DIRECT, _LOAD, "__kptr to struct file"),
        (_holding("uptr", "file"), _INNER, _LOAD, "user pointers (uptr) in map values"),
        (_holding("uptr", "file"), _INNER, _STORE, "user pointers (uptr) in map values"),
        (_holding("uptr", "file"), _INNER, _EXCHANGE, "user pointers (uptr) in map values"),
        (
            _holding("kptr", "file"),
            _INNER,
            "r1 = r6\n r1 += 16\n call timer_cancel",
            "a bpf_timer in a map of a map of maps",
        ),
    ],
)
def test_fields_of_map_values(btf: Btf, place: str, use: str, feature: str) -> None:
    verdict = _verdict(f"{place}\n{use}\n r0 = 0\n exit", _HELD, _OUTER, target=_KERNEL, btf=btf)
    assert feature in _feature(verdict)


def test_a_struct_of_the_kernels_is_none_of_the_program_that_has_its_number() -> None:
    own = _holding("kptr", "file")
    types = [own.type(number) for number in range(1, len(own))]
    types[2] = Struct("mine", 8, (Member("a", 5, 0),))
    kernel = Types([Int("int", 4, 32), Struct("a", 4, ()), Struct("task_struct", 8, ())])
    proto = kernel.add(FuncProto(kernel.add(Ptr(3)), (Param("pid", 1),)))
    made = kernel.add(Func("bpf_task_from_pid", proto, FuncLinkage.GLOBAL))
    text = f"""
  {_DIRECT}
  r1 = 1
  call kfunc bpf_task_from_pid#{made}
  if r0 != 0 goto +2
  r0 = 0
  exit
  r1 = r6
  r1 += 8
  r2 = r0
  call kptr_xchg
  r0 = 0
  exit
"""
    verdict = _verdict(text, _HELD, target=Btf.of(kernel.all), btf=Btf.of(types))
    assert _rule(verdict) is Rule.KPTR


# Without what the program is for.


def test_kernels_whose_types_are_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "kernel_btf", lambda: None)
    assert "kfuncs without the target's BTF" in _feature(_verdict("call kfunc x#1\n r0 = 0\n exit"))
    tracing = btf_typed_profile("fentry/x")
    assert tracing is not None
    attached = _verdict("r0 = 0\n exit", profile=tracing, section="fentry/x")
    assert "tracing programs without the target's BTF" in _feature(attached)
    held = _verdict(f"{_DIRECT}\n{_LOAD}\n r0 = 0\n exit", _HELD, btf=_holding("kptr", "file"))
    assert "kernel pointers without the target's BTF" in _feature(held)
    assert _feature(_named(Pseudo.BTF_ID, 1)) == "variables of the kernel without its BTF"


def test_a_global_function_of_an_object_without_types() -> None:
    insns = assemble("call f\n r0 = 0\n exit\n f: r0 = 0\n exit", calls=_CALLS)
    subprogs = (Subprog("case", 0, 3), Subprog("f", 3, 5, is_global=True, btf_type_id=1))
    program = Program("case", "tc", insns, subprogs=subprogs, license="GPL")
    verdict = verify(program, BpfObject("case.o", "", (program,), (), license="GPL"), _TC)
    assert "the global function f, whose type is not known" in _feature(verdict)


@pytest.mark.parametrize(
    ("src", "imm", "feature"),
    [
        (Pseudo.MAP_FD, 1, "lddw of MAP_FD"),
        (Pseudo.BTF_ID, 1 << 32 | 1, "variables and functions of modules"),
    ],
)
def test_an_instruction_that_names_what_objects_do_not(src: Pseudo, imm: int, feature: str) -> None:
    assert _feature(_named(src, imm)) == feature


def _named(src: Pseudo, imm: int) -> Verdict:
    """The verdict on a program that loads what these two name."""
    lddw, *rest = assemble("r1 = 1 ll\n r0 = 0\n exit", calls=_CALLS)
    program = Program("case", "tc", (replace(lddw, src=src, imm=imm), *rest), license="GPL")
    return verify(program, BpfObject("case.o", "", (program,), (), license="GPL"), _TC)


# Profiles of our own.


def test_a_helper_that_the_table_has_not() -> None:
    profile = replace(_TC, helpers={**_TC.helpers, 999: "odd"})
    verdict = _verdict("call 999\n r0 = 0\n exit", profile=profile)
    assert _feature(verdict) == "helper odd#999"


def test_a_context_that_the_profile_does_not_describe() -> None:
    verdict = _verdict("r1 = *(u32 *)(r1 + 0)\n r0 = 0\n exit", profile=replace(_TC, ctx_fields=()))
    assert _feature(verdict) == "the context of sched_cls programs"


def test_what_a_ring_loop_may_write_is_the_profiles() -> None:
    profile = PROFILES["loop-7.1"]
    assert profile.loop is not None
    section = "struct_ops.s/io_uring_bpf_ops/loop_step"
    text = "r1 = *(u64 *)(r1 + 8)\n *(u32 *)(r1 + 0) = 1\n r0 = 0\n exit"
    assert isinstance(_verdict(text, profile=profile, section=section), Accepted)
    closed = replace(profile, loop=replace(profile.loop, writable=()))
    assert _rule(_verdict(text, profile=closed, section=section)) is Rule.READ_ONLY

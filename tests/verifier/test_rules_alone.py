"""Rules that no case of the corpus can break: no kernel makes such maps, no text says such code, or
the program is too large to write down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import pytest

from pybpfvm.btf import kernelfields
from pybpfvm.btf.types import (
    Btf,
    BtfType,
    DeclTag,
    Func,
    FuncLinkage,
    FuncProto,
    Int,
    Member,
    Param,
    Ptr,
    Struct,
)
from pybpfvm.isa.asm import assemble
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import Pseudo
from pybpfvm.profiles import PROFILES
from pybpfvm.profiles.mainline import MAINLINE_NAMES
from pybpfvm.program import BpfObject, MapSpec, MapType, Program, Subprog
from pybpfvm.verifier import explore, structure
from pybpfvm.verifier.kernelobjects import btfwalk
from pybpfvm.verifier.privileges.privilege import parse_capabilities
from pybpfvm.verifier.refusal import Refused
from pybpfvm.verifier.verdict import Accepted, Inconclusive, Rejected, Rule, Verdict
from pybpfvm.verifier.verify import Options, verify
from tests.support.verifier_btf import FUNCTIONS
from tests.support.verifier_cases import program_of

_CALLS = {name: number for number, name in MAINLINE_NAMES.items()}
_READ_ONLY = 0x80  # BPF_F_RDONLY_PROG
_LOCKED = Btf.of(
    [
        Int("int", 4, 32, signed=True),
        Struct("bpf_spin_lock", 4, (Member("val", 1, 0),)),
        Struct("locked", 8, (Member("lock", 2, 0), Member("rest", 1, 32))),
    ]
)


def _verify(
    text: str,
    *maps: MapSpec,
    names: Mapping[str, int] | None = None,
    btf: Btf | None = None,
) -> Verdict:
    """The verdict on a program for tc. `names` are numbers of maps, their places if left out."""
    known = {spec.name: index for index, spec in enumerate(maps)} if names is None else names
    return _judged(assemble(text, calls=_CALLS, maps=known), *maps, btf=btf)


def _judged(insns: tuple[Insn, ...], *maps: MapSpec, btf: Btf | None = None) -> Verdict:
    program = Program("case", "tc", insns, license="GPL")
    obj = BpfObject("case.o", "", (program,), maps, btf=btf, license="GPL")
    return verify(program, obj, PROFILES["sched_cls"])


def _refused(verdict: Verdict) -> str:
    """The message of a rejection."""
    assert isinstance(verdict, Rejected), verdict
    return verdict.errors[0].message


@pytest.mark.parametrize("id_", [1, 2, 1000])
def test_an_address_of_what_is_neither_a_variable_nor_a_function(id_: int) -> None:
    types = Btf.of([Int("int", 4, 32, signed=True), Struct("s", 4, (Member("a", 1, 0),))])
    lddw, *rest = assemble("r1 = 1 ll\n r0 = 0\n exit", calls=_CALLS)
    insns = (replace(lddw, src=Pseudo.BTF_ID, imm=id_), *rest)
    program = Program("case", "tc", insns, license="GPL")
    obj = BpfObject("case.o", "", (program,), (), license="GPL")
    verdict = verify(program, obj, PROFILES["sched_cls"], options=Options(target_btf=types))
    assert _refused(verdict) == f"pseudo btf_id {id_} in ldimm64 isn't KIND_VAR or KIND_FUNC"


def _format(data: bytes) -> MapSpec:
    return MapSpec(
        "text", MapType.ARRAY, 4, 16, 1, _READ_ONLY, data=data.ljust(16, b"x"), frozen=True
    )


_PRINTS = """
  r0 = 0
  call get_prandom_u32
  r0 &= {mask}
  r3 = map[text][0]+0 ll
  r3 += r0
  *(u64 *)(r10 - 8) = 0
  r1 = r10
  r1 += -32
  r2 = 16
  r4 = r10
  r4 += -8
  r5 = {size}
  call snprintf
  r0 = 0
  exit
"""


@pytest.mark.parametrize(
    ("data", "mask", "size", "message"),
    [
        (b"%d\0", 0, 8, ""),
        (b"%d\0", 3, 8, "R3 is not a constant address'"),
        (b"%d", 0, 8, "string is not zero-terminated"),
        (b"%d\0", 0, 7, "invalid length of snprintf data"),
        (b"%d\0", 0, 0, "Invalid format string"),
        (b"%y\0", 0, 8, "Invalid format string"),
    ],
)
def test_what_is_printed(data: bytes, mask: int, size: int, message: str) -> None:
    verdict = _verify(_PRINTS.format(mask=mask, size=size), _format(data))
    if message:
        assert _refused(verdict) == message
    else:
        assert isinstance(verdict, Accepted)


_USES = "r1 = map[m] ll\n r0 = 0\n exit"


def _holder(kind: MapType, flags: int = 0) -> MapSpec:
    keys = 0 if kind is MapType.QUEUE else 4
    return MapSpec("m", kind, keys, 8, 1, flags, btf_key_type_id=1, btf_value_type_id=3)


def test_maps_with_fields_that_no_kernel_makes() -> None:
    assert isinstance(_verify(_USES, _holder(MapType.ARRAY), btf=_LOCKED), Accepted)
    assert "can not hold" in _refused(_verify(_USES, _holder(MapType.QUEUE), btf=_LOCKED))
    read_only = _verify(_USES, _holder(MapType.ARRAY, _READ_ONLY), btf=_LOCKED)
    assert "is read-only and holds" in _refused(read_only)
    counted = Btf.of(
        (Int("int", 4, 32), Struct("bpf_refcount", 4, ()), Struct("v", 8, (Member("count", 2, 0),)))
    )
    assert isinstance(_verify(_USES, _holder(MapType.PERCPU_HASH), btf=counted), Accepted)
    assert "can not hold" in _refused(_verify(_USES, _holder(MapType.LPM_TRIE), btf=counted))


def test_a_value_with_more_members_than_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernelfields, "_MAX_MEMBERS", 1)
    assert isinstance(_verify(_USES, _holder(MapType.ARRAY), btf=_LOCKED), Inconclusive)


def test_no_code() -> None:
    assert _refused(_judged(())) == "no instructions"


def test_more_code_than_kernels_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structure, "MAX_INSNS", 2)
    assert isinstance(_verify("r0 = 0\n exit"), Accepted)
    verdict = _verify("r0 = 0\n r1 = 0\n exit")
    assert not isinstance(verdict, Accepted)


@pytest.mark.parametrize(("count", "accepted"), [(4096, True), (4097, False)])
def test_more_code_than_loaders_without_cap_bpf_load(count: int, accepted: bool) -> None:
    insns = assemble("r0 = 0\n" * (count - 1) + "exit")
    program = Program("case", "socket", insns, license="GPL")
    obj = BpfObject("case.o", "", (program,), (), license="GPL")
    options = Options(caps=parse_capabilities("none"))
    verdict = verify(program, obj, PROFILES["socket_filter"], options=options)
    if accepted:
        assert isinstance(verdict, Accepted)
    else:
        assert "program has 4097 insns, at most 4096 are allowed" in _refused(verdict)


def test_a_loop_that_counts_and_has_no_end() -> None:
    # Not in the corpus: the kernel's log of it has a million lines.
    assert _refused(_verify("r0 = 0\n turn: r0 += 1\n goto turn")) == (
        "infinite loop detected at insn 2"
    )


def test_calls_and_addresses_of_what_is_no_function() -> None:
    call, address = (
        assemble(f"{insn}\n r0 = 0\n exit\n f: r0 = 0\n exit", calls=_CALLS)
        for insn in ("call f", "r2 = func f ll")
    )
    assert _refused(_judged((replace(call[0], imm=99), *call[1:3]))) == (
        "call to invalid destination 100"
    )
    assert _refused(_judged((replace(address[0], imm=99), *address[1:3]))) == (
        "no function starts at 100"
    )


def test_a_map_that_the_object_has_not() -> None:
    verdict = _verify(_USES, _holder(MapType.ARRAY), names={"m": 1}, btf=_LOCKED)
    assert _refused(verdict) == "map index 1 of 1 maps"


@pytest.mark.parametrize(
    ("kind", "feature"),
    [(99, "maps of type 99 (m)"), (MapType.ARRAY_OF_MAPS, "m without a declared inner map")],
)
def test_maps_that_are_not_judged(kind: MapType | int, feature: str) -> None:
    text = """
  *(u32 *)(r10 - 4) = 0
  r2 = r10
  r2 += -4
  r1 = map[m] ll
  call map_lookup_elem
  r0 = 0
  exit
"""
    verdict = _verify(text, MapSpec("m", kind, 4, 4, 1))
    assert isinstance(verdict, Inconclusive)
    assert feature in verdict.finding.feature


def test_too_many_branches_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explore, "_MAX_PENDING", 8)
    jumps = "\n".join(f"if r0 == {number} goto out" for number in range(12))
    verdict = _verify(f"call get_prandom_u32\n r6 = r0\n {jumps}\n r6 = 0\n out: r0 = r6\n exit")
    assert not isinstance(verdict, Accepted)
    finding = verdict.errors[0] if isinstance(verdict, Rejected) else verdict.finding
    assert finding.rule is Rule.BUDGET
    assert "jumps is too complex" in finding.message


def test_structs_in_structs_without_end() -> None:
    depth = 70
    inner = [Struct(f"s{at}", 4, (Member("in", at, 0),)) for at in range(1, depth)]
    btf = Btf.of([Int("int", 4, 32), *inner])
    assert btfwalk.walk(btf, 10, 0, 4).btf_id == 0
    with pytest.raises(Refused, match="nested deeper"):
        btfwalk.walk(btf, depth, 0, 4)


def test_bytes_between_members() -> None:
    btf = Btf.of(
        [
            Int("int", 4, 32),
            Int("long", 8, 64),
            Struct("s", 16, (Member("a", 1, 0), Member("b", 2, 64))),
        ]
    )
    assert btfwalk.walk(btf, 3, 8, 8).btf_id == 0
    with pytest.raises(Refused, match="doesn't have field at offset 4"):
        btfwalk.walk(btf, 3, 4, 4)


def test_a_global_function_in_the_ninth_frame() -> None:
    names = "abcdef"
    chain = "".join(f"{one}: call {two}\n exit\n" for one, two in pairwise(names))
    turn = "r2 = r1\n r1 = 4\n r3 = 0\n r4 = 0\n call loop\n r0 = 0\n exit\n"
    text = f"r1 = func turn ll\n call a\n r0 = 0\n exit\n {chain} {names[-1]}: {turn}"
    text += "turn: call last\n r0 = 0\n exit\n last: r0 = 0\n exit"
    program, obj, profile = program_of(text, where="ninth")
    last = len(program.subprogs) - 1
    subprogs = tuple(
        replace(sub, is_global=True, btf_type_id=FUNCTIONS["numbers"]) if at == last else sub
        for at, sub in enumerate(program.subprogs)
    )
    program = replace(program, subprogs=subprogs)
    verdict = verify(program, replace(obj, programs=(program,)), profile)
    assert _refused(verdict) == "the call stack of 9 frames is too deep"


# 1 int, 2 int *, 3 int **, 4 struct bpf_dynptr, 5 a pointer to it, 6 struct bpf_arena, 7 a pointer
# to it; 8 the prototype, 9 the function.
_TYPES: tuple[BtfType, ...] = (
    Int("int", 4, 32, signed=True),
    Ptr(1),
    Ptr(2),
    Struct("bpf_dynptr", 4, (Member("opaque", 1, 0),)),
    Ptr(4),
    Struct("bpf_arena", 4, (Member("opaque", 1, 0),)),
    Ptr(6),
)


@pytest.mark.parametrize(
    ("proto", "tags", "feature"),
    [
        (None, (), "whose type is not known"),
        (FuncProto(1, tuple(Param(name, 1) for name in "abcdef")), (), "whose type is not known"),
        (
            FuncProto(1, (Param("a", 5),)),
            ("arg:nonnull",),
            "whose parameter a is a dynptr, and tagged",
        ),
        (FuncProto(1, (Param("a", 7),)), (), "whose parameter a is a bpf_arena"),
        (FuncProto(1, (Param("a", 99),)), (), "calls of the global function f: "),
        (FuncProto(1, (Param("a", 2),)), ("arg:odd",), "whose parameter a is tagged odd"),
    ],
)
def test_global_functions_that_are_not_judged(
    proto: FuncProto | None, tags: tuple[str, ...], feature: str
) -> None:
    verdict = _of_call(proto, tags)
    assert isinstance(verdict, Inconclusive)
    assert feature in verdict.finding.feature


@pytest.mark.parametrize(
    ("proto", "tags", "message"),
    [
        (FuncProto(2, ()), (), "Global function f() doesn't return scalar."),
        (FuncProto(1, (Param("a", 4),)), (), "is neither a number nor a pointer"),
        (FuncProto(1, (Param("a", 10),)), (), "the size of what it is to is not known"),
        (FuncProto(1, (Param("a", 2),)), ("arg:trusted", "arg:nonnull"), "invalid combination"),
    ],
)
def test_global_functions_that_no_kernel_takes(
    proto: FuncProto, tags: tuple[str, ...], message: str
) -> None:
    assert message in _refused(_of_call(proto, tags))


def _of_call(proto: FuncProto | None, tags: tuple[str, ...]) -> Verdict:
    """The verdict on a call of f, whose prototype and tags of the first parameter these are."""
    own: list[BtfType] = [] if proto is None else [proto, Func("f", 8, FuncLinkage.GLOBAL)]
    pointer = [Ptr(8)] if own else []
    btf = Btf.of([*_TYPES, *own, *pointer, *(DeclTag(tag, 9, 0) for tag in tags)])
    insns = assemble("call f\n r0 = 0\n exit\n f: r0 = 0\n exit", calls=_CALLS)
    subprogs = (
        Subprog("case", 0, 3),
        Subprog("f", 3, 5, is_global=True, btf_type_id=9 if own else 0),
    )
    program = Program("case", "tc", insns, subprogs=subprogs, license="GPL")
    obj = BpfObject("case.o", "", (program,), (), btf=btf, license="GPL")
    return verify(program, obj, PROFILES["sched_cls"])

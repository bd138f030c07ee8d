"""Dynptrs as arguments of global functions, judged by the running kernel and by us."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from pybpfvm import bpfsys
from pybpfvm.btf.types import (
    Btf,
    Const,
    Func,
    FuncLinkage,
    FuncProto,
    Int,
    Member,
    Param,
    Ptr,
    Struct,
)
from pybpfvm.fuzz.kernel_verdicts import KernelVerifier
from pybpfvm.fuzz.lines import subprogs_of
from pybpfvm.isa.asm import assemble
from pybpfvm.profiles import PROFILES
from pybpfvm.profiles.mainline import MAINLINE_NAMES
from pybpfvm.program import BpfObject, Program
from pybpfvm.verifier.verdict import Accepted, Rejected, Rule
from pybpfvm.verifier.verify import verify
from tests.support.attach_targets import with_kernel_ids
from tests.support.verifier_cases import common_maps

_INT = 1
_BTF = Btf.of(
    [
        Int("int", 4, 32, signed=True),
        Struct("bpf_dynptr", 16, (Member("__opaque", 3, 0), Member("more", 3, 64))),
        Int("long", 8, 64),
        Const(2),
        Ptr(4),
        FuncProto(_INT, (Param("p", 5),)),
        Func("sub", 6, FuncLinkage.GLOBAL),
        FuncProto(_INT, ()),
        Func("main", 8, FuncLinkage.GLOBAL),
    ]
)
_SUB, _MAIN = 7, 9

_LOCAL = """
  r1 = map[single][0]+0 ll
  r2 = 32
  r3 = 0
  r4 = r10
  r4 += -16
  call dynptr_from_mem
  r1 = r10
  r1 += -16
"""
_RECORD = """
  r1 = map[ring] ll
  r2 = 32
  r3 = 0
  r4 = r10
  r4 += -16
  call ringbuf_reserve_dynptr
  r1 = r10
  r1 += -16
"""
_PACKET = """
  r8 = *(u32 *)(r1 + 76)
  r9 = *(u32 *)(r1 + 80)
  r2 = r8
  r2 += 8
  if r2 > r9 goto end
  r2 = 0
  r3 = r10
  r3 += -16
  call kfunc bpf_dynptr_from_skb
  r1 = r10
  r1 += -16
"""
_SIZE = """
  call kfunc bpf_dynptr_size
  exit
"""
_WRITES = """
  *(u64 *)(r10 - 8) = 0
  r2 = 0
  r3 = r10
  r3 += -8
  r4 = 8
  r5 = 0
  call dynptr_write
  r0 = 0
  exit
"""
_RETURN = "  r0 = 0\n  exit\n"


@dataclass(frozen=True, slots=True)
class _Case:
    """A main function that calls a global one. `rule` is None for a program that is accepted;
    `kernel` whether the kernel accepts it, where that is another answer."""

    name: str
    main: str
    sub: str
    rule: Rule | None = None
    kernel: bool | None = None

    def text(self) -> str:
        return f"{self.main}  call sub\n{_RETURN}sub:{self.sub}"


_KEPT_SLICE = """
  r6 = r1
  r2 = 0
  r3 = 0
  r4 = 8
  call kfunc bpf_dynptr_slice_rdwr
  if r0 == 0 goto +9
  r7 = r0
  *(u64 *)(r10 - 8) = 0
  r1 = r6
  r2 = 0
  r3 = r10
  r3 += -8
  r4 = 8
  r5 = 0
  call dynptr_write
  r1 = *(u64 *)(r7 + 0)
"""

_CASES = (
    # The caller's may be one to the packet, which a write moves. The kernel takes it for memory.
    _Case(
        "the function keeps a slice over a write",
        _LOCAL,
        _KEPT_SLICE.replace("+9", "+10") + _RETURN,
        Rule.NOT_A_POINTER,
        kernel=True,
    ),
    _Case("dynptr to a map value", _LOCAL, _SIZE),
    _Case("dynptr to the packet", _PACKET.replace("goto end", "goto +7"), _SIZE),
    _Case("dynptr to a record that is kept", _RECORD, _SIZE, Rule.REFERENCE_LEAK),
    _Case("no dynptr", "  r1 = r10\n  r1 += -16\n", _SIZE, Rule.DYNPTR),
    _Case("what is not on the stack", "  r1 = map[single][0]+0 ll\n", _SIZE, Rule.DYNPTR),
    _Case("a number", "  r1 = 0\n", _SIZE, Rule.DYNPTR),
    _Case("the second half of a dynptr", f"{_LOCAL}  r1 += 8\n", _SIZE, Rule.DYNPTR),
    _Case(
        "the function releases its caller's",
        _LOCAL,
        "  r2 = 0\n  call ringbuf_submit_dynptr\n" + _RETURN,
        Rule.DYNPTR,
    ),
    _Case(
        "the function releases what is behind its caller's",
        _LOCAL,
        "  r1 += 8\n  r2 = 0\n  call ringbuf_submit_dynptr\n" + _RETURN,
        Rule.DYNPTR,
    ),
    _Case("the function moves the pointer", _LOCAL, "  r1 += 8\n" + _SIZE, Rule.DYNPTR),
    _Case(
        "the function loads from it",
        _LOCAL,
        "  r0 = *(u64 *)(r1 + 0)\n  exit\n",
        Rule.NOT_A_POINTER,
    ),
    _Case(
        "the function adjusts it",
        _LOCAL,
        "  r2 = 0\n  r3 = 1\n  call kfunc bpf_dynptr_adjust\n" + _RETURN,
    ),
    _Case(
        "the function makes a dynptr there",
        _LOCAL,
        "  r4 = r1\n  r1 = map[single][0]+0 ll\n  r2 = 8\n  r3 = 0\n  call dynptr_from_mem\n"
        + _RETURN,
        Rule.DYNPTR,
    ),
    _Case(
        "the function clones it into itself",
        _LOCAL,
        "  r2 = r1\n  call kfunc bpf_dynptr_clone\n" + _RETURN,
        Rule.DYNPTR,
    ),
    _Case(
        "the function looks at its data",
        _LOCAL,
        "  r2 = 0\n  r3 = 8\n  call dynptr_data\n  if r0 == 0 goto +1\n"
        "  *(u64 *)(r0 + 0) = 0\n" + _RETURN,
    ),
    _Case(
        "the function looks at its data unchecked",
        _LOCAL,
        "  r2 = 0\n  r3 = 8\n  call dynptr_data\n  *(u64 *)(r0 + 0) = 0\n" + _RETURN,
        Rule.POSSIBLY_NULL,
    ),
    _Case("the function writes to a map value", _LOCAL, _WRITES),
)
_MOVED = _Case(
    "packet pointer after the function wrote to the packet",
    _PACKET,
    _WRITES,
    Rule.NOT_A_POINTER,
    True,
)


def _made(case: _Case) -> tuple[Program, BpfObject]:
    text = case.text()
    if case is _MOVED:
        text = text.replace("  call sub\n", "  call sub\n  r2 = *(u8 *)(r8 + 0)\nend:")
    maps = common_maps()
    insns = assemble(
        with_kernel_ids(text),
        where=case.name,
        calls={name: number for number, name in MAINLINE_NAMES.items()},
        maps={spec.name: index for index, spec in enumerate(maps)},
    )
    program = Program("case", "tc", insns, subprogs=subprogs_of(insns), license="GPL")
    subprogs = tuple(
        replace(one, btf_type_id=_SUB if one.start else _MAIN, is_global=bool(one.start))
        for one in program.subprogs
    )
    program = replace(program, subprogs=subprogs)
    return program, BpfObject("case", "", (program,), maps, btf=_BTF, license="GPL")


@pytest.fixture(scope="module")
def kernel() -> Iterator[KernelVerifier]:
    reason = bpfsys.available()
    if reason is not None:
        pytest.skip(reason)
    plain = tuple(replace(one, btf_key_type_id=0, btf_value_type_id=0) for one in common_maps())
    with KernelVerifier(plain, btf=_BTF) as made:
        yield made


@pytest.mark.kernel_bpf
@pytest.mark.parametrize("case", [*_CASES, _MOVED], ids=lambda case: case.name)
def test_the_kernel_says_the_same(kernel: KernelVerifier, case: _Case) -> None:
    program, _ = _made(case)
    said = kernel.judge(program.insns, PROFILES["sched_cls"], subprogs=program.subprogs)
    assert said is not None
    expected = case.rule is None if case.kernel is None else case.kernel
    assert said.accepted == expected, said.log


@pytest.mark.parametrize("case", [*_CASES, _MOVED], ids=lambda case: case.name)
def test_verdict(case: _Case) -> None:
    program, obj = _made(case)
    verdict = verify(program, obj, PROFILES["sched_cls"])
    if case.rule is None:
        assert isinstance(verdict, Accepted), verdict
    else:
        assert isinstance(verdict, Rejected), verdict
        assert verdict.errors[0].rule is case.rule

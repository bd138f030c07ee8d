"""Exception callbacks, judged by the running kernel and by us, and loaded from an object."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from pybpfvm import bpfsys
from pybpfvm.btf.types import Btf, BtfType, DeclTag, Func, FuncLinkage, FuncProto, Int, Param
from pybpfvm.fuzz.kernel_verdicts import KernelVerifier
from pybpfvm.isa.asm import assemble
from pybpfvm.loader.object import load
from pybpfvm.loader.target import kernel_btf
from pybpfvm.profiles import PROFILES
from pybpfvm.profiles.mainline import MAINLINE_NAMES
from pybpfvm.program import BpfObject, Program, Subprog
from pybpfvm.verifier.verdict import Accepted, Rejected, Rule
from pybpfvm.verifier.verify import verify
from tests.support.attach_targets import with_kernel_ids

DATA = Path(__file__).parent / "data"
_INT, _LONG, _MAIN, _CALLBACK = 1, 2, 4, 6


@dataclass(frozen=True, slots=True)
class _Case:
    """A main function and its callback. `rule` and `pc` of the refusal (-1: nowhere), None for a
    program that is accepted."""

    name: str
    main: str
    callback: str
    rule: Rule | None = None
    pc: int = -1
    type: str = "cgroup_skb"
    linkage: FuncLinkage = FuncLinkage.GLOBAL
    params: tuple[int, ...] = (_LONG,)
    tags: tuple[str, ...] = field(default=("exception_callback:callback",))

    @property
    def btf(self) -> Btf:
        types: list[BtfType] = [
            Int("int", 4, 32, signed=True),
            Int("long", 8, 64),
            FuncProto(_INT, ()),
            Func("main", 3, FuncLinkage.GLOBAL),
            FuncProto(_INT, tuple(Param("cookie", one) for one in self.params)),
            Func("callback", 5, self.linkage),
            *(DeclTag(tag, _MAIN, -1) for tag in self.tags),
        ]
        return Btf.of(types)

    def made(self) -> tuple[Program, BpfObject]:
        text = with_kernel_ids(f"{self.main}\n callback: {self.callback}")
        calls = {name: number for number, name in MAINLINE_NAMES.items()}
        insns = assemble(text, where=self.name, calls=calls)
        slots = sum(insn.slots for insn in insns)
        main = sum(insn.slots for insn in insns[: self.main.count("\n") + 1])
        subprogs = (
            Subprog("main", 0, main, btf_type_id=_MAIN),
            Subprog("callback", main, slots, self.linkage is FuncLinkage.GLOBAL, _CALLBACK),
        )
        section = PROFILES[self.type].own_section
        program = Program("case", section, insns, subprogs=subprogs, license="GPL")
        return program, BpfObject("case", "", (program,), (), btf=self.btf, license="GPL")


_THROWS = "r1 = 77\ncall kfunc bpf_throw\nr0 = 0\nexit"
_RETURNS = "r0 = 0\nexit"
_NOT = Rule.KFUNC_NOT_ALLOWED
CASES = (
    _Case("what is thrown is the callback's", _THROWS, _RETURNS),
    _Case(
        "the callback returns what may not be returned",
        _THROWS,
        "r0 = 5\nexit",
        Rule.RETURN_VALUE,
        5,
    ),
    _Case("the callback returns what was thrown", _THROWS, "r0 = r1\nexit", Rule.RETURN_VALUE, 5),
    _Case("the callback returns a part of it", _THROWS, "r0 = r1\nr0 &= 1\nexit"),
    _Case("any number may be returned", _THROWS, "r0 = r1\nexit", type="sched_cls"),
    _Case("the callback has one argument", _THROWS, "r0 = r2\nexit", Rule.UNINIT_REG, 4),
    _Case("the callback is static", _THROWS, _RETURNS, _NOT, linkage=FuncLinkage.STATIC),
    _Case("the callback takes nothing", _THROWS, _RETURNS, _NOT, params=()),
    _Case("the callback takes two numbers", _THROWS, _RETURNS, _NOT, params=(_LONG, _LONG)),
    _Case("the callback takes an int", _THROWS, _RETURNS, params=(_INT,)),
    _Case("no such callback", _THROWS, _RETURNS, _NOT, tags=("exception_callback:missing",)),
    _Case("two callbacks", _THROWS, _RETURNS, _NOT, tags=("exception_callback:callback",) * 2),
    _Case(
        "the main function is no callback",
        _RETURNS,
        _RETURNS,
        _NOT,
        tags=("exception_callback:main",),
    ),
    _Case("nothing is thrown", _RETURNS, _RETURNS),
    _Case(
        "nothing is thrown, and the callback is wrong",
        _RETURNS,
        "r0 = *(u64 *)(r1 + 0)\nexit",
        Rule.NOT_A_POINTER,
        2,
    ),
    _Case("the callback is called", "r1 = 0\ncall callback\nr0 = 0\nexit", _RETURNS, _NOT, 1),
    _Case("the callback throws", _THROWS, "r1 = 0\ncall kfunc bpf_throw\nr0 = 0\nexit", _NOT, 5),
    _Case(
        "the callback keeps a task",
        _THROWS,
        "r1 = 5\ncall kfunc bpf_task_from_pid\nr0 = 0\nexit",
        Rule.REFERENCE_LEAK,
        7,
    ),
)


@pytest.fixture
def btf() -> Btf:
    reason, found = bpfsys.available(), kernel_btf()
    if reason is not None or found is None:
        pytest.skip(reason or "the running kernel shows no BTF")
    return found


@pytest.mark.kernel_bpf
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_kernel_says_the_same(btf: Btf, case: _Case) -> None:
    program, _ = case.made()
    with KernelVerifier((), btf=case.btf) as kernel:
        said = kernel.judge(program.insns, PROFILES[case.type], subprogs=program.subprogs)
    assert said is not None
    assert said.accepted == (case.rule is None), said.log
    if case.pc >= 0:
        assert said.pc == case.pc, said.log


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_verdict(case: _Case) -> None:
    if kernel_btf() is None:
        pytest.skip("the running kernel shows no BTF")
    program, obj = case.made()
    verdict = verify(program, obj, PROFILES[case.type])
    if case.rule is None:
        assert isinstance(verdict, Accepted), verdict
    else:
        assert isinstance(verdict, Rejected), verdict
        assert (verdict.errors[0].rule, verdict.errors[0].pc) == (case.rule, max(case.pc, 0))


def test_an_object_brings_its_callback_along() -> None:
    if kernel_btf() is None:
        pytest.skip("the running kernel shows no BTF")
    obj = load(DATA / "exceptions.bpf.o")
    functions = {one.name: [sub.name for sub in one.subprogs] for one in obj.programs}
    assert functions == {"caught": ["caught", "catcher"], "uncaught": ["uncaught"]}
    profile = PROFILES["cgroup_skb"]
    caught = verify(obj.program("caught"), obj, profile)
    assert isinstance(caught, Accepted), caught
    without = replace(obj, btf=None)
    for program, owner in ((obj.program("uncaught"), obj), (obj.program("uncaught"), without)):
        verdict = verify(program, owner, profile)
        assert isinstance(verdict, Rejected)
        assert verdict.errors[0].rule is Rule.RETURN_VALUE

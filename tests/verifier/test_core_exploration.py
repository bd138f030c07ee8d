"""Callbacks, global functions, pruning and limits: what text cases of one program can not say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from pybpfvm.bits import U32, s32
from pybpfvm.btf.types import Btf, Func, FuncLinkage, FuncProto, Int, Param, Ptr
from pybpfvm.isa.asm import assemble
from pybpfvm.isa.codec import pcs
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import Kind as InsnKind
from pybpfvm.isa.opcodes import Pseudo
from pybpfvm.profiles import profile_named
from pybpfvm.program import BpfObject, MapSpec, MapType, Program, Subprog
from pybpfvm.verifier.observe import Observer
from pybpfvm.verifier.refusal import Refused
from pybpfvm.verifier.states.state import State
from pybpfvm.verifier.verdict import Accepted, Inconclusive, Kind, Rejected, Rule, Verdict
from pybpfvm.verifier.verify import Options, verify

MAPS = (
    MapSpec("array", MapType.ARRAY, 4, 64, 4),
    MapSpec("ring", MapType.RINGBUF, 0, 0, 4096),
)
CALLS = {"lookup": 1, "loop": 181, "for_each": 164, "reserve": 131, "submit": 132, "random": 7}
# 1: int, 2: int *, 3 and 4: the types of functions of one int and of one pointer.
BTF = Btf.of(
    [
        Int("int", 4, 32),
        Ptr(1),
        FuncProto(1, (Param("x", 1),)),
        FuncProto(1, (Param("x", 2),)),
        Func("number", 3, FuncLinkage.GLOBAL),
        Func("pointer", 4, FuncLinkage.GLOBAL),
        Func("called_back", 3, FuncLinkage.STATIC),
    ]
)
NUMBER, POINTER, CALLED_BACK = 5, 6, 7
PROFILE = profile_named("socket_filter")


def judge(
    text: str, *, options: Options | None = None, btf: Btf | None = BTF, global_type: int = 0
) -> Verdict:
    """The verdict on a program; a `global_type` makes the function behind its first call global.
    Functions whose address it takes have a type of their own."""
    insns = assemble(text, calls=CALLS, maps={spec.name: i for i, spec in enumerate(MAPS)})
    program = Program("main", "socket", insns, license="GPL")
    if global_type:
        pc, starts = 0, []
        for insn in insns:
            if insn.spec.kind is InsnKind.CALL_LOCAL:
                starts.append(pc + 1 + insn.imm)
            pc += insn.slots
        sub = Subprog("sub", starts[0], pc, is_global=True, btf_type_id=global_type)
        program = replace(program, subprogs=(sub,))
    elif btf is not None:
        program = replace(program, subprogs=_called_back(insns))
    obj = BpfObject("text", "", (program,), MAPS, btf=btf)
    return verify(program, obj, PROFILE, options=options or Options())


def _called_back(insns: Sequence[Insn]) -> tuple[Subprog, ...]:
    """The main function, and those whose addresses are taken; none if that is nobody's."""
    end = sum(insn.slots for insn in insns)
    places = zip(pcs(insns), insns, strict=True)
    taken = (pc + 1 + s32(insn.imm & U32) for pc, insn in places if insn.src == Pseudo.FUNC)
    starts = sorted({start for start in taken if 0 < start < end})
    if not starts:
        return ()
    return tuple(
        Subprog(f"function{start}", start, behind, btf_type_id=CALLED_BACK)
        for start, behind in zip([0, *starts], [*starts, end], strict=True)
    )


def error(verdict: Verdict) -> tuple[Rule, Kind]:
    assert isinstance(verdict, Rejected), verdict
    return verdict.errors[0].rule, verdict.errors[0].kind


LOOP = """
  *(u64 *)(r10 - 8) = 0
  r1 = 100
  r2 = func body ll
  r3 = r10
  r3 += -8
  r4 = 0
  call loop
  {after}
  r0 = 0
  exit
body:
  {body}
"""
_COUNT = "r3 = *(u64 *)(r2 + 0)\n r3 += 1\n *(u64 *)(r2 + 0) = r3"
_INDEX = """
  r6 = *(u64 *)(r10 - 8)
  *(u32 *)(r10 - 16) = 1
  r2 = r10
  r2 += -16
  r1 = map[array] ll
  call lookup
  {check}
  r0 += r6
  r0 = *(u8 *)(r0 + 0)
"""


@pytest.mark.parametrize(
    ("body", "after", "expected"),
    [
        ("r0 = 0\n exit", "", None),
        ("r0 = 2\n exit", "", Rule.RETURN_VALUE),
        ("r0 = r3\n exit", "", Rule.UNINIT_REG),
        (f"{_COUNT}\n r0 = 0\n exit", "", None),
        # However often the callback counted, the index is used only below 64.
        (f"{_COUNT}\n r0 = 0\n exit", _INDEX.format(check="if r6 > 63 goto +2"), None),
        # One round gives 1 and two give 2: that is within the value, but there may be 100.
        (f"{_COUNT}\n r0 = 0\n exit", _INDEX.format(check=""), Rule.POINTER_BOUNDS),
        # A record reserved in a round must be given back in it.
        (
            "r1 = map[ring] ll\n r2 = 8\n r3 = 0\n call reserve\n r0 = 0\n exit",
            "",
            Rule.REFERENCE_LEAK,
        ),
        (
            "r1 = map[ring] ll\n r2 = 8\n r3 = 0\n call reserve\n if r0 == 0 goto +3\n"
            " r1 = r0\n r2 = 0\n call submit\n r0 = 0\n exit",
            "",
            None,
        ),
    ],
)
def test_loop_callbacks(body: str, after: str, expected: Rule | None) -> None:
    verdict = judge(LOOP.format(body=body, after=after))
    if expected is None:
        assert isinstance(verdict, Accepted), verdict
    else:
        assert error(verdict)[0] is expected


def test_the_callback_may_not_run_at_all() -> None:
    """The slot that only the callback writes is still what it was before the call."""
    body = "*(u64 *)(r2 + 0) = 1\n r0 = 0\n exit"
    after = "r6 = *(u64 *)(r10 - 8)\n if r6 != 0 goto +2\n r1 = 0\n r0 = *(u64 *)(r1 + 0)"
    assert error(judge(LOOP.format(body=body, after=after)))[0] is Rule.NOT_A_POINTER


def test_elements_of_a_map_are_given_to_the_callback() -> None:
    text = """
      r1 = map[array] ll
      r2 = func each ll
      r3 = 0
      r4 = 0
      call for_each
      r0 = 0
      exit
    each:
      r0 = *(u32 *)(r2 + 0)
      r0 = *(u64 *)(r3 + {offset})
      r0 = 0
      exit
    """
    assert isinstance(judge(text.format(offset=56)), Accepted)
    assert error(judge(text.format(offset=57)))[0] is Rule.MAP_VALUE_ACCESS


def test_callbacks_need_btf() -> None:
    verdict = judge(LOOP.format(body="r0 = 0\n exit", after=""), btf=None)
    assert error(verdict)[0] is Rule.HELPER_ARG
    assert isinstance(verdict, Rejected)
    assert verdict.errors[0].message == "missing btf func_info"


GLOBAL = """
  r1 = {argument}
  call sub
  {after}
  r0 = 0
  exit
sub:
  {body}
"""


@pytest.mark.parametrize(
    ("argument", "after", "body", "expected"),
    [
        ("5", "", "r0 = r1\n exit", None),
        # Its result is any number, whatever the body gives for these arguments.
        (
            "5",
            "r2 = r10\n r2 += -16\n r2 += r0\n *(u8 *)(r2 + 0) = 0",
            "r0 = 1\n exit",
            Rule.POINTER_BOUNDS,
        ),
        # It is verified for all arguments, not for the one it is given.
        (
            "1",
            "",
            "r2 = r10\n r2 += -16\n r2 += r1\n *(u8 *)(r2 + 0) = 0\n r0 = 0\n exit",
            Rule.POINTER_BOUNDS,
        ),
        ("r10", "", "r0 = 0\n exit", Rule.HELPER_ARG),
        ("5", "", "exit", Rule.UNINIT_REG),
        ("5", "", "r0 = r10\n exit", Rule.RETURN_VALUE),
        ("5", "r0 = r1", "r0 = 0\n exit", Rule.UNINIT_REG),
    ],
)
def test_global_functions(argument: str, after: str, body: str, expected: Rule | None) -> None:
    text = GLOBAL.format(argument=argument, after=after, body=body)
    verdict = judge(text, global_type=NUMBER)
    if expected is None:
        assert isinstance(verdict, Accepted), verdict
    else:
        assert error(verdict)[0] is expected


def test_a_number_is_no_memory_for_a_global_function() -> None:
    text = GLOBAL.format(argument="5", after="", body="r0 = 0\n exit")
    assert error(judge(text, global_type=POINTER))[0] is Rule.HELPER_ARG


COUNTED = """
  r6 = 0
again:
  r6 += 1
  if r6 < {turns} goto again
  r0 = 0
  exit
"""


# Ten branches, of which no two leave equal states.
FORKS = "r7 = 0\n" + "\n".join(
    f"call random\nif r0 == {bit} goto +1\nr7 += {1 << bit}" for bit in range(10)
)


@pytest.mark.parametrize("states", [1, 3, 10, 40])
def test_a_budget_of_states_is_kept(states: int) -> None:
    code = FORKS + "\nr0 = r7\nif r0 != 0 goto +0\nr0 = 0\nexit"
    verdict = judge(code, options=Options(budget_states=states))
    assert isinstance(verdict, Inconclusive)
    assert verdict.finding.rule is Rule.BUDGET
    held = int(verdict.finding.message.removeprefix("too many states: "))
    assert states < held <= states + 4
    assert "--budget-states" in verdict.finding.suggestion


def test_budget_is_a_limit_not_a_verdict() -> None:
    verdict = judge(COUNTED.format(turns=10_000), options=Options(budget_insns=1000))
    assert isinstance(verdict, Inconclusive)
    assert verdict.finding.kind is Kind.LIMIT
    assert isinstance(
        judge(COUNTED.format(turns=400), options=Options(budget_insns=1000)), Accepted
    )


def test_numbers_that_do_not_matter_do_not_double_the_paths() -> None:
    """30 branches that leave different numbers behind would be 2**30 paths."""
    branches = "".join(
        f"if r7 & {1 << bit % 30} goto +1\n r8 += {bit + 1}\n *(u64 *)(r10 - 8) = r8\n"
        for bit in range(30)
    )
    text = f"call 7\n r7 = r0\n r8 = 0\n {branches} r0 = r8\n exit"
    verdict = judge(text)
    assert isinstance(verdict, Accepted)
    assert verdict.stats.processed_insns < 2000


def test_numbers_that_matter_are_not_pruned_away() -> None:
    """The second way to `use` brings an offset that the first did not have."""
    text = """
      call 7
      r6 = 0
      if r0 > 5 goto +1
      r6 = {far}
      r7 = r6
      goto use
    use:
      r1 = r10
      r1 += -8
      r1 += r7
      *(u8 *)(r1 + 0) = 1
      r0 = 0
      exit
    """
    assert isinstance(judge(text.format(far=7)), Accepted)
    assert error(judge(text.format(far=8)))[0] is Rule.STACK_ACCESS


def test_every_error_is_found_if_asked_for() -> None:
    text = """
      call 7
      if r0 > 5 goto other
      r1 = 0
      r0 = *(u64 *)(r1 + 0)
      exit
    other:
      r0 = r9
      exit
    """
    one = judge(text)
    every = judge(text, options=Options(all_errors=True))
    assert isinstance(one, Rejected)
    assert isinstance(every, Rejected)
    assert len(one.errors) == 1
    assert {e.rule for e in every.errors} == {Rule.NOT_A_POINTER, Rule.UNINIT_REG}


def test_harm_is_claimed_only_where_every_run_comes_by() -> None:
    fault = "r1 = 0\n r0 = *(u64 *)(r1 + 0)\n exit"
    assert error(judge(fault))[1] is Kind.UNSAFE
    assert error(judge(f"call 7\n if r0 == 0 goto +0\n {fault}"))[1] is Kind.UNPROVEN


def test_trace_sees_every_step() -> None:
    class Steps(Observer):
        def __init__(self) -> None:
            self.seen: list[int] = []

        def step(self, pc: int, state: State) -> None:
            assert len(state.frame.regs) == 11
            self.seen.append(pc)

    watch = Steps()
    verdict = judge(COUNTED.format(turns=3), options=Options(observer=watch))
    assert watch.seen == [0, 1, 2, 1, 2, 1, 2, 3, 4]
    assert verdict.stats.processed_insns == len(watch.seen)


def test_an_observer_hears_how_each_path_begins_and_ends() -> None:
    class Story(Observer):
        def __init__(self) -> None:
            self.told: list[tuple[str, int]] = []

        def resumed(self, origin: int, pc: int, state: State) -> None:
            self.told.append((f"from {origin} to", pc))

        def ended(self, pc: int, state: State) -> None:
            self.told.append(("ended", pc))

        def refused(self, pc: int, state: State, refused: Refused) -> None:
            self.told.append((refused.rule.value, pc))

    watch = Story()
    judge(
        "call 7\n if r0 == 0 goto +2\n r0 = 0\n exit\n r0 = r9\n exit",
        options=Options(observer=watch),
    )
    assert watch.told == [
        ("from -1 to", 0),
        ("ended", 3),
        ("from 1 to", 4),
        ("uninitialised-register", 4),
    ]

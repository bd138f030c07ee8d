"""Compiled code and the interpreter do the same: a few thousand of the campaign's programs, every
budget of some, and proof that the comparison notices what is wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pybpfvm.errors import InputError, InternalError, Trap
from pybpfvm.fuzz.agreement import (
    Outcome,
    World,
    compared,
    compiler,
    difference,
    interpreter,
    interpreters,
    outcome,
    settled,
)
from pybpfvm.fuzz.emitter_goals import Goals, extremes, shown
from pybpfvm.fuzz.raw_programs import FAMILIES, Case, generate, steered
from pybpfvm.fuzz.visible import insn
from pybpfvm.isa.asm import assemble
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import AluOp, Kind, Pseudo
from pybpfvm.isa.table import TABLE
from pybpfvm.jit import templates
from pybpfvm.jit.emit import alu
from pybpfvm.jit.engine import JitEngine
from pybpfvm.jit.options import Checks
from pybpfvm.jit.state import State
from pybpfvm.profiles import PROFILES
from pybpfvm.program import Program
from tests.jit import campaign
from tests.jit.campaign import (
    Journal,
    Pairs,
    agreement,
    fingerprint,
    hostile,
    run_chunk,
)
from tests.support.journal import Chunk

SEEDS = range(12)


def of_program(program: Program) -> Case:
    """A case of this program alone, run once."""
    base = generate(0, "straight", programs=1)
    made = replace(base.object, programs=(program,))
    return replace(base, object=made, runs=((0, 400),), hooked=False, strict_ctx=True)


def agree(case: Case, checks: Checks) -> int:
    runs, difference = compared(case, checks, outcome(case, interpreter))
    assert difference is None, difference
    return runs


@pytest.mark.parametrize("family", FAMILIES)
def test_engines_agree(family: str) -> None:
    runs = dict.fromkeys(Checks, 0)
    for seed in SEEDS:
        case = generate(seed, family)
        wanted = outcome(case, interpreter)
        for checks in Checks:
            count, difference = compared(case, checks, wanted)
            assert difference is None, difference
            runs[checks] += count
    assert runs[Checks.EXACT] == 24 * len(SEEDS)
    assert runs[Checks.PAGES] > 10
    if family in ("straight", "branches", "calls"):
        assert runs[Checks.NONE] > 10 * len(SEEDS)


@pytest.mark.parametrize("family", ["branches", "calls", "helpers", "lost", "hostile"])
def test_every_budget_ends_alike(family: str) -> None:
    case = generate(11, family, programs=1)
    agree(replace(case, runs=tuple((0, budget) for budget in range(150))), Checks.EXACT)


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Templates are asked each time: what they gave before is not remembered."""
    monkeypatch.setattr("pybpfvm.jit.emit.alu", alu.__wrapped__)


@pytest.mark.usefixtures("forgetful")
def test_shifts_without_bmi2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "HAS_BMI2", False)
    for seed in range(20, 30):
        agree(generate(seed, "straight"), Checks.EXACT)


def test_the_generator_uses_every_row() -> None:
    used = {
        one.spec
        for seed in range(40)
        for program in generate(seed, "pairs").object.programs
        for one in program.insns
    }
    assert used == set(TABLE)


def test_every_pair_and_every_extreme_is_emitted() -> None:
    """Steered by what is left it takes a thousand programs; counted here from their text."""
    goals, pairs, programs = Goals(), Pairs(), 0
    assert goals.left == pairs.all + sum(len(extremes(spec)) for spec in TABLE)
    for case in steered(0, 32):
        reference = interpreters()
        wanted = outcome(case, reference)
        for checks in (Checks.EXACT, Checks.PAGES):
            _, difference = compared(case, checks, wanted, reference)
            assert difference is None, difference
        for program in case.object.programs:
            goals.note(program)
            pairs.add(program)
            programs += 1
    assert not goals.left
    assert not pairs.missing()
    assert programs < 1_500


def test_steering_is_what_does_it() -> None:
    """As many programs that are not steered leave a quarter of the pairs, and many extremes."""
    goals = Goals()
    for seed in range(32):
        for program in generate(seed, "pairs", 32).object.programs:
            goals.note(program)
    assert sum(len(left) for left in goals.behind.values()) > 5_000
    assert sum(len(left) for left in goals.extremes.values()) > 1_000


def test_extremes_are_what_they_say() -> None:
    """An example of each sort, and what is none."""
    atomic = next(spec for spec in TABLE if spec.kind is Kind.ATOMIC and spec.size == 8)
    for made, extreme in (
        (insn("add64_x", 2, 10), ("registers", 2, 10)),
        (insn("lsh32_k", 3, imm=63), ("imm", 63, 0)),
        (insn("ldxw", 1, 7, -129), ("address", 7, -129)),
        (insn("stxb", 10, 6, -128), ("value", 6, 0)),
        (Insn(atomic, 10, 1, -12), ("unaligned", 0, 0)),
    ):
        assert extreme in extremes(made.spec)
        assert extreme in shown(made)
    assert ("unaligned", 0, 0) not in shown(Insn(atomic, 10, 1, -16))
    assert ("address", 10, -16) not in shown(insn("stxb", 9, 6, -16))


def test_cases_are_what_they_say() -> None:
    assert generate(5, "calls") == generate(5, "calls")
    assert generate(5, "calls") != generate(6, "calls")
    assert generate(3).family == FAMILIES[3]


# --- the comparison notices -----------------------------------------------------------------------


def differs(family: str, checks: Checks = Checks.EXACT) -> str:
    for seed in range(20):
        case = generate(seed, family)
        _, difference = compared(case, checks, outcome(case, interpreter))
        if difference is not None:
            return difference
    pytest.fail("nothing was noticed")


@pytest.mark.parametrize("checks", Checks)
@pytest.mark.usefixtures("forgetful")
def test_a_wrong_operation_is_noticed(checks: Checks, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(insn: Insn, dst: int, wide: bool) -> bytes:
        return templates._neg(insn, dst, not wide)

    monkeypatch.setitem(templates.ALU, AluOp.NEG, wrong)
    assert f"checks {checks.name}" in differs("straight", checks)


def test_a_wrong_count_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = vars(JitEngine)["executed"].fget
    monkeypatch.setattr(JitEngine, "executed", property(lambda engine: counted(engine) + 1))
    assert ": end" in differs("branches")


def test_a_check_too_few_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def wider(self: State, disp: int, start: int, length: int) -> None:
        original(self, disp, start, length + 64)

    original = State.set_site
    monkeypatch.setattr(State, "set_site", wider)
    differs("hostile")


# --- what was wrong once --------------------------------------------------------------------------

# What was wrong, the programs, the profile, checks.
ONCE_WRONG = {
    "an access beside the frame that reaches another": (
        "r1 = 5\n*(u64 *)(r10 + 8184) = r1\nr0 = *(u64 *)(r10 + 8184)\nexit",
        None,
        (Checks.EXACT, Checks.PAGES),
    ),
    "a main function that calls itself keeps registers": (
        "if r7 == 9 goto +5\nr6 = 5\nr7 = 9\ncall pc-4\nr0 = r6\nexit\nr6 = 1\nexit",
        None,
        (Checks.EXACT, Checks.PAGES),
    ),
    "a call into the second half of a constant": (
        "r0 = 0x5 ll\nr0 += 1\nif r0 == 6 goto +1\ncall pc-4\nexit",
        None,
        (Checks.EXACT, Checks.PAGES),
    ),
    "a call in front of the program, and a value that may not be returned": (
        "r0 = 9\nif r0 == 9 goto +1\ncall pc-100\nexit",
        "iouring-v2",
        (Checks.EXACT,),
    ),
    "registers at a refused return": (
        "r0 = 3\nr1 = 4\nr9 = 5\nexit",
        "iouring-v2",
        (Checks.EXACT,),
    ),
    "a fault at the very end of the code": (
        "r1 = 1\nlock *(u64 *)(r1 + 0) += r0\nexit",
        None,
        (Checks.EXACT, Checks.PAGES),
    ),
    "packet pointers in a context": (
        "r2 = *(u32 *)(r1 + 0)\nr3 = *(u32 *)(r1 + 4)\nr3 -= r2\nr0 = r3\nexit",
        "xdp",
        tuple(Checks),
    ),
    "why an atomic operation on the context is refused": (
        "lock *(u32 *)(r1 + 0) ^= r2\nexit",
        "iouring-v3",
        (Checks.EXACT,),
    ),
    "load-acquire from the context": (
        "r2 = load_acquire((u32 *)(r1 + 8))\nr0 = 0\nexit",
        "iouring-v3",
        (Checks.EXACT,),
    ),
    "control that leaves the program is seen by hooks": (
        "r0 = 1\ngoto +100",
        None,
        (Checks.EXACT,),
    ),
}


@pytest.mark.parametrize("name", ONCE_WRONG)
@pytest.mark.parametrize("hooked", [False, True])
def test_once_wrong(name: str, hooked: bool) -> None:
    text, profile, all_checks = ONCE_WRONG[name]
    program = Program("p0", "x", assemble(text))
    base = generate(0, "straight", programs=1)
    case = replace(
        base,
        object=replace(base.object, programs=(program,)),
        runs=tuple((0, budget) for budget in (400, 400, *range(12))),
        profile=None if profile is None else PROFILES[profile],
        ctx=bytes(24),
        packet=bytes(range(64)),
        strict_ctx=True,
        hooked=hooked,
    )
    wanted = outcome(case, interpreter)
    for checks in all_checks:
        # Also what engines with pages need not promise: here they do.
        got = outcome(case, compiler(checks))
        assert difference(case, wanted, got, checks) is None


# Constants that nobody can give, where no run comes by: refused all the same, before the first run.
UNLOADABLE = {
    "unreached": (insn("exit"), insn("lddw", 2, Pseudo.MAP_FD, imm=1), insn("exit")),
    "refused before": (insn("mov64_k", 10), insn("lddw", 2, Pseudo.MAP_FD, imm=1), insn("exit")),
    "into r10": (insn("lddw", 10, Pseudo.MAP_IDX, imm=99), insn("exit")),
}


@pytest.mark.parametrize("name", UNLOADABLE)
def test_constants_are_all_judged_first(name: str) -> None:
    case = of_program(Program("p0", "x", UNLOADABLE[name]))
    wanted = outcome(case, interpreter)
    assert [end[0] for end in wanted.ends] == ["refused"]
    for checks in (Checks.EXACT, Checks.PAGES):
        assert compared(case, checks, wanted) == (1, None)


def test_settled_cases_keep_what_ends_well() -> None:
    case, done = settled(generate(1, "hostile"))
    assert done.broken is None
    assert 0 < len(case.runs) < 24


def test_pieces_leave_nothing_behind() -> None:
    """Each run out of fuel compiled a piece with access sites of its own: they added up."""
    case = generate(2, "straight", programs=1)
    with World(case, compiler(Checks.EXACT)) as world:
        engine = world.engine
        assert isinstance(engine, JitEngine)
        program = case.object.programs[0]
        sites = []
        for _ in range(3):
            for budget in range(60):
                world.run_one(Outcome(), program, budget)
            sites.append(engine._state.sites())
    assert sites[0] == sites[1] == sites[2]


def test_a_closed_engine_says_so() -> None:
    case = generate(0, "straight", programs=1)
    for how in ("engine", "memory"):
        world = World(case, compiler(Checks.EXACT))
        (world.engine if how == "engine" else world.image).close()
        with pytest.raises(InputError, match="closed"):
            world.engine.run(case.object.programs[0], world.ctx.start)
        world.close()


def test_closing_a_running_engine_is_refused() -> None:
    case = replace(generate(0, "pairs", programs=1), observed=False)
    with World(case, compiler(Checks.EXACT)) as world:

        def hook(*_: object) -> None:
            world.image.close()

        world.engine.hook = hook
        with pytest.raises(InternalError, match="while it runs"):
            world.engine.run(case.object.programs[0], world.ctx.start)
        world.engine.hook = None
        world.engine.run(case.object.programs[0], world.ctx.start)


# --- the campaigns, in small ----------------------------------------------------------------------


def test_a_chunk_of_the_campaign_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    tally = agreement(10, 0)
    assert tally.programs == 320
    assert not tally.differences
    assert tally.compared["EXACT"] == 480
    assert 0 < len(tally.pairs.seen) < tally.pairs.all
    assert len(tally.pairs.missing()) >= tally.pairs.all - len(tally.pairs.seen)
    assert "0 differences" in tally.table()
    monkeypatch.setattr(JitEngine, "executed", property(lambda _: 1))
    assert list(agreement(1, 1).differences) == ["1-EXACT", "1-NONE"]


def test_a_campaign_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    chunks = [Chunk("agreement", 1000 * first, 5) for first in range(3)]
    journal = Journal(path)
    for chunk in chunks[:2]:
        journal.add(chunk, run_chunk(chunk))
    again = Journal(path)
    assert [again.left(chunk) for chunk in chunks] == [False, False, True]
    assert again.tally(chunks[:2]) == journal.tally(chunks[:2])
    assert again.tally(chunks[:2]).programs == 320
    text = path.read_text()
    path.write_text(text[:-9])  # stopped while it wrote
    assert [Journal(path).left(chunk) for chunk in chunks] == [False, True, True]
    path.write_text(text.replace(fingerprint(), "other code"))
    assert all(Journal(path).left(chunk) for chunk in chunks)


def test_evidence_needs_the_whole_count_and_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A campaign of two workers, small enough for a test; what it does not reach is not kept."""
    settings = (("", "640"), ("_HOSTILE", "40"), ("_PART", "jit"), ("_DIR", str(tmp_path)))
    for name, value in settings:
        monkeypatch.setenv(f"PYBPFVM_ENGINES{name}", value)
    kept: list[str] = []
    monkeypatch.setattr(campaign, "keep", lambda name, *_: kept.append(name))
    monkeypatch.setattr(campaign, "CASES", 10)
    monkeypatch.setattr(campaign, "HOSTILE", 20)
    assert campaign.main() == 0
    assert not kept
    monkeypatch.setattr(campaign, "KEPT", 640)
    monkeypatch.setattr(campaign, "KEPT_HOSTILE", 40)
    monkeypatch.setattr(campaign, "run_chunk", None)  # all of it is in the journal
    assert campaign.main() == 0
    assert kept == ["engines"]


def test_hostile_programs_leave_no_traces() -> None:
    watched = hostile(600, 0)
    assert not watched.wrong
    assert watched.programs >= 600
    assert watched.ends["OUT_OF_BOUNDS"] > 50


def test_traces_are_noticed() -> None:
    watched = hostile(1, 4)
    case = generate(4, "hostile", programs=1)
    with World(case, compiler(Checks.PAGES)) as world:
        world.image.memory.write(world.canary.start + 5000, b"x")
        assert isinstance(world.engine, JitEngine)
        watched._look(4, Checks.PAGES, world, world.engine)
    assert any("canary was changed" in text for text in watched.wrong)
    with open("/dev/null", encoding="ascii"):
        watched.finish()
    assert any("open files" in text for text in watched.wrong)


def test_another_environment_judges_anew() -> None:
    """What a lenient run may do to the context, a strict one behind it may not."""
    text = "r2 = 1\n*(u64 *)(r1 + 8) = r2\nr0 = 0\nexit"
    program = Program("p0", "x", assemble(text))
    base = generate(0, "straight", programs=1)
    case = replace(
        base,
        object=replace(base.object, programs=(program,)),
        profile=PROFILES["iouring-v2"],
        ctx=bytes(16),
        strict_ctx=False,
    )
    for make in (interpreter, compiler(Checks.EXACT)):
        with World(case, make) as world:
            engine = world.engine
            for strict in (False, True, False, True):
                engine.environment = replace(engine.environment, strict_ctx=strict)
                if not strict:
                    assert engine.run(program, world.ctx.start).r0 == 0
                    continue
                with pytest.raises(Trap, match="context"):
                    engine.run(program, world.ctx.start)


def test_a_context_elsewhere_in_its_region_is_judged_anew() -> None:
    text = "r3 = *(u32 *)(r1 + 0)\nr2 = 1\nif r3 == 0 goto +1\nr1 += -8\n"
    text += "*(u64 *)(r1 + 8) = r2\nr0 = 0\nexit"
    program = Program("p0", "x", assemble(text))
    base = generate(0, "straight", programs=1)
    case = replace(
        base,
        object=replace(base.object, programs=(program,)),
        profile=PROFILES["iouring-v3"],
        ctx=bytes(64),
        strict_ctx=False,
    )
    for make in (interpreter, compiler(Checks.EXACT)):
        with World(case, make) as world:
            # Its wait fields; then, where they were, the user_data, which is read-only.
            assert world.engine.run(program, world.ctx.start).r0 == 0
            with pytest.raises(Trap, match="context"):
                world.engine.run(program, world.ctx.start + 8)

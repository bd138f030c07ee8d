"""What is LLVM's own in the engine: fuel of whole ways, faults, the stack that is left, closing."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from pybpfvm.engine import Hook, RunEnvironment, RunResult
from pybpfvm.errors import InputError, Trap, TrapKind
from pybpfvm.jit.engine import SLICE_INSNS
from pybpfvm.jit.llvm import compiler
from pybpfvm.jit.llvm.engine import LlvmEngine
from pybpfvm.jit.llvm.unit import LlvmUnit
from pybpfvm.jit.options import Checks
from pybpfvm.memory import RegionKind
from pybpfvm.profiles import profile_named
from pybpfvm.program import MapSpec, MapType
from tests.support.vm import Machine


def machine(text: str, checks: Checks = Checks.EXACT, **options: object) -> Machine:
    """A machine whose engine is LLVM's; `counted` and what Machine takes are options."""
    counted = bool(options.pop("counted", True))
    made = Machine(text, **options)  # type: ignore[arg-type]
    made.engine.close()
    made.engine = LlvmEngine(  # type: ignore[assignment]
        made.image, made.helpers, made.environment, checks=checks, counted=counted, cache=None
    )
    return made


def trap(text: str, checks: Checks = Checks.EXACT, **options: object) -> Trap:
    budget = int(options.pop("budget_insns", 10_000))  # type: ignore[call-overload]
    with machine(text, checks, **options) as made, pytest.raises(Trap) as caught:
        made.run(budget)
    return caught.value


LOOP = "r1 = 1000\nr0 += r1\nr0 ^= 91\nr1 += -1\nif r1 != 0 goto -4\nexit"


def test_a_budget_ends_inside_a_way() -> None:
    for budget in (1, 2, 3, 7, 3999, 4000, 4001):
        stopped = trap(LOOP, budget_insns=budget)
        assert (stopped.kind, stopped.insns) == (TrapKind.BUDGET, budget)
        assert stopped.pc == (5 if budget == 4001 else 1 + (budget - 1) % 4)
    with machine(LOOP) as made:
        assert made.run(4002) == RunResult(500580, 4002)


def test_the_same_engine_runs_again_after_a_budget_ended() -> None:
    with machine(LOOP) as made:
        for _ in range(3):
            with pytest.raises(Trap):
                made.run(2001)
            assert made.run().insns == 4002


def test_python_is_entered_between_slices() -> None:
    turns = SLICE_INSNS // 2
    with machine(f"r1 = {turns}\nr1 += -1\nif r1 != 0 goto -2\nr0 = 0\nexit") as made:
        assert made.run(1 << 40).insns == 2 * turns + 3


def test_a_function_that_goes_forward_is_part_of_its_callers_way() -> None:
    text = "r6 = 5\ncall pc+4\nr6 += -1\nif r6 != 0 goto -3\nr0 = r6\nexit\nr0 = 1\nr0 += 1\nexit"
    with machine(text) as made:
        assert made.run() == RunResult(0, 33)
    for budget in range(1, 33):
        with machine(text) as ours, Machine(text) as reference:
            ends = []
            for engine in (ours, reference):
                with pytest.raises(Trap) as caught:
                    engine.run(budget)
                ends.append((caught.value.kind, caught.value.pc, caught.value.insns))
            assert ends[0] == ends[1]


def test_recursion_ends_with_the_frames() -> None:
    assert trap("call pc-1\nexit").kind is TrapKind.STACK_DEPTH


def test_a_helper_that_raises_shows_the_registers() -> None:
    stopped = trap("r6 = 77\nr1 = 1\nr2 = 2\ncall map_lookup_elem\nr0 = r6\nexit")
    assert stopped.kind is TrapKind.BAD_HELPER_ARG
    assert (stopped.pc, stopped.insns) == (3, 4)
    assert stopped.regs[1:3] == (1, 2)
    assert stopped.regs[6] == 77


def test_registers_that_nothing_reads_again_are_0() -> None:
    stopped = trap("r7 = 9\nr6 = 8\nr0 = *(u64 *)(r1 + 512)\nr0 += r6\nexit")
    assert (stopped.regs[6], stopped.regs[7]) == (8, 0)


@pytest.mark.parametrize(
    ("text", "kind", "pc", "insns"),
    [
        ("r2 = 5\nr0 = *(u64 *)(r2 + 3)\nexit", TrapKind.NULL, 1, 2),
        (
            "r2 = 0\nr0 = *(u8 *)(r1 + 0)\nr0 = *(u32 *)(r1 + 4096)\nexit",
            TrapKind.OUT_OF_BOUNDS,
            2,
            3,
        ),
        # A load whose value nobody wants, a store that another one covers.
        ("r0 = 0\nr2 = 16\nr3 = *(u64 *)(r2 + 0)\nexit", TrapKind.NULL, 2, 3),
        ("r2 = 16\n*(u64 *)(r2 + 0) = 1\n*(u64 *)(r2 + 0) = 2\nexit", TrapKind.NULL, 1, 2),
        (
            "r6 = r1\ncall pc+2\nr0 = 0\nexit\nr2 = 9\nr0 = *(u8 *)(r2 + 0)\nexit",
            TrapKind.NULL,
            5,
            4,
        ),
        ("r2 = r1\nr2 += 1\nlock *(u32 *)(r2 + 0) += r3\nexit", TrapKind.MISALIGNED, 2, 3),
    ],
)
def test_faults_have_their_place(text: str, kind: TrapKind, pc: int, insns: int) -> None:
    for checks in (Checks.PAGES, Checks.EXACT):
        stopped = trap(text, checks)
        assert (stopped.kind, stopped.pc, stopped.insns) == (kind, pc, insns), checks


def test_user_memory_is_named_by_a_fault() -> None:
    with machine("r0 = *(u64 *)(r1 + 0)\nr0 = *(u64 *)(r0 + 0)\nexit", Checks.PAGES) as made:
        memory = made.image.memory
        user = memory.alloc(64, RegionKind.USER, "user")
        memory.write(made.ctx_region.start, user.start.to_bytes(8, "little"))
        with pytest.raises(Trap) as caught:
            made.run()
    assert caught.value.kind is TrapKind.USER_MEMORY


def test_uncounted_faults_have_a_place_too() -> None:
    stopped = trap("r2 = 5\nr0 = *(u64 *)(r2 + 3)\nexit", Checks.PAGES, counted=False)
    assert (stopped.kind, stopped.pc) == (TrapKind.NULL, 1)


_JUMPS = MapSpec("jumps", MapType.PROG_ARRAY, 4, 4, 2, slots={0: "other"})
_LEAP = "r2 = map[jumps] ll\nr3 = {}\ncall tail_call\nexit"


def tail(others: Mapping[str, str], slot: int, hook: Hook | None = None) -> RunResult:
    with machine(_LEAP.format(slot), maps=[_JUMPS], others=others) as made:
        return made.run(hook=hook)


def test_tail_calls() -> None:
    assert tail({"other": "r0 = 4\nexit"}, 0) == RunResult(4, 5)
    assert tail({"other": "r0 = 4\nexit"}, 1).r0 == (1 << 64) - 2  # -ENOENT


def test_watched_programs_run_on_templates() -> None:
    seen: list[int] = []
    tail({"other": "r0 = 4\nexit"}, 0, lambda _, pc, _regs, _depth: seen.append(pc))
    assert seen == [0, 2, 3, 0, 1]


def test_closing_gives_the_memory_back() -> None:
    with Machine(LOOP) as made:
        before = made.image.memory.committed_bytes
        for _ in range(3):
            engine = LlvmEngine(made.image, made.helpers, RunEnvironment(), cache=None)
            with pytest.raises(Trap):
                engine.run(made.program, made.ctx_region.start, budget_insns=100)
            engine.close()
            engine.close()
        assert made.image.memory.committed_bytes == before


def test_without_llvmlite_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "llvmlite.binding", None)
    with pytest.raises(InputError, match=r"pip install pybpfvm\[llvm\]"):
        compiler.compiler.__wrapped__()


_COUNTS = MapSpec("counts", MapType.ARRAY, 4, 8, 16)
_TABLE = MapSpec("table", MapType.HASH, 8, 8, 16)


@pytest.mark.parametrize("checks", [Checks.NONE, Checks.EXACT])
@pytest.mark.parametrize(("name", "key"), [("counts", 5), ("counts", 16), ("table", 5)])
def test_lookups_are_linked(name: str, key: int, checks: Checks) -> None:
    text = (
        f"*(u64 *)(r10 - 8) = {key}\nr2 = r10\nr2 += -8\nr1 = map[{name}] ll\n"
        "call map_lookup_elem\nr6 = r0\nif r0 == 0 goto +1\nr0 = *(u64 *)(r0 + 0)\nexit"
    )
    with machine(text, checks, maps=[_COUNTS, _TABLE]) as made:
        live = made.image.maps[name]
        size = live.spec.key_size
        if key < 16:
            live.host_update(key.to_bytes(size, "little"), (99).to_bytes(8, "little"))
        for _ in range(2):
            assert made.run().r0 == (99 if key < 16 else 0)
        engine = made.engine
        assert isinstance(engine, LlvmEngine)
        unit = engine.unit(made.program)
        assert isinstance(unit, LlvmUnit)
        assert all(place.ask is not None for place in unit.places)  # no helper is called


def test_keys_of_linked_lookups_are_checked() -> None:
    text = "r2 = r1\nr2 += 12\nr1 = map[table] ll\ncall map_lookup_elem\nexit"
    stopped = trap(text, maps=[_TABLE])
    assert (stopped.kind, stopped.pc, stopped.insns) == (TrapKind.OUT_OF_BOUNDS, 4, 4)


@pytest.mark.parametrize(("abi", "shares"), [("iouring-v3", False), ("iouring-x", True)])
def test_memory_that_others_change_is_loaded_where_it_stands(abi: str, shares: bool) -> None:
    text = "r2 = *(u64 *)(r10 - 8)\nr2 += 1\n*(u64 *)(r10 - 8) = r2\nr0 = 0\nexit"
    environment = RunEnvironment(profile=profile_named(abi))
    with machine(text, Checks.NONE, environment=environment) as made:
        engine = made.engine
        assert isinstance(engine, LlvmEngine)
        program = made.image.programs["main"]
        written = engine._ir(program, engine._build_for(program)).emit().text
        accesses = [line for line in written.splitlines() if "ptr" in line and "align 1" in line]
        assert len(accesses) == 2
        assert all(("volatile" in line) is shares for line in accesses)

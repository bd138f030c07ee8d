"""The reference interpreter: results, exact traps, frames, calls, budgets, hooks."""

from __future__ import annotations

import errno
from collections.abc import Mapping

import pytest

from pybpfvm.bits import U64
from pybpfvm.engine import RunEnvironment
from pybpfvm.errors import InputError, SourceLine, Trap, TrapKind
from pybpfvm.events import Event, HelperCalled
from pybpfvm.helpers.context import HelperContext
from pybpfvm.helpers.proto import ArgType, Helper, RetType
from pybpfvm.isa.opcodes import MAX_TAIL_CALLS, MAY_GOTO_ITERATIONS
from pybpfvm.memory import RegionKind
from pybpfvm.profiles import PROFILES
from pybpfvm.program import MapSpec, MapType, Program, Subprog
from tests.support.vm import BASE_HELPERS, Machine, r0

VALUES = MapSpec("values", MapType.ARRAY, key_size=4, value_size=64, max_entries=4)
PROGS = MapSpec("progs", MapType.PROG_ARRAY, 4, 4, 2, slots={0: "other"})


def trap_of(text: str, budget_insns: int = 100_000, **options: object) -> Trap:
    """The Trap that running `text` ends in."""
    with Machine(text, **options) as machine, pytest.raises(Trap) as caught:  # type: ignore[arg-type]
        machine.run(budget_insns)
    return caught.value


# Results.

PROGRAMS = [
    ("lddw counts one", "r0 = 0x1122334455667788 ll\nexit", 0x1122_3344_5566_7788),
    ("negative immediates extend", "r0 = -1\nexit", U64),
    ("32-bit moves do not", "w0 = -1\nexit", 0xFFFF_FFFF),
    ("everything but r1 and r10 starts as 0", "r0 = r2\nr0 |= r9\nr0 |= r5\nexit", 0),
    ("the stack starts zeroed", "r0 = *(u64 *)(r10 - 512)\nexit", 0),
    ("plain accesses may be unaligned", "*(u64 *)(r10 - 15) = r10\nr0 = 3\nexit", 3),
    ("bytes lie in little-endian order", "*(u32 *)(r10 - 8) = 1\nr0 = *(u8 *)(r10 - 8)\nexit", 1),
    ("goto skips", "r0 = 1\ngoto +1\nr0 = 2\nexit", 1),
    ("gotol skips", "r0 = 1\ngotol +1\nr0 = 2\nexit", 1),
]


@pytest.mark.parametrize(
    ("text", "result"), [row[1:] for row in PROGRAMS], ids=[r[0] for r in PROGRAMS]
)
def test_result(text: str, result: int) -> None:
    assert r0(text) == result


def test_big_endian_programs_store_and_convert_in_their_order() -> None:
    text = "*(u32 *)(r10 - 8) = 1\nr0 = *(u8 *)(r10 - 5)\nr1 = 0x1234\nr1 = le16 r1\nr0 += r1\nexit"
    assert r0(text, big_endian=True) == 1 + 0x3412


def test_executed_instructions_are_counted_with_callbacks() -> None:
    with Machine("r0 = 0x1 ll\nr0 += 1\nexit") as machine:
        assert machine.run().insns == 3


def test_a_second_run_sees_a_zeroed_stack() -> None:
    with Machine("r0 = *(u64 *)(r10 - 8)\n*(u64 *)(r10 - 8) = 7\nexit") as machine:
        assert [machine.run().r0 for _ in range(2)] == [0, 0]


# Traps: kind, and the pc they name.

TRAPS = [
    ("past the frame", "r0 = 1\nr0 = *(u64 *)(r10 + 0)\nexit", TrapKind.OUT_OF_BOUNDS, 1),
    ("below the frame", "*(u8 *)(r10 - 513) = 1\nexit", TrapKind.OUT_OF_BOUNDS, 0),
    ("straddling the frame's end", "r0 = *(u64 *)(r10 - 4)\nexit", TrapKind.OUT_OF_BOUNDS, 0),
    ("null", "r0 = *(u32 *)(r0 + 8)\nexit", TrapKind.NULL, 0),
    ("wild", "r0 = 0xdead0000dead0000 ll\nr0 = *(u8 *)(r0 + 0)\nexit", TrapKind.OUT_OF_BOUNDS, 2),
    ("map handle", "r1 = map[values]\nr0 = *(u64 *)(r1 + 0)\nexit", TrapKind.NOT_MEMORY, 2),
    ("misaligned atomic", "lock *(u64 *)(r10 - 12) += r1\nexit", TrapKind.MISALIGNED, 0),
    ("misaligned acquire", "r0 = load_acquire((u32 *)(r10 - 6))\nexit", TrapKind.MISALIGNED, 0),
    ("endless loop", "goto -1\nexit", TrapKind.BUDGET, 0),
    ("running off the end", "r0 = 0", TrapKind.BAD_PC, 0),
    ("jump off the end", "r0 = 0\ngoto +7\nexit", TrapKind.BAD_PC, 1),
    ("jump into an lddw", "if r0 == 0 goto +1\nr1 = 5 ll\nexit", TrapKind.BAD_PC, 0),
    ("call into the blue", "call pc+9\nexit", TrapKind.BAD_PC, 0),
    ("unknown helper", "call 4242\nexit", TrapKind.BAD_HELPER, 0),
    ("frame pointer written", "r10 += 8\nexit", TrapKind.BAD_INSN, 0),
    ("frame pointer fetched into", "r10 = xchg_64(r10 - 8, r10)\nexit", TrapKind.BAD_INSN, 0),
    ("no packet", "r6 = r1\nr0 = *(u8 *)skb[0]\nexit", TrapKind.UNSUPPORTED, 1),
    ("no arena", "r1 = addr_space_cast(r1, 0, 1)\nexit", TrapKind.UNSUPPORTED, 0),
]  # fmt: skip


@pytest.mark.parametrize(("text", "kind", "pc"), [r[1:] for r in TRAPS], ids=[r[0] for r in TRAPS])
def test_trap(text: str, kind: TrapKind, pc: int) -> None:
    trap = trap_of(text, maps=(VALUES,))
    assert (trap.kind, trap.pc, trap.program) == (kind, pc, "main")


def test_a_jump_that_is_not_taken_may_lead_anywhere() -> None:
    assert r0("r0 = 1\nif r0 == 2 goto +90\nexit") == 1


def test_a_trap_tells_everything() -> None:
    line = SourceLine("count.c", 21, 3, "  return *value;")
    trap = trap_of("r3 = 7\nr0 = *(u16 *)(r3 + 1)\nexit", lines={0: line})
    assert (trap.kind, trap.addr, trap.size) == (TrapKind.NULL, 8, 2)
    assert trap.insn == "r0 = *(u16 *)(r3 +1)"
    assert trap.source == line
    assert trap.regs[3] == 7
    assert len(trap.regs) == 11
    assert "count.c:21" in str(trap)
    assert "0x8" in str(trap)


def test_a_trap_shows_registers_before_the_instruction() -> None:
    trap = trap_of("r0 = 5\nr1 = 6\nr0 = cmpxchg_64(r1 + 0, r0, r1)\nexit")
    assert trap.regs[:2] == (5, 6)


def test_frozen_maps_and_user_memory_are_refused() -> None:
    rodata = MapSpec(".rodata", MapType.ARRAY, 4, 8, 1, flags=1 << 7, data=b"12345678", frozen=True)
    text = "r1 = map[.rodata][0]+0\nr0 = *(u8 *)(r1 + 1)\n*(u8 *)(r1 + 1) = 0\nexit"
    trap = trap_of(text, maps=(rodata,))
    assert (trap.kind, trap.pc, trap.regs[0]) == (TrapKind.READ_ONLY, 3, ord("2"))
    with Machine("r1 = *(u64 *)(r1 + 0)\nr0 = *(u8 *)(r1 + 0)\nexit") as machine:
        memory = machine.image.memory
        block = memory.alloc(8, RegionKind.USER, "block")
        memory.write(machine.ctx_region.start, block.start.to_bytes(8, "little"))
        with pytest.raises(Trap) as caught:
            machine.run()
    assert (caught.value.kind, caught.value.addr) == (TrapKind.USER_MEMORY, block.start)


def test_a_map_that_is_not_there_is_bad_input() -> None:
    with Machine("r1 = map[values]\nexit", maps=(VALUES,)) as machine:
        bad = Program("bad", "socket", machine.program.insns)
        machine.image._by_index.clear()
        with pytest.raises(InputError, match="map index 0"):
            machine.engine.run(bad, machine.ctx_region.start)


# Frames and subprograms.


def test_a_subprogram_has_its_own_frame_and_keeps_the_callers_registers() -> None:
    text = """
      r6 = 60
      *(u64 *)(r10 - 8) = 8
      r1 = 1
      call add
      r0 += r6
      r1 = *(u64 *)(r10 - 8)
      r0 += r1
      exit
    add:
      r0 = *(u64 *)(r10 - 8)
      r0 += r1
      r6 = 0
      *(u64 *)(r10 - 8) = 99
      exit
    """
    assert r0(text) == 1 + 60 + 8


def test_arguments_read_0_after_a_call() -> None:
    assert r0("r1 = 5\nr5 = 6\ncall f\nr0 = r1\nr0 |= r5\nexit\nf:\nr1 = 9\nexit") == 0


def test_a_callee_may_use_the_callers_stack_through_a_pointer() -> None:
    text = (
        "r1 = r10\nr1 += -8\ncall f\nr0 = *(u64 *)(r10 - 8)\nexit\nf:\n*(u64 *)(r1 + 0) = 5\nexit"
    )
    assert r0(text) == 5


@pytest.mark.parametrize(("deep", "fits"), [(7, True), (8, False)])
def test_eight_frames(deep: int, fits: bool) -> None:
    """Functions that call the next one: the main program and 7 more are 8 frames."""
    lines = ["call f1", "exit"]
    for number in range(1, deep + 1):
        lines += [f"f{number}:", "r0 += 1"]
        lines += [f"call f{number + 1}"] if number < deep else []
        lines += ["exit"]
    if fits:
        assert r0("\n".join(lines)) == deep
    else:
        assert trap_of("\n".join(lines)).kind is TrapKind.STACK_DEPTH


def test_falling_into_the_next_function_traps() -> None:
    trap = trap_of("call f\nr0 = 1\nf:\nexit")
    assert (trap.kind, trap.pc) == (TrapKind.BAD_PC, 1)


# Budget, may_goto, hooks.


def test_the_budget_is_exact() -> None:
    with Machine("r0 = 1\nr0 = 2\nexit") as machine:
        assert machine.run(3).insns == 3
        with pytest.raises(Trap) as caught:
            machine.run(2)
        assert (caught.value.kind, caught.value.pc) == (TrapKind.BUDGET, 2)
        assert machine.run(3).r0 == 2


def test_may_goto_leaves_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAY_GOTO_ITERATIONS == 8 << 20
    monkeypatch.setattr("pybpfvm.vm.run.MAY_GOTO_ITERATIONS", 100)
    assert r0("r0 = 0\nmay_goto +2\nr0 += 1\ngoto -3\nexit") == 100


def test_a_hook_sees_each_instruction_before_it_happens() -> None:
    seen: list[tuple[str, int, int, int]] = []

    def hook(program: Program, pc: int, regs: tuple[int, ...], depth: int) -> None:
        seen.append((program.name, pc, regs[0], depth))

    with Machine("r0 = 3 ll\ncall f\nexit\nf:\nr0 += 1\nexit") as machine:
        machine.run(hook=hook)
        assert seen == [
            ("main", 0, 0, 0),
            ("main", 2, 3, 0),
            ("main", 4, 3, 1),
            ("main", 5, 4, 1),
            ("main", 3, 4, 0),
        ]
        seen.clear()
        machine.run()
        assert seen == []


# Helpers.


def _probe(result: int, args: tuple[ArgType, ...] = ()) -> Mapping[int, Helper]:
    def impl(ctx: HelperContext, a: int, b: int, c: int, d: int, e: int) -> int:
        return result

    return {900: Helper("probe", args, RetType.INTEGER, impl, "a test helper")}


def test_helper_results_are_words_and_arguments_are_gone() -> None:
    assert r0("call 900\nexit", helpers=_probe(-errno.EINVAL)) == -errno.EINVAL & U64
    assert r0("r1 = 1\nr3 = 3\ncall 900\nr0 = r1\nr0 |= r3\nexit", helpers=_probe(0)) == 0


def test_helper_calls_are_observed() -> None:
    events: list[Event] = []
    environment = RunEnvironment(observer=events.append, now_ns=lambda: 77)
    helpers = _probe(9, (ArgType.ANYTHING, ArgType.ANYTHING))
    r0("r1 = 4\nr2 = 5\nr3 = 6\ncall 900\nexit", helpers=helpers, environment=environment)
    assert events == [HelperCalled(77, "probe", 3, (4, 5), 9)]


def test_a_context_argument_must_be_the_context() -> None:
    helpers = _probe(1, (ArgType.PTR_TO_CTX,))
    assert r0("call 900\nexit", helpers=helpers) == 1
    trap = trap_of("r1 += 8\ncall 900\nexit", helpers=helpers)
    assert (trap.kind, trap.pc) == (TrapKind.BAD_HELPER_ARG, 1)


def test_a_helper_that_can_not_be_executed_says_so() -> None:
    helpers = {900: Helper("later", (), RetType.INTEGER, None, "not yet")}
    trap = trap_of("call 900\nexit", helpers=helpers)
    assert (trap.kind, trap.detail) == (TrapKind.UNSUPPORTED, "helper later")


def test_a_bad_pointer_given_to_a_helper_traps_at_the_call() -> None:
    text = "r1 = map[values]\nr2 = 16\ncall map_lookup_elem\nexit"
    trap = trap_of(text, maps=(VALUES,))
    assert (trap.kind, trap.pc, trap.addr) == (TrapKind.NULL, 3, 16)
    trap = trap_of("r1 = 16\nr2 = r10\ncall map_lookup_elem\nexit")
    assert (trap.kind, trap.pc) == (TrapKind.BAD_HELPER_ARG, 2)


def test_clock_cpu_and_random_numbers_come_from_the_environment() -> None:
    def environment() -> RunEnvironment:
        return RunEnvironment(now_ns=lambda: 123, cpu=1)

    assert r0("call ktime_get_ns\nexit", environment=environment()) == 123
    assert r0("call get_smp_processor_id\nexit", environment=environment(), cpus=2) == 1
    numbers = {r0("call get_prandom_u32\nexit", environment=environment()) for _ in range(3)}
    assert len(numbers) == 1
    assert max(numbers) < 1 << 32


LOOP = """
  r1 = {count}
  r2 = func each
  r3 = r10
  r3 += -8
  r4 = 0
  call loop
  r1 = *(u64 *)(r10 - 8)
  r1 <<= 32
  r0 |= r1
  exit
each:
  r3 = *(u64 *)(r2 + 0)
  r3 += r1
  *(u64 *)(r2 + 0) = r3
  r0 = 0
  if r1 != {stop} goto +1
  r0 = 1
  exit
"""


def _loop(count: int, stop: int) -> str:
    return LOOP.format(count=count, stop=stop)


# Of the main function, which is 11 slots long, and the callback.
LOOP_SUBPROGS = (Subprog("main", 0, 11), Subprog("each", 11, 18))


def test_callbacks_run_in_frames_of_their_own() -> None:
    value = r0(_loop(10, 99), subprogs=LOOP_SUBPROGS)
    assert (value & 0xFFFF_FFFF, value >> 32) == (10, 45)
    value = r0(_loop(10, 3), subprogs=LOOP_SUBPROGS)
    assert (value & 0xFFFF_FFFF, value >> 32) == (4, 6)


def test_a_trap_in_a_callback_names_the_callback() -> None:
    text = _loop(10, 99).replace("*(u64 *)(r2 + 0) = r3", "*(u64 *)(r2 + 8) = r3")
    trap = trap_of(text, subprogs=LOOP_SUBPROGS)
    assert (trap.kind, trap.pc) == (TrapKind.OUT_OF_BOUNDS, 13)


def test_callbacks_count_against_the_budget() -> None:
    trap = trap_of(_loop(1 << 22, 1 << 23), budget_insns=1000, subprogs=LOOP_SUBPROGS)
    assert trap.kind is TrapKind.BUDGET


def test_only_functions_can_be_called_back() -> None:
    text = _loop(1, 99).replace("r2 = func each", "r2 = r10")
    trap = trap_of(text, subprogs=LOOP_SUBPROGS)
    assert trap.kind is TrapKind.BAD_HELPER_ARG


# Tail calls.

TAIL_CALL = "r6 = r1\nr2 = map[progs]\nr3 = {slot}\ncall tail_call\nr0 = 7\nexit"


def test_a_tail_call_does_not_come_back() -> None:
    text = TAIL_CALL.format(slot=0)
    others = {"other": "r0 = *(u64 *)(r1 + 0)\nr0 += r6\nexit"}
    ctx = (40).to_bytes(8, "little")
    assert r0(text, others=others, maps=(PROGS,), ctx=ctx) == 40


@pytest.mark.parametrize("slot", [1, 9])
def test_a_tail_call_to_nothing_goes_on(slot: int) -> None:
    others = {"other": "r0 = 1\nexit"}
    assert r0(TAIL_CALL.format(slot=slot), others=others, maps=(PROGS,)) == 7


def test_the_34th_tail_call_goes_on() -> None:
    """Each run of `other` counts itself in the map and tail-calls itself."""
    counting = """
      r6 = r1
      r2 = map[values][0]+0
      r3 = *(u64 *)(r2 + 0)
      r3 += 1
      *(u64 *)(r2 + 0) = r3
      r1 = r6
      r2 = map[progs]
      r3 = 0
      call tail_call
      r2 = map[values][0]+0
      r0 = *(u64 *)(r2 + 0)
      exit
    """
    text = TAIL_CALL.format(slot=0)
    others = {"other": counting}
    assert r0(text, others=others, maps=(PROGS, VALUES)) == MAX_TAIL_CALLS


def test_a_tail_call_in_a_subprogram_returns_to_its_caller() -> None:
    text = "call f\nr0 += 1\nexit\nf:\n" + "r2 = map[progs]\nr3 = 0\ncall tail_call\nexit"
    assert r0(text, others={"other": "r0 = 41\nexit"}, maps=(PROGS,)) == 42


def test_a_trap_after_a_tail_call_names_the_program_it_is_in() -> None:
    others = {"other": "r0 = *(u64 *)(r10 + 8)\nexit"}
    trap = trap_of(TAIL_CALL.format(slot=0), others=others, maps=(PROGS,))
    assert (trap.program, trap.pc) == ("other", 0)


# Packets.


@pytest.mark.parametrize(
    ("load", "result"),
    [
        ("*(u8 *)skb[3]", 4),
        ("*(u16 *)skb[2]", 0x0304),
        ("*(u32 *)skb[4]", 0x05060708),
        ("*(u32 *)skb[r7 + 1]", 0x05060708),
    ],
)
def test_packet_bytes_come_in_network_order(load: str, result: int) -> None:
    assert r0(f"r6 = r1\nr7 = 3\nr0 = {load}\nexit", packet=bytes(range(1, 9))) == result


def test_a_load_outside_the_packet_ends_the_function_with_0() -> None:
    assert r0("r6 = r1\nr0 = *(u32 *)skb[6]\nr0 = 5\nexit", packet=bytes(8)) == 0
    assert r0("r6 = r1\nr7 = -1\nr0 = *(u8 *)skb[r7 + 0]\nr0 = 5\nexit", packet=bytes(8)) == 0


def test_a_failed_packet_load_in_a_subprogram_ends_only_that() -> None:
    text = "call f\nr0 += 5\nexit\nf:\nr6 = r1\nr0 = *(u8 *)skb[60]\nr0 += 1\nexit"
    assert r0(text, packet=bytes(8)) == 5


def test_packet_loads_want_the_context_in_r6() -> None:
    trap = trap_of("r0 = *(u8 *)skb[0]\nexit", packet=bytes(8))
    assert (trap.kind, trap.pc) == (TrapKind.CTX_ACCESS, 0)


# Contexts: what the ABI allows (abi/iouring-bpf-2021, section 2.3).

V1, V2, V3 = (PROFILES[f"iouring-{name}"] for name in ("v1", "v2", "v3"))
CTX_ROWS = [
    # profile, access, strict, lenient
    (V2, "r0 = *(u64 *)(r1 + 0)", True, True),
    (V2, "r0 = *(u32 *)(r1 + 0)", False, True),
    (V2, "r0 = *(u32 *)(r1 + 4)", False, True),
    (V2, "r0 = *(u64 *)(r1 + 8)", False, True),
    (V2, "r0 = *(u32 *)(r1 + 12)", True, True),
    (V2, "r0 = *(u64 *)(r1 + 12)", False, False),
    (V2, "r0 = *(u32 *)(r1 + 16)", False, False),
    (V2, "r0 = *(u32 *)(r1 - 4)", False, False),
    (V2, "*(u64 *)(r1 + 0) = r2", True, True),
    (V2, "*(u32 *)(r1 + 8) = r2", True, True),
    (V2, "*(u32 *)(r1 + 8) = 1", False, True),
    (V2, "lock *(u32 *)(r1 + 8) += r2", False, True),
    (V2, "*(u64 *)(r1 + 8) = r2", False, True),
    (V3, "*(u64 *)(r1 + 0) = r2", False, False),
    (V3, "*(u64 *)(r1 + 4) = r2", False, False),
    (V3, "*(u32 *)(r1 + 12) = r2", True, True),
    (V1, "r0 = *(u64 *)(r1 + 0)", False, True),
]


@pytest.mark.parametrize(("profile", "access", "strict", "lenient"), CTX_ROWS)
def test_context_access(profile: object, access: str, strict: bool, lenient: bool) -> None:
    for is_strict, allowed in ((True, strict), (False, lenient)):
        environment = RunEnvironment(profile=profile, strict_ctx=is_strict)  # type: ignore[arg-type]
        text = f"r2 = 0\n{access}\nr0 = 0\nexit"
        # The region is larger than the ABI's context: its bounds decide, not the region's.
        if allowed:
            assert r0(text, environment=environment, ctx=bytes(32)) == 0
        else:
            trap = trap_of(text, environment=environment, ctx=bytes(32))
            assert trap.pc == 1
            assert trap.kind in (TrapKind.CTX_ACCESS, TrapKind.OUT_OF_BOUNDS)


def test_return_values_outside_the_abi_trap_at_the_exit() -> None:
    environment = RunEnvironment(profile=V3)
    assert r0("r0 = 1\nexit", environment=environment) == 1
    trap = trap_of("r0 = 2\nexit", environment=environment)
    assert (trap.kind, trap.pc) == (TrapKind.BAD_RETURN, 1)
    # A subprogram's result is nobody's business.
    assert r0("call f\nr0 = 0\nexit\nf:\nr0 = 9\nexit", environment=environment) == 0


# Resources.


def test_closing_an_engine_gives_its_stack_back() -> None:
    with Machine("r0 = 0\nexit") as machine:
        before = machine.image.memory.committed_bytes
        machine.run()
        assert machine.image.memory.committed_bytes > before
        machine.engine.close()
        machine.engine.close()
        assert machine.image.memory.committed_bytes == before
        assert machine.run().r0 == 0


def test_a_trap_leaves_the_engine_usable() -> None:
    with Machine(
        "r0 = *(u64 *)(r1 + 0)\nif r0 == 0 goto +1\nr0 = *(u8 *)(r0 + 0)\nexit"
    ) as machine:
        memory, ctx = machine.image.memory, machine.ctx_region.start
        memory.write(ctx, (5).to_bytes(8, "little"))
        with pytest.raises(Trap):
            machine.run()
        memory.write(ctx, bytes(8))
        assert machine.run().r0 == 0


def test_base_helpers_are_the_kernels_numbers() -> None:
    assert BASE_HELPERS[1].name == "map_lookup_elem"

"""Pruning: what was read of the stack decides, and what was not read does not count.

Each unsafe program stores 0 or 1000 to the stack, so that paths meet in states that differ there
only, and reads it back as an index into a value of 64 bytes: a path that is dropped although it
matters makes it pass.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from pybpfvm.isa.asm import assemble
from pybpfvm.isa.opcodes import Kind
from pybpfvm.profiles import profile_named
from pybpfvm.program import BpfObject, MapSpec, MapType, Program
from pybpfvm.verifier.states import stack
from pybpfvm.verifier.verdict import Accepted, Rejected, Rule, Verdict
from pybpfvm.verifier.verify import Options, verify
from tests.support.verifier_cases import corpus

MAPS = (MapSpec("array", MapType.ARRAY, 4, 64, 4),)
PROFILE = profile_named("socket_filter")

# r6: the value. fp-8 is 0 on the path that is explored first, 1000 on the other; then come enough
# jumps and instructions that the state where they meet is stored.
START = """
  r9 = *(u32 *)(r1 + 0)
  r8 = *(u32 *)(r1 + 4)
  *(u32 *)(r10 - 20) = 1
  r2 = r10
  r2 += -20
  r1 = map[array] ll
  call lookup
  if r0 != 0 goto +2
  r0 = 0
  exit
  r6 = r0
  if r9 > 100 goto +2
  {low}
  goto +1
  {high}
  if r8 == 1 goto +0
  if r8 == 2 goto +0
  r1 = 1
  r1 = 2
  r1 = 3
  r1 = 4
  r1 = 5
  r1 = 6
  if r8 == 3 goto +0
  if r8 == 4 goto +0
"""
USE = """
  r6 += r1
  r0 = *(u8 *)(r6 + 0)
  r0 = 0
  exit
"""
LOW, HIGH = "*(u64 *)(r10 - 8) = 0", "*(u64 *)(r10 - 8) = 1000"
READS = {
    "a load": "r1 = *(u64 *)(r10 - 8)",
    "the low half": "r1 = *(u32 *)(r10 - 8)",
    "two bytes": "r1 = *(u16 *)(r10 - 8)",
    "copied on": "r2 = *(u64 *)(r10 - 8)\n *(u64 *)(r10 - 16) = r2\n r1 = *(u64 *)(r10 - 16)",
    "by a function": "r1 = r10\n call sub\n r1 = r0",
    "exchanged": "r1 = 7\n r1 = xchg_64(r10 - 8, r1)",
    "somewhere on the stack": (
        "r8 &= 8\n r2 = r10\n r2 += -16\n r2 += r8\n *(u64 *)(r10 - 16) = 0\n"
        " *(u8 *)(r2 + 7) = 0\n r1 = *(u16 *)(r10 - 8)"
    ),
}
# Of the second half of a slot it is only remembered that its bytes are 0, or may be anything.
LOW_HALF, HIGH_HALF = "*(u32 *)(r10 - 4) = 0", "*(u32 *)(r10 - 4) = 1000"
KEPT = {
    "another half was written": "*(u32 *)(r10 - 8) = 0\n r1 = *(u32 *)(r10 - 4)",
    "a byte was written": "*(u8 *)(r10 - 1) = 0\n r1 = *(u16 *)(r10 - 4)",
    "bytes were written twice": (
        "*(u8 *)(r10 - 1) = 0\n *(u8 *)(r10 - 7) = 0\n r1 = *(u16 *)(r10 - 4)"
    ),
}
SOMEWHERE = (
    "r8 &= 8\n r2 = r10\n r2 += -16\n r2 += r8\n *(u64 *)(r10 - 16) = 0\n"
    " *(u8 *)(r2 + 0) = 0\n r1 = *(u32 *)(r10 - 4)"
)
ALL = [
    *((LOW, HIGH, text) for text in READS.values()),
    *((LOW_HALF, HIGH_HALF, text) for text in KEPT.values()),
    (LOW_HALF, HIGH_HALF, SOMEWHERE),
]
SUB = "sub:\n  r0 = *(u64 *)(r1 - 8)\n  exit\n"


def judge(text: str) -> Verdict:
    if "call sub" in text:
        text += SUB
    insns = assemble(text, calls={"lookup": 1}, maps={"array": 0})
    program = Program("main", "socket", insns, license="GPL")
    return verify(program, BpfObject("text", "", (program,), MAPS), PROFILE)


NAMES = [*READS, *KEPT, "kept where something was written"]


@pytest.mark.parametrize(("low", "high", "read"), ALL, ids=NAMES)
def test_what_is_read_is_compared(low: str, high: str, read: str) -> None:
    verdict = judge(START.format(low=low, high=high) + read + USE)
    assert isinstance(verdict, Rejected), verdict
    assert verdict.errors[0].rule in (Rule.MAP_VALUE_ACCESS, Rule.POINTER_BOUNDS), verdict
    assert isinstance(judge(START.format(low=low, high=low) + read + USE), Accepted)


@pytest.mark.parametrize(("low", "high", "read"), ALL, ids=NAMES)
def test_forgetting_what_was_read_does_not_stay_hidden(
    low: str, high: str, read: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack, "note_read", lambda frame, off, size: None)
    assert isinstance(judge(START.format(low=low, high=high) + read + USE), Accepted)


@pytest.mark.parametrize("read", KEPT.values(), ids=KEPT)
def test_forgetting_where_bytes_come_from_does_not_stay_hidden(
    read: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack, "mark_read", lambda slot: setattr(slot, "read", True))
    text = START.format(low=LOW_HALF, high=HIGH_HALF) + read + USE
    assert isinstance(judge(text), Accepted)


def test_what_is_not_read_does_not_count() -> None:
    same = judge(START.format(low=LOW, high=LOW) + "r1 = 0" + USE)
    other = judge(START.format(low=LOW, high=HIGH) + "r1 = 0" + USE)
    assert isinstance(other, Accepted)
    assert other.stats.processed_insns == same.stats.processed_insns


def test_a_write_before_the_read_does() -> None:
    text = "*(u64 *)(r10 - 8) = 3\n r1 = *(u64 *)(r10 - 8)"
    same = judge(START.format(low=LOW, high=LOW) + text + USE)
    other = judge(START.format(low=LOW, high=HIGH) + text + USE)
    assert isinstance(other, Accepted)
    assert other.stats.processed_insns == same.stats.processed_insns


@pytest.mark.parametrize(
    ("low", "high"),
    [
        ("*(u32 *)(r10 - 8) = 3", "*(u64 *)(r10 - 8) = 3"),
        ("*(u16 *)(r10 - 8) = 3", "*(u32 *)(r10 - 8) = 3"),
    ],
)
def test_a_wider_spill_stands_in_for_a_narrower_one(low: str, high: str) -> None:
    text = "r1 = *(u16 *)(r10 - 8)"
    narrow = judge(START.format(low=low, high=low) + text + USE)
    wide = judge(START.format(low=low, high=high) + text + USE)
    assert isinstance(wide, Accepted)
    assert wide.stats.processed_insns <= narrow.stats.processed_insns + 1
    other = high.replace("= 3", "= 67")
    assert isinstance(judge(START.format(low=low, high=other) + text + USE), Rejected)


@pytest.mark.parametrize(
    "name",
    [
        "a counted loop around an iterator's",
        "a counted loop around calls of bpf_loop",
    ],
)
def test_paths_out_of_bounded_loops_meet_again(name: str) -> None:
    # Each turn begins an iterator, or a call, of its own; its paths must not double in each.
    case = next(case for case in corpus() if case.name == name)
    insns = tuple(
        replace(insn, imm=50) if insn.spec.kind is Kind.JUMP and insn.imm == 4 else insn
        for insn in case.program.insns
    )
    assert insns != case.program.insns
    program = replace(case.program, insns=insns)
    verdict = verify(program, case.object, case.profile, options=Options(budget_insns=20_000))
    assert isinstance(verdict, Accepted), verdict

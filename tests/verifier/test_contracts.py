"""Contracts: what may be written, what contradicts an object, and what they make of user copies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pybpfvm.errors import InputError
from pybpfvm.fuzz.lines import subprogs_of
from pybpfvm.isa.asm import assemble
from pybpfvm.isa.opcodes import AluOp
from pybpfvm.objectfile import read_object
from pybpfvm.profiles import PROFILES
from pybpfvm.program import BpfObject, MapSpec, MapType, Program
from pybpfvm.session.judging import JudgeRequest, judge
from pybpfvm.verifier.domains.scalar import Scalar
from pybpfvm.verifier.pruning.backedges import widen
from pybpfvm.verifier.states.regstate import scalar, unknown
from pybpfvm.verifier.states.state import Frame, State
from pybpfvm.verifier.usermemory.contract import Block, Contract
from pybpfvm.verifier.usermemory.contract_parse import parse_contract
from pybpfvm.verifier.usermemory.origin import Source, carried, fresh
from pybpfvm.verifier.verdict import Accepted, Inconclusive, Kind, Rejected, Rule, Verdict

ROOT = Path(__file__).parents[2]
WRITER = read_object(ROOT / "examples/04_write_file/prog.v3.bpf.o")
MAPS = (MapSpec("cell", MapType.ARRAY, 4, 64, 1),)

GOOD = """
[programs.writer]
user_data = "job"

[blocks.job]
type = "struct job"
count = 3
access = "r"
pointers = { buffer = "data" }

[blocks.data]
size = 4096
"""


def test_a_contract_is_read() -> None:
    contract = parse_contract(GOOD, WRITER)
    job = contract.user_data_block("writer")
    assert job is not None
    assert (job.size, job.element_bytes, job.readable, job.writable) == (48, 16, True, False)
    for element in range(3):
        found = contract.pointed_by(job, 16 * element)
        assert found is not None
        assert (found[0].name, found[1].name, found[1].size) == ("buffer", "data", 4096)
    assert contract.pointed_by(job, 8) is None
    assert contract.pointed_by(job, 48) is None
    assert contract.pointed_by(job, -16) is None
    assert contract.of("another").user_data is None


WRONG = [
    ("[programs.reader]", "programs.reader", "no such program", "writer"),
    ("[program.writer]", "program", "no such key", "programs"),
    ("writer", "", "", "docs/contracts.md"),
    ('blocks = "job"', "blocks", "no table", ""),
    ('[programs.writer]\nuser_data = "job"', "user_data", "no block", "none"),
    (GOOD.replace('"struct job"', '"struct jobb"'), "blocks.job.type", "no type", "size = N"),
    (GOOD.replace('"struct job"', "16"), "blocks.job.type", "no name of a type", ""),
    (GOOD.replace("count = 3", "size = 15"), "blocks.job.size", "16 bytes", "leave size out"),
    (GOOD.replace("count = 3", "count = 0"), "blocks.job.count", "no number", ""),
    (GOOD.replace("size = 4096", "size = 0"), "blocks.data.size", "no number", ""),
    (GOOD.replace("size = 4096", "size = -8"), "blocks.data.size", "no number", ""),
    (GOOD.replace("size = 4096", "size = 4096.0"), "blocks.data.size", "no number", ""),
    (GOOD.replace("size = 4096", "size = true"), "blocks.data.size", "no number", ""),
    (GOOD.replace("size = 4096", "bytes = 1"), "blocks.data.bytes", "no such key", "size"),
    (GOOD.replace("size = 4096", 'access = "r"'), "blocks.data", "neither type nor size", ""),
    (GOOD.replace("size = 4096", "size = 10\ncount = 3"), "blocks.data", "equal elements", ""),
    (GOOD.replace('"r"', '"x"'), "blocks.job.access", "no direction", "rw"),
    (GOOD.replace('"r"', '["r"]'), "blocks.job.access", "no direction", "rw"),
    (GOOD.replace("buffer =", "bufer ="), "pointers.bufer", "no field", "buffer"),
    (GOOD.replace("buffer =", "blocks ="), "pointers.blocks", "holds no address", "8 bytes"),
    (GOOD.replace("buffer =", "9 ="), "pointers.9", "not inside", ""),
    (GOOD.replace('= "data" }', '= "date" }'), "pointers.buffer", "no block", "data"),
    (GOOD + "[blocks.lost]\nsize = 1", "blocks.lost", "nothing points", "pointers"),
    (GOOD + "[ring]\ncq_entries = 16", "ring.cq_entries", "no list", ""),
    (
        GOOD + f"[ring]\ncq_entries = {[16] * 1025}",
        "ring.cq_entries",
        "1025 extra CQs",
        "one number",
    ),
    (GOOD + "[ring]\ncq0_entries = 0", "ring.cq0_entries", "no number", ""),
    (GOOD + "[ring]\ncq_entries = [16, 65537]", "ring.cq_entries", "no number", ""),
    (GOOD + "[maps]\nuser_writes = ['x']", "maps.user_writes", "no map 'x'", "progress"),
    (GOOD + "[maps]\nuser_writes = 'progress'", "maps.user_writes", "not a list", ""),
    (GOOD + "[programs.writer.allow]\nno-such = 'x'", "allow.no-such", "no such lint", ""),
    (GOOD + "[programs.writer.allow]\nuser-range = 'x'", "allow.user-range", "no such lint", ""),
    (GOOD + "[programs.writer.allow]\nbudget = 'x'", "allow.budget", "no such lint", ""),
    (GOOD + "[programs.writer.allow]\ncq-index = ''", "allow.cq-index", "no reason", ""),
    ("a = " + "[" * 5000, "", "", ""),
]


@pytest.mark.parametrize(("text", "place", "reason", "remedy"), WRONG)
def test_what_is_wrong_is_said_in_one_line(text: str, place: str, reason: str, remedy: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_contract(text, WRITER, where="my.toml")
    error = caught.value
    assert error.where.startswith("my.toml")
    assert place in error.where
    assert reason in error.reason
    assert remedy in error.remedy
    assert "\n" not in str(error)
    assert len(str(error)) < 400


# Judging copies.


def judged(code: str, blocks: dict[str, Any], abi: str = "iouring-v3") -> Verdict:
    """The verdict on a program whose user_data points to block "it"."""
    profile = PROFILES[abi]
    insns = assemble(
        code,
        calls={name: number for number, name in profile.helpers.items()},
        maps={spec.name: index for index, spec in enumerate(MAPS)},
    )
    section = next(rule for rule in profile.sections if rule.sleepable).prefix
    program = Program("case", section, insns, subprogs=subprogs_of(insns), license="GPL")
    obj = BpfObject("case", "", (program,), MAPS)
    contract: Contract | None = None
    if blocks:
        table = {"programs": {"case": {"user_data": "it"}}, "blocks": blocks}
        contract = parse_contract(table, obj)
    return judge(program, obj, profile, JudgeRequest(contract=contract))


def copy(size: str, address: str, *, to_user: bool = False) -> str:
    """A program that copies `size` bytes; `address` computes r3 from the token in r7."""
    order = "r1 = r3; r3 = r2; r2 = r8" if to_user else "r1 = r8"
    call = "bpf_copy_to_user" if to_user else "copy_from_user"
    lines = [
        "r6 = r1",
        "r7 = *(u64 *)(r6 + 0)",
        "r9 = 0",
        *(f"*(u64 *)(r10 - {at}) = r9" for at in range(8, 72, 8)),
        "call get_prandom_u32",
        "r9 = r0",
        "r8 = r10",
        "r8 += -64",
        *(line.strip() for line in address.split(";")),
        f"r2 = {size}",
        *(line.strip() for line in order.split(";")),
        f"call {call}",
        "r0 = 0",
        "exit",
    ]
    return "\n".join(lines)


IT = {"it": {"size": 32, "access": "rw"}}
ACCEPTED, WARNED, REFUSED = "accepted", "warned", "refused"
COPIES = [
    ("8", "r3 = r7", ACCEPTED),
    ("32", "r3 = r7", ACCEPTED),
    ("33", "r3 = r7", REFUSED),
    ("8", "r3 = r7; r3 += 24", ACCEPTED),
    ("8", "r3 = r7; r3 += 25", REFUSED),
    ("8", "r3 = r7; r3 += -1", REFUSED),
    ("8", "r3 = r7; r3 += 1000", REFUSED),
    ("8", "r3 = r7; r3 += 40; r3 += -32", ACCEPTED),
    ("8", "r3 = r7; r3 += 40; r3 -= 16", ACCEPTED),
    ("8", "r3 = r7; r3 += 40; r3 -= 15", REFUSED),
    ("8", "r3 = 16; r3 += r7", ACCEPTED),
    ("8", "r3 = 25; r3 += r7", REFUSED),
    ("8", "r9 &= 24; r3 = r7; r3 += r9", ACCEPTED),
    ("8", "r9 &= 25; r3 = r7; r3 += r9", WARNED),
    ("8", "r9 &= 31; r3 = r7; r3 += r9", WARNED),
    ("8", "r9 &= 8; r9 += 40; r3 = r7; r3 += r9", REFUSED),
    ("8", "r3 = r7; r3 += r9", WARNED),
    ("8", "r3 = r7; r3 &= -8", WARNED),
    ("8", "w3 = w7", WARNED),
    ("8", "r3 = r7; r3 <<= 1", WARNED),
    ("8", "*(u64 *)(r10 - 64) = r7; r3 = *(u64 *)(r10 - 64); r3 += 24", ACCEPTED),
    ("8", "*(u64 *)(r10 - 64) = r7; r3 = *(u64 *)(r10 - 64); r3 += 25", REFUSED),
    ("8", "r3 = 1234", ACCEPTED),  # nothing says where it comes from
    ("0", "r3 = r7; r3 += 100", ACCEPTED),
]


@pytest.mark.parametrize("to_user", [False, True])
@pytest.mark.parametrize(("size", "address", "expected"), COPIES)
def test_copies_are_bounded(size: str, address: str, expected: str, to_user: bool) -> None:
    code = copy(size, address, to_user=to_user)
    verdict = judged(code, IT)
    if expected is REFUSED:
        assert isinstance(verdict, Rejected)
        assert [error.rule for error in verdict.errors] == [Rule.USER_RANGE]
        assert verdict.errors[0].kind is Kind.POLICY
        assert "user_data points to it (32 bytes)" in verdict.errors[0].reason
    else:
        assert isinstance(verdict, Accepted), verdict
        rules = [warning.rule for warning in verdict.warnings]
        assert rules == ([Rule.USER_UNPROVEN] if expected is WARNED else [])
    assert isinstance(judged(code, {}), Accepted), "a contract alone makes the difference"


@pytest.mark.parametrize(
    ("access", "to_user", "accepted"),
    [("r", False, True), ("r", True, False), ("w", False, False), ("w", True, True)],
)
def test_copies_go_the_declared_way(access: str, to_user: bool, accepted: bool) -> None:
    verdict = judged(copy("8", "r3 = r7", to_user=to_user), {"it": {"size": 8, "access": access}})
    assert isinstance(verdict, Accepted if accepted else Rejected)


NESTED: dict[str, Any] = {
    "it": {"size": 32, "count": 2, "pointers": {"8": "far"}},
    "far": {"size": 16, "access": "r", "pointers": {"0": "it"}},
}


@pytest.mark.parametrize(
    ("first", "second", "accepted"),
    [
        ("r3 = r7", "r3 = *(u64 *)(r10 - 56); r3 += 8", True),
        ("r3 = r7", "r3 = *(u64 *)(r10 - 56); r3 += 9", False),
        ("r3 = r7; r3 += 16", "r3 = *(u64 *)(r10 - 56); r3 += 9", False),
        ("r3 = r7; r3 += 8", "r3 = *(u64 *)(r10 - 64); r3 += 9", False),
        ("r3 = r7", "r3 = *(u64 *)(r10 - 64); r3 += 900", True),  # that field is no pointer
    ],
)
def test_pointers_in_blocks_are_followed(first: str, second: str, accepted: bool) -> None:
    code = copy("16", first).replace("r0 = 0\nexit", "")
    tail = [*(line.strip() for line in second.split(";")), "r1 = r8", "r2 = 8"]
    code += "\n".join([*tail, "call copy_from_user", "r0 = 0", "exit"])
    assert isinstance(judged(code, NESTED), Accepted if accepted else Rejected)


def test_a_loop_over_a_block_is_followed() -> None:
    """Every turn is judged: where the address came from counts when states are compared."""

    def loop(turns: int) -> str:
        return f"""
  r6 = r1
  r7 = *(u64 *)(r6 + 0)
  r9 = 0
again:
  r1 = r10
  r1 += -8
  r2 = 8
  r3 = r7
  call copy_from_user
  r7 += 8
  r9 += 1
  if r9 < {turns} goto again
  r0 = 0
  exit
"""

    block = {"it": {"size": 320}}
    assert judged(loop(40), block) == judged(loop(40), block)
    assert isinstance(judged(loop(40), block), Accepted)
    assert isinstance(judged(loop(41), block), Rejected)


def test_a_path_with_another_address_is_not_taken_for_explored() -> None:
    code = """
  r6 = r1
  r7 = *(u64 *)(r6 + 0)
  call get_prandom_u32
  if r0 == 7 goto here
  r7 += 4
  r7 += 4
  r7 += 4
  r7 += 4
  goto here
here:
  r1 = r10
  r1 += -8
  r2 = 8
  r3 = r7
  call copy_from_user
  r0 = 0
  exit
"""
    assert isinstance(judged(code, {"it": {"size": 24}}), Accepted)
    assert isinstance(judged(code, {"it": {"size": 23}}), Rejected)


@pytest.mark.parametrize("first", ["r7 += 0", "r7 = r0"])
def test_a_path_that_is_explored_first_says_nothing_of_other_addresses(first: str) -> None:
    code = """
  r6 = r1
  r7 = *(u64 *)(r6 + 0)
  call get_prandom_u32
  if r0 > 7 goto other
  {first}
  goto join
other:
  r7 += {off}
join:
  call get_prandom_u32
  r1 = 1
  r2 = 2
  r3 = 3
  r4 = 4
  r5 = 5
  if r0 == 9 goto +0
  if r0 == 10 goto +0
  r1 = r10
  r1 += -8
  r2 = 8
  r3 = r7
  call copy_from_user
  r0 = 0
  exit
"""
    block = {"it": {"size": 32}}
    assert isinstance(judged(code.format(first=first, off=24), block), Accepted)
    assert isinstance(judged(code.format(first=first, off=25), block), Rejected)


def test_a_path_that_copied_from_elsewhere_is_not_taken_for_explored() -> None:
    code = """
  r6 = r1
  r7 = *(u64 *)(r6 + 0)
  r8 = r10
  r8 += -16
  *(u64 *)(r10 - 8) = 0
  *(u64 *)(r10 - 16) = 0
  call get_prandom_u32
  r1 = r8
  r2 = 16
  r3 = r7
  if r0 > 7 goto other
  call copy_from_user
  goto join
other:
  r3 += {off}
  call copy_from_user
join:
  call get_prandom_u32
  r1 = 1
  r2 = 2
  r3 = 3
  r4 = 4
  r5 = 5
  if r0 == 9 goto +0
  if r0 == 10 goto +0
  r3 = *(u64 *)(r10 - 16)
  r3 += 9
  r1 = r8
  r2 = 8
  call copy_from_user
  r0 = 0
  exit
"""
    assert isinstance(judged(code.format(off=0), NESTED), Accepted)
    assert isinstance(judged(code.format(off=8), NESTED), Rejected)


def test_a_program_that_overwrites_its_token_is_not_judged() -> None:
    code = "r2 = 0\n*(u64 *)(r1 + 0) = r2\nr0 = 0\nexit"
    verdict = judged(code, IT, "iouring-v2")
    assert isinstance(verdict, Inconclusive)
    assert "overwrites its user_data" in verdict.finding.feature
    assert isinstance(judged(code, {}, "iouring-v2"), Accepted)


# What a refusal says of numbers from user space.

DEREFERENCED = [
    ("r2 = *(u64 *)(r1 + 0)", "the request's user_data (read at instruction 0)"),
    ("r2 = *(u64 *)(r1 + 0); r2 += 8", "the request's user_data (read at instruction 0)"),
    (
        "r2 = *(u64 *)(r1 + 0); r2 &= -16; r3 = r2; r2 = r3",
        "the request's user_data (read at instruction 0)",
    ),
    (
        "r2 = *(u64 *)(r1 + 0); *(u64 *)(r10 - 8) = r2; r2 = *(u64 *)(r10 - 8)",
        "the request's user_data (read at instruction 0)",
    ),
    (
        "r3 = *(u64 *)(r1 + 0); r1 = r10; r1 += -16; r2 = 16; call copy_from_user; "
        "r2 = *(u64 *)(r10 - 8)",
        "bytes copied from user memory (read at instruction 4)",
    ),
    (
        "r3 = r10; r3 += -16; r2 = 1; r4 = 16; call io_uring_reap_cqe; r2 = *(u64 *)(r10 - 16)",
        "the user_data of a completion (read at instruction 4)",
    ),
]


@pytest.mark.parametrize(("code", "source"), DEREFERENCED)
def test_dereferencing_a_user_address_is_explained(code: str, source: str) -> None:
    lines = [line.strip() for line in code.split(";")]
    verdict = judged("\n".join([*lines, "r0 = *(u64 *)(r2 + 0)", "r0 = 0", "exit"]), {})
    assert isinstance(verdict, Rejected)
    error = verdict.errors[0]
    assert error.rule is Rule.NOT_A_POINTER
    assert error.message == "R2 invalid mem access 'scalar'"
    assert source in error.reason
    assert "bpf_copy_from_user" in error.reason


def test_other_numbers_are_explained_as_before() -> None:
    verdict = judged("r2 = 4096\nr0 = *(u64 *)(r2 + 0)\nr0 = 0\nexit", {})
    assert isinstance(verdict, Rejected)
    assert "user" not in verdict.errors[0].reason


@pytest.mark.parametrize(
    ("helper", "size", "accepted"),
    [("submit", 64, True), ("submit", 1, False), ("reap", 16, True), ("reap", 8, False)],
)
def test_what_v3_does_not_look_at_must_be_there(helper: str, size: int, accepted: bool) -> None:
    """v3 takes a whole SQE, and gives a whole CQE, whatever length the program says."""
    room = 64 if helper == "submit" else 16
    at = room if accepted else size if size >= 8 else 8
    fill = [f"*(u64 *)(r10 - {base}) = r9" for base in range(8, at + 8, 8)]
    args = ["r2 = r10", f"r2 += -{at}", f"r3 = {size}", "call io_uring_submit"]
    if helper == "reap":
        args = ["r3 = r10", f"r3 += -{at}", "r2 = 1", f"r4 = {size}", "call io_uring_reap_cqe"]
    verdict = judged("\n".join(["r9 = 0", *fill, *args, "r0 = 0", "exit"]), {})
    assert isinstance(verdict, Accepted if accepted else Rejected), verdict


def test_numbers_that_a_turn_changes_keep_where_they_came_from() -> None:
    # No kernel has may_goto and user copies: the widening of its loops is asked directly.
    before, turn = State([Frame(0, -1, 0)], (), True), State([Frame(0, -1, 0)], (), True)
    block = Block("it", 32, 32, True, True, ())
    number = fresh(unknown(0), Source.USER_DATA, ("user_data",), block=block)
    eight = scalar(Scalar.const(8), 1)
    before.frame.regs[6] = number
    turn.frame.regs[6] = carried(AluOp.ADD, 64, number, eight, unknown(1))
    turn.frame.regs[7] = before.frame.regs[7] = number
    widen(turn, before)
    changed, same = turn.frame.regs[6].origin, turn.frame.regs[7].origin
    assert changed is not None
    assert changed.block is block
    assert changed.off is None
    assert same is number.origin

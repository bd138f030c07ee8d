"""Lints of iouring-x where no card and no twin shows them: futexes, memory of requests, queues."""

from __future__ import annotations

import pytest

from pybpfvm.fuzz.lines import subprogs_of
from pybpfvm.isa.asm import assemble
from pybpfvm.profiles import profile_named
from pybpfvm.profiles.base import Profile
from pybpfvm.program import BpfObject, Program
from pybpfvm.session.judging import JudgeRequest, judge
from pybpfvm.verifier.usermemory.contract_parse import parse_contract
from pybpfvm.verifier.verdict import Accepted

X: Profile = profile_named("iouring-x")
RING = {"ring": {"cq_entries": [8, 8]}}
NOP = """r6 = r1
*(u64 *)(r10 - 64) = {head}
*(u64 *)(r10 - 56) = 0
*(u64 *)(r10 - 48) = {addr}
*(u64 *)(r10 - 40) = {flags}
*(u64 *)(r10 - 32) = 0
*(u64 *)(r10 - 24) = 0
*(u64 *)(r10 - 16) = 1
*(u64 *)(r10 - 8) = 0
r2 = r10
r2 += -64
r3 = 64
call 170
"""
LINK = 0x400
SET = "r2 = *(u64 *)(r1 + 0)\n*(u64 *)(r1 + 40) = r2\n"
OUT = "r0 = 0\nexit"
CONTEXT = """r2 = *(u64 *)(r1 + 16)
r3 = *(u64 *)(r1 + 24)
r4 = r2
r4 += 8
if r4 > r3 goto +{skip}
"""
WAIT = "r5 = 1\n*(u32 *)(r1 + 8) = r5\n*(u32 *)(r1 + 12) = r5\nr0 = 1\nexit"
REQUEUE = "r1 = {ctx}\nr2 = {cq}\nw3 = {to}\nr4 = 1\ncall 1001\n"


def bpf(addr: int, flags: int) -> str:
    """A BPF request: `addr`, and op_flags in the upper half of the word that begins with len."""
    return NOP.format(head=37, addr=addr, flags=flags)


@pytest.mark.parametrize(
    ("code", "lints"),
    [
        pytest.param(SET + "r0 = 2\nexit", [], id="the word is set"),
        pytest.param("r0 = 2\nexit", ["wait-fields-stale"], id="the word is not set"),
        pytest.param(
            "r2 = *(u64 *)(r1 + 0)\nif r2 == 0 goto +1\n*(u64 *)(r1 + 40) = r2\nr0 = 2\nexit",
            ["wait-fields-stale"],
            id="the word is not set on one path",
        ),
        pytest.param("r0 = 0\nexit", [], id="no wait"),
        pytest.param(bpf(0, 0) + OUT, [], id="a request without memory"),
        pytest.param(bpf(5, 0) + OUT, ["sqe-field"], id="an element of nothing"),
        pytest.param(NOP.format(head=52, addr=8, flags=0) + OUT, [], id="a later opcode"),
        pytest.param(
            CONTEXT.format(skip=1) + "*(u64 *)(r2 + 0) = r2\n" + OUT,
            ["pointer-exposed"],
            id="a pointer",
        ),
        pytest.param(
            CONTEXT.format(skip=2) + "r5 = 9\n*(u64 *)(r2 + 0) = r5\n" + OUT, [], id="a number"
        ),
        pytest.param(WAIT, ["wait-without-progress"], id="a wait, nothing is changed"),
        pytest.param(
            CONTEXT.format(skip=7) + "r5 = 9\n*(u64 *)(r2 + 0) = r5\n" + WAIT + "\n" + OUT,
            [],
            id="a wait, memory of the request is changed",
        ),
        pytest.param(REQUEUE.format(ctx="r1", cq=1, to=2) + OUT, [], id="requeued"),
        pytest.param(REQUEUE.format(ctx="r1", cq=3, to=2) + OUT, ["cq-index"], id="from nowhere"),
        pytest.param(REQUEUE.format(ctx="r1", cq=1, to=9) + OUT, ["cq-index"], id="to nowhere"),
        pytest.param(
            REQUEUE.format(ctx="r1", cq=1, to=-1) + OUT, ["requeue-without-link"], id="no chain"
        ),
        pytest.param(
            NOP.format(head=LINK, addr=0, flags=0) + REQUEUE.format(ctx="r6", cq=1, to=-1) + OUT,
            [],
            id="behind the chain, which has a successor so",
        ),
        pytest.param(
            NOP.format(head=LINK, addr=0, flags=0) + REQUEUE.format(ctx="r6", cq=1, to=2) + OUT,
            ["link-without-successor"],
            id="onto a queue, while a chain is open",
        ),
    ],
)
def test_what_is_warned_of(code: str, lints: list[str]) -> None:
    insns = tuple(assemble(code))
    program = Program("x", "uring.x", insns, subprogs=subprogs_of(insns), license="GPL")
    obj = BpfObject("x.bpf.o", "", (program,), ())
    contract = parse_contract(RING, obj)
    found = judge(program, obj, X, JudgeRequest(contract=contract, witness_runs=0))
    assert isinstance(found, Accepted), found
    assert [one.rule.value for one in found.warnings] == lints

"""Plain accesses through `ctx->user` of iouring-x: what a contract lets a program do."""

from __future__ import annotations

from typing import Any

import pytest

from pybpfvm.errors import InputError
from pybpfvm.fuzz.lines import subprogs_of
from pybpfvm.isa.asm import assemble
from pybpfvm.profiles import profile_named
from pybpfvm.program import BpfObject, Program
from pybpfvm.session.judging import JudgeRequest, judge
from pybpfvm.verifier.usermemory.contract_parse import parse_contract
from pybpfvm.verifier.verdict import Accepted, Rejected, Verdict

USER = "r6 = *(u64 *)(r1 + 32)\n"
END = "\nr0 = 0\nexit"
JOB: dict[str, Any] = {"size": 48, "pinned": True}
DATA: dict[str, Any] = {"size": 64, "access": "w"}


def judged(code: str, promised: dict[str, Any] | None, abi: str = "iouring-x") -> Verdict:
    insns = tuple(assemble(USER + code + END))
    program = Program("user", "uring.x", insns, subprogs=subprogs_of(insns), license="GPL")
    obj = BpfObject("user.bpf.o", "", (program,), ())
    contract = None if promised is None else parse_contract(promised, obj)
    request = JudgeRequest(contract=contract, witness_runs=0)
    return judge(program, obj, profile_named(abi), request)


def promise(**job: Any) -> dict[str, Any]:
    return {"programs": {"user": {"user_data": "job"}}, "blocks": {"job": JOB | job}}


ACCEPTED = [
    pytest.param("r2 = *(u64 *)(r6 + 0)", id="its first word"),
    pytest.param("r2 = *(u8 *)(r6 + 47)", id="its last byte"),
    pytest.param("r2 = *(u32 *)(r6 + 41)", id="a word that is not aligned"),
    pytest.param("r2 = 7\n*(u64 *)(r6 + 40) = r2", id="a store"),
    pytest.param("r2 = 1\nlock *(u64 *)(r6 + 8) += r2", id="an atomic addition"),
    pytest.param("r2 = 1\nr0 = 0\nr0 = cmpxchg_64(r6 + 16, r0, r2)", id="compare and exchange"),
    pytest.param(
        "r2 = *(u32 *)(r6 + 0)\nif r2 > 40 goto +2\nr6 += r2\nr3 = *(u64 *)(r6 + 0)",
        id="an index that is bounded",
    ),
    pytest.param(
        "r2 = r6\nr1 = r10\nr1 += -8\nr2 = 8\nr3 = r6\nr1 = r10\nr1 += -8\n*(u64 *)(r10 - 8) = 0",
        id="the pointer is copied",
    ),
]
REFUSED = [
    pytest.param("r2 = *(u64 *)(r6 + 48)", "mem-access", id="behind its end"),
    pytest.param("r2 = *(u64 *)(r6 + 41)", "mem-access", id="across its end"),
    pytest.param("r2 = *(u8 *)(r6 - 1)", "mem-access", id="before its beginning"),
    pytest.param("r2 = 7\n*(u64 *)(r6 + 44) = r2", "mem-access", id="a store across its end"),
    pytest.param("r2 = 1\nlock *(u64 *)(r6 + 4) += r2", "misaligned-access", id="not aligned"),
    pytest.param("r2 = 1\nlock *(u64 *)(r6 + 48) += r2", "mem-access", id="atomic, behind"),
    pytest.param(
        "r2 = *(u32 *)(r6 + 0)\nr6 += r2\nr3 = *(u64 *)(r6 + 0)", "mem-access", id="any index"
    ),
    pytest.param(
        "r2 = *(u32 *)(r6 + 0)\nif r2 > 41 goto +2\nr6 += r2\nr3 = *(u64 *)(r6 + 0)",
        "mem-access",
        id="an index that is one too large",
    ),
    pytest.param(
        "r2 = *(u32 *)(r6 + 0)\nif r2 > 40 goto +3\nr2 = *(u32 *)(r6 + 0)\nr6 += r2\n"
        "r3 = *(u64 *)(r6 + 0)",
        "mem-access",
        id="the index is loaded again after it was bounded",
    ),
    pytest.param("r2 = *(u64 *)(r6 + 0)\nr3 = *(u64 *)(r2 + 0)", "not-a-pointer", id="a number"),
    pytest.param("r2 = r6\nr3 = 48\ncall 170", "helper-argument", id="an SQE, whatever its length"),
]


@pytest.mark.parametrize("code", ACCEPTED)
def test_what_the_block_has_is_accessed(code: str) -> None:
    assert isinstance(judged(code, promise()), Accepted)


@pytest.mark.parametrize(("code", "rule"), REFUSED)
def test_what_it_has_not_is_refused(code: str, rule: str) -> None:
    found = judged(code, promise())
    assert isinstance(found, Rejected)
    assert found.errors[0].rule.value == rule


@pytest.mark.parametrize(
    "promised",
    [
        pytest.param(None, id="no contract"),
        pytest.param({"programs": {"user": {}}}, id="nothing is said of user_data"),
        pytest.param(promise(pinned=False), id="the block is not pinned"),
    ],
)
def test_without_a_pinned_block_there_is_no_pointer(promised: dict[str, Any] | None) -> None:
    found = judged("r2 = *(u64 *)(r6 + 0)", promised)
    assert isinstance(found, Rejected)
    assert found.errors[0].rule.value == "user-pointer"


def test_what_is_to_be_read_is_not_written() -> None:
    reads, writes = "r2 = *(u64 *)(r6 + 0)", "r2 = 0\n*(u64 *)(r6 + 0) = r2"
    assert isinstance(judged(reads, promise(access="r")), Accepted)
    for code in (writes, "r2 = 1\nlock *(u64 *)(r6 + 0) += r2"):
        found = judged(code, promise(access="r"))
        assert isinstance(found, Rejected)
        assert found.errors[0].rule.value == "read-only-memory"


def test_other_abis_have_no_such_field() -> None:
    found = judged("", promise(), "iouring-v3")
    assert isinstance(found, Rejected)
    assert found.errors[0].rule.value == "ctx-access"


COPY = """r3 = *(u64 *)(r6 + 8)
r3 += {off}
r1 = r3
r2 = r10
r2 += -8
*(u64 *)(r10 - 8) = 0
r3 = 8
call 169"""


@pytest.mark.parametrize(("off", "rule"), [(0, ""), (56, ""), (57, "user-range")])
def test_addresses_in_the_block_lead_to_the_blocks_that_are_declared(off: int, rule: str) -> None:
    promised = promise(pointers={"8": "data"})
    promised["blocks"]["data"] = DATA
    found = judged(COPY.format(off=off), promised)
    errors = found.errors if isinstance(found, Rejected) else ()
    assert [error.rule.value for error in errors] == [rule] * bool(rule)
    assert isinstance(found, Accepted | Rejected)
    assert not found.warnings


def test_what_was_checked_is_loaded_again() -> None:
    twice = "r2 = *(u32 *)(r6 + 4)\nif r2 > 8 goto +1\nr3 = *(u32 *)(r6 + {off})"
    for off, lints in ((4, ["double-fetch"]), (0, []), (5, ["double-fetch"]), (8, [])):
        found = judged(twice.format(off=off), promise())
        assert isinstance(found, Accepted)
        assert [one.rule.value for one in found.warnings] == lints


@pytest.mark.parametrize(
    ("job", "says"),
    [
        ({"pinned": 1}, "1 is not true or false"),
        ({"access": "w"}, "programs may not read it"),
    ],
)
def test_contracts_that_say_nonsense(job: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        judged("", promise(**job))

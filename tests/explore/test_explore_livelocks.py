"""Programs that try for ever are found, and named a live-lock; who only tries long is not."""

from __future__ import annotations

import time

import pytest

from pybpfvm.explore import explore
from pybpfvm.explore.table import Options
from pybpfvm.scenario import Scenario, parse
from pybpfvm.scenario.parse import parse_bytes
from pybpfvm.uring_backend.abi import Op
from pybpfvm.uring_backend.faults import MAY_BE_SHORT
from pybpfvm.uring_backend.requests import came_to_something
from tests.support.example_hosts import EXAMPLES
from tests.support.orders import DATA

OPENS, RESTS, READS = 1, 2, 4


def tries(does: int, steps: str = "{ wait = 1 }", *, tries: int = 0, more: str = "") -> Scenario:
    job = (
        '[user.task]\nstruct = "task"\nfields = { delay = { tv_nsec = 1_000_000 },'
        ' path = { block = "path" }, buffer = { block = "buffer" }, fd = { fd = "short" },'
        f" does = {does}, tries = {tries} }}"
    )
    text = f"""
object = "tries.v3.bpf.o"
abi = "iouring-v3"
programs = ["again"]
ring = {{ cq_entries = [4] }}
steps = [
    {{ submit = [{{ prog = "again", user_data = {{ block = "task" }} }}] }},
    {steps},
]
[files."short.txt"]
text = "eight by"
[fds.short]
open = "short.txt"
[user.path]
text = "never.txt\\u0000"
[user.buffer]
zero = 8
{job}
{more}
"""
    return parse_bytes(text.encode(), "tries.toml", DATA)


@pytest.mark.parametrize(
    "does",
    [OPENS, RESTS, OPENS | RESTS, READS, READS | RESTS],
    ids=["opens", "rests", "both", "reads", "rests and reads"],
)
def test_who_tries_for_ever_is_a_live_lock(does: int) -> None:
    began = time.process_time()
    report = explore(tries(does), Options(shrink=False))
    (found,) = report.found
    assert found.shown.kind == "live-lock"
    assert "came to nothing" in found.shown.text
    assert found.tries == 1
    assert time.process_time() - began < 20


@pytest.mark.parametrize("does", [OPENS, RESTS, OPENS | RESTS, READS])
def test_who_gives_up_is_none(does: int) -> None:
    assert not explore(tries(does, tries=900), Options(strategy="random", schedules=1)).found


def test_a_wait_that_ends_by_time_is_none() -> None:
    report = explore(
        tries(OPENS | RESTS, '{ sleep = "700 ms" }'),
        Options(strategy="random", schedules=1, shrink=False),
    )
    assert [one.shown.kind for one in report.found] in ([], ["leak"])


def test_what_was_in_flight_before_may_end_it() -> None:
    """The file is made by a request that a timer of two seconds holds back."""
    made = tries(
        OPENS | RESTS,
        '{ submit = [{ op = "timeout", addr = { block = "while" }, len = 1, op_flags = 32,'
        ' flags = ["link"] }, { op = "openat", fd = -100, addr = { block = "path" },'
        " open_flags = 0o101, len = 0o600 }] }, { wait = 3 }",
        more="[user.while]\ntimespec_ns = 2_000_000_000\n",
    )
    report = explore(made, Options(strategy="random", schedules=2))
    assert not report.found


def test_retry_gives_up() -> None:
    made = parse(EXAMPLES / "17_retry/scenario.toml")
    assert not explore(made, Options(strategy="pct", schedules=5)).found


def test_what_comes_to_something() -> None:
    assert came_to_something(Op.READ, 1)
    assert came_to_something(Op.OPENAT, 0)
    assert came_to_something(Op.FSYNC, 0)
    assert not came_to_something(Op.READ, 0)
    assert not came_to_something(Op.OPENAT, -2)
    assert not came_to_something(Op.POLL_ADD, 1)
    assert not came_to_something(Op.NOP, 0)


@pytest.mark.parametrize("op", sorted(MAY_BE_SHORT), ids=lambda op: op.name)
def test_what_can_be_short_comes_to_something_by_its_bytes(op: Op) -> None:
    assert came_to_something(op, 1)
    assert not came_to_something(op, 0)

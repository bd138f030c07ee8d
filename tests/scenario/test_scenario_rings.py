"""Scenarios with several rings: what is said of each, what they share, and that runs, faults and
reports say of which ring something is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pybpfvm.cli import main
from pybpfvm.errors import InputError, LoadRejected, RingError, RingHang
from pybpfvm.events import Event, Noted, OfRing, SqeIssued
from pybpfvm.scenario import Outcome, Scenario, parse, parse_bytes, run_scenario
from pybpfvm.scenario.model import Sleep, Step, Wait
from pybpfvm.session import Machine, Ring
from pybpfvm.session.hostring import BackendName
from pybpfvm.uring_backend.faults import Faults, parse_faults, plan_text
from tests.support.session_ring import SIM_AND_KERNEL, need_backend

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TWO_RINGS = EXAMPLES / "26_two_rings" / "scenario.toml"
BOTH = pytest.mark.parametrize("backend", SIM_AND_KERNEL)

# Requests of both ABIs that have MSG_RING at all.
MESSAGES = """
fds.there = { ring = "there" }
fds.here = { ring = "main" }
steps = [
    { submit = [{ op = "msg_ring", fd = "there", off = 7, len = 70, user_data = 1 }] },
    { wait = 1, timeout = "5 s" },
    { wait = 1, timeout = "5 s", ring = "there" },
    { submit = [{ op = "msg_ring", fd = "here", off = 8, len = 80 }], ring = "there" },
    { wait = 1, timeout = "5 s" },
    { submit = [{ op = "nop", user_data = 9 }], ring = "there" },
    { check = { rings.there.counts = { 0 = 1 } } },
]
[expect]
cqes.0 = [{ user_data = 1, res = 0 }, { user_data = 8, res = 80 }]
rings.there.cqes.0 = [
    { user_data = 7, res = 70 }, { user_data = 0, res = 0 }, { user_data = 9, res = 0 },
]
"""
REQUESTS = f"""
object = "x_context/prog.x.bpf.o"
abi = "iouring-x"
rings.there = {{}}
{MESSAGES}"""
LOOPS = f"""
object = "loop_nops/prog.bpf.o"
abi = "loop-7.2"
attach = []
rings.there = {{}}
{MESSAGES}"""

# A timer lets a program run on the other ring, long before what the host waits for.
TIMERS = """
object = "01_hello/prog.v3.bpf.o"
abi = "iouring-v3"
programs = ["hello"]
ring.cq_entries = [8]
rings.other = { cq_entries = [8, 8], programs = ["", "hello"] }
user.word = { u32 = 1 }
user.soon = { timespec_ns = 5_000_000 }
user.late = { timespec_ns = 40_000_000 }
steps = [
    { ring = "other", submit = [
        { op = "timeout", flags = ["link"], addr = { block = "soon" }, len = 1, op_flags = 32 },
        { prog = "hello", user_data = { block = "word" } },
    ] },
    { submit = [{ op = "timeout", addr = { block = "late" }, len = 1, user_data = 5 }] },
    { wait = 1, timeout = "5 s" },
    { check = { rings.other.runs.hello = 1 } },
    { submit = [{ prog = "hello", user_data = { block = "word" } }] },
    { wait = 1, timeout = "5 s" },
]
[expect]
maps.visits = [2]
runs.hello = 1
cqes.0 = [{ res = "-ETIME" }, { user_data = 43 }, { user_data = { block = "word" }, res = 0 }]
rings.other.cqes.0 = [{ res = "-ETIME" }, { user_data = 1 }, { user_data = { block = "word" } }]
rings.other.counts = { 1 = 0, 2 = 0 }
rings.other.overflow = 0
"""


def read(text: str) -> Scenario:
    return parse_bytes(text.encode(), "t.toml", EXAMPLES)


def run(text: str, backend: BackendName = "sim") -> Outcome:
    return run_scenario(read(text), backend=backend)


@BOTH
@pytest.mark.parametrize("text", [REQUESTS, LOOPS], ids=["requests", "loops"])
def test_a_request_names_a_ring_as_its_descriptor(text: str, backend: BackendName) -> None:
    need_backend(backend)
    outcome = run(text, backend)
    assert (outcome.findings, outcome.stopped) == ((), None)


@BOTH
def test_programs_run_on_all_rings_while_the_host_waits_on_one(backend: BackendName) -> None:
    need_backend(backend)
    outcome = run(TIMERS, backend)
    assert (outcome.findings, outcome.stopped) == ((), None)
    assert outcome.runs == {"hello": 2}
    assert outcome.rings["other"].runs == {"hello": 1}
    assert backend == "kernel" or outcome.time_ns == 40_000_000


def test_a_loop_goes_on_only_where_the_host_enters() -> None:
    text = (EXAMPLES / "loop_nops" / "scenario.toml").read_text()
    text = text.replace('object = "', 'object = "loop_nops/')
    text = text.replace(
        "steps = [{ enter = true, result = 0 }]",
        """
rings.idle = { entries = 8 }
steps = [
    { submit = [{ op = "nop" }], ring = "idle" },
    { enter = true, result = 0 },
    { wait = 1, ring = "idle" },
]""",
    )
    outcome = run(text + "rings.idle = { counts = { 0 = 1 }, runs = { keep_busy = 0 } }\n")
    assert (outcome.findings, outcome.stopped) == ((), None)


def test_what_is_wrong_on_another_ring_has_its_place() -> None:
    text = TIMERS.replace("rings.other.overflow = 0", "rings.other.overflow = 3")
    text = text.replace('[{ res = "-ETIME" }, { user_data = 1 }', "[{ res = 1 }, { user_data = 1 }")
    text = text.replace("counts = { 1 = 0", "counts = { 1 = 4")
    wheres = [finding.where for finding in run(text).findings]
    assert wheres == [
        "t.toml: expect.rings.other.cqes.0[0]",
        "t.toml: expect.rings.other.counts.1",
        "t.toml: expect.rings.other.overflow",
    ]


def test_a_hang_tells_who_waits_on_any_ring() -> None:
    outcome = run_scenario(stuck(parse(TWO_RINGS)))
    assert isinstance(outcome.stopped, RingHang)
    assert outcome.stopped_at == "steps[4]"
    told = str(outcome.stopped)
    assert "user waits for 1 CQE on CQ 0" in told
    assert "request 1 (fill)" in told
    assert "request 6 (drain)" in told


def stuck(scenario: Scenario) -> Scenario:
    """The first steps of 26_two_rings, without the one that hands on what is full."""
    waits = Step(Wait(4), "steps[4]", "writing")
    steps = (*scenario.steps[:3], Step(Sleep(0), "steps[3]"), waits)
    return replace(scenario, steps=steps)


def test_a_program_that_another_ring_refuses() -> None:
    outcome = run("""
object = "13_lines/twin.v3.bpf.o"
abi = "iouring-v3"
rings.other = { cq_entries = [16], programs = ["lines"] }
""")
    assert isinstance(outcome.stopped, LoadRejected)
    assert outcome.stopped_at == "rings.other.programs"


# --- faults -------------------------------------------------------------------------------------


def faulty(faults: Faults | None, seed: int = 0) -> tuple[Outcome, list[Event]]:
    events: list[Event] = []
    outcome = run_scenario(parse(TWO_RINGS), seed=seed, faults=faults, observer=events.append)
    return outcome, events


def test_a_plan_counts_requests_and_runs_of_all_rings() -> None:
    plan = "NOP#5=EINTR,WRITE#2=short:9,run#4=write:buffers+5:00"
    outcome, events = faulty(parse_faults(plan.removeprefix("NOP#5=EINTR,")))
    assert not outcome.missed
    told = [
        (event.ring, event.event.text)
        for event in events
        if isinstance(event, OfRing) and isinstance(event.event, Noted)
        if event.event.kind == "fault"
    ]
    assert told == [("writing", "run#4=write:buffers+5:00"), ("writing", "WRITE#2=short:9")]
    assert outcome.findings


@pytest.mark.parametrize("seed", range(8))
def test_a_swarm_replays_from_its_plan(seed: int) -> None:
    first, events = faulty(parse_faults("swarm"), seed)
    again, same = faulty(parse_faults(plan_text(first.injected) or "none"), seed)
    assert (again, same) == (first, events)


def test_faults_that_did_not_come_are_told_once() -> None:
    outcome, _ = faulty(parse_faults("READ#99=EIO,backlog=1,run#99=reap:0"))
    assert [str(one.fault) for one in outcome.missed] == [
        "READ#99=EIO",
        "backlog=1",
        "run#99=reap:0",
    ]
    assert "READ requests tried: 9" in str(outcome.missed[0])
    assert "program runs: 14" in str(outcome.missed[2])


# --- what is told ---------------------------------------------------------------------------------


def test_every_event_of_a_ring_has_its_name_and_no_number_twice() -> None:
    _, events = faulty(None)
    assert {event.ring for event in events if isinstance(event, OfRing)} == {"reading", "writing"}
    assert all(isinstance(event, OfRing | Noted) for event in events)
    numbers = [
        event.event.request
        for event in events
        if isinstance(event, OfRing) and isinstance(event.event, SqeIssued)
    ]
    assert numbers == list(range(1, len(numbers) + 1))


def test_events_of_an_only_ring_come_as_they_are() -> None:
    events: list[Event] = []
    run_scenario(parse(EXAMPLES / "01_hello" / "scenario.toml"), observer=events.append)
    assert events
    assert not any(isinstance(event, OfRing) for event in events)


def test_the_account_and_the_timeline_say_which_ring(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(TWO_RINGS)]) == 0
    out = capsys.readouterr().out
    assert " ms reading user submits BPF as request 1 " in out
    assert " ms writing   request 6 parks until CQ 1 holds 1\n" in out
    assert "\nwriting 1  18      18      0     0 " in out
    assert main(["run", str(TWO_RINGS), "--timeline"]) == 0
    out = capsys.readouterr().out
    assert "\nwriting CQ 1 of 16     " in out
    assert "\nwriting 6 BPF drain " in out


def test_the_document_has_the_rings_beside_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(TWO_RINGS), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["runs"] == {"fill": 7, "drain": 7}
    assert len(document["cqs"]) == 2
    (writing,) = document["rings"]
    assert (writing["ring"], writing["runs"]) == ("writing", {"drain": 7})
    assert [(one["posted"], one["left"]) for one in writing["cqs"]] == [(10, 0), (18, 0)]


# --- what is wrong with a scenario ----------------------------------------------------------------

_HEAD = 'object = "x"\nprograms = ["p"]\nrings.b.cq_entries = [8]\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('steps = [{ wait = 1, ring = "c" }]', "steps[0].ring: no ring is called 'c'"),
        ("steps = [{ wait = 1, cq = 1 }]", "steps[0].cq: CQ 1 of a ring with CQ 0 only (ring."),
        ('steps = [{ wait = 1, cq = 2, ring = "b" }]', "0 to 1 (rings.b.cq_entries makes more"),
        ('steps = [{ connect = "p", to = "f", ring = "b" }]', "steps[0].ring: connect is not done"),
        ('fds.f.ring = "c"', "fds.f.ring: no ring is called 'c'"),
        ("rings.main = {}", "rings.main: two rings are called 'main' (ring.name"),
        ('ring.name = "b"', "rings.b: two rings are called 'b'"),
        ('rings.c.buffers = ["x"]', "rings.c.buffers: no block is called 'x'"),
        ("rings.c.program = []", "rings.c: unknown key 'program' (did you mean 'programs'"),
        ("expect.rings.c.overflow = 1", "expect.rings.c: no ring is called 'c'"),
        ("expect.rings.b.hang = true", "expect.rings.b: unknown key 'hang'"),
        ("expect.rings.b.counts = { 2 = 1 }", "expect.rings.b.counts.2: CQ 2 of a ring with"),
        ("\n".join(f"rings.r{n} = {{}}" for n in range(15)), "rings: 17 rings, 16 at most"),
        (
            'user.m.zero = 4096\nring.mem = "m"\nrings.c.mem = "m"',
            "rings: block 'm' is the MEM region of two rings",
        ),
    ],
)
def test_one_message_with_its_place(text: str, message: str) -> None:
    with pytest.raises(InputError) as found:
        read(_HEAD + text)
    assert message in str(found.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TIMERS.replace('["", "hello"]', '["hallo"]'), "rings.other.programs[0]"),
        (TIMERS.replace("rings.other = {", 'rings.other = { mem = "word",'), "rings.other.mem"),
        (LOOPS.replace("there = {}", "there.cq_entries = [8]"), "rings.there.cq_entries"),
        (LOOPS.replace("there = {}", 'there.attach = "nop"'), "rings.there.attach"),
        (TIMERS.replace("rings.other = {", "rings.other = { entries = 0,"), "rings.other: "),
    ],
)
def test_what_only_the_object_tells(text: str, message: str) -> None:
    with pytest.raises((InputError, RingError), match=message.replace("[", r"\[")):
        run(text)


# --- from Python ----------------------------------------------------------------------------------


def test_rings_that_can_not_be_beside_one_another() -> None:
    with Machine() as machine, Machine() as other, Ring(machine=machine) as first:
        with pytest.raises(InputError, match="of one machine"):
            Ring(machine=other, beside=first)
        with pytest.raises(InputError, match="the same faults"):
            Ring(beside=first, faults="NOP#1=EINTR")


@pytest.mark.kernel_ring
def test_rings_of_two_backends_are_not_beside_one_another() -> None:
    need_backend("kernel")
    told = "a ring of kernel is not beside one of sim"
    with Ring() as first, pytest.raises(InputError, match=told):
        Ring(backend="kernel", beside=first)


@BOTH
def test_the_last_of_them_closes_the_world(backend: BackendName) -> None:
    need_backend(backend)
    with Machine() as machine:
        first = Ring(machine=machine, backend=backend)
        second = Ring(machine=machine, backend=backend, beside=first)
        first.world.add_file("f", b"data")
        fd = first.world.open("f", 0)
        block = second.user.alloc(4)
        first.close()
        second.get_sqe().prep_read(fd, block.addr, 4, 0, user_data=1)
        second.submit()
        assert (second.wait_cqe().res, block.read(4)) == (4, b"data")
        second.close()

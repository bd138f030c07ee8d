"""Scenarios carried out: every expectation can fail, and every way to stop is told apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from pybpfvm.errors import InputError, LoadRejected, RingError, RingHang, Trap
from pybpfvm.events import CqePosted, CqeReaped, Event, Noted, RunFaulted
from pybpfvm.scenario import Live, Outcome, parse_bytes, run_scenario
from pybpfvm.session import Budgets
from pybpfvm.session.hostring import BackendName
from tests.support.session_ring import SIM_AND_KERNEL, need_backend

ACCEPTANCE = Path(__file__).resolve().parents[1] / "acceptance"
EXAMPLES = ACCEPTANCE.parents[1] / "examples"
SMALL = Budgets(max_runs=2_000, livelock_runs=500, idle_timeout_ns=300_000_000)
ROWS = 'object = "rows.v3.bpf.o"\nabi = "iouring-v3"\n[ring]\ncq_entries = [16, 16]\n'


def run(text: str, *, backend: BackendName = "sim", programs: str = "count_run") -> Outcome:
    source = f'programs = ["{programs}"]\n{text}'.encode()
    scenario = parse_bytes(source, "t.toml", ACCEPTANCE)
    return run_scenario(scenario, backend=backend, budgets=SMALL)


ONE_RUN = ROWS + (
    "[user.word]\nu32 = 5\n"
    '[files."f.txt"]\ntext = "abc"\n'
    "[[steps]]\nsubmit = [{ prog = 'count_run', user_data = { block = 'word' } }]\n"
    "[[steps]]\nwait = 1\n"
)
HOLDS = """
[expect]
runs = { count_run = 1 }
overflow = 0
counts = { 0 = 1, 1 = 0 }
maps = { out = [1, 0] }
memory.word.u32 = 5
files."f.txt".text = "abc"
[expect.cqes]
0 = [{ user_data = { block = "word" }, res = 0, flags = 0 }]
1 = { set = [] }
"""


def test_what_holds_gives_no_findings() -> None:
    outcome = run(ONE_RUN + HOLDS)
    assert outcome.findings == ()
    assert outcome.ok
    assert (outcome.exit_code, dict(outcome.runs), outcome.overflow) == (0, {"count_run": 1}, 0)
    assert len(outcome.cqes[0]) == 1


BIG = """
ring.flags = ["cqe32", "sqe128"]
ring.cq_entries = [16, 16]
[[steps]]
submit = [
    { op = "nop", rw_flags = 0x20, off = 3, addr = 4, user_data = 1 },
    { op = "nop", rw_flags = 0x20, off = 5, addr = 6, user_data = 2, cq = 1 },
]
[expect.cqes]
0 = [{ user_data = 1, big_cqe = [3, 4] }]
1 = { set = [{ user_data = 2, big_cqe = [5, 6] }] }
"""


@pytest.mark.parametrize("backend", SIM_AND_KERNEL)
def test_second_halves_of_cqes(backend: BackendName) -> None:
    need_backend(backend)
    head = 'object = "rows.v3.bpf.o"\nabi = "iouring-v3"\n'
    assert run(head + BIG, backend=backend).findings == ()
    (finding,) = run(head + BIG.replace("= [3, 4]", "= [3, 0]"), backend=backend).findings
    assert finding.expected == "(user_data 1, res any, big_cqe [3, 0])"
    assert finding.found == "(user_data 1, res 0, big_cqe [3, 4])"
    with pytest.raises(InputError, match="big_cqe has 2 numbers, not 1"):
        run(head + BIG.replace("[5, 6]", "[5]"))


@pytest.mark.parametrize(
    ("right", "wrong", "place"),
    [
        ("runs = { count_run = 1 }", "runs = { count_run = 2 }", "runs.count_run"),
        ("overflow = 0", "overflow = 1", "overflow"),
        ("1 = 0 }", "1 = 3 }", "counts.1"),
        ("out = [1, 0]", "out = [1, 9]", "maps.out[1]"),
        ("word.u32 = 5", "word.u32 = 6", "memory.word, byte 0"),
        ("word.u32 = 5", "word.u64 = 5", "memory.word"),
        ('text = "abc"\n[expect.c', 'text = "abd"\n[expect.c', "files.f.txt, byte 2"),
        ("res = 0", "res = -22", "cqes.0[0]"),
        ('{ block = "word" }', "1", "cqes.0[0]"),
        ("flags = 0", "flags = 1", "cqes.0[0]"),
        ("flags = 0 }]", "flags = 0 }, {}]", "cqes.0"),
        ("1 = { set = [] }", "1 = { set = [{ res = 0 }] }", "cqes.1.set[0]"),
        ("\n0 = [", "\n2 = [] # [", ""),
    ],
)
def test_each_expectation_can_fail(right: str, wrong: str, place: str) -> None:
    assert right in HOLDS
    outcome = run(ONE_RUN + HOLDS.replace(right, wrong))
    if not place:
        assert outcome.ok  # nothing is said of CQ 0 any more
        return
    assert outcome.exit_code == 1
    assert place in outcome.findings[0].where
    assert "\n" not in str(outcome.findings[0])


def test_cqes_that_nobody_expects() -> None:
    for expected in ("0 = []", "0 = { set = [] }"):
        (finding,) = run(f"{ONE_RUN}[expect.cqes]\n{expected}").findings
        assert "user_data block word, res 0" in finding.found


def test_a_set_is_matched_as_a_whole() -> None:
    """The open spec comes first and must leave the only CQE that fits to the strict one."""
    steps = ROWS + (
        "[[steps]]\nsubmit = [{ op = 'nop', user_data = 1 }, { op = 'nop', user_data = 2 }]\n"
        "[expect.cqes]\n0 = { set = [{ res = 0 }, { user_data = 1 }] }\n"
    )
    assert run(steps).ok
    assert not run(steps.replace("{ user_data = 1 }] }", "{ user_data = 3 }] }")).ok


@pytest.mark.parametrize("backend", SIM_AND_KERNEL)
def test_a_hang_is_an_outcome(backend: BackendName) -> None:
    need_backend(backend)
    text = ROWS + "[[steps]]\nsubmit = [{ prog = 'wait_for_nothing' }]\n[[steps]]\nwait = 1\n"
    outcome = run(text, backend=backend, programs="wait_for_nothing")
    assert isinstance(outcome.stopped, RingHang)
    assert outcome.exit_code == 1
    assert run(text + "[expect]\nhang = true", backend=backend, programs="wait_for_nothing").ok


def test_what_the_ring_cancels_when_it_closes_is_not_of_the_run() -> None:
    events: list[Event] = []
    at_end: list[int] = []
    text = (
        ROWS + "[[steps]]\nsubmit = [{ prog = 'wait_for_nothing' }]\n[[steps]]\nwait = 1\n"
        "[expect]\nhang = true\n"
    )
    source = f'programs = ["wait_for_nothing"]\n{text}'.encode()
    run_scenario(
        parse_bytes(source, "t.toml", ACCEPTANCE),
        budgets=SMALL,
        observer=events.append,
        on_end=lambda live: at_end.append(len(events)),
    )
    assert at_end == [len(events)]
    assert not any(isinstance(event, CqePosted) for event in events)


def test_a_hang_that_does_not_come_is_a_finding() -> None:
    outcome = run(ONE_RUN + "[expect]\nhang = true")
    assert outcome.stopped is None
    assert [finding.where for finding in outcome.findings] == ["t.toml: expect.hang"]


def test_a_wait_that_is_too_short_is_a_finding() -> None:
    text = ROWS + (
        "[user.t]\ntimespec_ns = 500_000_000\n"
        "[[steps]]\nsubmit = [{ op = 'timeout', addr = { block = 't' }, len = 1 }]\n"
        "[[steps]]\nwait = 1\ntimeout = '100 ms'\n"
    )
    (finding,) = run(text).findings
    assert (finding.where, finding.found) == ("t.toml: steps[1]", "0 until the timeout")
    assert run(text.replace("100 ms", "1 s")).ok


LOADS = (
    'object = "load_checks.v3.bpf.o"\nunverified = true\nabi = "iouring-v3"\n'
    "[user.word]\nu32 = 99\n"
    "[[steps]]\nsubmit = [{ prog = 'PROG', user_data = { block = 'word' } }]\n"
    "[[steps]]\nwait = 1\n"
)


VERIFIED = LOADS.replace("unverified = true\n", "")


def test_a_load_rejection_is_an_outcome() -> None:
    text = VERIFIED.replace("PROG", "return_two")
    outcome = run(text, programs="return_two")
    assert isinstance(outcome.stopped, LoadRejected)
    assert outcome.exit_code == 1
    assert run(text + "[expect]\nload_error = 'EINVAL'", programs="return_two").ok
    assert not run(text + "[expect]\nload_error = 'EACCES'", programs="return_two").ok


def test_what_the_verifier_refuses_is_not_registered() -> None:
    outcome = run(VERIFIED.replace("PROG", "return_unknown"), programs="return_unknown")
    assert isinstance(outcome.stopped, LoadRejected)
    assert "R0 has smin=0 smax=4294967295 should have been in [0, 1]" in str(outcome.stopped)
    assert outcome.exit_code == 1


def test_a_trap_is_an_outcome() -> None:
    text = LOADS.replace("PROG", "return_unknown")
    outcome = run(text, programs="return_unknown")
    assert isinstance(outcome.stopped, Trap)
    assert outcome.exit_code == 4
    assert run(text + "[expect]\ntrap = 'BAD_RETURN'", programs="return_unknown").ok
    assert not run(text + "[expect]\ntrap = 'NULL'", programs="return_unknown").ok


def test_refusals_of_registering_are_expected_by_name() -> None:
    steps = ROWS + (
        "[[steps]]\nregister = ['count_run']\nerror = 'EBUSY'\n"
        "[[steps]]\nunregister = true\n"
        "[[steps]]\nunregister = true\nerror = 'ENXIO'\n"
        "[[steps]]\nregister = []\nerror = 'EINVAL'\n"
        "[[steps]]\nregister = ['count_run', 'emit_129']\n"
    )
    assert run(steps).ok
    (finding,) = run(steps.replace("EBUSY", "EACCES")).findings
    assert str(finding) == "t.toml: steps[0]: expected refusal with -EACCES, found -EBUSY"
    with pytest.raises(InputError, match="EBUSY"):
        run(steps.replace("error = 'EBUSY'\n", ""))


@pytest.mark.parametrize("backend", SIM_AND_KERNEL)
def test_peers_and_checks_between_steps(backend: BackendName) -> None:
    need_backend(backend)
    text = ROWS + (
        "[user.buf]\nzero = 8\n[fds.sock]\nsocketpair = 'host'\n"
        "[[steps]]\nsend = 'host'\ntext = 'ping'\n"
        "[[steps]]\nsubmit = [{ op = 'recv', fd = 'sock', addr = { block = 'buf' }, len = 8 }]\n"
        "[[steps]]\nwait = 1\n"
        "[[steps]]\ncheck = { memory = { buf = { text = 'ping' } }, counts = { 0 = 1 } }\n"
        "[[steps]]\nwrite = 'buf'\noffset = 1\ntext = 'o'\n"
        "[[steps]]\nsubmit = [{ op = 'send', fd = 'sock', addr = { block = 'buf' }, len = 4 }]\n"
        "[[steps]]\nwait = 1\n"
        "[[steps]]\nrecv = 'host'\ntext = 'pong'\n"
        "[[steps]]\nshutdown = 'host'\n[[steps]]\nclose = 'host'\n"
        "[[steps]]\nclose = 'sock'\nof = 'fd'\n"
        "[[steps]]\nsleep = '1 ms'\n"
    )
    outcome = run(text, backend=backend)
    assert outcome.findings == ()
    (finding,) = run(text.replace("text = 'pong'", "text = 'gong'"), backend=backend).findings
    assert finding.found == "b'pong'"


@pytest.mark.parametrize(
    ("content", "where", "expected", "found"),
    [
        ("fill = 0x61\nsize = 500", "steps[2]", "500 bytes", "400"),
        ("zero = 400", "steps[2], byte 0", "00 " * 15 + "00", "61 " * 15 + "61"),
    ],
)
def test_what_a_peer_should_have_received_is_told_by_its_size_and_first_difference(
    content: str, where: str, expected: str, found: str
) -> None:
    text = ROWS + (
        "[user.buf]\nfill = 0x61\nsize = 400\n[fds.sock]\nsocketpair = 'host'\n"
        "[[steps]]\nsubmit = [{ op = 'send', fd = 'sock', addr = { block = 'buf' }, len = 400 }]\n"
        "[[steps]]\nwait = 1\n"
        f"[[steps]]\nrecv = 'host'\ntimeout = '20 ms'\n{content}\n"
    )
    (finding,) = run(text).findings
    assert (finding.where, finding.expected, finding.found) == (f"t.toml: {where}", expected, found)


@pytest.mark.parametrize("backend", SIM_AND_KERNEL)
@pytest.mark.parametrize(
    ("before", "found"),
    [
        ("[[steps]]\nclose = 'sock'\nof = 'fd'\n", None),
        ("", "nothing"),
        (
            "[[steps]]\n"
            "submit = [{ op = 'send', fd = 'sock', addr = { block = 'word' }, len = 4 }]\n"
            "[[steps]]\nwait = 1\n",
            "b'\\x05'",
        ),
    ],
    ids=["closed", "open", "more"],
)
def test_the_end_of_a_stream(backend: BackendName, before: str, found: str | None) -> None:
    need_backend(backend)
    start = "[user.word]\nu32 = 5\n[fds.sock]\nsocketpair = 'host'\n"
    recv = "[[steps]]\nrecv = 'host'\ntext = ''\nend = true\ntimeout = '20 ms'\n"
    findings = run(ROWS + start + before + recv, backend=backend).findings
    assert [finding.found for finding in findings] == ([found] if found else [])


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ('object = "none.o"', InputError, "none.o"),
        ('object = "rows.v2.bpf.o"\nabi = "iouring-v9"', InputError, "iouring-v9"),
        (ROWS.replace("[16, 16]", "[0]"), RingError, "EINVAL"),
        (ROWS.replace("[16, 16]", "[4294967295]"), RingError, "EINVAL"),
        (ROWS + "entries = 0", RingError, "EINVAL"),
        (ROWS + "entries = 2147483648", RingError, "EINVAL"),
        (
            ROWS + "[user.s]\nstruct = 'io_uring_bpf_ctxt'",
            InputError,
            "did you mean 'io_uring_bpf_ctx'?",
        ),
        (ROWS + "[fds.f]\nopen = 'none'", InputError, "none"),
        (ROWS + "[[steps]]\nwait = 1\ncq = 9", InputError, "steps[0]"),
        (ROWS + "[[steps]]\nsubmit = [{ op = 'nop', fd = 99999999999 }]", InputError, "steps[0]"),
        (
            ROWS + "[expect.maps]\nouts = [1]",
            InputError,
            "t.toml: expect.maps.outs: no map is called 'outs' (did you mean 'out'?)",
        ),
        (ROWS + "[expect.globals]\nx = 1", InputError, "t.toml: expect.globals.x: no global"),
        (
            ROWS + "[[steps]]\nsubmit = [{ op = 'nop' }, { prog = 'count_rum' }]",
            InputError,
            "t.toml: steps[0].submit[1]: no program is called 'count_rum' (did you mean 'count_run",
        ),
        (
            ROWS + "[expect.runs]\ncount_rum = 0",
            InputError,
            "t.toml: expect.runs.count_rum: no registered program is called 'count_rum' "
            "(did you mean 'count_run'?)",
        ),
        (
            ROWS + "[[steps]]\nregister = ['', 'count_rum']",
            InputError,
            "has no program 'count_rum' (did you mean 'count_run'?)",
        ),
        (
            ROWS + "[[steps]]\ncheck = { maps = { ot = [1] } }",
            InputError,
            "t.toml: steps[0].check.maps.ot: no map is called 'ot' (did you mean 'out'?)",
        ),
        (
            ROWS + "[user.s]\nstruct = 'io_uring_bpf_ctx'\nfields = { usr_data = 1 }",
            InputError,
            "t.toml: user.s.fields.usr_data: struct io_uring_bpf_ctx has no field 'usr_data' "
            "(did you mean 'user_data'?)",
        ),
        (
            ROWS + "[user.b]\nzero = 8\n[expect.memory.b]\nstruct = 'io_uring_bpf_ctx'\n"
            "fields = { wait_nrr = 1 }",
            InputError,
            "t.toml: expect.memory.b.fields.wait_nrr: struct io_uring_bpf_ctx has no field",
        ),
        (
            ROWS + "[user.s]\nstruct = 'job'",
            InputError,
            "t.toml: user.s.struct: the object's BTF has no struct 'job' (known here: "
            "io_uring_bpf_ctx; clang keeps types of maps, globals and arguments",
        ),
        (
            ROWS + "[files.data]\ntext = 'x'\n[fds.f]\nopen = 'dta'",
            InputError,
            "fds.f.open: can not open dta: ENOENT (did you mean 'data'?)",
        ),
        (ROWS.replace("iouring-v3", "iouring-v4"), InputError, "t.toml: abi: no ABI profile"),
    ],
)
def test_what_can_not_be_set_up(text: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error) as caught:
        run(text)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("example", "expect", "where"),
    [
        ("03_pingpong", "expect.maps.players = { 1 = { hit = 6 } }", "maps.players[1].hit"),
        ("05_read_open", "expect.globals.wish = { nam = 0 }", "globals.wish.nam"),
        ("02_ticker", "expect.globals.order = { last = 0 }", "globals.order.last"),
    ],
)
def test_unknown_fields_of_maps_and_globals_are_refused_before_anything_runs(
    example: str, expect: str, where: str
) -> None:
    text = f'object = "prog.v3.bpf.o"\nabi = "iouring-v3"\n{expect}'
    scenario = parse_bytes(text.encode(), "t.toml", EXAMPLES / example)
    started: list[Live] = []
    with pytest.raises(InputError, match="has no field") as caught:
        run_scenario(scenario, on_start=started.append)
    assert caught.value.where == f"t.toml: expect.{where}"
    assert caught.value.remedy
    assert not started


def test_time_on_the_kernels_ring_counts_from_the_first_submit() -> None:
    need_backend("kernel")
    starts: list[int] = []
    events: list[Event] = []
    source = f'programs = ["count_run"]\n{ONE_RUN}'.encode()
    outcome = run_scenario(
        parse_bytes(source, "t.toml", ACCEPTANCE),
        backend="kernel",
        observer=events.append,
        on_end=lambda live: starts.append(live.start_ns),
    )
    first = next(event for event in events if not isinstance(event, Noted))
    assert 0 < starts[0] <= first.time_ns
    assert events[-1].time_ns - starts[0] <= outcome.time_ns


def test_time_in_sim_is_all_of_virtual_time() -> None:
    starts: list[int] = []
    text = ROWS + "[[steps]]\nsleep = '3 ms'\n[[steps]]\nsubmit = [{ op = 'nop' }]\n"
    scenario = parse_bytes(text.encode(), "t.toml", ACCEPTANCE)
    run_scenario(scenario, on_end=lambda live: starts.append(live.start_ns))
    assert starts == [0]


def test_a_typo_in_programs_is_blamed_on_programs_not_on_who_refers_to_them() -> None:
    with pytest.raises(InputError) as caught:
        run(ONE_RUN + HOLDS, programs="count_rum")
    assert caught.value.where == "t.toml: programs[0]"
    assert caught.value.remedy == "did you mean 'count_run'?"


def test_an_abi_of_the_caller_is_not_blamed_on_the_scenario() -> None:
    scenario = parse_bytes(f'programs = ["count_run"]\n{ONE_RUN}'.encode(), "t.toml", ACCEPTANCE)
    with pytest.raises(InputError) as caught:
        run_scenario(scenario, abi="iouring-v4")
    assert caught.value.where == "abi"


def test_a_stop_leaves_expectations_unjudged() -> None:
    text = (
        LOADS.replace("PROG", "return_unknown")
        + "[[steps]]\ncheck = { counts = { 0 = 1 } }\n"
        + "[expect]\nruns = { return_unknown = 5 }\noverflow = 1\nmemory.word.u32 = 1\n"
    )
    outcome = run(text, programs="return_unknown")
    assert (outcome.findings, outcome.stopped_at, outcome.not_judged) == ((), "steps[0]", 4)
    judged = run(
        text.replace("[expect]", "[expect]\ntrap = 'BAD_RETURN'"), programs="return_unknown"
    )
    assert judged.not_judged == 0
    assert len(judged.findings) == 3
    rejected = run(
        VERIFIED.replace("PROG", "return_two") + "[expect]\noverflow = 0", programs="return_two"
    )
    assert (rejected.stopped_at, rejected.not_judged) == ("programs", 1)


def test_the_faulting_run_is_an_event_with_its_instructions() -> None:
    events: list[Event] = []
    source = LOADS.replace("PROG", "return_unknown")
    text = f'programs = ["return_unknown"]\n{source}'
    scenario = parse_bytes(text.encode(), "t.toml", ACCEPTANCE)
    outcome = run_scenario(scenario, observer=events.append)
    (fault,) = [event for event in events if isinstance(event, RunFaulted)]
    assert isinstance(outcome.stopped, Trap)
    assert (fault.program, fault.pc) == ("return_unknown", outcome.stopped.pc)
    assert fault.reason == str(outcome.stopped).splitlines()[0]
    assert fault.insns == outcome.stopped.insns > 0
    posted = [event for event in events if isinstance(event, CqePosted)]
    assert [(event.res, event.request) for event in posted] == [(-125, fault.request)]
    events.clear()
    stopped = run_scenario(scenario, observer=events.append, budget_insns=1).stopped
    assert isinstance(stopped, Trap)
    assert [event.insns for event in events if isinstance(event, RunFaulted)] == [1]


def test_what_is_collected_at_the_end_was_reaped_by_nobody() -> None:
    events: list[Event] = []
    text = ONE_RUN.replace("[[steps]]\nwait = 1\n", "")
    for source, reaped in ((ONE_RUN, 1), (text, 0)):
        events.clear()
        whole = f'programs = ["count_run"]\n{source}'.encode()
        outcome = run_scenario(parse_bytes(whole, "t.toml", ACCEPTANCE), observer=events.append)
        assert sum(isinstance(event, CqeReaped) for event in events) == reaped
        assert len(outcome.cqes[0]) == 1


def test_live_names_addresses() -> None:
    names: list[str | None] = []

    def look(live: Live) -> None:
        addr = live.blocks["word"].addr
        names.extend([live.name_of(addr), live.name_of(addr + 3), live.name_of(addr + 4)])

    source = f'programs = ["count_run"]\n{ONE_RUN}'.encode()
    run_scenario(parse_bytes(source, "t.toml", ACCEPTANCE), on_end=look)
    assert names == ["word", "word+3", None]


NETWORK = """
[network]
latency = "30 ms"
[fds.sock]
datagrams = true
[user.buffer]
zero = 64
[[steps]]
connect = "alice"
to = "sock"
[[steps]]
[[steps.submit]]
op = "recv"
fd = { fd = "sock" }
addr = { block = "buffer" }
len = 64
user_data = 1
[[steps]]
send = "alice"
text = "hello"
[[steps]]
wait = 1
timeout = "TIMEOUT"
[expect.cqes]
0 = [{ user_data = 1, res = 5 }]
"""


@pytest.mark.parametrize(("timeout", "holds"), [("20 ms", False), ("40 ms", True)])
def test_a_simulated_network_takes_its_time(timeout: str, holds: bool) -> None:
    assert run(ROWS + NETWORK.replace("TIMEOUT", timeout)).ok is holds


def test_a_step_changes_the_link_of_one_peer() -> None:
    change = '[[steps]]\nnetwork = { peer = "alice", partition = true }\n[[steps]]\nsend'
    network = NETWORK.replace("TIMEOUT", "1 s")
    cut = network.replace("[[steps]]\nsend", change)
    assert not run(ROWS + cut).ok
    with pytest.raises(InputError, match="no peer is called 'bob'"):
        run(ROWS + cut.replace('"alice", partition', '"bob", partition'))
    with pytest.raises(InputError, match="say it in a step"):
        run(ROWS + network.replace("[network]", "[network]\nreset = true"))
    with pytest.raises(InputError, match="loss"):
        run(ROWS + network.replace("[network]", "[network]\nloss = 1.5"))


@pytest.mark.kernel_ring
def test_the_kernels_ring_has_no_network_to_set() -> None:
    need_backend("kernel")
    with pytest.raises(InputError, match="run this on sim"):
        run(ROWS + NETWORK.replace("TIMEOUT", "1 s"), backend="kernel")


@pytest.mark.parametrize("backend", SIM_AND_KERNEL)
def test_files_come_from_a_directory_and_go_to_one(backend: BackendName, tmp_path: Path) -> None:
    need_backend(backend)
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "sub").mkdir(parents=True)
    (source / "sub/a").write_text("from the host")
    (source / "f.txt").write_text("replaced")
    text = ONE_RUN.replace("[files.", f'[files]\nfrom = "{source}"\n[files.', 1)
    text += '[expect]\nfiles."sub/a".text = "from the host"\n'
    outcome = run(f'dump = "{target}"\n{text}', backend=backend)
    assert outcome.findings == ()
    found = {path.name: path.read_text() for path in target.rglob("*") if path.is_file()}
    assert found == {"a": "from the host", "f.txt": "abc"}


def test_a_directory_to_dump_into_is_looked_at_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    seen: list[Event] = []
    scenario = parse_bytes(f'dump = "{tmp_path}"\n{ROWS}'.encode(), "t.toml", ACCEPTANCE)
    with pytest.raises(InputError, match="is not empty"):
        run_scenario(scenario, on_start=lambda live: pytest.fail("it began"), observer=seen.append)
    assert seen == []


HEAD = ROWS.partition("[ring]")[0]
BUFFERS = (
    HEAD
    + """
ring.cq_entries = [16]
ring.buffer_rings = [{ group = 7, block = "table", buffers = ["one", "two"] }]
user.table = { zero = 32 }
user.one = { zero = 4 }
user.two = { zero = 8 }
fds.sock = { socketpair = "host" }
steps = [
    { send = "host", text = "ping" },
    { submit = [{ op = "recv", fd = "sock", flags = ["buffer_select"], buf_index = 7 }] },
    { wait = 1 },
    { send = "host", text = "pong" },
    { submit = [{ op = "recv", fd = "sock", flags = ["buffer_select"], buf_index = 7 }] },
    { wait = 1 },
    { submit = [{ op = "recv", fd = "sock", flags = ["buffer_select"], buf_index = 7 }] },
    { wait = 1 },
]
expect.cqes.0 = [{ res = 4, flags = 1 }, { res = 4, flags = 0x10001 }, { res = "-ENOBUFS" }]
expect.memory.one = { text = "ping" }
expect.memory.two = { parts = [{ text = "pong" }, { zero = 4 }] }
"""
)


@pytest.mark.parametrize("backend", SIM_AND_KERNEL)
def test_requests_select_from_a_ring_of_buffers(backend: BackendName) -> None:
    need_backend(backend)
    assert run(BUFFERS, backend=backend).findings == ()
    one_buffer = BUFFERS.replace(
        'buffers = ["one", "two"]', 'buffers = ["two"], incremental = true'
    )
    (two, *_) = [f for f in run(one_buffer, backend=backend).findings if "memory.two" in f.where]
    assert two.found == b"ingpong".hex(" ")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (BUFFERS.replace("group = 7, ", ""), r"ring.buffer_rings\[0\].group: a group's number"),
        (BUFFERS.replace('["one", "two"]', '["three"]'), "no block is called 'three'"),
        (BUFFERS.replace("zero = 32", "zero = 16"), "2 buffers, and 'table' has 1 entries"),
        (BUFFERS.replace("zero = 32", "zero = 48"), r"buffer_rings\[0\]: the ring refused.*EINVAL"),
        (
            BUFFERS.replace("zero = 32", "zero = 0x20_0000").replace(
                '["one", "two"]', str(["one"] * 65536)
            ),
            "65536 buffers, 65535 at most",
        ),
    ],
)
def test_rings_of_buffers_that_can_not_be(text: str, place: str) -> None:
    with pytest.raises(InputError, match=place):
        run(text)


@pytest.mark.parametrize("backend", SIM_AND_KERNEL)
def test_eventfds_and_epoll_sets(backend: BackendName) -> None:
    need_backend(backend)
    text = (
        HEAD
        + """
ring.cq_entries = [16]
fds.count = { eventfd = 3 }
fds.set = { epoll = true }
user.value = { u64 = 0 }
user.add = { parts = [{ u32 = 1 }, { u64 = 77 }] }
steps = [
    { submit = [
        { op = "epoll_ctl", fd = "set", off = { fd = "count" }, len = 1, addr = { block = "add" } },
    ] },
    { wait = 1 },
    { submit = [{ op = "poll_add", fd = "set", rw_flags = 1 }] },
    { wait = 1 },
    { submit = [{ op = "read", fd = "count", addr = { block = "value" }, len = 8 }] },
    { wait = 1 },
]
expect.cqes.0 = [{ res = 0 }, { res = 1 }, { res = 8 }]
expect.memory.value = { u64 = 3 }
"""
    )
    assert run(text, backend=backend).findings == ()

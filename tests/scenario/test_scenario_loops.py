"""Scenarios of programs that drive a ring from inside io_uring_enter, and such objects alone."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from pybpfvm.cli import main
from pybpfvm.errors import InputError, LoadRejected, RingHang
from pybpfvm.events import CqeReaped, Event, HostWaits, Noted
from pybpfvm.scenario import Outcome, parse, parse_bytes, run_scenario
from pybpfvm.session import Budgets
from pybpfvm.session.hostring import BackendName
from pybpfvm.uring_backend.faults import parse_faults
from tests.support.session_ring import SIM_AND_KERNEL, need_backend

ACCEPTANCE = Path(__file__).resolve().parents[1] / "acceptance"
EXAMPLES = ACCEPTANCE.parents[1] / "examples"
NOPS = EXAMPLES / "loop_nops" / "prog.bpf.o"
ROWS = 'object = "loop_rows.bpf.o"\nabi = "loop-7.2"\nring.cq0_entries = 16\n'
SMALL = Budgets(max_runs=2_000, livelock_runs=500, idle_timeout_ns=2_000_000_000)
MS = 1_000_000
both_backends = pytest.mark.parametrize("backend", SIM_AND_KERNEL)


def run(text: str, backend: BackendName = "sim", head: str = ROWS) -> Outcome:
    need_backend(backend)
    scenario = parse_bytes(f"{head}{text}".encode(), "t.toml", ACCEPTANCE)
    return run_scenario(scenario, backend=backend, budgets=SMALL)


@both_backends
@pytest.mark.parametrize("name", ["loop_nops", "loop_copy"])
def test_the_examples(name: str, backend: BackendName) -> None:
    need_backend(backend)
    outcome = run_scenario(parse(EXAMPLES / name / "scenario.toml"), backend=backend)
    assert (outcome.findings, outcome.stopped, outcome.exit_code) == ((), None, 0)


LIMITER = """
attach = "limit"
ring.flags = ["single_issuer", "defer_taskrun"]
ring.mem = "own"
user.own = { parts = [{ u32 = [0, 2] }, { zero = 4088 }] }
user.half_a_second.timespec_ns = 500_000_000
[[steps]]
submit = [
    { op = "timeout", addr = { block = "half_a_second" }, len = 1, user_data = 0 },
    { op = "timeout", addr = { block = "half_a_second" }, len = 1, user_data = 1 },
    { op = "timeout", addr = { block = "half_a_second" }, len = 1, user_data = 2 },
    { op = "timeout", addr = { block = "half_a_second" }, len = 1, user_data = 3 },
]
consumed = 0
[[steps]]
check.memory.own = { u32 = [2] }
[[steps]]
write = "own"
offset = 20
u32 = 4
[[steps]]
enter = true
result = 0
[expect]
memory.own = { u32 = [0], offset = 24 }
cqes.0 = [
    { user_data = 0 },
    { user_data = 1 },
    { user_data = 2 },
    { user_data = 3, res = "-ETIME" },
]
"""


@both_backends
def test_a_rate_limiter(backend: BackendName) -> None:
    """abi/iouring-bpf-upstream, 5.4, with half as many timeouts: two by two of 500 ms."""
    outcome = run(LIMITER, backend)
    assert (outcome.findings, outcome.stopped) == ((), None)
    assert outcome.time_ns >= 1000 * MS
    if backend == "sim":
        assert outcome.time_ns == 1000 * MS


@both_backends
def test_what_happens_while_an_enter_sleeps(backend: BackendName) -> None:
    outcome = run(
        """
attach = "wait"
globals = { wait_idx = 1000, wait_steps = 1 }
steps = [{ after = "5 ms", signal = true }, { enter = true, error = "EINTR" }]
expect.runs = { waits = 1 }
""",
        backend,
    )
    assert (outcome.findings, outcome.stopped) == ((), None)
    assert outcome.time_ns >= 5 * MS


def test_a_detachment_ends_the_loop_when_it_wakes() -> None:
    outcome = run(
        """
attach = "wait"
globals = { wait_idx = 1, wait_steps = 1, nr = 1 }
user.later.timespec_ns = 20_000_000
[[steps]]
after = "5 ms"
detach = "wait"
[[steps]]
submit = [{ op = "timeout", addr = { block = "later" }, len = 1, user_data = 7 }]
error = "EFAULT"
[[steps]]
enter = true
result = 0
[expect]
runs.waits = 1
cqes.0 = [{ user_data = 7, res = "-ETIME" }]
"""
    )
    assert (outcome.findings, outcome.stopped) == ((), None)
    assert outcome.time_ns == 20 * MS


def test_a_virtual_clock_passes_however_long_the_wait() -> None:
    head = ROWS + 'attach = "wait"\nglobals = { wait_idx = 1, wait_steps = 1, nr = 1 }\n'
    outcome = run(
        """
user.later.timespec_ns = 3_600_000_000_000
[[steps]]
submit = [{ op = "timeout", addr = { block = "later" }, len = 1, user_data = 7 }]
""",
        head=head,
    )
    assert outcome.stopped is None
    assert outcome.time_ns == 3_600_000 * MS


def test_attaching_and_entering_are_refused_as_expected() -> None:
    outcome = run(
        """
ring.flags = ["single_issuer", "defer_taskrun", "no_sqarray", "sq_rewind", "r_disabled"]
globals = { answer = 7 }
steps = [
    { attach = "answer_ops" },
    { attach = "stop", error = "EBUSY" },
    { enter = true, error = "EBADFD" },
    { enable = true },
    { enable = true, error = "EBADFD" },
    { enter = { flags = 0x40000000 }, error = "EINVAL" },
    { enter = { to_submit = 5, min_complete = 3 }, error = "EINVAL" },
    { detach = "answer_ops" },
    { attach = "empty", error = "EINVAL" },
    { attach = "stop" },
    { enter = true, result = 0 },
]
expect.runs = { answers = 1, stops = 1 }
"""
    )
    assert (outcome.findings, outcome.stopped) == ((), None)


@pytest.mark.parametrize(
    ("step", "wanted", "found"),
    [
        ("{ enter = true, result = 1 }", "enter: 1", "0"),
        ('{ enter = true, error = "EINTR" }', "enter: -EINTR", "0"),
        ('{ detach = "stop" }, { attach = "stop", error = "EBUSY" }', "-EBUSY", "success"),
        ("{ enable = true }", "", "EBADFD"),
    ],
)
def test_what_differs_is_found(step: str, wanted: str, found: str) -> None:
    text = f'attach = "stop"\nsteps = [{step}]\n'
    if not wanted:
        with pytest.raises(InputError, match=found):
            run(text)
        return
    (finding,) = run(text).findings
    assert wanted in finding.expected
    assert finding.found == found
    assert finding.where.startswith("t.toml: steps[")


def test_an_unexpected_refusal_of_enter_is_found() -> None:
    (finding,) = run(
        'attach = "answer_ops"\nglobals.answer = 2\nsteps = [{ enter = true }]'
    ).findings
    assert (finding.expected, finding.found) == ("enter: no refusal", "-EINVAL")


def test_ordinary_waits_sleeps_and_timeouts() -> None:
    """Without callbacks on it, such a ring is an ordinary one."""
    outcome = run(
        """
attach = []
user.later.timespec_ns = 20_000_000
[[steps]]
submit = [{ op = "timeout", addr = { block = "later" }, len = 1, user_data = 7 }]
consumed = 1
[[steps]]
sleep = "5 ms"
[[steps]]
check.counts.0 = 0
[[steps]]
wait = 1
timeout = "5 s"
[[steps]]
check.cqes.0 = [{ user_data = 7, res = "-ETIME" }]
[[steps]]
wait = 1
timeout = "1 ms"
"""
    )
    assert [finding.where for finding in outcome.findings] == ["t.toml: steps[5]"]
    assert outcome.time_ns == 21 * MS


def test_a_wait_enters_the_programs_loop_and_knows_when_that_is_in_vain() -> None:
    text = """
attach = "submit"
globals.nr = 1
steps = [
    { wait = 1 },
    { detach = "submit" },
    { attach = "stop" },
    { wait = 1 },
]
"""
    outcome = run(text)
    assert isinstance(outcome.stopped, RingHang)
    assert outcome.stopped_at == "steps[3]"
    assert len(outcome.cqes[0]) == 1


@both_backends
def test_peers_whose_step_has_not_come(backend: BackendName) -> None:
    outcome = run(
        """
attach = []
fds.listener = { listen = true }
[[steps]]
after = "3600 s"
connect = "eve"
to = "listener"
[[steps]]
recv = "eve"
text = "hello"
[[steps]]
send = "eve"
text = "hello"
[[steps]]
shutdown = "eve"
""",
        backend,
    )
    assert [(one.where, one.expected, one.found) for one in outcome.findings] == [
        (f"t.toml: steps[{number}]", "eve is connected", "its step has not come yet")
        for number in (1, 2, 3)
    ]


def test_hangs_traps_and_refusals_stop_the_steps() -> None:
    hang = run(
        'attach = "wait"\nglobals = { wait_idx = 9, wait_steps = 1 }\nsteps = [{ enter = true }]\n'
        "expect.hang = true\n"
    )
    assert hang.expected_stop
    head = 'object = "loop_load.bpf.o"\nabi = "loop-7.2"\n'
    refused = run('attach = "ops_no_null_check"\nexpect.load_error = "EACCES"\n', head=head)
    assert isinstance(refused.stopped, LoadRejected)
    assert refused.expected_stop
    assert refused.stopped_at == "attach"


def test_who_reaps_is_told() -> None:
    events: list[Event] = []
    scenario = parse(EXAMPLES / "loop_copy" / "scenario.toml")
    run_scenario(scenario, observer=events.append)
    reaped = [event.by for event in events if isinstance(event, CqeReaped)]
    assert reaped == ["copy"] * 7
    assert [e.text for e in events if isinstance(e, Noted) and e.kind == "enter"] == ["returned 0"]
    assert not [event for event in events if isinstance(event, HostWaits)]  # all at once in `sim`


def test_requests_meet_faults() -> None:
    scenario = parse(EXAMPLES / "loop_copy" / "scenario.toml")
    outcome = run_scenario(scenario, faults=parse_faults("READ#2=EIO"))
    assert [str(fault) for fault in outcome.injected] == ["READ#2=EIO"]
    assert "globals.error" in " ".join(finding.where for finding in outcome.findings)
    short = run_scenario(scenario, faults=parse_faults("WRITE#1=short:5"))
    assert short.ok is False  # one write more
    assert not [f for f in short.findings if "files" in f.where]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('programs = ["stops"]', "t.toml: programs: that is for BPF requests"),
        ("ring.cq_entries = [8]", "ring.cq_entries: that is for BPF requests"),
        ('steps = [{ register = ["stops"] }]', r"steps\[0\]: that is for BPF requests"),
        ('attach = "stob"', "attach: no struct of callbacks is called 'stob'.*'stop'"),
        ('steps = [{ attach = "stob" }]', "no struct of callbacks is called 'stob'"),
        ("steps = [{ enter = true }]", "attach: the object has 12 structs of callbacks"),
        ("attach = []\nconstants.probe_siz = 8", "constants.probe_siz: .* no constant of this"),
        ("attach = []\nconstants.steps = 8", "constants.steps: .* no constant of this name"),
        (
            'attach = []\nuser.a.u8 = 1\nconstants.probe_size = { block = "a" }',
            "constants.probe_size: of blocks",
        ),
        (
            'attach = []\nconstants.probe_size = { ring = "cq_hed" }',
            "no number of the ring.*cq_head",
        ),
        ('attach = []\nconstants.probe_size = { ring = "ring_fd" }', "is not known when an object"),
        ("attach = []\nglobals.step = 8", "globals.step: no global variable.*'steps'"),
        ("attach = []\nglobals.sq_entries = 8", "sq_entries is constant"),
        ('attach = []\nring.mem = "a"', "ring.mem: no block is called 'a'"),
        (
            'attach = []\nring.flags = ["single_issuer", "defer_taskrun", "no_mmap"]',
            "t.toml: ring: unsupported: rings with NO_MMAP",
        ),
        ('attach = []\nring.flags = ["sqpol"]', "ring.flags: unknown name 'sqpol'.*sqpoll"),
        ('attach = []\nsteps = [{ after = "1 ms", enter = true }]', "after: enter can not happen"),
        ('attach = []\nsteps = [{ detach = "stop" }]', "'stop' is not attached"),
        ("attach = []\nsteps = [{ enter = false }]", "enter: a table is needed"),
        ("attach = []\nexpect.runs.stobs = 1", "expect.runs.stobs"),
    ],
)
def test_what_can_not_be_meant_is_refused_at_its_place(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(text)


@pytest.mark.parametrize(
    "text",
    [
        'attach = "x"',
        "steps = [{ enter = true }]",
        'user.a.u8 = 1\nring.mem = "a"',
        'globals.x = { ring = "cq_head" }',
        'steps = [{ after = "1 ms", write = "a", u8 = 1 }]\nuser.a.u8 = 1',
    ],
)
def test_rings_of_bpf_requests_have_no_loop(text: str) -> None:
    head = 'object = "rows.v3.bpf.o"\nabi = "iouring-v3"\n'
    with pytest.raises(InputError, match=r"programs of a ring's loop|no global variable"):
        run(text, head=head)


# --- objects alone ----------------------------------------------------------------------------


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main(["run", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


@both_backends
def test_an_object_runs_from_one_command(
    backend: BackendName, capsys: pytest.CaptureFixture[str]
) -> None:
    need_backend(backend)
    values = ("--set", "to_run=100", "--set", "cq_entries=8")
    code, out, _ = command(
        capsys, NOPS, "--abi", "loop-7.2", "--backend", backend, "--json", *values
    )
    document = json.loads(out)
    assert (code, document["runs"]) == (0, {"keep_busy": 14})
    assert document["globals"]["to_run"] == 0
    assert document["globals"]["cq_entries"] == 8
    assert document["cqs"][0]["posted"] == document["cqs"][0]["reaped"] == 100
    assert all(value in document["replay"] for value in ("to_run=100", "cq_entries=8"))


def test_an_object_without_variables_is_not_told_to_be_compiled_again() -> None:
    """`-g` tells what there is: it has none."""
    path = ACCEPTANCE / "loop_licence.bpf.o"
    text = f'object = "{path}"\nabi = "loop-7.2"\nattach = []\n'
    for line in ("globals.x = 1", "expect.globals.x = 1"):
        with pytest.raises(InputError, match="the object has none"):
            run_scenario(parse_bytes((text + line).encode(), "t.toml", ACCEPTANCE))


def test_an_object_alone_says_what_it_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    rows = ACCEPTANCE / "loop_rows.bpf.o"
    for arguments, code, text in (
        ((ACCEPTANCE / "loop_load.bpf.o",), 2, "the ABI is ambiguous"),
        ((rows, "--abi", "loop-7.2"), 2, "structs of callbacks"),
        ((rows, "--abi", "loop-7.2", "--prog", "stopps"), 2, "no structs of callbacks have"),
        ((NOPS, "--abi", "loop-7.2", "--set", "to_rum=1"), 2, "--set to_rum"),
        ((NOPS, "--abi", "loop-7.2", "--set", "to_run=x"), 2, "'x' is not a value"),
        ((NOPS, "--abi", "loop-7.2", "--set", "to_run=hex:01"), 2, "has 4 bytes, not 1"),
        ((NOPS, "--abi", "loop-7.2", "--mem", str(1 << 40)), 2, "--mem: a MEM region of"),
        ((NOPS.with_name("scenario.toml"), "--mem", "64"), 2, "a scenario has ring.mem"),
        ((EXAMPLES / "01_hello" / "prog.v3.bpf.o", "--mem", "64"), 2, "--mem: the option belongs"),
        ((NOPS, "--abi", "loop-7.2", "--ctx", "00"), 2, "--ctx: the option belongs to"),
        ((NOPS, "--abi", "loop-7.2", "--object", "x"), 2, "--object: the option belongs to"),
        ((NOPS.with_name("scenario.toml"), "--set", "a=1"), 2, "--set: values are for a run of"),
        ((NOPS, "--abi", "loop-7.2", "--set", "sq_entries=64"), 2, "is smaller than the SQ"),
        (
            (NOPS, "--abi", "loop-7.2", "--set", "cq_entries=100"),
            2,
            "--set cq_entries: the ring would have 128 entries, cq_entries says 100 (give a power",
        ),
        (
            (NOPS, "--abi", "loop-7.2", "--set", "sq_entries=6"),
            2,
            "--set sq_entries: the ring would have 8 entries",
        ),
        (
            (NOPS, "--abi", "loop-7.2", "--set", "cq_entries=hex:64000000"),
            2,
            "--set cq_entries: the ring would have 128 entries, cq_entries says 100",
        ),
    ):
        found, _, err = command(capsys, *arguments)
        assert (found, text in err) == (code, True), (arguments, err)
    code, out, _ = command(capsys, rows, "--abi", "loop-7.2", "--prog", "stops", "--quiet")
    assert code == 0
    assert "runs: stops 1" in out


def test_an_object_alone_runs_as_the_newer_of_abis_that_are_one_to_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, _ = command(capsys, NOPS, "--set", "to_run=100", "--quiet")
    assert code == 0
    note = "note: the ABI is ambiguous: it does the same by loop-7.1 and loop-7.2; run as loop-7.2"
    assert note in out.splitlines()
    assert "ABI loop-7.2  on" in out
    code, out, _ = command(capsys, NOPS, "--set", "to_run=100", "--abi", "loop-7.1", "--quiet")
    assert (code, "note:" in out) == (0, False)
    refused = (NOPS, "--set", "cq_entries=0", "--quiet")
    code, out, _ = command(capsys, *refused)
    assert (code, note in out.splitlines()) == (1, True)
    assert "STOPPED in attach: load rejected: " in out
    code, _, err = command(capsys, *refused, "--no-verify")
    assert (code, "the ABI is ambiguous" in err) == (2, True)


@pytest.mark.parametrize("backend", SIM_AND_KERNEL)
def test_an_object_alone_gets_a_mem_region(
    backend: BackendName, capsys: pytest.CaptureFixture[str]
) -> None:
    """With too little memory the program stops at once; with enough of it, it reads (from what is
    no descriptor of the ring's world)."""
    need_backend(backend)
    obj = EXAMPLES / "loop_checksum" / "prog.bpf.o"
    arguments = (obj, "--abi", "loop-7.2", "--backend", backend, "--json", "--set", "size=1")
    errors = {}
    for size in (0, 4096, 8192):
        given = ("--mem", str(size)) if size else ()
        code, out, _ = command(capsys, *arguments, *given)
        document = json.loads(out)
        errors[size] = document["globals"]["error"]
        assert (code, " ".join(given) in document["replay"]) == (0, True)
    assert errors == {0: 0, 4096: 0, 8192: -errno.EBADF}


def test_values_are_set_for_programs_that_run_once(capsys: pytest.CaptureFixture[str]) -> None:
    """--set reaches an ordinary program's globals, too."""
    obj = EXAMPLES / "01_hello" / "prog.v3.bpf.o"
    code, _, err = command(capsys, obj, "--set", "nothing=1")
    assert code == 2
    assert "nothing" in err


OPERATIONS = """
object = "../data/dialects/op.82.bpf.o"
attach = ["basic0", "told", "copies"]
user.source = { u32 = [1, 2, 3] }
user.target.zero = 12
globals.from = { type = 0, len = 12, addr = { block = "source" } }
globals.to = { type = 0, len = 12, addr = { block = "target" } }
globals.sets_result = 1
globals.result = -5
[[steps]]
submit = [
    { prog = "basic0", user_data = 1 },
    { prog = "copies", user_data = 2 },
    { prog = "told", bpf_flags = 0xabc, addr = 7, user_data = 3, flags = ["link"] },
    { op = "nop", user_data = 4 },
    { op = "bpf", bpf_flags = 0x05000000, user_data = 5 },
]
consumed = 5
[[steps]]
wait = 5
[expect]
globals = { seen_opf = 0xabc, order = 7, ends = 1 }
memory.target = { u32 = [1, 2, 3] }
runs = { basic0_prep = 1, basic0_issue = 1, basic0_cleanup = 1, told_issue = 1 }
cqes.0 = [
    { user_data = 1, res = 42 },
    { user_data = 2, res = 12 },
    { user_data = 3, res = -5 },
    { user_data = 5, res = "-EOPNOTSUPP" },
    { user_data = 4, res = "-ECANCELED" },
]
"""


@both_backends
def test_requests_that_programs_perform(backend: BackendName) -> None:
    outcome = run(OPERATIONS, backend, head="")
    assert (outcome.findings, outcome.stopped) == ((), None)


def test_programs_of_requests_are_named_by_their_structs() -> None:
    head = 'object = "../data/dialects/op.82.bpf.o"\nattach = "told"\n'
    with pytest.raises(InputError, match="'basic0' is not registered"):
        run('steps = [{ submit = [{ prog = "basic0" }] }]', head=head)
    with pytest.raises(InputError, match="no program is called 'basic0_issue'"):
        run('steps = [{ submit = [{ prog = "basic0_issue" }] }]', head=head)


def test_a_gate_in_a_scenario() -> None:
    head = 'object = "../data/dialects/gate.bpf.o"\nattach = "ops_enough"\n'
    outcome = run(
        """
ring = { files = [-1], flags = ["single_issuer", "defer_taskrun"] }
user.buffer.zero = 64
fds.server.listen = true
[[steps]]
connect = "peer"
to = "server"
[[steps]]
submit = [{ op = "accept", fd = "server", file_index = 1 }]
[[steps]]
wait = 1
[[steps]]
[[steps.submit]]
op = "recv"
fd = 0
flags = ["fixed_file"]
addr = { block = "buffer" }
len = 64
ioprio = 64
user_data = 7
[[steps]]
send = "peer"
u8 = [1, 2, 3]
[[steps]]
sleep = "1 ms"
[[steps]]
check = { runs = { enough = 1 }, memory.buffer = { u8 = [0, 0, 0, 0] } }
[[steps]]
send = "peer"
zero = 61
[[steps]]
wait = 1
[expect]
cqes.0 = [{ user_data = 0, res = 0 }, { user_data = 7, res = 64 }]
runs.enough = 2
memory.buffer = { u8 = [1, 2, 3, 0] }
""",
        head=head,
    )
    assert (outcome.findings, outcome.stopped) == ((), None)


@both_backends
def test_an_object_of_operations_alone_gets_a_request(
    backend: BackendName, capsys: pytest.CaptureFixture[str]
) -> None:
    need_backend(backend)
    path = str(ACCEPTANCE.parent / "data" / "dialects" / "op.82.bpf.o")
    assert main(["run", path, "--prog", "basic1", "--backend", backend]) == 0
    assert "basic1_issue 1" in capsys.readouterr().out
    assert main(["run", path, "--prog", "idle", "--backend", backend]) == 2
    assert "issue is not set" in capsys.readouterr().err

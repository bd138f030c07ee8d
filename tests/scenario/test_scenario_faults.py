"""Faults in scenarios: where they come from, what the user side does, and that a plan replays."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path

import pytest

from pybpfvm.cli import main
from pybpfvm.cli import run_scenario as run_scenario_command
from pybpfvm.errors import InputError
from pybpfvm.events import Event, Noted
from pybpfvm.scenario import Outcome, parse, parse_bytes, run_scenario
from pybpfvm.session.hostring import BackendName
from pybpfvm.uring_backend.abi import Op
from pybpfvm.uring_backend.faults import Faults, Odds, parse_faults, plan_text
from tests.support.session_ring import SIM_AND_KERNEL, need_backend

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
READ_OPEN = EXAMPLES / "05_read_open" / "scenario.toml"


def run(faults: str | None, *, seed: int = 0, backend: BackendName = "sim") -> Outcome:
    given = None if faults is None else parse_faults(faults)
    return run_scenario(parse(READ_OPEN), backend=backend, seed=seed, faults=given)


def with_faults(text: str) -> Faults | None:
    source = f'object = "x"\nuser.w.zero = 8\nring.cq_entries = [8]\n{text}\n'.encode()
    return parse_bytes(source, "t.toml", EXAMPLES).faults


def test_a_read_that_fails_is_seen_by_the_program() -> None:
    assert run(None).ok
    outcome = run("READ#1=EIO")
    assert plan_text(outcome.injected) == "READ#1=EIO"
    assert "byte 20" in outcome.findings[0].where
    assert outcome.findings[0].found == "fb ff ff ff"


@pytest.mark.parametrize("seed", range(12))
def test_a_failure_replays_from_its_plan(seed: int) -> None:
    first = run("swarm", seed=seed)
    again = run(plan_text(first.injected) or "none", seed=seed)
    assert again == first


def test_swarms_find_both_good_and_bad_runs() -> None:
    assert {run("swarm", seed=seed).ok for seed in range(12)} == {True, False}


@pytest.mark.parametrize("backend", SIM_AND_KERNEL)
def test_the_user_side_writes_between_runs_on_both_backends(backend: BackendName) -> None:
    need_backend(backend)
    seen: list[Event] = []
    outcome = run_scenario(
        parse(READ_OPEN),
        backend=backend,
        faults=parse_faults("run#1=write:request+16:02000000"),
        observer=seen.append,
    )
    assert [e.text for e in seen if isinstance(e, Noted) and e.kind == "fault"] == [
        "run#1=write:request+16:02000000"
    ]
    assert [f.where.rpartition(".")[2] for f in outcome.findings] == [
        "request, byte 16",
        "buffer, byte 2",
    ]


def test_the_user_side_takes_what_a_program_was_woken_for() -> None:
    outcome = run("run#2=reap:1")
    assert not outcome.ok


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("run#1=write:wish+0:00", "no block is called 'wish'"),
        ("run#1=write:request+4000:00", "bytes 4000 to 4001"),
        ("run#1=reap:9", "CQ 9 of a ring"),
    ],
)
def test_faults_that_fit_nothing_are_errors(fault: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        run(fault)


def test_the_kernels_ring_takes_no_faults_of_requests() -> None:
    with pytest.raises(InputError, match="meet no faults but its own"):
        run("READ#1=EIO", backend="kernel")


def test_the_user_side_takes_cqes_at_random() -> None:
    scenario = parse(READ_OPEN)
    odds = Odds({}, reaped=(1,), user_rate=0.5)
    found: set[str] = set()
    for seed in range(8):
        outcome = run_scenario(scenario, seed=seed, faults=Faults(odds=odds))
        text = plan_text(outcome.injected)
        found |= {fault.partition("=")[2] for fault in text.split(",") if fault}
        again = run_scenario(scenario, seed=seed, faults=parse_faults(text or "none"))
        assert again == outcome
    assert found == {"reap:1"}


def test_a_small_backlog_loses_completions() -> None:
    # CQ 0 holds twice as many as the SQ, and the user side reaps nothing.
    sqes = ", ".join(['{ op = "nop" }'] * 8)
    text = (
        f'object = "{EXAMPLES}/01_hello/prog.v3.bpf.o"\nabi = "iouring-v3"\n'
        + f"[[steps]]\nsubmit = [{sqes}]\n" * 3
        + "[expect]\noverflow = 0\n"
    )
    scenario = parse_bytes(text.encode(), "t.toml", EXAMPLES)
    assert run_scenario(scenario).overflow == 0
    assert run_scenario(scenario, faults=parse_faults("backlog=3")).overflow == 5


def test_some_swarms_leave_little_backlog() -> None:
    sqes = ", ".join(['{ op = "nop" }'] * 8)
    text = (
        f'object = "{EXAMPLES}/01_hello/prog.v3.bpf.o"\nabi = "iouring-v3"\n'
        + f"[[steps]]\nsubmit = [{sqes}]\n" * 3
    )
    scenario = parse_bytes(text.encode(), "t.toml", EXAMPLES)
    swarm = parse_faults("swarm")
    lost: Counter[int] = Counter()
    for seed in range(60):
        outcome = run_scenario(scenario, seed=seed, faults=swarm)
        lost[outcome.overflow] += 1
        plan = plan_text(outcome.injected)
        assert ("backlog=" in plan) == bool(outcome.overflow)
        assert run_scenario(scenario, seed=seed, faults=parse_faults(plan or "none")) == outcome
    assert set(lost) == {0, 4, 7, 8}  # eight CQEs find the queue full
    assert lost[0] > 30


def test_rates_of_single_errors() -> None:
    table = with_faults("faults = { op.read = { EIO = 0.5, short = 0.25 } }")
    assert table is not None
    assert table.odds is not None
    assert table.odds.rates[Op.READ, "short"] == 0.25
    assert ",".join(map(str, table.odds.chosen)) == "READ=EIO@0.5"
    with pytest.raises(InputError, match="ENOSPC"):
        with_faults("faults = { op.read = { ENOSPC = 0.5 } }")


def test_a_table_gives_rates_a_plan_and_shared_blocks() -> None:
    assert with_faults("") is None
    assert with_faults('faults = "READ#1=EIO"') == parse_faults("READ#1=EIO")
    table = with_faults(
        'faults = { rate = 0.5, shared = ["w"], reaped = [1], plan = ["READ#1=EIO"], '
        "op.read = { short = 0 } }"
    )
    assert table is not None
    assert table.odds is not None
    assert table.plan == parse_faults("READ#1=EIO").plan
    assert (table.odds.shared, table.odds.reaped, table.odds.user_rate) == (("w",), (1,), 0.5)
    assert table.odds.rates[Op.READ, "short"] == 0
    assert table.odds.rates[Op.READ, "late"] == 0.5


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("faults = 3", "faults"),
        ("faults = { rate = 7 }", "faults.rate"),
        ("faults = { rat = 0.1 }", "faults"),
        ('faults = { plan = ["X"] }', r"faults.plan\[0\]"),
        ("faults = { shared = [1] }", r"faults.shared\[0\]"),
        ('faults = { reaped = ["x"] }', r"faults.reaped\[0\]"),
        ("faults = { reaped = [-1] }", r"faults.reaped\[0\]"),
        ("faults = { op.nop = { errno = 1 } }", "faults.op.nop"),
        ("faults = { op.fsync = { short = 1 } }", "faults.op.fsync"),
        ("faults = { op.read = { errno = 2 } }", "faults.op.read.errno"),
    ],
)
def test_wrong_tables_are_refused_with_their_place(text: str, place: str) -> None:
    with pytest.raises(InputError, match=place):
        with_faults(text)


def test_the_command_line_prints_the_line_that_replays(
    capsys: pytest.CaptureFixture[str],
) -> None:
    args = ["run", str(READ_OPEN), "--quiet"]
    assert main([*args, "--faults", "READ#1=EIO"]) == 1
    text = capsys.readouterr().out
    line = text.strip().splitlines()[-1]
    assert line == f"replay: pybpfvm run {READ_OPEN} --seed 0 --faults 'READ#1=EIO'"
    assert main([*args, "--faults", "READ#1=EBADF"]) == 2
    assert "--faults" in capsys.readouterr().err
    assert main([*args, "--faults", "none"]) == 0


def test_a_plan_that_no_command_line_holds_is_left_to_the_seed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_scenario_command, "_ARGUMENT_BYTES", 40)
    args = ["run", str(EXAMPLES / "11_copy" / "scenario.toml"), "--seed", "3"]
    assert main([*args, "--faults", "swarm"]) == 1
    text = capsys.readouterr().out
    line = text.strip().splitlines()[-1]
    assert line == f"replay: pybpfvm {shlex.join(args)} --faults swarm"
    assert main(shlex.split(line)[2:]) == 1
    assert capsys.readouterr().out == text


def test_the_line_that_replays_names_the_object_that_was_given(
    capsys: pytest.CaptureFixture[str],
) -> None:
    retry = EXAMPLES / "17_retry"
    args = ["run", str(retry / "scenario.toml"), "--quiet"]
    assert main([*args, "--object", str(retry / "twin.v3.bpf.o")]) == 1
    line = capsys.readouterr().out.strip().splitlines()[-1]
    assert line.startswith("replay: pybpfvm run ")
    assert main(line.split()[2:]) == 1


def test_the_line_that_replays_names_everything_that_was_given(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / ".config").write_text("CONFIG_HZ=250\n")
    given = [
        *("--kconfig", str(tmp_path / ".config")),
        *("--budget-runs", "50", "--budget-seconds", "7.5", "--engine", "interp"),
    ]
    args = ["run", str(READ_OPEN), "--quiet", "--faults", "READ#1=EIO", *given]
    assert main(args) == 1
    words = shlex.split(capsys.readouterr().out.strip().splitlines()[-1])
    for name, value in zip(given[::2], given[1::2], strict=True):
        assert words[words.index(name) + 1] == value
    assert main(words[2:]) == 1


def test_a_block_of_any_name_replays(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "a scenario's.toml"
    path.write_text(
        f"""
        object = "{EXAMPLES}/01_hello/prog.v3.bpf.o"
        abi = "iouring-v3"
        programs = ["hello"]
        user."my word, 2+1" = {{ u32 = 29 }}
        steps = [
            {{ submit = [{{ prog = "hello", user_data = {{ block = "my word, 2+1" }} }}] }},
            {{ wait = 1 }},
        ]
        expect.memory."my word, 2+1" = {{ u32 = 29 }}
        faults = {{ shared = ["my word, 2+1"], rate = 1 }}
        """
    )
    assert main(["run", str(path), "--seed", "1"]) == 1
    first = capsys.readouterr().out
    line = first.strip().splitlines()[-1]
    assert "run#1=write:my%20word%2C%202%2B1+" in line
    assert main(shlex.split(line)[2:]) == 1
    assert capsys.readouterr().out == first

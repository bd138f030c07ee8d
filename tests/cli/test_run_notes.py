"""What `run` says of things that happened quietly: faults that never came, submits that the ring
cut short, and scenarios that expect nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pybpfvm.cli import main
from tests.support.session_ring import need_backend

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
READ_OPEN = EXAMPLES / "05_read_open" / "scenario.toml"
HELLO = EXAMPLES / "01_hello" / "prog.v3.bpf.o"
LOOP_NOPS = EXAMPLES / "loop_nops" / "prog.bpf.o"


def output(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    code = main(["run", "--quiet", *map(str, arguments)])
    return code, capsys.readouterr().out


def written(tmp_path: Path, steps: str) -> Path:
    path = tmp_path / "t.toml"
    path.write_text(f'object = "{HELLO}"\nabi = "iouring-v3"\n{steps}\n')
    return path


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("READ#9=EIO", "READ requests tried: 1"),
        ("RECV#1=reset", "RECV requests tried: 0"),
        ("READ#1=short:4096", "that request wants no more than that, or all or nothing"),
        ("READ#1=late:1us,READ#1=late:2us", "READ#1=late:2us replaces it"),
        ("run#70=reap:1", "program runs: 6"),
        ("run#1=reap:1", "the queue was empty"),
        ("backlog=3", "CQ 0 lost no CQE"),
    ],
)
def test_a_fault_that_does_not_come_is_named(
    capsys: pytest.CaptureFixture[str], fault: str, why: str
) -> None:
    missed = {"fault": fault.partition(",")[0], "why": why}
    code, text = output(capsys, READ_OPEN, "--faults", fault)
    assert code == 0
    assert f"note: fault {missed['fault']} did not come: {why}" in text.splitlines()
    _, document = output(capsys, READ_OPEN, "--faults", fault, "--json")
    assert json.loads(document)["missed_faults"] == [missed]


@pytest.mark.parametrize("fault", ["READ#1=EIO", "run#2=reap:1", "run#1=write:request+16:02000000"])
def test_a_fault_that_comes_is_no_note(capsys: pytest.CaptureFixture[str], fault: str) -> None:
    code, text = output(capsys, READ_OPEN, "--faults", fault)
    assert code == 1
    assert "did not come" not in text


def test_a_backlog_that_loses_a_completion_has_come(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    nops = ", ".join(['{ op = "nop" }'] * 8)
    steps = f"[[steps]]\nsubmit = [{nops}]\n" * 3
    _, text = output(capsys, written(tmp_path, steps), "--faults", "backlog=3")
    assert "did not come" not in text


def test_a_submit_that_is_cut_short_is_told(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    steps = 'steps = [{ submit = [{ op = 200 }, { op = "nop" }] }, { wait = 1 }]'
    path = written(tmp_path, steps)
    code, text = output(capsys, path)
    assert code == 0
    where = f"{path}: steps[0]"
    assert (
        f"note: {where}: 1 of 2 SQEs were consumed (consumed = 1 says that this is meant)" in text
    )
    _, document = output(capsys, path, "--json")
    short = {"where": where, "sqes": 2, "consumed": 1}
    assert json.loads(document)["short_submits"] == [short]


def test_a_short_submit_that_is_meant_is_no_note(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    steps = 'steps = [{ submit = [{ op = 200 }, { op = "nop" }], consumed = 1 }, { wait = 1 }]'
    code, text = output(capsys, written(tmp_path, steps))
    assert code == 0
    assert "SQEs" not in text
    assert text.rstrip().endswith("all expectations met")


def test_a_program_that_decides_what_is_submitted_is_no_note(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "t.toml"
    path.write_text(
        f'object = "{LOOP_NOPS}"\nabi = "loop-7.2"\nring = {{ entries = 8, cq0_entries = 16 }}\n'
        'globals = { to_run = 5 }\nsteps = [{ submit = [{ op = "nop" }] }]\n'
    )
    code, text = output(capsys, path)
    assert code == 0
    assert "runs: keep_busy" in text
    assert "SQEs" not in text


@pytest.mark.parametrize(
    ("steps", "expectations"),
    [
        ("", 0),
        ('steps = [{ submit = [{ op = "nop" }] }, { wait = 1 }]', 0),
        ('steps = [{ submit = [{ op = "nop" }], consumed = 1 }, { wait = 1 }]', 1),
        ("steps = [{ check = { counts.0 = 0, overflow = 0 } }]", 2),
        ('steps = [{ unregister = true, error = "ENXIO" }]', 1),
        ("[expect]\noverflow = 0", 1),
        ('programs = ["hello"]\n[expect.maps]\nvisits = [0]\n[expect.runs]\nhello = 0', 2),
    ],
)
def test_expectations_are_counted_and_none_is_not_called_met(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, steps: str, expectations: int
) -> None:
    path = written(tmp_path, steps)
    code, text = output(capsys, path)
    assert code == 0
    last = "all expectations met" if expectations else "ran to its end; no expectations were stated"
    assert text.rstrip().splitlines()[-1] == last
    _, document = output(capsys, path, "--json")
    assert json.loads(document)["expectations"] == expectations


def test_over_the_kernels_ring_it_is_told_who_plays_the_kernel(
    capsys: pytest.CaptureFixture[str],
) -> None:
    need_backend("kernel")
    where = ("--abi", "loop-7.2", "--set", "to_run=5", "--backend")
    code, text = output(capsys, LOOP_NOPS, *where, "kernel")
    assert code == 0
    assert "note: this process plays the kernel's part around a real ring" in text
    assert "plays the kernel's part" not in output(capsys, LOOP_NOPS, *where, "sim")[1]
    assert "plays the kernel's part" not in output(capsys, READ_OPEN, "--backend", "kernel")[1]


def test_an_object_alone_states_no_expectations(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = output(capsys, LOOP_NOPS, "--abi", "loop-7.2", "--set", "to_run=5")
    assert code == 0
    assert text.rstrip().endswith("ran to its end; no expectations were stated")

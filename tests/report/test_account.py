"""The account of a run, line by line: what events tell is what a person reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from pybpfvm.cli import main
from pybpfvm.events import CqePosted, CqeReaped, Event, RunEnded, RunFaulted
from pybpfvm.report.account import Account
from pybpfvm.report.names import AddressNames
from pybpfvm.report.run import global_values, print_maps
from pybpfvm.session import Machine

ROOT = Path(__file__).parents[2]
ROWS = ROOT / "tests/acceptance/rows.v3.bpf.o"
GLOBALS = ROOT / "tests/loader/data/globals.o"


@pytest.mark.parametrize(
    ("event", "says"),
    [
        (RunEnded(0, 1, "p", 1, 0, 5, None, 0), "■ p returned 0, 5 insns: done"),
        (RunEnded(0, 1, "p", 1, 0, 5, 2, 1), "5 insns: run again after 1 CQE on CQ 2"),
        (
            RunEnded(0, 1, "p", 1, 0, 5, 7, 2, "the ring has 3 CQs"),
            "5 insns: asks to wait for 2 CQEs on CQ 7, but the ring has 3 CQs: -EINVAL",
        ),
        (RunFaulted(0, 1, "p", 1, 12, "why", 40), "✗ p faulted at +12 after 40 insns: why"),
        (CqePosted(0, 1, 4, -22, 0, "posted", "p"), "CQ 1 ← (user_data 4, res -EINVAL) by p"),
        (
            CqePosted(0, 0, 4, 0, 0, "backlog", "user", 3),
            "CQ 0 ← request 3 (user_data 4, res 0) [backlog]",
        ),
    ],
)
def test_an_event_is_a_line(event: Event, says: str) -> None:
    account = Account()
    account(event)
    (line,) = account.lines()
    assert line.endswith(says)


def test_times_are_shown_since_the_start() -> None:
    account = Account()
    account(RunFaulted(5_000_000, 1, "p", 1, 12, "why", 40))
    (line,) = account.lines(start_ns=3_000_000)
    assert line.startswith("     2.000 ms ")


def test_a_fault_counts_and_a_backlog_is_posted_once() -> None:
    account = Account()
    for event in (
        RunFaulted(0, 1, "p", 1, 12, "why", 40),
        CqePosted(0, 0, 1, 0, 0, "posted", "user", 1),
        CqePosted(0, 0, 2, 0, 0, "backlog", "user", 2),
        CqeReaped(0, 0, 1, 0, 0, "user"),
        CqePosted(0, 0, 2, 0, 0, "posted", "user", 2),
        CqePosted(0, 1, 3, 0, 0, "dropped", "p"),
    ):
        account(event)
    assert (account.insns, account.runs["p"]) == (40, 1)
    assert (account.posted[0], account.reaped[0], account.left(0)) == (2, 1, 1)
    assert (account.posted[1], account.dropped[1]) == (0, 1)


def _run_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], program: str, more: str = ""
) -> tuple[int, list[str]]:
    path = tmp_path / "s.toml"
    path.write_text(
        f'object = "{ROWS}"\nabi = "iouring-v3"\nprograms = ["{program}"]\n'
        "[ring]\ncq_entries = [16, 16]\n"
        f"[[steps]]\nsubmit = [{{ prog = '{program}' }}]\n{more}"
    )
    code = main(["run", str(path)])
    return code, capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("wait_bad_cq", "asks to wait for 1 CQE on CQ 9, but the ring has 3 CQs: -EINVAL"),
        (
            "wait_for_none",
            "asks to wait for 0 CQEs on CQ 1, but that is nothing to wait for: -EINVAL",
        ),
    ],
)
def test_a_wait_that_is_refused_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], program: str, says: str
) -> None:
    code, lines = _run_rows(tmp_path, capsys, program)
    assert code == 0
    assert any(says in line for line in lines)
    assert any(line.endswith("CQ 0 ← request 1 (user_data 0, res -EINVAL)") for line in lines)
    assert not any("to user" in line for line in lines)  # nobody waited
    assert "0   1       0       1     0     user_data 0, res -EINVAL" in lines


def test_the_cause_of_a_stop_comes_last(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = "[[steps]]\nwait = 1\n[expect]\noverflow = 0\ncounts = { 1 = 5 }\n"
    code, lines = _run_rows(tmp_path, capsys, "wait_for_nothing", more)
    assert code == 1
    assert not any("FAILED" in line for line in lines)
    at = lines.index("2 expectations were not reached")
    assert lines[at + 2].startswith("STOPPED in steps[1]: hang: ")


def test_addresses_in_data_sections_have_the_names_of_variables() -> None:
    with Machine() as machine:
        obj = machine.load(GLOBALS)
        plain, named = AddressNames(machine.memory), AddressNames(machine.memory, obj.object)
        seen = set()
        for name in obj.globals:
            section, offset, size, _ = obj.globals._find(name)
            region = next(r for r in machine.memory.regions() if r.name == section)
            assert named(region.start + offset) == f"&{name}"
            if size > 1:
                assert named(region.start + offset + size - 1) == f"&{name}+{size - 1}"
            assert plain(region.start + offset).startswith(f"&{section}")
            seen.add(section)
        assert len(seen) > 1


def test_what_is_all_zero_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with Machine() as machine:
        obj = machine.load(GLOBALS)
        zero = [name for name, value in global_values(obj).items() if value in (0, "00" * 8)]
        assert zero
        print_maps(obj)
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("all zero: ")]
    assert set(zero) <= set(line.removeprefix("all zero: ").split(", "))

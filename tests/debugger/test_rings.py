"""Rings as a recording has them: their names, what is in their SQs, what they hold at its end."""

from __future__ import annotations

from pathlib import Path

import pytest

from pybpfvm.debugger import Debugger, Position
from pybpfvm.debugger.dap.ringvariables import ring_shown
from pybpfvm.debugger.target import Target
from pybpfvm.debugger.terminal.shell import Shell
from pybpfvm.report.account import Account
from pybpfvm.scenario import parse, run_scenario
from pybpfvm.session import LoopRing, Machine, Ring
from pybpfvm.uring_backend.abi import (
    SETUP_DEFER_TASKRUN,
    SETUP_NO_SQARRAY,
    SETUP_SINGLE_ISSUER,
)
from tests.debugger.recordings import ROOT, record_example

NOPS = ROOT / "examples" / "loop_nops" / "prog.bpf.o"


@pytest.mark.parametrize("name", ["06_accept_recv", "09_sink"])
def test_the_end_is_what_the_run_tells(name: str, tmp_path: Path) -> None:
    """CQEs that nobody reaped are left there, as the table says that `run` prints."""
    path, account = tmp_path / "t", Account()
    scenario = parse(ROOT / "examples" / name / "scenario.toml")
    run_scenario(scenario, record=path, observer=account)
    with Debugger(path) as debugger:
        debugger.goto(debugger.history.end)
        (ring,) = debugger.rings()
        left = {cq: len(queue.cqes) for cq, queue in ring.queues.items()}
        assert left == {cq: account.left(cq) for cq in ring.queues}
        assert any(left.values())
        assert ring.overflow == account.dropped.total()


def test_rings_are_called_what_the_scenario_calls_them(tmp_path: Path) -> None:
    path = tmp_path / "t"
    record_example("26_two_rings", path)
    with Debugger(path) as debugger:
        assert [one.name for one in debugger.rings()] == ["reading", "writing"]
        assert Target(debugger).threads() == {1: "reading", 2: "writing"}
        assert debugger.run_info().endswith("request 1 of reading")
        heard: list[str] = []
        shell = Shell(debugger, heard.append)
        for line in (
            "goto end",
            'p ring("writing").cq[0].tail',
            "ring writing",
            "ring 1",
            "ring 3",
        ):
            shell.line(line)
        assert "10" in heard
        assert [one.partition(":")[0] for one in heard if "SQ of" in one] == ["writing", "reading"]
        assert heard[-1] == "error: there is no ring 3 (reading, writing)"


def test_rings_of_hosts_are_called_what_they_say(tmp_path: Path) -> None:
    """And by number where they say nothing, or the same."""
    path = tmp_path / "t"
    with Machine() as machine:
        first = Ring(machine=machine, name="in", record=path)
        names = ("", "twice", "twice", "ring1", "red\x1b[31m\n")
        others = [Ring(machine=machine, name=name) for name in names]
        for one in (*others, first):
            one.close()
    with Debugger(path) as debugger:
        numbered = ["ring2", "ring3", "ring4", "ring5"]
        assert debugger.history.ring_names == ["in", *numbered, r"red\x1b[31m\x0a"]


def test_sqes_that_wait_in_the_sq(tmp_path: Path) -> None:
    """The host queues three, and the program submits them when it runs."""
    path = tmp_path / "t"
    flags = SETUP_SINGLE_ISSUER | SETUP_DEFER_TASKRUN | SETUP_NO_SQARRAY
    with Machine() as machine:
        obj = machine.load(NOPS, abi="loop-7.2")
        obj.globals["to_run"] = 1000
        with LoopRing(flags=flags, cq_entries=16, machine=machine, record=path) as ring:
            ring.attach(obj)
            for number in range(3):
                sqe = ring.get_sqe()
                sqe.prep_nop(user_data=0x70 + number)
                ring.core.queue(sqe.pack())
            ring.enter()
    with Debugger(path) as debugger:
        debugger.goto(Position(0, 0))
        for field, wanted in (("ready", 3), ("head", 0), ("tail", 3), ("entries", 8)):
            assert debugger.evaluate(f"sq.{field}").number == wanted, field
        heard: list[str] = []
        Shell(debugger, heard.append).line("ring")
        assert heard[1] == "  SQ, as last told: 3 SQEs"
        assert heard[2:5] == [f"    NOP, fd -1, user_data {0x70 + n:#x}" for n in range(3)]
        shown = {one.name: one for one in ring_shown(debugger.rings()[0], None).inside()}  # type: ignore[misc]
        assert shown["SQ"].value == "3 of 8 entries"
        assert [one.name for one in shown["SQ"].inside()] == ["[0]", "[1]", "[2]"]  # type: ignore[misc]
        debugger.goto(Position(0, debugger.history.length(0)))
        assert [debugger.evaluate(f"sq.{field}").number for field in ("ready", "head")] == [0, 3]
        write = debugger.who_wrote("sq.head")
        assert write.by == "helper bpf_io_uring_submit_sqes"
        assert (write.old, write.new) == ("0", "3")


@pytest.mark.parametrize("kind", [Ring, LoopRing])
def test_a_ring_that_another_thread_closes_meanwhile_is_left_out(
    kind: type[Ring | LoopRing], tmp_path: Path
) -> None:
    path = tmp_path / "t"
    with Machine() as machine, kind(entries=8, machine=machine, record=path) as ring:
        ring.submit()
        ring.core.close()  # what comes first when the ring is closed
        machine.recorder.tell_queues()
    with Debugger(path) as debugger:
        assert len(debugger.rings()) == 1

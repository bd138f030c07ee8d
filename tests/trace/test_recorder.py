"""What recordings hold: runs outside rings, what hosts do between runs, several objects."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from pybpfvm.errors import InputError, InternalError, Trap
from pybpfvm.events import CqePosted, HelperCalled, RunStarted
from pybpfvm.scenario import parse
from pybpfvm.session import Machine, Ring
from pybpfvm.trace.records import Kind
from pybpfvm.trace.replay import Replay
from tests.trace.recordings import REPLAYERS, recorded, records_of, replayed

ROOT = Path(__file__).parents[2]
ORDINARY = ROOT / "tests" / "ordinary"
PINGPONG = ROOT / "examples" / "03_pingpong" / "prog.v3.bpf.o"
HELLO = ROOT / "examples" / "01_hello" / "prog.v3.bpf.o"
FRAME = bytes(range(12)) + b"\x08\x00" + bytes(range(60))
CTX = struct.pack("<QII", 0, 0, 0)


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Machine() as made:
        yield made


@pytest.mark.parametrize("engine", REPLAYERS)
@pytest.mark.parametrize("name", ["filter", "parse", "classify", "state"])
def test_programs_outside_rings(name: str, engine: str, machine: Machine, tmp_path: Path) -> None:
    """Packets, callbacks, hash maps and atomics: each program twice, with what it left in maps."""
    path = tmp_path / "t"
    obj = machine.load(ORDINARY / f"{name}.bpf.o")
    machine.record(path)
    insns = 0
    for program in obj.programs.values():
        packet = FRAME if program.profile.packet is not None else b""
        insns += program.run(data=packet, repeat=2, engine=engine).insns
    machine.close()
    for replayer in REPLAYERS:
        found, replay = replayed(path, replayer)
        assert found is None
        assert replay.damage is None
        assert replay.index.insns == replay.totals.insns == insns
        assert replay.totals.runs == 2 * len(obj.programs)
        assert replay.totals.digests


def test_a_trap_outside_a_ring_is_replayed(machine: Machine, tmp_path: Path) -> None:
    path = tmp_path / "t"
    program = machine.load(PINGPONG)["player"]
    machine.record(path)
    with pytest.raises(Trap, match="budget"):
        program.run(CTX, budget_insns=3)
    machine.close()
    for engine in REPLAYERS:
        found, replay = replayed(path, engine)
        assert found is None
        assert replay.runs[0].how is not None
        assert replay.runs[0].how[:2] == ("trap", "BUDGET")


def test_what_hosts_do_to_maps_is_of_the_recording(machine: Machine, tmp_path: Path) -> None:
    """Before it begins, as long as no program ran, and between runs."""
    path = tmp_path / "t"
    obj = machine.load(ORDINARY / "state.bpf.o")
    numbers = obj.maps["numbers"]
    numbers[3] = 30
    numbers[4] = 40
    del numbers[3]
    obj.globals["total"] = 100
    machine.record(path)
    obj["traced"].run()
    numbers[77] = 1
    with pytest.raises(KeyError):
        del numbers[78]
    obj.globals["visited"] = 0
    obj["traced"].run()
    left = dict(numbers), obj.globals["total"], obj.globals["visited"]
    machine.close()
    with Replay(path) as replay:
        assert replay.rest() is None
        again = replay.objects[0]
        assert (
            dict(again.maps["numbers"]),
            again.globals["total"],
            again.globals["visited"],
        ) == left
        assert len(left[0]) > 20
    operations = [record for record in records_of(path) if record[0] == Kind.MAP]
    assert len(operations) == 6  # what was refused is none


def test_a_past_that_nobody_knows_is_refused(machine: Machine, tmp_path: Path) -> None:
    obj = machine.load(PINGPONG)
    obj["player"].run(CTX)
    machine.record(tmp_path / "a")
    with Ring(abi="iouring-v3", machine=machine) as ring:
        ring.register_bpf([obj["player"]])
        ring.get_sqe().prep_bpf(0)
        with pytest.raises(InputError, match=r"ran before the recording.*load the object again"):
            ring.submit()
        with pytest.raises(InputError, match=r"the machine is being recorded to .*/a"):
            Ring(machine=machine, record=tmp_path / "b")
    machine.end_recording()
    machine.end_recording()
    for name in ("b", "c"):  # loaded again, each time
        again = machine.load(PINGPONG)
        with Ring(abi="iouring-v3", machine=machine, record=tmp_path / name) as ring:
            ring.register_bpf([again["player"]])
            ring.get_sqe().prep_bpf(0)
            ring.submit()
    machine.close()
    for name in ("b", "c"):
        found, replay = replayed(tmp_path / name, "jit")
        assert found is None
        assert replay.damage is None
        assert len(replay.runs) == 1
        assert [loaded.object.path for loaded in replay.objects] == [str(PINGPONG)]


def test_several_objects_and_rings_in_one_recording(machine: Machine, tmp_path: Path) -> None:
    path = tmp_path / "t"
    hello, players = machine.load(HELLO, abi="iouring-v3"), machine.load(PINGPONG)
    with (
        Ring(machine=machine, abi="iouring-v3", record=path) as one,
        Ring(machine=machine, abi="iouring-v3", cq_entries=[8]) as other,
    ):
        one.register_bpf([hello["hello"]])
        other.register_bpf([players["player"]])
        for _ in range(3):
            other.get_sqe().prep_bpf(0, user_data=5)
            other.submit()
            one.get_sqe().prep_nop(user_data=1)
            one.submit()
        one.get_sqe().prep_bpf(0)
        one.submit()
    machine.close()
    with Replay(path) as replay:
        assert replay.rest() is None
        assert [entry.ring for entry in replay.runs] == [2, 2, 2, 1]
        assert len(replay.index.rings) == 2


def test_runs_and_events_are_found_by_number(machine: Machine, tmp_path: Path) -> None:
    """What a debugger asks for: the runs, what rings told around them, calls of helpers anew."""
    path = tmp_path / "t"
    outcome = recorded(parse(ROOT / "examples/03_pingpong/scenario.toml"), path)
    calls: list[object] = []
    with Replay(path, engine="interp", observer=calls.append) as replay:
        runs = replay.runs
        assert [entry.number for entry in runs] == list(range(sum(outcome.runs.values())))
        assert [entry.first_insn for entry in runs[:2]] == [0, runs[0].insns]
        assert all(entry.request > 0 and entry.ring == 1 for entry in runs)
        assert sum(entry.insns for entry in runs) == outcome.insns == replay.index.insns
        for number in (0, 7):
            before = list(replay.events_before(number))
            assert isinstance(before[-1], RunStarted)
            assert before[-1].request == runs[number].request
        inside = [event for n in range(len(runs)) for event in replay.events_in(n)]
        assert any(isinstance(event, CqePosted) for event in inside)
        assert list(replay.events_after())
        with pytest.raises(InternalError, match="run 3 is prepared where 0 comes next"):
            replay.prepare(3)
        while replay.cursor < len(runs):
            number = replay.cursor
            ready = replay.prepare(number)
            assert ready.program.name == runs[number].program
            done = ready.engine.run(ready.program, ready.ctx_addr, budget_insns=ready.budget_insns)
            assert replay.finish(number, done) is None
        with pytest.raises(IndexError):
            replay.step()
    assert calls
    assert all(isinstance(call, HelperCalled) for call in calls)


def test_a_recording_is_replayed_where_its_addresses_are_free(
    machine: Machine, tmp_path: Path
) -> None:
    path = tmp_path / "t"
    program = machine.load(PINGPONG)["player"]
    machine.record(path)
    program.run(CTX)
    machine.end_recording()
    with pytest.raises(InputError, match="these addresses are taken"):
        Replay(path)
    machine.close()
    assert replayed(path, "jit")[0] is None


def test_recording_changes_nothing_that_programs_see(tmp_path: Path) -> None:
    from pybpfvm.scenario import run_scenario

    for name in ("05_read_open", "21_echo", "loop_cat"):
        scenario = parse(ROOT / "examples" / name / "scenario.toml")
        with_it = recorded(scenario, tmp_path / name)
        without = run_scenario(scenario)
        assert (with_it.cqes, with_it.runs, with_it.insns, with_it.time_ns) == (
            without.cqes, without.runs, without.insns, without.time_ns,
        )  # fmt: skip

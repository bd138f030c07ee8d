"""Moves forward and backward: they meet the same places, with the same state."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from pybpfvm.cli import main
from pybpfvm.debugger import Breakpoint, Debugger, Position, Stop
from pybpfvm.debugger.debugger import How
from pybpfvm.debugger.place import place_document
from pybpfvm.engine import Paused
from pybpfvm.errors import InputError
from pybpfvm.memory import RegionKind
from pybpfvm.session import LoadedProgram
from pybpfvm.uring_backend.abi import Cqe
from pybpfvm.verifier.verdict import Accepted, Statistics
from tests.debugger.recordings import COUNTDOWN, NAME, ROOT, generated, record_example, record_text

CHECKS = ROOT / "tests" / "acceptance" / "load_checks.v2.bpf.o"
State = tuple[Position, object, int]


def state(debugger: Debugger) -> State:
    """Position, frames with registers, and a checksum of all memory."""
    memory = debugger.history.memory
    crc = 0
    for region in memory.regions():
        if region.kind is not RegionKind.HOST:
            crc = zlib.crc32(memory.read(region.start, region.size), crc)
    return debugger.position, debugger.state.moment, crc


def walked(debugger: Debugger, how: How, *, backward: bool, most: int = 10_000) -> list[State]:
    """The states that a move comes to until there is nowhere to go, this one first."""
    found = [state(debugger)]
    edge = debugger.history.start if backward else debugger.history.end
    while debugger.position != edge and len(found) < most:
        debugger.move(how, backward=backward)
        found.append(state(debugger))
    return found


@pytest.mark.parametrize("seed", range(6))
def test_steps_back_see_what_steps_saw(seed: int, tmp_path: Path) -> None:
    """On generated programs, instruction by instruction, and by jumps in any order."""
    path = tmp_path / "t"
    record_text(generated(seed), path, runs=2)
    with Debugger(path) as debugger:
        assert debugger.history.runs[0].how is None
        forth = walked(debugger, "stepi", backward=False)
        assert len(forth) == debugger.history.insns + 2 + 1
        back = walked(debugger, "stepi", backward=True)
        assert back[::-1] == forth
        for number in Random(seed).sample(range(len(forth)), 30):
            debugger.goto(forth[number][0])
            assert state(debugger) == forth[number]


@pytest.mark.parametrize("how", ["step", "helper", "cqe", "run"])
@pytest.mark.parametrize("name", ["03_pingpong", "loop_lines"])
def test_moves_of_the_gallery_are_the_same_backward(how: How, name: str, tmp_path: Path) -> None:
    path = tmp_path / "t"
    record_example(name, path)
    with Debugger(path) as debugger:
        forth = walked(debugger, how, backward=False, most=60)
        back = walked(debugger, how, backward=True, most=60)
        assert len(forth) > 5
        ends = (debugger.history.start, debugger.history.end)
        assert [one for one in back[::-1] if one[0] not in ends] == [
            one for one in forth if one[0] not in ends
        ]


def test_next_and_finish_keep_to_their_function(tmp_path: Path) -> None:
    """Without lines each instruction is a line."""
    path = tmp_path / "t"
    record_text("r1 = 1\ncall leaf\nr0 += 1\nexit\nleaf:\nr0 = r1\nr0 += 5\nexit", path)
    with Debugger(path) as debugger:
        assert [debugger.move("next").position.insns for _ in range(3)] == [1, 5, 6]
        assert debugger.move("next", backward=True).position.insns == 5
        assert debugger.move("next", backward=True).position.insns == 1
        assert debugger.move("step").position.insns == 2
        assert [frame.pc for frame in debugger.frames()] == [4, 2]
        assert debugger.move("finish").position.insns == 5
        debugger.goto(Position(0, 3))
        assert debugger.move("finish", backward=True).position.insns == 1
        debugger.goto(Position(0, 4))
        assert debugger.move("nexti").position.insns == 5
        assert debugger.move("nexti", backward=True).position.insns == 1
        assert debugger.move("finish").position.insns == 7


def hits(debugger: Debugger, *, backward: bool) -> Iterator[Stop]:
    """The stops of continuing until there are no more."""
    while True:
        stop = debugger.move("continue", backward=backward)
        if stop.reason != "breakpoint":
            assert stop.reason == ("start" if backward else "end")
            return
        yield stop


@pytest.mark.parametrize(
    "wanted",
    [
        Breakpoint("insn", program=NAME, pc=4, condition="r6 % 500 == 7"),
        Breakpoint("insn", program=NAME, pc=6),
        Breakpoint("data", expression="*(u64 *)r10", condition="r6 % 400 == 0"),
        Breakpoint("start"),
    ],
    ids=["condition", "rare", "data", "start"],
)
def test_continuing_back_stops_where_continuing_did(wanted: Breakpoint, tmp_path: Path) -> None:
    path = tmp_path / "t"
    record_text(COUNTDOWN.format(turns=2000), path, runs=3)
    with Debugger(path) as debugger:
        frame = debugger.frames()[0].regs[10]
        if wanted.kind == "data":
            wanted = Breakpoint("data", addr=frame - 8, size=8, condition=wanted.condition)
        one = debugger.set_breakpoint(wanted)
        assert one.verified
        forth = [stop.position for stop in hits(debugger, backward=False)]
        assert len(forth) == {"start": 2, "data": 17}.get(
            wanted.kind, 12 if wanted.condition else 3
        )
        back = [stop.position for stop in hits(debugger, backward=True)]
        assert [at for at in back[::-1] if at != debugger.history.start] == forth
        # The last hit before a place is what continuing back finds from there.
        for position in forth[1:]:
            debugger.goto(position)
            stop = debugger.move("continue", backward=True)
            assert stop.position == forth[forth.index(position) - 1]
            assert stop.breakpoints == (one,)


@pytest.mark.parametrize("engine", ["jit", "interp"])
def test_hits_are_those_of_every_instruction(engine: str, tmp_path: Path) -> None:
    """Compiled code covers what is between breakpoints, and misses none."""
    path = tmp_path / "t"
    record_text(generated(3), path, runs=2)
    with Debugger(path, engine=engine) as debugger:
        seen = [
            (position, moment.frames[-1].pc)
            for position, moment, _ in walked(debugger, "stepi", backward=False)
            if isinstance(moment, Paused)
        ]
        for pc in sorted({pc for _, pc in seen})[::3]:
            debugger.goto(debugger.history.start)
            one = debugger.set_breakpoint(Breakpoint("insn", program=NAME, pc=pc))
            expected = [at for at, there in seen if there == pc and at > Position(0, 0)]
            assert [stop.position for stop in hits(debugger, backward=False)] == expected
            debugger.clear(one.id)


def test_a_million_hits_end_cleanly(tmp_path: Path) -> None:
    path = tmp_path / "t"
    record_text(COUNTDOWN.format(turns=1_000_000), path)
    with Debugger(path) as debugger:
        one = debugger.set_breakpoint(Breakpoint("insn", program=NAME, pc=3, condition="r6 == 0"))
        assert debugger.move("continue").reason == "end"
        assert one.hits == 0


def test_logpoints_tell_each_time(tmp_path: Path) -> None:
    path = tmp_path / "t"
    record_text(COUNTDOWN.format(turns=20_000), path)
    with Debugger(path) as debugger:
        said = debugger.set_breakpoint(Breakpoint("insn", program=NAME, pc=3, log_message="{r6}"))
        stop = debugger.move("continue")
        assert stop.reason == "end"
        assert said.hits == 20_000
        assert stop.log[:2] == ("20000", "19999")
        assert stop.log[-1] == "... and 10000 lines more"


def test_interrupting_leaves_one_where_one_was(tmp_path: Path) -> None:
    path = tmp_path / "t"
    record_text(COUNTDOWN.format(turns=100_000), path)
    with Debugger(path) as debugger:
        debugger.goto(Position(0, 1000))
        before = state(debugger)
        calls = 0

        def condition(text: str) -> None:
            nonlocal calls
            calls += 1
            debugger.interrupt()

        debugger.telling.sink = condition
        debugger.set_breakpoint(Breakpoint("insn", program=NAME, pc=4, log_message="x"))
        stop = debugger.move("continue")
        assert stop.reason == "pause"
        assert calls == 1
        assert state(debugger) == before


def test_hit_conditions_and_temporary_ones(tmp_path: Path) -> None:
    path = tmp_path / "t"
    record_text(COUNTDOWN.format(turns=100), path)
    with Debugger(path) as debugger:
        tenth = debugger.set_breakpoint(
            Breakpoint("insn", program=NAME, pc=3, hit_condition="% 10")
        )
        turns = [debugger.evaluate("r6").number for _ in hits(debugger, backward=False)]
        assert turns == list(range(91, 0, -10))
        debugger.clear(tenth.id)
        debugger.goto(debugger.history.start)
        debugger.set_breakpoint(Breakpoint("insn", program=NAME, pc=3, temporary=True))
        assert len(list(hits(debugger, backward=False))) == 1
        assert not debugger.breakpoints
        with pytest.raises(InputError, match="number of hits"):
            debugger.set_breakpoint(Breakpoint("start", hit_condition="often"))


def test_seeking_finds_the_first_and_the_last(tmp_path: Path) -> None:
    path = tmp_path / "t"
    record_text(COUNTDOWN.format(turns=30_000), path)
    with Debugger(path) as debugger:
        assert debugger.seek("r6 == 20000", last=False).position == Position(0, 2 + 4 * 9_999 + 3)
        assert debugger.seek("r6 == 20000").position == Position(0, 2 + 4 * 10_000 + 2)
        before = debugger.position
        assert debugger.seek("r6 == 30001").reason == "not found"
        assert debugger.position == before
        with pytest.raises(InputError, match="nothing is called 'nothing'"):
            debugger.seek("nothing == 1")
        assert debugger.position == before


def held(debugger: Debugger, expression: str) -> list[Position]:
    """All positions where a condition holds, asked for one by one; those between the last
    instruction of a run and the next run are no places to stop at."""
    found = []
    debugger.goto(debugger.history.start)
    while True:
        at_end = debugger.position == debugger.history.end
        with suppress(InputError):  # it has no value here
            if (at_end or debugger.frames()) and debugger.evaluate(expression).number:
                found.append(debugger.position)
        if at_end:
            return found
        debugger.move("stepi")


def require_the_same(path: Path, conditions: Sequence[str]) -> None:
    """What is sought is what is found one by one; from wherever one is."""
    for condition in conditions:
        with Debugger(path) as debugger:
            places = held(debugger, condition)
        with Debugger(path) as debugger:
            for last in (True, False, False, True):
                stop = debugger.seek(condition, last=last)
                found = stop.position if stop.reason == "goto" else None
                assert found == (places[-1 if last else 0] if places else None), condition


def test_seeking_is_asking_everywhere(tmp_path: Path) -> None:
    path = tmp_path / "t"
    record_example("03_pingpong", path)
    conditions = [
        "cq[1].ready == 1", "cq[2].ready && parked == 1", 'runs("player") == 3', "overflow",
        "me.hits == 3", "hit == 5 || hit == 2", "players[1].hits == 2", "alice[12] == 2",
        "players[2].hits == 2 && cq[1].ready", "r1 == 2", "pc == 4", "ball.user_data == 3",
        "inflight", "1 == 1", "*(u32 *)(r10 - 16) == 1", "any(p.hits > 4 for k, p in players)",
    ]  # fmt: skip
    require_the_same(path, conditions)


@pytest.mark.parametrize("seed", range(4))
def test_seeking_in_generated_programs_is_asking_everywhere(seed: int, tmp_path: Path) -> None:
    path = tmp_path / "t"
    record_text(generated(seed), path, runs=2)
    with Debugger(path) as debugger:
        debugger.goto(Position(0, 0))
        frame = debugger.evaluate("r10").number
        debugger.goto(Position(1, debugger.history.length(1) // 2))
        r8 = debugger.evaluate("r8").number
        cell = f"*(u64 *){frame - 16:#x}"
        kept = debugger.evaluate(cell).number
    require_the_same(path, [f"r8 == {r8}", "r7 == 2", f"{cell} == {kept}", f"{cell} == 0", "r2"])


def test_seeking_to_where_a_run_was_stopped(tmp_path: Path) -> None:
    """What holds last at a fault, wherever that is."""
    path = tmp_path / "t"
    record_text("r1 = 5\nr2 = 1\nr2 = *(u64 *)(r1 + 0)\nr0 = 0\nexit", path)
    require_the_same(path, ["r1 == 5", "1 == 1"])
    record_text("*(u64 *)(r10 - 8) = 1\nr2 = 0\nr2 = *(u64 *)(r2 + 0)\nexit", path)
    with Debugger(path) as debugger:
        cell = f"*(u64 *){debugger.evaluate('r10').number - 8:#x}"
    require_the_same(path, [f"{cell} == 1", f"{cell} == 0"])


def test_what_is_sought_through_many_runs_takes_no_longer_for_each(tmp_path: Path) -> None:
    """Backward too: runs are not replayed from the beginning for each."""
    path = tmp_path / "t"
    record_text("r0 = 5\n*(u64 *)(r10 - 8) = r0\nexit", path, runs=1_200)
    with Debugger(path) as debugger:
        for last in (True, False):
            before = debugger.history.replay.totals.runs
            assert debugger.seek("r0 == 6", last=last).reason == "not found"
            assert debugger.history.replay.totals.runs - before < 12 * 1_200  # not 1,200 * 600


def test_a_trap_is_where_it_opens(tmp_path: Path) -> None:
    path = tmp_path / "t"
    record_text("r1 = 5\nr2 = *(u64 *)(r1 + 0)\nr0 = 0\nexit", path)
    with Debugger(path) as debugger:
        assert debugger.position == Position(0, 1)
        assert debugger.pc == 1
        assert debugger.evaluate("r1").number == 5
        debugger.goto(Position(0, 0))
        stop = debugger.move("continue")
        assert (stop.reason, stop.position) == ("trap", Position(0, 1))
        assert "address 0x5" in stop.text
        assert debugger.move("continue").reason == "end"


def test_a_budget_is_no_instruction(tmp_path: Path) -> None:
    path = tmp_path / "t"
    record_text(COUNTDOWN.format(turns=100), path, budget_insns=50)
    with Debugger(path) as debugger:
        assert debugger.position == Position(0, 50)
        assert debugger.frames()
        assert debugger.move("stepi", backward=True).position == Position(0, 49)


def test_a_verified_program_that_faults_opens_at_the_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """That is a bug of ours: the command that is named opens what was recorded, at the fault."""
    path, scenario = tmp_path / "t", tmp_path / "s.toml"
    scenario.write_text(
        f'object = "{CHECKS}"\nabi = "iouring-v2"\nprograms = ["return_unknown"]\n'
        "user.word = { u32 = [1234] }\n"
        'steps = [{ submit = [{ prog = "return_unknown", user_data = { block = "word" } }] }]\n'
    )
    monkeypatch.setattr(LoadedProgram, "verdict", lambda *_, **__: Accepted(Statistics()))
    assert main(["run", str(scenario), "--record", str(path)]) == 70
    error = capsys.readouterr().err
    assert "return_unknown was verified, and faulted all the same" in error
    assert error.endswith(f"recording: {path}, open it: pybpfvm debug {path}\n")
    monkeypatch.undo()
    with Debugger(path) as debugger:
        fault = debugger.history.fault()
        assert fault is not None
        assert debugger.position == fault
        assert debugger.frames()[0].program.name == "return_unknown"
    assert main(["replay", str(path)]) == 0


def test_backward_hits_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "t"
    record_example("03_pingpong", path)
    with Debugger(path) as debugger:
        one = debugger.set_breakpoint(Breakpoint("helper", helper="reap"))
        debugger.goto(debugger.history.end)
        for hits_by_then in (1, 2):
            assert debugger.move("continue", backward=True).reason == "breakpoint"
            assert one.hits == hits_by_then


def test_sought_events_are_told(tmp_path: Path) -> None:
    path = tmp_path / "t"
    record_example("03_pingpong", path)
    with Debugger(path) as debugger:
        for last, hit in ((True, 7), (False, 3)):
            stop = debugger.seek("cqe.user_data == 7 || cqe.user_data == 3", last=last)
            assert stop.moment is not None
            assert Cqe.unpack(stop.moment.cqe or b"").user_data == hit
            values = place_document(debugger, "cqe.user_data == 7", stop)["values"]
            assert values == {
                "cqe": f"user_data {hit:#x}, res 0, flags 0x0",
                "cqe.user_data": str(hit),
            }
        assert debugger.seek("me.hits == 2").moment is None

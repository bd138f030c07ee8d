"""States in recordings: what is reached from one is what is reached from the start, and a wrong one
is noticed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest

from pybpfvm.debugger import Debugger, Position
from pybpfvm.debugger.history import History, Unreachable
from pybpfvm.errors import InputError
from pybpfvm.image import Image
from pybpfvm.memory import PAGE, RegionKind
from pybpfvm.program import BPF_F_NO_PREALLOC, BpfObject, MapSpec, MapType
from pybpfvm.scenario import parse
from pybpfvm.session import Machine
from pybpfvm.trace import recorder, standing
from pybpfvm.trace.format import TraceFile
from pybpfvm.trace.index import FirstRuns, read_index
from pybpfvm.trace.records import Kind
from pybpfvm.trace.replay import Replay
from pybpfvm.trace.ringstate import RingState
from tests.trace.recordings import recorded, records_of, replayed, write_records

ROOT = Path(__file__).parents[2]
EXAMPLES = ("03_pingpong", "11_copy", "26_two_rings", "loop_echo")
OBJECTS = (
    "tests/ordinary/state.bpf.o",
    "bench/programs/tracer.bpf.o",
    "bench/programs/packet.bpf.o",
)
RUNS = 12
# Which item of a STATE is what.
RUN, INSNS, EVENTS, QUEUES, PLACE, HANDLES, REGIONS, PAGES, MAPS, RINGS = 1, 2, 3, *range(5, 12)
INF = float("inf")


@pytest.fixture(autouse=True)
def states_at_each_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "_STATE_BYTES", 0)
    monkeypatch.setattr(recorder, "_STATE_FACTOR", 0)


def record(name: str, path: Path) -> None:
    """A scenario of the gallery, or each program of an object, some times."""
    if "/" not in name:
        recorded(parse(ROOT / "examples" / name / "scenario.toml"), path)
        return
    with Machine() as machine:
        obj = machine.load(ROOT / name)
        machine.record(path)
        for _ in range(RUNS):
            for program in obj.programs.values():
                data = bytes(range(80)) if program.profile.packet is not None else b""
                program.run(data=data)


def here(replay: Replay) -> object:
    """All that programs could tell apart."""
    memory = replay.memory
    assert memory is not None
    told = [
        (one, bytes(memory.view(one)))
        for one in memory.regions()
        if one.kind not in (RegionKind.HOST, RegionKind.STACK)
    ]
    maps = [live.state() for loaded in replay.objects for live in loaded.image.maps.values()]
    return told, maps


@pytest.mark.parametrize("name", [*EXAMPLES, *OBJECTS])
def test_states_are_what_a_replay_comes_to(name: str, tmp_path: Path) -> None:
    path = tmp_path / "t"
    record(name, path)
    with Replay(path) as replay:
        seen = {}
        for run in range(len(replay.runs)):
            seen[run] = here(replay)
            assert replay.step() is None
        assert set(replay.index.states) == set(range(1, len(replay.runs) + 1))
    for run in sorted(seen)[1 :: max(len(seen) // 5, 1)]:
        with Replay(path, lazily=True) as replay:
            replay.enter(run)
            assert here(replay) == seen[run]
            assert replay.rest() is None


@pytest.mark.parametrize("name", EXAMPLES)
def test_rings_are_what_they_are_from_the_start(name: str, tmp_path: Path) -> None:
    path = tmp_path / "t"
    record(name, path)
    with History(path) as history:
        runs = len(history.runs)
        from_states = {}
        for run in range(runs, -1, -1):
            history.at(Position(run, 0))
            from_states[run] = dict(history.rings())
    with History(path) as history:
        history._states = []
        for run in range(runs + 1):
            history.at(Position(run, 0))
            assert from_states[run] == history.rings()


def test_runs_are_read_when_they_are_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "t"
    record("03_pingpong", path)
    with TraceFile(path) as file, TraceFile(path) as another:
        whole, lazy = read_index(file), read_index(another, lazily=True)
        assert isinstance(whole.runs, list)
        assert not isinstance(lazy.runs, list)
        assert list(lazy.runs) == whole.runs
        assert lazy.runs[-2] == whole.runs[-2]
        assert lazy.runs[3:7] == whole.runs[3:7]
        with pytest.raises(IndexError):
            lazy.runs[len(whole.runs)]
        for index in (whole, lazy):
            for insn in (0, 1, 55, 56, 57, whole.insns - 1, whole.insns, whole.insns + 9):
                assert index.run_at(insn) == max(
                    entry.number for entry in whole.runs if entry.first_insn <= insn
                )
        lazy.runs = whole.runs
        assert lazy == whole
    first = FirstRuns(whole.runs, 3)
    assert [*first] == first[:9] == whole.runs[:3]
    assert first[-1] is whole.runs[2]


Change = Callable[[list[Any]], None]


def packed(at: int, change: Callable[[Any], Any]) -> Change:
    """Change what an item has in msgpack."""

    def changes(record: list[Any]) -> None:
        old = msgpack.unpackb(record[at], use_list=False, strict_map_key=False)
        record[at] = msgpack.packb(change(old))
        assert record[at] != msgpack.packb(old)

    return changes


def put(at: int, what: Any) -> Change:
    """Put something else in an item's place."""

    def changes(record: list[Any]) -> None:
        record[at] = what

    return changes


def one_more(record: list[Any]) -> None:
    record[EVENTS] += 1


def write_changed(path: Path, to: Path, number: int, change: Change) -> None:
    """With the state of this number changed."""
    records = records_of(path)
    at = [n for n, one in enumerate(records) if one[0] == Kind.STATE][number]
    new = list(records[at])
    change(new)
    records[at] = tuple(new)
    write_records(to, records)


def other_page(pages: dict[int, bytes]) -> dict[int, bytes]:
    addr = min(pages)
    return pages | {addr: bytes((pages[addr][0] ^ 1,)) + pages[addr][1:]}


WRONG = {
    "page": (packed(PAGES, other_page), "run 4 of .*: the memory at 0x"),
    "maps": (packed(MAPS, lambda maps: (((True,), *maps[0][1:]),)), "the state of map "),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_replay_notices_a_wrong_state(what: str, tmp_path: Path) -> None:
    path, wrong = tmp_path / "t", tmp_path / "wrong"
    record("03_pingpong", path)
    change, message = WRONG[what]
    write_changed(path, wrong, 4, change)
    for engine in ("jit", "interp"):
        found, replay = replayed(wrong, engine)
        assert found is not None
        assert found.run == replay.totals.runs == 4
        with pytest.raises(AssertionError, match=message):
            raise AssertionError(str(found))


def test_states_count_and_fold_as_the_recording_does(tmp_path: Path) -> None:
    """What is not so is damage there."""
    path, wrong = tmp_path / "t", tmp_path / "wrong"
    record("03_pingpong", path)
    for change in (one_more, packed(RINGS, lambda rings: {**rings, 1: (5, *rings[1][1:])})):
        write_changed(path, wrong, 4, change)
        with Replay(wrong) as replay:
            assert "a state of " in str(replay.damage)
            assert len(replay.runs) == 5


def test_a_debugger_begins_at_no_state_that_leads_elsewhere(tmp_path: Path) -> None:
    """It begins at the start instead, and says what is wrong there."""
    path, wrong = tmp_path / "t", tmp_path / "wrong"
    record("03_pingpong", path)
    blank = packed(PAGES, lambda pages: {addr: bytes(len(one)) for addr, one in pages.items()})
    write_changed(path, wrong, 4, blank)
    with Debugger(wrong) as debugger:
        debugger.history._states = [5]
        with pytest.raises(Unreachable, match="run 4 of player: the memory at 0x"):
            debugger.goto(Position(7, 0))
        debugger.goto(Position(3, 9))
        assert debugger.position == Position(3, 9)


def test_of_a_state_that_leads_elsewhere_a_run_is_not_blamed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "t"
    record("03_pingpong", path)
    with Debugger(path) as debugger:
        history = debugger.history
        enter = history.replay.enter

        def enters(number: int) -> None:
            enter(number)
            for live in history.replay.objects[0].image.maps.values():
                addr = live.lookup(bytes(4), 0)
                history.memory.write(addr, bytes((0xEE,)) * live.spec.value_size)

        monkeypatch.setattr(history.replay, "enter", enters)
        debugger.goto(Position(9, 3))
        history._states = [9]
        debugger.move("run")  # behind run 9 there is a state that is right
        assert not history._states
        assert history.diverged is None
        assert debugger.position == Position(10, 0)
        hits = debugger.text_of("players[1].hits")
    with Debugger(path) as debugger:
        debugger.goto(Position(10, 0))
        assert debugger.text_of("players[1].hits") == hits


WHERE = "the replay is another from here on: run 4 of player: "


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (packed(PAGES, lambda pages: {**pages, 1 << 20: b"x"}), WHERE + "the memory at 0x100000"),
        (packed(PAGES, lambda pages: {**pages, min(pages) + PAGE: b"x"}), WHERE),
        (packed(PAGES, lambda pages: {min(pages) + 1: b"x"}), "damage"),
        (packed(PAGES, lambda pages: {min(pages): 7}), "damage"),
        (packed(PAGES, lambda pages: 7), "damage"),
        (packed(MAPS, lambda maps: (maps[0][1:],)), WHERE + "how many maps"),
        (packed(MAPS, lambda maps: (((1, 2), *maps[0][1:]),)), WHERE + "the state of map"),
        (packed(MAPS, lambda maps: ((7, *maps[0][1:]),)), WHERE + "the state of map"),
        (packed(MAPS, lambda maps: (({0: True}, *maps[0][1:]),)), WHERE + "the state of map"),
        (packed(MAPS, lambda maps: 7), "damage"),
        (packed(MAPS, lambda maps: (7,)), "damage"),
        (packed(HANDLES, lambda handles: ((1, 2, 3, 4, 5),)), "damage"),
        (packed(HANDLES, lambda handles: ((8, 0, "program", "none", 0),)), ""),
        (packed(REGIONS, lambda all: (*all, (1 << 20, 64, 4, "x", True, False))), WHERE),
        (packed(REGIONS, lambda all: (*all, (all[0][0], 1, 4, "x", True, False))), WHERE),
        (packed(REGIONS, lambda all: (*all, (all[0][0], 1, 77, "x", True, False))), "damage"),
        (packed(REGIONS, lambda all: (*all, 7)), "damage"),
        (packed(REGIONS, lambda all: all * 4097), "damage"),
        (packed(REGIONS, lambda all: dict.fromkeys(all, 0)), "damage"),
        (packed(HANDLES, lambda handles: ((8, 0, "program", "none", 0),) * 4097), "damage"),
        (packed(PAGES, lambda pages: {min(pages): bytes(PAGE + 1)}), "damage"),
        (packed(PAGES, lambda pages: {float(min(pages)): bytes(PAGE)}), "damage"),
        (packed(PAGES, lambda pages: {n * PAGE: bytes(PAGE) for n in range(5121)}), "damage"),
        (packed(RINGS, lambda rings: {"x": rings[1]}), "damage"),
        (packed(RINGS, lambda rings: {1: (*rings[1][:4], (("x", INF),), None)}), "damage"),
        (put(QUEUES, (7,)), "damage"),
        (put(QUEUES, (((0, 1, 2),),)), "damage"),
        (put(PLACE, (INF, 8)), "damage"),
    ],
)
def test_a_state_that_can_not_be_is_an_error(change: Change, why: str, tmp_path: Path) -> None:
    """Nobody begins there. What is no state at all is damage."""
    path, wrong = tmp_path / "t", tmp_path / "wrong"
    record("03_pingpong", path)
    write_changed(path, wrong, 4, change)
    with Replay(wrong, lazily=True) as replay:
        assert (replay.damage is not None) == (why == "damage")
        if why != "damage":
            with pytest.raises(InputError):
                replay.enter(5)
    with Debugger(wrong) as debugger:
        runs = len(debugger.history.runs)
        assert (runs == 5) == (why == "damage")
        debugger.history._states = [5]
        if why.startswith(WHERE):
            with pytest.raises(Unreachable, match=why):
                debugger.goto(Position(5, 3))
        elif not why:
            debugger.goto(Position(5, 3))
            assert debugger.position == Position(5, 3)


# What a ring became, of RingState.packed, and what it never was.
RING = (7, None, ((0, b"", b"", 1, 2, 3),), (), (("x", 2),), (0, 1, 0, (bytes(64),)))
NO_RINGS = {
    "runs without end": (*RING[:4], (("x", INF),), None),
    "runs by halves": (*RING[:4], (("x", 1.5),), None),
    "runs as truth": (*RING[:4], (("x", True),), None),
    "runs below 0": (*RING[:4], (("x", -1),), None),
    "runs as text": (*RING[:4], (("x", "1"),), None),
    "runs of a number": (*RING[:4], ((1, 1),), None),
    "runs in a table": (*RING[:4], {("x", 1): None}, None),
    "time below 0": (-1, *RING[1:]),
    "time as truth": (True, *RING[1:]),
    "waits as bytes": (7, b"ab", *RING[2:]),
    "CQEs as text": (7, None, ((0, "", b"", 1, 2, 3),), *RING[3:]),
    "CQEs in parts": (7, None, ((0, b"x", b"", 1, 2, 3),), *RING[3:]),
    "CQ below 0": (7, None, ((-1, b"", b"", 1, 2, 3),), *RING[3:]),
    "CQ of fewer counts": (7, None, ((0, b"", b"", 1, 2),), *RING[3:]),
    "requests in a table": (*RING[:3], {}, *RING[4:]),
    "SQEs in a table": (*RING[:5], (0, 1, 0, {bytes(64): 0})),
    "SQE as number": (*RING[:5], (0, 1, 0, (7,))),
    "head below 0": (*RING[:5], (-1, 1, 0, ())),
    "a table": dict.fromkeys(range(6), ()),
    "too few": RING[1:],
}


def test_a_ring_becomes_what_it_was() -> None:
    ring = RingState("x")
    ring.become(RING)
    assert ring.packed() == RING


@pytest.mark.parametrize("what", NO_RINGS)
def test_a_ring_becomes_nothing_that_is_none(what: str) -> None:
    with pytest.raises(InputError):
        RingState("x").become(NO_RINGS[what])


@pytest.mark.parametrize(
    ("at", "count"),
    [
        (RUN, (1 << 64) - 1),
        (RUN, 1 << 63),
        (RUN, 1 << 50),
        (RUN, 1 << 10),
        (RUN, 0),
        (RUN, -1),
        (INSNS, 1 << 63),
        (INSNS, 0),
        (EVENTS, 1 << 63),
    ],
)
@pytest.mark.parametrize("number", [0, 4, -1])
def test_counts_of_states_are_believed_no_further_than_they_can_be(
    number: int, at: int, count: int, tmp_path: Path
) -> None:
    """Of the last state they are what is there; else what is before it can be used."""
    path, wrong = tmp_path / "t", tmp_path / "wrong"
    record("03_pingpong", path)
    write_changed(path, wrong, number, put(at, count))
    with Replay(wrong) as replay:
        before = len(replay.runs)
        assert "a state of " in str(replay.damage)
    with Debugger(wrong) as debugger:
        history = debugger.history
        if number == -1 or history.replay.damage is not None:
            assert "a state of " in str(history.replay.damage)
            assert len(history.runs) == before
            debugger.goto(history.end)
        else:
            with pytest.raises(InputError, match="a state of "):
                list(history.runs)
            debugger.goto(Position(number - 1, 1))
            assert debugger.position == Position(number - 1, 1)


@pytest.mark.parametrize("at", [HANDLES, REGIONS, PAGES, MAPS, RINGS])
@pytest.mark.parametrize("part", [b"\x92\xc0\xc0", b"\x81\xc0\xc0"], ids=["array", "table"])
def test_a_state_that_would_cost_much_more_than_it_has_is_damage(
    at: int, part: bytes, tmp_path: Path
) -> None:
    """Arrays and tables in it cost fifty times their bytes."""
    path, wrong = tmp_path / "t", tmp_path / "wrong"
    record("03_pingpong", path)
    count = (1 << 20) + 1
    write_changed(path, wrong, 4, put(at, b"\xdd" + count.to_bytes(4, "big") + part * count))
    for lazily in (False, True):
        with Replay(wrong, lazily=lazily) as replay:
            assert "too many parts" in str(replay.damage)
            assert len(replay.runs) == 5


def test_all_parts_of_a_state_are_counted_together(tmp_path: Path) -> None:
    path, wrong = tmp_path / "t", tmp_path / "wrong"
    record("03_pingpong", path)
    many = msgpack.packb(((),) * (1 << 19))

    def change(record: list[Any]) -> None:
        record[HANDLES] = record[REGIONS] = many

    write_changed(path, wrong, 4, change)
    with Replay(wrong) as replay:
        assert "too many parts" in str(replay.damage)


@pytest.mark.parametrize(("elements", "told"), [(1 << 10, True), ((1 << 20) + 1, False)])
def test_no_state_is_written_that_is_not_read(elements: int, told: bool) -> None:
    """Of a map with so many elements."""
    maps = msgpack.packb((((False, tuple((b"k", 1) for _ in range(elements))),),))
    parts = [msgpack.packb(()), msgpack.packb(()), msgpack.packb({}), maps, msgpack.packb({})]
    assert standing._can_be_read(parts) == told
    if told:
        assert standing._unpacked(parts)[3][0][0][1][0] == (b"k", 1)
    else:
        with pytest.raises(InputError, match="too many parts"):
            standing._unpacked(parts)


MAPS_OF_TYPES = (
    MapSpec("hash", MapType.HASH, 4, 8, 4),
    MapSpec("lru", MapType.LRU_HASH, 4, 8, 4),
    MapSpec("lpm", MapType.LPM_TRIE, 8, 8, 4, flags=BPF_F_NO_PREALLOC),
    MapSpec("queue", MapType.QUEUE, 0, 8, 4),
    MapSpec("ring", MapType.RINGBUF, 0, 0, 4096),
    MapSpec("programs", MapType.PROG_ARRAY, 4, 4, 4),
)
NO_MAPS: tuple[Any, ...] = (
    (),
    7,
    {0: True},
    (False,) * 2,
    (False, (0, 4096, ())),
    (False, (INF, INF, ()), ()),
    (False, (0, 4096, (INF,)), ()),
    (False, (0, 4096, ((1 << 64) - 1,)), ()),
    (False, (0, 4096, ()), ((b"abcd", -1),)),
    (False, (0, 4096, ()), (((1 << 64,), 0),)),
    (False, INF, INF, ()),
    (False, 8, 0, ((),)),
    (False, 8, 0, (("", None, None),)),
    (False, {INF: 8}),
    (False, {0: INF}),
    (False, INF),
)


@pytest.mark.parametrize("spec", MAPS_OF_TYPES, ids=lambda spec: spec.name)
def test_a_map_that_can_not_be_is_an_error(spec: MapSpec) -> None:
    """One error, whatever comes of looking at it; and the map stays what it is."""
    with Image(BpfObject("maps", "", (), (spec,)), cpus=1) as image:
        memory, live = image.memory, image.maps[spec.name]
        before = live.state()
        regions = tuple(map(standing._as_told, standing._told_regions(memory)))
        for given in (*NO_MAPS, before):
            state = standing.State(memory.place, (), regions, {}, ((given,),), {})
            if given is before:
                standing.enter(memory, [image], state)
            else:
                with pytest.raises(InputError, match=f"what map {spec.name} can not be"):
                    standing.enter(memory, [image], state)
            assert live.state() == before


def test_what_is_cut_off_is_opened(tmp_path: Path) -> None:
    path, cut = tmp_path / "t", tmp_path / "cut"
    record("03_pingpong", path)
    data = path.read_bytes()
    for share in range(6, 10):
        cut.write_bytes(data[: len(data) * share // 10])
        with Debugger(cut) as debugger:
            assert debugger.history.replay.damage is not None
            debugger.goto(debugger.history.end)
    damaged = bytearray(data)
    damaged[len(data) * 2 // 3] ^= 1
    cut.write_bytes(damaged)
    with Debugger(cut) as debugger:
        assert "checksum" in str(debugger.history.replay.damage)
        debugger.goto(debugger.history.end)

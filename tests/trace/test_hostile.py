"""A recording may come from anywhere: it touches no memory but such as recordings have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pybpfvm import events
from pybpfvm.debugger import Debugger
from pybpfvm.debugger.terminal.shell import Shell
from pybpfvm.errors import InputError
from pybpfvm.memory import AddressSpace, RegionKind
from pybpfvm.scenario import parse
from pybpfvm.trace.format import TraceFile, TraceWriter
from pybpfvm.trace.records import REGION_KINDS, Kind, event_number, field_of
from pybpfvm.trace.replay import Replay
from tests.debugger.recordings import record_example
from tests.trace.recordings import REPLAYERS, changed, recorded, records_of, write_records

EXAMPLES = Path(__file__).parents[2] / "examples"
OURS = (RegionKind.HOST, RegionKind.STACK, RegionKind.MAP_VALUE)


@pytest.fixture(scope="module")
def pingpong(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trace") / "t.bpftrace"
    recorded(parse(EXAMPLES / "03_pingpong" / "scenario.toml"), path)
    return path


def _regions(path: Path, engine: str) -> list[tuple[int, int]]:
    """Where memory of engines and maps lies in a replay."""
    with Replay(path, engine=engine) as replay:
        assert replay.memory is not None
        found = [one for one in replay.memory.regions() if one.kind in OURS]
        assert found
        return [(one.start, one.size) for one in found]


@pytest.mark.parametrize("engine", REPLAYERS)
def test_changes_reach_no_memory_of_engines_and_maps(
    engine: str, pingpong: Path, tmp_path: Path
) -> None:
    path = tmp_path / "t"
    for start, size in _regions(pingpong, engine):

        def change(record: list[Any], start: int = start, size: int = size) -> None:
            record[7] = ((start, b"A" * size), *record[7])

        changed(pingpong, path, 0, Kind.RUN, change)
        with (
            Replay(path, engine=engine) as replay,
            pytest.raises(InputError, match="where others than programs write none"),
        ):
            replay.rest()


@pytest.mark.parametrize("engine", REPLAYERS)
def test_no_memory_of_engines_and_maps_goes(engine: str, pingpong: Path, tmp_path: Path) -> None:
    path = tmp_path / "t"
    records = records_of(pingpong)
    first = next(n for n, one in enumerate(records) if one[0] == Kind.RUN)
    for start, _ in _regions(pingpong, engine):
        write_records(path, [*records[:first], (Kind.WENT, start), *records[first:]])
        with Replay(path, engine=engine) as replay, pytest.raises(InputError, match="no region at"):
            replay.rest()


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.name)
def test_no_memory_of_engines_and_maps_comes(
    kind: RegionKind, pingpong: Path, tmp_path: Path
) -> None:
    path = tmp_path / "t"
    records = records_of(pingpong)
    first = next(n for n, one in enumerate(records) if one[0] == Kind.RUN)
    came = (Kind.CAME, 0x2000_0100_0000, 64, REGION_KINDS[kind], "mine", True, False)
    write_records(path, [*records[:first], came, *records[first:]])
    with Replay(path) as replay, pytest.raises(InputError, match="a region of unknown kind"):
        replay.rest()


def test_nothing_comes_where_something_lies() -> None:
    with AddressSpace() as memory:
        region = memory.alloc(3 * 4096, RegionKind.STACK, "there")
        handle = memory.place[1]
        for start in (region.start, region.start + 4096):
            memory.place = start, handle
            with pytest.raises(InputError, match="no free place"):
                memory.alloc(4096, RegionKind.CTX, "on it")
        memory.write(region.start, b"still there")
        assert memory.read(region.start, 11) == b"still there"


def test_a_chunk_of_more_records_than_are_written_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "t"
    writer = TraceWriter(path)
    writer._buffer += b"\x90" * (1 << 20)  # empty arrays
    writer.close()
    with TraceFile(path) as file:
        assert not list(file.all_records())
        assert "too many" in str(file.damage)


# An event's kind, and a value that one of its fields can not have.
_FIELDS: list[tuple[type, str, object]] = [
    (events.CqePosted, "cq", "0"),
    (events.CqePosted, "res", b"0"),
    (events.CqePosted, "request", "1"),
    (events.CqeReaped, "user_data", None),
    (events.SqeIssued, "sqe", "text"),
    (events.SqeIssued, "user_data", True),
    (events.RunStarted, "program", 7),
    (events.RunEnded, "wait_cq", ()),
    (events.RequestEnded, "quiet", 1),
    (events.RequestStarted, "time_ns", {}),
]


@pytest.mark.parametrize(
    ("kind", "field", "value"), _FIELDS, ids=[f"{row[0].__name__}.{row[1]}" for row in _FIELDS]
)
def test_fields_of_events_have_types(
    kind: type, field: str, value: object, pingpong: Path, tmp_path: Path
) -> None:
    """One clear error, where the record stands; what is before it can be used."""
    path, records = tmp_path / "t", records_of(pingpong)
    number = event_number(kind)
    at = next(n for n, one in enumerate(records) if one[:1] == (Kind.EVENT,) and one[2] == number)
    fields = list(records[at][3])
    fields[field_of(kind, field)] = value
    records[at] = (*records[at][:3], tuple(fields))
    write_records(path, records)
    with Debugger(path) as debugger:
        damage = str(debugger.history.replay.damage)
        assert f"record {at}: event {kind.__name__} with {field} {value!r}" in damage
        debugger.move("continue")
        assert debugger.rings()


def test_sqes_are_sqes(pingpong: Path, tmp_path: Path) -> None:
    path, records = tmp_path / "t", records_of(pingpong)
    at = next(n for n, one in enumerate(records) if one[0] == Kind.SQES)
    for wrong in ((b"short",), (7,)):
        records[at] = (*records[at][:5], wrong)
        write_records(path, records)
        with Debugger(path) as debugger:
            assert "an SQE" in str(debugger.history.replay.damage)


@pytest.mark.parametrize("sizes", [5, None, "x", {}])
def test_sizes_of_queues_are_known_or_not(sizes: object, tmp_path: Path) -> None:
    path, heard = tmp_path / "t", list[str]()
    record_example("26_two_rings", path)
    records = [
        (one[0], one[1], {**one[2], "cq_entries": sizes}) if one[0] == Kind.RING else one
        for one in records_of(path)
    ]
    write_records(path, records)
    with Debugger(path) as debugger:
        Shell(debugger, heard.append).line("timeline")
    assert heard[0].startswith("Timeline of ")

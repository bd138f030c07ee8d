"""The file of a recording: what is damaged costs what is behind it, and one clear error."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import zlib
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pybpfvm.debugger import Debugger
from pybpfvm.errors import InputError
from pybpfvm.scenario import parse
from pybpfvm.trace.format import MAGIC, VERSION, Record, TraceFile, TraceWriter
from pybpfvm.trace.index import read_index
from pybpfvm.trace.records import Kind
from pybpfvm.trace.replay import Replay
from tests.trace.recordings import REPLAYERS, recorded, records_of, write_records

EXAMPLES = Path(__file__).parents[2] / "examples"
ROOT = Path(__file__).parents[2]

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.binary() | st.text(),
    lambda inner: st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
_QUICK = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of a few kilobytes, in several chunks."""
    path = tmp_path_factory.mktemp("trace") / "t.bpftrace"
    recorded(parse(EXAMPLES / "03_pingpong" / "scenario.toml"), path, verify=False)
    records = records_of(path)
    writer = TraceWriter(path)
    for record in records:
        writer.add(record)
        if record[0] == Kind.END:
            writer.flush()
    writer.close()
    return path


def readable(path: Path) -> list[Record]:
    """The records that can be read; InputError for a file that is no recording."""
    with TraceFile(path) as file:
        return [record for _, _, record in file.all_records()]


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "t.bpftrace"
    records: list[Record] = [
        (0, {"text": "ünïcode \udc80", "bytes": b"\xff" * 40, 3: None}),
        (1, -(1 << 63), (1 << 64) - 1, True, (), ((1, b""),)),
        (2, b"x" * (1 << 20)),  # larger than a chunk
    ]
    writer = TraceWriter(path)
    for record in records:
        assert not readable(path)  # a chunk is worth it, or due
        writer.add(record)
    assert readable(path) == records
    writer.close()
    assert readable(path) == records
    assert path.stat().st_size == writer.bytes


def test_a_file_that_is_no_recording_says_so(tmp_path: Path) -> None:
    path = tmp_path / "t"
    for content in (b"", MAGIC, b"\x7fELF" + bytes(60)):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"this is no recording of pybpfvm.*--record"):
            TraceFile(path)
    with pytest.raises(InputError, match="No such file"):
        TraceFile(tmp_path / "missing")
    with pytest.raises(InputError, match=r"can not be written.*record to a place"):
        TraceWriter(tmp_path / "missing" / "t")


def test_another_version_is_named(tmp_path: Path, recording: Path) -> None:
    path = tmp_path / "t"
    data = bytearray(recording.read_bytes())
    data[len(MAGIC)] = VERSION + 1
    path.write_bytes(data)
    known = rf"format version {VERSION + 1}.*reads versions 1 to {VERSION}"
    with pytest.raises(InputError, match=known):
        Replay(path)


def test_each_flipped_bit_gives_an_error_or_a_prefix(tmp_path: Path, recording: Path) -> None:
    path, whole = tmp_path / "t", records_of(recording)
    data = recording.read_bytes()
    random = Random(7)
    prefixes = 0
    for at in {*range(80), *random.sample(range(len(data)), 300)}:
        broken = bytearray(data)
        broken[at] ^= 1 << random.randrange(8)
        path.write_bytes(broken)
        try:
            with TraceFile(path) as file:
                found = [record for _, _, record in file.all_records()]
                assert file.damage is not None
                assert "at byte" in str(file.damage)
        except InputError:
            continue
        assert found == whole[: len(found)]
        assert len(found) < len(whole)
        prefixes += bool(found)
    assert prefixes > 50  # most of so small a file is the object


def test_each_cut_gives_an_error_or_a_prefix(tmp_path: Path, recording: Path) -> None:
    path, whole = tmp_path / "t", records_of(recording)
    data = recording.read_bytes()
    lengths = set()
    for size in {*range(40), *range(40, len(data), 37)}:
        path.write_bytes(data[:size])
        try:
            found = readable(path)
        except InputError:
            assert size < len(MAGIC) + 2
            continue
        assert found == whole[: len(found)]
        lengths.add(len(found))
    assert len(lengths) > 5


@_QUICK
@given(data=st.binary(max_size=400), start=st.booleans())
def test_any_bytes_give_an_error(tmp_path: Path, data: bytes, start: bool) -> None:
    path = tmp_path / "t"
    path.write_bytes((MAGIC + VERSION.to_bytes(2, "little") if start else b"") + data)
    with pytest.raises(InputError):
        Replay(path)


@_QUICK
@given(records=st.lists(st.lists(_VALUES, max_size=8).map(tuple), max_size=6))
def test_any_records_give_an_error(tmp_path: Path, records: list[Record]) -> None:
    path = tmp_path / "t"
    write_records(path, records)
    with pytest.raises(InputError):
        Replay(path)


@_QUICK
@given(st.data())
def test_any_record_in_the_place_of_another(
    tmp_path: Path, recording: Path, data: st.DataObject
) -> None:
    """A checksum that is right proves nothing: what a record says is looked at, too."""
    path = tmp_path / "t"
    records = records_of(recording)
    at = data.draw(st.integers(0, len(records) - 1), "which")
    items = list(records[at])
    if len(items) > 1 and data.draw(st.booleans(), "one item"):
        items[data.draw(st.integers(1, len(items) - 1), "item")] = data.draw(_VALUES, "value")
    else:
        items[1:] = data.draw(st.lists(_VALUES, max_size=8), "items")
    records[at] = tuple(items)
    write_records(path, records)
    said = str(path)
    try:
        with Replay(path, engine=data.draw(st.sampled_from(REPLAYERS))) as replay:
            replay.rest()
    except InputError as error:
        said = str(error)
    assert str(path) in said


def test_a_chunk_that_says_it_is_huge_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "t"
    start = MAGIC + VERSION.to_bytes(2, "little")
    for packed, unpacked in ((1 << 31, 64), (64, 1 << 31), (64, 64)):
        head = packed.to_bytes(4, "little") + unpacked.to_bytes(4, "little")
        path.write_bytes(start + head + bytes(4) + bytes(64))
        with TraceFile(path) as file:
            assert not list(file.all_records())
            assert file.damage is not None


def test_what_is_cut_off_is_replayed_up_to_there(tmp_path: Path, recording: Path) -> None:
    path = tmp_path / "t"
    records = records_of(recording)
    ends = [n for n, record in enumerate(records) if record[0] == Kind.END]
    for number in (0, 5, 11):
        for last in (ends[number], ends[number] + 1):  # within the run, and after it
            write_records(path, records[:last])
            with Replay(path) as replay:
                assert replay.rest() is None
                assert replay.totals.runs == number + 1
                assert replay.runs[number].whole == (last > ends[number])
                assert "whoever made it was stopped" in str(replay.damage)


def test_a_killed_process_leaves_what_it_did(tmp_path: Path) -> None:
    path = tmp_path / "t.bpftrace"
    code = f"""
import os, signal, pybpfvm
from pybpfvm.scenario import parse, run_scenario
def kill(live):
    live.ring.machine.recorder._writer.flush()
    os.kill(os.getpid(), signal.SIGKILL)
scenario = parse({str(EXAMPLES / "03_pingpong" / "scenario.toml")!r})
run_scenario(scenario, record={str(path)!r}, verify=False, on_end=kill)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False
    )
    assert done.returncode == -signal.SIGKILL
    # In a process whose addresses are as free as those of the one that was killed.
    again = subprocess.run(
        [sys.executable, "-m", "pybpfvm", "replay", str(path), "--format", "json"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == 2
    found = json.loads(again.stdout)
    assert (found["replayed"]["runs"], found["divergence"]) == (12, None)
    assert found["damage"] is not None


def test_the_index_names_what_ends_it(tmp_path: Path, recording: Path) -> None:
    path = tmp_path / "t"
    records = records_of(recording)
    write_records(path, [*records[:20], (Kind.CAME, 1), *records[20:]])
    with TraceFile(path) as file:
        index = read_index(file)
        assert "a record CAME of 2 items" in str(file.damage)
        assert index.end == (0, 20)


def test_a_chunk_that_would_cost_much_more_than_it_has_is_refused(tmp_path: Path) -> None:
    """Arrays and tables cost fifty times their bytes; the bytes of an object cost what they are."""
    path = tmp_path / "t"
    deep = b"\x91" * 100 + b"\xc0"  # an array in an array ..., of nothing at last
    tables = b"\x81\xc0" * 100 + b"\xc0"
    for data, why in (
        (b"\xdc\x3f\xff" + deep * 0x3FFF, "too many parts"),
        (b"\xdc\x3f\xff" + tables * 0x3FFF, "too many parts"),
        ((b"\xdc\x3f\xff" + b"\x00" * 0x3FFF) * 300, "too many parts"),
        (b"\x92\x02\xc6" + (1 << 24).to_bytes(4, "big") + bytes(1 << 24), ""),
    ):
        path.write_bytes(MAGIC + VERSION.to_bytes(2, "little") + chunk(data))
        with TraceFile(path) as file:
            found = file.records(0)
            assert bool(found) == (not why)
            assert why in str(file.damage)


def chunk(data: bytes) -> bytes:
    """A chunk of these bytes."""
    packed = zlib.compress(data, 1)
    head = len(packed).to_bytes(4, "little") + len(data).to_bytes(4, "little")
    return head + zlib.crc32(packed, zlib.crc32(head)).to_bytes(4, "little") + packed


def test_files_of_version_1_are_read(tmp_path: Path, recording: Path) -> None:
    """They had no SQES, no checksum of what runs handed over, and rings had no names."""
    path = tmp_path / "t"
    records = [
        record[:5] if record[0] == Kind.END else record
        for record in records_of(recording)
        if record[0] != Kind.SQES
    ]
    write_records(path, records)
    data = bytearray(path.read_bytes())
    data[len(MAGIC)] = 1
    path.write_bytes(data)
    with Replay(path) as replay:
        assert replay.file.version == 1
        assert replay.rest() is None
        assert replay.totals.runs == 12
        assert all(entry.handed is None for entry in replay.runs)
    with Debugger(path) as debugger:
        with pytest.raises(InputError, match="does not say what is in the SQ"):
            debugger.evaluate("sq.ready")
        assert [ring.name for ring in debugger.rings()] == ["ring1"]


def test_files_of_version_2_are_read(tmp_path: Path, recording: Path) -> None:
    """They had no checksum of registers, and no states."""
    path = tmp_path / "t"
    records = [one[:6] if one[0] == Kind.END else one for one in records_of(recording)]
    write_records(path, [one for one in records if one[0] != Kind.STATE])
    data = bytearray(path.read_bytes())
    data[len(MAGIC)] = 2
    path.write_bytes(data)
    with Replay(path) as replay:
        assert replay.file.version == 2
        assert replay.rest() is None
        assert replay.totals.runs == 12
        assert all(entry.handed is not None for entry in replay.runs)
        assert all(entry.registers is None for entry in replay.runs)
    with Debugger(path) as debugger:
        debugger.goto(debugger.history.end)
        assert debugger.rings()

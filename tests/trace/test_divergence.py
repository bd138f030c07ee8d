"""A recording that was changed is not replayed as if nothing were: the first run that differs is
named, with both sides."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pybpfvm.errors import InputError
from pybpfvm.scenario import parse
from pybpfvm.trace.records import Ask, Kind
from pybpfvm.trace.replay import Replay
from tests.debugger.recordings import record_text
from tests.trace.recordings import (
    REPLAYERS,
    changed,
    recorded,
    records_of,
    replayed,
    write_records,
)

EXAMPLES = Path(__file__).parents[2] / "examples"
Change = Callable[[list[Any]], None]


@pytest.fixture(scope="module")
def pingpong(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve runs on one ring: program `player`, which adds to a counter in a map."""
    path = tmp_path_factory.mktemp("trace") / "t.bpftrace"
    recorded(parse(EXAMPLES / "03_pingpong" / "scenario.toml"), path)
    return path


def _another_context(record: list[Any]) -> None:
    """RUN: the program is given another user_data, or finds other memory."""
    (addr, data), *rest = record[7]
    record[7] = ((addr, bytes([data[0] ^ 8]) + data[1:]), *rest)


def _another_result(record: list[Any]) -> None:
    record[1] ^= 1


def _more_instructions(record: list[Any]) -> None:
    record[2] += 1


def _a_trap(record: list[Any]) -> None:
    record[3] = ("trap", "NULL", "player", 7, "NULL pointer access")


def _another_question(record: list[Any]) -> None:
    record[2] = (*record[2][:-1], 77)


def _other_memory(record: list[Any]) -> None:
    """END: the program read or wrote other user memory than it does."""
    record[5] ^= 1


def _other_registers(record: list[Any]) -> None:
    """END: r6 to r9 were others where the program asked something."""
    record[6] ^= 1


CHANGES: list[tuple[str, Kind, Change, str]] = [
    ("result", Kind.END, _another_result, "how the run ends"),
    ("instructions", Kind.END, _more_instructions, "how the run ends"),
    ("trap", Kind.END, _a_trap, "how the run ends"),
    (
        "memory",
        Kind.END,
        _other_memory,
        "the checksum of what it read and wrote of user memory",
    ),
    ("registers", Kind.END, _other_registers, "the checksum of r6 to r9 where it asks"),
    ("question", Kind.ASKED, _another_question, "what the program asks for"),
]


@pytest.mark.parametrize("engine", REPLAYERS)
@pytest.mark.parametrize("run", [0, 4, 11])
@pytest.mark.parametrize(("name", "kind", "change", "what"), CHANGES, ids=[c[0] for c in CHANGES])
def test_a_run_that_differs_is_named(
    name: str,
    kind: Kind,
    change: Change,
    what: str,
    run: int,
    engine: str,
    pingpong: Path,
    tmp_path: Path,
) -> None:
    path = tmp_path / "t"
    changed(pingpong, path, run, kind, change)
    found, replay = replayed(path, engine)
    assert found is not None
    assert (found.run, found.program, found.what) == (run, "player", what)
    assert found.then != found.now
    assert replay.totals.runs == run


@pytest.mark.parametrize("engine", REPLAYERS)
def test_changed_memory_before_a_run_is_noticed(
    engine: str, pingpong: Path, tmp_path: Path
) -> None:
    path = tmp_path / "t"
    changed(pingpong, path, 3, Kind.RUN, _another_context)
    found, _ = replayed(path, engine)
    assert found is not None
    assert found.run == 3


@pytest.mark.parametrize("engine", REPLAYERS)
@pytest.mark.parametrize("part", ["memory", "maps", "queues"])
def test_a_changed_digest_is_named(part: str, engine: str, pingpong: Path, tmp_path: Path) -> None:
    def change(record: list[Any]) -> None:
        memory, maps, queues = record[4]
        if part == "memory":
            memory ^= 1
        elif part == "maps":
            maps = ((maps[0][0] ^ 1, *maps[0][1:]),)
        else:
            (cq, posted, reaped, dropped), *rest = queues[0]
            queues = (((cq, posted, reaped + 1, dropped), *rest),)
        record[4] = memory, maps, queues

    path = tmp_path / "t"
    changed(pingpong, path, 0, Kind.END, change)
    found, _ = replayed(path, engine)
    assert found is not None
    assert found.run == 0
    assert {"memory": "memory", "maps": "map ", "queues": "queues"}[part] in found.what


@pytest.mark.parametrize("engine", REPLAYERS)
def test_a_changed_answer_is_noticed_where_it_matters(engine: str, tmp_path: Path) -> None:
    """The program reaps a CQE; another one leads it elsewhere in the same run."""

    def change(record: list[Any]) -> None:
        assert record[1] == Ask.REAP
        user_data, _res, flags = struct.unpack("<QiI", record[3])
        record[3] = struct.pack("<QiI", user_data, -5, flags)

    scenario, path, other = tmp_path / "a", tmp_path / "t", EXAMPLES / "04_write_file"
    recorded(parse(other / "scenario.toml"), scenario)
    changed(scenario, path, 1, Kind.ASKED, change)
    found, _ = replayed(path, engine)
    assert found is not None
    assert found.run == 1


@pytest.mark.parametrize("engine", REPLAYERS)
def test_changed_user_memory_is_noticed(engine: str, tmp_path: Path) -> None:
    """The program copies what a request has read into a large buffer, and parses it."""

    def change(record: list[Any]) -> None:
        record[2] = bytes(byte ^ 1 for byte in record[2])

    scenario, path = tmp_path / "a", tmp_path / "t"
    recorded(parse(EXAMPLES / "22_parser" / "scenario.toml"), scenario)
    changed(scenario, path, 2, Kind.READ, change)
    found, _ = replayed(path, engine)
    assert found is not None
    assert found.run == 2


def test_an_object_that_was_changed_is_refused(pingpong: Path, tmp_path: Path) -> None:
    def change(record: list[Any]) -> None:
        programs = record[1]["programs"]
        code = programs[0]["code"][:-8] + b"\x05\0\xff\xff\0\0\0\0"
        record[1] = {**record[1], "programs": ({**programs[0], "code": code}, *programs[1:])}

    path = tmp_path / "t"
    from tests.trace.recordings import records_of, write_records

    records = records_of(pingpong)
    at = next(n for n, record in enumerate(records) if record[0] == Kind.LOAD)
    new = list(records[at])
    change(new)
    records[at] = tuple(new)
    write_records(path, records)
    with pytest.raises(InputError, match="not those that were recorded"):
        replayed(path, "jit")


@pytest.mark.parametrize("engine", REPLAYERS)
@pytest.mark.parametrize("recorder", ["jit", "interp"])
def test_a_register_that_nothing_else_shows_is_compared(
    recorder: str, engine: str, tmp_path: Path
) -> None:
    """r8 goes nowhere but into the checksum, which is taken from the run of another program."""
    paths = []
    for value in (1, 2):
        path = tmp_path / f"{value}"
        record_text(f"r8 = {value}\ncall 5\nr0 = 0\nexit", path, engine=recorder)
        paths.append(path)
    for path in paths:
        assert replayed(path, engine)[0] is None
    records, others = map(records_of, paths)
    ends = [one for one in others if one[0] == Kind.END]
    assert [one[6] for one in ends] != [one[6] for one in records if one[0] == Kind.END]
    write_records(paths[0], [ends[0] if one[0] == Kind.END else one for one in records])
    found, _ = replayed(paths[0], engine)
    assert found is not None
    assert found.what == "the checksum of r6 to r9 where it asks"


def test_code_of_llvm_tells_no_registers(tmp_path: Path) -> None:
    pytest.importorskip("llvmlite", reason="the extra llvm is not installed")
    path = tmp_path / "t"
    recorded(parse(EXAMPLES / "03_pingpong" / "scenario.toml"), path, engine="llvm")
    with Replay(path) as replay:
        assert {entry.registers for entry in replay.runs} == {None}
        assert replay.rest() is None

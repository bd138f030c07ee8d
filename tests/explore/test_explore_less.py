"""Findings with less data: what is cut, what stands against it, and that saved scenarios are it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pybpfvm.errors import InputError
from pybpfvm.explore import explore
from pybpfvm.explore.table import Options
from pybpfvm.scenario import Scenario, parse
from pybpfvm.scenario.less import bare, cut, data_of
from pybpfvm.scenario.schedule import Schedule, parse_schedule
from pybpfvm.scenario.write import with_schedule
from tests.support.example_hosts import EXAMPLES
from tests.support.orders import OVERLAPS, WAITS, two

BROADCAST = EXAMPLES / "14_broadcast"
TEXT = """
object = "orders.v3.bpf.o"
abi = "iouring-v3"
programs = ["second"]
ring = { cq_entries = [4] }
steps = [
    { send = "mouth", text = "hello" },
    { recv = "mouth", bytes = "010203" },
    { write = "words", u32 = [5, 6] },
    { check = { overflow = 0 } },
]
[fds.ear]
socketpair = "mouth"
[user]
words = { u32 = [1, 2, 3, 4] }
many = { parts = [{ zero = 8 }, { fill = 7, size = 8 }] }
job = { struct = "job", fields = {} }
while = { timespec_ns = 1 }
[files."a b.txt"]
text = "in the file"
[expect]
overflow = 2
cqes = { 0 = [] }
"""


def written(folder: Path) -> Path:
    path = folder / "data.toml"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_what_can_be_cut(tmp_path: Path) -> None:
    made = parse(written(tmp_path))
    whole = {"b0": 16, "b1": 16, "b3": 16, "f0": 11, "s0": 5, "s1": 3, "s2": 8}
    assert data_of(made) == whole
    for key in whole:
        assert data_of(cut(made, {key: 1})) == whole | {
            key: {"b0": 4, "b3": 8, "s2": 4}.get(key, 1)  # whole words
        }
    with pytest.raises(InputError, match="there is no b2 to cut"):
        cut(made, {"b2": 1})


def test_what_is_saved_is_what_was_cut(tmp_path: Path) -> None:
    path = written(tmp_path)
    made = parse(path)
    for schedule in (
        Schedule(cut={"b0": 5, "f0": 2, "s0": 1, "s2": 4}, bare=True),
        Schedule(cut={"b1": 9, "b3": 8, "s1": 2}),
        Schedule(without=(0,), cut={"s1": 1}),
        Schedule(bare=True),
    ):
        target = tmp_path / "saved.toml"
        target.write_text(with_schedule(path, target, schedule, "saved"), encoding="utf-8")
        saved, less = parse(target), schedule.applied(made)
        assert (saved.blocks, saved.files) == (less.blocks, less.files)
        assert [step.action for step in saved.steps] == [step.action for step in less.steps]
        assert saved.expect == less.expect


def test_text_of_a_schedule_with_less() -> None:
    schedule = Schedule(3, 1, (2, 5), {4: 1}, {"b0": 16, "s3": 1}, bare=True)
    assert str(schedule) == "seed=3,faults=1,without=2+5,bare,cut=b0:16+s3:1,4:1"
    assert parse_schedule(str(schedule)) == schedule
    for wrong in ("cut=", "cut=x1:2", "cut=b0", "cut=b0:0", "bare=1"):
        with pytest.raises(InputError, match="no part of a schedule"):
            parse_schedule(wrong)


def test_a_finding_has_the_fewest_bytes() -> None:
    made: Scenario = two(OVERLAPS)
    (found,) = explore(made, Options()).found
    assert found.schedule.cut == {"b0": 1}  # of 16
    assert found.sizes is not None
    before, after = found.sizes
    assert (before.data_bytes, after.data_bytes) == (16, 1)
    assert after.events <= before.events
    assert not found.schedule.bare


def test_what_an_expectation_needs_stays() -> None:
    made = two(WAITS, more="[expect.memory.buffer]\nu64 = [0, 0]\n")
    (found,) = explore(made, Options()).found
    assert found.shown.kind == "hang"
    assert found.schedule.bare  # a hang needs none
    assert found.schedule.cut == {"b0": 1}
    wrong = replace(two(WAITS), expect=replace(made.expect, hang=True))
    (found,) = explore(wrong, Options()).found
    assert found.shown.kind == "expectation"
    assert not found.schedule.cut
    assert not found.schedule.bare


def test_bare_keeps_how_it_stops() -> None:
    made = replace(two(WAITS), expect=replace(two(WAITS).expect, hang=True, overflow=3))
    assert (bare(made).expect.hang, bare(made).expect.overflow) == (True, 3)


def test_a_twin_with_less_shows_the_same() -> None:
    made = parse(BROADCAST / "scenario.toml")
    twin = str(BROADCAST / "twin.v3.bpf.o")
    (found,) = explore(made, Options(object_path=twin)).found
    assert found.sizes is not None
    before, after = found.sizes
    assert after.steps < before.steps
    assert after.data_bytes < before.data_bytes
    assert after.events < before.events
    less = found.schedule.applied(made)
    alone = Options(object_path=twin, shrink=False)
    (again,) = explore(less, alone).found
    assert again.shown.key == found.shown.key

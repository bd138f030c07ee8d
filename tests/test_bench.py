"""What benchmarks compare must do the same work: every side of the six programs, once."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import verification
from bench.__main__ import check_same, merged
from bench.engines import Speeds, ratios, rows, undisturbed
from bench.exploring import alone, drawn, every, finding, schedules
from bench.sides import (
    FOLDER,
    INTERP,
    KERNEL,
    NATIVE,
    PROGRAMS,
    EngineSide,
    Missing,
    Side,
    makers,
)
from bench.simulated import echoing, fly, ticking
from pybpfvm.errors import InputError
from pybpfvm.explore.table import Options
from pybpfvm.loader import load
from pybpfvm.scenario import parse
from tests.examples.test_example_objects import loadable, mentions_of_machine_paths
from tests.support.example_hosts import EXAMPLES

SIDES = dict(makers())
EXPERIMENTS = FOLDER.parent / "experiments" / "experiments.bpf.o"


@pytest.fixture(scope="module")
def oracle() -> dict[str, int]:
    """The words that the interpreter computes."""
    side = SIDES[INTERP]()
    try:
        return {program: side.run(program, 2, 7) for program in PROGRAMS}
    finally:
        side.close()


@pytest.mark.parametrize("name", [name for name in SIDES if name != INTERP])
def test_every_side_computes_the_same(name: str, oracle: dict[str, int]) -> None:
    make: Callable[[], Side] = SIDES[name]
    try:
        side = make()
    except Missing as missing:
        pytest.skip(str(missing))
    try:
        assert {program: side.run(program, 2, 7) for program in PROGRAMS} == oracle
    finally:
        side.close()


VERIFIED = sorted([*verification.COMPILED, *verification.LOOPS])


@pytest.mark.parametrize("path", VERIFIED, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_the_verifier_is_measured_on_every_object(path: Path) -> None:
    figures = verification.measured(path, kernel=False)
    assert all(one.insns and one.seconds for one in figures)
    assert len(figures) == len(load(path).programs)


def test_instructions_of_a_turn_do_not_depend_on_how_many() -> None:
    side = SIDES[INTERP]()
    assert isinstance(side, EngineSide)
    try:
        for program in PROGRAMS:
            one, two, three = (side.insns(program, turns) for turns in (1, 2, 3))
            assert two - one == three - two > 0, program
    finally:
        side.close()


def test_a_side_that_is_missing_has_no_ratio() -> None:
    speeds = Speeds(
        {INTERP: dict.fromkeys(PROGRAMS, 2.0), NATIVE: dict.fromkeys(PROGRAMS, 8.0)}, {}
    )
    by_ratio = ratios(speeds)
    assert by_ratio[f"A-E / {NATIVE}"] == {INTERP: pytest.approx(0.25), NATIVE: pytest.approx(1)}
    assert by_ratio[f"A-D / {KERNEL}"] == {}
    assert rows(speeds)[0][-1] == "-"


def test_parts_that_are_measured_again_join_the_others() -> None:
    machine: dict[str, object] = {"cpu": "C", "cpus": 2, "linux": "6", "python": "3.11"}
    kept = {"schema": "pybpfvm.bench/2", "machine": machine | {"date": "1", "load": 0.5}}
    new = {"schema": "pybpfvm.bench/2", "machine": machine | {"date": "2", "load": 0.1}}
    check_same(kept, machine)
    found = merged(kept | {"ring": {"a": [1, "x"]}}, new | {"sim": {"b": [2, "x"]}})
    assert found["machine"]["date"] == "1"
    assert (found["ring"], found["sim"]) == ({"a": [1, "x"]}, {"b": [2, "x"]})
    assert found["again"] == {"sim": {"date": "2", "load": 0.1}}
    again = merged(found, new | {"ring": {}})["again"]
    assert again == {part: {"date": "2", "load": 0.1} for part in ("sim", "ring")}
    for other in (kept | {"schema": "x"}, kept | {"machine": machine | {"cpus": 3}}):
        with pytest.raises(InputError, match="of another machine"):
            check_same(other, machine)


@pytest.mark.parametrize("kind", ["timeouts", "polls"])
def test_requests_in_flight_are_counted(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    fly(kind, 2_000)
    each, begun, ended = map(float, capsys.readouterr().out.split())
    assert each >= 0
    assert min(begun, ended) > 0


def test_a_simulation_is_timed_by_both_clocks() -> None:
    (slow, fast) = (value for _, value, _ in ticking(ticks=20))
    assert fast > 10 * slow  # the same runs, a thousand times as far apart
    assert echoing(2, messages=4)[0][1] > 0


def test_what_was_disturbed_does_not_count() -> None:
    assert undisturbed([1.0, 9.0, 2.0, 3.0]) == 9.0
    assert undisturbed([5.0]) == 5.0


@pytest.mark.parametrize(
    "path", [*sorted(FOLDER.glob("*.bpf.o")), EXPERIMENTS], ids=lambda path: path.name
)
def test_no_object_names_a_machine(path: Path) -> None:
    assert mentions_of_machine_paths(path) == []


def test_objects_are_what_their_sources_make(tmp_path: Path) -> None:
    if shutil.which("clang-19") is None:
        pytest.skip("clang-19 is not installed")
    subprocess.run([str(FOLDER.parent / "build.sh"), str(tmp_path)], check=True, timeout=120)
    for path in [*sorted(FOLDER.glob("*.bpf.o")), EXPERIMENTS]:
        fresh = (tmp_path / path.parent.name / path.name).read_bytes()
        assert loadable(fresh) == loadable(path.read_bytes()), (
            f"{path}: run bench/programs/build.sh"
        )


def test_exploring_is_measured() -> None:
    pingpong = parse(EXAMPLES / "03_pingpong/scenario.toml")
    assert schedules(pingpong, Options(events=False), 2) > 0
    assert alone(pingpong) > 0
    (_, rate, _), (_, different, _) = drawn(pingpong, 40)
    assert rate > 0
    assert 10 < different <= 40
    (_, rate, _), (_, orders, _) = every(pingpong)
    assert rate > 0
    assert orders > different
    rows = finding("14_broadcast", "buffer-in-flight", 2)
    assert len(rows) == 6
    assert all(value > 0 for _, value, _ in rows)

"""Every example does what it says: its scenario and its host, for v2 and v3, on both backends."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pybpfvm.scenario import Scenario, parse, run_scenario
from pybpfvm.scenario.model import Typed
from pybpfvm.session.hostring import BackendName
from tests.support.session_ring import SIM_AND_KERNEL, need_backend

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = sorted(path.parent for path in ROOT.glob("examples/0?_*/prog.bpf.c"))
TOPICS = [folder.name for folder in FOLDERS]
VERSIONS = ("v2", "v3")
# The hundred thousand writes take most of a minute on four combinations: all of them with
# PYBPFVM_LONG=1, otherwise v3 in the simulation; the others write two thousand.
LONG = "07_batch_writer"
ALL = bool(os.environ.get("PYBPFVM_LONG"))


def shortened(scenario: Scenario, records: int) -> Scenario:
    """The batch writer's scenario with fewer records."""
    job = scenario.blocks["job"]
    assert isinstance(job, Typed)
    generations = records // 100
    (progress,) = scenario.expect.maps
    wanted = {
        "submitted": records,
        "written": records,
        "failed": 0,
        "generations": generations,
    }
    main, others = scenario.expect.cqs[0], scenario.expect.cqs[1:]
    last = replace(main, cqes=(replace(main.cqes[0], user_data=generations, res=records),))
    return replace(
        scenario,
        blocks={**scenario.blocks, "job": replace(job, fields={**job.fields, "records": records})},
        expect=replace(
            scenario.expect,
            maps=(replace(progress, elements=((0, wanted),)),),
            cqs=(last, *others),
        ),
    )


def test_every_topic_is_there() -> None:
    assert len(TOPICS) == 9
    for folder in FOLDERS:
        assert (folder / "scenario.toml").exists()
        assert len(list(folder.glob("*_host.py"))) == 1


@pytest.mark.parametrize("backend", SIM_AND_KERNEL)
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("topic", TOPICS)
def test_scenario(topic: str, version: str, backend: BackendName) -> None:
    need_backend(backend)
    folder = ROOT / "examples" / topic
    scenario = parse(folder / "scenario.toml")
    if topic == LONG and not ALL and (version, backend) != ("v3", "sim"):
        scenario = shortened(scenario, 2000)
    outcome = run_scenario(
        scenario,
        backend=backend,
        object_path=folder / f"prog.{version}.bpf.o",
        abi=f"iouring-{version}",
    )
    assert outcome.stopped is None
    assert not outcome.findings, "\n".join(map(str, outcome.findings))
    assert outcome.ok


@pytest.mark.parametrize("backend", SIM_AND_KERNEL)
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("topic", TOPICS)
def test_host(topic: str, version: str, backend: BackendName) -> None:
    need_backend(backend)
    folder = ROOT / "examples" / topic
    (host,) = folder.glob("*_host.py")
    done = subprocess.run(
        [sys.executable, str(host), "--backend", backend, "--version", version],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == (folder / "host.out").read_text()


@pytest.mark.parametrize("topic", [topic for topic in TOPICS if topic != LONG])
def test_the_same_seed_gives_the_same_events(topic: str) -> None:
    scenario = parse(ROOT / "examples" / topic / "scenario.toml")
    accounts = []
    for _ in range(2):
        events: list[object] = []
        base: list[int] = []
        run_scenario(
            scenario,
            seed=7,
            observer=events.append,
            on_start=lambda live, base=base: base.append(live.ring.machine.memory.base),  # type: ignore[misc]
        )
        accounts.append([_relative(event, base[0]) for event in events])
    assert accounts[0] == accounts[1]
    assert accounts[0]


def _relative(event: object, base: int) -> list[object]:
    """An event's fields with addresses as offsets: address spaces lie anywhere."""

    def shift(value: object) -> object:
        if isinstance(value, tuple):
            return tuple(shift(item) for item in value)
        near = isinstance(value, int) and base <= value < base + (1 << 33)
        return ("base", value - base) if near and isinstance(value, int) else value

    slots: tuple[str, ...] = type(event).__slots__  # type: ignore[attr-defined]
    return [type(event).__name__, *(shift(getattr(event, name)) for name in slots)]

"""Ports run: a skeleton as it is, and a program that was moved by hand over io_uring_port.h."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from pybpfvm.porting.port import port
from pybpfvm.profiles import profile_named
from pybpfvm.session import LoadedObject, LoopRing, Machine, timespec
from pybpfvm.session.hostring import BackendName
from pybpfvm.session.judging import JudgeRequest, read_cases
from tests.porting.conftest import compiled
from tests.support.session_ring import SIM_AND_KERNEL, need_backend

ROOT = Path(__file__).parents[2]
SIZES = {"sq_entries": 8, "cq_entries": 16}


def host_queue(obj: LoadedObject) -> list[tuple[int, int]]:
    """What queue 0 holds for the host: (user_data, res), oldest first."""
    queues: Any = obj.globals["queues"]
    queue = queues[0]
    entries = [queue["entries"][at % 64] for at in range(queue["head"], queue["tail"])]
    return [(entry["user_data"], entry["res"]) for entry in entries]


@pytest.mark.parametrize("backend", SIM_AND_KERNEL)
def test_a_skeleton_runs(backend: BackendName, clang: str, tmp_path: Path) -> None:
    need_backend(backend)
    cases = read_cases(ROOT / "examples/01_hello/prog.v2.bpf.o", JudgeRequest())
    (case,) = cases.cases
    made = port(case.program, cases.obj, case.profiles, profile_named("loop-7.1")).skeleton
    source = tmp_path / "hello.loop.bpf.c"
    source.write_text(made.text)
    with Machine() as machine:
        obj = machine.load(compiled(clang, source, tmp_path), abi="loop-7.1", constants=SIZES)
        with LoopRing(8, cq_entries=16, abi="loop-7.1", backend=backend, machine=machine) as ring:
            ring.register_mem(struct.pack("<Q", 77) + bytes(64))
            with ring.attach(obj):
                assert ring.enter() == 0
            # What it emits to its own queue it takes out; that for the host is the last but one.
            assert host_queue(obj)[-1] == (77, 0)
            assert len(host_queue(obj)) == 2


@pytest.mark.parametrize("backend", SIM_AND_KERNEL)
def test_a_program_that_was_moved(backend: BackendName, clang: str, tmp_path: Path) -> None:
    need_backend(backend)
    with Machine() as machine:
        source = Path(__file__).with_name("ticker.bpf.c")
        obj = machine.load(compiled(clang, source, tmp_path), abi="loop-7.2", constants=SIZES)
        with LoopRing(8, cq_entries=16, backend=backend, machine=machine) as ring:
            period = machine.user.alloc(timespec(2_000_000))
            shared = ring.register_mem(struct.pack("<QQII", 99, period.addr, 5, 0))
            with ring.attach(obj):
                assert ring.enter() == 0
            assert struct.unpack_from("<I", shared.read(), 20) == (5,)
            assert obj.globals["lost"] == 0
            nops = [(0x10 + tick, 0) for tick in range(5)]
            ticks = [(tick, 0) for tick in range(1, 6)]
            found = host_queue(obj)
            assert found[-1] == (99, 0)
            assert sorted(found[:-1]) == sorted(nops + ticks)
            assert ring.core.now_ns() >= 10_000_000

"""A soak of a few jobs, and that each of its checks can fail."""

from __future__ import annotations

import errno
import gc
import os
import signal
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from pybpfvm import interrupts, session
from pybpfvm.events import CqePosted, RequestEnded, SqeIssued
from pybpfvm.memory import RegionKind
from pybpfvm.session import LoadedProgram, Machine, Ring
from pybpfvm.session.hostring import BackendName
from pybpfvm.uring_backend.cq import CompletionQueues
from pybpfvm.uring_backend.kernel.backend import KernelBackend
from pybpfvm.uring_backend.kernel.world import KernelWorld
from pybpfvm.uring_backend.submitter import Submitter
from pybpfvm.verifier.verdict import Verdict
from tests.soak import campaign
from tests.soak.campaign import Soak
from tests.soak.jobs import SCENARIOS, SERVERS, Job, Rogue, each_once, jobs_of
from tests.soak.ledger import Ledger
from tests.soak.process import (
    GROWTH_BYTES,
    GROWTH_OBJECTS,
    LEAST_ROUNDS,
    Memory,
    Process,
    settled,
)
from tests.soak.rings import Watch, watching
from tests.support.example_hosts import EXAMPLES
from tests.support.session_ring import SIM_AND_KERNEL, need_backend

HELLO = Job("scenario", "01_hello", "sim")
KERNELS: tuple[BackendName, ...] = ("kernel", "liburing")


@pytest.fixture(autouse=True)
def own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


# --- a soak -----------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", SIM_AND_KERNEL)
def test_a_round(backend: BackendName) -> None:
    need_backend(backend)
    bad = backend == "sim"
    jobs = [
        Job("scenario", "17_retry", backend, bad=bad, seed=3),
        Job("scenario", "04_write_file", backend, observed=False, bad=bad, seed=4),
        Job("scenario", "loop_copy", backend, version="", seed=5),
        Job("host", "03_pingpong", backend, observed=False),
        Job("server", "21_echo", backend, clients=30, bad=bad, seed=6),
        Job("server", "23_proxy", backend, clients=12, observed=False, seed=7),
    ]
    jobs = [replace(job, judged=False) for job in jobs]
    soak = Soak()
    soak.begin(jobs)
    assert soak.round(jobs) == []
    assert soak.wrong == []
    assert soak.jobs == {backend: 12}
    assert soak.rings == {backend: 12}
    assert soak.cqes[backend] >= soak.requests[backend] > 50
    assert bool(soak.faults) == bad
    assert bool(soak.looped) == (backend == "kernel")


def test_rounds_are_made_of_their_seed() -> None:
    assert jobs_of(5, KERNELS) == jobs_of(5, KERNELS) != jobs_of(6, KERNELS)
    seen = [job for seed in range(30) for job in jobs_of(seed, KERNELS)]
    assert {job.topic for job in seen if job.kind == "scenario"} == set(SCENARIOS)
    assert {(job.topic, job.backend) for job in seen if job.kind == "server"} == {
        (topic, name) for topic in SERVERS for name in ("sim", *KERNELS)
    }
    assert all(job.backend == "sim" and job.observed for job in seen if job.bad)
    assert all(job.backend == "sim" for job in jobs_of(5, ()) + each_once(()))


def test_rude_clients_are_there() -> None:
    seen = []
    turn = Rogue.turn

    def turning(rogue: Rogue) -> bool:
        seen.append(rogue.manner)
        return turn(rogue)

    with patch.object(Rogue, "turn", turning):
        assert Job("server", "21_echo", "sim", judged=False, clients=60, seed=0).run().wrong == []
    assert set(seen) == set(Rogue.MANNERS)


def test_programs_are_verified_when_they_are_new() -> None:
    verdicts = []
    verdict = LoadedProgram.verdict

    def judging(program: LoadedProgram, **options: Any) -> Verdict:
        verdicts.append(program.name)
        return verdict(program, **options)

    with (
        patch.object(LoadedProgram, "verdict", judging),
        patch("tests.soak.rings._accepted", set()),
    ):
        for judged in (False, False, True):
            assert replace(HELLO, judged=judged).run().wrong == []
    assert verdicts == ["hello", "hello"]


# --- what was wrong with a job ------------------------------------------------------------------


def test_an_expectation_that_fails_is_found() -> None:
    with patch("tests.soak.jobs.EXAMPLES", Path("nowhere")):
        soak = Soak()
        soak.begin([HELLO])
    assert len(soak.wrong) == 1
    assert "before the first round: scenario 01_hello sim v3 auto observed seed 0" in soak.wrong[0]


def test_a_wrong_answer_is_found() -> None:
    with patch("tests.soak.jobs._heard", lambda *_: b"something else"):
        wrong = Job("server", "21_echo", "sim", judged=False, clients=5).run().wrong
    assert len(wrong) == 4  # the fifth is rude, and heard nothing
    assert "heard b'hello, I am 0' of b'something else'" in wrong[0]


def test_a_lost_completion_is_found() -> None:
    post = CompletionQueues.post

    def losing(queues: CompletionQueues, cq: int, user_data: int, res: int, *rest: object,
               **named: object) -> bool:  # fmt: skip
        if named.get("request") is not None:
            return True
        return post(queues, cq, user_data, res, *rest, **named)  # type: ignore[arg-type]

    with patch.object(CompletionQueues, "post", losing):
        wrong = HELLO.run().wrong
    assert "1 requests ended without their last CQE" in wrong


def test_a_completion_that_comes_twice_is_found() -> None:
    post = Submitter._post

    def twice(self: Submitter, *args: object) -> None:
        post(self, *args)  # type: ignore[arg-type]
        post(self, *args)  # type: ignore[arg-type]

    with patch.object(Submitter, "_post", twice):
        wrong = HELLO.run().wrong
    assert "a CQE of request 1 too much: res 0" in wrong


def test_a_cqe_that_leaves_unseen_is_found() -> None:
    with patch.object(CompletionQueues, "reap", lambda queues, cq, by: queues.queues[cq].pop()):
        wrong = HELLO.run().wrong
    assert any("CQEs came, 0 went" in text for text in wrong)


def closed_early(backend: BackendName, *, observed: bool = True) -> Watch:
    """A server's ring that is closed while it accepts; what its watch saw."""
    watch = Watch(observed)
    with watching(watch), Machine() as machine:
        obj = machine.load(EXAMPLES / "21_echo/prog.v3.bpf.o", abi="iouring-v3")
        with session.Ring(8, [64], backend=backend, abi=obj.profile, machine=machine) as ring:
            ring.register_bpf([obj["echo"]])
            listener = ring.world.listen()
            job = struct.pack("<QiIQ", ring.user.alloc(1 << 20).addr, listener, 4, 4)
            ring.get_sqe().prep_bpf(0, user_data=ring.user.alloc(job).addr)
            ring.submit()
            ring.run_until_idle(1_000_000)
    return watch


@pytest.mark.parametrize("observed", [True, False])
@pytest.mark.parametrize("backend", SIM_AND_KERNEL)
def test_requests_that_closing_ends(backend: BackendName, observed: bool) -> None:
    need_backend(backend)
    watch = closed_early(backend, observed=observed)
    assert watch.wrong == []
    assert watch.cut == 2, "the program's own, and its ACCEPT"
    assert watch.looped == (backend == "kernel" and not observed)


def test_requests_that_closing_forgets_are_found() -> None:
    with patch.object(Submitter, "end_everything", lambda _: None):
        wrong = closed_early("sim").wrong
    assert wrong == [
        "a closed ring still knows 2 requests",
        "1 requests never ended: 2 (opcode 13)",
    ]


@pytest.mark.kernel_ring
@pytest.mark.parametrize("observed", [True, False])
def test_requests_that_a_real_ring_still_has_are_found(observed: bool) -> None:
    need_backend("kernel")
    with patch.object(KernelBackend, "_cancel_everything", lambda _: None):
        wrong = closed_early("kernel", observed=observed).wrong
    assert "1 requests are in flight in a ring that is given back" in wrong


@pytest.mark.kernel_ring
def test_a_descriptor_that_a_closed_ring_leaves_is_found() -> None:
    need_backend("kernel")
    worlds: list[KernelWorld] = []
    close_all = KernelWorld.close_all
    with patch.object(KernelWorld, "close_all", lambda world: worlds.append(world)):
        wrong = closed_early("kernel").wrong
    for world in worlds:
        close_all(world)
    assert len(wrong) == 1
    assert wrong[0].startswith("descriptors {")


def test_regions_that_a_closed_ring_leaves_are_found() -> None:
    close = Ring.close

    def leaving(ring: Ring) -> None:
        if not ring.machine.memory.closed:
            ring.machine.memory.alloc(8, RegionKind.RING, "left")
        close(ring)

    with patch.object(Ring, "close", leaving):
        assert "1 regions of a closed ring are left" in HELLO.run().wrong


def test_what_a_ledger_finds() -> None:
    def issued(request: int) -> SqeIssued:
        return SqeIssued(0, request, 0, 7, 0, 0, "user")

    def ended(request: int, res: int = 0, *, quiet: bool = False) -> RequestEnded:
        return RequestEnded(0, request, res, 0, quiet)

    def posted(
        request: int | None, fate: str = "posted", res: int = 0, flags: int = 0
    ) -> CqePosted:
        return CqePosted(0, 0, 7, res, flags, fate, "user", request)

    def found(*events: SqeIssued | RequestEnded | CqePosted) -> list[str]:
        ledger = Ledger()
        for event in events:
            ledger(event)
        return ledger.closing()

    more = 1 << 1
    assert found(issued(1), ended(1), posted(1), posted(None)) == []
    assert found(issued(1), ended(1, quiet=True)) == []
    assert found(issued(1), posted(1, flags=more), ended(1), posted(1)) == []
    assert found(issued(1), ended(1), posted(1, "backlog"), posted(1)) == []
    assert found(issued(1), ended(1), posted(1, "dropped")) == []
    assert found(issued(1)) == ["1 requests never ended: 1 (opcode 0)"]
    assert found(issued(1), ended(1)) == ["1 requests ended without their last CQE"]
    assert found(issued(1), issued(1), ended(1), posted(1)) == ["request 1 was submitted twice"]
    assert found(ended(2), posted(2)) == ["request 2 ended, which was not under way"]
    assert found(issued(1), ended(1), posted(1), posted(1)) == [
        "a CQE of request 1 too much: res 0"
    ]
    assert found(issued(1), ended(1), posted(1, res=-errno.EIO))[0].endswith("too much: res -5")


# --- what was wrong with the process -------------------------------------------------------------


def left(before: Process) -> str:
    return "; ".join(settled(before, 0.1))


@pytest.fixture
def before() -> Iterator[Process]:
    gc.collect()
    process = Process.now()
    yield process
    assert settled(process) == []


def test_descriptors_are_counted(before: Process) -> None:
    ends = os.pipe()
    assert "fds: pipe:[N] " in left(before)
    for end in ends:
        os.close(end)


def test_threads_are_counted(before: Process) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    assert "threads: python " in left(before)
    stop.set()
    thread.join()


def test_handlers_are_compared(before: Process) -> None:
    old = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    assert "handlers: SIGUSR2" in left(before)
    signal.signal(signal.SIGUSR2, old)
    interrupts._waiting.begin()
    found = left(before)
    interrupts._waiting.end()
    assert "handlers: SIGINT" in found
    assert "handlers: within a call (False, False) -> (True, False)" in found
    assert "handlers: handlers that wait" in found


def test_machines_are_counted(before: Process) -> None:
    machine = Machine()
    assert "machines: " in left(before)
    machine.memory.alloc(8, RegionKind.MAP_VALUE, "constants", writable=False)
    assert "read_only_twins: " in left(before)
    machine.close()


def test_children_are_counted(before: Process) -> None:
    with subprocess.Popen(["sleep", "10"]) as child:
        assert "children: " in left(before)
        child.kill()


def test_temporary_files_are_counted(before: Process, tmp_path: Path) -> None:
    (tmp_path / "pybpfvm-left").touch()
    assert "temporary: () -> ('pybpfvm-left',)" in left(before)
    (tmp_path / "pybpfvm-left").unlink()


def test_what_is_made_once_may_be_made_before(before: Process) -> None:
    end = os.open("/dev/null", os.O_RDONLY)
    assert settled(before, 0.0, warm=False) == []
    with Machine():
        assert "machines: " in settled(before, 0.0, warm=False)[0]
    os.close(end)


def test_what_goes_away_by_and_by_is_waited_for(before: Process) -> None:
    thread = threading.Thread(target=time.sleep, args=(0.2,))
    thread.start()
    assert settled(before) == []
    thread.join()


def test_growth_is_seen_behind_the_warm_up() -> None:
    def wrong(bytes_each: int, objects_each: int, jump: int = 0) -> list[str]:
        rounds = range(4 * LEAST_ROUNDS)
        memory = Memory(
            [jump * (n > LEAST_ROUNDS // 2) + n * bytes_each for n in rounds],
            [n * objects_each for n in rounds],
        )
        return memory.wrong()

    assert wrong(0, 0, jump=1 << 30) == []
    assert "more resident bytes after" in wrong(GROWTH_BYTES // LEAST_ROUNDS, 0)[0]
    assert "more objects after" in wrong(0, 1 + GROWTH_OBJECTS // LEAST_ROUNDS)[0]
    assert wrong(1 << 10, 1) == []
    assert Memory([0, 1 << 40], [0, 1 << 30]).wrong() == []


def test_memory_is_sampled_without_what_caches_hold() -> None:
    memory = Memory()
    memory.sample()
    kept = [[n] for n in range(1000)]
    memory.sample()
    assert memory.objects[1] - memory.objects[0] >= len(kept)
    assert memory.rss[0] > 1 << 20


def test_a_leak_is_found_by_its_round_and_growth_at_the_end() -> None:
    soak = Soak()
    soak.begin([HELLO])
    end = os.open("/dev/null", os.O_RDONLY)
    with patch("tests.soak.campaign.settled", lambda process, **how: settled(process, 0.0, **how)):
        found = soak.round([HELLO])
    os.close(end)
    assert len(found) == 1
    assert found[0].startswith("fds: /dev/null ")
    assert soak.wrong == found
    soak.memory.rss = [n << 20 for n in range(4 * LEAST_ROUNDS)]
    soak.memory.objects = [0] * (4 * LEAST_ROUNDS)
    assert "more resident bytes" in soak.end()[0]


@pytest.mark.parametrize("leaks", [False, True])
def test_what_a_soak_prints_and_keeps(
    leaks: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYBPFVM_SOAK_SECONDS", "0")
    monkeypatch.setenv("PYBPFVM_SOAK_SEED", "77")
    monkeypatch.setattr(campaign, "each_once", lambda _: [HELLO])
    monkeypatch.setattr(campaign, "settled", lambda process, **how: settled(process, 0.0, **how))
    monkeypatch.setattr(campaign, "keep", lambda *_: pytest.fail("it was no hour"))
    ends: list[int] = []

    def jobs(seed: int, _: object) -> list[Job]:
        assert seed == 77
        if leaks:
            ends.append(os.open("/dev/null", os.O_RDONLY))
        return [HELLO]

    monkeypatch.setattr(campaign, "jobs_of", jobs)
    assert campaign.main() == int(leaks)
    for end in ends:
        os.close(end)
    lines = capsys.readouterr().out.splitlines()
    again = "repeat: PYBPFVM_SOAK_SEED=77 PYBPFVM_SOAK_SECONDS=0 make soak"
    assert (again in lines) == leaks
    assert f"1 rounds: {int(leaks)} findings" in lines[-6]
    assert lines[-5] == "rings opened and closed: 2 sim"

    kept: list[object] = []
    monkeypatch.setattr(campaign, "keep", lambda *what: kept.append(what))
    monkeypatch.setattr(campaign, "KEPT_SECONDS", 0)
    assert campaign.main() == int(leaks)
    for end in ends[1:]:
        os.close(end)
    assert len(kept) == 1

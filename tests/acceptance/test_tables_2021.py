"""The acceptance tables of abi/iouring-bpf-2021, sections 4.1 to 4.5, number by number.

Every program runs in each of the profiles' numberings, on both backends, and from objects in
every form a compiler of the time (or of today) gives them.
"""

from __future__ import annotations

import os
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

from pybpfvm.events import CqePosted, CqeReaped, RunStarted
from pybpfvm.session import timespec
from pybpfvm.session.hostring import BackendName
from tests.support.session_ring import SIM_AND_KERNEL, Desk, desk

HERE = Path(__file__).parent
PROGRAMS = ("test", "counting", "pingpong", "write_file")
# object -> its ABI: first each numbering once, then the other forms of the same source
NUMBERINGS = {
    "tables.v2": "iouring-v2",
    "tables.v2-futex": "iouring-v2-futex",
    "tables.v3base": "iouring-v3base",
    "tables.v3": "iouring-v3",
}
FORMS = {
    f"tables.{version}.{form}": f"iouring-{version}"
    for version in ("v2", "v3")
    for form in ("core", "legacy", "legacy-nodebug", "named", "cpu-v1")
}
BACKENDS = SIM_AND_KERNEL


@dataclass(frozen=True)
class Case:
    name: str
    backend: BackendName

    def desk(self) -> AbstractContextManager[Desk]:
        return desk(HERE / f"{self.name}.bpf.o", (NUMBERINGS | FORMS)[self.name], self.backend)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> BackendName:
    name: BackendName = request.param
    return name


@pytest.fixture(params=NUMBERINGS)
def table(request: pytest.FixtureRequest, backend: BackendName) -> Iterator[Desk]:
    """An object with its four programs registered in the driver's order."""
    with Case(request.param, backend).desk() as found:
        found.register(*PROGRAMS)
        yield found


def runs(found: Desk) -> Counter[int]:
    """Runs by slot."""
    return Counter(event.slot for event in found.events if isinstance(event, RunStarted))


def posted(found: Desk, cq: int) -> list[tuple[int, int]]:
    return [
        (event.user_data, event.res)
        for event in found.events
        if isinstance(event, CqePosted) and event.cq == cq
    ]


def reaped(found: Desk, cq: int) -> list[int]:
    return [
        event.user_data
        for event in found.events
        if isinstance(event, CqeReaped) and event.cq == cq and event.by != "user"
    ]


def check_test1(found: Desk) -> None:
    secret = found.ring.user.alloc(struct.pack("<I", 29), "secret")
    assert found.submit_bpf(0, secret.addr) == 1
    assert found.cqes(3) == [(3, 13), (2, 0), (secret.addr, 0)]
    # arr[3] is 20 plus what the submit helper said: 1
    assert found.array("arr") == [11, 4, 5, 21, secret.addr, 29, 0, 0, 0, 0]
    assert found.array("arr", 10, 12) == [1, 0]
    assert secret.u32() == 31
    assert runs(found) == {0: 2}
    assert [found.left(cq) for cq in range(3)] == [[], [], []]


def check_test2(found: Desk) -> None:
    duration = found.ring.user.alloc(timespec(200_000_000), "timespec")
    start = found.ring.backend.now_ns()
    assert found.submit_bpf(1, duration.addr) == 1
    assert found.cqes(1) == [(duration.addr, 0)]
    elapsed = found.ring.backend.now_ns() - start
    assert found.array("arr") == [11, 5, 0, 0, 0, 0, 0, 0, 0, 0]
    assert runs(found) == {1: 12}
    assert posted(found, 1) == [(5, -62)] * 11
    assert reaped(found, 1) == [5] * 10
    assert 2_200_000_000 <= elapsed < 4_000_000_000
    assert [found.left(cq) for cq in range(3)] == [[], [(5, -62)], []]


def check_test3(found: Desk) -> None:
    ring = found.ring
    sides = [ring.user.alloc(struct.pack("<I", side), f"u{side}") for side in (0, 1)]
    for side in sides:
        ring.get_sqe().prep_bpf(2, user_data=side.addr)
    ring.get_sqe().prep_nop(user_data=0, cq_idx=1)
    assert ring.submit() == 3
    assert found.cqes(2) == [(side.addr, 0) for side in sides]  # A completes before B
    assert found.array("arr") == [1, 1, 0, 0, 0, 20, 21, 0, 0, 0]
    by_side = Counter(e.user_data for e in found.events if isinstance(e, RunStarted))
    assert by_side == {side.addr: 12 for side in sides}
    assert posted(found, 1) == [(number, 0) for number in range(0, 23, 2)]
    assert posted(found, 2) == [(number, 0) for number in range(1, 22, 2)]
    assert reaped(found, 1) == list(range(0, 21, 2))
    assert reaped(found, 2) == list(range(1, 22, 2))
    assert [found.left(cq) for cq in range(3)] == [[], [(22, 0)], []]
    first_run = next(i for i, e in enumerate(found.events) if isinstance(e, RunStarted))
    served = next(i for i, e in enumerate(found.events) if isinstance(e, CqePosted))
    assert served < first_run  # the no-op's CQE is there before either program runs


def check_test4(found: Desk) -> None:
    ring = found.ring
    ring.world.add_file("out", b"")
    ring.register_files([ring.world.open("out", os.O_RDWR)])
    buffer = ring.user.alloc(b"\xae" * 262_144, "buffer")
    assert found.submit_bpf(3, buffer.addr) == 1
    assert found.cqes(1) == [(buffer.addr, 0)]
    assert found.array("arr") == [0, 16, 0, 0, 0, 0, 0, 0, 0, 0]
    assert runs(found) == {3: 5}
    assert posted(found, 1) == [(0, 16384)] * 16
    assert len(reaped(found, 1)) == 16
    assert ring.world.file_data("out") == b"\xae" * 262_144
    assert [found.left(cq) for cq in range(3)] == [[], [], []]


def test_4_1_test(table: Desk) -> None:
    check_test1(table)


def test_4_2_counting(table: Desk) -> None:
    check_test2(table)


def test_4_3_pingpong(table: Desk) -> None:
    check_test3(table)


def test_4_4_write_file(table: Desk) -> None:
    check_test4(table)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("check", [check_test1, check_test2, check_test3, check_test4])
def test_every_form_of_an_object_behaves_alike(name: str, check: object) -> None:
    assert callable(check)
    with Case(name, "sim").desk() as found:
        found.register(*PROGRAMS)
        check(found)


@pytest.mark.parametrize(
    ("name", "section"),
    [
        ("tables.v2", "iouring.s/"),
        ("tables.v2.named", "iouring.s/counting"),
        ("tables.v3", "iouring"),
        ("tables.v3.named", "iouring/counting"),
    ],
)
def test_sections_are_the_ones_meant(name: str, section: str) -> None:
    with Case(name, "sim").desk() as found:
        assert [program.name for program in found.obj.object.programs] == list(PROGRAMS)
        assert found.obj.object.program("counting").section == section


@pytest.mark.parametrize(
    ("version", "answer", "queue", "programs"),
    [("v1", -22, [(13, 0)], 3), ("v2", 0, [(60, -22), (13, 0)], 3)],
)
def test_4_5_a_bad_opcode(
    version: str, answer: int, queue: list[tuple[int, int]], programs: int, backend: BackendName
) -> None:
    path = HERE / f"submit_bad.{version}.bpf.o"
    extra = (128,) if version == "v2" else ()
    with desk(path, f"iouring-{version}", backend, cq_entries=extra) as found:
        found.register(*["submit_bad"] * programs)
        assert found.submit_bpf(1, 13) == 1
        assert found.cqes(len(queue)) == queue
        assert found.left() == []
        stored = found.array("arr")
        assert stored == [answer & 0xFFFF_FFFF_FFFF_FFFF, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        assert runs(found) == {1: 1}

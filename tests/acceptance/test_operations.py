"""Requests that programs perform, IORING_OP_BPF: abi/iouring-bpf-upstream, section 8."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from pybpfvm.errors import InputError, RingError, RingHang, UnsupportedError
from pybpfvm.filters.asm import assemble
from pybpfvm.filters.table import FILTER_DENY_REST, Registration
from pybpfvm.session import Block, LoadedObject, LoopRing, Machine
from pybpfvm.session.hostring import BackendName
from pybpfvm.session.sqe import SqeBuilder
from pybpfvm.uring_backend import abi
from tests.support.session_ring import SIM_AND_KERNEL, need_backend

FOLDER = Path(__file__).resolve().parents[1] / "data" / "dialects"
VERSIONS = {"op-bpf-v1": 81, "op-bpf-v2": 82, "op-bpf-v3": 83}
PER_RING = ("op-bpf-v2", "op-bpf-v3")
BYTES = 17919
both_backends = pytest.mark.parametrize("backend", SIM_AND_KERNEL)
every_version = pytest.mark.parametrize("version", VERSIONS)


@contextmanager
def desk(
    version: str,
    backend: BackendName = "sim",
    flags: int | None = None,
    engine: str = "auto",
    cq_entries: int = 0,
) -> Iterator[tuple[LoopRing, LoadedObject]]:
    need_backend(backend)
    with Machine() as machine:
        obj = machine.load(FOLDER / f"op.{VERSIONS[version]}.bpf.o", abi=version)
        with LoopRing(
            8,
            flags=flags,
            backend=backend,
            engine=engine,
            abi=version,
            machine=machine,
            cq_entries=cq_entries,
        ) as ring:
            yield ring, obj


def refused(number: int) -> pytest.RaisesExc[RingError]:
    return pytest.RaisesExc(RingError, check=lambda error: error.errno == number)


def ask(ring: LoopRing, number: int = 7, opf: int = 0, tag: int = 0, flags: int = 0) -> SqeBuilder:
    """A request for a program; `tag` is its user_data, and what `told` keeps of it."""
    return ring.get_sqe().prep_operation(number, opf, user_data=tag, addr=tag, flags=flags)


def results(ring: LoopRing) -> list[tuple[int, int]]:
    """(user_data, res) of what there is when everything has come."""
    ring.run_until_idle()
    ring.enter(flags=abi.ENTER_GETEVENTS)
    return [(cqe.user_data, cqe.res) for cqe in ring.reap()]


def counts(obj: LoadedObject) -> tuple[object, ...]:
    return tuple(obj.globals[name] for name in ("preps", "issues", "cleanups"))


# --- 8.4, 8.1 -----------------------------------------------------------------------------------


@both_backends
@every_version
@pytest.mark.parametrize("engine", ["interp", "auto"])
def test_two_operations(backend: BackendName, version: str, engine: str) -> None:
    """8.4, `basic_bpf_ops`: each request ends with 42, and every callback ran once for each."""
    with desk(version, backend, engine=engine) as (ring, obj):
        with ring.attach(obj, "basic0"), ring.attach(obj, "basic1"):
            ask(ring, 0, tag=10)
            assert ring.submit() == 1
            assert results(ring) == [(10, 42)]
            assert counts(obj) == ([1, 0], [1, 0], [1, 0])
            ask(ring, 1, tag=11)
            ask(ring, 0, tag=12)
            assert ring.submit() == 2
            assert results(ring) == [(11, 42), (12, 42)]
            assert counts(obj) == ([2, 1], [2, 1], [2, 1])
        assert not ring.machine.rings.requests


@both_backends
def test_one_of_four_is_refused(backend: BackendName) -> None:
    """8.4, `simple`: ids 0 to 3 end well, badly, well and well."""
    flags = flags_of("op-bpf-v2") | abi.SETUP_SUBMIT_ALL
    with desk("op-bpf-v2", backend, flags) as (ring, obj):
        for name in ("basic0", "told", "basic1", "copies"):
            ring.attach(obj, name)
        obj.globals["prep_answer"] = -errno.EINVAL
        for number in (0, 7, 1, 3):
            ask(ring, number, tag=number)
        assert ring.submit() == 4
        assert results(ring) == [(0, 42), (7, -errno.EINVAL), (1, 42), (3, 0)]


@both_backends
@every_version
def test_which_programs_there_are(backend: BackendName, version: str) -> None:
    """No program, and an id that there can not be."""
    with desk(version, backend, abi.SETUP_SUBMIT_ALL | flags_of(version)) as (ring, obj):
        with ring.attach(obj, "told"):
            for number in (7, 8, 16, 255):
                ask(ring, number, tag=number)
            assert ring.submit() == 4
        beyond = -errno.EOPNOTSUPP if version == "op-bpf-v1" else -errno.EINVAL
        assert results(ring) == [(7, 0), (8, -errno.EOPNOTSUPP), (16, beyond), (255, beyond)]


def flags_of(version: str) -> int:
    return {"op-bpf-v1": 0, "op-bpf-v2": 1 << 20, "op-bpf-v3": 1 << 21}[version]


@pytest.mark.parametrize("version", PER_RING)
def test_a_ring_that_was_made_without(version: str) -> None:
    with desk(version, flags=0) as (ring, obj):
        with refused(errno.EOPNOTSUPP):
            ring.attach(obj, "told")
        ask(ring)
        ring.submit()
        assert results(ring) == [(0, -errno.EOPNOTSUPP)]


@every_version
def test_registering(version: str) -> None:
    with desk(version) as (ring, obj):
        link = ring.attach(obj, "told")
        with refused(errno.EBUSY):
            ring.attach(obj, "again")
        with refused(errno.EINVAL):
            ring.attach(obj, "idle")  # it performs nothing
        if version in PER_RING:
            with refused(errno.EINVAL):
                ring.attach(obj, "beyond")
            with refused(errno.EBADF):
                ring.attach(obj, "told", ring_fd=999)
        link.destroy()
        ring.attach(obj, "again")
        ask(ring)
        ring.submit()
        assert results(ring) == [(0, 0)]
        assert obj.globals["turns"] == 0


@both_backends
@every_version
def test_what_prep_sees_and_keeps(backend: BackendName, version: str) -> None:
    with desk(version, backend) as (ring, obj), ring.attach(obj, "told"):
        ask(ring, opf=0xABCDEF, tag=5)
        ring.submit()
        assert results(ring) == [(5, 0)]
        seen = (obj.globals["seen_opf"], obj.globals["seen_opcode"], obj.globals["seen_user_data"])
        assert seen == (0xABCDEF, 65, 5)
        assert (obj.globals["order"], obj.globals["ends"], obj.globals["fails"]) == (5, 1, 0)


@both_backends
@every_version
def test_prep_refuses(backend: BackendName, version: str) -> None:
    """Its error is the result, the batch ends, and nothing else is called."""
    with desk(version, backend) as (ring, obj), ring.attach(obj, "told"):
        obj.globals["prep_answer"] = -errno.EPERM
        ask(ring, tag=1)
        ring.get_sqe().prep_nop(user_data=2)
        assert ring.submit() == 1
        assert results(ring) == [(1, -errno.EPERM)]
        assert (obj.globals["turns"], obj.globals["ends"], obj.globals["fails"]) == (0, 0, 0)
        assert ring.enter(1) == 1
        assert results(ring) == [(2, 0)]


def test_nothing_behind_the_end_of_a_batch_is_looked_at() -> None:
    with desk("op-bpf-v2") as (ring, obj), ring.attach(obj, "basic0"):
        ring.get_sqe().set(opcode=250)
        ask(ring, 0)
        assert ring.submit() == 1
        assert obj.globals["preps"] == [0, 0]


@both_backends
def test_a_batch_of_both_kinds(backend: BackendName) -> None:
    with desk("op-bpf-v2", backend) as (ring, obj), ring.attach(obj, "basic0"):
        for tag in (1, 3, 5):
            ring.get_sqe().prep_nop(user_data=tag)
            ask(ring, 0, tag=tag + 1)
        assert ring.submit() == 6
        assert results(ring) == [(1, 0), (2, 42), (3, 0), (4, 42), (5, 0), (6, 42)]


@pytest.mark.parametrize(
    ("answer", "res", "fails"),
    [(0, 9, 0), (-errno.EIO, -errno.EIO, 1), (-529, -errno.EINVAL, 1)],
)
def test_what_issue_answers(answer: int, res: int, fails: int) -> None:
    with desk("op-bpf-v3") as (ring, obj), ring.attach(obj, "told"):
        obj.globals["issue_answer"] = answer
        obj.globals["sets_result"], obj.globals["result"] = 1, 9
        ask(ring, tag=1)
        ring.submit()
        assert results(ring) == [(1, res)]
        assert (obj.globals["fails"], obj.globals["ends"]) == (fails, 1)


@pytest.mark.parametrize("name", ["issue_answer", "prep_answer"])
def test_answers_that_were_never_written_down(name: str) -> None:
    with desk("op-bpf-v2") as (ring, obj), ring.attach(obj, "told"):
        obj.globals[name] = 3
        ask(ring)
        with pytest.raises(UnsupportedError, match="the answer 3"):
            ring.submit()


@both_backends
def test_a_negative_result_breaks_a_chain_for_good(backend: BackendName) -> None:
    with desk("op-bpf-v3", backend) as (ring, obj), ring.attach(obj, "told"):
        obj.globals["sets_result"], obj.globals["result"] = 2, -errno.EIO  # then it says 5
        ask(ring, tag=1, flags=abi.SQE_IO_LINK)
        ask(ring, tag=2, flags=abi.SQE_IO_LINK)
        ring.get_sqe().prep_nop(user_data=3)
        ring.submit()
        cancelled = -errno.ECANCELED
        assert results(ring) == [(1, 5), (2, cancelled), (3, cancelled)]
        # The second one was prepared, and had no turn.
        assert (obj.globals["turns"], obj.globals["fails"], obj.globals["ends"]) == (1, 1, 2)
        assert not ring.machine.rings.requests


@both_backends
def test_order(backend: BackendName) -> None:
    """Chains and drains hold for these requests as for others."""
    with desk("op-bpf-v2", backend) as (ring, obj), ring.attach(obj, "told"):
        ask(ring, tag=1, flags=abi.SQE_IO_LINK)
        ring.get_sqe().prep_nop(user_data=2, flags=abi.SQE_IO_LINK)
        ask(ring, tag=3)
        ask(ring, tag=4, flags=abi.SQE_IO_DRAIN)
        ring.submit()
        found = results(ring)
        assert [tag for tag, _ in found] == [1, 2, 3, 4]
        assert obj.globals["order"] == 134


@both_backends
def test_chains_move_on_while_the_host_does_something_else(backend: BackendName) -> None:
    with desk("op-bpf-v3", backend) as (ring, obj), ring.attach(obj, "told"):
        for tag in (1, 2, 3):
            ask(ring, tag=tag, flags=abi.SQE_IO_LINK)
            at = ring.user.alloc((0).to_bytes(8, "little") + (1_000_000).to_bytes(8, "little"))
            ring.get_sqe().prep_timeout(at.addr, user_data=10 + tag, flags=abi.SQE_IO_HARDLINK)
        ask(ring, tag=4)
        ring.submit()
        assert ring.run_until_idle()
        assert obj.globals["order"] == 1234
        tags = [cqe.user_data for cqe in ring.reap()]
        assert tags == [1, 11, 2, 12, 3, 13, 4]


@both_backends
def test_success_without_a_cqe(backend: BackendName) -> None:
    with desk("op-bpf-v3", backend) as (ring, obj), ring.attach(obj, "told"):
        ask(ring, tag=1, flags=abi.SQE_CQE_SKIP_SUCCESS)
        ring.submit()
        assert results(ring) == []
        obj.globals["sets_result"], obj.globals["result"] = 1, -errno.EIO
        ask(ring, tag=2, flags=abi.SQE_CQE_SKIP_SUCCESS)
        ring.submit()
        assert results(ring) == [(2, -errno.EIO)]
        assert obj.globals["ends"] == 2


def test_fields_that_are_refused_before_the_program_looks() -> None:
    with desk("op-bpf-v2") as (ring, obj), ring.attach(obj, "basic0"):
        for fields, res in (
            ({"ioprio": 1}, -errno.EINVAL),
            ({"personality": 1}, -errno.EINVAL),
            ({"flags": abi.SQE_BUFFER_SELECT}, -errno.EOPNOTSUPP),
            ({"flags": 0x80}, -errno.EINVAL),
        ):
            ask(ring, 0).set(**fields)
            ring.submit()
            assert results(ring) == [(0, res)]
        assert obj.globals["preps"] == [0, 0]


def test_leaving_waits_for_requests() -> None:
    with desk("op-bpf-v2") as (ring, obj):
        link = ring.attach(obj, "told")
        at = ring.user.alloc((0).to_bytes(8, "little") + (5_000_000).to_bytes(8, "little"))
        ring.get_sqe().prep_timeout(at.addr, user_data=1, flags=abi.SQE_IO_HARDLINK)
        ask(ring, tag=2)
        ring.submit()
        assert obj.globals["ends"] == 0
        link.destroy()
        assert (ring.now_ns(), obj.globals["ends"]) == (5_000_000, 1)
        assert results(ring) == [(1, -errno.ETIME), (2, 0)]


def test_leaving_behind_a_request_that_never_ends_is_a_hang() -> None:
    with desk("op-bpf-v2") as (ring, obj):
        link = ring.attach(obj, "told")
        read, _ = ring.world.pipe()
        block = ring.user.alloc(8)
        ring.get_sqe().prep_read(read, block.addr, 8, 0, flags=abi.SQE_IO_LINK)
        ask(ring)
        ring.submit()
        with pytest.raises(RingHang, match="nothing in flight"):
            link.destroy()
    assert not ring.machine.rings.requests  # closing drops them


def test_the_first_version_is_everybodys() -> None:
    with desk("op-bpf-v1") as (ring, obj), LoopRing(abi="op-bpf-v1", machine=ring.machine) as other:
        with ring.attach(obj, "basic0"):
            ask(other, 0, tag=4)
            other.submit()
            assert results(other) == [(4, 42)]
            with refused(errno.EBUSY):
                other.attach(obj, "basic0")
        ask(other, 0, tag=4)
        other.submit()
        assert results(other) == [(4, -errno.EOPNOTSUPP)]


@pytest.mark.parametrize("version", PER_RING)
def test_later_ones_are_one_rings(version: str) -> None:
    with desk(version) as (ring, obj), LoopRing(abi=version, machine=ring.machine) as other:
        ring.attach(obj, "basic0")
        ask(other, 0)
        other.submit()
        assert results(other) == [(0, -errno.EOPNOTSUPP)]
        other.attach(obj, "basic1")


def test_rings_of_others_have_no_operations() -> None:
    with LoopRing() as ring, pytest.raises(InputError, match="perform no requests"):
        ring.get_sqe().prep_operation(1)
    with LoopRing(abi="op-bpf-v2") as ring, pytest.raises(InputError, match="does not fit 8"):
        ring.get_sqe().prep_operation(1, 1 << 24)


@both_backends
def test_filters_may_deny_what_was_prepared(backend: BackendName) -> None:
    """As every prepared request (6.3): the program is told that it is over."""
    with desk("op-bpf-v3", backend) as (ring, obj), ring.attach(obj, "told"):
        allow = assemble("ret #1")
        ring.register_filter(Registration(abi.Op.NOP, allow, FILTER_DENY_REST))
        ask(ring, tag=1)
        assert ring.submit() == 1
        assert results(ring) == [(1, -errno.EACCES)]
        assert (obj.globals["turns"], obj.globals["ends"]) == (0, 1)
        obj.globals["prep_answer"] = -errno.EPERM  # an error of preparing wins
        ask(ring, tag=2)
        ring.submit()
        assert results(ring) == [(2, -errno.EPERM)]


# --- 8.3: copies ----------------------------------------------------------------------------------

USER, FIXED, VECTOR, KERNEL_FIXED, FIXED_VECTOR = range(5)


class Buffers:
    """Buffers of every type over two blocks, of which the first is full of 0xAB."""

    def __init__(self, ring: LoopRing, *, register: bool = False) -> None:
        self.ring = ring
        self.blocks = ring.user.alloc(b"\xab" * BYTES), ring.user.alloc(BYTES)
        if register:
            ring.register_buffers(self.blocks)
        self._vectors: list[Block] = []

    def of(self, which: int, kind: int) -> dict[str, int]:
        """The description of block 0 or 1 as a buffer of this type; vectors have four parts."""
        block = self.blocks[which]
        index = which if kind in (FIXED, FIXED_VECTOR, KERNEL_FIXED) else 0
        addr, length = block.addr, block.size
        if kind in (VECTOR, FIXED_VECTOR):
            cuts = (0, 1, 4097, 9000, BYTES)
            parts = [(addr + low, high - low) for low, high in pairwise(cuts)]
            raw = b"".join(n.to_bytes(8, "little") for part in parts for n in part)
            self._vectors.append(self.ring.user.alloc(raw))
            addr, length = self._vectors[-1].addr, 4
        return {"type": kind, "zero": 0, "index": index, "len": length, "addr": addr}


def copied(ring: LoopRing, obj: LoadedObject, to: dict[str, int], source: dict[str, int]) -> int:
    obj.globals["to"], obj.globals["from"] = to, source
    ask(ring, 3)
    ring.submit()
    ((_, res),) = results(ring)
    return res


@pytest.mark.parametrize(
    ("target", "source"),
    [
        (USER, USER),
        (VECTOR, VECTOR),
        (VECTOR, USER),
        (USER, VECTOR),
        (FIXED, USER),
        (USER, FIXED),
        (FIXED_VECTOR, FIXED_VECTOR),
    ],
)
@both_backends
def test_copies(backend: BackendName, target: int, source: int) -> None:
    """8.4, `bpf_memcpy`."""
    with desk("op-bpf-v2", backend) as (ring, obj), ring.attach(obj, "copies"):
        buffers = Buffers(ring, register=True)
        assert copied(ring, obj, buffers.of(1, target), buffers.of(0, source)) == BYTES
        assert buffers.blocks[1].read() == b"\xab" * BYTES


def test_the_shorter_one_says_how_much() -> None:
    with desk("op-bpf-v2") as (ring, obj), ring.attach(obj, "copies"):
        buffers = Buffers(ring)
        target, source = buffers.of(1, USER), buffers.of(0, VECTOR)
        assert copied(ring, obj, target | {"len": 5000}, source) == 5000
        assert buffers.blocks[1].read() == b"\xab" * 5000 + bytes(BYTES - 5000)
        assert copied(ring, obj, target | {"len": 0}, source) == 0
        assert copied(ring, obj, target, source | {"len": 0}) == 0


@pytest.mark.parametrize(
    ("kind", "change", "number"),
    [
        (USER, {"type": 5}, errno.EINVAL),
        (USER, {"zero": 1}, errno.EINVAL),
        (USER, {"addr": 0x1000}, errno.EFAULT),
        (USER, {"len": 0xFFFFFFFF}, errno.EINVAL),
        (VECTOR, {"addr": 0x1000}, errno.EFAULT),
        (VECTOR, {"len": 1025}, errno.EINVAL),
        (FIXED, {"index": 2}, errno.EFAULT),
        (FIXED, {"len": BYTES + 1}, errno.EFAULT),
        (FIXED_VECTOR, {"index": 1}, errno.EFAULT),
        (KERNEL_FIXED, {}, errno.EFAULT),
    ],
)
@both_backends
def test_buffers_that_can_not_be_had(
    backend: BackendName, kind: int, change: dict[str, int], number: int
) -> None:
    with desk("op-bpf-v2", backend) as (ring, obj), ring.attach(obj, "copies"):
        buffers = Buffers(ring, register=True)
        source = buffers.of(0, kind) | change
        assert copied(ring, obj, buffers.of(1, USER), source) == -number
        assert buffers.blocks[1].read() == bytes(BYTES)

"""Registering filters: the errors of abi/iouring-bpf-upstream, section 6.5, and what is seen."""

from __future__ import annotations

import errno
import struct
from pathlib import Path

import pytest

from pybpfvm.errors import InputError, RingError, UnsupportedError
from pybpfvm.events import Event, Noted
from pybpfvm.filters import uapi
from pybpfvm.filters.asm import assemble
from pybpfvm.filters.cbpf import encode
from pybpfvm.filters.context import AF_INET6, build, contexts, pdu_size, word_name
from pybpfvm.filters.table import FilterTable, Registration, Scope, Task
from pybpfvm.memory import AddressSpace, RegionKind
from pybpfvm.session import LoopRing, Machine, Ring
from pybpfvm.session.hostring import BackendName
from pybpfvm.uring_backend.abi import O_CREAT, O_LARGEFILE, O_PATH, Op, Sqe
from tests.support.session_ring import SIM_AND_KERNEL, need_backend

ROOT = Path(__file__).parents[2]
ALLOW, DENY = assemble("ret #1"), assemble("ret #0")
WORDS = struct.Struct("<HHIIIIB3sQ40s")
GOOD = {"cmd": 1, "cmd_flags": 0, "resv": 0, "opcode": 0, "flags": 0, "len": 1, "size": 0}


def refused(task: Task, memory: AddressSpace, block: int, nr_args: int = 1, **fields: int) -> int:
    """The errno for a registration that differs from a good one in these fields."""
    given = GOOD | {"program": block + 512, "pad": 0, "tail": 0} | fields
    memory.user_write(block + 512, encode(ALLOW))
    raw = WORDS.pack(
        *(given[name] for name in GOOD),
        bytes((given["pad"], 0, 0)),
        given["program"],
        bytes(39) + bytes((given["tail"],)),
    )
    memory.user_write(block, raw)
    try:
        uapi.register(task, block, memory, nr_args=nr_args)
    except RingError as error:
        return error.errno
    return 0


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, 0),
        ({"nr_args": 0}, errno.EINVAL),
        ({"nr_args": 2}, errno.EINVAL),
        ({"cmd": 2}, errno.EINVAL),
        ({"cmd_flags": 1}, errno.EINVAL),
        ({"resv": 1}, errno.EINVAL),
        ({"pad": 1}, errno.EINVAL),
        ({"tail": 1}, errno.EINVAL),
        ({"opcode": 256}, errno.EINVAL),
        ({"flags": 4}, errno.EINVAL),
        ({"len": 0}, errno.EINVAL),
        ({"len": 4097}, errno.EINVAL),
        ({"program": 8}, errno.EFAULT),
        ({"size": 1}, errno.EMSGSIZE),
    ],
)
def test_errors_of_the_call(fields: dict[str, int], wanted: int) -> None:
    with AddressSpace() as memory:
        block = memory.alloc(1024, RegionKind.USER, "argument").start
        assert refused(Task(), memory, block, **fields) == wanted


def test_an_argument_that_can_not_be_read() -> None:
    with AddressSpace() as memory, pytest.raises(RingError) as error:
        uapi.register(Task(), 8, memory)
    assert error.value.errno == errno.EFAULT


def test_a_bad_program_is_einval_and_says_why() -> None:
    with pytest.raises(RingError, match=r"l0: filters may not use `ldb \[k\]`") as error:
        Task().register_filter(Registration(Op.NOP, assemble("ldb [9]\nret #1")))
    assert error.value.errno == errno.EINVAL


def test_opcodes_that_are_not_known_are_unsupported() -> None:
    with pytest.raises(UnsupportedError):
        Task().register_filter(Registration(63, ALLOW))


def test_arguments_are_packed_as_they_are_read() -> None:
    wanted = Registration(Op.SOCKET, DENY, 3, 12, "x")
    with AddressSpace() as memory:
        block = memory.alloc(1024, RegionKind.USER, "argument").start
        memory.user_write(block + 512, encode(DENY))
        memory.user_write(block, uapi.pack(wanted, block + 512))
        assert uapi.unpack(block, memory, "x") == wanted
        assert uapi.ARGUMENT_BYTES == 72


def test_sizes_of_payloads() -> None:
    sizes = {op: pdu_size(op) for op in Op if pdu_size(op)}
    assert sizes == {Op.SOCKET: 12, Op.OPENAT: 24, Op.OPENAT2: 24, Op.CONNECT: 24}
    assert pdu_size(Op.CONNECT, "7.1") == 0


def test_what_filters_see() -> None:
    with AddressSpace() as memory:
        socket = Sqe(Op.SOCKET, 4, fd=2, off=0x801, len=6, user_data=77)
        (seen,) = contexts(socket.pack(), memory)
        assert seen == struct.pack("<QBBB5xIII12x", 77, 45, 4, 12, 2, 0x801, 6)
        block = memory.alloc(64, RegionKind.USER, "address").start
        memory.user_write(block, struct.pack("<H", AF_INET6) + bytes(range(26)))
        for length, payload in (
            (28, struct.pack("<I", AF_INET6) + b"\0\1\0\0" + bytes(range(6, 22))),
            (27, struct.pack("<I", AF_INET6) + bytes(20)),
            (2, struct.pack("<I", AF_INET6) + bytes(20)),
            (1, bytes(24)),
        ):
            sqe = Sqe(Op.CONNECT, addr=block, off=length)
            assert contexts(sqe.pack(), memory)[0][16:] == payload
        nop = contexts(Sqe(Op.NOP, addr=block, off=28).pack(), memory)
        assert nop == (bytes(40),)


def test_opens_are_seen_as_kernels_prepare_them() -> None:
    with AddressSpace() as memory:

        def seen(flags: int, mode: int) -> set[tuple[int, int, int]]:
            sqe = Sqe(Op.OPENAT, op_flags=flags, len=mode)
            found = contexts(sqe.pack(), memory)
            return {struct.unpack_from("<QQQ", context, 16) for context in found}

        # Whether O_LARGEFILE is added is not known: both may be seen.
        assert seen(O_CREAT, 0o10644) == {(O_CREAT, 0o644, 0), (O_CREAT | O_LARGEFILE, 0o644, 0)}
        assert seen(0, 0o644) == {(0, 0, 0), (O_LARGEFILE, 0, 0)}
        assert seen(O_PATH | O_CREAT, 0o644) == {(O_PATH, 0, 0)}
        table, _ = FilterTable().register(
            Registration(Op.OPENAT, assemble("ld [16]\njeq #0, yes\nret #0\nyes: ret #1")),
            Scope.RING,
        )
        with pytest.raises(UnsupportedError, match="O_LARGEFILE"):
            table.judge_sqe(Sqe(Op.OPENAT).pack(), memory)
        assert table.judge_sqe(Sqe(Op.OPENAT, op_flags=1).pack(), memory).denied_by is not None


def test_contexts_by_name() -> None:
    assert build(Op.SOCKET, {"type": 5})[20:24] == b"\5\0\0\0"
    assert build(Op.CONNECT, {"port": 80})[20:22] == b"\0\x50"
    for values in ({"port": 1 << 16}, {"kind": 1}, {"v4": 1, "v6": 1}):
        with pytest.raises(InputError):
            build(Op.CONNECT, values)
    assert word_name(8, None) == "opcode, sqe_flags << 8, pdu_size << 16"
    assert word_name(20, Op.OPENAT) == "flags (high half)"


@pytest.mark.parametrize("backend", SIM_AND_KERNEL)
def test_2021_rings_have_filters_too(backend: BackendName) -> None:
    """With a word in the account; a request of a ring that is registered on later is not asked."""
    need_backend(backend)
    events: list[Event] = []
    with (
        Machine() as machine,
        Ring(8, [8], backend=backend, machine=machine, observer=events.append) as ring,
    ):
        ring.get_sqe().prep_nop(user_data=1)
        assert ring.submit() == 1
        ring.register_filter(Registration(Op.NOP, DENY, name="no nops"))
        for user_data in (2, 3):
            ring.get_sqe().prep_nop(user_data=user_data, cq_idx=1)
        ring.get_sqe().prep_cancel(9, user_data=4)
        assert [ring.submit() for _ in range(3)] == [1, 1, 1]
        ring.register_filter(Registration(Op.ASYNC_CANCEL, DENY))
        ring.get_sqe().prep_cancel(9, user_data=5)
        assert ring.submit() == 1
        found = [(cqe.user_data, cqe.res) for cq in (0, 1) for cqe in ring.reap(cq)]
        denied = -errno.EACCES
        assert found == [(1, 0), (4, -errno.ENOENT), (5, denied), (2, denied), (3, denied)]
    told = [event.text for event in events if isinstance(event, Noted)]
    assert told == ["denied by no nops (ring)"] * 2 + ["denied by filter of ASYNC_CANCEL (ring)"]


def test_an_answer_that_is_not_known_leaves_the_ring_usable() -> None:
    with Machine() as machine, LoopRing(8, machine=machine) as ring:
        ring.register_filter(Registration(Op.OPENAT, assemble("ld [16]\nret a")))
        for _ in range(2):
            ring.get_sqe().set(opcode=Op.OPENAT, fd=-100, addr=machine.user.alloc(b"x\0").addr)
            with pytest.raises(UnsupportedError, match="O_LARGEFILE"):
                ring.submit()


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("backend", SIM_AND_KERNEL)
def test_requests_of_programs_are_denied(backend: BackendName, late: bool) -> None:
    """Compiled loops too, which go round Python: also where the filter comes after such a loop."""
    need_backend(backend)
    order = struct.Struct("<qqII")
    with (
        Machine() as machine,
        Ring(8, [8], backend=backend, abi="iouring-v3", machine=machine) as ring,
    ):
        obj = machine.load(ROOT / "examples/02_ticker/prog.v3.bpf.o", abi="iouring-v3")
        ring.register_bpf([obj["ticker"]])
        if late:
            first = ring.user.alloc(order.pack(0, 1_000_000, 2, 0))
            ring.get_sqe().prep_bpf(0, user_data=first.addr)
            ring.submit()
            assert [ring.wait_cqe().user_data for _ in range(3)] == [1, 2, first.addr]
            obj.globals["ticks"] = 0
            obj.globals["order"] = {"period": {"tv_sec": 0, "tv_nsec": 0}, "wanted": 0, "ticks": 0}
        ring.register_filter(Registration(Op.TIMEOUT, DENY))
        block = ring.user.alloc(order.pack(0, 1_000_000, 2, 0))
        ring.get_sqe().prep_bpf(0, user_data=block.addr)
        ring.submit()
        assert ring.wait_cqe().user_data == block.addr  # no tick: the program gave up
        assert (ring.ready(0), obj.globals["ticks"]) == (0, 0)


def test_bpf_requests_are_denied_by_number() -> None:
    with Machine() as machine, Ring(8, abi="iouring-v3", machine=machine) as ring:
        obj = machine.load(ROOT / "examples/01_hello/prog.v3.bpf.o", abi="iouring-v3")
        ring.register_bpf([obj["hello"]])
        ring.register_filter(Registration(37, DENY))
        ring.get_sqe().prep_bpf(0, user_data=1)
        ring.get_sqe().prep_bpf(9, user_data=2)
        ring.submit()
        ring.submit()
        assert [cqe.res for cqe in ring.reap()] == [-errno.EACCES, -errno.EFAULT]
        assert not ring.counts.runs

"""Rings of today's kernels, seen through their shared memory: what is played here, and what the
running kernel's does with the same set-up flags, SQEs and calls."""

from __future__ import annotations

import ctypes
import errno
import os
import random
import struct
from contextlib import ExitStack

import pytest

from pybpfvm.errors import RingError, RingHang, UnsupportedError
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.abi import Op, Sqe
from pybpfvm.uring_backend.kernel.probe import available
from pybpfvm.uring_backend.kernel.sysring import setup
from pybpfvm.uring_backend.loop.setup import check_setup
from tests.support.mode_sessions import (
    REST_NS,
    Host,
    KernelHost,
    OurHost,
    Session,
    generate,
    play,
)
from tests.support.seeded import each_seed

pytestmark = pytest.mark.kernel_ring

# NO_MMAP and ATTACH_WQ look at more than flags, REGISTERED_FD_ONLY goes with the former.
FLAGS = [
    *(abi.SETUP_IOPOLL, abi.SETUP_SQPOLL, abi.SETUP_SQ_AFF, abi.SETUP_CQSIZE, abi.SETUP_CLAMP),
    *(abi.SETUP_R_DISABLED, abi.SETUP_SUBMIT_ALL, abi.SETUP_COOP_TASKRUN, abi.SETUP_TASKRUN_FLAG),
    *(abi.SETUP_SQE128, abi.SETUP_CQE32, abi.SETUP_SINGLE_ISSUER, abi.SETUP_DEFER_TASKRUN),
    *(abi.SETUP_NO_SQARRAY, abi.SETUP_HYBRID_IOPOLL, abi.SETUP_CQE_MIXED, 1 << 22),
]
ENTRIES = (0, 1, 5, 8, 8, 8, 4096, 32768, 32769, 1 << 31)
CQ_ENTRIES = (0, 4, 8, 16, 16, 16, 9, 65536, 65537)


def kernels_setup(entries: int, flags: int, cq_entries: int) -> tuple[int, int] | int:
    """The sizes that the running kernel gives, or its errno."""
    params = ctypes.create_string_buffer(abi.SETUP_PARAMS_BYTES)
    struct.pack_into("<III", params, 0, 0, cq_entries, flags)
    fd = setup(entries, ctypes.addressof(params))
    if fd < 0:
        return -fd
    os.close(fd)
    sq, cq = struct.unpack_from("<II", params.raw)
    return sq, cq


def our_setup(entries: int, flags: int, cq_entries: int) -> tuple[int, int] | int | None:
    """The same of ours; None where the flags are unsupported by name."""
    try:
        made = check_setup(entries, flags, cq_entries)
    except RingError as error:
        return error.errno
    except UnsupportedError:
        return None
    return made.sq_entries, made.cq_entries


def test_setups_are_accepted_and_refused_as_by_the_kernel() -> None:
    if reason := available():
        pytest.skip(f"no io_uring: {reason}")
    chance = random.Random(1)
    outcomes = set()
    for _ in range(1500):
        flags = sum(flag for flag in FLAGS if chance.random() < chance.choice((0.05, 0.3)))
        if chance.random() < 0.3:
            flags = flags & ~abi.SETUP_CQSIZE | abi.SETUP_CLAMP
        entries, cq_entries = chance.choice(ENTRIES), chance.choice(CQ_ENTRIES)
        if entries > 8 and cq_entries > 16 and chance.random() < 0.9:
            continue  # large ones take their time
        ours = our_setup(entries, flags, cq_entries)
        theirs = kernels_setup(entries, flags, cq_entries)
        outcomes.add(ours if isinstance(ours, int) else type(ours))
        if ours is None:
            assert isinstance(theirs, tuple), (entries, hex(flags), cq_entries, theirs)
        else:
            assert ours == theirs, (entries, hex(flags), cq_entries)
    assert outcomes == {tuple, type(None), errno.EINVAL}


def test_sessions_look_the_same() -> None:
    if reason := available():
        pytest.skip(f"no io_uring: {reason}")
    each_seed("PYBPFVM_MODES", compare, count=150, seconds=15)


def test_sessions_meet_what_they_are_for() -> None:
    results, flags, words = set(), 0, {"sq_dropped": 0, "sq_head": 0}
    for seed in range(1, 201):
        session = generate(seed)
        with ExitStack() as stack:
            host = OurHost(session, stack)
            try:
                seen = play(session, host, host.event, host.timespec)
            except RingHang:
                continue
        for action, result, memory in seen:
            results.add((action.split("(")[0], result if isinstance(result, int) else 0))
            flags |= memory["sq_flags"]
            words = {name: max(most, memory[name]) for name, most in words.items()}
    assert flags == abi.SQ_NEED_WAKEUP | abi.SQ_CQ_OVERFLOW | abi.SQ_TASKRUN
    assert min(words.values()) > 0
    assert results >= {
        ("enter", 8),
        ("enter", -errno.EBADFD),
        ("enter", -errno.EINVAL),
        ("elsewhere", -errno.EEXIST),
        ("elsewhere", 0),
        ("enable", 0),
        ("resize", 0),
        ("resize", -errno.EINVAL),
        ("resize", -errno.EOVERFLOW),
    }


def compare(seed: int) -> list[str]:
    """The first action after which the two rings differ, in words; empty if there is none. A busy
    machine is given more time before that counts."""
    session = generate(seed)
    found = difference(session, REST_NS)
    return found and difference(session, 10 * REST_NS)


def difference(session: Session, rest_ns: int) -> list[str]:
    with ExitStack() as stack:
        host = OurHost(session, stack)
        try:
            ours = play(session, host, host.event, host.timespec, rest_ns)
        except RingHang:
            return []  # the kernel would not return
        kernel = KernelHost(session, stack)
        theirs = play(session, kernel, kernel.event, kernel.timespec, rest_ns)
    for index, (one, two) in enumerate(zip(ours, theirs, strict=True)):
        if one != two:
            before = [f"  {action}: {result}" for action, result, _ in ours[:index]]
            return [hex(session.flags), *before, f"sim    {one}", f"kernel {two}"]
    return []


_IDLE_NS = 1_000_000_000  # of the kernel's thread, unless asked for another


def with_a_thread(host: Host) -> list[object]:
    """What shows of a ring with SQPOLL: entries go when its thread is awake."""
    seen: list[object] = []

    def look(result: object = None, rest_ns: int = 50_000_000) -> None:
        host.rest(rest_ns)
        seen.append((result, host.seen()))

    def put(number: int) -> None:
        host.put(Sqe(Op.NOP, user_data=number))
        look()

    look()  # before there is work it sleeps
    put(1)
    look(host.enter(5, 0, 0))  # says what it was told
    look(host.enter(1, 0, abi.ENTER_SQ_WAKEUP))
    put(2)  # taken without a call
    look(host.reap(1))
    look(None, _IDLE_NS // 2)
    put(3)  # and it stays awake for another second
    look(None, _IDLE_NS * 3 // 4)
    put(4)
    look(None, _IDLE_NS + 300_000_000)
    put(5)  # asleep
    look(host.enter(1, 0, 0))
    look(host.enter(1, 4, abi.ENTER_SQ_WAKEUP | abi.ENTER_GETEVENTS))
    look(host.reap(10))
    return seen


def test_a_thread_takes_entries_while_it_is_awake() -> None:
    if reason := available():
        pytest.skip(f"no io_uring: {reason}")
    session = Session(abi.SETUP_SQPOLL | abi.SETUP_CQSIZE, 16, (), ordered=True)
    with ExitStack() as stack:
        ours = with_a_thread(OurHost(session, stack))
        theirs = with_a_thread(KernelHost(session, stack))
    for one, two in zip(ours, theirs, strict=True):
        assert one == two

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
from pybpfvm.uring_backend.kernel.probe import available
from pybpfvm.uring_backend.kernel.sysring import setup
from pybpfvm.uring_backend.loop.setup import check_setup
from tests.support.ring_modes import KernelHost, OurHost, generate, play
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


def compare(seed: int) -> list[str]:
    """The first action after which the two rings differ, in words; empty if there is none."""
    session = generate(seed)
    with ExitStack() as stack:
        host = OurHost(session, stack)
        try:
            ours = play(session, host, host.event, host.timespec)
        except RingHang:
            return []  # the kernel would not return
        kernel = KernelHost(session, stack)
        theirs = play(session, kernel, kernel.event, kernel.timespec)
    for index, (one, two) in enumerate(zip(ours, theirs, strict=True)):
        if one != two:
            before = [f"  {action}: {result}" for action, result, _ in ours[:index]]
            return [hex(session.flags), *before, f"sim    {one}", f"kernel {two}"]
    return []

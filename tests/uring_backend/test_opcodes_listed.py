"""docs/sim-kernel-differences.md names every opcode that only one backend performs."""

from __future__ import annotations

from pathlib import Path

from pybpfvm.uring_backend.abi import Op
from pybpfvm.uring_backend.kernel.guard import SUPPORTED
from pybpfvm.uring_backend.sim.opcodes import PREPARE

PAGE = (Path(__file__).parents[2] / "docs/sim-kernel-differences.md").read_text()


def test_opcodes_of_one_backend_are_listed() -> None:
    for op in set(PREPARE) ^ set(SUPPORTED):
        assert Op(op).name in PAGE


def test_the_floor_of_opcodes_is_on_both() -> None:
    named = [
        "NOP",
        "READ",
        "READV",
        "WRITE",
        "WRITEV",
        "READ_FIXED",
        "WRITE_FIXED",
        "FSYNC",
        "OPENAT",
        "OPENAT2",
        "CLOSE",
        "STATX",
        "TIMEOUT",
        "TIMEOUT_REMOVE",
        "LINK_TIMEOUT",
        "ASYNC_CANCEL",
        "POLL_ADD",
        "POLL_REMOVE",
        "ACCEPT",
        "CONNECT",
        "SEND",
        "RECV",
        "FILES_UPDATE",
        "PROVIDE_BUFFERS",
    ]
    both = {Op(op).name for op in set(PREPARE) & set(SUPPORTED)}
    assert set(named) <= both

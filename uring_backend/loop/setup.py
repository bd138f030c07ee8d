"""io_uring_setup of today's kernels, as far as rings with a loop meet it: sizes and refusals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pybpfvm.errors import UnsupportedError
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.setup import invalid, ring_size

_KNOWN: Final = (1 << 21) - 1  # all up to SQ_REWIND
# Memory or workers of the caller's, or entries of several sizes.
_UNSUPPORTED: Final = {
    "ATTACH_WQ": abi.SETUP_ATTACH_WQ,
    "NO_MMAP": abi.SETUP_NO_MMAP,
    "CQE_MIXED": abi.SETUP_CQE_MIXED,
    "SQE_MIXED": abi.SETUP_SQE_MIXED,
}
_TASK_WORK: Final = abi.SETUP_DEFER_TASKRUN | abi.SETUP_COOP_TASKRUN
# (what is refused, the flag that is there, those of which it needs one, those that must not be)
_RULES: Final = (
    ("DEFER_TASKRUN without SINGLE_ISSUER", abi.SETUP_DEFER_TASKRUN, abi.SETUP_SINGLE_ISSUER, 0),
    (
        "SQPOLL with DEFER_TASKRUN, COOP_TASKRUN or TASKRUN_FLAG",
        abi.SETUP_SQPOLL,
        0,
        _TASK_WORK | abi.SETUP_TASKRUN_FLAG,
    ),
    ("TASKRUN_FLAG without DEFER_TASKRUN or COOP_TASKRUN", abi.SETUP_TASKRUN_FLAG, _TASK_WORK, 0),
    ("SQ_AFF without SQPOLL", abi.SETUP_SQ_AFF, abi.SETUP_SQPOLL, 0),
    ("HYBRID_IOPOLL without IOPOLL", abi.SETUP_HYBRID_IOPOLL, abi.SETUP_IOPOLL, 0),
    ("REGISTERED_FD_ONLY without NO_MMAP", abi.SETUP_REGISTERED_FD_ONLY, abi.SETUP_NO_MMAP, 0),
    ("CQE_MIXED with CQE32", abi.SETUP_CQE_MIXED, 0, abi.SETUP_CQE32),
    ("SQE_MIXED with SQE128", abi.SETUP_SQE_MIXED, 0, abi.SETUP_SQE128),
    ("SQ_REWIND without NO_SQARRAY", abi.SETUP_SQ_REWIND, abi.SETUP_NO_SQARRAY, 0),
    ("SQ_REWIND with SQPOLL", abi.SETUP_SQ_REWIND, 0, abi.SETUP_SQPOLL),
)


@dataclass(frozen=True, slots=True)
class LoopSetup:
    """A ring's sizes, powers of two, and its flags."""

    sq_entries: int
    cq_entries: int
    flags: int

    @property
    def sqe_bytes(self) -> int:
        """What one SQE takes."""
        return abi.sqe_bytes(self.flags)

    @property
    def cqe_bytes(self) -> int:
        """What one CQE takes."""
        return abi.cqe_bytes(self.flags)

    @property
    def rewinds(self) -> bool:
        """Whether each submission starts with SQE 0 and moves no index (SETUP_SQ_REWIND)."""
        return bool(self.flags & abi.SETUP_SQ_REWIND)

    @property
    def has_array(self) -> bool:
        """Whether SQEs are named by an index array."""
        return not self.flags & abi.SETUP_NO_SQARRAY

    @property
    def defers(self) -> bool:
        """Whether completions wait for an enter with GETEVENTS (SETUP_DEFER_TASKRUN)."""
        return bool(self.flags & abi.SETUP_DEFER_TASKRUN)

    @property
    def has_thread(self) -> bool:
        """Whether a thread of the kernel takes SQEs (SETUP_SQPOLL)."""
        return bool(self.flags & abi.SETUP_SQPOLL)

    @property
    def submits_all(self) -> bool:
        """Whether a batch goes on after a request that can not be prepared."""
        return bool(self.flags & abi.SETUP_SUBMIT_ALL)


def check_setup(entries: int, flags: int = 0, cq_entries: int = 0) -> LoopSetup:
    """The sizes of a ring asked for with these; RingError with the errno of io_uring_setup.

    UnsupportedError for what this version does not play: entries of several sizes in one queue,
    rings in the caller's memory, workers of another ring.
    """
    if flags & ~_KNOWN:
        raise invalid(f"unknown setup flags {flags & ~_KNOWN:#x}")
    for refused, flag, needed, excluded in _RULES:
        if flags & flag and (flags & excluded or (needed and not flags & needed)):
            raise invalid(refused)
    sizes = _sizes(entries, flags, cq_entries)
    if unsupported := [name for name, flag in _UNSUPPORTED.items() if flags & flag]:
        raise UnsupportedError(
            f"rings with {' and '.join(unsupported)}", remedy="leave these flags out"
        )
    return LoopSetup(*sizes, flags)


def _sizes(entries: int, flags: int, cq_entries: int) -> tuple[int, int]:
    """Entries of SQ and CQ."""
    clamp = bool(flags & abi.SETUP_CLAMP)
    sq = ring_size("SQ entries", entries, abi.MAX_SQ_ENTRIES, clamp)
    cq = 2 * sq
    if flags & abi.SETUP_CQSIZE:
        cq = ring_size("CQ entries", cq_entries, abi.MAX_CQ_ENTRIES, clamp)
        if cq < sq:
            raise invalid(f"a CQ with {cq} entries is smaller than the SQ with {sq}")
    return sq, cq

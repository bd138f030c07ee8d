"""io_uring_setup of today's kernels, as far as rings with a loop meet it: sizes and refusals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pybpfvm.errors import UnsupportedError
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.setup import invalid, ring_size

_KNOWN: Final = (
    abi.SETUP_IOPOLL
    | abi.SETUP_SQPOLL
    | abi.SETUP_CQSIZE
    | abi.SETUP_CLAMP
    | abi.SETUP_R_DISABLED
    | abi.SETUP_SUBMIT_ALL
    | abi.SETUP_COOP_TASKRUN
    | abi.SETUP_TASKRUN_FLAG
    | abi.SETUP_SQE128
    | abi.SETUP_CQE32
    | abi.SETUP_SINGLE_ISSUER
    | abi.SETUP_DEFER_TASKRUN
    | abi.SETUP_NO_SQARRAY
    | abi.SETUP_SQ_REWIND
)
_UNSUPPORTED: Final = abi.SETUP_SQE128 | abi.SETUP_CQE32


@dataclass(frozen=True, slots=True)
class LoopSetup:
    """A ring's sizes, powers of two, and its flags."""

    sq_entries: int
    cq_entries: int
    flags: int

    @property
    def rewinds(self) -> bool:
        """Whether each submission starts with SQE 0 and moves no index (SETUP_SQ_REWIND)."""
        return bool(self.flags & abi.SETUP_SQ_REWIND)

    @property
    def has_array(self) -> bool:
        """Whether SQEs are named by an index array."""
        return not self.flags & abi.SETUP_NO_SQARRAY

    @property
    def submits_all(self) -> bool:
        """Whether a batch goes on after a request that can not be prepared."""
        return bool(self.flags & abi.SETUP_SUBMIT_ALL)


def check_setup(entries: int, flags: int = 0, cq_entries: int = 0) -> LoopSetup:
    """The sizes of a ring asked for with these; RingError with the errno of io_uring_setup.

    UnsupportedError for entries of double size, which this version does not play.
    """
    if flags & ~_KNOWN:
        raise invalid(f"unknown setup flags {flags & ~_KNOWN:#x}")
    if flags & abi.SETUP_DEFER_TASKRUN and not flags & abi.SETUP_SINGLE_ISSUER:
        raise invalid("DEFER_TASKRUN needs SINGLE_ISSUER")
    if flags & abi.SETUP_SQPOLL and flags & (
        abi.SETUP_DEFER_TASKRUN | abi.SETUP_COOP_TASKRUN | abi.SETUP_TASKRUN_FLAG
    ):
        raise invalid("SQPOLL excludes DEFER_TASKRUN, COOP_TASKRUN and TASKRUN_FLAG")
    if flags & abi.SETUP_TASKRUN_FLAG and not flags & (
        abi.SETUP_DEFER_TASKRUN | abi.SETUP_COOP_TASKRUN
    ):
        raise invalid("TASKRUN_FLAG needs COOP_TASKRUN or DEFER_TASKRUN")
    if flags & abi.SETUP_SQ_REWIND and (
        not flags & abi.SETUP_NO_SQARRAY or flags & abi.SETUP_SQPOLL
    ):
        raise invalid("SQ_REWIND needs NO_SQARRAY and excludes SQPOLL")
    if flags & _UNSUPPORTED:
        raise UnsupportedError("rings with SQE128 or CQE32", remedy="leave these flags out")
    clamp = bool(flags & abi.SETUP_CLAMP)
    sq = ring_size("SQ entries", entries, abi.MAX_SQ_ENTRIES, clamp)
    cq = 2 * sq
    if flags & abi.SETUP_CQSIZE:
        cq = ring_size("CQ entries", cq_entries, abi.MAX_CQ_ENTRIES, clamp)
        if cq < sq:
            raise invalid(f"a CQ with {cq} entries is smaller than the SQ with {sq}")
    return LoopSetup(sq, cq, flags)

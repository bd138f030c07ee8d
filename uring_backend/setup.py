"""What io_uring_setup decides before a ring exists: sizes, and every reason to refuse.

abi/iouring-bpf-2021, section 1.3; everything not named there is mainline of its time, but for
larger entries (SQE128, CQE32), which came later: then the CQEs of all CQs have the size.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from pybpfvm.errors import RingError, UnsupportedError
from pybpfvm.memory import AddressSpace, UserFault
from pybpfvm.profiles.base import RingRules
from pybpfvm.uring_backend import abi

MAX_EXTRA_CQS = 1024
_KNOWN_FLAGS = (
    abi.SETUP_IOPOLL
    | abi.SETUP_SQPOLL
    | abi.SETUP_SQ_AFF
    | abi.SETUP_CQSIZE
    | abi.SETUP_CLAMP
    | abi.SETUP_ATTACH_WQ
    | abi.SETUP_R_DISABLED
    | abi.ENTRY_SIZES  # Linux 5.19
)
_UNSUPPORTED_FLAGS = abi.SETUP_ATTACH_WQ


@dataclass(frozen=True, slots=True)
class RingSetup:
    """A ring's final sizes, all powers of two; `cqs[0]` is the main CQ."""

    sq_entries: int
    cqs: tuple[int, ...]
    flags: int

    @property
    def sqe_bytes(self) -> int:
        """What one SQE takes."""
        return abi.sqe_bytes(self.flags)

    @property
    def cqe_bytes(self) -> int:
        """What one CQE takes, in every CQ."""
        return abi.cqe_bytes(self.flags)


def check_setup(
    rules: RingRules,
    entries: int,
    extra: Sequence[int],
    flags: int = 0,
    cq0_entries: int | None = None,
) -> RingSetup:
    """The sizes of a ring asked for with these parameters (`cq0_entries` for SETUP_CQSIZE).

    Raises RingError with the errno of io_uring_setup, UnsupportedError for flags of the time
    that this version does not play (ATTACH_WQ).
    """
    if flags & ~_KNOWN_FLAGS:
        raise invalid(f"unknown setup flags {flags & ~_KNOWN_FLAGS:#x}")
    if flags & _UNSUPPORTED_FLAGS:
        raise UnsupportedError(
            f"setup flags {flags & _UNSUPPORTED_FLAGS:#x}", remedy="leave ATTACH_WQ out"
        )
    if flags & abi.SETUP_SQ_AFF and not flags & abi.SETUP_SQPOLL:
        raise invalid("SETUP_SQ_AFF without SETUP_SQPOLL")
    clamp = bool(flags & abi.SETUP_CLAMP)
    sq_entries = ring_size("SQ entries", entries, abi.MAX_SQ_ENTRIES, clamp)
    main = 2 * sq_entries
    if flags & abi.SETUP_CQSIZE:
        main = ring_size("CQ 0 entries", cq0_entries or 0, abi.MAX_CQ_ENTRIES, clamp)
        if main < sq_entries:
            raise invalid(f"CQ 0 with {main} entries is smaller than the SQ with {sq_entries}")
    if extra and not rules.extra_cqs:
        raise invalid("this ABI has no extra CQs: its reserved setup words must be zero")
    if len(extra) > MAX_EXTRA_CQS:
        raise invalid(f"{len(extra)} extra CQs, at most {MAX_EXTRA_CQS} are possible")
    sizes = [
        ring_size(f"CQ {index} entries", size, abi.MAX_CQ_ENTRIES, clamp)
        for index, size in enumerate(extra, 1)
    ]
    return RingSetup(sq_entries, (main, *sizes), flags)


def read_cq_sizes(memory: AddressSpace, nr_cq: int, cq_sizes: int) -> tuple[int, ...]:
    """The extra CQ sizes that the setup words `nr_cq` and `cq_sizes` (a user address) give.

    Raises RingError: too many, one word without the other, or an unreadable array.
    """
    if nr_cq > MAX_EXTRA_CQS:
        raise invalid(f"{nr_cq} extra CQs, at most {MAX_EXTRA_CQS} are possible")
    if (nr_cq == 0) != (cq_sizes == 0):
        raise invalid("exactly one of nr_cq and cq_sizes is zero")
    try:
        raw = memory.user_read(cq_sizes, 4 * nr_cq)
    except UserFault as fault:
        raise RingError(errno.EFAULT, f"cq_sizes can not be read: {fault}") from fault
    return struct.unpack(f"<{nr_cq}I", raw)


def ring_size(what: str, asked: int, most: int, clamp: bool) -> int:
    """The entries that a queue gets: a power of two. RingError EINVAL for none, and for too many
    unless SETUP_CLAMP cuts them."""
    if asked <= 0:
        raise invalid(f"{asked} {what}")
    if asked > most:
        if not clamp:
            raise invalid(f"{asked} {what}, at most {most} are possible without SETUP_CLAMP")
        asked = most
    return 1 << (asked - 1).bit_length()


def invalid(reason: str) -> RingError:
    """io_uring_setup's -EINVAL."""
    return RingError(errno.EINVAL, reason)

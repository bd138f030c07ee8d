"""Why an SQE is refused before anything is done for it.

abi/iouring-bpf-2021, section 1.6. Checks of an opcode's own fields are the backend's.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

from pybpfvm.bits import U32
from pybpfvm.profiles.base import RingRules
from pybpfvm.uring_backend.abi import (
    OP_LAST,
    POLLED_OPS,
    SETUP_IOPOLL,
    SETUP_SQPOLL,
    SQE_BUFFER_SELECT,
    SQE_CQE_SKIP_SUCCESS,
    SQE_FIXED_FILE,
    SQE_IO_DRAIN,
    SQE_VALID_FLAGS,
    Op,
    Sqe,
)
from pybpfvm.uring_backend.contexts import misused
from pybpfvm.uring_backend.restrictions import Restrictions
from pybpfvm.uring_backend.settings import Settings

_TAKES_BUFFERS = frozenset((Op.READV, Op.RECVMSG, Op.READ, Op.RECV, Op.READ_MULTISHOT))


class SqeChecks:
    """The checks of one ring. `programs` is its program table, None while nothing is registered;
    `settings` know which personalities there are, `restrictions` what the ring refuses.

    `later_opcodes`: opcodes that mainline got after the ABI's time count, too.
    """

    def __init__(
        self,
        rules: RingRules,
        setup_flags: int,
        cqs: int,
        *,
        later_opcodes: bool = False,
        settings: Settings,
        restrictions: Restrictions,
    ) -> None:
        self._settings = settings
        self._restrictions = restrictions
        self._last_opcode = OP_LAST - 1 if later_opcodes else rules.bpf_opcode
        self.programs: Sequence[int | None] | None = None
        self._has_contexts = rules.contexts
        self._unknown_flags = ~SQE_VALID_FLAGS
        if not rules.cqe_skip:
            self._unknown_flags |= SQE_CQE_SKIP_SUCCESS
        self._polled = bool(setup_flags & (SETUP_IOPOLL | SETUP_SQPOLL))
        self._unpolled = frozenset(Op) - POLLED_OPS if setup_flags & SETUP_IOPOLL else frozenset()
        self._cqs = cqs if rules.extra_cqs else None
        self._skip_seen = False

    @property
    def last_opcode(self) -> int:
        """The highest one that there is."""
        return self._last_opcode

    def queue_of(self, cq_idx: int) -> int | None:
        """The CQ an SQE with this cq_idx completes in; None if there is no such CQ."""
        if self._cqs is None:
            return 0
        return cq_idx if cq_idx < self._cqs else None

    def generic(self, opcode: int, flags: int, personality: int) -> int:
        """The errno for fields that every opcode has, or 0."""
        if flags & self._unknown_flags:
            return errno.EINVAL
        if opcode > self._last_opcode:
            return errno.EINVAL
        if flags & SQE_BUFFER_SELECT and opcode not in _TAKES_BUFFERS:
            return errno.EOPNOTSUPP
        if flags & (SQE_CQE_SKIP_SUCCESS | SQE_IO_DRAIN):
            # Drains count CQEs, so mainline refuses them for good once one has been skipped.
            self._skip_seen |= bool(flags & SQE_CQE_SKIP_SUCCESS)
            if flags & SQE_IO_DRAIN and self._skip_seen:
                return errno.EOPNOTSUPP
        if self._restrictions.refuses(opcode, flags):
            return errno.EACCES
        if opcode in self._unpolled:
            return errno.EINVAL
        if personality and personality not in self._settings.personalities:
            return errno.EINVAL
        return 0

    def early(self, opcode: int, flags: int) -> bool:
        """Whether an SQE is refused before mainline looks at drains. (Any other one drains even
        when it is refused.)"""
        if flags & self._unknown_flags or opcode > self._last_opcode:
            return True
        if flags & SQE_BUFFER_SELECT and opcode not in _TAKES_BUFFERS:
            return True
        return bool(flags & SQE_IO_DRAIN) and self._skip_seen

    def drains(self, opcode: int, flags: int) -> bool:
        """Whether an SQE drains, refused or not."""
        return bool(flags & SQE_IO_DRAIN) and not self.early(opcode, flags)

    def bpf(self, raw: bytes) -> tuple[int, int, int]:
        """(errno or 0, slot, program) of a BPF SQE that passed the generic checks."""
        sqe = Sqe.unpack(raw)
        if self._polled or sqe.flags & (SQE_FIXED_FILE | SQE_BUFFER_SELECT):
            return errno.EINVAL, 0, 0
        if sqe.ioprio:
            return errno.EINVAL, 0, 0
        if misused(sqe) or (sqe.op_flags and not self._has_contexts):
            return errno.EINVAL, 0, 0
        slot = sqe.off & U32
        if self.programs is None or slot >= len(self.programs):
            return errno.EFAULT, 0, 0
        program = self.programs[slot]
        if program is None:
            return errno.EFAULT, 0, 0
        return 0, slot, program

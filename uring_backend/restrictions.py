"""Rings that begin disabled (SETUP_R_DISABLED), and what they may be used for once enabled.

IORING_REGISTER_RESTRICTIONS takes rows of a kind and a number; they hold from
IORING_REGISTER_ENABLE_RINGS on, for good. What no row allows is refused with -EACCES, the commands
of io_uring_register as well as requests, which are looked at before they are prepared. Measured on
Linux 6.18.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from enum import IntEnum

from pybpfvm.errors import RingError
from pybpfvm.uring_backend.abi import OP_LAST, SQE_VALID_FLAGS, Register


class Restrict(IntEnum):
    """Kinds of rows."""

    REGISTER_OP = 0
    SQE_OP = 1
    SQE_FLAGS_ALLOWED = 2
    SQE_FLAGS_REQUIRED = 3


Row = tuple[int, int]
"""A Restrict and its number: a Register command, an opcode, SQE flags."""

REGISTER_BPF = 20  # as in the last prototype; mainline's numbers 20 and 21 came later
UNREGISTER_BPF = 21
MAX_ROWS = len(Restrict) + len(Register) + OP_LAST


class Restrictions:
    """Those of one ring; `disabled` until it is enabled."""

    def __init__(self, *, disabled: bool = False) -> None:
        self.disabled = disabled
        self._rows: Sequence[Row] | None = None
        self._commands: frozenset[int] = frozenset()
        self._opcodes: frozenset[int] = frozenset()
        self._allowed = self._required = 0

    @property
    def active(self) -> bool:
        """Whether anything is refused."""
        return self._rows is not None and not self.disabled

    def register(self, rows: Sequence[Row], last_opcode: int = OP_LAST - 1) -> None:
        """IORING_REGISTER_RESTRICTIONS; `last_opcode` of the ABI. RingError: EBADFD when the ring
        is enabled, EBUSY the second time, EINVAL."""
        if not self.disabled:
            raise RingError(errno.EBADFD, "the ring is enabled: restrict it before")
        if self._rows is not None:
            raise RingError(errno.EBUSY, "the ring has restrictions already")
        if len(rows) > MAX_ROWS:
            raise RingError(errno.EINVAL, f"{len(rows)} restrictions, at most {MAX_ROWS} can be")
        commands, opcodes, allowed, required = set(), set(), 0, 0
        for kind, number in rows:
            if kind == Restrict.REGISTER_OP and 0 <= number < len(Register):
                commands.add(number)
            elif kind == Restrict.SQE_OP and 0 <= number <= last_opcode:
                opcodes.add(number)
            elif kind == Restrict.SQE_FLAGS_ALLOWED:
                allowed = number
            elif kind == Restrict.SQE_FLAGS_REQUIRED:
                required = number
            else:
                raise RingError(errno.EINVAL, f"no restriction: kind {kind}, number {number}")
        self._rows = tuple(rows)
        self._commands, self._opcodes = frozenset(commands), frozenset(opcodes)
        self._allowed, self._required = allowed, required

    def enable(self) -> None:
        """IORING_REGISTER_ENABLE_RINGS. RingError EBADFD."""
        self.command(Register.ENABLE_RINGS)
        if not self.disabled:
            raise RingError(errno.EBADFD, "the ring is enabled")
        self.disabled = False

    def command(self, number: int) -> None:
        """This command of io_uring_register is about to be obeyed. RingError EACCES."""
        if self.active and number not in self._commands:
            raise RingError(errno.EACCES, f"command {number} is not among those of this ring")

    def enter(self) -> None:
        """The ring is about to be entered. RingError EBADFD."""
        if self.disabled:
            raise RingError(errno.EBADFD, "the ring is disabled: enable it first")

    def refuses(self, opcode: int, flags: int) -> bool:
        """Whether a request, of a known opcode and with known flags, ends with -EACCES."""
        if self._rows is None or self.disabled:
            return False
        missing = self._required & ~flags & SQE_VALID_FLAGS
        odd = flags & ~(self._allowed | self._required)
        return opcode not in self._opcodes or bool(missing or odd)

"""Requests of which the ring's drains are to know nothing: they go to a ring of their own.

What waits there (a timer, a futex) must wake who waits for the main ring, so a MSG_RING to that
one is linked behind it. What names a request of the main ring becomes a register command there,
which no drain keeps back; updates of timers and polls have none.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from pybpfvm.errors import InternalError, RingError, UnsupportedError
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.abi import Op, Sqe
from pybpfvm.uring_backend.kernel.guard import NO_TOKEN, Effect, Guard
from pybpfvm.uring_backend.kernel.registration import Registration
from pybpfvm.uring_backend.kernel.requests import InFlight
from pybpfvm.uring_backend.kernel.transport import Transport

WAKE: Final = NO_TOKEN - 3
"""user_data of a CQE in the main ring that says: look aside."""

_NAMING = frozenset({Op.ASYNC_CANCEL, Op.TIMEOUT_REMOVE, Op.POLL_REMOVE})
_ENTRIES = 64
_STEP_NS = 20_000_000
_MOST_STEPS = 500


class Aside:
    """Such requests of one backend. `flight` is what its main ring has; the ring aside is made
    when the first request comes."""

    def __init__(
        self,
        make_ring: Callable[[int], Transport],
        main: Transport,
        guard: Guard,
        registration: Registration,
        flight: InFlight,
    ) -> None:
        self._make_ring = make_ring
        self._main = main
        self._guard = guard
        self._registration = registration
        self._flight = flight
        self._ring: Transport | None = None
        self._live: dict[int, Effect | None] = {}  # by token, with what is kept for it

    def __len__(self) -> int:
        return len(self._live)

    def __contains__(self, token: int) -> bool:
        return token in self._live

    def submit(self, raw: bytes) -> list[tuple[int, int, int]]:
        """Issue this SQE; (token, res, flags) of what is over with it."""
        sqe = Sqe.unpack(raw)
        if sqe.opcode == Op.ASYNC_CANCEL and sqe.op_flags & abi.ASYNC_CANCEL_FD:
            bad = sqe.off or sqe.file_index
            return [(sqe.user_data, -errno.EINVAL if bad else self._cancel(sqe), 0)]
        if self._ring is None:
            self._ring = self._make_ring(_ENTRIES)
        admitted, self._live[sqe.user_data] = self._guard.admit(raw)
        batch = [admitted]
        if sqe.opcode not in _NAMING:
            batch = [bytes((admitted[0], admitted[1] | abi.SQE_IO_HARDLINK)) + admitted[2:]]
            quiet = abi.SQE_CQE_SKIP_SUCCESS
            batch.append(Sqe(Op.MSG_RING, quiet, fd=self._main.fd, off=WAKE, user_data=WAKE).pack())
        taken = self._ring.submit(batch)
        if taken != len(batch):
            raise RingError(-taken if taken < 0 else errno.EIO, "the ring aside took no request")
        return [
            (
                token,
                self._in_main(sqe) if token == sqe.user_data and _finds_none(sqe, res) else res,
                flags,
            )
            for token, res, flags in self.reap()
        ]

    def reap(self) -> list[tuple[int, int, int]]:
        """(token, res, flags) of what is over."""
        if self._ring is None:
            return []
        found = []
        for token, res, flags, *_ in self._ring.reap():
            if token in self._live:
                del self._live[token]
                found.append((token, res, flags))
        return found

    def _in_main(self, sqe: Sqe) -> int:
        """The result of a request that names one of the main ring."""
        if sqe.addr not in self._flight.live or self._flight.kept_back(sqe.addr):
            return -errno.ENOENT
        if sqe.opcode == Op.TIMEOUT_REMOVE and sqe.op_flags & abi.TIMEOUT_UPDATE:
            update = "TIMEOUT_REMOVE with TIMEOUT_UPDATE"
        elif sqe.opcode == Op.POLL_REMOVE and sqe.len:
            update = "POLL_REMOVE with an update"
        else:
            return self._cancel(replace(sqe, op_flags=0))
        raise UnsupportedError(
            f"{update}, looked up while a drain waits, on the kernel's ring",
            remedy="let it name a request of an earlier submission, or use the simulated ring",
        )

    def _cancel(self, sqe: Sqe) -> int:
        res = self._registration.sync_cancel(sqe.addr, sqe.fd, sqe.op_flags, 0, 0)
        return -errno.EALREADY if res == -errno.ETIME else res

    def close(self) -> None:
        """Cancel everything here and give the ring back."""
        if self._ring is None:
            return
        for _ in range(_MOST_STEPS):
            self.reap()
            if not self._live:
                break
            self._ring.sync_cancel_all(_STEP_NS)
            self._ring.wait(_STEP_NS)
        else:
            raise InternalError(f"{len(self._live)} requests aside could not be cancelled")
        self._ring.close()
        self._ring = None


def _finds_none(sqe: Sqe, res: int) -> bool:
    return sqe.opcode in _NAMING and res == -errno.ENOENT

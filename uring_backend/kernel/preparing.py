"""Would the running kernel prepare an SQE? Asked of a small ring of its own, without performing it.

A filter comes after preparation, whose errors win. No kernel here can be told to prepare only, but
behind a head that is refused a prepared request ends with -ECANCELED and one that can not be
prepared with its own error.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace

from pybpfvm.errors import RingError
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.abi import Sqe
from pybpfvm.uring_backend.filtering import refusal
from pybpfvm.uring_backend.kernel.guard import Guard
from pybpfvm.uring_backend.kernel.transport import Transport

_ORDERED = abi.SQE_ANY_LINK | abi.SQE_IO_DRAIN | abi.SQE_CQE_SKIP_SUCCESS
_HEAD, _ASKED = 1, 2


class Preparation:
    """Answers for one guard. The ring is made when the first question comes."""

    def __init__(self, make_ring: Callable[[int], Transport], guard: Guard) -> None:
        self._make_ring = make_ring
        self._guard = guard
        self._ring: Transport | None = None

    def fails(self, raw: bytes) -> bool:
        """Whether preparing this SQE, as one of the guard's, fails."""
        if self._ring is None:
            self._ring = self._make_ring(2)
        sqe = Sqe.unpack(raw)
        asked = replace(sqe, flags=sqe.flags & ~_ORDERED, user_data=_ASKED).pack()
        admitted, effect = self._guard.admit(asked)
        taken = self._ring.submit([refusal(_HEAD, abi.SQE_IO_LINK), admitted])
        if taken != 2:
            raise RingError(-taken if taken < 0 else errno.EIO, "the kernel took no two SQEs")
        results: dict[int, int] = {}
        while len(results) < 2:
            self._ring.wait(None)
            results |= {token: res for token, res, *_ in self._ring.reap()}
        del effect  # kept what the SQE points to until here
        return results[_ASKED] != -errno.ECANCELED

    def close(self) -> None:
        """Give the ring back."""
        if self._ring is not None:
            self._ring.close()

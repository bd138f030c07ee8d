"""Filters of requests between a ring, which knows SQEs, and its backend, which knows tokens.

What a filter is and says is not known here (`pybpfvm.filters` decides): only that a request which
was prepared may be denied, ends with -EACCES then, and that the reason is worth telling.
abi/iouring-bpf-upstream, section 6.3.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Protocol

from pybpfvm.events import Noted, Observer
from pybpfvm.uring_backend.abi import (
    SQE_ANY_LINK,
    SQE_CQE_SKIP_SUCCESS,
    SQE_IO_DRAIN,
    Op,
    Sqe,
)
from pybpfvm.uring_backend.base import Backend

_ORDERED = SQE_ANY_LINK | SQE_IO_DRAIN | SQE_CQE_SKIP_SUCCESS


def refusal(token: int, flags: int) -> bytes:
    """An SQE that every backend refuses (-EINVAL) in the place that `flags` give it."""
    return Sqe(Op.NOP, flags & _ORDERED, ioprio=1, user_data=token).pack()


class RequestFilter(Protocol):
    """The filters of a ring, all together."""

    def denial(self, sqe: bytes) -> str:
        """Of this 64-byte SQE, which was prepared: "denied by" whom, or "" if it is not."""


class FilterGate:
    """Asks the filter for the backend. `sqe_of`: the SQE behind a token, None for requests that
    no filter is asked about. `active`: there is a filter."""

    def __init__(
        self, backend: Backend, sqe_of: Callable[[int], bytes | None], observer: Observer | None
    ) -> None:
        self._backend = backend
        self._sqe_of = sqe_of
        self._observer = observer
        self.active = False
        self._filter: RequestFilter | None = None
        self._reasons: dict[int, str] = {}

    def put(self, filter_: RequestFilter) -> None:
        """Requests that are submitted from now on pass this filter, in place of the one before."""
        self._filter = filter_
        self.active = True
        self._backend.filter_requests(self._denied)

    def _denied(self, token: int) -> bool:
        sqe = self._sqe_of(token)
        return sqe is not None and self.denies(token, sqe)

    def denies(self, token: int, sqe: bytes) -> bool:
        """Whether the request, of which this is the SQE, is denied; `ended` tells why."""
        reason = self._filter.denial(sqe) if self._filter is not None else ""
        if reason:
            self._reasons[token] = reason
        else:
            self._reasons.pop(token, None)
        return bool(reason)

    def denied(self, token: int) -> bool:
        """Whether the answer for that request was no."""
        return token in self._reasons

    def ended(self, token: int, res: int) -> None:
        """A request is over: if a filter did that, say so."""
        reason = self._reasons.pop(token, "")
        if reason and res == -errno.EACCES and self._observer is not None:
            self._observer(Noted(self._backend.now_ns(), "filter", reason, token))

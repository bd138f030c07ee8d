"""Requests that name others by user_data: ASYNC_CANCEL, TIMEOUT_REMOVE and POLL_REMOVE.

The backend knows requests by tokens, so what such a request names is looked up when it is
submitted; what it could find only when its turn in a chain comes is not found. Where several have
that user_data they are tried one after the other, oldest first. `uring_backend.performed` is the
same for rings of the 2021 ABIs, which have chains of their own.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pybpfvm.errors import UnsupportedError
from pybpfvm.uring_backend.abi import (
    ASYNC_CANCEL_ALL,
    ASYNC_CANCEL_ANY,
    ASYNC_CANCEL_FD,
    ASYNC_CANCEL_OP,
    ASYNC_CANCEL_USERDATA,
    LINK_TIMEOUT_UPDATE,
    POLL_UPDATE_USER_DATA,
    SQE_CQE_SKIP_SUCCESS,
    SQE_IO_HARDLINK,
    SQE_IO_LINK,
    Op,
    Sqe,
)

NAMES_ANOTHER = frozenset((Op.ASYNC_CANCEL, Op.TIMEOUT_REMOVE, Op.POLL_REMOVE))
_ONE_ONLY = SQE_IO_LINK | SQE_IO_HARDLINK | SQE_CQE_SKIP_SUCCESS
_NOBODY = 0  # a token that no request has


@dataclass(slots=True)
class Live:
    """A request in flight: its user_data, who submitted it, its opcode."""

    user_data: int
    origin: str
    opcode: int


@dataclass(slots=True)
class _Search:
    """Who is tried now, and who is next. `every`: all of them, and the answer is how many were
    hit. `renamed`: the user_data that the target gets."""

    sqe: Sqe
    target: int
    others: deque[int]
    every: bool
    hits: int = 0
    renamed: int | None = None


class Naming:
    """Finds in `live`, by token, what requests name."""

    def __init__(self, live: Mapping[int, Live]) -> None:
        self._live = live
        self._searches: dict[int, _Search] = {}

    def start(self, token: int, raw: bytes) -> bytes:
        """The request `token`, which names another, as the backend is to get it; `live` has what
        was submitted before it.

        UnsupportedError where it would have to try several, and something hangs on its first try.
        """
        sqe = replace(Sqe.unpack(raw), user_data=token)
        opcode, every, renames = None, False, False
        if sqe.opcode == Op.ASYNC_CANCEL:
            flags = sqe.op_flags
            others = flags & (ASYNC_CANCEL_FD | ASYNC_CANCEL_OP)
            if flags & ASYNC_CANCEL_ANY or (others and not flags & ASYNC_CANCEL_USERDATA):
                return sqe.pack()  # descriptors and opcodes are the backend's own
            every = bool(flags & ASYNC_CANCEL_ALL)
        elif sqe.opcode == Op.TIMEOUT_REMOVE:
            opcode = Op.LINK_TIMEOUT if sqe.op_flags & LINK_TIMEOUT_UPDATE else Op.TIMEOUT
        else:
            opcode = Op.POLL_ADD
            renames = bool(sqe.len & POLL_UPDATE_USER_DATA)
        found = deque(
            other
            for other, one in self._live.items()
            if one.user_data == sqe.addr and opcode in (None, one.opcode)
        )
        if len(found) > 1 and sqe.flags & _ONE_ONLY:
            raise UnsupportedError(
                "a request that names several by one user_data, linked or without a CQE",
                remedy="give requests user_data of their own, or leave the flag out",
            )
        search = _Search(sqe, _NOBODY, found, every, renamed=sqe.off if renames else None)
        if found:
            self._searches[token] = search
        return _next(search)

    def forget(self, token: int) -> None:
        """The request was not taken after all, or has ended."""
        self._searches.pop(token, None)

    def answered(self, token: int, res: int) -> tuple[int, bytes | None]:
        """What the backend said of a request: the result for its CQE, or what to try next."""
        search = self._searches.get(token)
        if search is None:
            return res, None
        target = self._live.get(search.target)
        if res >= 0 and search.renamed is not None and target is not None:
            target.user_data = search.renamed
        if search.every:
            search.hits += max(res, 0)
        while search.others and search.others[0] not in self._live:
            search.others.popleft()
        if search.others and (search.every or res == -errno.ENOENT):
            return res, _next(search)
        self.forget(token)
        return (search.hits if search.every and res >= 0 else res), None


def _next(search: _Search) -> bytes:
    search.target = search.others.popleft() if search.others else _NOBODY
    # What renames a request gives it the name that the backend knows it by already.
    off = search.sqe.off if search.renamed is None else search.target
    return replace(search.sqe, addr=search.target, off=off).pack()

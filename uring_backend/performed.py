"""Requests that the ring performs itself because they name other requests, or count CQEs.

Behind rewritten user_data the backend can not find what an ASYNC_CANCEL, TIMEOUT_REMOVE or
POLL_REMOVE names, and it counts CQEs that only exist here. So the ring looks the target up and
sends hidden requests that name it by token. design/host-supervisor.md, section 5.
"""

from __future__ import annotations

import errno
import heapq
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pybpfvm.bits import U32
from pybpfvm.uring_backend.abi import (
    ASYNC_CANCEL_ALL,
    ASYNC_CANCEL_ANY,
    ASYNC_CANCEL_FD,
    ASYNC_CANCEL_OP,
    ASYNC_CANCEL_USERDATA,
    LINK_TIMEOUT_UPDATE,
    POLL_UPDATE_EVENTS,
    POLL_UPDATE_USER_DATA,
    TIMEOUT_ETIME_SUCCESS,
    TIMEOUT_MULTISHOT,
    TIMEOUT_UPDATE,
    Op,
    Sqe,
)
from pybpfvm.uring_backend.base import Backend
from pybpfvm.uring_backend.cq import CompletionQueues
from pybpfvm.uring_backend.requests import BpfRequest, Request

if TYPE_CHECKING:
    from pybpfvm.uring_backend.submitter import Submitter

_NAMES_ANOTHER = frozenset((Op.ASYNC_CANCEL, Op.TIMEOUT_REMOVE, Op.POLL_REMOVE))
_NO_COUNT = bytes(4)
_FLAGS_AT = 28  # of timeout_flags in an SQE
_FEW = 16  # ended timeouts that may stay in the heap


def is_performed(request: Request) -> bool:
    """Whether the ring performs the request: it names another one, or is a counted TIMEOUT. One
    with TIMEOUT_MULTISHOT counts how often it is to ring, which is the backend's."""
    if request.opcode == Op.TIMEOUT:
        repeats = request.sqe[_FLAGS_AT] & TIMEOUT_MULTISHOT
        return request.sqe[8:12] != _NO_COUNT and not repeats
    return request.opcode in _NAMES_ANOTHER


@dataclass(slots=True)
class _Search:
    """Hidden requests tried on one target after the other until one answers.

    `every`: all targets, and the answer is how many were hit.
    """

    request: Request
    template: Sqe
    targets: deque[Request]
    every: bool = False
    hits: int = 0
    renamed: int | None = None


class Performed:
    """Starts such requests; `Submitter.end` tells their results."""

    def __init__(self, submitter: Submitter, backend: Backend, cqs: CompletionQueues) -> None:
        self._submitter = submitter
        self._backend = backend
        self._cqs = cqs
        self._counted: list[tuple[int, int, Request]] = []  # heap of (due count, token, request)
        self._timers: dict[int, int] = {}  # token of a running counted TIMEOUT -> its timer's

    def start(self, request: Request) -> None:
        """The request's turn has come."""
        request.started = True
        sqe = replace(Sqe.unpack(request.sqe), flags=0, addr3=0, pad=0)
        if request.opcode == Op.TIMEOUT:
            self._start_counted(request, sqe)
        elif request.opcode == Op.ASYNC_CANCEL:
            self._cancel(request, sqe)
        elif request.opcode == Op.TIMEOUT_REMOVE:
            self._remove_timeout(request, sqe)
        else:
            self._remove_poll(request, sqe)

    def named_by_update(self, request: Request) -> int:
        """The token of the one request that an update (of a timer, or of what a poll waits for)
        can mean, so that the backend can do it in its turn; 0 if it is none or not the only one.

        An update can not go around drains on every backend.
        """
        sqe = Sqe.unpack(request.sqe)
        if request.opcode == Op.TIMEOUT_REMOVE and sqe.op_flags & TIMEOUT_UPDATE:
            linked = sqe.op_flags & LINK_TIMEOUT_UPDATE
            opcode = Op.LINK_TIMEOUT if linked else Op.TIMEOUT
        elif request.opcode == Op.POLL_REMOVE and sqe.len == POLL_UPDATE_EVENTS:
            opcode = Op.POLL_ADD
        else:
            return 0
        found = list(self._submitter.table.matches(sqe.addr, (opcode,)))
        if len(found) != 1 or is_performed(found[0]):
            return 0
        return found[0].token

    # --- TIMEOUT with a completion count ----------------------------------------------------

    def _start_counted(self, request: Request, sqe: Sqe) -> None:
        due = self._cqs.countable + (sqe.off & U32)
        quiet = bool(sqe.op_flags & TIMEOUT_ETIME_SUCCESS)

        def timer_ended(res: int) -> None:
            if self._timers.pop(request.token, None) is not None:
                self._forget_ended()
                failed = not (quiet and res == -errno.ETIME)
                self._submitter.end(request, res, failed=failed)

        timer = self._submitter.table.hide(timer_ended)
        self._timers[request.token] = timer
        heapq.heappush(self._counted, (due, request.token, request))
        self._submitter.hidden(replace(sqe, off=0, user_data=timer).pack())

    @property
    def counting(self) -> bool:
        """Whether a TIMEOUT counts CQEs."""
        return bool(self._timers)

    def _forget_ended(self) -> None:
        """Rebuild the heap once most of it are timeouts that time has ended."""
        if len(self._counted) > 2 * len(self._timers) + _FEW:
            self._counted = [entry for entry in self._counted if entry[1] in self._timers]
            heapq.heapify(self._counted)

    def end_due(self) -> None:
        """End the counted timeouts for which enough CQEs have come to CQ 0."""
        while self._counted and self._counted[0][0] <= self._cqs.countable:
            _, _, request = heapq.heappop(self._counted)
            if request.token in self._timers:
                self._stop_counted(request, 0, failed=False)

    def _stop_counted(self, request: Request, res: int, *, failed: bool) -> None:
        timer = self._timers.pop(request.token)
        token = self._submitter.table.hide(_ignore)
        self._submitter.hidden(Sqe(Op.TIMEOUT_REMOVE, addr=timer, user_data=token).pack())
        self._submitter.end(request, res, failed=failed)

    # --- requests that name another one -----------------------------------------------------

    def _cancel(self, request: Request, sqe: Sqe) -> None:
        flags = sqe.op_flags
        table = self._submitter.table
        targets: Iterable[Request]
        if flags & ASYNC_CANCEL_ANY:
            targets = list(table.live.values())
        elif flags & ASYNC_CANCEL_OP:
            targets = [other for other in table.live.values() if other.opcode == sqe.len]
        elif flags & ASYNC_CANCEL_FD:
            # Descriptors are the backend's own, so it finds the same requests as we would.
            self._try(_Search(request, sqe, deque()))
            return
        else:
            targets = table.matches(sqe.addr)
        selectors = ASYNC_CANCEL_ALL | ASYNC_CANCEL_ANY | ASYNC_CANCEL_OP | ASYNC_CANCEL_USERDATA
        template = replace(sqe, op_flags=flags & ~selectors)
        if flags & ASYNC_CANCEL_OP:
            template = replace(template, len=0)
        every = bool(flags & (ASYNC_CANCEL_ALL | ASYNC_CANCEL_ANY))
        self._search(request, template, targets, every=every)

    def _remove_timeout(self, request: Request, sqe: Sqe) -> None:
        linked = sqe.op_flags & LINK_TIMEOUT_UPDATE
        opcodes = (Op.LINK_TIMEOUT if linked else Op.TIMEOUT,)
        self._search(request, sqe, self._submitter.table.matches(sqe.addr, opcodes))

    def _remove_poll(self, request: Request, sqe: Sqe) -> None:
        targets = self._submitter.table.matches(sqe.addr, (Op.POLL_ADD,))
        if not sqe.len & POLL_UPDATE_USER_DATA:
            self._search(request, sqe, targets)
            return
        if sqe.len & POLL_UPDATE_EVENTS:
            template = replace(sqe, len=sqe.len & ~POLL_UPDATE_USER_DATA, off=0)
            self._search(request, template, targets, renamed=sqe.off)
            return
        # Only the name changes: nothing for the backend to do.
        target = next(iter(targets), None)
        if target is None:
            self._submitter.end(request, -errno.ENOENT, failed=True)
            return
        self._submitter.table.rename(target, sqe.off)
        self._submitter.end(request, 0, failed=False)

    def _search(
        self,
        request: Request,
        template: Sqe,
        targets: Iterable[Request],
        *,
        every: bool = False,
        renamed: int | None = None,
    ) -> None:
        # A BPF request is never found: parked, it is neither a timer, a poll nor in a worker.
        # Nor is one that the ring performs, but for timers: it waits for its turn, or is at it.
        found = deque(
            other
            for other in targets
            if not isinstance(other, BpfRequest)
            and (other.token in self._timers or not is_performed(other))
        )
        search = _Search(request, template, found, every, renamed=renamed)
        if found:
            self._next(search)
        else:
            search.template = replace(template, addr=self._submitter.table.unused_token())
            self._try(search)

    def _next(self, search: _Search) -> None:
        """Try the next target that still lives."""
        table = self._submitter.table
        while search.targets:
            target = search.targets.popleft()
            if target.token not in table.live:
                continue
            addr = target.token
            if target.token in self._timers:
                addr = self._timers[target.token]
                if not search.template.op_flags & TIMEOUT_UPDATE:
                    self._stop_counted(target, -errno.ECANCELED, failed=True)
                    if self._note(search, 0):
                        return
                    continue
            search.template = replace(search.template, addr=addr)
            self._try(search, target)
            return
        self._answer(search, search.hits if search.every else -errno.ENOENT)

    def _try(self, search: _Search, target: Request | None = None) -> None:
        """Send the template; its result ends the search or moves it on."""

        def ended(res: int) -> None:
            table = self._submitter.table
            renames = res >= 0 and search.renamed is not None
            if renames and target is not None and target.token in table.live:
                table.rename(target, search.renamed or 0)
            if target is None:
                nobody = search.every and res == -errno.ENOENT
                self._answer(search, 0 if nobody else res)
            elif not self._note(search, res):
                self._next(search)

        token = self._submitter.table.hide(ended)
        self._submitter.hidden(replace(search.template, user_data=token).pack())

    def _note(self, search: _Search, res: int) -> bool:
        """Take one target's result in; True when the search is over (and answered)."""
        if search.every:
            search.hits += res >= 0
            return False
        if res == -errno.ENOENT:
            return False
        self._answer(search, res)
        return True

    def _answer(self, search: _Search, res: int) -> None:
        self._submitter.end(search.request, res, failed=res < 0)


def _ignore(_: int) -> None:
    """The result of a hidden request that nobody needs."""

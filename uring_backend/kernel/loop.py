"""The loop of one program over the kernel's ring, done by compiled code: what is Python's part.

Before: lend it ring, queues and context. After: take them back, and make requests of what is in
flight. In between, for what compiled code does not do itself: both, around the ordinary helper.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pybpfvm.profiles.base import RingRules, WaitBy
from pybpfvm.uring_backend.abi import Sqe
from pybpfvm.uring_backend.cq import CompletionQueues
from pybpfvm.uring_backend.kernel.backend import KernelBackend
from pybpfvm.uring_backend.kernel.direct import WAIT_BY_FIELDS, Direct, Word
from pybpfvm.uring_backend.requests import BpfRequest, Request
from pybpfvm.uring_backend.submitter import Submitter

# (program, as the runner numbers it) -> address of its code, None where it can not be run so
Address = Callable[[int], int | None]


class KernelLoop:
    """A ProgramLoop (see bpf). `enter` runs the loop's code, `address` finds a program's."""

    def __init__(
        self,
        rules: RingRules,
        backend: KernelBackend,
        cqs: CompletionQueues,
        submitter: Submitter,
        ctx_addr: int,
        budget_insns: int,
    ) -> None:
        self.runs = 0
        self.enter: Callable[[], None]
        self.address: Address
        self.direct: Direct = backend.direct(len(cqs))
        self._backend = backend
        self._cqs = cqs
        self._submitter = submitter
        submitter.released = self.direct.release
        words = self.direct.words
        words[Word.CTX] = ctx_addr
        words[Word.BUDGET] = budget_insns
        words[Word.CTX_PERSISTS] = rules.ctx_persists
        words[Word.LENGTH_CHECKED] = rules.length_checked
        by_return = rules.wait_by is WaitBy.RETURN
        words[Word.WAIT_VALUE] = rules.wait_value if by_return else WAIT_BY_FIELDS

    def run(self, request: BpfRequest, most: int) -> int | None:
        """See ProgramLoop.run."""
        address = self.address(request.program)
        if address is None:
            return None
        words = self.direct.words
        words[Word.PROGRAM] = address
        words[Word.USER_DATA] = request.user_data
        words[Word.RUNS_LEFT] = most
        self._submitter.drain()
        self.direct.begin(_is_users)
        self._origin = request.origin
        self.direct.lend(self._cqs.queues)
        try:
            self.enter()
        finally:
            self._take_back()
        self.runs = words[Word.RUNS]
        return words[Word.R0]

    @property
    def executed(self) -> int:
        """Instructions of all runs of the last loop."""
        return self.direct.words[Word.EXECUTED]

    @contextmanager
    def interrupted(self) -> Iterator[None]:
        """Within a run: ring and queues are Python's for a while."""
        self._take_back()
        try:
            yield
        finally:
            self.direct.lend(self._cqs.queues)

    def _take_back(self) -> None:
        for queue, posted, reaped in self.direct.take_back(self._cqs.queues):
            self._cqs.changed(queue, posted, reaped)
        for token, opcode, user_data, cq in self.direct.adopt():
            raw = Sqe(opcode, user_data=user_data).pack()
            self._submitter.table.add(Request(token, raw, user_data, cq, self._origin))
            self._backend.adopt(token, opcode)

    def close(self) -> None:
        """Give the tables back."""
        self.direct.close()


def _is_users(cq: int) -> bool:
    return cq == 0

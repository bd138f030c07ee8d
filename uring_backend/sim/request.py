"""One request in the simulated ring, from its SQE to its last CQE."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING

from pybpfvm.uring_backend.abi import (
    MAX_RW_COUNT,
    NO_EXTRA,
    SQE_ASYNC,
    SQE_CQE_SKIP_SUCCESS,
    SQE_IO_DRAIN,
    SQE_IO_HARDLINK,
    SQE_IO_LINK,
    Sqe,
)

if TYPE_CHECKING:
    from pybpfvm.uring_backend.sim.descriptors import OpenFile, WaitQueue
    from pybpfvm.uring_backend.sim.resources import Resource
    from pybpfvm.uring_backend.sim.selection import Chosen

Issue = Callable[[], int | None]
"""Performs a prepared request: its result, or None when it will complete later."""


class Refused(Exception):
    """A request (or a system call of the host) can not be done: `errno` is positive."""

    def __init__(self, errno: int) -> None:
        super().__init__(errno)
        self.errno = errno


class State(Enum):
    """Where a request is."""

    QUEUED = "in a chain, behind a drain, or about to run"
    WORKER = "in the hands of a worker"
    POLLED = "waiting for its file to become ready"
    TIMER = "waiting for time to pass"
    PARKED = "waiting for a wake-up or a child"
    EXTERNAL = "being performed by the caller"
    DONE = "completed"


class Request:
    """A live request. `next` is the request linked behind it.

    `failed` breaks a soft link. `taken_along`: another one of its chain failed, and ended it.
    `skip_links` says that the request wanted no CQE on success and failed, so that those
    it takes with it post none either (mainline since 5.17). `begun`: the worker that has it is at
    it, which a cancellation can not undo.
    """

    __slots__ = (
        "begun",
        "buffer",
        "cqe_flags",
        "done_bytes",
        "drain",
        "errors_pass",
        "extra",
        "failed",
        "file",
        "gated",
        "hardlink",
        "issue",
        "link",
        "link_timeout",
        "looks_first",
        "most_bytes",
        "multishot",
        "next",
        "notification",
        "nowait",
        "queue",
        "res",
        "resources",
        "size_bytes",
        "skip_cqe",
        "skip_links",
        "sqe",
        "starting",
        "state",
        "taken_along",
        "through_worker",
        "token",
        "tried",
        "wait_events",
        "waited_on",
        "was_polled",
        "woken",
        "woken_events",
        "worker_ends",
    )

    def __init__(self, sqe: Sqe) -> None:
        self.sqe = sqe
        self.token = sqe.user_data
        self.link = bool(sqe.flags & SQE_IO_LINK)
        self.hardlink = bool(sqe.flags & SQE_IO_HARDLINK)
        self.drain = bool(sqe.flags & SQE_IO_DRAIN)
        self.skip_cqe = bool(sqe.flags & SQE_CQE_SKIP_SUCCESS)
        self.through_worker = bool(sqe.flags & SQE_ASYNC)
        self.state = State.QUEUED
        self.begun = False
        self.issue: Issue | None = None
        self.file: OpenFile | None = None
        self.resources: list[Resource] = []  # registered ones that it uses
        self.queue: WaitQueue | None = None  # what it is waiting on, when POLLED
        self.waited_on: WaitQueue | None = None  # the same, and where it keeps a place
        self.next: Request | None = None
        self.link_timeout: Request | None = None  # armed or to be armed when this one has to wait
        self.failed = False
        self.taken_along = False
        self.errors_pass = False  # what it comes to is never a failure
        self.skip_links = False
        self.res = 0
        self.cqe_flags = 0
        self.extra = NO_EXTRA  # the second half of its CQE
        self.wait_events = 0  # poll events that make another try worth while; 0: never wait
        self.woken = False  # its file became ready, the next try is queued
        self.woken_events = 0  # what the waker said of POLL_ADD's file; 0: nothing
        self.gated = False  # a program decides whether a wake counts
        self.nowait = False
        self.multishot = False
        self.starting = False  # an external request whose Started is not reported yet
        self.tried = False
        self.worker_ends = False  # its result comes from a worker
        self.size_bytes = 0  # what a transfer that may be cut short wants to move, where known
        self.most_bytes = MAX_RW_COUNT  # what one try may move: less by a fault
        self.done_bytes = 0  # of a transfer that must be complete (MSG_WAITALL)
        self.buffer: Chosen | None = None
        self.looks_first = False  # IORING_RECVSEND_POLL_FIRST: the next try only waits
        self.was_polled = False
        self.notification: int | None = None  # what a zero-copy send's second CQE says

    @property
    def linked(self) -> bool:
        """Whether the next SQE belongs to this one's chain."""
        return self.link or self.hardlink

    def use(self, resource: Resource) -> None:
        """Use a registered file or buffer until the request is over."""
        if resource not in self.resources:
            resource.use()
            self.resources.append(resource)

    def let_go(self) -> None:
        """Give back the file and everything registered."""
        if self.file is not None:
            self.file.drop()
        resources, self.resources = self.resources, []
        for resource in resources:
            resource.drop()

    def fail(self) -> None:
        """Mark it failed; a failure is always reported."""
        self.failed = True
        if self.skip_cqe:
            self.skip_cqe = False
            self.skip_links = True

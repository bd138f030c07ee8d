"""What both backends promise: perform ordinary (mainline) io_uring requests.

A backend knows nothing of BPF programs, extra CQs or CQ indices; `pybpfvm.uring_backend.ring`
builds those on top, once, for both. Its promise is mainline's: results, flags, order rules,
links, drains, multishot, cancellation. `contract.py` states it as laws, run on both.

Requests are 64-byte little-endian SQEs of mainline numbering whose user_data is a token chosen
by the caller, unique among live requests; completions carry the token back. Pointers in SQEs are
addresses of user memory in the AddressSpace the backend was made with; anything else is -EFAULT.
File descriptors are the backend's own (from `world`, or opened by requests); anything else is
-EBADF: a program can not reach the host's descriptors. A backend is made with the set-up flags
that requests notice (abi.NOTICED); the second half of an SQE is nothing to any of them.

An *external* request (opcode EXTERNAL, backend-only) is performed by the caller: it takes its
place in links and drains like any other, `Started` says when its turn has come, `finish` ends it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from pybpfvm.uring_backend.abi import AF_INET, NO_EXTRA, SOCK_STREAM
from pybpfvm.uring_backend.conditions import VirtualNetwork
from pybpfvm.uring_backend.settings import Settings
from pybpfvm.uring_backend.trees import Entry

EXTERNAL = 0xFF
UNKNOWN_OPCODE = 0xFE  # one that no kernel has
Denied = Callable[[int], bool]


@dataclass(frozen=True, slots=True)
class SocketState:
    """What a TCP socket holds, in bytes: `inq` unread, out of `rcvbuf`, which take `rmem_alloc`;
    `mss` is what one segment carries."""

    inq: int
    rcvbuf: int
    rmem_alloc: int
    mss: int


class Wake(Protocol):
    """A file has woken a request that waits for it."""

    def state(self) -> SocketState | int:
        """What the socket holds; -ENOTSOCK, or -EOPNOTSUPP for another one than TCP's."""

    def peek(self, size: int) -> bytes | int:
        """Up to `size` bytes that wait there, which stay; -EAGAIN without any, or as `state`."""


PollGate = Callable[[Wake], bool]


@dataclass(frozen=True, slots=True)
class Completion:
    """A CQE of the backend: `token` of the request, `res`, `flags` (F_MORE: more will follow), and
    `extra`, the second half of a CQE that has one (backends made with SETUP_CQE32 or, where F_32 is
    among the flags, SETUP_CQE_MIXED). `notified`: a notification will follow without F_MORE, as it
    does where a zero-copy send ends because its chain does."""

    token: int
    res: int
    flags: int
    extra: tuple[int, int] = NO_EXTRA
    notified: bool = False


@dataclass(frozen=True, slots=True)
class Started:
    """An external request's turn has come: perform it, then call `finish`."""

    token: int


@dataclass(frozen=True, slots=True)
class Message:
    """A CQE that a MSG_RING posted here, from this ring or another one."""

    user_data: int
    res: int
    flags: int


Event = Completion | Started | Message

OTHER_RING: Final = "MSG_RING"
"""Whose a message's CQE is, in accounts."""


class Peer(Protocol):
    """The host's end of a connection."""

    def send(self, data: bytes) -> int:
        """Bytes taken (may be fewer; 0 when the other side is full)."""

    def recv(self, size: int) -> bytes | None:
        """Up to `size` bytes that are there now, or of one message; b"" at end of stream, None
        when there are none."""

    def shutdown(self) -> None:
        """Send end of stream; receiving still works."""

    def address(self) -> bytes:
        """Its own address as a sockaddr, by which requests can send to it."""

    def close(self, *, reset: bool = False) -> None:
        """Give the end up. `reset`: a TCP connection is reset instead of ended."""


class World(Protocol):
    """Files and sockets around a ring: real temporary ones, or simulated ones. The host's hand
    in what requests see; all paths are relative names, all fds are the backend's."""

    @property
    def network(self) -> VirtualNetwork | None:
        """The network between AF_INET sockets; None where it is the host's own."""

    def add_file(self, name: str, data: bytes, mode: int = 0o644) -> None:
        """Make a file (and the directories on its way) with this content."""

    def file_data(self, name: str) -> bytes:
        """The content of a file; InputError if there is none."""

    def seed(self, entries: Iterable[Entry]) -> None:
        """Make directories, files and symbolic links (see trees.read_tree), parents first."""

    def tree(self) -> list[Entry]:
        """Everything below the root, parents first."""

    def path(self, name: str) -> bytes:
        """The path that a request (OPENAT, ...) must use for the file `name`."""

    def open(self, name: str, flags: int, mode: int = 0o644) -> int:
        """Open a file like open(2); an fd that requests may use. InputError when refused."""

    def pipe(self) -> tuple[int, int]:
        """(read end, write end) as fds that requests may use."""

    def socketpair(self, kind: int = SOCK_STREAM) -> tuple[int, Peer]:
        """A connected AF_UNIX socket: the requests' fd and the host's end."""

    def listen(self, backlog: int = 128) -> int:
        """A listening TCP socket on a loopback address, as an fd that requests may use."""

    def datagrams(self) -> int:
        """A UDP socket bound to a loopback address, as an fd that requests may use."""

    def address(self, fd: int) -> bytes:
        """The address of a socket, for CONNECT requests and sends."""

    def connect(self, fd: int) -> Peer:
        """A client of a listening socket (it is connected even before it is accepted), or a
        UDP socket connected to one that is bound."""

    def socket(self, domain: int = AF_INET, kind: int = SOCK_STREAM) -> int:
        """An unconnected socket. InputError for families and kinds that requests can not have."""

    def eventfd(self, count: int = 0, *, semaphore: bool = False) -> int:
        """An eventfd object."""

    def signal(self, fd: int, count: int = 1) -> None:
        """Add to an eventfd, without waiting; InputError for another fd."""

    def epoll(self) -> int:
        """An empty epoll set."""

    def child(self) -> int:
        """The number of a new child process, for WAITID; it runs until `end_child`."""

    def end_child(self, pid: int, status: int = 0) -> None:
        """A child exits with `status`, or is killed by signal -`status`; InputError if it does
        not run."""

    def close(self, fd: int) -> None:
        """Close an fd that this world or a request opened; InputError when it is not open."""


class Backend(Protocol):
    """Performs requests. A context manager; `close` gives back every fd and mapping."""

    name: str

    @property
    def world(self) -> World:
        """Files and sockets around the ring."""

    @property
    def settings(self) -> Settings:
        """What the ring is asked and told about itself."""

    def now_ns(self) -> int:
        """Nanoseconds since the backend was made: virtual time, or CLOCK_MONOTONIC."""

    def submit(self, sqes: Sequence[bytes]) -> int:
        """Issue SQEs as one io_uring_enter would; how many were consumed.

        As in the kernel, a chain must be complete in one call and a bad SQE outside a chain ends
        the batch after itself. What completes inline is in `poll` when this returns.
        """

    def submit_aside(self, sqe: bytes) -> None:
        """Issue one SQE, without links, that has no place among the others: no drain keeps it back,
        none waits for it. One that names another request may be unsupported where a drain waits
        meanwhile (UnsupportedError)."""

    def poll(self) -> list[Event]:
        """What has happened and was not reported yet, in order. Never blocks."""

    def wait(self, timeout_ns: int | None) -> bool:
        """Let time pass until `poll` has something to say (True) or the timeout is over (False).

        Never busy-waits. None: no timeout. A simulated backend in which nothing can ever happen
        again returns False at once, whatever the timeout; `can_progress` tells.
        """

    def can_progress(self) -> bool:
        """Whether something in flight may still complete by itself. False is a proof."""

    def finish(self, token: int, *, failed: bool = False) -> None:
        """End an external request; `failed` breaks an IO_LINK chain behind it. No Completion."""

    def cancel_external(self, token: int) -> None:
        """Forget an external request that has not started (teardown); its chain is cancelled."""

    def filter_requests(self, denied: Denied) -> None:
        """Ask `denied` for the token of every request from now on, but external ones: True ends it
        with -EACCES, as one that could not be prepared. An error of preparing it wins. Asked
        within `submit` only, perhaps for requests that are then not consumed."""

    def gate_polls(self, gate: PollGate | None) -> None:
        """Ask `gate` whether a wake counts, of receives with RECV_POLL_BPF; None: no more, and such
        receives are -EINVAL. UnsupportedError where the kernel performs them."""

    def buffer_at(self, index: int) -> tuple[int, int] | None:
        """(address, bytes) of a registered buffer, None if there is none."""

    def register_files(self, fds: Sequence[int], tags: Sequence[int] = ()) -> int:
        """IORING_REGISTER_FILES or FILES2 (-1: sparse slot); 0 or -errno. A Message(tag, 0, 0)
        tells when the file of a slot with a tag other than 0 is used no more."""

    def update_files(self, offset: int, fds: Sequence[int], tags: Sequence[int] = ()) -> int:
        """IORING_REGISTER_FILES_UPDATE or FILES_UPDATE2; number updated or -errno."""

    def unregister_files(self) -> int:
        """0 or -errno."""

    def file_alloc_range(self, offset: int, count: int) -> int:
        """IORING_REGISTER_FILE_ALLOC_RANGE: which slots FILE_INDEX_ALLOC takes; 0 or -errno."""

    def register_buffers(self, buffers: Sequence[tuple[int, int]], tags: Sequence[int] = ()) -> int:
        """IORING_REGISTER_BUFFERS or BUFFERS2 with (user address, length) pairs; 0 or -errno."""

    def update_buffers(
        self, offset: int, buffers: Sequence[tuple[int, int]], tags: Sequence[int] = ()
    ) -> int:
        """IORING_REGISTER_BUFFERS_UPDATE; number updated or -errno."""

    def unregister_buffers(self) -> int:
        """0 or -errno."""

    def register_buffer_ring(self, addr: int, entries: int, group: int, flags: int = 0) -> int:
        """IORING_REGISTER_PBUF_RING of a ring in user memory; 0 or -errno.

        A kernel's ring sees the buffers that were added when the backend is next called.
        """

    def unregister_buffer_ring(self, group: int) -> int:
        """IORING_UNREGISTER_PBUF_RING; 0 or -errno."""

    def buffer_ring_head(self, group: int) -> int:
        """IORING_REGISTER_PBUF_STATUS: how many buffers are used up, modulo 2**16, or -errno."""

    def clone_buffers(
        self,
        source: Backend,
        offset: int = 0,
        target: int = 0,
        count: int = 0,
        *,
        replace: bool = False,
    ) -> int:
        """IORING_REGISTER_CLONE_BUFFERS: `count` buffers (0: all) of `source` from slot `offset`
        on, to slots from `target` on; 0 or -errno. InputError for another kind of backend."""

    def sync_cancel(
        self,
        token: int = 0,
        *,
        fd: int = -1,
        flags: int = 0,
        opcode: int = 0,
        timeout_ns: int | None = None,
    ) -> int:
        """IORING_REGISTER_SYNC_CANCEL with flags of ASYNC_CANCEL: 0, a number, or -errno; -ETIME
        when what was found at work has not ended within the timeout."""

    def ring_fd(self, other: Backend) -> int:
        """An fd of another ring, or of this one, for MSG_RING; InputError for another kind."""

    def in_flight(self) -> int:
        """Requests submitted and not completed."""

    def holds(self, token: int) -> bool:
        """Whether the request is one of these. One that skips its CQE on success ends unseen."""

    def close(self) -> None:
        """Cancel what is in flight and give everything back; twice is fine."""

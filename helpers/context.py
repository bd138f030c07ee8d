"""What an implementation of a helper may touch: engines implement this, helpers see no engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from pybpfvm.memory import AddressSpace, Region

if TYPE_CHECKING:
    from pybpfvm.maps.base import BpfMap


class BadArgument(Exception):
    """A helper argument that is not what its prototype asks for (number `index`, 1-based)."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(f"argument {index}: {reason}")
        self.index = index
        self.reason = reason


class TailCall(Exception):
    """Raised by bpf_tail_call when it succeeds: control leaves for `program` (an engine's own
    handle of it, as stored in the program array)."""

    def __init__(self, program: object) -> None:
        super().__init__("tail call")
        self.program = program


class RingPort(Protocol):
    """The ring a BPF request runs on, as its helpers see it. Results are 0, 1 or -errno as
    `abi/iouring-bpf-2021` section 2.4 defines them for the ring's profile."""

    def bpf_submit(self, sqe: bytes) -> int:
        """Queue the 64-byte SQE; 1 accepted, 0 bad (an error CQE tells), -errno."""

    def bpf_emit(self, cq_idx: int, user_data: int, res: int, flags: int) -> int:
        """Post a CQE; 0, -EINVAL or -ENOMEM."""

    def bpf_reap(self, cq_idx: int) -> bytes | int:
        """The oldest CQE of the queue (16 bytes, removed), or -ENOENT / -EINVAL."""

    def bpf_requeue(self, source: int, target: int, most: int) -> int:
        """Move requests that wait on a CQ (iouring-x, docs/abi-x.md): how many, or -EINVAL."""


class SocketNumbers(Protocol):
    """What a TCP socket holds, in bytes."""

    @property
    def inq(self) -> int:
        """Unread."""

    @property
    def rcvbuf(self) -> int:
        """As many as it can hold."""

    @property
    def rmem_alloc(self) -> int:
        """Memory that the unread ones take."""

    @property
    def mss(self) -> int:
        """What one segment carries."""


class LoopPort(Protocol):
    """The ring that a program drives from inside an enter, as its kernel functions see it."""

    @property
    def handle(self) -> int:
        """The address that stands for the ring."""

    def submit_sqes(self, count: int) -> int:
        """How many SQEs were consumed, or -errno."""

    def region_addr(self, region_id: int, size: int) -> int:
        """Where the region is, 0 if there is none that is so large."""

    def queue_sqe(self, sqe: bytes) -> int:
        """0, or -EINVAL for an SQE of another size; it is not submitted."""

    def post_cqe(self, user_data: int, res: int, flags: int) -> int:
        """0, or -ENOMEM."""

    def cqe_addr(self, index: int) -> int:
        """Where the CQE of this index stands."""

    def wait_for(self, count: int) -> None:
        """The program wants to run again when there are so many CQEs."""

    def next_cqe_addr(self) -> int:
        """Where the oldest CQE stands, which is taken; 0 if there is none."""

    def xor_buffer(self, index: int, size: int) -> int:
        """The XOR of the first bytes of a registered buffer; 0 for any error."""

    def set_result(self, data: int, res: int) -> bool:
        """The result of the request whose data is there; False if there is none."""

    def copy_buffers(self, data: int, dst: bytes, src: bytes) -> int | None:
        """How many bytes were copied for that request, or -errno; None if there is none."""

    def socket_state(self, event: int) -> SocketNumbers | int | None:
        """Of the socket that woke a request, or -errno; None if `event` is none."""

    def socket_peek(self, event: int, size: int) -> bytes | int | None:
        """Up to `size` bytes that wait in it, or -errno; None if `event` is none."""


class UserPort(Protocol):
    """User memory as helpers copy from it and to it: an AddressSpace, or what stands before one."""

    def user_read(self, addr: int, size: int) -> bytes:
        """As AddressSpace.user_read."""

    def user_write(self, addr: int, data: bytes) -> None:
        """As AddressSpace.user_write."""

    def user_cstring(self, addr: int, limit: int = 4096) -> bytes:
        """As AddressSpace.user_cstring."""


class HelperContext(Protocol):
    """The running program, as a helper sees it."""

    @property
    def memory(self) -> AddressSpace:
        """Where every pointer points."""

    @property
    def user_memory(self) -> UserPort:
        """User memory: helpers reach it by this alone."""

    @property
    def ctx_addr(self) -> int:
        """The program's own context pointer: what a PTR_TO_CTX argument must equal."""

    @property
    def ring(self) -> RingPort | None:
        """The ring, for BPF requests; None for every other program."""

    @property
    def loop(self) -> LoopPort | None:
        """The ring, for programs that run inside an enter; None for every other program."""

    @property
    def helper_length_checked(self) -> bool:
        """Whether this ABI's ring helpers check their length argument at run time."""

    @property
    def cpu(self) -> int:
        """Number of the CPU the program runs on (always a possible CPU of the per-CPU maps)."""

    @property
    def packet(self) -> Region | None:
        """The packet that the program runs on, as far as it is shown; None without one."""

    def map_at(self, addr: int, index: int) -> BpfMap:
        """The map whose handle is `addr`; raises BadArgument(index) if it is none."""

    def now_ns(self) -> int:
        """The clock of the ring, or of the host: monotonic nanoseconds."""

    def random_u32(self) -> int:
        """The next number of the run's random source (seeded where the run is)."""

    def call(self, function: int, args: Sequence[int]) -> int:
        """Call the subprogram whose handle is `function` with r1.. = args; its r0.

        Raises BadArgument if it is not a function handle. Used by callback helpers.
        """

    def log(self, text: str) -> None:
        """Append a line to the program's trace output (bpf_trace_printk)."""

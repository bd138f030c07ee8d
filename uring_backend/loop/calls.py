"""What programs call of a ring with a loop: its kfuncs, whatever their ABI."""

from __future__ import annotations

import errno
from functools import reduce
from operator import xor

from pybpfvm.bits import U32, s32
from pybpfvm.memory import UserFault
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.base import SocketState
from pybpfvm.uring_backend.loop.memory import Posting
from pybpfvm.uring_backend.loop.operations import Performed, copy, set_result
from pybpfvm.uring_backend.loop.parts import RingParts

_MOST_XORED = 512


class ProgramCalls(RingParts):
    """A ring's parts, and what its programs call."""

    def submit_sqes(self, count: int, *, whole: bool = True) -> int:
        """bpf_io_uring_submit_sqes: how many entries were consumed. Completions that come at
        once are in the CQ when this returns; `whole`: so is what is task work."""
        consumed = self.requests.submit(count, whole=whole)
        self.show_queues()
        return consumed

    def queue_sqe(self, sqe: bytes) -> int:
        """bpf_io_uring_queue_sqe: an entry for the SQ's tail; -EINVAL for one of another size."""
        if len(sqe) != abi.SQE_BYTES:
            return -errno.EINVAL
        self.queues.put(sqe)
        return 0

    def post_cqe(self, user_data: int, res: int, flags: int) -> int:
        """bpf_io_uring_post_cqe: a CQE of the program's own; -ENOMEM where it is lost."""
        self.posts.tell_reaped()
        posting = Posting(user_data, s32(res), flags & U32, self.posts.running, None)
        fate = self.posts.post(posting)
        self.show_queues()
        return -errno.ENOMEM if fate == "dropped" else 0

    def cqe_addr(self, index: int) -> int:
        """bpf_io_uring_get_cqe: where the CQE of this index stands."""
        return self.queues.cqe_addr(index)

    def wait_for(self, count: int) -> None:
        """bpf_io_uring_set_wait_params: the next waits of this enter are for so many CQEs."""
        self._parameters.wait_for(count)

    def next_cqe_addr(self) -> int:
        """bpf_io_uring_extract_next_cqe: where the oldest CQE stands, which is taken; 0: none."""
        cq = self.queues.cq
        if cq.peek() is None:
            return 0
        addr = self.queues.cqe_addr(cq.head)
        cq.pop()
        return addr

    def xor_buffer(self, index: int, size: int) -> int:
        """bpf_io_uring_xor_regbuf: the XOR of the first bytes of a registered buffer; 0 for one
        that is not there, or shorter, or for more than 512."""
        found = self.backend.buffer_at(index)
        if found is None or size > min(found[1], _MOST_XORED):
            return 0
        try:
            return reduce(xor, self.memory.user_read(found[0], size), 0)
        except UserFault:
            return 0  # the block was given back

    def set_result(self, data: int, res: int) -> bool:
        """uring_bpf_set_result; False when `data` is that of no request."""
        request = self._request(data)
        if request is not None:
            set_result(request, res)
        return request is not None

    def copy_buffers(self, data: int, dst: bytes, src: bytes) -> int | None:
        """uring_bpf_memcpy: how many bytes, or -errno; None when `data` is that of no request."""
        request = self._request(data)
        return None if request is None else copy(self.memory, request, dst, src)

    def _request(self, data: int) -> Performed | None:
        return self._table.requests.get(data)

    def socket_state(self, event: int) -> SocketState | int | None:
        """bpf_io_uring_sock_state: what the socket holds, or -errno; None: `event` is none."""
        wake = self._event.wake if event == self._event_handle else None
        return None if wake is None else wake.state()

    def socket_peek(self, event: int, size: int) -> bytes | int | None:
        """bpf_io_uring_sock_peek: what waits in the socket, or -errno; None: `event` is none."""
        wake = self._event.wake if event == self._event_handle else None
        return None if wake is None else wake.peek(size)

    def region_addr(self, region_id: int, size: int) -> int:
        """bpf_io_uring_get_region: its address, 0 for a wrong id, a size beyond the region, or a
        MEM that is not registered."""
        kind = self.rules.regions.get(region_id & U32)
        region = self.queues.region(kind) if kind is not None else None
        return region.start if region is not None and size <= region.size else 0

    def running(self, name: str) -> str:
        """The program of this name runs now ("": none): it is who submits and reaps. Who did
        before."""
        return self.posts.switch(name)

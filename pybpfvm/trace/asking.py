"""What stands between a program and the world while a recording is made: it passes questions on and
notes the answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pybpfvm.helpers.context import LoopPort, RingPort, SocketNumbers
from pybpfvm.memory import AddressSpace, UserFault
from pybpfvm.trace.digest import READS, READS_TEXT, WRITES
from pybpfvm.trace.records import Ask, Kind, Numbers

if TYPE_CHECKING:
    from pybpfvm.trace.recorder import Recorder


class RecordedRing:
    """A RingPort."""

    def __init__(self, recorder: Recorder, ring: RingPort) -> None:
        self._asked = recorder.asked
        self._ring = ring

    def bpf_submit(self, sqe: bytes) -> int:
        """As the ring answers."""
        return self._asked(Ask.SUBMIT, self._ring.bpf_submit, sqe)

    def bpf_emit(self, cq_idx: int, user_data: int, res: int, flags: int) -> int:
        """As the ring answers."""
        return self._asked(Ask.EMIT, self._ring.bpf_emit, cq_idx, user_data, res, flags)

    def bpf_reap(self, cq_idx: int) -> bytes | int:
        """As the ring answers."""
        return self._asked(Ask.REAP, self._ring.bpf_reap, cq_idx)

    def bpf_requeue(self, source: int, target: int, most: int) -> int:
        """As the ring answers."""
        return self._asked(Ask.REQUEUE, self._ring.bpf_requeue, source, target, most)


class RecordedLoop:
    """A LoopPort."""

    def __init__(self, recorder: Recorder, loop: LoopPort) -> None:
        self._asked = recorder.asked
        self._loop = loop

    @property
    def handle(self) -> int:
        """The ring's."""
        return self._loop.handle

    def submit_sqes(self, count: int) -> int:
        """As the ring answers."""
        return self._asked(Ask.SUBMIT_SQES, self._loop.submit_sqes, count)

    def region_addr(self, region_id: int, size: int) -> int:
        """As the ring answers."""
        return self._asked(Ask.REGION, self._loop.region_addr, region_id, size)

    def queue_sqe(self, sqe: bytes) -> int:
        """As the ring answers."""
        return self._asked(Ask.QUEUE_SQE, self._loop.queue_sqe, sqe)

    def post_cqe(self, user_data: int, res: int, flags: int) -> int:
        """As the ring answers."""
        return self._asked(Ask.POST_CQE, self._loop.post_cqe, user_data, res, flags)

    def cqe_addr(self, index: int) -> int:
        """As the ring answers."""
        return self._asked(Ask.CQE_ADDR, self._loop.cqe_addr, index)

    def wait_for(self, count: int) -> None:
        """As the ring does."""

        def wait(wanted: int) -> int:
            self._loop.wait_for(wanted)
            return 0

        self._asked(Ask.WAIT_FOR, wait, count)

    def next_cqe_addr(self) -> int:
        """As the ring answers."""
        return self._asked(Ask.NEXT_CQE, self._loop.next_cqe_addr)

    def xor_buffer(self, index: int, size: int) -> int:
        """As the ring answers."""
        return self._asked(Ask.XOR_BUFFER, self._loop.xor_buffer, index, size)

    def set_result(self, data: int, res: int) -> bool:
        """As the ring answers."""
        return self._asked(Ask.SET_RESULT, self._loop.set_result, data, res)

    def copy_buffers(self, data: int, dst: bytes, src: bytes) -> int | None:
        """As the ring answers."""
        answer = self._asked(Ask.COPY_BUFFERS, _told(self._loop.copy_buffers), data, dst, src)
        return None if answer == () else answer

    def socket_state(self, event: int) -> SocketNumbers | int | None:
        """As the ring answers."""
        answer = self._asked(Ask.SOCKET_STATE, _told(self._loop.socket_state), event)
        return None if answer == () else answer

    def socket_peek(self, event: int, size: int) -> bytes | int | None:
        """As the ring answers."""
        answer = self._asked(Ask.SOCKET_PEEK, _told(self._loop.socket_peek), event, size)
        return None if answer == () else answer


def _told(call: Callable[..., Any]) -> Callable[..., Any]:
    """`call`, with () for None, which is what is noted of a question that raised."""

    def answer(*args: Any) -> Any:
        found = call(*args)
        if found is None:
            return ()
        if isinstance(found, int | bytes):
            return found
        return Numbers(found.inq, found.rcvbuf, found.rmem_alloc, found.mss)

    return answer


class RecordedUser:
    """A UserPort: user memory, whose bytes are noted as programs read them."""

    def __init__(self, recorder: Recorder, memory: AddressSpace) -> None:
        self._recorder = recorder
        self._memory = memory

    def user_read(self, addr: int, size: int) -> bytes:
        """As user memory is."""
        self._recorder.handed.access(READS, addr, size)
        data = self._memory.user_read(addr, size)
        self._seen(addr, data)
        return data

    def user_cstring(self, addr: int, limit: int = 4096) -> bytes:
        """As user memory is. What is read is noted before it is looked at: others may write."""
        self._recorder.handed.access(READS_TEXT, addr, limit)
        region = self._memory.region_at(addr)
        if region is None:
            return self._memory.user_cstring(addr, limit)
        data = self._memory.user_read(addr, min(limit, region.end - addr))
        end = data.find(b"\0")
        self._seen(addr, data if end < 0 else data[: end + 1])
        if end < 0:
            raise UserFault(f"string at {addr:#x} is not terminated")
        return data[:end]

    def _seen(self, addr: int, data: bytes) -> None:
        region = self._memory.region_at(addr)
        if not data or region is None:
            return
        following = self._recorder.following
        if following is not None and not following.has(region, addr - region.start, data):
            self._recorder.put((Kind.READ, addr, data))

    def user_write(self, addr: int, data: bytes) -> None:
        """As user memory is."""
        self._recorder.handed.access(WRITES, addr, len(data), data)
        region = self._memory.region_at(addr)
        following = self._recorder.following
        if region is not None and following is not None:
            fits = data[: region.end - addr]
            if self._memory.is_user(addr, len(fits)):
                following.written(region, addr - region.start, fits)
        self._memory.user_write(addr, data)


def recorded_value(recorder: Recorder, ask: Ask, source: Callable[[], int]) -> Callable[[], int]:
    """`source`, whose answers are noted."""

    def answer() -> int:
        return recorder.asked(ask, source)

    return answer

"""Requests that programs perform: IORING_OP_BPF as proposed in 2025 and 2026.

A request's program gets 64 bytes that live as long as the request: its op-flags, and room of its
own. `prep` runs when the SQE is taken, `issue` when the request's turn has come, `fail` when it
ends in an error that is not its own result, `cleanup` behind all of them if `prep` let it through.
abi/iouring-bpf-upstream, section 8; what that leaves open is answered in docs/abi-upstream.md.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING, Final

from pybpfvm.bits import s32, s64
from pybpfvm.errors import InputError, RingError, UnsupportedError
from pybpfvm.memory import AddressSpace, Region, RegionKind, UserFault
from pybpfvm.profiles.base import OperationRules
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.base import Backend

if TYPE_CHECKING:
    from pybpfvm.uring_backend.loop.attach import OpsMap, OpsValue
    from pybpfvm.uring_backend.loop.ring import LoopRing

_ID_SHIFT: Final = 24
_OPF_MASK: Final = (1 << _ID_SHIFT) - 1
# A buffer that a program names: u8 type, u8 0, u16 index, u32 len (of a vector: its blocks), u64
# addr.
_BUFFER: Final = Struct("<BBHIQ")
_USER, _FIXED, _VECTOR, _KERNEL_FIXED, _FIXED_VECTOR = range(5)
Blocks = list[tuple[int, int]]


class _BadBuffer(Exception):
    """A buffer that can not be had: `errno`, positive."""

    def __init__(self, number: int) -> None:
        self.errno = number
        super().__init__(number)


@dataclass(slots=True)
class Performed:
    """A request that a program performs: `program` does it, `data` is what that gets."""

    program: OpsValue
    data: Region
    backend: Backend
    skips: bool  # it has IOSQE_CQE_SKIP_SUCCESS
    res: int = 0
    failed: bool = False  # by its own result


class Operations:
    """The requests of one ring that programs perform.

    `programs` are the ring's, or everybody's, by id; `requests` those of the process, by the
    address of their data. `allowed`: the ring was made for them.
    """

    def __init__(
        self,
        rules: OperationRules,
        memory: AddressSpace,
        backend: Backend,
        programs: dict[int, OpsValue],
        requests: dict[int, Performed],
        *,
        allowed: bool,
    ) -> None:
        self.rules = rules
        self._memory = memory
        self._backend = backend
        self._programs = programs
        self._requests = requests
        self._allowed = allowed
        self._live: dict[int, Performed] = {}  # by token

    def put(self, value: OpsValue) -> None:
        """Register a program by its id. RingError EOPNOTSUPP, EINVAL, EBUSY."""
        if not self._allowed:
            raise RingError(errno.EOPNOTSUPP, "the ring was made without programs for requests")
        if not 0 <= value.number < self.rules.ids:
            raise RingError(errno.EINVAL, f"ids of programs end with {self.rules.ids - 1}")
        if value.number in self._programs:
            raise RingError(errno.EBUSY, f"there is a program {value.number} already")
        self._programs[value.number] = value

    def remove(self, value: OpsValue) -> None:
        """Forget a program, which no request has."""
        self._programs.pop(value.number, None)

    def of_map(self, ops: OpsMap) -> OpsValue:
        """The program that this map brought."""
        return next(value for value in self._programs.values() if value.map is ops)

    def of_ring(self, ring: LoopRing) -> list[OpsValue]:
        """The programs that were attached through this ring."""
        return [value for value in self._programs.values() if value.map.bound is ring]

    # --- the life of a request ----------------------------------------------------------------

    def prepare(self, token: int, sqe: bytes) -> int:
        """Let the program look at an SQE of 64 bytes: 0, or the errno (negative) that ends the
        request."""
        op_flags = int.from_bytes(sqe[28:32], "little")
        number = op_flags >> _ID_SHIFT
        if not self._allowed:
            return -errno.EOPNOTSUPP
        if number >= self.rules.ids:
            return -errno.EINVAL
        program = self._programs.get(number)
        if program is None:
            return -errno.EOPNOTSUPP
        memory, rules = self._memory, self.rules
        try:
            data = memory.alloc(rules.data_bytes, RegionKind.RING, "data of a request")
        except InputError:
            return -errno.ENOMEM
        flags = (op_flags & _OPF_MASK).to_bytes(4, "little")
        memory.write(data.start + rules.flags_at, flags)
        request = Performed(program, data, self._backend, bool(sqe[1] & abi.SQE_CQE_SKIP_SUCCESS))
        self._requests[data.start] = request
        answer = 0
        try:
            if rules.prepare in program.calls:
                shown = memory.alloc(abi.SQE_BYTES, RegionKind.RING, "SQE", writable=False)
                try:
                    memory.write(shown.start, sqe)
                    answer = s32(program.calls[rules.prepare].call(data.start, shown.start))
                finally:
                    memory.free(shown)
        except BaseException:
            self._forget(request)
            raise
        if answer:
            self._forget(request)
        if answer > 0:
            raise UnsupportedError(
                f"the answer {answer} of {rules.prepare}",
                remedy="what it means was never written down: answer 0, or an errno",
            )
        if not answer:
            self._live[token] = request
            program.in_flight += 1
        return answer

    def performs(self, token: int) -> bool:
        """Whether a program performs this request."""
        return token in self._live

    def perform(self, token: int) -> tuple[int, bool, bool]:
        """The request's turn has come: its result, whether that is a failure, whether only that
        has a CQE."""
        rules, request = self.rules, self._live[token]
        step = request.program.step
        if step is None:
            raise InputError(
                "the ring that the request's program was attached through is closed",
                remedy="close it behind those that use its program",
            )
        answer = s32(step.call(request.data.start))
        if answer == rules.queued:
            answer = -errno.EINVAL
        if answer > 0 or answer == -errno.EAGAIN:
            raise UnsupportedError(
                f"the answer {answer} of an operation",
                remedy="what it means was never written down: answer 0, or another errno",
            )
        if answer < 0:
            self._call(request, rules.fail)
            return answer, True, request.skips
        return request.res, request.failed, request.skips

    def give_up(self, token: int) -> None:
        """The request ends without its turn: its chain broke, or it was refused all the same."""
        self._call(self._live[token], self.rules.fail)

    def end(self, token: int) -> None:
        """The request is over."""
        request = self._live.pop(token)
        request.program.in_flight -= 1
        try:
            self._call(request, self.rules.cleanup)
        finally:
            self._forget(request)

    def abandon(self, token: int) -> None:
        """Nothing can be said of what becomes of the request."""
        request = self._live.pop(token)
        request.program.in_flight -= 1
        self._forget(request)

    def drop(self) -> None:
        """The ring goes: so do its requests, without their callbacks."""
        for token in tuple(self._live):
            self.abandon(token)

    def _call(self, request: Performed, member: str) -> None:
        if member in request.program.calls:
            request.program.calls[member].call(request.data.start)

    def _forget(self, request: Performed) -> None:
        del self._requests[request.data.start]
        self._memory.free(request.data)


# --- what programs call ---------------------------------------------------------------------------


def set_result(request: Performed, res: int) -> None:
    """uring_bpf_set_result: what the CQE will say; a negative one is a failure for good."""
    request.res = s32(res)
    request.failed |= request.res < 0


def copy(memory: AddressSpace, request: Performed, dst: bytes, src: bytes) -> int:
    """uring_bpf_memcpy between buffers of 16 bytes' description: how many bytes, or -errno."""
    try:
        target, source = (_blocks(memory, request.backend, one) for one in (dst, src))
        size = min(_size(target), _size(source))
        if not size:
            return 0
        content = b"".join(memory.user_read(addr, length) for addr, length in _cut(source, size))
        for addr, length in _cut(target, size):
            if not memory.is_user(addr, length):
                return -errno.EFAULT
        done = 0
        for addr, length in _cut(target, size):
            memory.user_write(addr, content[done : done + length])
            done += length
        return size
    except _BadBuffer as bad:
        return -bad.errno
    except UserFault:
        return -errno.EFAULT


def _blocks(memory: AddressSpace, backend: Backend, described: bytes) -> Blocks:
    """The pieces of user memory that a buffer is."""
    kind, reserved, index, length, addr = _BUFFER.unpack(described)
    if reserved or kind > _FIXED_VECTOR:
        raise _BadBuffer(errno.EINVAL)
    if kind == _KERNEL_FIXED:
        raise _BadBuffer(errno.EFAULT)  # nobody registers memory of the kernel's here
    vector = kind in (_VECTOR, _FIXED_VECTOR)
    blocks = _vector(memory, addr, length) if vector else [(addr, length)]
    if _size(blocks) > abi.MAX_RW_COUNT:
        raise _BadBuffer(errno.EINVAL)
    if kind in (_FIXED, _FIXED_VECTOR):
        found = backend.buffer_at(index)
        if found is None:
            raise _BadBuffer(errno.EFAULT)
        low, high = found[0], sum(found)
        if any(at < low or at + size > high for at, size in blocks):
            raise _BadBuffer(errno.EFAULT)
    return blocks


def _vector(memory: AddressSpace, addr: int, count: int) -> Blocks:
    if count > abi.IOV_MAX:
        raise _BadBuffer(errno.EINVAL)
    raw = memory.user_read(addr, count * abi.IOVEC.size)
    blocks = list(abi.IOVEC.iter_unpack(raw))
    if any(s64(length) < 0 for _, length in blocks):
        raise _BadBuffer(errno.EINVAL)
    return blocks


def _size(blocks: Blocks) -> int:
    return sum(length for _, length in blocks)


def _cut(blocks: Blocks, size: int) -> Blocks:
    """The first `size` bytes of the blocks."""
    kept: Blocks = []
    for addr, length in blocks:
        if size and length:
            kept.append((addr, min(length, size)))
            size -= kept[-1][1]
    return kept

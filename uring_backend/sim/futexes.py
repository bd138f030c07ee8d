"""Futexes: requests that wait until somebody wakes the word of user memory they name.

The words are the address space's, so all rings over one address space share the waiters.
"""

from __future__ import annotations

import errno
import struct
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from pybpfvm.bits import U32, s32
from pybpfvm.memory import AddressSpace, UserFault
from pybpfvm.uring_backend.abi import (
    FUTEX2_MPOL,
    FUTEX2_NUMA,
    FUTEX2_PRIVATE,
    FUTEX2_SIZE_MASK,
    FUTEX2_SIZE_U32,
    FUTEX_WAITV_MAX,
    FUTEX_WAITV_STRUCT,
    Op,
    Sqe,
)
from pybpfvm.uring_backend.sim.request import Issue, Refused, Request

if TYPE_CHECKING:
    from pybpfvm.uring_backend.sim.core import Core

_WORD: Final = struct.Struct("<I")
_ANYBODY: Final = U32
_Key = tuple[int, bool]
"""(address, whether private): a private waiter hears no shared wake-up."""


@dataclass(eq=False, slots=True)
class Waiter:
    """A request that waits for one word of several, or of one. `woken`: the index of the word
    that ended the waiting, -1 while it goes on."""

    core: Core
    request: Request
    words: list[tuple[_Key, int]] = field(default_factory=list)
    woken: int = -1


class Futexes:
    """Who waits for which word, oldest first."""

    def __init__(self) -> None:
        self._waiting: dict[_Key, list[tuple[Waiter, int, int]]] = {}

    def add(self, waiter: Waiter) -> None:
        """Begin to wait for all its words."""
        for index, (key, mask) in enumerate(waiter.words):
            self._waiting.setdefault(key, []).append((waiter, index, mask))

    def remove(self, waiter: Waiter) -> None:
        """Stop waiting."""
        for key, _ in waiter.words:
            left = [entry for entry in self._waiting.get(key, ()) if entry[0] is not waiter]
            if left:
                self._waiting[key] = left
            else:
                self._waiting.pop(key, None)

    def wake(self, key: _Key, mask: int, most: int) -> int:
        """Wake waiters whose mask shares a bit: how many."""
        done = 0
        for waiter, index, own in list(self._waiting.get(key, ())):
            if waiter.woken >= 0 or not own & mask:
                continue
            waiter.woken = index
            self.remove(waiter)
            waiter.core.unpark(waiter.request, index if len(waiter.words) > 1 else 0)
            done += 1
            if done >= most:
                break
        return done


_ALL: weakref.WeakKeyDictionary[AddressSpace, Futexes] = weakref.WeakKeyDictionary()


def futexes_of(memory: AddressSpace) -> Futexes:
    """The futexes of an address space."""
    return _ALL.setdefault(memory, Futexes())


def unsupported(sqe: Sqe) -> str:
    """What a futex request asks for that the simulated machine lacks; "" if nothing."""
    flags = sqe.fd & (FUTEX2_NUMA | FUTEX2_MPOL)
    return f"{Op(sqe.opcode).name} with a NUMA node" if flags else ""


def _check_flags(flags: int) -> None:
    if flags & ~(FUTEX2_SIZE_MASK | FUTEX2_PRIVATE):
        raise Refused(errno.EINVAL)
    if flags & FUTEX2_SIZE_MASK != FUTEX2_SIZE_U32:
        raise Refused(errno.EINVAL)


def _prepare(request: Request) -> tuple[_Key, int, int]:
    """(key, value, mask) of a request on one word."""
    sqe = request.sqe
    if sqe.len or sqe.op_flags or sqe.buf_index or sqe.file_index:
        raise Refused(errno.EINVAL)
    _check_flags(sqe.fd & U32)
    if sqe.off > U32 or sqe.addr3 > U32:
        raise Refused(errno.EINVAL)
    return (sqe.addr, bool(sqe.fd & FUTEX2_PRIVATE)), sqe.off, sqe.addr3


def _check_aligned(addr: int) -> None:
    if addr % _WORD.size:
        raise Refused(errno.EINVAL)


def _load(core: Core, addr: int) -> int:
    try:
        value: int = _WORD.unpack(core.memory.user_read(addr, _WORD.size))[0]
    except UserFault:
        raise Refused(errno.EFAULT) from None
    return value


def prepare_futex_wait(core: Core, request: Request) -> Issue:
    """FUTEX_WAIT: until a wake-up, if the word at Sqe.addr is Sqe.off; mask in Sqe.addr3."""
    key, value, mask = _prepare(request)

    def issue() -> None:
        if not mask:
            raise Refused(errno.EINVAL)
        _check_aligned(key[0])
        if _load(core, key[0]) != value:
            raise Refused(errno.EAGAIN)
        _wait(core, request, [(key, mask)])

    return issue


def _wait(core: Core, request: Request, words: list[tuple[_Key, int]]) -> None:
    futexes = futexes_of(core.memory)
    waiter = Waiter(core, request, words)
    futexes.add(waiter)
    core.park(request, lambda: futexes.remove(waiter))


def prepare_futex_wake(core: Core, request: Request) -> Issue:
    """FUTEX_WAKE: up to Sqe.off waiters; their number."""
    key, value, mask = _prepare(request)

    def issue() -> int:
        if not mask:
            raise Refused(errno.EINVAL)
        _check_aligned(key[0])
        if key[0] >> 63 or (not key[1] and not core.memory.is_user(key[0], _WORD.size)):
            raise Refused(errno.EFAULT)
        return futexes_of(core.memory).wake(key, mask, s32(value)) if value else 0

    return issue


def prepare_futex_waitv(core: Core, request: Request) -> Issue:
    """FUTEX_WAITV: until one of Sqe.len words (struct futex_waitv at Sqe.addr) is woken: its
    index."""
    sqe = request.sqe
    if sqe.fd or sqe.off or sqe.op_flags or sqe.buf_index or sqe.file_index or sqe.addr3:
        raise Refused(errno.EINVAL)
    if not 0 < sqe.len <= FUTEX_WAITV_MAX:
        raise Refused(errno.EINVAL)
    words: list[tuple[_Key, int]] = []
    values: list[int] = []
    for index in range(sqe.len):
        try:
            at = sqe.addr + index * FUTEX_WAITV_STRUCT.size
            raw = core.memory.user_read(at, FUTEX_WAITV_STRUCT.size)
        except UserFault:
            raise Refused(errno.EFAULT) from None
        value, addr, flags, reserved = FUTEX_WAITV_STRUCT.unpack(raw)
        if reserved or value > U32:
            raise Refused(errno.EINVAL)
        _check_flags(flags)
        words.append(((addr, bool(flags & FUTEX2_PRIVATE)), _ANYBODY))
        values.append(value)

    def issue() -> None:
        for (addr, _), _ in words:
            _check_aligned(addr)
        for ((addr, _), _), value in zip(words, values, strict=True):
            if _load(core, addr) != value:
                raise Refused(errno.EAGAIN)
        _wait(core, request, words)

    return issue
